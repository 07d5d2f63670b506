/// What a token may do.
enum Scope: String, Codable, CaseIterable, Sendable { case read, write }

/// Who asks.
struct Caller: Hashable, Sendable {
    enum Means: Hashable, Sendable {
        /// A browser, by cookie.
        case session(digest: String)
        case token(Scope)
    }
    /// A user's or a token's name.
    let name: String
    let means: Means
    /// Where from.
    let address: String

    /// For the audit log: `admin`, or `token backup`.
    var title: String {
        switch means {
        case .session: name
        case .token: "token \(name)"
        }
    }
}

/// A token without its secret, which nobody has.
struct TokenSummary: Hashable, Codable, Sendable {
    let name: String
    let scope: Scope
    /// Seconds since 1970.
    let createdAt: Double
    /// By a minute; nil: never.
    let usedAt: Double?
}

/// One change: what was asked, and what became of it.
struct AuditEntry: Hashable, Codable, Sendable {
    struct Change: Hashable, Codable, Sendable {
        /// A dotted key.
        let key: String
        /// As JSON; nil: there was none.
        let before: String?
        let after: String?
    }
    let id: Int64
    /// Seconds since 1970.
    let at: Double
    let who: String
    let address: String
    /// Such as `gateway.set`.
    let action: String
    /// Such as a domain or a message's id.
    let object: String
    /// `done`, `refused`, or `unknown` where the process ended before it knew.
    let outcome: String
    /// The refusal's sentence.
    let detail: String?
    let changes: [Change]
}

/// Why `admin.db` can't be used: one sentence without a full stop.
struct AccessFault: Error, Hashable, Sendable, CustomStringConvertible {
    let description: String
}
