/// Finds the structure of a message while its bytes stream by: one pass, linear in the bytes, memory bounded by ``Limits``
/// whatever the message is (T-A10). It keeps header values and the beginning of a line, never content.
///
/// ```text
/// header ─ empty line ─▶ leaf: body │ multipart: preamble ─ "--b" ─▶ header of a part … "--b--" ▶ epilogue
///                                   │ message: header of the message in it
/// ```
///
/// A delimiter of an outer multipart ends all that is open within. Of several that fit a line, the longest counts. A header
/// section ends behind an empty line, or *before* the first line that is neither a field nor the continuation of one,
/// as in ``HeaderScanner``. A bare LF ends a line here, too: content is what it is.
public struct MIMEScanner: Sendable {
    public struct Limits: Sendable {
        /// Delimiters beyond are taken for content of the last part.
        public var partsMax = 1_000
        /// Parts within parts; what is deeper is a leaf, `application/octet-stream`.
        public var depthMax = 32
        /// A longer boundary makes a leaf of its multipart. RFC 2046 §5.1.1 has 70 at most.
        public var boundaryMaxBytes = 512
        /// Of one header value, unfolded.
        public var valueMaxBytes = 64 << 10
        /// Of all values of the message.
        public var textMaxBytes = 256 << 10

        public init() {}
    }

    /// All that was asked for is known: further bytes are ignored.
    public private(set) var isDone = false

    private struct Open: Sendable {
        let part: Int
        var mode = Mode.header
        var isMessage: Bool
        /// With the two hyphens in front. Empty: it has no parts, or no more.
        var delimiter: [UInt8] = []
        /// LFs before its body.
        var linesBefore = 0
    }

    private enum Mode: Sendable { case header, body, enclosing }

    private enum Gathering: Sendable { case undecided, kept, skipped }

    private let limits: Limits
    private let isHeaderOnly: Bool
    private var structure: MIMEStructure
    private var open: [Open]
    private var hasDelimiters = false
    private var textBytes = 0

    private var position = 0
    private var lineStart = 0
    private var lineFeeds = 0
    /// The line's first bytes, as far as they may matter.
    private var line: [UInt8] = []
    private var gathering = Gathering.undecided
    private var lastByte: UInt8 = 0
    /// Of the line before: 2 for CRLF, 1 for LF.
    private var lastEnding = 0

    private var field: MIMEField?
    private var value: [UInt8] = []
    private var hasField = false

    /// - `headerOnly`: the scan is done at the end of the message's header section.
    public init(headerOnly: Bool = false, limits: Limits = Limits()) {
        self.limits = limits
        isHeaderOnly = headerOnly
        structure = MIMEStructure(parts: [MIMEStructure.Part(headerAt: 0)])
        open = [Open(part: 0, isMessage: true)]
    }

    /// Takes the next bytes of the message, however it was cut.
    public mutating func received(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        let first = position
        var at = 0
        while at < bytes.count, !isDone {
            if gathering == .undecided {
                let isOfInterest = open[open.count - 1].mode == .header || (hasDelimiters && bytes[at] == hyphen)
                gathering = isOfInterest ? .kept : .skipped
            }
            let end = ByteSearch.lineFeed(base, at, bytes.count)
            if gathering == .kept {
                let room = limits.valueMaxBytes + limits.boundaryMaxBytes - line.count
                let kept = min(end - at, room)
                line.append(contentsOf: UnsafeRawBufferPointer(start: base + at, count: kept))
                if kept < end - at, open[open.count - 1].mode == .header { structure.isIncomplete = true }
            }
            if end > at { lastByte = bytes[end - 1] }
            at = end
            if at < bytes.count {
                at += 1
                endLine(ending: lastByte == UInt8(ascii: "\r") ? 2 : 1, until: first + at)
            }
        }
        position = first + at
    }

    /// The message is over.
    public mutating func finish() -> MIMEStructure {
        if !isDone {
            if position > lineStart, gathering == .kept { takeLine(ending: 0, until: position) }
            if !isDone { close(downTo: 0, at: position, lineFeeds: lineFeeds) }
            isDone = true
        }
        return structure
    }
}

private let hyphen = UInt8(ascii: "-")

// MARK: - Lines

