/// Reads one whole command, its literals in place (RFC 3501 §9).
///
/// ```abnf
/// command = tag SP ( … ) CRLF
/// astring = 1*ASTRING-CHAR / quoted / literal
/// literal = "{" number [ "+" ] "}" CRLF *CHAR8          ; RFC 7888
/// ```
///
/// Leniencies: eight-bit text within quotes (what is searched for, by many clients); spaces at a line's end.
struct IMAPParser {
    let bytes: UnsafeRawBufferPointer
    let keywords: [String]
    var at = 0

    /// `bytes` end in the last line's CRLF.
    init(_ bytes: UnsafeRawBufferPointer, keywords: [String] = []) {
        var end = bytes.count
        if end >= 2, bytes[end - 1] == UInt8(ascii: "\n"), bytes[end - 2] == UInt8(ascii: "\r") { end -= 2 }
        while end > 0, bytes[end - 1] == UInt8(ascii: " ") { end -= 1 }
        self.bytes = UnsafeRawBufferPointer(rebasing: bytes[..<end])
        self.keywords = keywords
    }

    static let setRangesMax = 20_000
    static let wildcardsMax = 1_000

    /// `tag`, or nil if the line begins with none.
    static func tag(_ bytes: some Collection<UInt8>) -> [UInt8]? {
        let tag = bytes.prefix { isAtomByte($0, orBrackets: true) && $0 != UInt8(ascii: "+") }
        guard !tag.isEmpty, tag.count <= 64 else { return nil }
        return Array(tag)
    }

    // MARK: Words

    var isAtEnd: Bool { at == bytes.count }
    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    mutating func skip(_ byte: UInt8) -> Bool {
        guard next == byte else { return false }
        at += 1
        return true
    }

    mutating func space() throws(IMAPRefusal) {
        guard skip(UInt8(ascii: " ")) else {
            throw IMAPRefusal(isAtEnd ? "Something is missing" : "A space is missing")
        }
    }

    mutating func expect(_ byte: UInt8) throws(IMAPRefusal) {
        guard skip(byte) else { throw IMAPRefusal("\(Character(Unicode.Scalar(byte))) is missing") }
    }

    func end() throws(IMAPRefusal) {
        guard isAtEnd else { throw IMAPRefusal("Something is behind the command") }
    }

