/// One thread's view of the world: clocks read once a turn, timers, and the arrays that go to and come from its backend.
///
/// Its owner asks by appending to `operations` and calling `turn`, then walks `completions`, `finished` and `expired`.
/// It lives on the thread that made it.
public final class Reactor {
    public let backend: any Backend
    /// Monotonic nanoseconds, read once a turn.
    public private(set) var now: UInt64
    /// Nanoseconds since 1970, read once a turn.
    public private(set) var wall: Int64
    public var operations: [Operation] = []
    public private(set) var completions: [Completion] = []
    public private(set) var finished: [Finished] = []
    /// Tokens of the timers that are due.
    public private(set) var expired: [Token] = []
    private var timers: TimerWheel

    /// Nanoseconds from the ends of the waits to the next `turn`s: the owner's work in all.
    public private(set) var busyNanoseconds: UInt64 = 0
    public private(set) var turns: UInt64 = 0

    public init(backend: any Backend) {
        self.backend = backend
        now = backend.monotonicNow()
        wall = backend.wallNow()
        timers = TimerWheel(now: now)
        operations.reserveCapacity(1024)
        completions.reserveCapacity(1024)
    }

    public func setTimer(_ deadline: UInt64, _ token: Token) -> TimerWheel.ID { timers.set(deadline, token) }
    public func cancelTimer(_ id: TimerWheel.ID) { timers.cancel(id) }

    /// Carries out what was asked, and waits for what happens next if `mayWait`.
    public func turn(mayWait: Bool) {
        completions.removeAll(keepingCapacity: true)
        finished.removeAll(keepingCapacity: true)
        expired.removeAll(keepingCapacity: true)
        let ended = backend.monotonicNow()
        busyNanoseconds += ended - now
        turns += 1
        backend.turn(
            &operations, until: mayWait ? timers.nextDeadline : 0, completions: &completions, finished: &finished)
        now = backend.monotonicNow()
        wall = backend.wallNow()
        timers.advance(to: now, expired: &expired)
    }
}
