import Synchronization

/// A thread beside a reactor that does its file work, task by task, in order.
final class FileLane: Sendable {
    private struct State: Sendable {
        var waiting: [FileTask] = []
        var isClosed = false
    }
    private let state = Mutex(State())
    private let signal = Semaphore()
    private let done: @Sendable (FileTask) -> Void
    private let handle: Mutex<Thread.Handle?> = Mutex(nil)

    /// - Parameter done: called on the lane's thread.
    init(name: String, cpu: Int?, done: @escaping @Sendable (FileTask) -> Void) {
        self.done = done
        let made = Thread.start(name, cpu: cpu) { [self] in run() }
        handle.withLock { $0 = made }
    }

    func run(_ task: FileTask) {
        state.withLock { $0.waiting.append(task) }
        signal.post()
    }

    /// Ends after the tasks that wait.
    func shutDown() {
        state.withLock { $0.isClosed = true }
        signal.post()
        let made = handle.withLock { $0.take() }
        made?.join()
    }

    private func run() {
        let files = PosixFiles()
        while true {
            signal.wait()
            let (tasks, isClosed) = state.withLock { state in
                defer { state.waiting = [] }
                return (state.waiting, state.isClosed)
            }
            for task in tasks {
                task.carryOut(with: files)
                done(task)
            }
            if isClosed, tasks.isEmpty { return }
        }
    }
}