    static func isAtomByte(_ byte: UInt8, orBrackets: Bool = false) -> Bool {
        switch byte {
        case 0...32, 127...255, UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "{"), UInt8(ascii: "%"),
            UInt8(ascii: "*"), UInt8(ascii: "\""), UInt8(ascii: "\\"):
            false
        case UInt8(ascii: "]"): orBrackets
        default: true
        }
    }

    /// An atom; `orBrackets`: `]` may be in it.
    mutating func atom(orBrackets: Bool = false) throws(IMAPRefusal) -> [UInt8] {
        let start = at
        while at < bytes.count, Self.isAtomByte(bytes[at], orBrackets: orBrackets) { at += 1 }
        guard at > start else { throw IMAPRefusal("A word is missing") }
        return Array(bytes[start..<at])
    }

    /// A word of letters, digits, `.`, `-` and `=` in upper case: a command, an item, a key.
    mutating func keyword() -> String {
        let start = at
        while let byte = next, Self.isKeywordByte(byte) { at += 1 }
        return String(decoding: bytes[start..<at].map { $0 &- UInt8(ascii: "a") < 26 ? $0 & 0xdf : $0 }, as: UTF8.self)
    }

    private static func isKeywordByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "="):
            true
        default: false
        }
    }

    mutating func number64() throws(IMAPRefusal) -> UInt64 {
        let start = at
        var value: UInt64 = 0
        while let byte = next, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") {
            let (tenfold, isOver) = value.multipliedReportingOverflow(by: 10)
            let (sum, isSumOver) = tenfold.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
            guard !isOver, !isSumOver, sum <= UInt64(Int64.max) else { throw IMAPRefusal("A number is too high") }
            value = sum
            at += 1
        }
        guard at > start else { throw IMAPRefusal("A number is missing") }
        return value
    }

    mutating func number32() throws(IMAPRefusal) -> UInt32 {
        guard let value = UInt32(exactly: try number64()) else { throw IMAPRefusal("A number is too high") }
        return value
    }

    /// A quoted string or a literal.
    mutating func string() throws(IMAPRefusal) -> [UInt8] {
        if skip(UInt8(ascii: "\"")) {
            var text: [UInt8] = []
            while let byte = next {
                at += 1
                switch byte {
                case UInt8(ascii: "\""): return text
                case UInt8(ascii: "\\"):
                    guard let escaped = next, escaped == UInt8(ascii: "\"") || escaped == UInt8(ascii: "\\") else {
                        throw IMAPRefusal("A backslash in quotes stands before \" and \\ only")
                    }
                    text.append(escaped)
                    at += 1
                case 0, 10, 13: throw IMAPRefusal("A control character in quotes")
                default: text.append(byte)
                }
            }
            throw IMAPRefusal("A quote is open")
        }
        try expect(UInt8(ascii: "{"))
        let count = Int(try number32())
        _ = skip(UInt8(ascii: "+"))
        try expect(UInt8(ascii: "}"))
        guard skip(13), skip(10), bytes.count - at >= count else { throw IMAPRefusal("A literal is cut off") }
        defer { at += count }
        let text = bytes[at..<at + count]
        guard !text.contains(0) else { throw IMAPRefusal("NUL in a literal") }
        return Array(text)
    }

    mutating func astring() throws(IMAPRefusal) -> [UInt8] {
        if next == UInt8(ascii: "\"") || next == UInt8(ascii: "{") { return try string() }
        return try atom(orBrackets: true)
    }

    /// `list-mailbox`: like an astring, with wildcards.
    mutating func pattern() throws(IMAPRefusal) -> [UInt8] {
        if next == UInt8(ascii: "\"") || next == UInt8(ascii: "{") { return try string() }
        let start = at
        while let byte = next,
            Self.isAtomByte(byte, orBrackets: true) || byte == UInt8(ascii: "%") || byte == UInt8(ascii: "*")
        {
            at += 1
        }
        guard at > start else { throw IMAPRefusal("A folder's name is missing") }
        return Array(bytes[start..<at])
    }

    mutating func sequenceSet() throws(IMAPRefusal) -> IMAPSequenceSet {
        var set = IMAPSequenceSet()
        repeat {
            guard set.ranges.count < Self.setRangesMax else { throw IMAPRefusal("A set is too long") }
            let first = try setNumber()
            set.ranges.append((first, skip(UInt8(ascii: ":")) ? try setNumber() : first))
        } while skip(UInt8(ascii: ","))
        return set
    }

    private mutating func setNumber() throws(IMAPRefusal) -> UInt32 {
        if skip(UInt8(ascii: "*")) { return 0 }
        let number = try number32()
        guard number > 0 else { throw IMAPRefusal("0 is no number of a message") }
        return number
    }

    /// One flag; nil for a keyword that isn't kept here.
    mutating func flag() throws(IMAPRefusal) -> IMAPFlags? {
        if skip(UInt8(ascii: "\\")) {
            let name = keyword()
            let known = IMAPFlags.systemNames.first { asciiMatches(Array("\\\(name)".utf8), anyCase: $0.name) }
            guard let known else { throw IMAPRefusal("\\\(name) is no flag that can be set") }
            return known.flag
        }
        return keywordFlag(try atom())
    }

    func keywordFlag(_ name: [UInt8]) -> IMAPFlags? {
        let lower = name.map(asciiLowercased)
        let index = keywords.firstIndex { $0.utf8.map(asciiLowercased).elementsEqual(lower) }
        return index.map { IMAPFlags.keyword($0) }
    }
}

/// Equal but for the case of ASCII letters.
func asciiMatches(_ bytes: [UInt8], anyCase text: StaticString) -> Bool {
    bytes.map(asciiLowercased).elementsEqual(
        UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount).map(asciiLowercased))
}
