import FoundationEssentials

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
struct ControlRequest: Decodable {
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
struct ControlOutcome: Decodable {
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
