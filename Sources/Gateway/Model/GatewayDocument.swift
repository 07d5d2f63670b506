public import Protocols

/// A gateway's settings as people write, read and store them. Every value in it has been checked.
///
/// Changes are made with `apply` and `merge`: all of a change, or nothing of it.
public struct GatewayDocument: Hashable, Sendable {
    /// A-labels in lower case; never changes.
    public let domain: String
    public internal(set) var isEnabled = true
    public internal(set) var isHeld = false
    /// nil: `stores/<domain>`.
    public internal(set) var mailDirectory: String?
    public internal(set) var delivery = Gateway.Delivery.immediately
    public internal(set) var forward = Forward()
    public internal(set) var dequeue = Dequeue()
    public internal(set) var quota = Quota()
    public internal(set) var retry = Retry()

    public struct Forward: Hashable, Sendable {
        /// nil: the domain's own MX set.
        public internal(set) var server: MailServer?
        public internal(set) var port: UInt16 = 25
        public internal(set) var envelopeFrom: MailAddress?
        public internal(set) var tls = Gateway.TLSPolicy.may
        public internal(set) var source: IPAddress?
        public internal(set) var concurrency = 20
    }

    public struct Quota: Hashable, Sendable {
        public internal(set) var isEnabled = false
        /// 0: no limit.
        public internal(set) var maxMessages = 0
        /// 0: no limit.
        public internal(set) var maxBytes = 0
        /// nil: the server's.
        public internal(set) var code: Gateway.QuotaCode?
    }

    public struct Retry: Hashable, Sendable {
        public internal(set) var stepsSeconds = RetrySchedule.standardStepsSeconds
        /// nil: `5d`, or never when delivery is `onContact`.
        public internal(set) var lifetime: Lifetime?
    }

    public enum Lifetime: Hashable, Sendable {
        case seconds(Int)
        case never
    }

    enum Limits {
        static let concurrency = 1...1_000
        static let messages = 0...1_000_000_000
        static let bytes = 0...1 << 50
    }

    /// A gateway with every default.
    ///
    /// - Throws: when `domain` is no domain name of at least two labels (as ATRN wants them, RFC 2645 §5.2.1); an
    ///   address, a path or `@system` is none.
    public init(domain: String) throws(InvalidSetting) {
        guard let name = DomainNameNormaliser.aLabel(domain), name.utf8.contains(UInt8(ascii: ".")) else {
            throw InvalidSetting(
                "`domain`: \(InvalidSetting.quote(domain)) is not allowed; it takes a domain name of at least two labels, "
                    + "letters, digits and inner hyphens (others as IDNA2008 maps them)")
        }
        self.init(trusted: name)
    }

    /// `domain` has been checked.
    init(trusted domain: String) { self.domain = domain }
}

extension GatewayDocument {
    public var effectiveMailDirectory: String { mailDirectory ?? "stores/\(domain)" }

    /// nil: never.
    public var effectiveLifetimeSeconds: Int? {
        switch retry.lifetime {
        case .seconds(let seconds): seconds
        case .never: nil
        case nil: delivery == .onContact ? nil : RetrySchedule.standardLifetimeSeconds
        }
    }

    /// Reads a whole document: what it doesn't name has its default.
    ///
    /// - Throws: one sentence that names the key, the line, the value, and what is allowed.
    public init(_ value: DocumentValue) throws(InvalidSetting) {
        guard case .map = value.content else {
            throw InvalidSetting("the document\(value.place) is no map of keys and values")
        }
        guard let domain = value["domain"]?.string else { throw InvalidSetting("`domain`\(value.place) is missing") }
        try self.init(domain: domain)
        try merge(value)
    }

    public init(json text: String) throws(InvalidSetting) { try self.init(DocumentValue(json: text)) }

    /// Reads gateways from YAML: one, a list, or several documents.
    public static func list(yaml text: String) throws(InvalidSetting) -> [GatewayDocument] {
        var gateways: [GatewayDocument] = []
        for value in try DocumentValue.documents(yaml: text, limitBytes: DocumentValue.Limits.importBytes) {
            switch value.content {
            case .null: continue  // nothing between two `---`
            case .list(let items): for item in items { gateways.append(try GatewayDocument(item)) }
            default: gateways.append(try GatewayDocument(value))
            }
        }
        return gateways
    }

    /// Sets what the map `value` names and leaves the rest; `null` sets a default.
    public mutating func merge(_ value: DocumentValue) throws(InvalidSetting) {
        var changed = self
        try Self.keys.merge(value, into: &changed)
        try changed.check()
        self = changed
    }

    /// Sets keys from `key=value` texts: `forward.port=2525`, `quota.bytes=1G`, `retry.schedule=[1m,5m]`.
    public mutating func apply(_ assignments: [String]) throws(InvalidSetting) {
        var changed = self
        for assignment in assignments { try Self.keys.assign(assignment, to: &changed) }
        try changed.check()
        self = changed
    }

    /// What single keys can't tell.
    private func check() throws(InvalidSetting) {
        if dequeue.method == .atrn, !dequeue.atrn.requiresAuthentication, dequeue.atrn.requireAddress.isEmpty {
            // RFC 2645 §5.2.1 wants AUTH; without it and without addresses anybody could take the mail.
            throw InvalidSetting(
                "`dequeue.atrn.requireAuthentication`: false needs `dequeue.atrn.requireAddress` to name who may ask")
        }
        if case .address(let server) = forward.server, let source = forward.source, server.isV4 != source.isV4 {
            throw InvalidSetting(
                "`forward.source`: `\(source)` cannot reach `forward.server` `\(server)`; both must be IPv4 or both IPv6"
            )
        }
    }

    /// Every key with its value in force.
    public var value: DocumentValue { Self.keys.document(self, onlyChanged: false) }

    /// The domain and the keys that are not at their default: what is stored.
    public var changes: DocumentValue { Self.keys.document(self, onlyChanged: true) }

    /// `value` and `changes` with the secrets that were given: for the server, and for nobody's eyes.
    public var toldValue: DocumentValue { Self.keys.document(self, onlyChanged: false, tellsSecrets: true) }
    public var toldChanges: DocumentValue { Self.keys.document(self, onlyChanged: true, tellsSecrets: true) }

    public var json: String { value.json }

    public var yaml: String { value.yaml }

    /// The reference of the document's keys as a table in Markdown.
    public static func referenceMarkdown() -> String { keys.markdown() }

    /// What `list(yaml:)` reads.
    public static func yaml(_ gateways: [GatewayDocument]) -> String {
        DocumentValue(.list(gateways.map(\.changes))).yaml
    }
}

extension GatewayDocument: Codable {
    public init(from decoder: any Decoder) throws { try self.init(DocumentValue(from: decoder)) }

    public func encode(to encoder: any Encoder) throws { try value.encode(to: encoder) }
}
