internal import Protocols

extension GatewayDocument {
    /// The keys of a gateway document, in its order.
    static let keys: SettingTable<GatewayDocument> = {
        let standard = GatewayDocument(trusted: "example.net")
        let text = { (text: String) in { @Sendable (_: GatewayDocument) in DocumentValue(.text(text)) } }
        let flag = { (flag: Bool) in { @Sendable (_: GatewayDocument) in DocumentValue(.bool(flag)) } }
        let number = { (number: Int) in { @Sendable (_: GatewayDocument) in DocumentValue(.integer(number)) } }
        let null = { @Sendable (_: GatewayDocument) in DocumentValue.null }
        let none = { @Sendable (_: GatewayDocument) in DocumentValue(.list([])) }
        func notBuilt(_ key: String, _ standard: @escaping @Sendable (GatewayDocument) -> DocumentValue)
            -> Setting<GatewayDocument>
        {
            Setting(notBuilt: key, standardText: standard(GatewayDocument(trusted: "DOMAIN")).flow, standard)
        }

        return SettingTable([
            Setting(domain: "The domain that the gateway serves; it is the gateway's name and never changes."),
            Setting("enabled", \.isEnabled, .flag, in: standard, "false: its mail is refused with `450 4.2.1`."),
            Setting("hold", \.isHeld, .flag, in: standard, "true: mail is accepted and nothing leaves."),
            Setting(
                "mailDirectory", \.mailDirectory, ValueForm.mailDirectory.orNull, in: standard,
                "Where its messages are kept, from the data folder on.", standardText: "stores/DOMAIN",
                effective: { $0.effectiveMailDirectory }),
            notBuilt("extractAttachments", flag(false)),
            notBuilt("attachmentRetention", text("30d")),
            Setting(
                "delivery.when", \.delivery, .oneOf, in: standard,
                "`immediately`, or `onContact`: nothing is pushed or probed until ETRN or a flush.",
                wordsNotBuilt: ["schedule"]),
            notBuilt("delivery.windows", none),
            notBuilt("delivery.timeZone", text("UTC")),
            notBuilt("delivery.interval", null),
            notBuilt("delivery.count", null),
            notBuilt("delivery.age", null),
            Setting(
                "forward.server", \.forward.server, ValueForm.server.orNull, in: standard,
                "The customer's server: a name is looked up as MX, then A and AAAA; `[name]` or an address skips MX; null "
                    + "is the domain's own MX set."),
            Setting("forward.port", \.forward.port, .port, in: standard, "Its port."),
            notBuilt("forward.account", null),
            Setting(
                "forward.envelopeFrom", \.forward.envelopeFrom, ValueForm.mailAddress.orNull, in: standard,
                "Replaces the reverse-path of what is pushed; `<>` stays `<>`."),
            notBuilt("forward.keepCopies", flag(false)),
            notBuilt("forward.copyRetention", text("30d")),
            Setting(
                "forward.tls", \.forward.tls, .oneOf, in: standard,
                "`none`; `may`: used when offered; `encrypt`: required; `verify`: with a trusted certificate."),
            Setting(
                "forward.source", \.forward.source, ValueForm.address.orNull, in: standard,
                "Our address on connections to the customer's server; null is the system's choice."),
            Setting(
                "forward.concurrency", \.forward.concurrency, .integer(Limits.concurrency), in: standard,
                "Connections to the customer's server at most."),
            Setting(
                "dequeue.method", \.dequeue.method, .oneOf, in: standard,
                "The one way by which the customer takes mail: `none`, `atrn`, `etrn`, or `mailbox` (POP3 and IMAP)."),
            Setting(
                "dequeue.user", \.dequeue.user, ValueForm.customerName.orNull, in: standard,
                "By which the customer logs in for ATRN and ETRN; gateways with the same one are one customer with one secret.",
                standardText: "DOMAIN", effective: { $0.effectiveUser }),
            Setting(
                "dequeue.secret", \.dequeue.secret, ValueForm.secret.orNull, in: standard,
                "For ATRN, and for ETRN with AUTH; at one of a customer's gateways.", isSecret: true),
            Setting(
                "dequeue.atrn.requireAuthentication", \.dequeue.atrn.requiresAuthentication, .flag, in: standard,
                "false: the address alone says who asks, and `dequeue.atrn.requireAddress` must name some."),
            Setting(
                "dequeue.atrn.requireAddress", \.dequeue.atrn.requireAddress, ValueForm.network.list(maxCount: 100),
                in: standard, "Addresses that may ask for the mail by ATRN; an empty list is all."),
            Setting(
                "dequeue.atrn.holdOpen", \.dequeue.atrn.holdsOpen, .flag, in: standard,
                "true: the turned connection stays open, and new mail goes out at once."),
            Setting(
                "dequeue.etrn.server", \.dequeue.etrn.server, ValueForm.server.orNull, in: standard,
                "Where ETRN sends the mail; null is `forward.server`."),
            Setting("dequeue.etrn.port", \.dequeue.etrn.port, .port, in: standard, "Its port."),
            Setting(
                "dequeue.etrn.sendToRequester", \.dequeue.etrn.sendsToRequester, .flag, in: standard,
                "true: to the address that asked, at `dequeue.etrn.port`."),
            Setting(
                "dequeue.etrn.allow", \.dequeue.etrn.allow, ValueForm.network.list(maxCount: 100), in: standard,
                "Addresses that may ask by ETRN; an empty list is nobody, or with authentication all."),
            Setting(
                "dequeue.etrn.deny", \.dequeue.etrn.deny, ValueForm.network.list(maxCount: 100), in: standard,
                "Addresses that may not, whatever `allow` says."),
            Setting(
                "dequeue.etrn.requireAuthentication", \.dequeue.etrn.requiresAuthentication, .flag, in: standard,
                "Whether ETRN wants AUTH first."),
            Setting(
                "dequeue.mailbox.user", \.dequeue.mailbox.user, ValueForm.customerName.orNull, in: standard,
                "By which POP3 and IMAP log in; of one gateway only.", standardText: "DOMAIN",
                effective: { $0.effectiveMailboxUser }),
            Setting(
                "dequeue.mailbox.password", \.dequeue.mailbox.password, ValueForm.secret.orNull, in: standard,
                "null: nobody can log in.", isSecret: true),
            Setting("dequeue.mailbox.pop3", \.dequeue.mailbox.offersPOP3, .flag, in: standard, "By POP3."),
            notBuilt("dequeue.mailbox.imap", flag(true)),
            Setting(
                "dequeue.mailbox.readOnly", \.dequeue.mailbox.isReadOnly, .flag, in: standard,
                "true: mail can be looked at and not deleted; then the mailbox may stand beside any method."),
            Setting("quota.enabled", \.quota.isEnabled, .flag, in: standard, "Whether the two limits hold."),
            Setting(
                "quota.messages", \.quota.maxMessages, .integer(Limits.messages), in: standard,
                "Stored messages at most; 0 is no limit."),
            Setting(
                "quota.bytes", \.quota.maxBytes, .size(Limits.bytes), in: standard,
                "Bytes of stored content at most; 0 is no limit."),
            Setting(
                "quota.code", \.quota.code, ValueForm.quotaCode.orNull, in: standard,
                "The reply beyond a limit: 452 (try again) or 552 (bounce); null is the server's `quotaCode`."),
            notBuilt("quota.notify", flag(false)),
            notBuilt("quota.notifyTo", null),
            notBuilt("quota.notifyFrom", null),
            Setting(
                "retry.schedule", \.retry.stepsSeconds,
                ValueForm.duration(RetrySchedule.Limits.stepSeconds).list(
                    maxCount: RetrySchedule.Limits.steps, minCount: 1),
                in: standard, "The waits after the first, second, … failed attempt; the last one repeats."),
            Setting(
                "retry.lifetime", \.retry.lifetime, ValueForm.lifetime.orNull, in: standard,
                "How long mail is tried before it bounces, counted from the `250` that accepted it; `never` when delivery "
                    + "is `onContact`, unless set.", standardText: "5d",
                effective: { $0.effectiveLifetimeSeconds.map { .seconds($0) } ?? .never }),
            notBuilt("mode", text("store")),
            notBuilt("recipients.sources", none),
            notBuilt("recipients.whenUp", text("reject")),
            notBuilt("recipients.whenDown", text("learned")),
        ])
    }()
}

