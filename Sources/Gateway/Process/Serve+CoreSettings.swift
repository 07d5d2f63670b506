import CReactor
import Glibc
import Protocols
import Reactor

/// What the reactors take from the configuration.
extension Serve {
    /// Descriptors that stay for files, primaries, databases and the control socket.
    private static let descriptorShare = 0.9

    func coreSettings(_ tls: TLSMaterial, _ count: Int, nobodySecret: [UInt8]) throws -> CoreSettings {
        let connections = min(
            configuration.limits.connections, Int(Double(descriptorLimit) * Self.descriptorShare) - 100)
        var names = Set(configuration.identity.names.compactMap { DomainNameNormaliser.aLabel($0) })
        if let own = DomainNameNormaliser.aLabel(configuration.hostname) { names.insert(own) }
        return CoreSettings(
            hostname: configuration.hostname, messageSizeMax: configuration.limits.messageSize,
            recipientsMax: configuration.limits.recipients, connectionsMax: max(1, connections / count),
            connectionsPerNetworkMax: max(1, (configuration.limits.connectionsPerNetwork + count - 1) / count),
            messageMemoryBytes: configuration.limits.messageMemory / count, trust: configuration.trust,
            identity: Identity(
                names: names, addresses: Set(configuration.identity.addresses + Self.interfaceAddresses()),
                ports: Set(configuration.listen.smtp.map(\.port))),
            serverTLS: tls.server, clientTLS: tls.client, logins: LoginMeans(nobodySecret: nobodySecret))
    }

    /// Of each of `count` reactors.
    func journalSettings(_ count: Int) -> JournalSettings {
        guard configuration.journal.size > 0 else { return .none }
        let segment = configuration.journal.segment
        return JournalSettings(
            segmentBytes: segment - segment % JournalFormat.blockBytes, limitBytes: configuration.journal.size / count)
    }

    private static func interfaceAddresses() -> [IPAddress] {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return [] }
        defer { freeifaddrs(list) }
        var addresses: [IPAddress] = []
        var entry = list
        while let current = entry {
            if let address = current.pointee.ifa_addr {
                let raw = UnsafeRawPointer(address)
                switch Int32(address.pointee.sa_family) {
                case AF_INET:
                    let inet = raw.assumingMemoryBound(to: sockaddr_in.self).pointee
                    addresses.append(IPAddress(v4: UInt32(bigEndian: inet.sin_addr.s_addr)))
                case AF_INET6:
                    var inet6 = raw.assumingMemoryBound(to: sockaddr_in6.self).pointee.sin6_addr
                    withUnsafeBytes(of: &inet6) {
                        if let address = IPAddress(bytes: Array($0)) { addresses.append(address) }
                    }
                default: break
                }
            }
            entry = current.pointee.ifa_next
        }
        return addresses
    }
}
