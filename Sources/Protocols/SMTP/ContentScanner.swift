/// Finds the lines of message content as it streams by, and what is wrong with them.
///
/// It looks for four things in one pass: a CR or LF that is not part of a CRLF, the dots that DATA adds in front of
/// dots, the end of DATA (only CRLF "." CRLF, RFC 5321 §4.1.1.4), and lines of the content that begin with a dot. It
/// keeps no bytes: what it needs to know of the previous ones is `state`, so content may be cut anywhere, and lines
/// have any length.
public struct ContentScanner {
    /// How the content is framed on the wire.
    public enum Framing: Sendable {
        /// DATA: a dot in front of each line that begins with one, and a line of one dot at the end.
        case dots
        /// BDAT: the content itself.
        case verbatim
    }

    /// What ended a scan.
    public enum Stop: Hashable, Sendable {
        /// The end of the bytes given.
        case exhausted
        /// A dot that does not belong to the content was passed over; the content goes on behind it.
        case dot
        /// CRLF "." CRLF was passed over.
        case endOfData
        /// A CR without LF, or a LF without CR (the position is behind the byte that shows it).
        case bareLineEnding
    }

    private enum State {
        case lineStart, inLine, afterCR
        /// Behind the dot that begins a line of DATA.
        case afterDot
        /// Behind CRLF "." CR.
        case afterDotCR
    }

    private var state = State.lineStart
    /// Lines of the content, dots taken off, that begin with a dot.
    public private(set) var linesBeginningWithDot = 0

    public init() {}

    /// What was scanned so far is nothing or ends in CRLF.
    public var isAtLineStart: Bool { state == .lineStart }
    /// What was scanned so far ends in a CR.
    public var isAfterCR: Bool { state == .afterCR || state == .afterDotCR }

    /// Goes through `bytes` from `position` on and stops at the first thing to know.
    ///
    /// - Returns: why it stopped, and the content passed over.
    public mutating func scan(
        _ bytes: UnsafeRawBufferPointer, from position: inout Int, framing: Framing
    ) -> (stop: Stop, content: Range<Int>) {
        let start = position
        let count = bytes.count
        guard start < count, let base = bytes.baseAddress else { return (.exhausted, start..<start) }
        var at = start
        var state = state
        defer {
            self.state = state
            position = at
        }
        while at < count {
            let byte = base.load(fromByteOffset: at, as: UInt8.self)
            switch state {
            case .lineStart where byte == UInt8(ascii: "."):
                at += 1
                guard framing == .verbatim else {
                    state = .afterDot
                    return (.dot, start..<at - 1)
                }
                linesBeginningWithDot += 1
                state = .inLine
            case .lineStart, .inLine:
                guard byte != UInt8(ascii: "\n") else {
                    at += 1
                    return (.bareLineEnding, start..<at - 1)
                }
                state = byte == UInt8(ascii: "\r") ? .afterCR : .inLine
                at += 1
            case .afterCR:
                at += 1
                guard byte == UInt8(ascii: "\n") else { return (.bareLineEnding, start..<at - 1) }
                state = .lineStart
            case .afterDot:
                if byte == UInt8(ascii: "\r") {
                    at += 1
                    state = .afterDotCR
                    continue
                }
                if byte == UInt8(ascii: ".") { linesBeginningWithDot += 1 }
                state = .inLine
                continue
            case .afterDotCR:
                at += 1
                guard byte == UInt8(ascii: "\n") else { return (.bareLineEnding, start..<start) }
                state = .lineStart
                return (.endOfData, start..<start)
            }
            // From here on the byte before `at` is one of the content; the wide loop looks at it and those behind it.
            let plain = Self.plainEnd(base, from: at - 1, to: count)
            guard plain > at else { continue }
            at = plain
            switch base.load(fromByteOffset: at - 1, as: UInt8.self) {
            case UInt8(ascii: "\n"): state = .lineStart
            case UInt8(ascii: "\r"): state = .afterCR
            default: state = .inLine
            }
        }
        // Behind ".\r" at a line's start there is no content yet.
        return (.exhausted, state == .afterDotCR ? start..<start : start..<at)
    }

    /// Goes on from the byte at `start`, whose predecessors are known, while each CR has its LF, each LF its CR and
    /// no line begins with a dot.
    ///
    /// - Returns: where to go on by single bytes; that byte is known to fit to its predecessor.
    @inline(__always)
    private static func plainEnd(_ base: UnsafeRawPointer, from start: Int, to count: Int) -> Int {
        typealias Lanes = SIMD32<UInt8>
        var at = start
        // Compares each byte with its successor, hence one byte more than the lanes.
        while at + Lanes.scalarCount < count {
            let these = base.loadUnaligned(fromByteOffset: at, as: Lanes.self)
            let following = base.loadUnaligned(fromByteOffset: at + 1, as: Lanes.self)
            let isLF = these .== Lanes(repeating: UInt8(ascii: "\n"))
            let isCR = these .== Lanes(repeating: UInt8(ascii: "\r"))
            let precedesLF = following .== Lanes(repeating: UInt8(ascii: "\n"))
            let precedesDot = following .== Lanes(repeating: UInt8(ascii: "."))
            let special = (isCR .^ precedesLF) .| (isLF .& precedesDot)
            let words = unsafeBitCast(special, to: SIMD4<UInt64>.self)
            for word in 0..<words.scalarCount where words[word] != 0 {
                return at + word * 8 + words[word].trailingZeroBitCount / 8 + 1
            }
            at += Lanes.scalarCount
        }
        return at + 1
    }
}
