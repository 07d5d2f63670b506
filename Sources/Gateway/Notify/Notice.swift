import Protocols

/// A DSN that the sender of a message is owed.
struct Notice {
    let kind: DeliveryStatusNotification.Kind
    /// Of the message that it is about.
    let id: QueueID
    let parcel: SettledParcel
    /// Indexes into the envelope's recipients.
    let about: [(Int, RecipientOutcome)]

    /// Age of a message at which its sender hears that it is late, once.
    static let delayedAfterSeconds = 4 * 3_600
    /// Bytes of the original that a notice may bring back.
    static let originalMaxBytes = 64 << 10

    /// - Parameter lifetimeSeconds: of the message's queue, for Will-Retry-Until.
    func build(noticeID: QueueID, hostname: String, wall: Int64, lifetimeSeconds: Int?)
        -> DeliveryStatusNotification.Content
    {
        let envelope = parcel.envelope
        let dsn = DeliveryStatusNotification(
            kind: kind, id: noticeID.description, hostname: hostname, sender: envelope.reversePath,
            unixSeconds: wall / 1_000_000_000, queueID: id.description, envelopeID: envelope.envid,
            arrivalUnixSeconds: id.milliseconds / 1_000,
            retryUntilUnixSeconds: lifetimeSeconds.map { id.milliseconds / 1_000 + Int64($0) },
            ret: envelope.ret.map { $0 == "FULL" ? .full : .headers },
            originalIsInternational: envelope.needsSMTPUTF8,
            recipients: about.map { at, outcome in
                DeliveryStatusNotification.Recipient(
                    address: envelope.recipients[at].path, originalRecipient: envelope.recipients[at].orcpt,
                    status: Self.status(outcome.reply, kind), remoteMTA: outcome.remoteMTA,
                    reply: outcome.remoteMTA == nil ? nil : outcome.reply,
                    explanation: outcome.remoteMTA == nil ? outcome.reply.text : nil,
                    lastAttemptUnixSeconds: wall / 1_000_000_000)
            })
        return parcel.original.withUnsafeBytes { dsn.build(original: $0, isWhole: parcel.isWhole) }
    }

    /// A failure's status begins with 5 and a delay's with 4 (RFC 3463 §3), whatever the reply's class was.
    private static func status(_ reply: Reply, _ kind: DeliveryStatusNotification.Kind) -> EnhancedStatus {
        let given = reply.status ?? EnhancedStatus(reply.code / 100, 0, 0)
        switch kind {
        case .failed:
            // Expired: what stood in the way was transient (RFC 3463 §3.5: delivery time expired).
            return given.class == 5 ? given : EnhancedStatus(5, 4, 7)
        case .delayed: return EnhancedStatus(4, given.subject, given.detail)
        case .relayed, .delivered: return EnhancedStatus(2, given.subject, given.detail)
        }
    }
}
