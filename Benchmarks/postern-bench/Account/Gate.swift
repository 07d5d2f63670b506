import Synchronization

/// What the main thread and the others say to one another while they run.
final class Gate: Sendable {
    /// When measuring began, in monotonic nanoseconds; 0: not yet.
    private let startedAt = Atomic<UInt64>(0)
    private let warmed = Atomic<Int>(0)
    private let stopped = Atomic<Bool>(false)
    private let sent = Atomic<Int>(0)
    private let arrived = Atomic<Int>(0)
    private let ended = Atomic<Int>(0)
    private let dropped = Atomic<Int>(0)
    private let greeted = Atomic<Int>(0)

    var start: UInt64 { startedAt.load(ordering: .acquiring) }
    func open(at now: UInt64) { startedAt.store(now, ordering: .releasing) }

    /// Generator threads whose warm-up is over.
    var warmedCount: Int { warmed.load(ordering: .acquiring) }
    func isWarm() { warmed.add(1, ordering: .acquiringAndReleasing) }

    /// Leave now, whatever is under way.
    var isStopped: Bool { stopped.load(ordering: .relaxed) }
    func stop() { stopped.store(true, ordering: .relaxed) }

    /// Messages that have been answered, warm-up included.
    var sentCount: Int { sent.load(ordering: .relaxed) }
    func answered() { sent.add(1, ordering: .relaxed) }

    /// Messages that have arrived, warm-up included.
    var arrivedCount: Int { arrived.load(ordering: .relaxed) }
    func arrive() { arrived.add(1, ordering: .relaxed) }

    /// Sessions that a server has begun.
    var greetedCount: Int { greeted.load(ordering: .relaxed) }
    func greet() { greeted.add(1, ordering: .relaxed) }

    /// Sessions without a message under way that the server has ended.
    var droppedCount: Int { dropped.load(ordering: .relaxed) }
    func drop() { dropped.add(1, ordering: .relaxed) }

    /// Generator threads that have ended.
    var endedCount: Int { ended.load(ordering: .acquiring) }
    func end() { ended.add(1, ordering: .acquiringAndReleasing) }
}
