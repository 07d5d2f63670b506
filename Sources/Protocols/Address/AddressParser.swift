/// The path of a `MAIL` command (RFC 5321 §4.1.2): a mailbox, or nobody.
public enum ReversePath: Hashable, Sendable, CustomStringConvertible {
    /// `<>`: the message is a notification and is never answered with one.
    case null
    case mailbox(MailAddress)

    /// What goes between the angle brackets.
    public var description: String {
        switch self {
        case .null: ""
        case .mailbox(let address): address.description
        }
    }
}

/// Why a text is no address.
public enum AddressFault: Error, Hashable, Sendable {
    /// Not `<…>`.
    case brackets
    case localPart
    /// A local part alone that is not `Postmaster`.
    case noDomain
    case domain
    /// Longer than the limits of `AddressParser`.
    case length
}

/// Reads addresses as they stand in commands and in the configuration.
///
/// ```abnf
/// Path       = "<" [ A-d-l ":" ] Mailbox ">" / "<>" / "<Postmaster>"
/// A-d-l      = "@" Domain *( "," "@" Domain )         ; a source route: checked and dropped
/// Mailbox    = Local-part "@" ( Domain / address-literal )
/// Local-part = Dot-string / Quoted-string              ; RFC 5321 §4.1.2, with UTF-8 by RFC 6531 §3.3
/// ```
///
/// Leniencies, each for mail that is really seen:
/// - dots anywhere in an unquoted local part (addresses given out by Japanese mobile carriers until 2009);
/// - local parts up to 255 octets (VERP and SRS make more than 64; RFC 5321 §4.5.3.1 asks for no limit where possible);
/// - `_` in a domain label (host names of Windows domains).
public enum AddressParser {
    public static let localPartMaxBytes = 255
    public static let domainMaxBytes = 255
    /// Of an ASCII label; the A-label of a longer UTF-8 one is measured where it is made.
    public static let labelMaxBytes = 63

    /// Reads the path that begins at `position` and moves `position` behind its `>`.
    ///
    /// - Returns: `.mailbox` with a nil domain only for `<Postmaster>`.
    /// - Throws: what is wrong; `position` has not moved.
    public static func parsePath(
        _ bytes: UnsafeRawBufferPointer, at position: inout Int
    ) throws(AddressFault) -> ReversePath {
        var at = position
        guard at < bytes.count, bytes[at] == UInt8(ascii: "<") else { throw .brackets }
        at += 1
        guard at < bytes.count else { throw .brackets }
        if bytes[at] == UInt8(ascii: ">") {
            position = at + 1
            return .null
        }
        if bytes[at] == UInt8(ascii: "@") { try skipSourceRoute(bytes, at: &at) }
        let address = try parseMailbox(bytes, at: &at)
        guard at < bytes.count else { throw .brackets }
        guard bytes[at] == UInt8(ascii: ">") else { throw address.domain == nil ? .localPart : .domain }
        position = at + 1
        return .mailbox(address)
    }

    /// Reads a mailbox without brackets, as far as it goes.
    static func parseMailbox(
        _ bytes: UnsafeRawBufferPointer, at position: inout Int
    ) throws(AddressFault) -> MailAddress {
        let start = position
        let isQuoted = start < bytes.count && bytes[start] == UInt8(ascii: "\"")
        let end = isQuoted ? quotedEnd(bytes, from: start) : dotStringEnd(bytes, from: start)
        guard let end, end > start else { throw .localPart }
        guard end - start <= localPartMaxBytes else { throw .length }
        let localPart = text(bytes, start..<end)
        guard end < bytes.count, bytes[end] == UInt8(ascii: "@") else {
            guard end == bytes.count || bytes[end] == UInt8(ascii: ">") else { throw .localPart }
            let bare = MailAddress(localPart: localPart, domain: nil, domainText: "")
            guard !isQuoted, bare.isPostmaster else { throw .noDomain }
            position = end
            return bare
        }
        position = end + 1
        let (domain, domainText) = try parseDomain(bytes, at: &position)
        return MailAddress(localPart: localPart, domain: domain, domainText: domainText)
    }

    /// Reads a domain or an address literal, as far as it goes.
    static func parseDomain(
        _ bytes: UnsafeRawBufferPointer, at position: inout Int
    ) throws(AddressFault) -> (MailDomain, String) {
        let start = position
        guard start < bytes.count else { throw .domain }
        if bytes[start] == UInt8(ascii: "[") {
            guard let end = bytes[start...].prefix(64).firstIndex(of: UInt8(ascii: "]")) else { throw .domain }
            guard let address = parseLiteral(text(bytes, start + 1..<end)) else { throw .domain }
            position = end + 1
            return (.literal(address), text(bytes, start..<end + 1))
        }
        let end = try domainEnd(bytes, from: start)
        position = end
        let domainText = text(bytes, start..<end)
        let hasUpperCase = bytes[start..<end].contains { $0 >= UInt8(ascii: "A") && $0 <= UInt8(ascii: "Z") }
        return (.name(hasUpperCase ? lowerCase(bytes, start..<end) : domainText), domainText)
    }

    /// The inside of an address literal (RFC 5321 §4.1.3).
    private static func parseLiteral(_ inside: String) -> IPAddress? {
        if inside.prefix(5).lowercased() == "ipv6:" {
            let rest = inside.dropFirst(5)
            return rest.contains(":") ? IPAddress(rest) : nil
        }
        return inside.contains(":") ? nil : IPAddress(inside)
    }

    private static func skipSourceRoute(_ bytes: UnsafeRawBufferPointer, at position: inout Int) throws(AddressFault) {
        while true {
            guard position < bytes.count, bytes[position] == UInt8(ascii: "@") else { throw .domain }
            position += 1
            _ = try parseDomain(bytes, at: &position)
            guard position < bytes.count else { throw .brackets }
            let separator = bytes[position]
            position += 1
            if separator == UInt8(ascii: ":") { return }
            guard separator == UInt8(ascii: ",") else { throw .domain }
        }
    }

