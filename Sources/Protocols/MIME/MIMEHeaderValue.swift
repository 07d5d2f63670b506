/// A structured header value: a word or a media type, then parameters (`Content-Type`, `Content-Disposition`).
///
/// ```abnf
/// value     = token [ "/" token ] *( ";" parameter )     ; RFC 2045 §5.1, comments between any two
/// parameter = attribute "=" ( token / quoted-string )
/// attribute = token [ "*" section ] [ "*" ]              ; RFC 2231 §3, §4
/// ```
///
/// Leniencies, for mail that is really seen: a parameter's value without quotes may hold what a token may not (file names
/// with spaces end at the `;`), empty parameters are passed over, and one without `=` too.
public struct MIMEHeaderValue: Equatable, Sendable {
    public struct Parameter: Equatable, Sendable {
        /// In lower case. Ends in `*` if the value is in the extended form, `charset'language'percent-encoded`.
        public var name: [UInt8]
        public var value: [UInt8]
    }

    /// Most parameters that are kept, and sections that one may come in.
    public static let parametersMax = 64
    private static let sectionsMax = 100

    /// The word in front of the parameters, as it stands; of a media type what is before the slash.
    public var word: [UInt8] = []
    /// What is behind the slash; empty if there is none.
    public var subword: [UInt8] = []
    public var parameters: [Parameter] = []

    /// Reads an unfolded value; there is always a result, empty for one that can't be read.
    public init(_ bytes: [UInt8]) {
        var reader = MIMETokenReader(bytes)
        word = reader.token()
        if reader.skip(UInt8(ascii: "/")) { subword = reader.token() }
        var sections: [Section] = []
        while reader.skipPast(UInt8(ascii: ";")) {
            let name = reader.token().map(asciiLowercased)
            guard !name.isEmpty, reader.skip(UInt8(ascii: "=")) else { continue }
            let value = reader.parameterValue()
            if sections.count < Self.parametersMax, let section = Section(name, value) { sections.append(section) }
        }
        join(sections)
    }

    /// The value of a parameter, decoded from the extended form to its bytes, whatever their charset is.
    public func parameter(_ name: StaticString) -> [UInt8]? {
        for parameter in parameters {
            if asciiMatches(parameter.name, name) { return parameter.value }
            if parameter.name.last == UInt8(ascii: "*"), asciiMatches(parameter.name.dropLast(), name) {
                return Self.extendedBytes(parameter.value)
            }
        }
        return nil
    }

    /// What is behind the two apostrophes, percent-decoded (RFC 2231 §4).
    private static func extendedBytes(_ value: [UInt8]) -> [UInt8] {
        var rest = value[...]
        for _ in 0..<2 {
            guard let quote = rest.firstIndex(of: UInt8(ascii: "'")) else { return value }
            rest = rest[(quote + 1)...]
        }
        var bytes: [UInt8] = []
        var at = rest.startIndex
        while at < rest.endIndex {
            if rest[at] == UInt8(ascii: "%"), at + 2 < rest.endIndex, let high = hexDigit(rest[at + 1]),
                let low = hexDigit(rest[at + 2])
            {
                bytes.append(high << 4 | low)
                at += 3
            } else {
                bytes.append(rest[at])
                at += 1
            }
        }
        return bytes
    }

    private struct Section {
        let name: [UInt8]
        /// nil: the parameter came whole.
        let number: Int?
        let isExtended: Bool
        let value: [UInt8]

        init?(_ attribute: [UInt8], _ value: [UInt8]) {
            let parts = attribute.split(separator: UInt8(ascii: "*"), omittingEmptySubsequences: false)
            self.value = value
            name = Array(parts[0])
            guard !name.isEmpty else { return nil }
            switch parts.count {
            case 1: (number, isExtended) = (nil, false)
            case 2 where parts[1].isEmpty: (number, isExtended) = (nil, true)
            case 2, 3:
                guard parts.count == 2 || parts[2].isEmpty else { return nil }
                guard let value = decimal(parts[1]), value < MIMEHeaderValue.sectionsMax else { return nil }
                (number, isExtended) = (value, parts.count == 3)
            default: return nil
            }
        }
    }

    /// Puts continuations together, in the order of their numbers, from 0 up to the first that is missing (RFC 2231 §3).
    private mutating func join(_ sections: [Section]) {
        for (index, section) in sections.enumerated() {
            let isKnown = sections[..<index].contains { $0.name == section.name }
            guard !isKnown else { continue }
            let numbered = sections.filter { $0.name == section.name && $0.number != nil }
            let whole = sections.filter { $0.name == section.name && $0.number == nil }
            // The extended form is the better one, where both are given.
            if let best = whole.first(where: \.isExtended) ?? (numbered.isEmpty ? whole.first : nil) {
                parameters.append(Parameter(name: best.name + (best.isExtended ? [42] : []), value: best.value))
                continue
            }
            var pieces: [Section] = []
            while let next = numbered.first(where: { $0.number == pieces.count }) { pieces.append(next) }
            guard !pieces.isEmpty else {
                if let plain = whole.first { parameters.append(Parameter(name: plain.name, value: plain.value)) }
                continue
            }
            let isExtended = pieces.contains(where: \.isExtended)
            var value: [UInt8] = isExtended && !pieces[0].isExtended ? [39, 39] : []
            for piece in pieces {
                value += isExtended && !piece.isExtended ? Self.percentEncoded(piece.value) : piece.value
            }
            parameters.append(Parameter(name: section.name + (isExtended ? [42] : []), value: value))
        }
    }

