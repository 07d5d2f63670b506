public import Glibc

/// An open directory or file of the backend: a descriptor on the real ones.
public typealias FileHandle = Int32

/// One step of file work. Names are single path components, made by the program itself (never outside text).
public enum FileStep {
    /// Makes the file `name`, which must be new, writes the vectors and closes it; nothing is synced. On an error it is unlinked
    /// again; a crash may leave a part of it. The bytes stay valid until the task is finished.
    case create(in: FileHandle, name: String, [IOVector])
    /// Writes `name.part` from the vectors, syncs its data, closes it and renames it to `name`, in the place of one that is there: a power
    /// loss leaves the old file or the new one, whole. The name itself is not synced. On an error the `.part` is unlinked again; that
    /// may fail too, so one that an earlier attempt left behind is taken away. The bytes stay valid until the task is finished.
    case place(in: FileHandle, name: String, [IOVector])
    /// Creates `name.part` for appending: `value` is its handle.
    case createPart(in: FileHandle, name: String)
    case append(to: FileHandle, [IOVector])
    case overwrite(FileHandle, at: Int64, [UInt8])
    case syncData(FileHandle)
    /// Opens for reading and writing in place, made if `create` and not there: `value` is the handle.
    case openLog(in: FileHandle, name: String, create: Bool)
    /// Writes all vectors in place. The bytes stay valid until the task is finished.
    case write(FileHandle, at: Int64, [IOVector])
    /// Fills the file with zeros from its start, past the page cache where that goes: what a log is made of. Whole blocks.
    case zero(FileHandle, length: Int)
    /// `fdatasync` of a log: on the real lanes all tasks of one log that wait for it share one, and the next ones are written
    /// meanwhile. After one that failed its maker writes nothing more to that log: what was written before it ended may be lost,
    /// whatever a later sync says.
    case syncLog(FileHandle)
    /// The error of a late write shows here (T-F2): a failed close fails the message.
    case close(FileHandle)
    case renamePart(in: FileHandle, name: String)
    case unlink(in: FileHandle, name: String)
    case rename(in: FileHandle, from: String, to: FileHandle, name: String)
    /// `syncfs` of the file system that the directory lies on.
    case syncFileSystem(FileHandle)
    case syncDirectory(FileHandle)
    /// Opens for reading: `value` is the handle.
    case open(in: FileHandle, name: String)
    /// Up to `length` bytes into `data`.
    case read(FileHandle, at: Int64, length: Int)
    /// Reads a whole file of at most `maxBytes` (else `-EFBIG`).
    case readWhole(in: FileHandle, name: String, maxBytes: Int)
    /// Opens a file, reads its first bytes, at most `length`, and closes it; `second` is the file's whole size.
    case readStart(in: FileHandle, name: String, length: Int)
    /// Reads through the file from `at` without keeping it: `value` is the CRC32C of `length` bytes.
    case checksum(FileHandle, at: Int64, length: Int)
    /// The names in a directory, without `.` and `..`, as `names`, sorted by bytes.
    case list(FileHandle)
    /// Makes the directory (and its parents) if it isn't there and opens it: `value` is the handle.
    case openDirectory(path: String, create: Bool)
    /// Free bytes (`value`) and free inodes (`second`) for this user.
    case space(FileHandle)
    /// Device (`value`) and inode (`second`) of a directory.
    case identity(FileHandle)
}

/// What became of a step.
public struct FileOutcome: Sendable {
    /// 0 or more: done, as the step says. Below: `-errno`, or `-ECANCELED` for a step that an earlier one made pointless.
    public var value: Int
    public var second: Int = 0
    public var data: [UInt8] = []
    public var names: [String] = []

    public init(_ value: Int, second: Int = 0, data: [UInt8] = [], names: [String] = []) {
        (self.value, self.second, self.data, self.names) = (value, second, data, names)
    }
    public var isDone: Bool { value >= 0 }
    /// The `errno` of a failure.
    public var fault: Int32 { Int32(-value) }
}

/// Steps for another thread, done in order. Its maker gives it away with `Backend.run` and has it back when it is finished;
/// nobody touches it in between.
public final class FileTask: @unchecked Sendable {
    public let token: Token
    /// The file system (`st_dev`) that all its steps are on; 0: more than one, or none known. Tasks of one file system are done in
    /// order and wait for no other's.
    public let device: Int
    public var steps: [FileStep] = []
    /// One a step.
    public var outcomes: [FileOutcome] = []
    /// The rest is skipped (`-ECANCELED`) after the first step that fails. Batches of independent steps say no.
    public var stopsAtFailure = true
    /// Nanoseconds that the steps before the first sync of a file system took on the real lanes.
    public internal(set) var writing: UInt64 = 0
    /// Keeps what the steps point to.
    public var context: AnyObject?

    public init(token: Token, device: Int) { (self.token, self.device) = (token, device) }
}

/// What carries out steps: the kernel, or a simulated disk.
public protocol FileExecutor: AnyObject {
    func carryOut(_ step: FileStep) -> FileOutcome
}

extension FileTask {
    /// Does all steps that are not done yet, on the calling thread.
    ///
    /// - Parameters:
    ///   - untilSync: stops before the first sync of a file system or a log.
    ///   - sync: does the syncs of file systems; nil: the executor.
    ///   - syncLog: those of logs.
    public func carryOut(
        with executor: some FileExecutor, untilSync: Bool = false, sync: ((FileHandle) -> FileOutcome)? = nil,
        syncLog: ((FileHandle) -> FileOutcome)? = nil
    ) {
        outcomes.reserveCapacity(steps.count)
        var hasFailed = outcomes.contains { !$0.isDone }
        for step in steps[outcomes.count...] {
            defer { hasFailed = hasFailed || outcomes.last?.isDone == false }
            if stopsAtFailure, hasFailed {
                outcomes.append(FileOutcome(-Int(ECANCELED)))
                continue
            }
            switch step {
            case .syncFileSystem(let directory):
                if untilSync { return }
                outcomes.append(sync?(directory) ?? executor.carryOut(step))
            case .syncLog(let file):
                if untilSync { return }
                outcomes.append(syncLog?(file) ?? executor.carryOut(step))
            default: outcomes.append(executor.carryOut(step))
            }
        }
    }
}
