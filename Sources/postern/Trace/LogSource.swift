import Glibc

/// Where the lines of the mail log come from: files, oldest first, or systemd's journal.
enum LogSource {
    case files([String])
    case journal

    /// Of one line; what is longer is no line of ours.
    private static let lineMaxBytes = 64 << 10

    /// What the configuration writes to: its file, behind the one that was rotated last; without one, the journal.
    init(file: String?) {
        guard let file else {
            self = .journal
            return
        }
        self = .files([file + ".1", file].filter { access($0, F_OK) == 0 || $0 == file })
    }

    /// Gives each line that contains one of `needles` to `body`; all lines when there are none.
    ///
    /// - Throws: one sentence that names the file, or journalctl.
    func forEachLine(containing needles: [String], _ body: (LogLine) -> Void) throws(TraceFault) {
        switch self {
        case .files(let paths):
            for path in paths {
                guard let file = fopen(path, "re") else {
                    throw TraceFault("\(path): it cannot be read: \(String(cString: strerror(errno)))")
                }
                defer { fclose(file) }
                try Self.lines(of: file, path, needles, body)
            }
        case .journal:
            guard let output = popen("exec journalctl --unit=postern --output=cat --no-pager --quiet", "re") else {
                throw TraceFault("journalctl cannot be started: \(String(cString: strerror(errno)))")
            }
            do throws(TraceFault) {
                try Self.lines(of: output, "journalctl", needles, body)
            } catch {
                pclose(output)
                throw error
            }
            guard pclose(output) == 0 else {
                throw TraceFault("the journal cannot be read, and `log.file` is not set; name the log with --log FILE")
            }
        }
    }

    private static func lines(
        of file: UnsafeMutablePointer<FILE>, _ name: String, _ needles: [String], _ body: (LogLine) -> Void
    ) throws(TraceFault) {
        var buffer: UnsafeMutablePointer<CChar>?
        var size = 0
        defer { free(buffer) }
        while true {
            errno = 0
            let count = getline(&buffer, &size, file)
            guard count > 0, let buffer else { break }
            guard count <= lineMaxBytes else { continue }
            // A line has no zero byte: none of its values is written as it came.
            guard needles.isEmpty || needles.contains(where: { strstr(buffer, $0) != nil }) else { continue }
            let bytes = UnsafeRawBufferPointer(start: buffer, count: count)
            let isEnded = bytes.last == UInt8(ascii: "\n")
            if let line = LogLine(Array(bytes.prefix(isEnded ? count - 1 : count))) { body(line) }
        }
        guard ferror(file) == 0 else {
            throw TraceFault("\(name): it cannot be read: \(String(cString: strerror(errno)))")
        }
    }
}

/// Why the log can't be read, as one sentence.
struct TraceFault: Error {
    let sentence: String
    init(_ sentence: String) { self.sentence = sentence }
}
