/// What ATRN is answered with (RFC 2645 §5.2.1).
public enum ATRNDecision: Hashable, Sendable {
    /// 250: mail for these domains, and no other, goes to the customer. They may have none, where the connection is held
    /// open or the site answers so: then the turned session sends what comes, or QUIT behind its EHLO.
    case turn([QualifiedDomain])
    /// 453: all are his, and nothing waits.
    case noMail
    /// 450: one at least is not his; then he gets none.
    case notYours
    /// 450: asked too often, or in another session of his just now.
    case tooOften
    /// 451: what he may have can't be looked up now.
    case cannotVerify

    /// Decides by the letter.
    ///
    /// - `requested`: what stood behind ATRN; empty: all that he may have.
    /// - `granted`: what he may have; nil: it can't be looked up.
    /// - `hasMail`: asked for a domain that he may have and wants.
    /// - `turnsWithoutMail`: 250 also when nothing waits: the connection is held open, or ended by QUIT.
    public static func decide(
        requested: [QualifiedDomain], granted: [QualifiedDomain]?, turnsWithoutMail: Bool,
        hasMail: (QualifiedDomain) -> Bool
    ) -> ATRNDecision {
        guard let granted else { return .cannotVerify }
        let known = Set(granted)
        guard !known.isEmpty, requested.allSatisfy(known.contains) else { return .notYours }
        let domains = requested.isEmpty ? granted : requested
        return turnsWithoutMail || domains.contains(where: hasMail) ? .turn(domains) : .noMail
    }

    public var reply: Reply {
        switch self {
        case .turn: Reply(250, EnhancedStatus(2, 0, 0), "OK, now reversing the connection")
        case .noMail: Reply(453, EnhancedStatus(4, 2, 0), "You have no mail")
        case .notYours: Reply(450, EnhancedStatus(4, 7, 1), "ATRN request refused")
        case .tooOften: Reply(450, EnhancedStatus(4, 7, 0), "ATRN request refused, try later")
        case .cannotVerify: Reply(451, EnhancedStatus(4, 3, 0), "Unable to process ATRN request now")
        }
    }
}
