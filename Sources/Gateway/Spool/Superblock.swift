import CReactor
import Glibc
import Reactor

/// Why the spool can't be opened; one sentence for people.
struct SpoolFault: Error, CustomStringConvertible {
    let description: String
}

/// The data folder's lock and its start number.
///
/// `superblock` holds the spool's format version and how often it was started: the number is part of every id (design rule M6), so it
/// is synced before the first id is made. A version that this program doesn't know is refused, and nothing is changed.
struct Superblock {
    static let version = 1
    let start: UInt32
    /// The first start since the machine was booted: what this one and those after it wrote, the page cache kept, so a file of
    /// theirs that is too short was cut off by the end of its process. `start` when the boot is not known.
    let firstStartOfThisBoot: UInt32

    private static let name = "superblock"

    /// Takes the next start number.
    ///
    /// - Parameter boot: names the machine's boot, one word; empty: not known.
    static func open(
        _ folder: FileHandle, path: String, files: any FileExecutor, wall: Int64, boot: String
    ) throws(SpoolFault) -> Superblock {
        let read = files.carryOut(.readWhole(in: folder, name: name, maxBytes: 4096))
        var last: (start: UInt32, boot: Substring, first: UInt32) = (0, "-", 0)
        if read.isDone {
            guard let known = decode(read.data) else {
                let head = String(decoding: read.data.prefix(24), as: UTF8.self)
                if head.hasPrefix("postern-spool "), !head.hasPrefix("postern-spool \(version) ") {
                    throw SpoolFault(
                        description:
                            "`\(path)/superblock` is of another version of Postern's spool; this program knows version \(version): use the program that made it"
                    )
                }
                throw SpoolFault(
                    description:
                        "`\(path)/superblock` is damaged; put it back from a backup, or write a new one with a start number above the highest one used"
                )
            }
            last = known
        } else if read.fault != ENOENT {
            throw SpoolFault(
                description: "`\(path)/superblock` can't be read: \(String(cString: strerror(read.fault)))")
        }
        guard last.start < .max else { throw SpoolFault(description: "the spool's start numbers are used up") }
        let boot = boot.isEmpty ? "-" : boot
        let next = Superblock(
            start: last.start + 1,
            firstStartOfThisBoot: boot != "-" && last.boot == boot ? last.first : last.start + 1)
        let text = SignedLine.encode(
            "postern-spool \(version) start=\(next.start) time=\(wall / 1_000_000_000) boot=\(boot) first=\(next.firstStartOfThisBoot)"
        )
        // One left over from a start that was cut off here.
        _ = files.carryOut(.unlink(in: folder, name: name + ".part"))
        let placed = text.withUnsafeBytes {
            files.carryOut(.place(in: folder, name: name, [IOVector($0)]))
        }
        let synced = placed.isDone ? files.carryOut(.syncFileSystem(folder)) : placed
        guard synced.isDone else {
            throw SpoolFault(
                description: "the data folder `\(path)` can't be written: \(String(cString: strerror(synced.fault)))")
        }
        return next
    }

    private static func decode(_ bytes: [UInt8]) -> (start: UInt32, boot: Substring, first: UInt32)? {
        guard let words = SignedLine.decode(bytes), words.count == 6, words[0] == "postern-spool",
            words[1] == "\(version)",
            words[2].hasPrefix("start="), let start = UInt32(words[2].dropFirst(6)),
            words[3].hasPrefix("time="), words[4].hasPrefix("boot="),
            words[5].hasPrefix("first="), let first = UInt32(words[5].dropFirst(6))
        else { return nil }
        return (start, words[4].dropFirst(5), first)
    }
}

/// Keeps a second server off the same spool (T-F6). Held until the process ends, however it ends.
///
/// Its file's modification time says when a server was last known to run, see `ClockGuard`.
struct SpoolLock {
    private let descriptor: Int32
    /// When the last run was last known to run, in nanoseconds since 1970; now, if there was none.
    let lastSeen: Int64

    /// - Parameter folder: exists.
    init(folder: String, owner: (user: uid_t, group: gid_t)?) throws(SpoolFault) {
        let path = folder + "/lock"
        let descriptor = cr_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw SpoolFault(description: "`\(path)` can't be opened: \(String(cString: strerror(-descriptor)))")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw SpoolFault(
                description:
                    "another server is running on the data folder `\(folder)`: stop it, or give this one another `data`"
            )
        }
        if let owner { fchown(descriptor, owner.user, owner.group) }
        self.descriptor = descriptor
        var status = stat()
        fstat(descriptor, &status)
        lastSeen = Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec)
    }

    /// Still running, by the wall clock of now. Not synced: a power loss costs a minute or so of knowledge.
    func touch() { futimens(descriptor, nil) }
}
