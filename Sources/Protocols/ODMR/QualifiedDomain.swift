/// A domain name in full, as ATRN and ETRN take it, in lower case.
///
/// ```abnf
/// domain     = sub-domain 1*("." sub-domain)           ; RFC 2645 §5.2.1
/// sub-domain = (ALPHA / DIGIT) *(ldh-str)
/// ```
///
/// So neither an address literal nor a single label is one; an international name is written in A-labels.
public struct QualifiedDomain: Hashable, Sendable, CustomStringConvertible {
    /// Bytes (RFC 5321 §4.5.3.1.2).
    public static let maxBytes = 255
    /// Bytes of a label (RFC 1034 §3.1).
    public static let labelMaxBytes = 63

    public let description: String

    /// Nil if it is none.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count <= Self.maxBytes else { return nil }
        let labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard labels.count >= 2, labels.allSatisfy({ Self.isLabel($0) }) else { return nil }
        description = String(
            decoding: bytes.map { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0 }, as: UTF8.self
        )
    }

    public init?(_ text: String) { self.init(Array(text.utf8)) }

    private static func isLabel(_ label: ArraySlice<UInt8>) -> Bool {
        (1...labelMaxBytes).contains(label.count) && label.first != UInt8(ascii: "-")
            && label.last != UInt8(ascii: "-")
            && label.allSatisfy { isLetterOrDigit($0) || $0 == UInt8(ascii: "-") }
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: false
        }
    }

    /// It is `parent` or stands below it.
    public func isWithin(_ parent: QualifiedDomain) -> Bool {
        self == parent || description.hasSuffix("." + parent.description)
    }
}
