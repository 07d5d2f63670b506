/// One line of the mail log: its time and its fields, in their order (`key=value`, as operate.md has them).
struct LogLine: Equatable {
    struct Field: Equatable {
        let name: String
        /// Without quotes, escapes and angle brackets; what had a byte beyond ASCII is UTF-8 again where it can be.
        let value: String
    }

    /// As it stands, in UTC: `2026-11-24T14:20:00.123Z`.
    let time: String
    let fields: [Field]

    subscript(name: String) -> String? { fields.first { $0.name == name }?.value }

    /// - Returns: nil for what is no line of the mail log: another program's, or one cut off.
    init?(_ line: [UInt8]) {
        var rest = line[...]
        let time = rest.prefix { $0 != UInt8(ascii: " ") }
        guard time.count >= 20, time.last == UInt8(ascii: "Z") else { return nil }
        rest = rest[time.endIndex...]
        var fields: [Field] = []
        while let first = rest.first {
            guard first == UInt8(ascii: " ") else { return nil }
            rest = rest.dropFirst()
            let name = rest.prefix { $0 != UInt8(ascii: "=") && $0 != UInt8(ascii: " ") }
            guard !name.isEmpty, name.endIndex != rest.endIndex, rest[name.endIndex] == UInt8(ascii: "=") else {
                return nil
            }
            rest = rest[name.endIndex...].dropFirst()
            guard let value = Self.value(&rest) else { return nil }
            fields.append(Field(name: Self.text(name), value: value))
        }
        guard !fields.isEmpty else { return nil }
        (self.time, self.fields) = (Self.text(time), fields)
    }

    /// Takes a value off the front: bare, `"quoted"` or `<path>`, with `\"`, `\\` and `\xNN` in it.
    private static func value(_ rest: inout ArraySlice<UInt8>) -> String? {
        let isQuoted = rest.first == UInt8(ascii: "\"")
        if isQuoted { rest = rest.dropFirst() }
        var bytes: [UInt8] = []
        while let byte = rest.first, isQuoted ? byte != UInt8(ascii: "\"") : byte != UInt8(ascii: " ") {
            rest = rest.dropFirst()
            guard byte == UInt8(ascii: "\\") else {
                bytes.append(byte)
                continue
            }
            guard let escaped = rest.first else { return nil }
            rest = rest.dropFirst()
            guard escaped == UInt8(ascii: "x") else {
                bytes.append(escaped)
                continue
            }
            guard rest.count >= 2, let code = UInt8(text(rest.prefix(2)), radix: 16) else { return nil }
            rest = rest.dropFirst(2)
            bytes.append(code)
        }
        if isQuoted {
            guard rest.first == UInt8(ascii: "\"") else { return nil }
            rest = rest.dropFirst()
        } else if bytes.first == UInt8(ascii: "<"), bytes.last == UInt8(ascii: ">") {
            bytes = Array(bytes[1..<bytes.count - 1])
        }
        return text(bytes)
    }

    private static func text(_ bytes: some Collection<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }
}
