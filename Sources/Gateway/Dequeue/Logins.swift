import Protocols
import Reactor

/// Who may log in, and how often it may be tried.
extension Core {
    /// What somebody logs in for.
    enum LoginPurpose {
        case pop3
        /// ATRN and ETRN.
        case customer
    }

    func saslOffer(_ wanted: [SASLMechanism]) -> SASLOffer {
        SASLOffer(
            wanted: wanted,
            context: SASLServerContext(
                functions: settings.logins.functions, hostname: settings.hostname,
                nobodySecret: settings.logins.nobodySecret))
    }

    /// The answer to what a machine asks; the same work whether there is such a user or not.
    func answer(_ question: SASLQuestion, for purpose: LoginPurpose, client: IPAddress) -> SASLAnswer {
        switch question {
        case .password(let user, let password):
            guard mayTry(user, client) else { return .unavailable }
            let keys = secret(of: user, for: purpose)
            // Of equal length, whatever the two are.
            let functions = settings.logins.functions
            let isSame = functions.areEqual(
                functions.hmacSHA256(settings.logins.nobodySecret, password),
                functions.hmacSHA256(settings.logins.nobodySecret, keys?.bytes ?? []))
            return keys == nil ? .nobody : .verdict(isSame)
        case .secret(let user):
            guard mayTry(user, client) else { return .unavailable }
            return secret(of: user, for: purpose).map { .secret($0.bytes) } ?? .nobody
        case .scramKeys(let user):
            guard mayTry(user, client) else { return .unavailable }
            return secret(of: user, for: purpose).map { .scram($0.scram) } ?? .nobody
        }
    }

    private func secret(of user: String, for purpose: LoginPurpose) -> SecretKeys? {
        switch purpose {
        case .pop3:
            guard let mailbox = routes.snapshot.mailbox(ofUser: user)?.dequeue.mailbox, mailbox.offersPOP3 else {
                return nil
            }
            return mailbox.password
        case .customer:
            return routes.snapshot.gateways(ofCustomer: user).lazy.compactMap(\.dequeue.secret).first
        }
    }

    private func mayTry(_ user: String, _ client: IPAddress) -> Bool {
        isUnlimited(client) || guesses.mayTry(user, client, now: reactor.now)
    }

    func loginFailed(_ user: String, _ client: IPAddress, session: String, listener: String) {
        log.loginFailed(user, client: client.description, session: session, listener: listener)
        guesses.failed(user, client, now: reactor.now)
    }
}

/// Failed logins (T-D5), of one reactor.
///
/// An address that guesses is refused for a while. Many who guess at one user's password don't lock him out: then only addresses
/// that have themselves failed are refused.
struct Guesses {
    private struct Count {
        var failures = 0
        /// Of the first of these.
        var since: UInt64
    }
    private var byClient: [IPAddress: Count] = [:]
    private var byUser: [String: Count] = [:]

    static let ofClientMax = 20
    static let ofUserMax = 100
    private static let nanoseconds: UInt64 = 600 * Limits.nanosecondsPerSecond
    /// Clients and users that are remembered; above, all are forgotten.
    private static let entriesMax = 20_000

    func mayTry(_ user: String, _ client: IPAddress, now: UInt64) -> Bool {
        let ofClient = Self.live(byClient[client], now)
        if ofClient >= Self.ofClientMax { return false }
        return ofClient == 0 || Self.live(byUser[UserName.folded(user)], now) < Self.ofUserMax
    }

    mutating func failed(_ user: String, _ client: IPAddress, now: UInt64) {
        if byClient.count > Self.entriesMax { byClient = [:] }
        if byUser.count > Self.entriesMax { byUser = [:] }
        Self.add(&byClient[client, default: Count(since: now)], now)
        Self.add(&byUser[UserName.folded(user), default: Count(since: now)], now)
    }

    private static func live(_ count: Count?, _ now: UInt64) -> Int {
        guard let count, now - count.since < nanoseconds else { return 0 }
        return count.failures
    }

    private static func add(_ count: inout Count, _ now: UInt64) {
        if now - count.since >= nanoseconds { count = Count(since: now) }
        count.failures += 1
    }
}

/// What a host brings to logins.
struct LoginMeans: @unchecked Sendable {
    // The functions are the library's or a test's; both may be called on any thread.
    var functions = SASLFunctions.openSSL
    /// See `SASLServerContext`.
    var nobodySecret: [UInt8]
}
