/// Reads the header section of a message while its content streams by: finds where the body begins, once and for all
/// who ask, and notes what a gateway must know. Linear in the bytes, bounded by ``Limits``; the body costs nothing.
///
/// ```text
/// lineStart ─ name ─▶ name ─ ":" ─▶ value ─ LF ─▶ lineStart ─ empty line ─▶ body
/// ```
///
/// The body begins behind the first empty line, or *at* the first line that is neither a header field nor the
/// continuation of one (no empty line then). Only the bytes are looked at, never decoded.
public struct HeaderScanner: Sendable {
    public struct Limits: Sendable {
        /// Bytes of the header section, with its empty line.
        public var headerMaxBytes = 1 << 20
        public var fieldsMax = 10_000

        public init() {}
    }

    /// Which limit a header section went beyond. Scanning ends there; the owner refuses the message, or takes the
    /// rest as body.
    public enum OverLimit: Sendable, Equatable {
        case bytes
        case fields
    }

    /// Most values of the trace field that are kept, and the most bytes of each.
    public static let traceValuesMax = 8
    public static let traceValueMaxBytes = 256

    /// The header section has ended (or went beyond a limit): further bytes are ignored.
    public private(set) var isInBody = false
    /// Bytes before the empty line, or before the first line of the body if there is none; final in the body.
    public private(set) var headerBytes = 0
    /// Where the body begins; final in the body.
    public private(set) var bodyOffset = 0
    /// Header fields, continuation lines not counted.
    public private(set) var fieldCount = 0
    /// Lines of the header section, without the empty one.
    public private(set) var lineCount = 0
    /// `Received` fields: how many hosts the message has passed (RFC 5321 §6.3).
    public private(set) var receivedFieldCount = 0
    /// Fields with the trace field's name, of which the first ``traceValuesMax`` are in ``traceValues``.
    public private(set) var traceFieldCount = 0
    /// Their values, unfolded and trimmed, each cut off at ``traceValueMaxBytes``.
    public private(set) var traceValues: [[UInt8]] = []
    /// A Date field is there.
    public private(set) var hasDate = false
    /// A Message-ID field is there.
    public private(set) var hasMessageID = false
    /// Where in the content the first Message-ID's value is, without white space around it.
    public private(set) var messageIDRange: Range<Int>?
    /// `Auto-Submitted` is there and does not say `no` (RFC 3834 §5).
    public private(set) var isAutoSubmitted = false
    /// The limit that the header section went beyond; nil if it kept all.
    public private(set) var overLimit: OverLimit?
    /// A byte above 127 is in the header section.
    public var has8BitHeader: Bool { seenBits & Self.highBits != 0 }

    private enum Place: Sendable {
        case lineStart
        case lineStartCR
        case name
        /// White space between name and colon, which RFC 5322 §4.5 still lets in.
        case nameEnd
        case value
    }

    private enum Field: Sendable {
        case other
        case trace
        case messageID
        case autoSubmitted
    }

    private static let highBits: UInt64 = 0x8080_8080_8080_8080
    /// Longest name that is compared; longer ones are none of ours.
    private static let nameMaxBytes = 40

    private let limits: Limits
    private let traceName: StaticString
    private var place = Place.lineStart
    private var field = Field.other
    private var position = 0
    private var lineStartPosition = 0
    /// The field name so far, in lower case.
    private var name = InlineArray<40, UInt8>(repeating: 0)
    private var nameCount = 0
    private var seenBits: UInt64 = 0
    /// The first bytes of the value of Auto-Submitted, in lower case, without white space.
    private var autoSubmittedWord: [UInt8] = []
    private var isWordOver = false

    /// - Parameter traceFieldName: the field by which a gateway knows its own mail again; at most 40 bytes.
    public init(traceFieldName: StaticString = "", limits: Limits = Limits()) {
        precondition(traceFieldName.utf8CodeUnitCount <= Self.nameMaxBytes)
        traceName = traceFieldName
        self.limits = limits
    }

