/// The addresses of a header field, as `ENVELOPE` shows them (RFC 3501 §7.4.2), in their order.
///
/// ```abnf
/// address-list = address *( "," address )                     ; RFC 5322 §3.4, empty elements tolerated
/// address      = [ phrase ] "<" [ route ":" ] addr-spec ">" / addr-spec / phrase ":" [ address-list ] ";"
/// ```
///
/// Nothing is refused: what is no address becomes one without a host. Linear in the bytes, and bounded.
public enum MIMEAddresses {
    public enum Element: Equatable, Sendable {
        case mailbox(MIMEMailbox)
        case groupStart(name: [UInt8])
        case groupEnd
    }

    /// Most elements that are read from one field.
    public static let elementsMax = 5_000

    public static func parse(_ value: [UInt8]) -> [Element] {
        var parser = MIMEAddressParser(value)
        return parser.all()
    }
}

public struct MIMEMailbox: Equatable, Sendable {
    /// The display name, or the comment where there is none; quotes taken off, encoded words left as they are.
    public var name: [UInt8]?
    /// A source route, without the colon.
    public var route: [UInt8]?
    /// The local part, quotes taken off.
    public var local: [UInt8]
    /// Empty if there is none.
    public var host: [UInt8]
}

private struct MIMEAddressParser {
    private var reader: MIMETokenReader
    private var elements: [MIMEAddresses.Element] = []
    private var isInGroup = false

    /// Words in front of what decides what they are.
    private var phrase: [UInt8] = []
    /// The same without white space between them: the local part of an address without brackets.
    private var bare: [UInt8] = []
    private var comment: [UInt8]?

    init(_ value: [UInt8]) { reader = MIMETokenReader(value) }

    mutating func all() -> [MIMEAddresses.Element] {
        while elements.count < MIMEAddresses.elementsMax {
            let start = reader.at
            if let text = reader.skipSpace(), !text.isEmpty { comment = text }
            let isSpaced = reader.at > start && !phrase.isEmpty
            guard let byte = reader.next else { break }
            switch byte {
            case UInt8(ascii: ","):
                reader.skipOne()
                endMailbox()
            case UInt8(ascii: ";"):
                reader.skipOne()
                endMailbox()
                if isInGroup { elements.append(.groupEnd) }
                isInGroup = false
            case UInt8(ascii: ":") where !isInGroup:
                reader.skipOne()
                elements.append(.groupStart(name: phrase))
                isInGroup = true
                clear()
            case UInt8(ascii: "<"):
                reader.skipOne()
                takeAngle()
            case UInt8(ascii: "@"):
                reader.skipOne()
                takeHost()
            case UInt8(ascii: "\""): append(reader.quoted(), isSpaced)
            default: append(reader.word(), isSpaced)
            }
        }
        endMailbox()
        if isInGroup { elements.append(.groupEnd) }
        return elements
    }

    private mutating func append(_ word: [UInt8], _ isSpaced: Bool) {
        if isSpaced { phrase.append(UInt8(ascii: " ")) }
        phrase += word
        bare += word
    }

    private mutating func clear() { (phrase, bare, comment) = ([], [], nil) }

    private mutating func endMailbox() {
        if !phrase.isEmpty {
            elements.append(.mailbox(MIMEMailbox(name: comment, route: nil, local: bare, host: [])))
        }
        clear()
    }

    /// Behind the `@` of an address without brackets.
    private mutating func takeHost() {
        let host = reader.domain()
        var name = comment
        if let text = reader.skipSpace(), !text.isEmpty { name = text }
        elements.append(.mailbox(MIMEMailbox(name: name, route: nil, local: bare, host: host)))
        clear()
    }

    /// Behind the `<`.
    private mutating func takeAngle() {
        var route: [UInt8]?
        reader.skipSpace()
        if reader.next == UInt8(ascii: "@") {
            let start = reader.at
            while let byte = reader.next, byte != UInt8(ascii: ":"), byte != UInt8(ascii: ">") { reader.skipOne() }
            route = Array(reader.bytes[start..<reader.at]).trimmed
            if reader.next == UInt8(ascii: ":") { reader.skipOne() }
        }
        var local: [UInt8] = []
        var host: [UInt8] = []
        loop: while true {
            reader.skipSpace()
            guard let byte = reader.next else { break }
            switch byte {
            case UInt8(ascii: ">"):
                reader.skipOne()
                break loop
            case UInt8(ascii: "@"):
                reader.skipOne()
                host = reader.domain()
            case UInt8(ascii: "\""): local += reader.quoted()
            default: local += reader.word()
            }
        }
        let name = phrase.isEmpty ? comment : phrase
        if !local.isEmpty || !host.isEmpty {
            elements.append(.mailbox(MIMEMailbox(name: name, route: route, local: local, host: host)))
        }
        clear()
    }
}

extension MIMETokenReader {
    /// Up to white space or what means something in an address; at least one byte.
    fileprivate mutating func word() -> [UInt8] {
        let start = at
        repeat { skipOne() } while next.map(Self.isWordByte) ?? false
        return Array(bytes[start..<at])
    }

    /// A domain or a literal in brackets; empty if there is none.
    fileprivate mutating func domain() -> [UInt8] {
        var text: [UInt8] = []
        skipSpace()
        if next == UInt8(ascii: "[") {
            while let byte = next {
                skipOne()
                text.append(byte)
                if byte == UInt8(ascii: "]") { break }
            }
            return text
        }
        while let byte = next, Self.isWordByte(byte) {
            text.append(byte)
            skipOne()
        }
        return text
    }

    private static func isWordByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0...32, UInt8(ascii: "("), UInt8(ascii: "<"), UInt8(ascii: ">"), UInt8(ascii: ","), UInt8(ascii: ";"),
            UInt8(ascii: ":"), UInt8(ascii: "@"), UInt8(ascii: "\""):
            false
        default: true
        }
    }
}
