import CReactor
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
        let syncHandles = SyncHandles()
        while true {
            signal.wait()
            let (tasks, isClosed) = state.withLock { state in
                defer { state.waiting = [] }
                return (state.waiting, state.isClosed)
            }
            carryOut(tasks, files, syncHandles)
            if isClosed, tasks.isEmpty { return }
        }
    }

    private func carryOut(_ tasks: [(FileTask, Done)], _ files: PosixFiles, _ handles: SyncHandles) {
        for (task, _) in tasks { handles.prepare(task, files) }
        var syncing: [(FileTask, Done)] = []
        for (task, done) in tasks {
            task.carryOut(with: files, untilSync: true)
            if task.outcomes.count == task.steps.count { done(task) } else { syncing.append((task, done)) }
        }
        var synced: [(device: Int, outcome: FileOutcome)] = []
        for (task, done) in syncing {
            var own: [Int] = []
            task.carryOut(with: files) { directory in
                let identity = files.carryOut(.identity(directory))
                guard identity.isDone else { return identity }
                // A second sync within one task is for what that task did in between.
                let isFirst = !own.contains(identity.value)
                own.append(identity.value)
                if isFirst, let known = synced.first(where: { $0.device == identity.value }) { return known.outcome }
                let outcome = handles.sync(identity.value, files)
                if isFirst { synced.append((identity.value, outcome)) }
                return outcome
            }
            done(task)
        }
    }

    /// One open description of each file system, for this lane alone.
    ///
    /// The kernel tells a write-back error once to each open file description (errseq). Were one shared with another lane, that
    /// lane's sync could take the error away, and this one's would promise what is gone (T-F1). It is opened before the first
    /// write of a round that it is to sync.
    private final class SyncHandles {
        private var handles: [(device: Int, handle: FileHandle)] = []

        func prepare(_ task: FileTask, _ files: PosixFiles) {
            for step in task.steps {
                guard case .syncFileSystem(let directory) = step else { continue }
                let identity = files.carryOut(.identity(directory))
                guard identity.isDone, !handles.contains(where: { $0.device == identity.value }) else { continue }
                let handle = cr_openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
                if handle >= 0 { handles.append((identity.value, handle)) }
            }
        }

        func sync(_ device: Int, _ files: PosixFiles) -> FileOutcome {
            guard let known = handles.first(where: { $0.device == device }) else { return FileOutcome(-Int(EMFILE)) }
            return files.carryOut(.syncFileSystem(known.handle))
        }
    }
}