    /// Takes the next bytes of the raw content, however it was cut.
    @inline(__always)
    public mutating func received(_ bytes: UnsafeRawBufferPointer) {
        if !isInBody { scan(bytes) }
    }

    /// The content is over. A header section without an empty line ends here.
    public mutating func finish() {
        guard !isInBody else { return }
        switch place {
        case .lineStart: enterBody(headerEnd: position, bodyAt: position)
        case .value:
            lineCount += 1
            enterBody(headerEnd: position, bodyAt: position)
        case .name, .nameEnd, .lineStartCR: enterBody(headerEnd: lineStartPosition, bodyAt: lineStartPosition)
        }
    }
}

extension HeaderScanner {
    @inline(never)
    private mutating func scan(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        let first = position
        let end = min(bytes.count, limits.headerMaxBytes - first)
        var at = 0
        while at < end {
            let byte = base.load(fromByteOffset: at, as: UInt8.self)
            switch place {
            case .lineStart:
                lineStartPosition = first + at
                switch byte {
                case UInt8(ascii: "\r"):
                    place = .lineStartCR
                    at += 1
                case UInt8(ascii: "\n"):
                    return enterBody(headerEnd: lineStartPosition, bodyAt: lineStartPosition + 1)
                case UInt8(ascii: " "), UInt8(ascii: "\t"):
                    guard fieldCount > 0 else {
                        return enterBody(headerEnd: lineStartPosition, bodyAt: lineStartPosition)
                    }
                    place = .value
                default:
                    endField()
                    nameCount = 0
                    place = .name
                }
            case .lineStartCR:
                let isEmptyLine = byte == UInt8(ascii: "\n")
                return enterBody(
                    headerEnd: lineStartPosition, bodyAt: isEmptyLine ? first + at + 1 : lineStartPosition)
            case .name:
                at = scanName(base, at, end)
                if isInBody { return }
            case .nameEnd:
                switch byte {
                case UInt8(ascii: ":"):
                    beginValue()
                    if isInBody { return }
                case UInt8(ascii: " "), UInt8(ascii: "\t"): break
                default: return enterBody(headerEnd: lineStartPosition, bodyAt: lineStartPosition)
                }
                at += 1
            case .value:
                let lineFeed = Self.skipToLineFeed(base, at, end, &seenBits)
                if field != .other {
                    readValue(UnsafeRawBufferPointer(start: base + at, count: lineFeed - at), at: first + at)
                }
                at = lineFeed
                if at < end {
                    at += 1
                    lineCount += 1
                    place = .lineStart
                }
            }
        }
        position = first + end
        if end < bytes.count {
            overLimit = .bytes
            enterBody(headerEnd: position, bodyAt: position)
        }
    }

    /// Reads name bytes up to the colon; returns where to go on.
    @inline(__always)
    private mutating func scanName(_ base: UnsafeRawPointer, _ start: Int, _ end: Int) -> Int {
        var at = start
        while at < end {
            var byte = base.load(fromByteOffset: at, as: UInt8.self)
            at += 1
            switch byte {
            case UInt8(ascii: ":") where nameCount > 0:
                beginValue()
                return at
            case UInt8(ascii: " ") where nameCount > 0, UInt8(ascii: "\t") where nameCount > 0:
                place = .nameEnd
                return at
            case UInt8(ascii: ":"), 0...32, 127...255:
                enterBody(headerEnd: lineStartPosition, bodyAt: lineStartPosition)
                return at
            default:
                if byte &- UInt8(ascii: "A") < 26 { byte |= 0x20 }
                if nameCount < Self.nameMaxBytes { name[nameCount] = byte }
                nameCount += 1
            }
        }
        return at
    }

