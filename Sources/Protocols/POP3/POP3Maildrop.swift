/// One user's messages as a session sees them from login to its end: numbers, sizes, and what is marked as deleted.
///
/// Numbers begin with 1 and never change in a session (RFC 1939 §5). Eight bytes a message, so that a maildrop of
/// 100,000 takes less than a megabyte; ids and content stay with the owner.
public struct POP3Maildrop: Sendable {
    private static let deletedBit: UInt64 = 1 << 63

    /// The size, and in the highest bit that it is deleted.
    private var entries: [UInt64]
    /// DELE is refused.
    public let isReadOnly: Bool
    /// What EXPIRE says of this maildrop; nil: as the settings say.
    public let retention: POP3Retention?
    /// Messages that are not deleted, and their octets.
    public private(set) var remainingCount: Int
    public private(set) var remainingSize: Int

    /// `sizes`: octets of each message as `RETR` presents it: what stands before the content, the content, and the CRLF
    /// that it may lack; without stuffed dots (RFC 1939 §11). See `MailboxPrefix`.
    public init(sizes: some Sequence<Int>, isReadOnly: Bool = false, retention: POP3Retention? = nil) {
        entries = sizes.map { size in
            precondition(size >= 0)
            return UInt64(size)
        }
        (self.isReadOnly, self.retention) = (isReadOnly, retention)
        remainingCount = entries.count
        remainingSize = entries.reduce(0) { $0 + Int($1) }
    }

    /// With the deleted ones.
    public var count: Int { entries.count }

    public var deletedCount: Int { count - remainingCount }

    /// The number is one of a message that is not deleted.
    public func has(_ message: Int) -> Bool {
        message >= 1 && message <= entries.count && entries[message - 1] & Self.deletedBit == 0
    }

    public func size(of message: Int) -> Int { Int(entries[message - 1] & ~Self.deletedBit) }

    mutating func delete(_ message: Int) {
        precondition(has(message))
        entries[message - 1] |= Self.deletedBit
        remainingCount -= 1
        remainingSize -= size(of: message)
    }

    mutating func undeleteAll() {
        for index in entries.indices where entries[index] & Self.deletedBit != 0 {
            entries[index] &= ~Self.deletedBit
            remainingCount += 1
            remainingSize += Int(entries[index])
        }
    }

    /// Goes through the deleted messages, the lowest number first.
    public func forEachDeleted(_ body: (_ message: Int) -> Void) {
        guard deletedCount > 0 else { return }
        for (index, entry) in entries.enumerated() where entry & Self.deletedBit != 0 { body(index + 1) }
    }
}

/// How long a message stays that nobody deletes (EXPIRE, RFC 2449 §6.7).
public enum POP3Retention: Hashable, Sendable {
    case never
    /// At least.
    case days(Int)
}
