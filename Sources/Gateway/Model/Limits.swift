/// The bounds of the mail process that are not settings: name, unit, reason. Their relations are checked once, at start.
enum Limits {
    // MARK: Receiving

    /// Gateways that one transaction may name (design rule M3).
    static let gatewaysPerTransaction = 100
    /// Content up to here stays in memory until its commit; larger messages are written as they arrive.
    static let memoryMessageBytes = 256 << 10
    /// Bytes that one client network may take of the message-memory budget: an eighth.
    static let networkShare = 8
    /// Messages of the greatest size that one network may break off, or have refused for what they are, in ten minutes (T-D4).
    static let wastedMessages = 8
    /// TLS handshakes of one client network: so many at once, then so many a second; the others wait, at most so long (T-B7).
    static let handshakesAtOnce = 200
    static let handshakesPerSecond = 40
    static let handshakeWaitNanoseconds: UInt64 = 30_000_000_000
    /// A reply that can't be sent for this long ends the session.
    static let commandTimeoutSeconds = 300
    /// While content arrives: the longest pause, and below this rate (bytes a second, over a minute) the session ends.
    static let contentTimeoutSeconds = 180
    static let contentRateMin = 500
    static let sessionSecondsMax = 3_600
    /// Unsent reply bytes at which a session's commands are no longer read.
    static let outputPauseBytes = 16 << 10

    // MARK: Spool

    /// What admission leaves free on each file system (design rule M10): settles, state files and notices live on it.
    static let deviceReserveBytes = 32 << 20
    static let deviceReserveInodes = 1_000
    static let stubbornRetryNanoseconds: UInt64 = 10_000_000_000
    /// A commit that takes longer: its disk hangs, and its gateways' mail gets 451 until it answers.
    static let hangNanoseconds: UInt64 = 10_000_000_000
    /// Bytes that may wait for commits of one file system on one reactor before receiving slows down.
    static let uncommittedBytesMax = 64 << 20

    // MARK: Queue

    /// Announced messages that a home has not yet taken; above, its sender reads no new DATA (design §3).
    static let announcedMax = 1_024
    /// Parcels that one connection may hold, sent or settled without a sync (design §6).
    static let leasesPerConnection = 16
    /// Connections to one primary that wait for new mail before they say QUIT.
    static let lingerNanoseconds: UInt64 = 2_000_000_000
    static let probeNanoseconds: UInt64 = 2_000_000_000
    static let probeSlowNanoseconds: UInt64 = 60_000_000_000
    static let probeQuickNanoseconds: UInt64 = 600_000_000_000
    static let probesPerSecond = 200
    /// Sessions to primaries of one reactor.
    static let forwardSessionsMax = 4_000
    static let nanosecondsPerSecond: UInt64 = 1_000_000_000

    /// Received fields beyond which a message loops (RFC 5321 §6.3).
    static let receivedFieldsMax = 100
}
