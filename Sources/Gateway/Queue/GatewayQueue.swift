import DequeModule
import HeapModule
import Reactor

/// The queue of one gateway (or of one destination of `@system`) at its home: who waits, who may go, and over how many sessions.
final class GatewayQueue {
    /// A session with the primary, on whatever reactor.
    struct Session {
        let address: SessionAddress
        /// Leases that it waits for.
        var wants = 0
        /// The gateway's settings changed since it was opened: it gets no more leases (T-E9).
        var isStale = false
        /// The customer's own connection, turned: what waits for contact goes out by it.
        var isTurned = false
    }

    private struct Deferred: Comparable {
        let seconds: UInt32
        let reference: ParcelReference
        static func < (a: Deferred, b: Deferred) -> Bool { a.seconds < b.seconds }
        static func == (a: Deferred, b: Deferred) -> Bool { a.seconds == b.seconds }
    }

    let key: QueueKey
    /// In the home's table.
    let number: Int32
    var route: Route
    var health = PrimaryHealth()
    /// Oldest first, as they arrived.
    private var ready: Deque<ParcelReference> = []
    private var deferred = Heap<Deferred>()
    /// Deferred ones that need not wait for their time any more.
    private var released = Heap<Deferred>()
    /// Sessions that are up.
    var sessions: [Session] = []
    /// Sessions ordered and not yet up.
    var opening = 0
    /// Of these, ordered under older settings.
    var staleOpening = 0
    /// No session before this instant, for want of our own means.
    var pausedUntil: UInt64 = 0
    /// Under flush: retry times, health and `onContact` don't hold anything back until a session ends or nothing waits.
    var isFlushing = false { didSet { if !isFlushing { contactRoute = nil } } }
    /// Where this flush goes, when an ETRN said so: the same gateway with another next hop.
    var contactRoute: Route?
    /// Recovery is still listing: nothing is leased (design rule M11).
    var isListing = false
    /// Whether a session is opened for what waits: mail for a Postmaster that nobody is named for is only kept.
    let isKeptHeld: Bool
    var queued = 0
    var queuedBytes = 0
    var leased = 0
    var lastReply: String?
    /// The session that has the mailbox for itself.
    var mailboxHolder: SessionAddress?
    /// Bytes that the mailbox shows before the content, by slot: known once the envelope was read.
    var mailboxPrefixes: [Int32: (generation: UInt32, bytes: Int)] = [:]
    var timer = TimerWheel.ID.none
    var timerAt: UInt64 = .max
    /// Rotates over the reactors.
    var nextCore = 0

    init(key: QueueKey, number: Int32, route: Route, isKeptHeld: Bool = false) {
        (self.key, self.number, self.route, self.isKeptHeld) = (key, number, route, isKeptHeld)
    }

    /// Parcels in state `ready`; `ready` itself also has places of some that have left it.
    var readyCount = 0
    /// Nothing waits, nobody is on the way.
    var isIdle: Bool { queued == 0 && leased == 0 && opening == 0 && sessions.isEmpty && mailboxHolder == nil }

    func append(_ reference: ParcelReference) {
        ready.append(reference)
        readyCount += 1
    }

    func putBack(_ reference: ParcelReference) {
        ready.prepend(reference)
        readyCount += 1
    }

    private var cursor = 0

    /// Some of the ready ones, where the last look ended, so that in the end each is seen: the order is not quite that of age.
    func lookAtReady(_ count: Int) -> [ParcelReference] {
        if cursor >= ready.count { cursor = 0 }
        let end = min(cursor + count, ready.count)
        defer { cursor = end }
        return Array(ready[cursor..<end])
    }

    func `defer`(_ reference: ParcelReference, until seconds: UInt32) {
        deferred.insert(Deferred(seconds: seconds, reference: reference))
    }

    /// The oldest that waits; entries that have gone meanwhile are skipped.
    func takeReady(_ index: borrowing ParcelIndex) -> ParcelReference? {
        while let reference = ready.popFirst() {
            if index.holds(reference), index[reference].state == .ready { return reference }
        }
        return nil
    }

    func peekReady(_ index: borrowing ParcelIndex) -> ParcelReference? {
        while let first = ready.first {
            if index.holds(first), index[first].state == .ready { return first }
            ready.removeFirst()
        }
        return nil
    }

    /// 0: now.
    var nextDeferredSeconds: UInt32? { released.isEmpty ? deferred.min?.seconds : 0 }

    /// Moved in one callback; the rest in the next ones.
    private static let releasedAtOnce = 2_000

    /// All that is deferred now counts as due.
    func releaseAll() {
        if released.isEmpty {
            swap(&released, &deferred)
        } else {
            released.insert(contentsOf: deferred.unordered)
            deferred = Heap()
        }
    }

    /// Moves what is due to the ready ones, or a part of it.
    func release(until seconds: UInt32, _ index: inout ParcelIndex) {
        for _ in 0..<Self.releasedAtOnce {
            let due: Deferred
            if let next = released.popMin() {
                due = next
            } else if let next = deferred.min, next.seconds <= seconds {
                due = deferred.removeMin()
            } else {
                return
            }
            guard index.holds(due.reference), index[due.reference].state == .deferred else { continue }
            index[due.reference].state = .ready
            append(due.reference)
        }
    }

    /// A customer who comes may take mail: only a push waits for contact.
    var mayBeTaken: Bool { !isKeptHeld && !route.gateway.isHeld && !isListing && !route.store.isClosing }

    /// Why nothing leaves though mail waits, in an administrator's words; nil: nothing holds it back.
    var holdReason: String? {
        if isKeptHeld || route.gateway.isHeld { return "held" }
        if isListing { return "the mail directory is being listed" }
        if route.store.isClosing { return "the gateway is being deleted" }
        if route.gateway.delivery == .onContact, !isFlushing { return "waits for contact" }
        return nil
    }
}
