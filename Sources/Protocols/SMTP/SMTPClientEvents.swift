extension SMTPClientSession {
    /// What `next` found. `answered` comes exactly once for each hand-over, whatever happens to the session.
    public enum Event: Sendable {
        /// Send the output, read more; keep the unconsumed input and present it again.
        case needMore
        /// The peer is ready for TLS. All input up to here was consumed: what came with the answer in the clear is
        /// dropped. Shake hands, then `tlsStarted`; or close, if that fails.
        case startTLS
        /// Greeting, EHLO and TLS, as the policy wants it, are done: `capabilities` are known, `canSend` is true.
        case ready
        /// The peer's answer for one recipient. A positive one promises nothing yet.
        case recipientAnswered(SMTPHandoverID, index: Int, Reply)
        /// Append the content behind the output, as `framing` says, and nothing else before; then call `contentSent`.
        case sendContent(SMTPHandoverID, SMTPContentFraming)
        /// The hand-over is over, for every recipient.
        case answered(SMTPHandoverOutcome)
        /// The session, once ready, ended in order: by our QUIT (its reply, or nil where the peer just closed) or by
        /// the peer's 421. Close.
        case closed(Reply?)
        /// The session cannot go on. Send what is in the output, without waiting for more, and close.
        case failed(SMTPClientFailure)
    }

    /// What the session is waiting for.
    public enum Phase: Sendable, CaseIterable {
        case greeting, hello, startTLS, tlsHandshake, idle, reset, mail, recipient, data, content, endOfContent, quit

        /// Seconds without progress after which the peer is given up (RFC 5321 §4.5.3.2). For `content`: without room
        /// for another block. For `idle`: how long to keep the connection, less than the five minutes a server waits.
        public var timeoutSeconds: Int {
            switch self {
            case .greeting, .hello, .mail, .recipient: 300
            case .startTLS, .data: 120
            case .tlsHandshake, .reset, .quit: 60
            case .idle: 240
            case .content: 180
            case .endOfContent: 600
            }
        }

        /// Completes "lost connection while …".
        public var words: String {
            switch self {
            case .greeting: "waiting for the greeting"
            case .hello: "waiting for the reply to EHLO"
            case .startTLS: "waiting for the reply to STARTTLS"
            case .tlsHandshake: "shaking hands for TLS"
            case .idle: "idle"
            case .reset: "waiting for the reply to RSET"
            case .mail: "waiting for the reply to MAIL"
            case .recipient: "waiting for the reply to RCPT"
            case .data: "waiting for the reply to DATA"
            case .content: "sending the content"
            case .endOfContent: "waiting for the reply to the content"
            case .quit: "waiting for the reply to QUIT"
            }
        }
    }
}

/// Names one hand-over within its session.
public struct SMTPHandoverID: Hashable, Sendable {
    let number: Int
}

/// How the content goes out.
public enum SMTPContentFraming: Hashable, Sendable {
    /// Behind DATA. `isStuffed`: through `DotStuffer`, with its `finish`. Else: as it is, then
    /// `DotStuffer.appendTerminator`.
    case dots(isStuffed: Bool)
    /// Behind BDAT, which is in the output: exactly `size` bytes, as they are, and no terminator.
    case chunk(size: Int)
}

/// How a hand-over ended.
public struct SMTPHandoverOutcome: Hashable, Sendable {
    /// How it ended for one recipient.
    public struct Recipient: Hashable, Sendable {
        /// The reply that decided. Positive: the peer has taken over the message for this recipient.
        public let reply: Reply
        /// What the decisive reply answered, or what was lost.
        public let phase: SMTPClientSession.Phase
        /// False for replies made up here: a lost connection, a message that the peer cannot take.
        public let isFromPeer: Bool
    }

    /// What `send` returned.
    public let id: SMTPHandoverID
    /// In the envelope's order.
    public let recipients: [Recipient]
    /// The peer offered DSN and got our parameters: for accepted recipients success and failure are its to report
    /// (RFC 3461 §5.2.1). Else the "relayed" DSN for NOTIFY=SUCCESS is ours (RFC 3461 §5.2.2).
    public let isDSNPassedOn: Bool
    /// All content was sent and its answer is unknown: what failed here may have arrived, and arrive again.
    public let isPossibleDuplicate: Bool
}

/// Why a session could not go on.
public struct SMTPClientFailure: Hashable, Sendable {
    /// What happened.
    public enum Reason: Hashable, Sendable {
        /// A greeting other than 220, or EHLO and HELO refused, or 421 before `ready`.
        case refused(Reply)
        /// TLS is required and the peer does not offer STARTTLS.
        case tlsNotOffered
        /// TLS is required and the peer answered STARTTLS so.
        case tlsRefused(Reply)
        case malformedReply(SMTPReplyParser.Fault)
        /// A reply to nothing, or one that means nothing where it came.
        case unexpectedReply(Reply)
        case connectionLost
        case timedOut
    }

    /// What happened.
    public let reason: Reason
    /// What the session was waiting for then.
    public let phase: SMTPClientSession.Phase

    /// The failure as a reply to each recipient: the peer's own, or a 4xx of ours.
    public var asReply: Reply {
        switch reason {
        case .refused(let reply): reply
        case .unexpectedReply: Reply(451, EnhancedStatus(4, 5, 0), "unexpected reply while \(phase.words)")
        case .tlsNotOffered: Reply(451, EnhancedStatus(4, 7, 4), "TLS is required, but was not offered")
        case .tlsRefused: Reply(451, EnhancedStatus(4, 7, 4), "TLS is required, but was refused")
        case .malformedReply: Reply(451, EnhancedStatus(4, 5, 0), "malformed reply while \(phase.words)")
        case .connectionLost: Reply(451, EnhancedStatus(4, 4, 2), "lost connection while \(phase.words)")
        case .timedOut: Reply(451, EnhancedStatus(4, 4, 2), "timed out while \(phase.words)")
        }
    }
}
