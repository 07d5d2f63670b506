/// One queued message as people see it.
public struct QueuedMessage: Hashable, Sendable, Codable {
    public enum State: String, Hashable, Sendable, Codable { case queued, active, deferred, held }
    /// A `QueueID` as text.
    public var id: String
    /// The gateway's; `@system` for mail of our own.
    public var domain: String
    /// Reverse-path without angle brackets; empty is `<>`.
    public var from: String
    /// Forward-paths that still wait.
    public var recipients: [String]
    /// Of the content.
    public var bytes: Int
    /// Seconds since 1970.
    public var receivedAt: Double
    public var state: State
    public var attempts: Int
    /// Seconds since 1970; nil: as soon as there is room, or when somebody asks for it.
    public var nextAttempt: Double?
    /// Of the last attempt.
    public var lastReply: String?
}

extension QueuedMessage {
    /// Every key is there, also where there is no value: scripts rely on them.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(id, forKey: .id)
        try container.encode(domain, forKey: .domain)
        try container.encode(from, forKey: .from)
        try container.encode(recipients, forKey: .recipients)
        try container.encode(bytes, forKey: .bytes)
        try container.encode(receivedAt, forKey: .receivedAt)
        try container.encode(state, forKey: .state)
        try container.encode(attempts, forKey: .attempts)
        try container.encode(nextAttempt, forKey: .nextAttempt)
        try container.encode(lastReply, forKey: .lastReply)
    }
}

/// One queue's state as people see it.
public struct QueueHealth: Hashable, Sendable, Codable {
    /// The gateway's; `@system` for mail of our own.
    public var domain: String
    /// Empty but in `@system`.
    public var destination: String
    /// `up`, `slow`, `down`, `returning`, `no-next-hop`.
    public var state: String
    /// Of the last failure; may be empty.
    public var detail: String
    public var queued: Int
    public var bytes: Int
    /// To its primary, now.
    public var sessions: Int
    /// Seconds since 1970, of the message that waits longest.
    public var oldest: Double?
}
