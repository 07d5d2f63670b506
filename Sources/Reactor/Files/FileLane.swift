import CReactor
import Glibc
import Synchronization

/// Does file work for reactors, task by task, in order: one thread for all that is done before the first sync of a file system or
/// a log, and one for these syncs.
///
/// So the files of the next commit are written while the last one is being synced. All tasks that wait for a sync share it, whatever
/// reactor they come from: what was written before a sync began is covered by it.
///
/// A sync that fails says nothing of which pages are gone, and the kernel says it once (errseq). So it fails every task that began
/// to write before it returned, also those that would have had their own sync later (T-F1).
public final class FileLane: Sendable {
    typealias Done = @Sendable (FileTask) -> Void

    private struct Job: Sendable {
        let task: FileTask
        let done: Done
        /// Order in which tasks begin to write.
        var sequence: UInt64 = 0
    }

    private struct Inbox: Sendable {
        var jobs: [Job] = []
        var isClosed = false
    }

    private let writing = Locked(Inbox())
    private let syncing = Locked(Inbox())
    private let writeSignal = Semaphore()
    private let syncSignal = Semaphore()
    /// The last task that began to write.
    private let begun = Atomic<UInt64>(0)
    private let handles = SyncHandles()
    private let threads: Locked<[Thread.Handle]> = Locked([])

    public init(name: String) {
        let writer = Thread.start(name) { [self] in write() }
        let syncer = Thread.start(name + "-sync") { [self] in sync() }
        threads.withLock { $0 = [writer, syncer] }
    }

    /// - Parameter done: called on a thread of the lane's.
    func run(_ task: FileTask, done: @escaping Done) {
        writing.withLock { $0.jobs.append(Job(task: task, done: done)) }
        writeSignal.post()
    }

    /// Ends after the tasks that wait.
    public func shutDown() {
        writing.withLock { $0.isClosed = true }
        writeSignal.post()
        let all = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in all { thread.join() }
    }

    // MARK: The writing thread

    private func write() {
        let files = PosixFiles()
        while true {
            writeSignal.wait()
            let inbox = Self.take(writing)
            for var job in inbox.jobs {
                job.sequence = begun.add(1, ordering: .sequentiallyConsistent).newValue
                handles.prepare(job.task, files)
                let began = SystemBackend.monotonicNow()
                job.task.carryOut(with: files, untilSync: true)
                job.task.writing = SystemBackend.monotonicNow() - began
                if job.task.outcomes.count == job.task.steps.count {
                    job.done(job.task)
                } else {
                    syncing.withLock { $0.jobs.append(job) }
                    syncSignal.post()
                }
            }
            if inbox.isClosed, inbox.jobs.isEmpty {
                syncing.withLock { $0.isClosed = true }
                syncSignal.post()
                return
            }
        }
    }

    private static func take(_ box: borrowing Locked<Inbox>) -> Inbox {
        box.withLock { inbox in
            defer { inbox.jobs = [] }
            return inbox
        }
    }

    // MARK: The syncing thread

    private func sync() {
        let files = PosixFiles()
        /// Of each device whose sync failed: the last task that had begun to write by then.
        var poisoned: [(device: Int, until: UInt64, fault: FileOutcome)] = []
        while true {
            syncSignal.wait()
            let inbox = Self.take(syncing)
            var synced: [(device: Int, outcome: FileOutcome)] = []
            /// Logs: all tasks here were written before the first of these syncs began.
            var logs: [(file: FileHandle, outcome: FileOutcome)] = []
            for job in inbox.jobs {
                var own: [Int] = []
                let syncLog = { (file: FileHandle) in
                    if let known = logs.first(where: { $0.file == file }) { return known.outcome }
                    logs.append((file, files.carryOut(.syncLog(file))))
                    return logs[logs.count - 1].outcome
                }
                let syncFileSystem = { (directory: FileHandle) in
                    let identity = files.carryOut(.identity(directory))
                    guard identity.isDone else { return identity }
                    let device = identity.value
                    // A second sync within one task is for what that task did in between.
                    let isFirst = !own.contains(device)
                    own.append(device)
                    if let past = poisoned.first(where: { $0.device == device }), job.sequence <= past.until {
                        return past.fault
                    }
                    if isFirst, let known = synced.first(where: { $0.device == device }) { return known.outcome }
                    let outcome = self.handles.sync(device, files)
                    if !outcome.isDone {
                        poisoned.removeAll { $0.device == device }
                        poisoned.append((device, self.begun.load(ordering: .sequentiallyConsistent), outcome))
                    }
                    if isFirst { synced.append((device, outcome)) }
                    return outcome
                }
                job.task.carryOut(with: files, sync: syncFileSystem, syncLog: syncLog)
                job.done(job.task)
            }
            if inbox.isClosed, inbox.jobs.isEmpty { return }
        }
    }

    /// One open description of each file system, for this lane alone.
    ///
    /// The kernel tells a write-back error once to each open file description. Were one shared with another lane, that lane's sync
    /// could take the error away, and this one's would promise what is gone (T-F1). It is opened before the first write that it
    /// is to sync.
    private final class SyncHandles: Sendable {
        private let handles: Locked<[(device: Int, handle: FileHandle)]> = Locked([])

        func prepare(_ task: FileTask, _ files: PosixFiles) {
            for step in task.steps {
                guard case .syncFileSystem(let directory) = step else { continue }
                let identity = files.carryOut(.identity(directory))
                guard identity.isDone else { continue }
                handles.withLock { handles in
                    guard !handles.contains(where: { $0.device == identity.value }) else { return }
                    let handle = cr_openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
                    if handle >= 0 { handles.append((identity.value, handle)) }
                }
            }
        }

        func sync(_ device: Int, _ files: PosixFiles) -> FileOutcome {
            let known = handles.withLock { handles in handles.first { $0.device == device }?.handle }
            guard let known else { return FileOutcome(-Int(EMFILE)) }
            return files.carryOut(.syncFileSystem(known))
        }

        deinit { handles.withLock { handles in for (_, handle) in handles { close(handle) } } }
    }
}
