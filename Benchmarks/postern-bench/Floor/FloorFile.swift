import CReactor
import Glibc
import Reactor
import Synchronization

/// A file of fixed size, written once from end to end, that is then written over and over: no write of it changes metadata.
final class FloorFile: @unchecked Sendable {
    let handle: Int32
    let bytes: Int
    private var at = 0

    /// - Throws: what the file system said. The file is unlinked at once: it goes with its descriptor.
    init(folder: String, bytes: Int) throws(BenchFault) {
        let path = "\(folder)/postern-bench.\(getpid())"
        handle = cr_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        self.bytes = bytes
        guard handle >= 0 else {
            throw BenchFault(
                "\(path) can't be made: \(String(cString: strerror(-handle))); choose a folder of the server's file system with `--folder`"
            )
        }
        unlink(path)
        let piece = [UInt8](repeating: 1, count: 1 << 20)
        posix_fallocate(handle, 0, bytes)
        for offset in stride(from: 0, to: bytes, by: piece.count) {
            guard pwrite(handle, piece, min(piece.count, bytes - offset), offset) > 0 else {
                let why = String(cString: strerror(errno))
                close(handle)
                throw BenchFault("\(path): \(why)")
            }
        }
        fsync(handle)
    }

    deinit { close(handle) }

    /// Appends all vectors, going round at the end, and syncs.
    ///
    /// - Returns: 0 or an errno.
    func commit(_ vectors: UnsafeMutableBufferPointer<iovec>) -> Int32 {
        let total = vectors.reduce(0) { $0 + $1.iov_len }
        if at + total > bytes { at = 0 }
        var index = 0
        while index < vectors.count {
            let count = min(vectors.count - index, 1024)
            let length = vectors[index..<index + count].reduce(0) { $0 + $1.iov_len }
            let written = pwritev(handle, vectors.baseAddress! + index, Int32(count), at)
            guard written == length else { return written < 0 ? errno : EIO }
            at += length
            index += count
        }
        return fdatasync(handle) == 0 ? 0 : errno
    }
}

/// Commits batches on a thread of its own: while one is synced, the next gathers.
final class FloorLane: @unchecked Sendable {
    static let batchMax = 4096
    private let file: FloorFile
    /// Rung when a batch is there, and when it is done. The batch belongs to who was rung.
    private let wanted: Int32
    let done: Int32
    let vectors = UnsafeMutableBufferPointer<iovec>.allocate(capacity: FloorLane.batchMax)
    private var count = 0
    private(set) var status: Int32 = 0

    init(_ file: FloorFile) {
        self.file = file
        wanted = eventfd(0, Int32(EFD_CLOEXEC))
        done = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
        _ = Thread.start("floor-sync") { [self] in
            var value: UInt64 = 0
            while read(wanted, &value, 8) == 8, count > 0 {
                status = file.commit(UnsafeMutableBufferPointer(rebasing: vectors[..<count]))
                var one: UInt64 = 1
                _ = write(done, &one, 8)
            }
        }
    }

    /// Hands the first `count` vectors over.
    func commit(_ count: Int) {
        self.count = count
        var one: UInt64 = 1
        _ = write(wanted, &one, 8)
    }
}
