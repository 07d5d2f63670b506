/// JSON (RFC 8259) to and from `DocumentValue`, keeping the order of keys and the line of each value.
///
/// Of our own because a document is read 10,000 times at a start, and because a mistake is reported with its line.
extension DocumentValue {
    /// Reads one JSON text.
    ///
    /// - Throws: `InvalidSetting` naming the line: bad syntax, a key given twice, too deep, too long.
    public init(json text: String) throws(InvalidSetting) {
        let bytes = Array(text.utf8)
        guard bytes.count <= Limits.documentBytes else {
            throw InvalidSetting("the document is longer than \(Limits.documentBytes) bytes")
        }
        var reader = JSONReader(bytes: bytes, isOneLine: !bytes.contains(UInt8(ascii: "\n")))
        self = try reader.document()
    }

    /// Compact JSON in the order of the keys.
    public var json: String {
        var output = ""
        write(into: &output)
        return output
    }

    private func write(into output: inout String) {
        switch content {
        case .null: output += "null"
        case .bool(let value): output += value ? "true" : "false"
        case .integer(let number): output += String(number)
        case .text(let text), .word(let text): Self.write(text, into: &output)
        case .list(let items):
            output += "["
            for (index, item) in items.enumerated() {
                if index > 0 { output += "," }
                item.write(into: &output)
            }
            output += "]"
        case .map(let members):
            output += "{"
            for (index, member) in members.enumerated() {
                if index > 0 { output += "," }
                Self.write(member.key, into: &output)
                output += ":"
                member.value.write(into: &output)
            }
            output += "}"
        }
    }

    static func write(_ text: String, into output: inout String) {
        output += "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": output += "\\\""
            case "\\": output += "\\\\"
            // Beyond JSON's own: what YAML does not take as it stands, or takes for a line's end (YAML 1.2.2 §5.1).
            case "\u{0}"..<" ", "\u{7f}"..."\u{9f}", "\u{2028}", "\u{2029}", "\u{feff}", "\u{fffe}", "\u{ffff}":
                let hex = String(scalar.value, radix: 16)
                output += "\\u" + String(repeating: "0", count: 4 - hex.utf8.count) + hex
            default: output.unicodeScalars.append(scalar)
            }
        }
        output += "\""
    }
}

private struct JSONReader {
    let bytes: [UInt8]
    /// Its line's number says nothing.
    let isOneLine: Bool
    var at = 0
    var line = 1

    mutating func document() throws(InvalidSetting) -> DocumentValue {
        let value = try value(depth: 0)
        skipSpace()
        guard at == bytes.count else { throw fault("text after the end of the value") }
        return value
    }

    private func fault(_ what: String) -> InvalidSetting {
        InvalidSetting("not JSON\(isOneLine ? "" : " (line \(line))"): \(what)")
    }

