/// Cuts a server's replies (RFC 5321 §4.2) out of the input, line by line; it holds no part of a line.
///
/// ```abnf
/// Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
/// ```
///
/// Only CRLF ends a line (RFC 5321 §2.3.8). A bare LF is a fault, not a line's end: a server that quotes a line of a
/// message in its refusal could otherwise be made to seem to answer twice, and the second answer would count for
/// another message.
public struct SMTPReplyParser: ~Copyable {
    /// What a reply may be.
    public enum Limits {
        /// With CRLF; RFC 5321 §4.5.3.1.5 has 512.
        public static let lineMaxBytes = 2048
        /// Lines of one reply.
        public static let linesMax = 100
        /// Lines of one reply together, with codes and CRLF.
        public static let replyMaxBytes = 16_384
    }

    /// What was wrong with a reply. The conversation cannot go on after one.
    public enum Fault: Hashable, Sendable {
        /// No code of 200...599, or neither space, hyphen nor end behind it.
        case notAReply
        case bareLineFeed
        case lineTooLong
        case replyTooLong
        /// The lines of one reply have different codes (RFC 5321 §4.2.1).
        case codesDiffer
    }

    /// What `next` found.
    public enum Step: Hashable, Sendable {
        case needMore
        /// One line; `text` are its bytes in the input, behind the code. After `isLast`, `reply` makes the whole.
        case line(code: Int, text: Range<Int>, isFirst: Bool, isLast: Bool)
        case fault(Fault)
    }

    /// Of the reply under way; 0 between replies.
    private var code = 0
    private var lines = 0
    private var replyBytes = 0
    private var isComplete = false
    private var status: EnhancedStatus?
    /// The lines before the last, joined.
    private var earlierText: [UInt8] = []

    /// Before a reply's first line.
    public init() {}

    /// The next line. `consumed` is where to begin in `input`, and moves behind the line.
    public mutating func next(_ input: UnsafeRawBufferPointer, consumed: inout Int) -> Step {
        if isComplete { reset() }
        let start = consumed
        let end = min(input.count, start + Limits.lineMaxBytes)
        var lineFeed = start
        while lineFeed < end, input[lineFeed] != UInt8(ascii: "\n") { lineFeed += 1 }
        guard lineFeed < end else { return end - start == Limits.lineMaxBytes ? .fault(.lineTooLong) : .needMore }
        guard lineFeed > start, input[lineFeed - 1] == UInt8(ascii: "\r") else { return .fault(.bareLineFeed) }
        let textEnd = lineFeed - 1
        guard textEnd - start >= 3, let lineCode = Self.code(input[start], input[start + 1], input[start + 2]) else {
            return .fault(.notAReply)
        }
        let separator = textEnd - start == 3 ? UInt8(ascii: " ") : input[start + 3]
        guard separator == UInt8(ascii: " ") || separator == UInt8(ascii: "-") else { return .fault(.notAReply) }
        guard lines == 0 || lineCode == code else { return .fault(.codesDiffer) }
        code = lineCode
        lines += 1
        replyBytes += lineFeed + 1 - start
        guard lines <= Limits.linesMax, replyBytes <= Limits.replyMaxBytes else { return .fault(.replyTooLong) }

        consumed = lineFeed + 1
        let text = min(start + 4, textEnd)..<textEnd
        isComplete = separator == UInt8(ascii: " ")
        if !isComplete { keep(UnsafeRawBufferPointer(rebasing: input[text])) }
        return .line(code: lineCode, text: text, isFirst: lines == 1, isLast: isComplete)
    }

    /// The reply whose last line `next` has just returned.
    ///
    /// The enhanced status is read where its class is the code's first digit (RFC 2034 §4). Control and 8-bit bytes of
    /// the text become `?`, so that it is fit for logs and for a DSN.
    public func reply(_ input: UnsafeRawBufferPointer, lastText: Range<Int>) -> Reply {
        let line = UnsafeRawBufferPointer(rebasing: input[lastText])
        let (lineStatus, length) = Self.status(in: line, code: code)
        let rest = UnsafeRawBufferPointer(rebasing: line[length...])
        guard !earlierText.isEmpty else { return Reply(code, status ?? lineStatus, Self.printable(rest)) }
        let text = earlierText.withUnsafeBytes { Self.printable($0) } + (rest.isEmpty ? "" : " " + Self.printable(rest))
        return Reply(code, status ?? lineStatus, text)
    }

    private mutating func reset() {
        code = 0
        lines = 0
        replyBytes = 0
        isComplete = false
        status = nil
        earlierText.removeAll(keepingCapacity: true)
    }

    private mutating func keep(_ line: UnsafeRawBufferPointer) {
        let (lineStatus, length) = Self.status(in: line, code: code)
        if lines == 1 { status = lineStatus }
        guard length < line.count else { return }
        if !earlierText.isEmpty { earlierText.append(UInt8(ascii: " ")) }
        earlierText.append(contentsOf: line[length...])
    }

    private static func code(_ a: UInt8, _ b: UInt8, _ c: UInt8) -> Int? {
        let zero = UInt8(ascii: "0")
        let (first, second, third) = (a &- zero, b &- zero, c &- zero)
        guard (2...5).contains(first), second < 10, third < 10 else { return nil }
        return Int(first) * 100 + Int(second) * 10 + Int(third)
    }

    /// The status that `line` begins with, and its length with the space behind it.
    private static func status(in line: UnsafeRawBufferPointer, code: Int) -> (EnhancedStatus?, Int) {
        var parts = (0, 0, 0)
        var at = 0
        for part in 0..<3 {
            var value = 0
            let first = at
            while at < line.count, at - first < 3, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(line[at]) {
                value = value * 10 + Int(line[at] - UInt8(ascii: "0"))
                at += 1
            }
            guard at > first else { return (nil, 0) }
            switch part {
            case 0: parts.0 = value
            case 1: parts.1 = value
            default: parts.2 = value
            }
            if part < 2 {
                guard at < line.count, line[at] == UInt8(ascii: ".") else { return (nil, 0) }
                at += 1
            }
        }
        guard parts.0 == code / 100, at == line.count || line[at] == UInt8(ascii: " ") else { return (nil, 0) }
        return (EnhancedStatus(parts.0, parts.1, parts.2), min(at + 1, line.count))
    }

    private static func printable(_ bytes: UnsafeRawBufferPointer) -> String {
        String(unsafeUninitializedCapacity: bytes.count) { target in
            for (at, byte) in bytes.enumerated() {
                target[at] = (0x20...0x7e).contains(byte) ? byte : UInt8(ascii: "?")
            }
            return bytes.count
        }
    }
}
