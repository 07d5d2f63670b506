import CReactor
import Glibc

/// The Unix socket that control clients and the server meet on.
enum ControlSocket {
    /// A nonblocking socket, closed on exec.
    static func make() throws(ControlFault) -> Int32 {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor = socket(AF_UNIX, type, 0)
        guard descriptor >= 0 else { throw fault("no socket", errno) }
        return descriptor
    }

    /// Runs `body`, a `bind` or `connect`, with the address of `path`.
    ///
    /// A path beyond what an address holds (107 bytes) goes by way of its folder's descriptor.
    static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(ControlFault) -> (status: Int32, fault: Int32) {
        var address = sockaddr_un()
        let capacity = MemoryLayout.size(ofValue: address.sun_path) - 1
        var name = path
        var folder: Int32 = -1
        defer { if folder >= 0 { close(folder) } }
        if name.utf8.count > capacity, let slash = path.lastIndex(of: "/") {
            folder = open(slash == path.startIndex ? "/" : String(path[..<slash]), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            guard folder >= 0 else { return (-1, errno) }
            name = "/proc/self/fd/\(folder)/\(path[path.index(after: slash)...])"
        }
        guard name.utf8.count <= capacity, !name.utf8.contains(0) else {
            throw ControlFault(.failed, "\(path): the name of the control socket is too long")
        }
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name.utf8) }
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        return (status, status < 0 ? errno : 0)
    }

    /// Where the first line feed at or behind `start` is.
    static func lineEnd(_ bytes: [UInt8], from start: Int) -> Int? {
        bytes.withUnsafeBytes { buffer in
            guard start < buffer.count, let base = buffer.baseAddress,
                let found = memchr(base + start, Int32(UInt8(ascii: "\n")), buffer.count - start)
            else { return nil }
            return UnsafeRawPointer(found) - base
        }
    }

    static func fault(_ what: String, _ number: Int32) -> ControlFault {
        ControlFault(.failed, "\(what): \(String(cString: strerror(number)))")
    }

    /// Milliseconds that only grow.
    static func now() -> Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
    }
}