extension MIMEScanner {
    private mutating func endLine(ending: Int, until end: Int) {
        // The CR is not of the text; where the line was too long for it to be kept, it doesn't matter.
        if ending == 2, gathering == .kept, line.last == UInt8(ascii: "\r") { line.removeLast() }
        if gathering == .kept { takeLine(ending: ending, until: end) }
        lineFeeds += 1
        line.removeAll(keepingCapacity: true)
        gathering = .undecided
        lastByte = 0
        lastEnding = ending
        lineStart = end
    }

    private mutating func takeLine(ending: Int, until end: Int) {
        if hasDelimiters, line.first == hyphen, takeDelimiter(until: end) { return }
        if open[open.count - 1].mode == .header { takeHeaderLine(ending: ending, until: end) }
    }

    /// True if the line is a delimiter.
    private mutating func takeDelimiter(until end: Int) -> Bool {
        var best: Int?
        for index in open.indices.reversed() {
            let delimiter = open[index].delimiter
            guard !delimiter.isEmpty, delimiter.count > best.map({ open[$0].delimiter.count }) ?? 0,
                line.starts(with: delimiter)
            else { continue }
            best = index
        }
        guard let index = best else { return false }
        let rest = line[open[index].delimiter.count...]
        let isClosing = rest.starts(with: [hyphen, hyphen])
        guard isClosing || structure.parts.count < limits.partsMax else {
            structure.isIncomplete = true
            return false
        }
        endField()
        close(downTo: index + 1, at: lineStart, lineFeeds: lineFeeds)
        if isClosing {
            open[index].delimiter = []
            open[index].mode = .body
            hasDelimiters = open.contains { !$0.delimiter.isEmpty }
        } else {
            begin(within: index, at: end, isMessage: false)
        }
        return true
    }

    private mutating func begin(within index: Int, at position: Int, isMessage: Bool) {
        let part = structure.parts.count
        structure.parts.append(MIMEStructure.Part(headerAt: position))
        structure.parts[open[index].part].children.append(part)
        open.append(Open(part: part, isMessage: isMessage))
        hasField = false
    }

    /// Ends what is open from `index` on, before the line that begins at `position`, or at the end of the message.
    private mutating func close(downTo index: Int, at position: Int, lineFeeds: Int) {
        while open.count > index, let last = open.last {
            if last.mode == .header {
                endField()
                setHeader(end: position)
                describe()
                if structure.parts[last.part].kind == .message, !isHeaderOnly {
                    open[open.count - 1].mode = .enclosing
                    open[open.count - 1].linesBefore = lineFeeds
                    begin(within: open.count - 1, at: position, isMessage: true)
                    continue
                }
            } else {
                let start = structure.parts[last.part].body.lowerBound
                // The line end in front of a delimiter is the delimiter's (RFC 2046 §5.1.1).
                let isBeforeDelimiter = index > 0 && position > start
                let end = isBeforeDelimiter ? max(start, position - lastEnding) : position
                structure.parts[last.part].body = start..<end
                structure.parts[last.part].bodyLines =
                    max(0, lineFeeds - last.linesBefore - (isBeforeDelimiter ? 1 : 0))
            }
            open.removeLast()
        }
        hasDelimiters = open.contains { !$0.delimiter.isEmpty }
    }
}

// MARK: - Header sections

