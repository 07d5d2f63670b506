import CReactor
import Glibc

/// File steps by system calls, on the calling thread.
public final class PosixFiles: FileExecutor {
    /// For reading through files: this much at a time.
    private static let scratchBytes = 256 << 10
    private let scratch = UnsafeMutableRawPointer.allocate(byteCount: scratchBytes, alignment: 4096)

    public init() {}
    deinit { scratch.deallocate() }

    public func carryOut(_ step: FileStep) -> FileOutcome {
        switch step {
        case .create(let directory, let name, let vectors): FileOutcome(create(directory, name, vectors))
        case .place(let directory, let name, let vectors): FileOutcome(place(directory, name, vectors))
        case .createPart(let directory, let name):
            FileOutcome(Int(cr_openat(directory, name + ".part", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)))
        case .append(let file, let vectors): FileOutcome(writeAll(file, vectors))
        case .overwrite(let file, let offset, let bytes): FileOutcome(overwrite(file, offset, bytes))
        case .syncData(let file), .syncLog(let file): outcome(fdatasync(file))
        case .openLog(let directory, let name, let create):
            FileOutcome(
                Int(cr_openat(directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | (create ? O_CREAT : 0), 0o600)))
        case .write(let file, let offset, let vectors): FileOutcome(writeAll(file, vectors, at: offset))
        case .zero(let file, let length): FileOutcome(zero(file, length))
        case .close(let file): outcome(close(file))
        case .renamePart(let directory, let name): outcome(renameat(directory, name + ".part", directory, name))
        case .unlink(let directory, let name): outcome(unlinkat(directory, name, 0))
        case .rename(let directory, let old, let target, let name): outcome(renameat(directory, old, target, name))
        case .syncFileSystem(let directory): FileOutcome(Int(cr_syncfs(directory)))
        case .syncDirectory(let directory): outcome(fsync(directory))
        case .open(let directory, let name):
            FileOutcome(Int(cr_openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0)))
        case .read(let file, let offset, let length): read(file, offset, length)
        case .readWhole(let directory, let name, let maxBytes): readWhole(directory, name, maxBytes)
        case .readStart(let directory, let name, let length): readStart(directory, name, length)
        case .checksum(let file, let offset, let length): checksum(file, offset, length)
        case .list(let directory): list(directory)
        case .openDirectory(let path, let create): openDirectory(path, create)
        case .space(let directory): space(directory)
        case .identity(let directory): identity(directory)
        }
    }

    private func outcome(_ status: Int32) -> FileOutcome { FileOutcome(status < 0 ? -Int(errno) : 0) }

    private func create(
        _ directory: FileHandle, _ name: String, _ vectors: [IOVector], syncs: Bool = false
    ) -> Int {
        let file = cr_openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { return Int(file) }
        var status = writeAll(file, vectors)
        if status >= 0, syncs, fdatasync(file) != 0 { status = -Int(errno) }
        if close(file) != 0, status >= 0 { status = -Int(errno) }
        if status < 0 { unlinkat(directory, name, 0) }
        return min(status, 0)
    }

    private func place(_ directory: FileHandle, _ name: String, _ vectors: [IOVector]) -> Int {
        let part = name + ".part"
        var status = create(directory, part, vectors, syncs: true)
        if status == -Int(EEXIST) {
            guard unlinkat(directory, part, 0) == 0 else { return -Int(errno) }
            status = create(directory, part, vectors, syncs: true)
        }
        guard status == 0, renameat(directory, part, directory, name) != 0 else { return status }
        let fault = errno
        unlinkat(directory, part, 0)
        return -Int(fault)
    }

    /// All bytes or `-errno`; a short write is continued.
    ///
    /// - Parameter offset: nil: where the file stands.
    private func writeAll(_ file: FileHandle, _ vectors: [IOVector], at offset: Int64? = nil) -> Int {
        var vectors = vectors
        return vectors.withUnsafeMutableBufferPointer { buffer -> Int in
            var at = 0
            var total = 0
            while at < buffer.count {
                let count = min(buffer.count - at, 1024)
                let base = buffer.baseAddress! + at
                let written =
                    offset.map { pwritev(file, base, Int32(count), off_t($0) + off_t(total)) }
                    ?? writev(file, base, Int32(count))
                if written < 0 {
                    if errno == EINTR { continue }
                    return -Int(errno)
                }
                // A file that takes nothing and names no error has no room.
                if written == 0, buffer[at..<at + count].contains(where: { $0.iov_len > 0 }) { return -Int(ENOSPC) }
                total += written
                at += IOVector.advance(buffer.baseAddress! + at, count: buffer.count - at, by: written)
            }
            return total
        }
    }

    /// The page cache would copy each zero, and keep it.
    private func zero(_ file: FileHandle, _ length: Int) -> Int {
        scratch.initializeMemory(as: UInt8.self, repeating: 0, count: Self.scratchBytes)
        var direct = cr_open_direct(file)
        defer { if direct >= 0 { close(direct) } }
        var done = 0
        while done < length {
            let target = direct >= 0 ? direct : file
            let written = pwrite(target, scratch, min(Self.scratchBytes, length - done), off_t(done))
            if written > 0 {
                done += written
            } else if written == 0 {
                return -Int(ENOSPC)
            } else if errno == EINVAL, direct >= 0 {
                // No file system for it, or its blocks are larger.
                close(direct)
                direct = -1
            } else if errno != EINTR {
                return -Int(errno)
            }
        }
        return length
    }

    private func overwrite(_ file: FileHandle, _ offset: Int64, _ bytes: [UInt8]) -> Int {
        var done = 0
        while done < bytes.count {
            let written = bytes.withUnsafeBytes {
                pwrite(file, $0.baseAddress! + done, bytes.count - done, off_t(offset) + off_t(done))
            }
            if written < 0 {
                if errno == EINTR { continue }
                return -Int(errno)
            }
            if written == 0 { return -Int(ENOSPC) }
            done += written
        }
        return done
    }

    private func read(_ file: FileHandle, _ offset: Int64, _ length: Int) -> FileOutcome {
        var fault = 0
        let data = [UInt8](unsafeUninitializedCapacity: length) { buffer, count in
            while count < length {
                let got = pread(file, buffer.baseAddress! + count, length - count, off_t(offset) + off_t(count))
                if got < 0 {
                    if errno == EINTR { continue }
                    fault = Int(errno)
                    return
                }
                if got == 0 { return }
                count += got
            }
        }
        return fault == 0 ? FileOutcome(data.count, data: data) : FileOutcome(-fault)
    }

    private func readWhole(_ directory: FileHandle, _ name: String, _ maxBytes: Int) -> FileOutcome {
        let file = cr_openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0)
        guard file >= 0 else { return FileOutcome(Int(file)) }
        defer { close(file) }
        var status = stat()
        guard fstat(file, &status) == 0 else { return FileOutcome(-Int(errno)) }
        guard status.st_size <= maxBytes else { return FileOutcome(-Int(EFBIG)) }
        return read(file, 0, Int(status.st_size))
    }

    private func readStart(_ directory: FileHandle, _ name: String, _ length: Int) -> FileOutcome {
        let file = cr_openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0)
        guard file >= 0 else { return FileOutcome(Int(file)) }
        defer { close(file) }
        var status = stat()
        guard fstat(file, &status) == 0 else { return FileOutcome(-Int(errno)) }
        var outcome = read(file, 0, length)
        outcome.second = Int(status.st_size)
        return outcome
    }

    private func checksum(_ file: FileHandle, _ offset: Int64, _ length: Int) -> FileOutcome {
        var crc: UInt32 = 0
        var done = 0
        while done < length {
            let got = pread(file, scratch, min(Self.scratchBytes, length - done), off_t(offset) + off_t(done))
            if got < 0 {
                if errno == EINTR { continue }
                return FileOutcome(-Int(errno))
            }
            if got == 0 { return FileOutcome(-Int(ENODATA)) }
            crc = cr_crc32c(crc, scratch, got)
            done += got
        }
        return FileOutcome(Int(crc))
    }

    private func list(_ directory: FileHandle) -> FileOutcome {
        let copy = cr_openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
        guard copy >= 0 else { return FileOutcome(Int(copy)) }
        guard let stream = fdopendir(copy) else {
            close(copy)
            return FileOutcome(-Int(errno))
        }
        defer { closedir(stream) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                return errno == 0 ? FileOutcome(names.count, names: names.sorted()) : FileOutcome(-Int(errno))
            }
            // The entry ends with its name; only the declared type says 256 bytes.
            let start = UnsafeRawPointer(entry) + MemoryLayout<dirent>.offset(of: \.d_name)!
            let name = String(cString: start.assumingMemoryBound(to: CChar.self))
            if name != ".", name != ".." { names.append(name) }
        }
    }

    private func openDirectory(_ path: String, _ create: Bool) -> FileOutcome {
        if create {
            var at = path.hasPrefix("/") ? "/" : ""
            for part in path.split(separator: "/") {
                at += (at.isEmpty || at.hasSuffix("/") ? "" : "/") + part
                if mkdir(at, 0o700) == 0 {
                    // A directory without its own entry on disk would vanish with a power loss.
                    let parent = cr_open(String(Self.parent(of: at)), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
                    if parent >= 0 {
                        let synced = outcome(fsync(parent))
                        close(parent)
                        guard synced.isDone else { return synced }
                    }
                } else if errno != EEXIST {
                    return FileOutcome(-Int(errno))
                }
            }
        }
        return FileOutcome(Int(cr_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)))
    }

    private static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private func space(_ directory: FileHandle) -> FileOutcome {
        var status = statvfs()
        guard fstatvfs(directory, &status) == 0 else { return FileOutcome(-Int(errno)) }
        // File systems without a fixed table of inodes (btrfs) say 0 of 0.
        let inodes = status.f_files == 0 ? Int.max : Int(clamping: status.f_favail)
        let (bytes, isMore) = UInt64(status.f_bavail).multipliedReportingOverflow(by: UInt64(status.f_frsize))
        return FileOutcome(isMore ? Int.max : Int(clamping: bytes), second: inodes)
    }

    private func identity(_ directory: FileHandle) -> FileOutcome {
        var status = stat()
        guard fstat(directory, &status) == 0 else { return FileOutcome(-Int(errno)) }
        // Some network file systems use all 64 bits of an inode's number.
        return FileOutcome(Int(clamping: status.st_dev), second: Int(bitPattern: UInt(status.st_ino)))
    }
}
