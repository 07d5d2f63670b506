public import FoundationEssentials

/// `status`: the mail process at one moment.
public struct ServerStatus: Hashable, Sendable, Codable {
    public struct Reactor: Hashable, Sendable, Codable {
        /// Pinned to; nil: not pinned.
        public var cpu: Int?
        /// Of clients.
        public var sessions: Int
        /// To primaries.
        public var forwardSessions: Int
        /// Parcels whose home it is.
        public var queued: Int
        /// Since the start.
        public var longestTurnMicroseconds: Int
        /// Of the time since the start, 0...1.
        public var busy: Double
    }
    public var version: String
    /// `epoll` or `uring`.
    public var io: String
    public var hostname: String
    public var reactors: [Reactor]
    /// Counted since the start: messages, parcels for each gateway.
    public var accepted: Int
    public var delivered: Int
    public var deferred: Int
    public var bounced: Int
    /// Now.
    public var queued: Int
    public var held: Int
    public var gateways: Int
    /// Seconds since 1970.
    public var startedAt: Double
    /// Everything that is configured works.
    public var ready: Bool
    /// Why not `ready`; nil when it is.
    public var notReady: String?
    /// What an operator must look at, one sentence each; bounded by who keeps them.
    public var alarms: [String]
}

extension ServerStatus.Reactor {
    /// Every key is there, also where there is no value: scripts rely on them.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(cpu, forKey: .cpu)
        try container.encode(sessions, forKey: .sessions)
        try container.encode(forwardSessions, forKey: .forwardSessions)
        try container.encode(queued, forKey: .queued)
        try container.encode(longestTurnMicroseconds, forKey: .longestTurnMicroseconds)
        try container.encode(busy, forKey: .busy)
    }
}

/// A gateway with its document's keys at the top and what the server knows of it under `status`.
public struct GatewayReport: Sendable {
    /// As the server has it, every key with its value in force.
    public let document: GatewayDocument
    public let status: Status

    public struct Status: Hashable, Sendable, Codable {
        /// Never reused.
        public var id: UInt64
        /// Names this state of the document.
        public var etag: String
        /// Seconds since 1970.
        public var createdAt: Double
        /// What is wrong with the stored document; then it stands disabled and held.
        public var fault: String?
        public var queued: Int
        public var bytes: Int
        public var sessions: Int
        /// `up`, `slow`, `down`, `returning`, `no-next-hop`.
        public var state: String
        /// Of the last failure; may be empty.
        public var detail: String
        /// Seconds since 1970, of the message that waits longest.
        public var oldest: Double?
    }
}

extension GatewayReport: Codable {
    private enum Key: String, CodingKey { case status }

    public func encode(to encoder: any Encoder) throws {
        try document.encode(to: encoder)
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(status, forKey: .status)
    }

    public init(from decoder: any Decoder) throws {
        status = try decoder.container(keyedBy: Key.self).decode(Status.self, forKey: .status)
        guard case .map(let members) = try DocumentValue(from: decoder).content else {
            throw InvalidSetting("a gateway's report is no map")
        }
        document = try GatewayDocument(DocumentValue(.map(members.filter { $0.key != Key.status.rawValue })))
    }
}

/// One line of `gateway list`: some of the document's keys, in their places, and the status.
public struct GatewaySummary: Hashable, Sendable, Codable {
    public struct Delivery: Hashable, Sendable, Codable { public var when: String }
    public struct Forward: Hashable, Sendable, Codable {
        /// nil: the domain's own MX set.
        public var server: String?
        public var port: Int
    }
    public var domain: String
    public var enabled: Bool
    public var hold: Bool
    public var delivery: Delivery
    public var forward: Forward
    public var status: GatewayReport.Status
}

/// What a gateway's mail takes.
public struct GatewayUsage: Hashable, Sendable, Codable {
    public var domain: String
    public var messages: Int
    /// Of stored content.
    public var bytes: Int
    /// nil: no limit.
    public var messagesMax: Int?
    public var bytesMax: Int?
}

/// What an import did, or with a dry run would have done: domains.
public struct ImportReport: Hashable, Sendable, Codable {
    public var created: [String]
    public var updated: [String]
}

/// How many messages or gateways a command touched.
public struct ControlCount: Hashable, Sendable, Codable { public var count: Int }

/// A message's bytes, or gateways as YAML.
public struct ControlText: Hashable, Sendable, Codable { public var text: String }

/// An exported message.
public struct ControlContent: Hashable, Sendable, Codable {
    /// In base64 on the way.
    public var content: Data

    init(_ content: [UInt8]) { self.content = Data(content) }
}

/// Whether the server does all that is configured.
public struct ControlReadiness: Hashable, Sendable, Codable {
    public var ready: Bool
    public var reason: String?
}

extension Settings {
    /// Every key with its value in force.
    public var yaml: String { value.yaml }
}