    private var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    private mutating func skipSpace() {
        while at < bytes.count {
            switch bytes[at] {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): at += 1
            case UInt8(ascii: "\n"):
                at += 1
                line += 1
            default: return
            }
        }
    }

    private mutating func take(_ byte: Character) -> Bool {
        skipSpace()
        guard next == byte.asciiValue else { return false }
        at += 1
        return true
    }

    private mutating func value(depth: Int) throws(InvalidSetting) -> DocumentValue {
        guard depth < DocumentValue.Limits.depth else { throw fault("values nested too deep") }
        skipSpace()
        let start = isOneLine ? nil : line
        switch next {
        case UInt8(ascii: "{"):
            at += 1
            return DocumentValue(.map(try members(depth: depth + 1)), line: start)
        case UInt8(ascii: "["):
            at += 1
            return DocumentValue(.list(try items(depth: depth + 1)), line: start)
        case UInt8(ascii: "\""):
            at += 1
            return DocumentValue(.text(try string()), line: start)
        case nil: throw fault("the text ends where a value is wanted")
        default: return DocumentValue(try literal(), line: start)
        }
    }

    private mutating func members(depth: Int) throws(InvalidSetting) -> [DocumentValue.Member] {
        var members: [DocumentValue.Member] = []
        var seen: Set<String> = []
        if take("}") { return members }
        repeat {
            guard take("\"") else { throw fault("a key in double quotes is wanted") }
            let key = try string()
            guard seen.insert(key).inserted else { throw fault("\(InvalidSetting.quote(key)) stands twice") }
            guard take(":") else { throw fault("`:` is wanted after a key") }
            members.append(DocumentValue.Member(key, try value(depth: depth)))
        } while take(",")
        guard take("}") else { throw fault("`,` or `}` is wanted") }
        return members
    }

    private mutating func items(depth: Int) throws(InvalidSetting) -> [DocumentValue] {
        var items: [DocumentValue] = []
        if take("]") { return items }
        repeat { items.append(try value(depth: depth)) } while take(",")
        guard take("]") else { throw fault("`,` or `]` is wanted") }
        return items
    }

    private mutating func literal() throws(InvalidSetting) -> DocumentValue.Content {
        let start = at
        while let byte = next, isLiteral(byte) { at += 1 }
        let word = String(decoding: bytes[start..<at], as: UTF8.self)
        switch word {
        case "null": return .null
        case "true": return .bool(true)
        case "false": return .bool(false)
        default:
            // A fraction or a number beyond 64 bits stays a word: no setting takes it, and the one given says so.
            guard let first = word.utf8.first, first == UInt8(ascii: "-") || isDigit(first), Double(word) != nil,
                word.utf8.allSatisfy({ isDigit($0) || "+-.eE".utf8.contains($0) })
            else { throw fault("\(word.isEmpty ? "an unknown character" : InvalidSetting.quote(word)) is no value") }
            return Int(word).map { .integer($0) } ?? .word(word)
        }
    }

    private func isDigit(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") }

    private func isLiteral(_ byte: UInt8) -> Bool {
        isDigit(byte) || (byte | 0x20 >= UInt8(ascii: "a") && byte | 0x20 <= UInt8(ascii: "z"))
            || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "+") || byte == UInt8(ascii: ".")
    }

    /// What follows the opening quote, up to and with the closing one.
    private mutating func string() throws(InvalidSetting) -> String {
        let start = at
        while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 { at += 1 }
        if next == UInt8(ascii: "\"") {  // nearly always: nothing escaped
            at += 1
            return String(decoding: bytes[start..<at - 1], as: UTF8.self)
        }
        var text = Array(bytes[start..<at])
        while let byte = next {
            at += 1
            switch byte {
            case UInt8(ascii: "\""): return String(decoding: text, as: UTF8.self)
            case UInt8(ascii: "\\"): text += Array(String(try escape()).utf8)
            case 0..<0x20: throw fault("a control character in a string")
            default: text.append(byte)
            }
        }
        throw fault("a string without its end")
    }

    private mutating func escape() throws(InvalidSetting) -> Character {
        guard let byte = next else { throw fault("a string without its end") }
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Character(UnicodeScalar(byte))
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{c}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            var code = try codeUnit()
            if (0xd800..<0xdc00).contains(code) {
                guard at + 1 < bytes.count, bytes[at] == UInt8(ascii: "\\"), bytes[at + 1] == UInt8(ascii: "u") else {
                    throw fault("half of a surrogate pair")
                }
                at += 2
                let low = try codeUnit()
                guard (0xdc00..<0xe000).contains(low) else { throw fault("half of a surrogate pair") }
                code = 0x10000 + (code - 0xd800) << 10 + (low - 0xdc00)
            }
            guard let scalar = UnicodeScalar(code) else { throw fault("half of a surrogate pair") }
            return Character(scalar)
        default: throw fault("an unknown escape in a string")
        }
    }

    private mutating func codeUnit() throws(InvalidSetting) -> UInt32 {
        guard at + 4 <= bytes.count else { throw fault("a string without its end") }
        var code: UInt32 = 0
        for byte in bytes[at..<at + 4] {
            guard let digit = Character(UnicodeScalar(byte)).hexDigitValue else {
                throw fault("`\\u` wants four hex digits")
            }
            code = code << 4 | UInt32(digit)
        }
        at += 4
        return code
    }
}
