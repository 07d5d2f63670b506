public import Protocols

/// Where mail is handed to, as a setting names it.
public enum MailServer: Hashable, Sendable, CustomStringConvertible {
    /// A host or domain name as A-labels in lower case.
    ///
    /// `skipMX`: false, it is looked up as MX, then A and AAAA (RFC 5321 §5.1); true, it stood in brackets: A and AAAA.
    case host(String, skipMX: Bool)
    case address(IPAddress)

    /// `name`, `[name]`, `192.0.2.1`, `[192.0.2.1]`, `2001:db8::1`, `[2001:db8::1]` or `[IPv6:2001:db8::1]`.
    public init?(_ text: String) {
        guard text.utf8.count <= DomainNameNormaliser.nameMaxBytes + 2 else { return nil }
        let isBracketed = text.hasPrefix("[") && text.hasSuffix("]") && text.utf8.count > 2
        var inner = isBracketed ? text.dropFirst().dropLast() : text[...]
        if isBracketed, inner.prefix(5).lowercased() == "ipv6:" { inner = inner.dropFirst(5) }
        if let address = IPAddress(inner) {
            guard !address.isUnspecified else { return nil }
            self = .address(address)
        } else if let name = DomainNameNormaliser.aLabel(String(inner)) {
            self = .host(name, skipMX: isBracketed)
        } else {
            return nil
        }
    }

    /// A server and its port: `name`, `name:25`, `[name]:25`, `192.0.2.1:25`, `[2001:db8::1]:25`, `2001:db8::1`.
    ///
    /// - Returns: nil for anything else; a nil port where none was given.
    public static func withPort(_ text: String) -> (server: MailServer, port: UInt16?)? {
        if let server = MailServer(text) { return (server, nil) }
        guard let colon = text.lastIndex(of: ":"), let server = MailServer(String(text[..<colon])) else { return nil }
        let host = text[..<colon]
        // The colons of a bare IPv6 address are not a port's.
        guard host.hasPrefix("[") || !host.contains(":") else { return nil }
        guard let port = Endpoint.port(text[text.index(after: colon)...]) else { return nil }
        return (server, port)
    }

    public var description: String {
        switch self {
        case .host(let name, let skipMX): skipMX ? "[\(name)]" : name
        case .address(let address): address.description
        }
    }
}

/// A server with its port. Nobody finds a port by MX, so a name here is looked up as A and AAAA only.
public struct MailServerEndpoint: Hashable, Sendable, CustomStringConvertible {
    public let server: MailServer
    public let port: UInt16

    /// `HOST:PORT`; brackets around a name are allowed and change nothing.
    public init?(_ text: String) {
        guard let (server, port) = MailServer.withPort(text), let port else { return nil }
        if case .host(let name, _) = server {
            self.server = .host(name, skipMX: true)
        } else {
            self.server = server
        }
        self.port = port
    }

    public var description: String {
        switch server {
        case .host(let name, _): "\(name):\(port)"
        case .address(let address): Endpoint(address: address, port: port).description
        }
    }
}

/// An address and a TCP or UDP port.
public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    public let address: IPAddress
    /// 1...65535.
    public let port: UInt16

    public init(address: IPAddress, port: UInt16) {
        self.address = address
        self.port = port
    }

    /// `127.0.0.1:25` or `[::1]:25`; with a standard port also `127.0.0.1`, `::1` and `[::1]`.
    public init?(_ text: String, standardPort: UInt16? = nil) {
        guard text.utf8.count <= 64 else { return nil }
        if let standardPort {
            let isBracketed = text.hasPrefix("[") && text.hasSuffix("]")
            if let address = IPAddress(isBracketed ? text.dropFirst().dropLast() : text[...]) {
                self.init(address: address, port: standardPort)
                return
            }
        }
        guard let colon = text.lastIndex(of: ":") else { return nil }
        let host = text[..<colon]
        let isV6 = host.hasPrefix("[") && host.hasSuffix("]")
        guard let address = IPAddress(isV6 ? host.dropFirst().dropLast() : host), isV6 == host.contains(":"),
            let port = Self.port(text[text.index(after: colon)...])
        else { return nil }
        self.init(address: address, port: port)
    }

    static func port(_ text: Substring) -> UInt16? {
        guard (1...5).contains(text.utf8.count), text.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }), text.first != "0"
        else {
            return nil
        }
        return UInt16(text)
    }

    public var description: String { address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
}

extension ValueForm where Value == MailServer {
    static let server = ValueForm(
        "a host name (looked up as MX, then A and AAAA), a name in brackets or an IP address (both without MX), "
            + "and no port",
        parse: { $0.string.flatMap { MailServer($0) } }, print: { DocumentValue(.text($0.description)) })
}

extension ValueForm where Value == Endpoint {
    static let listener = ValueForm(
        "an address with a port such as 127.0.0.1:2525 or [::]:25", parse: { $0.string.flatMap { Endpoint($0) } },
        print: { DocumentValue(.text($0.description)) })

    static let nameServer = ValueForm(
        "an IP address, with a port if it is not 53", parse: { $0.string.flatMap { Endpoint($0, standardPort: 53) } },
        print: { DocumentValue(.text($0.description)) })
}
