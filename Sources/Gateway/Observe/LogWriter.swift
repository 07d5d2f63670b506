import Glibc
import Protocols
import Reactor

/// Takes whole log lines from any thread and writes them from one of its own, so that no reactor waits for a slow disk.
///
/// Lines wait at most `pauseMilliseconds`; at most `waitingMaxBytes` may wait, further ones are counted and named in a line
/// of their own. SIGHUP reopens the file.
public final class LogWriter: Sendable {
    private struct State {
        var waiting: [UInt8] = []
        var dropped = 0
        var isClosed = false
        var reopens = false
    }
    private let state = Locked(State())
    private let path: String?
    private let handle = Locked<Thread.Handle?>(nil)
    private static let pauseMilliseconds: UInt32 = 20
    private static let waitingMaxBytes = 16 << 20

    /// - Parameter path: nil: standard error.
    /// - Throws: a sentence, when the file can't be opened.
    public init(path: String?) throws(LogFault) {
        self.path = path
        let first = try Self.open(path)
        let made = Thread.start("log") { [self] in run(first) }
        handle.withLock { $0 = made }
    }

    /// The log file can't be opened.
    public struct LogFault: Error, CustomStringConvertible {
        public let description: String
    }

    private static func open(_ path: String?) throws(LogFault) -> Int32 {
        guard let path else { return STDERR_FILENO }
        let file = Glibc.open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o640)
        guard file >= 0 else {
            throw LogFault(description: "the log file `\(path)` can't be opened: \(String(cString: strerror(errno)))")
        }
        return file
    }

    /// Lines with their line feeds.
    public func write(_ lines: [UInt8]) {
        state.withLock {
            if $0.waiting.count + lines.count > Self.waitingMaxBytes {
                $0.dropped += 1
            } else {
                $0.waiting.append(contentsOf: lines)
            }
        }
    }

    /// Opens the file anew (after rotation).
    /// A line of the process itself, with the time in front.
    func note(_ text: String) {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        var line = ByteOutput()
        MailDate.writeISO8601(
            unixMilliseconds: Int64(now.tv_sec) * 1_000 + Int64(now.tv_nsec) / 1_000_000, into: &line)
        line.append(text: " \(text)\n")
        write(line.array)
    }

    public func reopen() { state.withLock { $0.reopens = true } }

    /// Writes what waits, and ends.
    public func shutDown() {
        state.withLock { $0.isClosed = true }
        let made = handle.withLock { $0.take() }
        made?.join()
    }

    private func run(_ first: Int32) {
        var file = first
        while true {
            var (lines, dropped, isClosed, reopens): ([UInt8], Int, Bool, Bool) = state.withLock { state in
                let taken = (state.waiting, state.dropped, state.isClosed, state.reopens)
                state.waiting = []
                state.dropped = 0
                state.reopens = false
                return taken
            }
            if reopens, let path, let fresh = try? Self.open(path) {
                close(file)
                file = fresh
            }
            if dropped > 0 { lines += Array("level=warning event=log-overflow batches-dropped=\(dropped)\n".utf8) }
            var done = 0
            while done < lines.count {
                let written = lines.withUnsafeBytes { Glibc.write(file, $0.baseAddress! + done, lines.count - done) }
                if written < 0, errno == EINTR { continue }
                // A full disk or a closed terminal: the log is not worth the mail's life.
                guard written > 0 else { break }
                done += written
            }
            if isClosed, lines.isEmpty { return }
            isClosed = false
            usleep(Self.pauseMilliseconds * 1_000)
        }
    }
}
