/// One attribute of an `XCLIENT` command: a trusted proxy's word about the client behind it.
///
/// Source: Postfix, XCLIENT_README. See also `SMTPServerSettings.offersXClient`.
public struct XClientAttribute: Hashable, Sendable {
    public enum Name: String, CaseIterable, Sendable {
        case name = "NAME"
        case address = "ADDR"
        case port = "PORT"
        case proto = "PROTO"
        case helo = "HELO"
        case login = "LOGIN"
    }

    public let name: Name
    /// Decoded, UTF-8 without control characters; nil if the proxy does not know it (`[UNAVAILABLE]`,
    /// `[TEMPUNAVAIL]`). Addresses have lost their `IPV6:`.
    public let value: String?

    public init(name: Name, value: String?) {
        self.name = name
        self.value = value
    }
}

extension SMTPLineCursor {
    /// `1*( SP attribute-name "=" xtext )`, the cursor standing behind the verb.
    mutating func xclientAttributes() throws(SMTPRefusal) -> [XClientAttribute] {
        var attributes: [XClientAttribute] = []
        skipSpaces()
        while !isAtEnd {
            let keyword = word(endingAt: UInt8(ascii: "="))
            guard let name = XClientAttribute.Name(rawValue: String(decoding: keyword, as: UTF8.self).uppercased()),
                skip(UInt8(ascii: "=")), !attributes.contains(where: { $0.name == name })
            else { throw .badParameter }
            let encoded = word()
            if Self.matches(encoded, "[unavailable]") || Self.matches(encoded, "[tempunavail]") {
                attributes.append(XClientAttribute(name: name, value: nil))
            } else {
                guard var value = Self.decodedXText(encoded) else { throw .badParameter }
                if name == .address, value.lowercased().hasPrefix("ipv6:") { value.removeFirst(5) }
                attributes.append(XClientAttribute(name: name, value: value))
            }
            skipSpaces()
        }
        guard !attributes.isEmpty else { throw .badParameter }
        return attributes
    }

    private static func decodedXText(_ value: UnsafeRawBufferPointer) -> String? {
        guard !value.isEmpty, let text = String(validating: value, as: UTF8.self), let bytes = XText.decode(text),
            bytes.allSatisfy({ $0 >= 32 && $0 != 127 })
        else { return nil }
        return String(validating: bytes, as: UTF8.self)
    }
}
