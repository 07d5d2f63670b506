internal import CIDN2

/// Brings domain names to the one form in which they are stored and compared: A-labels in lower case
/// (IDNA2008, RFC 5891, with UTS 46 non-transitional mapping).
public enum DomainNameNormaliser {
    /// Octets of a name without the trailing dot (RFC 1035 §2.3.4).
    static let nameMaxBytes = 253
    static let labelMaxBytes = 63
    /// U-labels of an allowed name in UTF-8 are shorter; longer text is not looked at.
    private static let textMaxBytes = 1_024

    /// The lower-case A-label form of a domain name, or nil when there is none.
    ///
    /// A name in that form already comes back as it is. Labels are letters, digits and inner hyphens
    /// (RFC 1123 §2.1); the last one is not all digits, so that no address is taken for a name.
    public static func aLabel(_ text: String) -> String? {
        var text = text
        let shape = text.withUTF8 { Shape(of: UnsafeRawBufferPointer($0)) }
        guard !shape.hasForeignBytes else { return nil }
        if shape.isASCII, !shape.hasALabel {
            guard shape.isHostName else { return nil }
            return shape.hasUpperCase ? text.lowercased() : text
        }
        // libidn2 also checks that what says it is an A-label is one.
        guard var mapped = lookUp(text) else { return nil }
        let mappedShape = mapped.withUTF8 { Shape(of: UnsafeRawBufferPointer($0)) }
        let isALabel = mappedShape.isHostName && mappedShape.isASCII && !mappedShape.hasUpperCase
        return isALabel && !mappedShape.hasForeignBytes ? mapped : nil
    }

    /// What one pass over the bytes of a name tells.
    private struct Shape {
        var isASCII = true
        var hasUpperCase = false
        /// A label that begins with `xn--`.
        var hasALabel = false
        /// A byte that no name has, nor becomes one by mapping: space, slash, NUL, underscore.
        var hasForeignBytes = false
        /// Lengths, hyphens and the last label are right. Means something for ASCII only.
        var isHostName = true

        init(of name: UnsafeRawBufferPointer) {
            guard !name.isEmpty, name.count <= textMaxBytes else {
                hasForeignBytes = true
                return
            }
            isHostName = name.count <= nameMaxBytes
            var labelStart = 0
            var labelIsDigits = true
            for index in 0..<name.count {
                switch name[index] {
                case UInt8(ascii: "0")...UInt8(ascii: "9"): continue
                case UInt8(ascii: "."):
                    endLabel(name, labelStart..<index)
                    labelStart = index + 1
                    labelIsDigits = true
                    continue
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "-"): break
                case UInt8(ascii: "A")...UInt8(ascii: "Z"): hasUpperCase = true
                case 128...: isASCII = false
                default: hasForeignBytes = true
                }
                labelIsDigits = false
            }
            endLabel(name, labelStart..<name.count)
            if labelIsDigits { isHostName = false }
        }

        private mutating func endLabel(_ name: UnsafeRawBufferPointer, _ label: Range<Int>) {
            guard (1...labelMaxBytes).contains(label.count), name[label.lowerBound] != UInt8(ascii: "-"),
                name[label.upperBound - 1] != UInt8(ascii: "-")
            else {
                isHostName = false
                return
            }
            let start = label.lowerBound
            if label.count >= 4, name[start] | 0x20 == UInt8(ascii: "x"), name[start + 1] | 0x20 == UInt8(ascii: "n"),
                name[start + 2] == UInt8(ascii: "-"), name[start + 3] == UInt8(ascii: "-")
            {
                hasALabel = true
            }
        }
    }

    private static func lookUp(_ text: String) -> String? {
        var output: UnsafeMutablePointer<UInt8>?
        // Not IDN2_USE_STD3_ASCII_RULES: libidn2 then takes out what the rules forbid and goes on, and `a\u{2100}b.test`
        // would be `ab.test`. The caller looks at what became of it instead.
        let flags = Int32(IDN2_NFC_INPUT.rawValue | IDN2_NONTRANSITIONAL.rawValue)
        // The three letters that those rules forbid and that become no forbidden ASCII: signs of `=`, `<` and `>` crossed.
        guard !text.unicodeScalars.contains(where: { ["\u{2260}", "\u{226e}", "\u{226f}"].contains($0) }) else {
            return nil
        }
        // `text` holds no NUL: `Shape` has refused it.
        let status = text.withCString { input in
            input.withMemoryRebound(to: UInt8.self, capacity: text.utf8.count + 1) {
                idn2_lookup_u8($0, &output, flags)
            }
        }
        guard status == Int32(IDN2_OK.rawValue), let output else { return nil }
        defer { idn2_free(output) }
        return String(cString: output)
    }
}
