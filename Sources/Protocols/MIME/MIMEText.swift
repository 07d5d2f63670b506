/// Character sets that text is decoded from, to be searched; text of any other is taken as it is.
public enum MIMECharset: Sendable {
    /// Also US-ASCII and what is unknown: bytes go through unchanged.
    case utf8
    /// ISO-8859-1, and nearly ISO-8859-15 and windows-1252.
    case latin1

    public init(name: some Collection<UInt8>) {
        let isLatin1 =
            asciiMatches(name, "iso-8859-1") || asciiMatches(name, "iso-8859-15") || asciiMatches(name, "windows-1252")
            || asciiMatches(name, "latin1")
        self = isLatin1 ? .latin1 : .utf8
    }
}

/// Content-Transfer-Encodings (RFC 2045 §6).
public enum MIMEEncoding: Sendable {
    /// 7bit, 8bit, binary and what is unknown.
    case identity
    case base64, quotedPrintable

    public init(name: some Collection<UInt8>) {
        if asciiMatches(name, "base64") {
            self = .base64
        } else if asciiMatches(name, "quoted-printable") {
            self = .quotedPrintable
        } else {
            self = .identity
        }
    }
}

/// Turns the body of a text part into UTF-8 without distinction of case, piece by piece, to be searched. It never fails:
/// what is malformed goes through. Three bytes of state, whatever comes.
public struct MIMETextDecoder: Sendable {
    private let encoding: MIMEEncoding
    private let charset: MIMECharset
    private var folder = CaseFolder()
    /// Base64: bits that are no byte yet.
    private var bits: UInt32 = 0
    private var bitCount = 0
    /// Quoted-printable: what followed an `=`.
    private var escape: Escape = .none

    private enum Escape: Sendable {
        case none, equals, carriageReturn
        case digit(UInt8)
    }

    public init(encoding: MIMEEncoding, charset: MIMECharset) {
        self.encoding = encoding
        self.charset = charset
    }

    public mutating func decode(_ bytes: UnsafeRawBufferPointer, into text: inout [UInt8]) {
        switch encoding {
        case .identity: for byte in bytes { put(byte, into: &text) }
        case .base64: for byte in bytes { decodeBase64(byte, into: &text) }
        case .quotedPrintable: for byte in bytes { decodeQuoted(byte, into: &text) }
        }
    }

    /// The part is over.
    public mutating func finish(into text: inout [UInt8]) { folder.finish(into: &text) }

    @inline(__always)
    private mutating func put(_ byte: UInt8, into text: inout [UInt8]) {
        if charset == .latin1, byte >= 128 {
            folder.put(0xc0 | byte >> 6, into: &text)
            folder.put(0x80 | byte & 0x3f, into: &text)
        } else {
            folder.put(byte, into: &text)
        }
    }

    private mutating func decodeBase64(_ byte: UInt8, into text: inout [UInt8]) {
        guard let value = Base64.value(of: byte) else {
            // Padding ends a group; another may follow where texts were put together.
            if byte == UInt8(ascii: "=") { bitCount = 0 }
            return
        }
        bits = bits << 6 | UInt32(value)
        bitCount += 6
        if bitCount >= 8 {
            bitCount -= 8
            put(UInt8(truncatingIfNeeded: bits >> UInt32(bitCount)), into: &text)
        }
    }

    private mutating func decodeQuoted(_ byte: UInt8, into text: inout [UInt8]) {
        switch escape {
        case .none:
            if byte == UInt8(ascii: "=") { escape = .equals } else { put(byte, into: &text) }
        case .equals:
            switch byte {
            case UInt8(ascii: "\r"): escape = .carriageReturn
            case UInt8(ascii: "\n"): escape = .none
            case UInt8(ascii: " "), UInt8(ascii: "\t"): break
            default:
                if hexDigit(byte) != nil {
                    escape = .digit(byte)
                } else {
                    escape = .none
                    put(UInt8(ascii: "="), into: &text)
                    put(byte, into: &text)
                }
            }
        case .carriageReturn:
            escape = .none
            if byte != UInt8(ascii: "\n") { put(byte, into: &text) }
        case .digit(let high):
            escape = .none
            if let low = hexDigit(byte) {
                put((hexDigit(high) ?? 0) << 4 | low, into: &text)
            } else {
                put(UInt8(ascii: "="), into: &text)
                put(high, into: &text)
                put(byte, into: &text)
            }
        }
    }
}

