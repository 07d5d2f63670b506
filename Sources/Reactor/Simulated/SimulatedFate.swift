/// The seed's decisions, the virtual clock with what is due on it, and the record of both: shared by the parts of one world.
final class SimulatedFate {
    /// What an event, a decision or a completion was, for the trace.
    enum Mark: UInt64 {
        case turn = 1
        case advance, stall, completion, finished, segment, end, reset, window, connect, send, lane, lookup, work
        case fileStep, kill, powerLoss, wallJump, close, script
    }

    private struct Event {
        let time: UInt64
        let order: UInt64
        let mark: Mark
        let subject: Int
        let action: () -> Void

        func isBefore(_ other: Event) -> Bool { time != other.time ? time < other.time : order < other.order }
    }

    /// Events that may wait: far more than any test needs, so that a runaway is seen.
    private static let eventsMax = 1 << 20

    var settings: SimulatedSettings
    var random: SimulatedRandom
    var counters = SimulatedCounters()
    /// Answers DNS queries.
    var resolver: ([UInt8]) -> Result<[UInt8], LookupFault> = { _ in .failure(.unreachable) }
    /// Virtual monotonic nanoseconds.
    private(set) var now: UInt64 = 1_000_000_000
    /// What the wall clock shows beyond `now`.
    var wallOffset: Int64
    /// A digest of all that was noted.
    private(set) var traceHash: UInt64 = 0xcbf2_9ce4_8422_2325
    /// A binary heap.
    private var events: [Event] = []
    private var nextOrder: UInt64 = 0

    init(seed: UInt64, settings: SimulatedSettings) {
        self.settings = settings
        wallOffset = settings.wallStart - 1_000_000_000
        random = SimulatedRandom(seed: seed)
    }

    // MARK: Trace

    func note(_ mark: Mark, _ subject: Int, _ value: Int = 0) {
        mix(mark.rawValue)
        mix(now)
        mix(UInt64(bitPattern: Int64(subject)))
        mix(UInt64(bitPattern: Int64(value)))
    }

    /// FNV-1a by words, with a shift so that high bits reach low ones.
    private func mix(_ word: UInt64) {
        traceHash = (traceHash ^ word) &* 0x100_0000_01b3
        traceHash ^= traceHash >> 29
    }

    // MARK: Time

    var wallNow: Int64 { wallOffset &+ Int64(now) }

    var nextEventTime: UInt64? { events.first?.time }

    func after(_ delay: ClosedRange<UInt64>, _ mark: Mark, _ subject: Int, _ action: @escaping () -> Void) {
        at(now + random.within(delay), mark, subject, action)
    }

    func at(_ time: UInt64, _ mark: Mark, _ subject: Int, _ action: @escaping () -> Void) {
        precondition(events.count < Self.eventsMax, "a simulated world with a million events waiting has run away")
        events.append(Event(time: max(time, now), order: nextOrder, mark: mark, subject: subject, action: action))
        nextOrder += 1
        var child = events.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard events[child].isBefore(events[parent]) else { break }
            events.swapAt(child, parent)
            child = parent
        }
    }

    /// Time passes without a look at what is due.
    func pass(_ nanoseconds: UInt64) { now += nanoseconds }

    func advance(to time: UInt64) { now = max(now, time) }

    /// Does what is due, and what becomes due meanwhile.
    func fireDue() {
        while let first = events.first, first.time <= now {
            removeFirst()
            note(first.mark, first.subject)
            first.action()
        }
    }

    /// Lets go of what waits, whose actions may hold the world's parts.
    func forgetEvents() { events = [] }

    private func removeFirst() {
        events.swapAt(0, events.count - 1)
        events.removeLast()
        var parent = 0
        while true {
            var least = parent
            let (left, right) = (2 * parent + 1, 2 * parent + 2)
            if left < events.count, events[left].isBefore(events[least]) { least = left }
            if right < events.count, events[right].isBefore(events[least]) { least = right }
            guard least != parent else { return }
            events.swapAt(parent, least)
            parent = least
        }
    }
}
