internal import Protocols

/// A password or shared secret, as a document holds it. Nothing prints it: whoever reads a document sees the mask.
public enum Secret: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    /// Given as the mask: what is stored stays.
    case unchanged
    case text(String)

    public static let mask = "********"

    public var description: String { Self.mask }
    public var debugDescription: String { Self.mask }
}

/// What servers check a login against.
public struct SecretKeys: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    /// CRAM-MD5 and APOP want the secret itself (RFC 2195 §2, RFC 1939 §7).
    let bytes: [UInt8]
    let scram: SCRAMKeys

    public var description: String { Secret.mask }
    public var debugDescription: String { Secret.mask }
}

extension ValueForm where Value == Secret {
    private static let maxBytes = 255

    /// Printable ASCII: SASLprep (RFC 4013) leaves it as it is.
    static let secret = ValueForm(
        "1 to \(maxBytes) printable ASCII characters; it is shown as `\(Secret.mask)`, which leaves it as it is",
        parse: { value in
            guard let text = value.string, (1...maxBytes).contains(text.utf8.count),
                text.utf8.allSatisfy({ $0 >= 32 && $0 < 127 })
            else { return nil }
            return text == Secret.mask ? .unchanged : .text(text)
        }, print: { _ in DocumentValue(.text(Secret.mask)) })
}

extension ValueForm where Value == String {
    private static let userMaxBytes = 255

    /// Names by which customers log in.
    static let customerName = ValueForm(
        "1 to \(userMaxBytes) printable ASCII characters without spaces; capitals count as small letters",
        parse: { value in
            guard let text = value.string, (1...userMaxBytes).contains(text.utf8.count),
                text.utf8.allSatisfy({ $0 > 32 && $0 < 127 })
            else { return nil }
            return UserName.folded(text)
        }, print: { DocumentValue(.text($0)) })
}

/// Names of customers and mailboxes.
enum UserName {
    /// As it is compared.
    static func folded(_ name: String) -> String {
        String(decoding: name.utf8.map { (65...90).contains($0) ? $0 | 0x20 : $0 }, as: UTF8.self)
    }
}
