public import Protocols

/// The server-wide policy, kept in the database. Every value in it has been checked.
public struct Settings: Hashable, Sendable {
    /// Where `RCPT TO:<Postmaster>` goes (RFC 5321 §4.5.1); nil: kept held in `@system`.
    public internal(set) var postmaster: MailAddress?
    /// Takes all mail of our own; nil: the recipients' MX.
    public internal(set) var smarthost: MailServerEndpoint?
    /// For gateways that name none.
    public internal(set) var quotaCode = Gateway.QuotaCode.tryAgain

    public init() {}

    /// Sets keys from `key=value` texts: all of them, or none.
    public mutating func apply(_ assignments: [String]) throws(InvalidSetting) {
        var changed = self
        for assignment in assignments { try Self.keys.assign(assignment, to: &changed) }
        self = changed
    }

    /// Sets what the map `value` names and leaves the rest; `null` sets a default.
    public mutating func merge(_ value: DocumentValue) throws(InvalidSetting) {
        var changed = self
        try Self.keys.merge(value, into: &changed)
        self = changed
    }

    /// Every key with its value in force.
    public var value: DocumentValue { Self.keys.document(self, onlyChanged: false) }

    /// The reference of the settings as a table in Markdown.
    public static func referenceMarkdown() -> String { keys.markdown() }

    static let keys: SettingTable<Settings> = {
        let standard = Settings()
        func notBuilt(_ key: String, _ standard: DocumentValue.Content) -> Setting<Settings> {
            Setting(notBuilt: key, standardText: DocumentValue(standard).flow) { _ in DocumentValue(standard) }
        }
        return SettingTable([
            Setting(
                "postmaster", \.postmaster, ValueForm.mailAddress.orNull, in: standard,
                "Where `RCPT TO:<Postmaster>` goes; null: kept held in `@system`."),
            Setting(
                "smarthost", \.smarthost, ValueForm.smarthost.orNull, in: standard,
                "HOST:PORT of the relay for DSNs and other mail of our own; null: the recipients' MX."),
            Setting(
                "quotaCode", \.quotaCode, .quotaCode, in: standard,
                "The reply beyond a quota, for gateways that set none: 452 (try again) or 552 (bounce)."),
            notBuilt("automatic.enabled", .bool(false)),
            notBuilt("automatic.remoteOnly", .bool(true)),
            notBuilt("automatic.confirm", .bool(true)),
            notBuilt("automatic.confirmTo", .null),
            notBuilt("automatic.confirmWithin", .text("24h")),
            notBuilt("automatic.whileUnconfirmed", .text("refuse")),
            notBuilt("automatic.sendToNextHigher", .bool(true)),
            notBuilt("automatic.template", .text("default")),
        ])
    }()
}

extension Settings: Codable {
    public init(from decoder: any Decoder) throws {
        self.init()
        try merge(DocumentValue(from: decoder))
    }

    public func encode(to encoder: any Encoder) throws { try value.encode(to: encoder) }
}

extension ValueForm where Value == MailServerEndpoint {
    fileprivate static let smarthost = ValueForm(
        "HOST:PORT", parse: { $0.string.flatMap { MailServerEndpoint($0) } },
        print: { DocumentValue(.text($0.description)) })
}
