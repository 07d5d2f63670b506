/// What an SMTP listener offers, and the limits of each of its sessions.
public struct SMTPServerSettings: Sendable {
    /// The name in the greeting and in the answer to EHLO: a domain in ASCII (A-labels), or an address literal.
    public var hostname: String
    /// Follows the name in the greeting; must begin with `ESMTP`, without CR and LF.
    public var greetingText = "ESMTP Postern"

    /// Bytes of one message, dot-stuffing not counted (RFC 1870 §4).
    public var messageSizeMax = 50 << 20
    /// Recipients accepted in one transaction; further ones get 452 4.5.3 (RFC 5321 §4.5.3.1.10).
    public var recipientsMax = 1_000
    /// Transactions in one session; a further MAIL gets 421 4.7.0 and the end (MAILMAX of RFC 9422).
    public var transactionsMax = 1_000
    /// Commands since the session began or a message was last accepted; one more gets 421 4.7.0 and the end.
    /// Must leave room for `recipientsMax`.
    public var commandsMax = 5_000
    /// Errors since the session began or a message was last accepted, at which it gets 421 4.7.0 and the end. Errors
    /// are: commands out of order or malformed, and permanent refusals.
    public var errorsMax = 20
    /// Errors from which on `SMTPServerSession.shouldDelayReplies` says so.
    public var errorsBeforeDelay = 10
    /// BDAT commands for one message; one more gets 421 4.7.0 and the end. They may be small, and each costs a reply.
    public var chunksMax = 20_000
    /// A command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512; DSN (RFC 3461 §5) and long addresses for more.
    public var lineMaxBytes = 2_048
    /// Bytes of one over-long command line that are skipped to find its end; past them the session ends.
    public var overlongMaxBytes = 64 << 10
    /// Bytes of refused content that are received and dropped, so that the peer sees the refusal, since the session
    /// began or a message was last accepted; with more the session ends.
    public var discardMaxBytes = 256 << 20

    /// Bytes of unsent replies at which commands wait: a peer that only asks and never reads costs no more (T-D1).
    public var outputPauseBytes = Int.max

    public var offersStartTLS = false
    public var offersXClient = false
    public var offersETRN = false

    public init(hostname: String) { self.hostname = hostname }
}
