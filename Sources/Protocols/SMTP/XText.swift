/// The xtext encoding of ENVID and ORCPT values (RFC 3461 §4).
public enum XText {
    /// `bytes` as xtext: `!` to `~` except `+` and `=` as themselves, the others as `+` and two hexadecimal digits.
    public static func encode(_ bytes: some Sequence<UInt8>) -> String {
        var text: [UInt8] = []
        for byte in bytes {
            if isXChar(byte) {
                text.append(byte)
            } else {
                text += [UInt8(ascii: "+"), hexDigit(byte >> 4), hexDigit(byte & 15)]
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// The octets that `text` stands for, or nil if it is not xtext. Lower-case digits are taken too: some senders
    /// write them, and nothing else can be meant.
    public static func decode(_ text: some StringProtocol) -> [UInt8]? {
        var bytes: [UInt8] = []
        var rest = text.utf8.makeIterator()
        while let byte = rest.next() {
            if isXChar(byte) {
                bytes.append(byte)
            } else {
                guard byte == UInt8(ascii: "+"), let high = rest.next().flatMap(IPAddress.hexValue),
                    let low = rest.next().flatMap(IPAddress.hexValue)
                else { return nil }
                bytes.append(high << 4 | low)
            }
        }
        return bytes
    }

    private static func isXChar(_ byte: UInt8) -> Bool {
        (33...126).contains(byte) && byte != UInt8(ascii: "+") && byte != UInt8(ascii: "=")
    }

    /// `0`...`9`, `A`...`F` of 0...15.
    static func hexDigit(_ value: UInt8) -> UInt8 {
        value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "A") + value - 10
    }
}

/// The forms of an address of type `utf-8` (RFC 6533 §3).
///
/// ```abnf
/// utf-8-addr-xtext    = 1*(QCHAR / EmbeddedUnicodeChar)     ; ASCII only
/// utf-8-addr-unitext  = 1*(QUCHAR / EmbeddedUnicodeChar)
/// EmbeddedUnicodeChar = %x5C.78 "{" HEXPOINT "}"            ; \x{C3}
/// ```
public enum UTF8AddressText {
    /// `address` as utf-8-addr-xtext: fit for an ORCPT parameter and for a 7-bit DSN field.
    public static func encodeXText(_ address: some StringProtocol) -> String {
        encode(address) { $0.isASCII }
    }

    /// `address` as utf-8-addr-unitext: fit for an ORCPT parameter to a server that offers SMTPUTF8.
    public static func encodeUnitext(_ address: some StringProtocol) -> String {
        encode(address) { _ in true }
    }

    private static func encode(_ address: some StringProtocol, keeping isKept: (Unicode.Scalar) -> Bool) -> String {
        var text = String.UnicodeScalarView()
        for scalar in address.unicodeScalars {
            switch scalar {
            case "\\", "+", "=", "\u{0}"..."\u{20}", "\u{7f}": break
            case _ where isKept(scalar):
                text.append(scalar)
                continue
            default: break
            }
            let digits = String(scalar.value, radix: 16, uppercase: true)
            text.append(contentsOf: "\\x{\(digits.count < 2 ? "0" : "")\(digits)}".unicodeScalars)
        }
        return String(text)
    }

    /// The address that any of the three forms stands for, or nil if `text` is none of them. Escapes of control
    /// characters are refused: no address has them, and a DSN field must not.
    public static func decode(_ text: some StringProtocol) -> String? {
        var address = String.UnicodeScalarView()
        var rest = text.unicodeScalars.makeIterator()
        while let scalar = rest.next() {
            switch scalar {
            case "\\":
                guard rest.next() == "x", rest.next() == "{", let value = hexPoint(&rest) else { return nil }
                address.append(value)
            case "\u{0}"..."\u{20}", "\u{7f}"..."\u{9f}", "+", "=": return nil
            default: address.append(scalar)
            }
        }
        return address.isEmpty ? nil : String(address)
    }

    /// HEXPOINT and its closing brace: a character that needs the escape, in its shortest form.
    private static func hexPoint(_ rest: inout some IteratorProtocol<Unicode.Scalar>) -> Unicode.Scalar? {
        var value: UInt32 = 0
        var digits = 0
        while let scalar = rest.next() {
            if scalar == "}" {
                guard digits >= 2, digits == 2 || value >> (4 * UInt32(digits - 1)) != 0 else { return nil }
                switch value {
                case 0x20, 0x2b, 0x3d, 0x5c, 0xa0...0x10ffff: return Unicode.Scalar(value)
                default: return nil
                }
            }
            guard digits < 6, scalar.isASCII, let digit = IPAddress.hexValue(UInt8(scalar.value)) else { return nil }
            value = value << 4 | UInt32(digit)
            digits += 1
        }
        return nil
    }
}
