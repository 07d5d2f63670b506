import Protocols
import Reactor

/// A session of another reactor, as a home knows it.
struct SessionAddress: Hashable, Sendable {
    let core: Int
    let token: Token
}

/// Which queue a message waits in: a gateway's, or for mail of our own (`@system`) one a destination.
struct QueueKey: Hashable, Sendable, Comparable {
    let gatewayID: UInt64
    /// Empty for gateways and with a smarthost; the recipients' domain for mail of our own.
    var destination = ""

    static func < (a: QueueKey, b: QueueKey) -> Bool { (a.gatewayID, a.destination) < (b.gatewayID, b.destination) }
}

/// A parcel that has become durable, told to its home.
struct Announcement: Sendable {
    let key: QueueKey
    /// As the receiver knows it: its home may hear of a new gateway later than of the first mail for it.
    let route: Route
    let id: QueueID
    let bytes: Int
    let hot: HotParcel?
}

/// A parcel on loan, for taking it away (design §6).
struct Lease: Sendable {
    let slot: Int32
    let generation: UInt32
    let id: QueueID
    let bytes: Int
    let hot: HotParcel?
    let hasState: Bool
}

/// How a lease ended.
struct Settlement: Sendable {
    enum Result: Sendable {
        /// Every recipient is handed on, and nobody waits for a notice.
        case delivered
        /// Nothing happened to it: it goes back to the front.
        case released
        /// Some recipients failed, wait, or want a notice.
        case mixed(SettledParcel)
        /// The file is not what was written.
        case damaged(String)
        /// The file can't be read now.
        case unreadable(Int32)
    }
    let slot: Int32
    let generation: UInt32
    let result: Result
}

/// What became of one recipient in one attempt.
struct RecipientOutcome: Sendable {
    let reply: Reply
    /// Name of the server that answered; nil: the reply is ours.
    let remoteMTA: String?
    /// The next hop has taken over the duty to report (RFC 3461 §5.2.2).
    let isDSNPassedOn: Bool
}

/// A parcel after an attempt that was not plain success, with what a DSN needs.
final class SettledParcel: Sendable {
    let envelope: Envelope
    /// Before the attempt.
    let state: ParcelState
    /// One a recipient of the envelope; nil: was settled before.
    let outcomes: [RecipientOutcome?]
    /// The original's first bytes, for the DSN.
    let original: [UInt8]
    let isWhole: Bool
    /// The attempt ended the parcel's life whatever the replies say (an administrator's bounce).
    let isFinal: Bool

    init(
        envelope: Envelope, state: ParcelState, outcomes: [RecipientOutcome?], original: [UInt8], isWhole: Bool,
        isFinal: Bool = false
    ) {
        (self.envelope, self.state, self.outcomes) = (envelope, state, outcomes)
        (self.original, self.isWhole, self.isFinal) = (original, isWhole, isFinal)
    }
}

/// Why a session with a primary has ended.
enum SessionEnd: Sendable {
    /// It had nothing more to do.
    case done
    /// This server is short of sessions or descriptors: not the primary's fault.
    case notNow
    /// No connection to any address, or refused before mail: the primary is down.
    case unreachable(Reply)
    /// It broke off later.
    case lost(Reply)
    /// There is nowhere to go; the sentence says why.
    case noNextHop(String)
    /// The domain says for good that it takes no mail (null MX, RFC 7505), or no TLS as required: the reply is final.
    case refused(Reply)
}

/// What one reactor says to another, or the control thread to one of them.
enum CoreMessage: Sendable {
    case routes(Routes)
    /// After SIGHUP.
    case settings(CoreSettings)
    case announce(Announcement)
    /// Home → worker: open a session for this queue.
    case open(QueueKey, Route, home: Int)
    /// Worker → home: the session is up.
    case sessionUp(QueueKey, SessionAddress)
    /// Worker → home: up to `count` leases are wanted.
    case want(QueueKey, SessionAddress, count: Int)
    /// Home → worker; empty: wait, they come when there are some.
    case leases(Token, QueueKey, [Lease])
    /// Worker → home.
    case settle(QueueKey, SessionAddress?, [Settlement])
    /// Home → worker: that many settles are synced.
    case credit(Token, Int)
    /// Worker → home, after the last settle.
    case sessionEnded(QueueKey, SessionAddress, SessionEnd)
    case request(CoreRequest)
    case shutDown
}

/// What the control thread asks of a reactor; the answer comes by the closure, on the reactor's thread.
struct CoreRequest: Sendable {
    enum What: Sendable {
        case list(gatewayID: UInt64?, limit: Int)
        case flush(gatewayID: UInt64?)
        case find(QueueID)
        case delete(QueueID)
        case bounce(QueueID)
        /// First bytes of a queued message.
        case export(QueueID)
        /// All mail of a gateway that is being deleted goes (or of it these messages), or goes back. What is on its way out is
        /// left alone.
        case drop(gatewayID: UInt64, only: Set<QueueID>?)
        case bounceAll(gatewayID: UInt64)
        /// A gateway's deletion was broken off: its mail leaves again.
        case resume(gatewayID: UInt64)
        case health
    }
    let what: What
    let answer: @Sendable (CoreAnswer) -> Void
}

enum CoreAnswer: Sendable {
    case queued([QueuedMessage])
    case done(Int)
    case content([UInt8])
    case notFound
    case busy(String)
    case health([QueueHealth])
}
