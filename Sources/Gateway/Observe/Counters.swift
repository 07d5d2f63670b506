import Synchronization

/// What one reactor has counted since the start; read by others at any time.
final class Counters: Sendable {
    let accepted = Atomic<Int>(0)
    let acceptedBytes = Atomic<Int>(0)
    /// Parcels handed on for good, recipients whatever their number.
    let delivered = Atomic<Int>(0)
    let deferred = Atomic<Int>(0)
    let bounced = Atomic<Int>(0)
    let queued = Atomic<Int>(0)
    let sessions = Atomic<Int>(0)
    let sessionsTotal = Atomic<Int>(0)
    let connectionsRefused = Atomic<Int>(0)
    let forwardSessions = Atomic<Int>(0)
    let commits = Atomic<Int>(0)
    /// Messages that were stored in the journal, and parcels that went from there to their mail directories.
    let journalMessages = Atomic<Int>(0)
    let journalMoved = Atomic<Int>(0)
    /// Segments of the journal that were begun.
    let journalSegments = Atomic<Int>(0)
    /// Parcels that live in the journal, and bytes of segments that are not free.
    let journalParcels = Atomic<Int>(0)
    let journalBytes = Atomic<Int>(0)
    let possibleDuplicates = Atomic<Int>(0)
    let damaged = Atomic<Int>(0)
    let alarms = Atomic<Int>(0)
    let longestCallbackNanoseconds = Atomic<Int>(0)
    let slowCallbacks = Atomic<Int>(0)
    let busyNanoseconds = Atomic<Int>(0)
    let messageMemoryBytes = Atomic<Int>(0)
    /// Replies to senders by code, 200...599.
    private let repliesStorage: [RelaxedCounter]

    init() { repliesStorage = (0..<400).map { _ in RelaxedCounter() } }

    func replied(_ code: Int) {
        guard (200..<600).contains(code) else { return }
        repliesStorage[code - 200].value.add(1, ordering: .relaxed)
    }

    func replies(_ code: Int) -> Int { repliesStorage[code - 200].value.load(ordering: .relaxed) }
}

/// One atomic number in an array.
final class RelaxedCounter: Sendable {
    let value = Atomic<Int>(0)
}
