public import FoundationEssentials

/// What is said over the control socket: one JSON object a line in each direction, answered in order.
///
/// ```text
/// ▶ {"v":1,"command":"gateway.create","arguments":{"domain":"altn.test"}}
/// ◀ {"ok":true,"result":{…},"warnings":["…"]}
/// ◀ {"ok":false,"error":{"code":"refused","message":"one sentence"}}
/// ```
public enum ControlProtocol {
    /// Of requests; another one is refused.
    static let version = 1

    enum Limits {
        /// One request without its line feed: an import of many gateways.
        static let requestBytes = 16 << 20
        /// One answer, which a client is ready to hold: an exported message in base64 is the largest.
        static let answerBytes = 512 << 20
        /// Clients connected at a time: commands of people and scripts, and `admin`.
        static let clients = 64
        /// How long an unfinished request or an untaken answer may stand still.
        static let stalledSeconds = 20
    }
}

/// Why a request was not done, as one sentence for people and a word for programs.
public struct ControlFault: Error, Hashable, Sendable, Codable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable, Codable {
        /// The request asks for what is not allowed.
        case refused
        /// There is no such gateway or message.
        case notFound
        /// Something changed, or is in use, meanwhile: look and ask again.
        case conflict
        /// The world's fault: disk, database, time-out.
        case failed
        /// Nobody answers on the socket.
        case notRunning
    }
    public let code: Code
    /// One sentence without a full stop.
    public let message: String

    public var description: String { message }

    public init(_ code: Code, _ message: String) { (self.code, self.message) = (code, message) }

    init(_ fault: InvalidSetting) { self.init(.refused, fault.sentence) }

    init(_ fault: DirectoryFault) {
        let code: Code =
            switch fault {
            case .alreadyExists, .invalid: .refused
            case .noSuchGateway: .notFound
            case .changedMeanwhile, .locked: .conflict
            case .damaged, .unknownVersion, .unavailable: .failed
            }
        self.init(code, fault.description)
    }
}

/// A line from a client.
struct ControlRequest: Codable {
    let v: Int
    let command: String
    /// A map; absent: none are needed.
    let arguments: DocumentValue?
}

/// The answer to a request that was done.
public struct ControlAnswer<Result: Codable & Sendable>: Codable, Sendable {
    public let result: Result
    /// Sentences for people.
    public let warnings: [String]
}

/// The outer form of every answer.
struct ControlOutcome: Codable {
    let ok: Bool
    let error: ControlFault?
}

extension ControlProtocol {
    /// The one form of JSON that is sent: keys in order, so that equal answers are equal texts.
    static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(value))
    }

    static func decode<Value: Decodable>(_ type: Value.Type, _ line: some Sequence<UInt8>) throws -> Value {
        try JSONDecoder().decode(type, from: Data(line))
    }
}

// MARK: What answers hold

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
