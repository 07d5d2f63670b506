import CReactor
import Glibc

/// A sentence for the operator about something that the run can't do without.
struct BenchFault: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// An address and port as the kernel has it.
struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    let address: [UInt8]
    let port: UInt16

    /// 4 or 16 bytes.
    init(address: [UInt8], port: UInt16) {
        precondition(address.count == 4 || address.count == 16)
        (self.address, self.port) = (address, port)
    }

    /// - Parameter text: `HOST:PORT`, `ADDRESS:PORT` or `[ADDRESS6]:PORT`; a name is looked up, and its first address taken.
    init(resolving text: String) throws(BenchFault) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else {
            throw BenchFault("`\(text)` is not HOST:PORT")
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(String(host), nil, &hints, &found)
        guard status == 0, let first = found else {
            throw BenchFault("`\(host)` has no address: \(String(cString: gai_strerror(status)))")
        }
        defer { freeaddrinfo(found) }
        if first.pointee.ai_family == AF_INET6 {
            let bytes = first.pointee.ai_addr.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { pointer in
                withUnsafeBytes(of: &pointer.pointee.sin6_addr) { Array($0) }
            }
            self.init(address: bytes, port: port)
        } else {
            let bytes = first.pointee.ai_addr.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { pointer in
                withUnsafeBytes(of: &pointer.pointee.sin_addr) { Array($0) }
            }
            self.init(address: bytes, port: port)
        }
    }

    var isLoopback: Bool { address.count == 4 ? address[0] == 127 : address == Array(repeating: 0, count: 15) + [1] }
    var family: Int32 { address.count == 4 ? AF_INET : AF_INET6 }

    var description: String {
        if address.count == 4 { return address.map(String.init).joined(separator: ".") + ":\(port)" }
        let groups = stride(from: 0, to: 16, by: 2).map {
            String(Int(address[$0]) << 8 | Int(address[$0 + 1]), radix: 16)
        }
        return "[\(groups.joined(separator: ":"))]:\(port)"
    }

    /// Runs `body` with the kernel's form.
    func withSockaddr<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var storage = sockaddr_storage()
        return withUnsafeMutablePointer(to: &storage) { pointer in
            let raw = UnsafeMutableRawPointer(pointer)
            if address.count == 4 {
                let inet = raw.assumingMemoryBound(to: sockaddr_in.self)
                inet.pointee.sin_family = sa_family_t(AF_INET)
                inet.pointee.sin_port = port.bigEndian
                withUnsafeMutableBytes(of: &inet.pointee.sin_addr) { $0.copyBytes(from: address) }
                return body(raw.assumingMemoryBound(to: sockaddr.self), socklen_t(MemoryLayout<sockaddr_in>.size))
            }
            let inet6 = raw.assumingMemoryBound(to: sockaddr_in6.self)
            inet6.pointee.sin6_family = sa_family_t(AF_INET6)
            inet6.pointee.sin6_port = port.bigEndian
            withUnsafeMutableBytes(of: &inet6.pointee.sin6_addr) { $0.copyBytes(from: address) }
            return body(raw.assumingMemoryBound(to: sockaddr.self), socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
    }
}

/// Addresses that connections come from, in turn: `127.0.0.0/16`.
struct SourceAddresses: Sendable, Equatable {
    let first: UInt32
    let count: UInt32

    /// The network's own and its broadcast address are left out.
    init?(_ text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count <= 2, let address = Self.parse(parts[0]) else { return nil }
        let bits = parts.count == 2 ? Int(parts[1]) ?? -1 : 32
        guard (8...32).contains(bits) else { return nil }
        guard bits <= 30 else {
            (first, count) = (address, 1)
            return
        }
        let size = UInt32(1) << UInt32(32 - bits)
        (first, count) = ((address & ~(size - 1)) + 1, size - 2)
    }

    static func parse(_ text: some StringProtocol) -> UInt32? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false).map { UInt8($0) }
        guard parts.count == 4, !parts.contains(nil) else { return nil }
        return parts.reduce(0) { $0 << 8 | UInt32($1 ?? 0) }
    }

    static func bytes(_ address: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: address >> (24 - 8 * $0)) }
    }

    func endpoint(_ turn: Int) -> Endpoint {
        Endpoint(address: Self.bytes(first + UInt32(truncatingIfNeeded: turn) % count), port: 0)
    }
}

/// Where a primary listens: `127.0.0.1:2600`, `127.0.0.1:2600-2699`, `127.0.1.1-127.0.1.30:2600`; both ranges multiply.
enum ListenRange {
    static let countMax = 4096

    static func parse(_ text: String) throws(BenchFault) -> [Endpoint] {
        guard let colon = text.lastIndex(of: ":") else { throw BenchFault("`\(text)` is not ADDRESS:PORT") }
        let ports = text[text.index(after: colon)...].split(separator: "-", omittingEmptySubsequences: false).map {
            UInt16($0)
        }
        let hosts = text[..<colon].split(separator: "-", omittingEmptySubsequences: false)
        guard (1...2).contains(ports.count), let from = ports[0], from > 0, let to = ports[ports.count - 1], from <= to
        else {
            throw BenchFault("`\(text)`: a port is 1 to 65535, a range of them 2600-2699")
        }
        guard (1...2).contains(hosts.count), SourceAddresses.parse(hosts[0]) != nil else {
            guard from == to else { throw BenchFault("`\(text)`: ranges need IPv4 addresses") }
            return [try Endpoint(resolving: text)]
        }
        guard let low = SourceAddresses.parse(hosts[0]), let high = SourceAddresses.parse(hosts[hosts.count - 1]),
            low <= high,
            (Int(high - low) + 1) * (Int(to - from) + 1) <= countMax
        else { throw BenchFault("`\(text)`: at most \(countMax) listeners, the lower address first") }
        var all: [Endpoint] = []
        for address in low...high {
            for port in from...to { all.append(Endpoint(address: SourceAddresses.bytes(address), port: port)) }
        }
        return all
    }
}
