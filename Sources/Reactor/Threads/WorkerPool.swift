import Glibc

/// Unpinned threads for what takes longer than a reactor may: values in, values out.
public final class WorkerPool: Sendable {
    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var isClosed = false
    }
    private let state = Locked(State())
    private let signal = Semaphore()
    private let handles: Locked<[Thread.Handle]>

    /// Jobs that may wait; `submit` refuses beyond (the caller's work is refused in turn, never piled up).
    public static let waitingMax = 10_000

    public init(threads: Int, name: String = "worker") {
        handles = Locked([])
        let made = (0..<threads).map { index in
            Thread.start("\(name)-\(index)") { [self] in run() }
        }
        handles.withLock { $0 = made }
    }

    /// False: too many jobs wait.
    public func submit(_ job: @escaping @Sendable () -> Void) -> Bool {
        let taken = state.withLock {
            guard $0.jobs.count < Self.waitingMax, !$0.isClosed else { return false }
            $0.jobs.append(job)
            return true
        }
        if taken { signal.post() }
        return taken
    }

    /// Ends after the jobs that wait.
    public func shutDown() {
        state.withLock { $0.isClosed = true }
        let all = handles.withLock { handles in
            defer { handles = [] }
            return handles
        }
        for _ in all { signal.post() }
        for handle in all { handle.join() }
    }

    private func run() {
        while true {
            signal.wait()
            let job: (@Sendable () -> Void)?? = state.withLock {
                if $0.jobs.isEmpty { return $0.isClosed ? .some(nil) : .none }
                return $0.jobs.removeFirst()
            }
            switch job {
            case .some(.some(let job)): job()
            case .some(.none): return
            case .none: continue
            }
        }
    }
}

/// A counting semaphore.
public final class Semaphore: @unchecked Sendable {
    private let pointer: UnsafeMutablePointer<sem_t>
    public init() {
        pointer = .allocate(capacity: 1)
        sem_init(pointer, 0, 0)
    }
    deinit {
        sem_destroy(pointer)
        pointer.deallocate()
    }
    public func post() { sem_post(pointer) }
    public func wait() { while sem_wait(pointer) != 0 && errno == EINTR {} }

    /// False: nobody posted in that time.
    public func wait(seconds: Int) -> Bool {
        var until = timespec()
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_sec += seconds
        while sem_timedwait(pointer, &until) != 0 { if errno != EINTR { return false } }
        return true
    }
}
