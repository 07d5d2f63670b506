/// Flags of one message (RFC 3501 §2.3.2): the system flags, and keywords by their index in
/// ``IMAPServerSettings/keywords``. Stored by the owner as one number.
public struct IMAPFlags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    public static let seen = IMAPFlags(rawValue: 1)
    public static let answered = IMAPFlags(rawValue: 1 << 1)
    public static let flagged = IMAPFlags(rawValue: 1 << 2)
    public static let deleted = IMAPFlags(rawValue: 1 << 3)
    public static let draft = IMAPFlags(rawValue: 1 << 4)
    /// Of the session, never stored: it is the first one to be told of the message.
    public static let recent = IMAPFlags(rawValue: 1 << 5)

    public static let keywordsMax = 16
    public static func keyword(_ index: Int) -> IMAPFlags { IMAPFlags(rawValue: 1 << UInt32(8 + index)) }

    /// What a client may change.
    public static let changeable = IMAPFlags(rawValue: 0b1_1111 | 0xffff << 8)

    static let systemNames: [(flag: IMAPFlags, name: StaticString)] = [
        (.answered, "\\Answered"), (.flagged, "\\Flagged"), (.deleted, "\\Deleted"), (.seen, "\\Seen"),
        (.draft, "\\Draft"),
    ]

    // Of the session's view: bits that no owner sees.
    /// Another session or way out took the message; its number is still in use here.
    static let gone = IMAPFlags(rawValue: 1 << 28)
    /// Its EXPUNGE is in the output.
    static let goneAnnounced = IMAPFlags(rawValue: 1 << 29)
    /// Flags that the client has not been told.
    static let changed = IMAPFlags(rawValue: 1 << 30)
    static let ofView: IMAPFlags = [.recent, .gone, .goneAnnounced, .changed]
}

/// One message as the session knows it: 16 bytes.
public struct IMAPMessage: Equatable, Sendable {
    public var uid: UInt32
    public var flags: IMAPFlags
    /// Of its last change of flags (RFC 7162); 0 where none are kept.
    public var modSequence: UInt64

    public init(uid: UInt32, flags: IMAPFlags = [], modSequence: UInt64 = 0) {
        (self.uid, self.flags, self.modSequence) = (uid, flags, modSequence)
    }
}

/// A folder, as it is when it is opened.
public struct IMAPMailbox: Sendable {
    /// Never 0. A folder whose UIDs can't be kept must get a higher one (RFC 3501 §2.3.1.1).
    public var uidValidity: UInt32
    /// Above every UID that was ever given.
    public var uidNext: UInt32
    /// The highest of all mod-sequences, also of messages that are gone; 0: none are kept (NOMODSEQ).
    public var highestModSequence: UInt64
    /// By ascending UID. At most ``IMAPServerSettings/messagesMax``: the rest is opened later.
    public var messages: [IMAPMessage]
    /// Flags can't be changed, messages not be removed, whatever the client asked for.
    public var isReadOnly: Bool

    public init(
        uidValidity: UInt32, uidNext: UInt32, highestModSequence: UInt64 = 0, messages: [IMAPMessage],
        isReadOnly: Bool = false
    ) {
        self.uidValidity = uidValidity
        self.uidNext = uidNext
        self.highestModSequence = highestModSequence
        self.messages = messages
        self.isReadOnly = isReadOnly
    }
}

/// What is presented of a message: lines made from its envelope (`Return-Path`, one `Delivered-To` per recipient), then
/// the raw content of its file. Offsets of the session count over both.
public struct IMAPPresentedContent: Equatable, Sendable {
    public var prefixBytes: Int
    public var fileBytes: Int

    public init(prefixBytes: Int, fileBytes: Int) { (self.prefixBytes, self.fileBytes) = (prefixBytes, fileBytes) }

    /// What the client is told as its size.
    public var bytes: Int { prefixBytes + fileBytes }

    /// A range as one of the prefix and one of the file, each possibly empty.
    public func split(_ range: Range<Int>) -> (prefix: Range<Int>, file: Range<Int>) {
        let range = range.clamped(to: 0..<bytes)
        let file = max(range.lowerBound - prefixBytes, 0)..<max(range.upperBound - prefixBytes, 0)
        return (range.clamped(to: 0..<prefixBytes), file)
    }
}
