import CReactor
import Glibc
import Synchronization

/// Wakes a sleeping reactor, and costs a fence when it is awake.
///
/// The reactor sets `sleeping`, fences, looks at its mailboxes once more, then waits; a sender pushes, fences, and writes to
/// the descriptor only if `sleeping` was set. So neither can miss the other.
public final class Doorbell: Sendable {
    /// An eventfd, or -1 when nothing real waits (simulation).
    public let descriptor: Int32
    private let sleeping = Atomic<Bool>(false)
    private let rang = Atomic<Bool>(false)

    public init(simulated: Bool = false) {
        descriptor = simulated ? -1 : eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        precondition(simulated || descriptor >= 0, "no descriptor left for an eventfd")
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// From any thread, after the message has been pushed.
    public func ring() {
        rang.store(true, ordering: .sequentiallyConsistent)
        if sleeping.load(ordering: .sequentiallyConsistent),
            sleeping.exchange(false, ordering: .sequentiallyConsistent), descriptor >= 0
        {
            var one: UInt64 = 1
            _ = write(descriptor, &one, 8)
        }
    }

    /// The reactor is about to wait. False: somebody rang since the last call, so don't.
    func beginSleep() -> Bool {
        sleeping.store(true, ordering: .sequentiallyConsistent)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if rang.exchange(false, ordering: .acquiringAndReleasing) {
            sleeping.store(false, ordering: .sequentiallyConsistent)
            return false
        }
        return true
    }

    func endSleep() { sleeping.store(false, ordering: .sequentiallyConsistent) }

    /// Empties the descriptor after it became readable.
    func drain() {
        var count: UInt64 = 0
        _ = read(descriptor, &count, 8)
    }
}