extension MIMEScanner {
    private mutating func takeHeaderLine(ending: Int, until end: Int) {
        if line.isEmpty, ending > 0 {
            endField()
            return enterBody(at: end, lineFeedsBefore: lineFeeds + 1)
        }
        if line.first == UInt8(ascii: " ") || line.first == UInt8(ascii: "\t") {
            guard hasField else { return enterBodyWithLine(until: end) }
            if field != nil { append(line[...]) }
            return
        }
        endField()
        let name = line.prefix { $0 > 32 && $0 < 127 && $0 != UInt8(ascii: ":") }
        let rest = line[name.endIndex...].drop { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
        guard !name.isEmpty, rest.first == UInt8(ascii: ":") else {
            return enterBodyWithLine(until: end)
        }
        hasField = true
        let last = open[open.count - 1]
        guard let named = MIMEField(name: name), named.isOfParts || last.isMessage,
            structure.parts[last.part].value(of: named) == nil
        else { return }
        field = named
        append(rest.dropFirst())
    }

    private mutating func append(_ bytes: ArraySlice<UInt8>) {
        let room = min(limits.valueMaxBytes, limits.textMaxBytes - textBytes) - value.count
        if bytes.count > room { structure.isIncomplete = true }
        value.append(contentsOf: bytes.prefix(max(0, room)))
    }

    private mutating func endField() {
        guard let field else { return }
        self.field = nil
        let kept = value.trimmed
        value = []
        textBytes += kept.count
        structure.parts[open[open.count - 1].part].fields.append((field, kept))
    }

    /// The line is the body's first one, and may be more than that.
    private mutating func enterBodyWithLine(until end: Int) {
        enterBody(at: lineStart, lineFeedsBefore: lineFeeds)
        if isDone { return }
        if hasDelimiters, line.first == hyphen, takeDelimiter(until: end) { return }
        if open[open.count - 1].mode == .header { takeHeaderLine(ending: 2, until: end) }
    }

    /// The header section has ended in front of `position`.
    private mutating func enterBody(at position: Int, lineFeedsBefore: Int) {
        let index = open.count - 1
        setHeader(end: position)
        open[index].linesBefore = lineFeedsBefore
        open[index].mode = .body
        describe()
        if isHeaderOnly {
            isDone = true
            return
        }
        let part = structure.parts[open[index].part]
        switch part.kind {
        case .leaf: break
        case .multipart:
            open[index].delimiter = [hyphen, hyphen] + (part.type.parameter("boundary") ?? [])
            hasDelimiters = true
        case .message:
            open[index].mode = .enclosing
            begin(within: index, at: position, isMessage: true)
        }
    }

    private mutating func setHeader(end: Int) {
        let part = open[open.count - 1].part
        structure.parts[part].header = structure.parts[part].header.lowerBound..<end
        structure.parts[part].body = end..<end
    }

    /// Decides what the innermost part is, its header section being known.
    private mutating func describe() {
        let last = open[open.count - 1]
        let isInDigest =
            open.count > 1 && structure.parts[open[open.count - 2].part].kind == .multipart
            && asciiMatches(structure.parts[open[open.count - 2].part].type.subword, "digest")
        var type = MIMEHeaderValue(structure.parts[last.part].value(of: .contentType) ?? [])
        if type.word.isEmpty || type.subword.isEmpty {
            // RFC 2046 §5.1.5: within a digest another default than text/plain (RFC 2045 §5.2).
            let standard: StaticString = isInDigest && type.word.isEmpty ? "message/rfc822" : "text/plain"
            type = MIMEHeaderValue(
                Array(UnsafeBufferPointer(start: standard.utf8Start, count: standard.utf8CodeUnitCount)))
        }
        var kind = MIMEStructure.Kind.leaf
        let isMessage = asciiMatches(type.word, "message") && asciiMatches(type.subword, "rfc822")
        if asciiMatches(type.word, "multipart") || isMessage {
            let boundary = isMessage ? [] : type.parameter("boundary") ?? []
            let isReadable =
                isMessage
                // For the message in it, and for the part whose delimiter may end this header section.
                ? structure.parts.count + 1 < limits.partsMax
                : !boundary.isEmpty && boundary.count <= limits.boundaryMaxBytes
            if isReadable, open.count < limits.depthMax {
                kind = isMessage ? .message : .multipart
            } else {
                structure.isIncomplete = true
                type = MIMEHeaderValue(Array("application/octet-stream".utf8))
            }
        }
        structure.parts[last.part].kind = kind
        structure.parts[last.part].type = type
    }
}

extension [UInt8] {
    /// Without white space at both ends.
    var trimmed: [UInt8] {
        guard let first = firstIndex(where: { $0 > 32 }), let last = lastIndex(where: { $0 > 32 }) else { return [] }
        return Array(self[first...last])
    }
}

enum ByteSearch {
    /// The index of the first LF in `start..<end`, or `end`.
    @inline(__always)
    static func lineFeed(_ base: UnsafeRawPointer, _ start: Int, _ end: Int) -> Int {
        let ones: UInt64 = 0x0101_0101_0101_0101
        var at = start
        while end - at >= 8 {
            let word = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: at, as: UInt64.self)) ^ (ones &* 0x0a)
            // The lowest set bit is exact: borrows only reach bytes above a zero byte.
            let hits = (word &- ones) & ~word & (ones &* 0x80)
            if hits != 0 { return at + hits.trailingZeroBitCount / 8 }
            at += 8
        }
        while at < end, base.load(fromByteOffset: at, as: UInt8.self) != UInt8(ascii: "\n") { at += 1 }
        return at
    }
}
