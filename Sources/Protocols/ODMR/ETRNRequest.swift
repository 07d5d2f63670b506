/// What an ETRN asks for (RFC 1985 §5).
///
/// Whether this client may have it is the owner's to decide, and so is `subtree` and `queue` at all (RFC 1985 §8).
public enum ETRNRequest: Hashable, Sendable, CustomStringConvertible {
    case domain(QualifiedDomain)
    /// `@`: the domain and all below it.
    case subtree(QualifiedDomain)
    /// `#`: a queue by its name, 1 to 64 letters, digits, dots, hyphens, underscores.
    case queue(String)

    public static let queueNameMaxBytes = 64

    /// Reads what stands behind `ETRN` and its space.
    ///
    /// - Throws: `.missingArgument` for nothing at all (500), `.malformedArgument` for what is no node (501).
    public init(argument: [UInt8]) throws(ETRNReply) {
        guard let first = argument.first else { throw .missingArgument }
        switch first {
        case UInt8(ascii: "@"):
            guard let domain = QualifiedDomain(Array(argument.dropFirst())) else { throw .malformedArgument }
            self = .subtree(domain)
        case UInt8(ascii: "#"):
            let name = argument.dropFirst()
            guard (1...Self.queueNameMaxBytes).contains(name.count), name.allSatisfy(Self.isNameText) else {
                throw .malformedArgument
            }
            self = .queue(String(decoding: name, as: UTF8.self))
        default:
            guard let domain = QualifiedDomain(Array(argument)) else { throw .malformedArgument }
            self = .domain(domain)
        }
    }

    /// As it stands in the command, in lower case where it is a domain.
    public var description: String {
        switch self {
        case .domain(let domain): domain.description
        case .subtree(let domain): "@\(domain)"
        case .queue(let name): "#\(name)"
        }
    }

    private static func isNameText(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }
}

/// Every answer to ETRN (RFC 1985 §5.1).
///
/// 250 to 253 promise that the queue was started, not that a connection comes about. `notAllowed` is one sentence for a
/// domain that is unknown, another's, or not fetched by ETRN, so that nobody can ask for our customers' names (T-C4).
public enum ETRNReply: Error, Hashable, Sendable {
    /// 250: something will happen; what, is not said.
    case started(ETRNRequest)
    /// 251.
    case nothingWaits(ETRNRequest)
    /// 252: there is mail, and it is on its way.
    case pendingStarted(ETRNRequest)
    /// 253, with the number of messages.
    case pendingCountStarted(Int, ETRNRequest)
    /// 458: not now. Also for what is refused as too often.
    case unable(ETRNRequest)
    /// 459.
    case notAllowed(ETRNRequest)
    /// 500: `ETRN` alone.
    case missingArgument
    /// 501.
    case malformedArgument
    /// 503: within a transaction, or before EHLO (RFC 1985 §5).
    case outOfOrder
    /// 530: the site wants AUTH for it (RFC 4954 §6).
    case authenticationRequired

    public var reply: Reply {
        switch self {
        case .started(let node): Reply(250, EnhancedStatus(2, 0, 0), "OK, queuing for node \(node) started")
        case .nothingWaits(let node): Reply(251, EnhancedStatus(2, 0, 0), "OK, no messages waiting for node \(node)")
        case .pendingStarted(let node):
            Reply(252, EnhancedStatus(2, 0, 0), "OK, pending messages for node \(node) started")
        case .pendingCountStarted(let count, let node):
            Reply(253, EnhancedStatus(2, 0, 0), "OK, \(count) pending messages for node \(node) started")
        case .unable(let node): Reply(458, EnhancedStatus(4, 3, 0), "Unable to queue messages for node \(node)")
        case .notAllowed(let node):
            Reply(459, EnhancedStatus(4, 7, 1), "Node \(node) not allowed: not yours to ask for")
        case .missingArgument: Reply(500, EnhancedStatus(5, 5, 2), "Syntax: ETRN [@|#]node")
        case .malformedArgument: Reply(501, EnhancedStatus(5, 5, 4), "Syntax: ETRN [@|#]node, a domain name in full")
        case .outOfOrder: Reply(503, EnhancedStatus(5, 5, 1), "Say EHLO first, and not in a transaction")
        case .authenticationRequired: Reply(530, EnhancedStatus(5, 7, 0), "Authentication required")
        }
    }
}