/// Lower-cases UTF-8 that comes byte by byte; malformed bytes go through.
struct CaseFolder: Sendable {
    private var scalar: UInt32 = 0
    private var pending: [UInt8] = []
    private var missing = 0

    mutating func put(_ byte: UInt8, into text: inout [UInt8]) {
        if missing > 0 {
            guard byte & 0xc0 == 0x80 else {
                finish(into: &text)
                return put(byte, into: &text)
            }
            pending.append(byte)
            scalar = scalar << 6 | UInt32(byte & 0x3f)
            missing -= 1
            guard missing == 0 else { return }
            guard let lower = Unicode.Scalar(scalar)?.properties.lowercaseMapping else {
                return finish(into: &text)
            }
            pending.removeAll(keepingCapacity: true)
            text.append(contentsOf: lower.utf8)
            return
        }
        switch byte {
        case 0..<128: text.append(asciiLowercased(byte))
        case 0xc2...0xdf: begin(byte, byte & 0x1f, 1)
        case 0xe0...0xef: begin(byte, byte & 0x0f, 2)
        case 0xf0...0xf4: begin(byte, byte & 0x07, 3)
        default: text.append(byte)
        }
    }

    private mutating func begin(_ byte: UInt8, _ bits: UInt8, _ count: Int) {
        pending.append(byte)
        scalar = UInt32(bits)
        missing = count
    }

    mutating func finish(into text: inout [UInt8]) {
        text += pending
        pending.removeAll(keepingCapacity: true)
        missing = 0
    }

    static func folded(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        var folder = CaseFolder()
        var text: [UInt8] = []
        for byte in bytes { folder.put(byte, into: &text) }
        folder.finish(into: &text)
        return text
    }
}

/// Encoded words in header values.
///
/// ```abnf
/// encoded-word = "=?" charset [ "*" language ] "?" encoding "?" encoded-text "?="    ; RFC 2047 §2, RFC 2231 §5
/// ```
public enum MIMEEncodedWords {
    /// The value as UTF-8 without distinction of case; white space between encoded words is none (RFC 2047 §6.2).
    public static func folded(_ value: [UInt8]) -> [UInt8] {
        var text: [UInt8] = []
        var plain: [UInt8] = []
        var isAfterWord = false
        var at = 0
        while at < value.count {
            guard value[at] == UInt8(ascii: "="), at + 1 < value.count, value[at + 1] == UInt8(ascii: "?"),
                let word = Word(value, at)
            else {
                plain.append(value[at])
                at += 1
                continue
            }
            if !isAfterWord || plain.contains(where: { $0 > 32 }) { text += CaseFolder.folded(plain) }
            plain.removeAll(keepingCapacity: true)
            var decoder = MIMETextDecoder(encoding: word.encoding, charset: MIMECharset(name: value[word.charset]))
            let content = value[word.text].map { $0 == UInt8(ascii: "_") && word.encoding != .base64 ? 32 : $0 }
            content.withUnsafeBytes { decoder.decode($0, into: &text) }
            decoder.finish(into: &text)
            isAfterWord = true
            at = word.end
        }
        return text + CaseFolder.folded(plain)
    }

    private struct Word {
        let charset: Range<Int>
        let encoding: MIMEEncoding
        let text: Range<Int>
        let end: Int

        /// Reads no further than the third question mark: so all attempts together stay linear.
        init?(_ value: [UInt8], _ start: Int) {
            let charsetStart = start + 2
            guard let charsetEnd = Self.word(value, charsetStart), charsetEnd + 2 < value.count,
                value[charsetEnd + 2] == UInt8(ascii: "?"), let textEnd = Self.word(value, charsetEnd + 3),
                textEnd + 1 < value.count, value[textEnd + 1] == UInt8(ascii: "=")
            else { return nil }
            switch asciiLowercased(value[charsetEnd + 1]) {
            case UInt8(ascii: "b"): encoding = .base64
            case UInt8(ascii: "q"): encoding = .quotedPrintable
            default: return nil
            }
            let name = value[charsetStart..<charsetEnd].prefix { $0 != UInt8(ascii: "*") }
            (charset, text, end) = (charsetStart..<name.endIndex, charsetEnd + 3..<textEnd, textEnd + 2)
        }

        /// The index of the next `?`, with no white space before it.
        private static func word(_ value: [UInt8], _ start: Int) -> Int? {
            var at = start
            while at < value.count, value[at] > 32 {
                if value[at] == UInt8(ascii: "?") { return at }
                at += 1
            }
            return nil
        }
    }
}
