import Protocols
import Reactor

/// A parcel that has become durable, told to its home.
struct Announcement: Sendable {
    let key: QueueKey
    /// As the receiver knows it: its home may hear of a new gateway later than of the first mail for it.
    let route: Route
    let id: QueueID
    let bytes: Int
    let hot: HotParcel?
    /// Where it is stored; none: in its mail directory.
    var place = JournalPlace.none
}

/// A parcel on loan, for taking it away (design §6).
struct Lease: Sendable {
    let slot: Int32
    let generation: UInt32
    let id: QueueID
    let bytes: Int
    let hot: HotParcel?
    let hasState: Bool
    var place = JournalPlace.none
}

/// How a lease ended.
struct Settlement: Sendable {
    enum Result: Sendable {
        /// Every recipient is handed on, and nobody waits for a notice.
        case delivered
        /// Nothing happened to it: it goes back to the front.
        case released
        /// The customer fetched it and deleted it.
        case collected
        /// The customer left it: it waits as before.
        case unread
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