    private mutating func beginValue() {
        if fieldCount == limits.fieldsMax {
            overLimit = .fields
            return enterBody(headerEnd: lineStartPosition, bodyAt: lineStartPosition)
        }
        fieldCount += 1
        place = .value
        field = .other
        switch nameCount {
        case 4 where isName("date"): hasDate = true
        case 8 where isName("received"): receivedFieldCount += 1
        case 10 where isName("message-id"):
            if !hasMessageID { field = .messageID }
            hasMessageID = true
        case 14 where isName("auto-submitted"):
            field = .autoSubmitted
            autoSubmittedWord = []
            isWordOver = false
        default: break
        }
        if nameCount == traceName.utf8CodeUnitCount, isName(traceName) {
            traceFieldCount += 1
            if traceValues.count < Self.traceValuesMax {
                field = .trace
                traceValues.append([])
            }
        }
    }

    /// `nameCount` is the length of `text` already.
    private func isName(_ text: StaticString) -> Bool {
        for at in 0..<nameCount {
            var byte = text.utf8Start[at]
            if byte &- UInt8(ascii: "A") < 26 { byte |= 0x20 }
            if byte != name[at] { return false }
        }
        return nameCount > 0
    }

    /// Takes a part of the value of a field that is kept; no LF is in it.
    private mutating func readValue(_ part: UnsafeRawBufferPointer, at partPosition: Int) {
        switch field {
        case .other: break
        case .messageID:
            for (at, byte) in part.enumerated() where byte > 32 {
                let here = partPosition + at
                messageIDRange = (messageIDRange?.lowerBound ?? here)..<here + 1
            }
        case .trace:
            let last = traceValues.count - 1
            for byte in part where byte != UInt8(ascii: "\r") {
                guard traceValues[last].count < Self.traceValueMaxBytes else { break }
                if byte > 32 || !traceValues[last].isEmpty { traceValues[last].append(byte) }
            }
        case .autoSubmitted:
            for byte in part {
                guard !isWordOver else { break }
                if byte <= 32 || byte == UInt8(ascii: ";") || byte == UInt8(ascii: "(") {
                    isWordOver = byte > 32 || !autoSubmittedWord.isEmpty
                } else {
                    autoSubmittedWord.append(byte | 0x20)
                    isWordOver = autoSubmittedWord.count > 2
                }
            }
        }
    }

    private mutating func endField() {
        switch field {
        case .other, .messageID: break
        case .trace:
            let last = traceValues.count - 1
            while let byte = traceValues[last].last, byte <= 32 { traceValues[last].removeLast() }
        case .autoSubmitted:
            if autoSubmittedWord != [UInt8(ascii: "n"), UInt8(ascii: "o")] { isAutoSubmitted = true }
        }
        field = .other
    }

    private mutating func enterBody(headerEnd: Int, bodyAt: Int) {
        endField()
        isInBody = true
        headerBytes = headerEnd
        bodyOffset = bodyAt
    }

    /// The index of the first LF in `at..<end`, or `end`; the bytes before it are added to `seen`.
    @inline(__always)
    private static func skipToLineFeed(_ base: UnsafeRawPointer, _ start: Int, _ end: Int, _ seen: inout UInt64) -> Int
    {
        let ones: UInt64 = 0x0101_0101_0101_0101
        var at = start
        while end - at >= 8 {
            let word = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: at, as: UInt64.self))
            let difference = word ^ (ones &* 0x0a)
            // The lowest set bit is exact: borrows only reach bytes above a zero byte.
            let hits = (difference &- ones) & ~difference & highBits
            if hits != 0 {
                let before = hits.trailingZeroBitCount & ~7
                seen |= word & ((1 << UInt64(before)) &- 1)
                return at + before / 8
            }
            seen |= word
            at += 8
        }
        while at < end {
            let byte = base.load(fromByteOffset: at, as: UInt8.self)
            if byte == UInt8(ascii: "\n") { break }
            seen |= UInt64(byte)
            at += 1
        }
        return at
    }
}
