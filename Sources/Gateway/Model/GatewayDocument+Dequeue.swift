public import Protocols

extension GatewayDocument {
    /// How a customer takes mail away.
    public struct Dequeue: Hashable, Sendable {
        public internal(set) var method = Gateway.Dequeue.Method.none
        /// nil: the domain.
        public internal(set) var user: String?
        /// nil: none; another gateway of the same user may hold the customer's.
        public internal(set) var secret: Secret?
        public internal(set) var atrn = Gateway.Dequeue.ATRN()
        public internal(set) var etrn = Gateway.Dequeue.ETRN()
        public internal(set) var mailbox = Mailbox()
    }

    public struct Mailbox: Hashable, Sendable {
        /// nil: the domain.
        public internal(set) var user: String?
        /// nil: nobody can log in.
        public internal(set) var password: Secret?
        public internal(set) var offersPOP3 = true
        public internal(set) var offersIMAP = true
        public internal(set) var isReadOnly = false
    }

    public var effectiveUser: String { dequeue.user ?? domain }
    public var effectiveMailboxUser: String { dequeue.mailbox.user ?? domain }

    /// Puts what is stored in the place of secrets that were given as the mask.
    mutating func keepSecrets(of old: GatewayDocument?) throws(InvalidSetting) {
        if dequeue.secret == .unchanged {
            guard let kept = old?.dequeue.secret else { throw Self.nothingToKeep("dequeue.secret") }
            dequeue.secret = kept
        }
        if dequeue.mailbox.password == .unchanged {
            guard let kept = old?.dequeue.mailbox.password else { throw Self.nothingToKeep("dequeue.mailbox.password") }
            dequeue.mailbox.password = kept
        }
    }

    private static func nothingToKeep(_ key: String) -> InvalidSetting {
        InvalidSetting(
            "`\(key)`: `\(Secret.mask)` stands for one that is stored, and none is; give it, or null for none")
    }
}

extension Gateway {
    /// How its customer takes mail away.
    public struct Dequeue: Hashable, Sendable {
        /// The one way that takes.
        public enum Method: String, CaseIterable, Hashable, Sendable { case none, atrn, etrn, mailbox }

        public struct ATRN: Hashable, Sendable {
            public internal(set) var requiresAuthentication = true
            /// Addresses that may ask; empty: all.
            public internal(set) var requireAddress: [IPNetwork] = []
            /// 250 also when nothing waits, and the turned session stays.
            public internal(set) var holdsOpen = false
        }

        public struct ETRN: Hashable, Sendable {
            /// Where the mail goes; nil: `forward.server`.
            public internal(set) var server: MailServer?
            public internal(set) var port: UInt16 = 25
            /// To the address that asked.
            public internal(set) var sendsToRequester = false
            /// Empty: nobody, unless authentication is required.
            public internal(set) var allow: [IPNetwork] = []
            /// Stronger than `allow`.
            public internal(set) var deny: [IPNetwork] = []
            public internal(set) var requiresAuthentication = true
        }

        public struct Mailbox: Hashable, Sendable {
            let user: String
            /// nil: nobody can log in.
            let password: SecretKeys?
            let offersPOP3: Bool
            let offersIMAP: Bool
            let isReadOnly: Bool
        }

        public let method: Method
        /// Gateways with the same one are one customer.
        public let user: String
        let secret: SecretKeys?
        public let atrn: ATRN
        public let etrn: ETRN
        /// nil: there is none to log in to.
        public let mailbox: Mailbox?

        static let none = Dequeue(
            method: .none, user: "", secret: nil, atrn: ATRN(), etrn: ETRN(), mailbox: nil)
    }
}

extension Gateway.Dequeue {
    init(_ document: GatewayDocument, _ secrets: StoredSecrets) {
        let dequeue = document.dequeue
        let mailbox = dequeue.mailbox
        let isOpen = dequeue.method == .mailbox || mailbox.isReadOnly
        self.init(
            method: dequeue.method, user: document.effectiveUser, secret: secrets.customer?.keys, atrn: dequeue.atrn,
            etrn: dequeue.etrn,
            mailbox: isOpen
                ? Mailbox(
                    user: document.effectiveMailboxUser, password: secrets.mailbox?.keys,
                    offersPOP3: mailbox.offersPOP3,
                    offersIMAP: mailbox.offersIMAP, isReadOnly: mailbox.isReadOnly) : nil)
    }
}

extension Gateway.Dequeue {
    /// What keeps its customer from coming, in an administrator's words.
    ///
    /// - Parameter hasSecret: The customer's secret is set, at this gateway or another of his.
    func obstacles(hasSecret: Bool) -> [String] {
        var found: [String] = []
        if let mailbox, mailbox.password == nil {
            found.append("nobody can log in to the mailbox: set `dequeue.mailbox.password`")
        }
        let wantsSecret =
            switch method {
            case .atrn: atrn.requiresAuthentication
            case .etrn: etrn.requiresAuthentication
            case .none, .mailbox: false
            }
        if wantsSecret, !hasSecret {
            found.append("`\(user)` can't log in for \(method.rawValue.uppercased()): set `dequeue.secret`")
        }
        if method == .etrn, !etrn.requiresAuthentication, etrn.allow.isEmpty {
            found.append("nobody may ask by ETRN: name addresses in `dequeue.etrn.allow`")
        }
        return found
    }
}