    /// A plain section among extended ones: its `%` and `'` mean themselves.
    private static func percentEncoded(_ value: [UInt8]) -> [UInt8] {
        value.flatMap { byte -> [UInt8] in
            guard byte == UInt8(ascii: "%") || byte == UInt8(ascii: "'") || byte <= 32 || byte > 126 else {
                return [byte]
            }
            let digits = Array("0123456789ABCDEF".utf8)
            return [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
    }
}

/// Reads tokens of an unfolded header value, passing over white space and comments (RFC 5322 §3.2.2).
struct MIMETokenReader {
    let bytes: [UInt8]
    private(set) var at = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { at >= bytes.count }
    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    /// Passes over white space and comments; returns the last comment's inside.
    @discardableResult
    mutating func skipSpace() -> [UInt8]? {
        var comment: [UInt8]?
        while let byte = next {
            if byte == UInt8(ascii: "(") {
                comment = readComment()
            } else if byte <= 32 {
                at += 1
            } else {
                break
            }
        }
        return comment
    }

    /// One comment, nested ones inside it; an open one reaches to the end.
    private mutating func readComment() -> [UInt8] {
        var text: [UInt8] = []
        var depth = 0
        while let byte = next {
            at += 1
            switch byte {
            case UInt8(ascii: "("):
                depth += 1
                if depth == 1 { continue }
            case UInt8(ascii: ")"):
                depth -= 1
                if depth == 0 { return text }
            case UInt8(ascii: "\\"):
                if let escaped = next {
                    at += 1
                    text.append(escaped)
                }
                continue
            default: break
            }
            text.append(byte)
        }
        return text
    }

    mutating func skipOne() { at += 1 }

    mutating func skip(_ byte: UInt8) -> Bool {
        skipSpace()
        guard next == byte else { return false }
        at += 1
        return true
    }

    /// Goes behind the next `byte` that is in no quotes and no comment; false at the end.
    mutating func skipPast(_ byte: UInt8) -> Bool {
        while true {
            skipSpace()
            guard let found = next else { return false }
            if found == UInt8(ascii: "\"") {
                _ = quoted()
            } else {
                at += 1
                if found == byte { return true }
            }
        }
    }

    /// `token` of RFC 2045 §5.1; empty if there is none.
    mutating func token() -> [UInt8] {
        skipSpace()
        let start = at
        while let byte = next, byte > 32, byte != 127, !Self.isSpecial(byte) { at += 1 }
        return Array(bytes[start..<at])
    }

    /// The inside of a quoted-string, which begins here; an open one reaches to the end.
    mutating func quoted() -> [UInt8] {
        var text: [UInt8] = []
        at += 1
        while let byte = next {
            at += 1
            if byte == UInt8(ascii: "\"") { break }
            if byte == UInt8(ascii: "\\"), let escaped = next {
                at += 1
                text.append(escaped)
            } else {
                text.append(byte)
            }
        }
        return text
    }

    mutating func parameterValue() -> [UInt8] {
        skipSpace()
        if next == UInt8(ascii: "\"") { return quoted() }
        let start = at
        while let byte = next, byte != UInt8(ascii: ";") { at += 1 }
        var end = at
        while end > start, bytes[end - 1] <= 32 { end -= 1 }
        // A comment may follow (RFC 2045 §5.1); a parenthesis within a word is meant.
        if let open = bytes[start..<end].firstIndex(of: UInt8(ascii: "(")), open > start, bytes[open - 1] <= 32 {
            end = open
            while end > start, bytes[end - 1] <= 32 { end -= 1 }
        }
        return Array(bytes[start..<end])
    }

    private static func isSpecial(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "<"), UInt8(ascii: ">"), UInt8(ascii: "@"),
            UInt8(ascii: ","), UInt8(ascii: ";"), UInt8(ascii: ":"), UInt8(ascii: "\\"), UInt8(ascii: "\""),
            UInt8(ascii: "/"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "?"), UInt8(ascii: "="):
            true
        default: false
        }
    }
}

// MARK: - Bytes as text

@inline(__always)
func asciiLowercased(_ byte: UInt8) -> UInt8 {
    byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte
}

/// Equal but for the case of ASCII letters; `text` is in lower case.
func asciiMatches(_ bytes: some Collection<UInt8>, _ text: StaticString) -> Bool {
    guard bytes.count == text.utf8CodeUnitCount else { return false }
    var at = text.utf8Start
    for byte in bytes {
        if asciiLowercased(byte) != at.pointee { return false }
        at += 1
    }
    return true
}

@inline(__always)
func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    default: nil
    }
}

/// Decimal digits that are at most nine; nil for anything else.
func decimal(_ digits: some Collection<UInt8>) -> Int? {
    guard (1...9).contains(digits.count) else { return nil }
    var value = 0
    for digit in digits {
        guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
        value = value * 10 + Int(digit - UInt8(ascii: "0"))
    }
    return value
}