    /// Behind the closing quote; nil if there is none or the inside is malformed.
    private static func quotedEnd(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int? {
        var at = start + 1
        while at < bytes.count {
            switch bytes[at] {
            case UInt8(ascii: "\""): return at + 1
            case UInt8(ascii: "\\"):
                guard at + 1 < bytes.count, (32...126).contains(bytes[at + 1]) else { return nil }
                at += 2
            case 32...126: at += 1
            default:
                let length = characterLength(bytes, at: at)
                guard length > 0 else { return nil }
                at += length
            }
        }
        return nil
    }

    /// Behind the last byte that an unquoted local part may have; nil if it holds malformed UTF-8.
    private static func dotStringEnd(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int? {
        var at = start
        while at < bytes.count {
            let byte = bytes[at]
            if byte < 128 {
                guard isAtomText(byte) || byte == UInt8(ascii: ".") else { break }
                at += 1
            } else {
                let length = characterLength(bytes, at: at)
                guard length > 0 else { return nil }
                at += length
            }
        }
        return at
    }

    /// Behind the last byte of a domain name; its labels are checked.
    private static func domainEnd(_ bytes: UnsafeRawBufferPointer, from start: Int) throws(AddressFault) -> Int {
        var at = start
        var labelStart = start
        var isASCIILabel = true
        while true {
            let byte = at < bytes.count ? bytes[at] : 0
            if isLabelText(byte) {
                at += 1
            } else if byte >= 128 {
                let length = characterLength(bytes, at: at)
                guard length > 0 else { throw .domain }
                isASCIILabel = false
                at += length
            } else {
                guard at > labelStart, bytes[labelStart] != UInt8(ascii: "-"), bytes[at - 1] != UInt8(ascii: "-")
                else { throw .domain }
                guard at - start <= domainMaxBytes, !isASCIILabel || at - labelStart <= labelMaxBytes
                else { throw .length }
                guard byte == UInt8(ascii: ".") else { return at }
                at += 1
                labelStart = at
                isASCIILabel = true
            }
        }
    }

    /// `atext` of RFC 5322 §3.2.3.
    static func isAtomText(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        case UInt8(ascii: "!"), UInt8(ascii: "#"), UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"),
            UInt8(ascii: "'"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "/"),
            UInt8(ascii: "="), UInt8(ascii: "?"), UInt8(ascii: "^"), UInt8(ascii: "_"), UInt8(ascii: "`"),
            UInt8(ascii: "{"), UInt8(ascii: "|"), UInt8(ascii: "}"), UInt8(ascii: "~"):
            true
        default: false
        }
    }

    private static func isLabelText(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    /// The length of the UTF-8 character beyond ASCII at `at` (RFC 3629 §4), or 0 if it is malformed or a control
    /// character (U+0080 to U+009F).
    static func characterLength(_ bytes: UnsafeRawBufferPointer, at: Int) -> Int {
        let lead = bytes[at]
        let length: Int
        var second: ClosedRange<UInt8> = 0x80...0xbf
        switch lead {
        case 0xc2:
            length = 2
            second = 0xa0...0xbf
        case 0xc3...0xdf: length = 2
        case 0xe0:
            length = 3
            second = 0xa0...0xbf
        case 0xe1...0xec, 0xee, 0xef: length = 3
        case 0xed:
            length = 3
            second = 0x80...0x9f
        case 0xf0:
            length = 4
            second = 0x90...0xbf
        case 0xf1...0xf3: length = 4
        case 0xf4:
            length = 4
            second = 0x80...0x8f
        default: return 0
        }
        guard at + length <= bytes.count, second.contains(bytes[at + 1]) else { return 0 }
        for offset in 2..<max(length, 2) where !(0x80...0xbf).contains(bytes[at + offset]) { return 0 }
        return length
    }

    private static func text(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> String {
        String(decoding: UnsafeRawBufferPointer(rebasing: bytes[range]), as: UTF8.self)
    }

    private static func lowerCase(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> String {
        String(unsafeUninitializedCapacity: range.count) { lower in
            for (offset, byte) in bytes[range].enumerated() {
                let isUpper = byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z")
                lower[offset] = isUpper ? byte | 0x20 : byte
            }
            return range.count
        }
    }
}

extension MailAddress {
    /// An address from the configuration or the API, without brackets.
    ///
    /// - Throws: what is wrong with it; `Postmaster` alone has no domain.
    public init(validating text: String) throws(AddressFault) {
        var text = text
        let result = text.withUTF8 { utf8 -> Result<MailAddress, AddressFault> in
            let bytes = UnsafeRawBufferPointer(utf8)
            var at = 0
            do throws(AddressFault) {
                let address = try AddressParser.parseMailbox(bytes, at: &at)
                guard address.domain != nil else { throw .noDomain }
                guard at == bytes.count else { throw .domain }
                return .success(address)
            } catch {
                return .failure(error)
            }
        }
        self = try result.get()
    }
}

extension MailDomain {
    /// A domain or an address literal from the configuration or the API.
    public init(validating text: String) throws(AddressFault) {
        var text = text
        let result = text.withUTF8 { utf8 -> Result<MailDomain, AddressFault> in
            let bytes = UnsafeRawBufferPointer(utf8)
            var at = 0
            do throws(AddressFault) {
                let (domain, _) = try AddressParser.parseDomain(bytes, at: &at)
                guard at == bytes.count else { throw .domain }
                return .success(domain)
            } catch {
                return .failure(error)
            }
        }
        self = try result.get()
    }
}
