import Gateway
import Glibc

/// The domains that a Postfix relays, as gateways: `relay_domains`, and where `transport_maps`, `relay_transport` and
/// `relayhost` send them.
struct PostfixImport {
    private(set) var gateways: [GatewayDocument] = []
    /// What has no counterpart, one sentence each. Nothing is left out without one.
    private(set) var remarks: [String] = []

    /// - Throws: when `main.cf`, or a table that decides where mail goes, can't be read as it is.
    init(_ postfix: PostfixConfiguration) throws {
        guard try postfix.value("relay_domains") != nil else {
            throw PostfixConfiguration.Fault(description: "main.cf sets no relay_domains: there is nothing to import")
        }
        let routes = Dictionary(
            try postfix.tables("transport_maps").map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        let standard = try Route(
            postfix.value("relay_transport") ?? "relay", key: "relay_transport",
            elsewhere: Route.nextHop(postfix.value("relayhost") ?? "", key: "relayhost"))
        var known: Set<String> = []
        for entry in try postfix.list("relay_domains") {
            let name = entry.lowercased()
            guard !name.hasPrefix("!"), !name.hasPrefix(".") else {
                remarks.append("relay_domains: “\(entry)” is a pattern, and a gateway is one domain")
                continue
            }
            guard known.insert(name).inserted else { continue }
            do {
                let route =
                    try Self.entry(of: name, routes).map {
                        try Route($0.contains(":") ? $0 : $0 + ":", key: name, elsewhere: standard.server)
                    } ?? standard
                if let remark = route.remark { remarks.append("\(name): \(remark)") }
                var document = try GatewayDocument(domain: name)
                if let server = route.server {
                    try document.apply(["forward.server=\(server.server)"])
                    if let port = server.port { try document.apply(["forward.port=\(port)"]) }
                }
                gateways.append(document)
            } catch let fault as InvalidSetting {
                remarks.append("\(name): \(fault.sentence)")
            } catch let fault as PostfixConfiguration.Fault {
                remarks.append("\(name): \(fault.description)")
            }
        }
        try remark(postfix, Array(routes.keys), known)
    }

    private mutating func remark(_ postfix: PostfixConfiguration, _ routes: [String], _ known: Set<String>) throws {
        let addresses = routes.filter { $0.contains("@") }.count
        if addresses > 0 {
            remarks.append(
                "transport_maps: \(addresses) \(addresses == 1 ? "entry is for a single address" : "entries are for single addresses")"
                    + ", and a gateway has one next hop")
        }
        if !known.isEmpty, try postfix.value("parent_domain_matches_subdomains") == nil {
            remarks.append(
                "Postfix also relays the subdomains of relay_domains; each that gets mail needs its own gateway")
        }
        if let maps = try postfix.value("relay_recipient_maps"), !maps.isEmpty {
            remarks.append("relay_recipient_maps is not in this version: every recipient of the domains is accepted")
        }
    }

    /// The domain's own entry, that of a domain above it, or the one for all (transport(5), table search order).
    private static func entry(of domain: String, _ routes: [String: String]) -> String? {
        if let own = routes[domain] { return own }
        var rest = domain[...]
        while let dot = rest.firstIndex(of: ".") {
            if let above = routes[String(rest[dot...])] { return above }
            rest = rest[rest.index(after: dot)...]
        }
        return routes["*"]
    }

    /// Where a transport sends mail (transport(5)).
    private struct Route {
        /// nil: the domain's own MX set.
        let server: (server: MailServer, port: UInt16?)?
        private(set) var remark: String?

        /// - Parameters:
        ///   - text: `transport:nexthop`, either of them may be missing.
        ///   - elsewhere: the next hop where `text` has none.
        init(_ text: String, key: String, elsewhere: (server: MailServer, port: UInt16?)?) throws {
            let colon = text.firstIndex(of: ":")
            let transport = colon.map { text[..<$0] } ?? text[...]
            let nextHop = colon.map { String(text[text.index(after: $0)...]) } ?? ""
            if !["", "smtp", "relay"].contains(transport) {
                if ["error", "retry", "discard", "local", "virtual"].contains(transport) {
                    throw PostfixConfiguration.Fault(
                        description: "its transport is “\(text)”; no gateway was made, since that is no relaying")
                }
                remark =
                    "the transport “\(transport)” is taken for SMTP; look whether it has settings of its own in master.cf"
            }
            server = try Self.nextHop(nextHop, key: key) ?? (colon != nil && transport != "" ? nil : elsewhere)
            if nextHop.contains(",") { remark = "of the next hops “\(nextHop)” the first is taken" }
        }

        /// `host`, `[host]`, either with `:port` or `:service`; empty is nil.
        static func nextHop(_ text: String, key: String) throws -> (server: MailServer, port: UInt16?)? {
            guard let first = PostfixConfiguration.words(text).first else { return nil }
            if let server = MailServer.withPort(first) { return server }
            if let colon = first.lastIndex(of: ":"), let server = MailServer(String(first[..<colon])),
                let service = getservbyname(String(first[first.index(after: colon)...]), "tcp")
            {
                return (server, UInt16(truncatingIfNeeded: service.pointee.s_port).byteSwapped)
            }
            throw PostfixConfiguration.Fault(
                description: "the next hop “\(text)” of \(key) is no host with or without a port")
        }
    }
}
