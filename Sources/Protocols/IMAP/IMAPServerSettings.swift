/// What an IMAP listener offers, and the limits of each of its sessions.
public struct IMAPServerSettings: Sendable {
    /// In the greeting; in ASCII.
    public var hostname: String
    /// SASL mechanisms, in the words of their registry, without TLS: none that sends the password (RFC 3501 §11.1).
    public var cleartextMechanisms: [String] = []
    /// With TLS.
    public var mechanisms: [String] = ["PLAIN"]
    public var offersStartTLS = false
    /// LOGIN without TLS: to be said by who runs the server only (LOGINDISABLED else).
    public var allowsCleartextLogin = false
    /// The owner keeps mod-sequences over restarts (CONDSTORE, RFC 7162).
    public var offersModSequences = false
    /// The owner answers `.quota` (RFC 9208).
    public var offersQuota = false
    /// Flags beside the system's that are stored; at most ``IMAPFlags/keywordsMax``. Others are not kept.
    public var keywords = ["$Forwarded", "$MDNSent", "$Junk", "$NotJunk"]

    /// One command with its literals, before login: enough for any name, password and token (T-D7).
    public var commandMaxBytesBeforeLogin = 20 << 10
    /// The same after it; long sets of UIDs are sent by clients that synchronise.
    public var commandMaxBytes = 128 << 10
    /// Bytes of refused literals that are received and dropped in one session; with more it ends.
    public var discardMaxBytes = 1 << 20
    /// Syntax errors, commands out of place and failed logins in a row, at which the session ends.
    public var errorsMax = 20
    /// Failed logins at which the session ends.
    public var failedLoginsMax = 5
    /// Messages of one folder that a session sees: 16 bytes each.
    public var messagesMax = 100_000
    /// UIDs in one `.store` or `.expunge`.
    public var sliceMax = 256
    /// Messages looked at without an event, before `.workLeft`.
    public var turnMessagesMax = 20_000
    /// The selected fields of one header section that are held at once; what is beyond is cut off.
    public var headerFieldsMaxBytes = 1 << 20
    /// Bytes of unsent replies at which commands wait: a client that only asks and never reads costs no more.
    public var outputPauseBytes = 64 << 10

    public init(hostname: String) { self.hostname = hostname }
}
