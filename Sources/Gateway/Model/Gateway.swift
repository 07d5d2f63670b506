public import Protocols

/// All settings of one customer's domain, ready for use: immutable, shared by all reactors.
public final class Gateway: Sendable {
    /// Never reused; 0 is the server's own, `@system`.
    public let id: UInt64
    /// A-labels in lower case; `@system` for the server's own.
    public let domain: String
    /// False: `450 4.2.1` to every recipient.
    public let isEnabled: Bool
    /// True: mail is accepted and nothing leaves.
    public let isHeld: Bool
    /// Relative to the data folder, unless absolute.
    public let mailDirectory: String
    public let delivery: Delivery
    public let forward: Forward
    public let dequeue: Dequeue
    /// nil: no limit.
    public let quota: Quota?
    public let retry: RetrySchedule

    /// What starts a delivery.
    public enum Delivery: String, CaseIterable, Hashable, Sendable {
        case immediately
        /// ETRN or a flush; nothing is pushed or probed before.
        case onContact
    }

    /// The host that mail is pushed to.
    public enum NextHop: Hashable, Sendable {
        /// The domain's MX set, without us and without worse preferences.
        case mxOfOwnDomain
        /// The MX set of each recipient's domain: only for mail of our own, in `@system`.
        case mxOfRecipientDomain
        /// Looked up as MX, then A and AAAA (RFC 5321 §5.1); with `skipMX` as A and AAAA only.
        case host(String, skipMX: Bool)
        case address(IPAddress)

        init(_ server: MailServer) {
            switch server {
            case .host(let name, let skipMX): self = .host(name, skipMX: skipMX)
            case .address(let address): self = .address(address)
            }
        }
    }

    /// How much TLS the next hop must have (RFC 3207).
    public enum TLSPolicy: String, CaseIterable, Hashable, Sendable {
        case none
        /// Used when offered; any certificate.
        case may
        /// Required; any certificate.
        case encrypt
        /// Required, with a trusted certificate for the host's name.
        case verify
    }

    public struct Forward: Hashable, Sendable {
        public let nextHop: NextHop
        public let port: UInt16
        /// Replaces the reverse-path, but `<>` stays `<>`; nil: the sender's own.
        public let envelopeFrom: MailAddress?
        public let tls: TLSPolicy
        /// Our address on these connections; nil: the system's choice.
        public let source: IPAddress?
        /// Connections at most.
        public let concurrency: Int
    }

    public struct Quota: Hashable, Sendable {
        /// nil: no limit.
        public let maxMessages: Int?
        /// Of stored content; nil: no limit.
        public let maxBytes: Int?
        /// nil: the server's (`quotaCode`).
        public let code: QuotaCode?
    }

    /// The reply's code to mail beyond a quota.
    public enum QuotaCode: Int, CaseIterable, Hashable, Sendable {
        /// `452 4.2.2`: try again later.
        case tryAgain = 452
        /// `552 5.2.2`: bounce.
        case bounce = 552
    }

    /// The same one with another next hop.
    func with(_ nextHop: NextHop, port: UInt16) -> Gateway {
        let other = Forward(
            nextHop: nextHop, port: port, envelopeFrom: forward.envelopeFrom, tls: forward.tls, source: forward.source,
            concurrency: forward.concurrency)
        return Gateway(
            id: id, domain: domain, isEnabled: isEnabled, isHeld: isHeld, mailDirectory: mailDirectory,
            delivery: delivery, forward: other, dequeue: dequeue, quota: quota, retry: retry)
    }

    init(
        id: UInt64, domain: String, isEnabled: Bool, isHeld: Bool, mailDirectory: String, delivery: Delivery,
        forward: Forward, dequeue: Dequeue = .none, quota: Quota?, retry: RetrySchedule
    ) {
        self.id = id
        self.domain = domain
        self.isEnabled = isEnabled
        self.isHeld = isHeld
        self.mailDirectory = mailDirectory
        self.delivery = delivery
        self.forward = forward
        self.dequeue = dequeue
        self.quota = quota
        self.retry = retry
    }
}

extension Gateway {
    convenience init(_ stored: StoredGateway) { self.init(id: stored.id, stored.document, stored.secrets) }

    convenience init(id: UInt64, _ document: GatewayDocument, _ secrets: StoredSecrets = .none) {
        let forward = document.forward
        let quota = document.quota
        self.init(
            id: id, domain: document.domain, isEnabled: document.isEnabled, isHeld: document.isHeld,
            mailDirectory: document.effectiveMailDirectory, delivery: document.delivery,
            forward: Forward(
                nextHop: forward.server.map { NextHop($0) } ?? .mxOfOwnDomain, port: forward.port,
                envelopeFrom: forward.envelopeFrom, tls: forward.tls, source: forward.source,
                concurrency: forward.concurrency),
            dequeue: Dequeue(document, secrets),
            quota: quota.isEnabled && (quota.maxMessages > 0 || quota.maxBytes > 0)
                ? Quota(
                    maxMessages: quota.maxMessages > 0 ? quota.maxMessages : nil,
                    maxBytes: quota.maxBytes > 0 ? quota.maxBytes : nil, code: quota.code) : nil,
            retry: RetrySchedule(
                stepsSeconds: document.retry.stepsSeconds, lifetimeSeconds: document.effectiveLifetimeSeconds))
    }

    /// The name of the server's own queue. No domain name can be equal to it.
    public static let systemDomain = "@system"
    public static let systemID: UInt64 = 0
    static let systemMailDirectory = "stores/\(systemDomain)"

    /// The gateway of mail of our own: DSNs, notices, mail to accounts, and Postmaster's while nobody is named for it.
    public static func system(_ settings: Settings) -> Gateway {
        Gateway(
            id: systemID, domain: systemDomain, isEnabled: true, isHeld: false, mailDirectory: systemMailDirectory,
            delivery: .immediately,
            forward: Forward(
                nextHop: settings.smarthost.map { NextHop($0.server) } ?? .mxOfRecipientDomain,
                port: settings.smarthost?.port ?? 25, envelopeFrom: nil, tls: .may, source: nil, concurrency: 20),
            quota: nil, retry: .standard)
    }
}
