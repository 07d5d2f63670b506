/// What follows the last unquoted `@`.
///
/// - `name`: lower case, no trailing dot. ASCII (A-labels) or UTF-8 (U-labels) as it was received; mapping one to the
///   other needs tables and is the Gateway's.
/// - `literal`: `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
public enum MailDomain: Hashable, Sendable, CustomStringConvertible {
    case name(String)
    case literal(IPAddress)

    public var description: String {
        switch self {
        case .name(let name): name
        case .literal(let address): "[\(address.literalText)]"
        }
    }
}

/// A mailbox (RFC 5321 §4.1.2, RFC 6531 §3.3), or `Postmaster` alone as a forward-path (RFC 5321 §4.1.1.3).
///
/// `localPart` is kept exactly as it came, quotes included: it is opaque here and never looked into.
public struct MailAddress: Hashable, Sendable, CustomStringConvertible {
    public let localPart: String
    /// nil only for the bare `Postmaster`.
    public let domain: MailDomain?
    /// The domain as the peer wrote it (case kept), for sending on.
    public let domainText: String

    public init(localPart: String, domain: MailDomain?, domainText: String) {
        self.localPart = localPart
        self.domain = domain
        self.domainText = domainText
    }

    /// `local@domain`, as it goes between angle brackets.
    public var description: String { domain == nil ? localPart : "\(localPart)@\(domainText)" }

    /// Needs SMTPUTF8 to travel (RFC 6531 §3.3).
    public var isInternational: Bool { localPart.utf8.contains { $0 > 127 } || domainText.utf8.contains { $0 > 127 } }

    /// Postmaster in any case, at any domain or none (RFC 5321 §4.5.1).
    public var isPostmaster: Bool { localPart.utf8.count == 10 && localPart.lowercased() == "postmaster" }
}