extension Setting where Owner == GatewayDocument {
    /// `domain`: read with the document, and never changed by it.
    fileprivate init(domain text: String) {
        key = "domain"
        self.text = text
        allowed = "the gateway's own domain"
        standardText = "DOMAIN"
        isBuilt = true
        read = { DocumentValue(.text($0.domain)) }
        tell = read
        isStandard = { _ in false }
        write = { (document, value) throws(InvalidSetting) in
            guard value.string.flatMap(DomainNameNormaliser.aLabel) == document.domain else {
                throw InvalidSetting(
                    "`domain`\(value.place): \(value.quoted) is not allowed; the gateway `\(document.domain)` keeps its name"
                )
            }
        }
    }
}

extension ValueForm where Value == String {
    fileprivate static let mailDirectory = ValueForm(
        "a path of at most \(PathText.maxBytes) bytes without control characters and without empty, `.` or `..` parts",
        parse: { $0.string.flatMap { PathText.isDirect($0) ? $0 : nil } }, print: { DocumentValue(.text($0)) })
}

extension ValueForm where Value == Gateway.QuotaCode {
    static let quotaCode = ValueForm(
        "452 or 552", parse: { $0.integer.flatMap(Gateway.QuotaCode.init(rawValue:)) },
        print: { DocumentValue(.integer($0.rawValue)) })
}

extension ValueForm where Value == GatewayDocument.Lifetime {
    fileprivate static let lifetime: ValueForm = {
        let duration = ValueForm<Int>.duration(RetrySchedule.Limits.lifetimeSeconds)
        return ValueForm(
            "\(duration.allowed), or never",
            parse: { value in value.string == "never" ? .never : duration.parse(value).map { .seconds($0) } },
            print: { lifetime in
                switch lifetime {
                case .never: DocumentValue(.text("never"))
                case .seconds(let seconds): duration.print(seconds)
                }
            })
    }()
}
