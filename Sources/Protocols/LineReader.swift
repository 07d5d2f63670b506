/// Cuts command lines out of what a peer sent. It knows CRLF and limits, and nothing of what a line says.
struct LineReader {
    enum Line: Equatable {
        case needMore
        /// Where in `input` the text stands, CRLF not included.
        case text(Range<Int>)
        /// The end of a line longer than `lineMaxBytes` has come; it was dropped.
        case tooLong
        /// A line that ends in LF alone (RFC 5321 §2.3.8). Hang up.
        case bareLineFeed
        /// A line longer than `overlongMaxBytes`. Hang up.
        case endless
    }

    /// Bytes of a line that are skipped to find its end.
    static let overlongMaxBytes = 64 << 10

    /// Bytes that were looked at and not consumed: each is looked at once.
    private var seen = 0
    /// Bytes of the over-long line under way.
    private var skipped: Int?

    /// Consumes the line that begins at `consumed`, or what is there of one that is too long. `lineMaxBytes`: with CRLF.
    mutating func next(_ input: UnsafeRawBufferPointer, consumed: inout Int, lineMaxBytes: Int) -> Line {
        if skipped == nil {
            let end = min(input.count, consumed + lineMaxBytes)
            var at = min(consumed + seen, end)
            while at < end, input[at] != UInt8(ascii: "\n") { at += 1 }
            if at < end {
                let start = consumed
                seen = 0
                consumed = at + 1
                guard at > start, input[at - 1] == UInt8(ascii: "\r") else { return .bareLineFeed }
                return .text(start..<at - 1)
            }
            guard input.count - consumed >= lineMaxBytes else {
                seen = at - consumed
                return .needMore
            }
            (seen, skipped) = (0, 0)
        }
        var at = consumed
        while at < input.count, input[at] != UInt8(ascii: "\n") { at += 1 }
        let hasEnd = at < input.count
        let count = skipped! + (hasEnd ? at + 1 : at) - consumed
        consumed = hasEnd ? at + 1 : at
        skipped = hasEnd ? nil : count
        guard count <= Self.overlongMaxBytes else { return .endless }
        return hasEnd ? .tooLong : .needMore
    }
}
