import Glibc
import Synchronization

/// A thread that does file work for reactors, task by task, in order.
///
/// What waits together is done as one round: all steps but the file-system syncs first, then each file system is synced once for
/// all tasks of the round. So reactors that share a lane share their commits, and don't fight for a directory's lock.
public final class FileLane: Sendable {
    typealias Done = @Sendable (FileTask) -> Void

    private struct State: Sendable {
        var waiting: [(FileTask, Done)] = []
        var isClosed = false
    }
    private let state = Mutex(State())
    private let signal = Semaphore()
    private let handle: Mutex<Thread.Handle?> = Mutex(nil)

    public init(name: String) {
        let made = Thread.start(name) { [self] in run() }
        handle.withLock { $0 = made }
    }

    /// - Parameter done: called on the lane's thread.
    func run(_ task: FileTask, done: @escaping Done) {
        state.withLock { $0.waiting.append((task, done)) }
        signal.post()
    }

    /// Ends after the tasks that wait.
    public func shutDown() {
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
            carryOut(tasks, files)
            if isClosed, tasks.isEmpty { return }
        }
    }

    private func carryOut(_ tasks: [(FileTask, Done)], _ files: PosixFiles) {
        var syncing: [(FileTask, Done)] = []
        for (task, done) in tasks {
            task.carryOut(with: files, untilSync: true)
            if task.outcomes.count == task.steps.count { done(task) } else { syncing.append((task, done)) }
        }
        var synced: [(device: Int, outcome: FileOutcome)] = []
        for (task, done) in syncing {
            task.carryOut(with: files) { directory in
                let identity = files.carryOut(.identity(directory))
                guard identity.isDone else { return identity }
                if let known = synced.first(where: { $0.device == identity.value }) { return known.outcome }
                let outcome = files.carryOut(.syncFileSystem(directory))
                synced.append((identity.value, outcome))
                return outcome
            }
            done(task)
        }
    }
}
