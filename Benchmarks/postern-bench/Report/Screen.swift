import FoundationEssentials
import Glibc
import Synchronization

/// Text for people and programs.
enum Screen {
    static func write(_ text: String, to descriptor: Int32 = STDOUT_FILENO) { write(Array(text.utf8), to: descriptor) }

    static func write(_ bytes: [UInt8], to descriptor: Int32) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    static func complain(_ sentence: String) { write("postern-bench: \(sentence)\n", to: STDERR_FILENO) }

    static func json(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if isatty(STDOUT_FILENO) == 1 { encoder.outputFormatting.insert(.prettyPrinted) }
        return Array(try encoder.encode(value)) + [UInt8(ascii: "\n")]
    }

    /// With commas: 1,234,567.
    static func count(_ number: Int) -> String {
        var text = ""
        for (index, digit) in String(abs(number)).reversed().enumerated() {
            if index > 0, index % 3 == 0 { text.append(",") }
            text.append(digit)
        }
        return (number < 0 ? "-" : "") + String(text.reversed())
    }

    static func decimal(_ number: Double, _ digits: Int = 1) -> String {
        guard number.isFinite else { return "-" }
        var scale = 1
        for _ in 0..<digits { scale *= 10 }
        let scaled = Int((number * Double(scale)).rounded())
        let whole = abs(scaled) / scale
        let part = String(abs(scaled) % scale)
        let sign = scaled < 0 ? "-" : ""
        return digits == 0
            ? sign + count(whole)
            : sign + count(whole) + "." + String(repeating: "0", count: digits - part.count) + part
    }

    /// A latency with a unit that fits.
    static func latency(_ microseconds: Int?) -> String {
        guard let microseconds else { return "-" }
        switch microseconds {
        case ..<1000: return "\(microseconds) µs"
        case ..<1_000_000: return decimal(Double(microseconds) / 1000, microseconds < 100_000 ? 2 : 0) + " ms"
        default: return decimal(Double(microseconds) / 1e6, 2) + " s"
        }
    }
}

/// By itself, because a signal handler captures nothing.
private let interruptSeen = Atomic<Bool>(false)

/// Whether Ctrl-C or SIGTERM has been received.
enum Interrupt {
    static var isSeen: Bool { interruptSeen.load(ordering: .relaxed) }

    /// From now on these end the run and not the program; the second time they end the program.
    static func watch() {
        for number in [SIGINT, SIGTERM] {
            signal(number) { number in
                interruptSeen.store(true, ordering: .relaxed)
                signal(number, SIG_DFL)
            }
        }
        signal(SIGPIPE, SIG_IGN)
    }
}

/// A bar on the terminal's last line, when there is one.
struct Progress {
    private let isShown: Bool
    private var shownAt: UInt64 = 0
    private var before: (count: Int, at: UInt64) = (0, 0)

    init(wanted: Bool) { isShown = wanted && isatty(STDERR_FILENO) == 1 }

    /// - Parameters:
    ///   - share: 0 to 1; nil: unknown.
    ///   - what: the unit of `count`.
    mutating func show(share: Double?, count: Int, _ what: String, now: UInt64) {
        guard isShown, now > shownAt + 100_000_000 else { return }
        let rate = before.at > 0 ? Double(count - before.count) * 1e9 / Double(now - before.at) : 0
        if now > before.at + 1_000_000_000 { before = (count, now) }
        shownAt = now
        let width = 30
        var bar = ""
        if let share {
            let filled = Int(Double(width) * min(max(share, 0), 1))
            bar =
                "[" + String(repeating: "█", count: filled) + String(repeating: "·", count: width - filled)
                + "] \(Int(share * 100)) %  "
        }
        Screen.write("\r\u{1B}[K\(bar)\(Screen.count(count)) \(what), \(Screen.count(Int(rate)))/s", to: STDERR_FILENO)
    }

    func end() { if isShown { Screen.write("\r\u{1B}[K", to: STDERR_FILENO) } }
}
