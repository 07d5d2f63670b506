import Glibc

/// What has to be in the DNS so that mail for a domain comes here.
struct Records: Codable, Hashable, Sendable {
    struct Record: Codable, Hashable, Sendable {
        /// With the dot at its end.
        let name: String
        let type: String
        let value: String
        /// Who publishes it.
        let zone: String
    }
    let records: [Record]
    /// What a person has to think of.
    let notes: [String]

    /// - Parameter addresses: of this machine, as text; those of loopback and of one link are left out.
    init(domain: String, hostname: String, addresses: [String] = Records.ownAddresses()) {
        var records = [Record(name: "\(domain).", type: "MX", value: "10 \(hostname).", zone: "the customer")]
        for address in addresses {
            let type = address.contains(":") ? "AAAA" : "A"
            records.append(Record(name: "\(hostname).", type: type, value: address, zone: "this server"))
        }
        for address in addresses {
            guard let name = Self.reverseName(address) else { continue }
            records.append(
                Record(name: name, type: "PTR", value: "\(hostname).", zone: "whoever gave the address"))
        }
        self.records = records
        var notes: [String] = []
        if addresses.isEmpty {
            notes.append(
                "This machine has no address but loopback: publish an A record for \(hostname) with its public one.")
        } else if addresses.allSatisfy(Self.isPrivate) {
            notes.append("These are private addresses: publish the public ones that lead here.")
        }
        self.notes = notes
    }

    /// `7.2.0.192.in-addr.arpa.` (RFC 1035 §3.5), or beneath `ip6.arpa.` (RFC 3596 §2.5).
    static func reverseName(_ address: String) -> String? {
        var v4 = in_addr()
        if inet_pton(AF_INET, address, &v4) == 1 {
            return withUnsafeBytes(of: v4) { $0.reversed().map(String.init).joined(separator: ".") } + ".in-addr.arpa."
        }
        var v6 = in6_addr()
        guard inet_pton(AF_INET6, address, &v6) == 1 else { return nil }
        let nibbles = withUnsafeBytes(of: v6) { $0.flatMap { [$0 >> 4, $0 & 15] } }
        return nibbles.reversed().map { String($0, radix: 16) }.joined(separator: ".") + ".ip6.arpa."
    }

    static func isPrivate(_ address: String) -> Bool {
        let parts = address.split(separator: ".").compactMap { Int($0) }
        guard parts.count == 4 else { return address.hasPrefix("fd") || address.hasPrefix("fc") }
        return parts[0] == 10 || (parts[0] == 172 && (16...31).contains(parts[1]))
            || (parts[0] == 192 && parts[1] == 168) || (parts[0] == 100 && (64...127).contains(parts[1]))
    }

    /// Of all interfaces, without loopback and addresses of one link.
    static func ownAddresses() -> [String] {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&first) == 0 else { return [] }
        defer { freeifaddrs(first) }
        var addresses: [String] = []
        var next = first
        while let interface = next {
            next = interface.pointee.ifa_next
            guard let address = interface.pointee.ifa_addr,
                interface.pointee.ifa_flags & UInt32(IFF_LOOPBACK) == 0
            else { continue }
            let family = Int32(address.pointee.sa_family)
            let length = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
            guard family == AF_INET || family == AF_INET6 else { continue }
            var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
            guard getnameinfo(address, socklen_t(length), &host, socklen_t(host.count), nil, 0, NI_NUMERICHOST) == 0
            else {
                continue
            }
            let text = String(decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if text.hasPrefix("fe80:") || text.hasPrefix("169.254.") || addresses.contains(text) { continue }
            addresses.append(text)
        }
        return addresses.sorted { ($0.contains(":") ? 1 : 0, $0) < ($1.contains(":") ? 1 : 0, $1) }
    }
}
