import Glibc

/// A process of our own that says one line when it is ready, and ends with us.
final class ChildProcess {
    let pid: pid_t
    /// What it said.
    let line: String

    /// Runs this program with other arguments.
    init(_ arguments: [String]) throws(BenchFault) {
        var pipes: (Int32, Int32) = (0, 0)
        let made = withUnsafeMutablePointer(to: &pipes) {
            $0.withMemoryRebound(to: Int32.self, capacity: 2) { pipe($0) }
        }
        // Before any other thread could start a process.
        _ = fcntl(pipes.0, F_SETFD, FD_CLOEXEC)
        _ = fcntl(pipes.1, F_SETFD, FD_CLOEXEC)
        guard made == 0 else { throw BenchFault("pipe: \(String(cString: strerror(errno)))") }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, pipes.1, STDOUT_FILENO)
        var words = cStrings(["postern-bench"] + arguments)
        var child: pid_t = 0
        let status = posix_spawn(&child, "/proc/self/exe", &actions, nil, &words, environ)
        posix_spawn_file_actions_destroy(&actions)
        for word in words { free(word) }
        close(pipes.1)
        defer { close(pipes.0) }
        guard status == 0 else {
            throw BenchFault("can't start a second process: \(String(cString: strerror(status)))")
        }
        pid = child
        var bytes: [UInt8] = []
        var byte: UInt8 = 0
        while read(pipes.0, &byte, 1) == 1, byte != UInt8(ascii: "\n") { bytes.append(byte) }
        line = String(decoding: bytes, as: UTF8.self)
        guard !line.isEmpty else {
            end()
            throw BenchFault("the second process ended before it was ready")
        }
    }

    func end() {
        kill(pid, SIGKILL)
        var status: Int32 = 0
        waitpid(pid, &status, 0)
    }
}

/// A shell command in the background.
struct ShellCommand {
    private let pid: pid_t

    init(_ command: String) throws(BenchFault) {
        var words = cStrings(["sh", "-c", command])
        // Its output is the operator's business, and must not get between our JSON.
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO)
        var child: pid_t = 0
        let status = posix_spawn(&child, "/bin/sh", &actions, nil, &words, environ)
        posix_spawn_file_actions_destroy(&actions)
        for word in words { free(word) }
        guard status == 0 else { throw BenchFault("can't start `\(command)`: \(String(cString: strerror(status)))") }
        pid = child
    }

    /// Its exit status; 128 and the number of a signal.
    func wait() -> Int {
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        return status & 0x7F == 0 ? Int(status >> 8 & 0xFF) : 128 + Int(status & 0x7F)
    }
}

/// As `execve` takes them; each to be freed.
private func cStrings(_ texts: [String]) -> [UnsafeMutablePointer<CChar>?] {
    var words: [UnsafeMutablePointer<CChar>?] = texts.map { text in strdup(text) }
    words.append(nil)
    return words
}
