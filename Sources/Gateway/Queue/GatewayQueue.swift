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
    /// Sessions that are up.
    var sessions: [Session] = []
    /// Sessions ordered and not yet up.
    var opening = 0
    /// Of these, ordered under older settings.
    var staleOpening = 0
    /// No session before this instant, for want of our own means.
    var pausedUntil: UInt64 = 0
    /// Under flush: retry times, health and `onContact` don't hold anything back until a session ends or nothing waits.
    var isFlushing = false
    /// Recovery is still listing: nothing is leased (design rule M11).
    var isListing = false
    /// Whether a session is opened for what waits: mail for a Postmaster that nobody is named for is only kept.
    let isKeptHeld: Bool
    var queued = 0
    var queuedBytes = 0
    var leased = 0
    var lastReply: String?
    var timer = TimerWheel.ID.none
    var timerAt: UInt64 = .max
    /// Rotates over the reactors.
    var nextCore = 0

    init(key: QueueKey, number: Int32, route: Route, isKeptHeld: Bool = false) {
        (self.key, self.number, self.route, self.isKeptHeld) = (key, number, route, isKeptHeld)
    }

    var readyCount: Int { ready.count }
    var isEmpty: Bool { queued == 0 }

    func append(_ reference: ParcelReference) { ready.append(reference) }
    func putBack(_ reference: ParcelReference) { ready.prepend(reference) }
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
        ready.first { index.holds($0) && index[$0].state == .ready }
    }

    var nextDeferredSeconds: UInt32? { deferred.min?.seconds }

    /// Moves what is due (or everything) to the ready ones.
    func release(until seconds: UInt32, _ index: inout ParcelIndex) {
        while let first = deferred.min, first.seconds <= seconds {
            deferred.removeMin()
            guard index.holds(first.reference), index[first.reference].state == .deferred else { continue }
            index[first.reference].state = .ready
            ready.append(first.reference)
        }
    }

    /// Why nothing leaves though mail waits, in an administrator's words; nil: nothing holds it back.
    var holdReason: String? {
        if isKeptHeld || route.gateway.isHeld { return "held" }
        if isListing { return "the mail directory is being listed" }
        if route.gateway.delivery == .onContact, !isFlushing { return "waits for contact" }
        return nil
    }
}
