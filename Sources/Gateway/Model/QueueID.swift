/// Names a message for ever: in the `250`, in every log line, in its files' names, as its UIDL (design rule M6).
///
/// - Shape: 48 bits of milliseconds since 1970, 32 bits of start number (from the superblock, so that no two starts share one),
///   16 bits of node and reactor, 32 bits of counter. Printed as 22 characters of `0-9A-Za-z` that sort as the ids do.
public struct QueueID: Hashable, Comparable, Sendable {
    let high: UInt64
    let low: UInt64

    init(high: UInt64, low: UInt64) { (self.high, self.low) = (high, low) }

    init(milliseconds: Int64, start: UInt32, reactor: UInt16, counter: UInt32) {
        high = UInt64(milliseconds) << 16 | UInt64(start >> 16)
        low = UInt64(start & 0xffff) << 48 | UInt64(reactor) << 32 | UInt64(counter)
    }

    /// When the message was accepted, in milliseconds since 1970.
    public var milliseconds: Int64 { Int64(high >> 16) }
    var start: UInt32 { UInt32(high & 0xffff) << 16 | UInt32(low >> 48) }

    public static func < (a: QueueID, b: QueueID) -> Bool { (a.high, a.low) < (b.high, b.low) }

    static let textLength = 22
    private static let digits = Array("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".utf8)
}

extension QueueID: LosslessStringConvertible {
    public var description: String {
        String(unsafeUninitializedCapacity: Self.textLength) { buffer in
            for (half, end) in [(high, 11), (low, 22)] {
                var rest = half
                for at in stride(from: end - 1, through: end - 11, by: -1) {
                    buffer[at] = Self.digits[Int(rest % 62)]
                    rest /= 62
                }
            }
            return Self.textLength
        }
    }

    public init?(_ text: some StringProtocol) {
        var halves: (UInt64, UInt64) = (0, 0)
        var count = 0
        for byte in text.utf8 {
            let digit: UInt64
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = UInt64(byte - UInt8(ascii: "0"))
            case UInt8(ascii: "A")...UInt8(ascii: "Z"): digit = UInt64(byte - UInt8(ascii: "A")) + 10
            case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = UInt64(byte - UInt8(ascii: "a")) + 36
            default: return nil
            }
            guard count < Self.textLength else { return nil }
            let value = count < 11 ? halves.0 : halves.1
            let (product, overflow) = value.multipliedReportingOverflow(by: 62)
            let (sum, carry) = product.addingReportingOverflow(digit)
            guard !overflow, !carry else { return nil }
            if count < 11 { halves.0 = sum } else { halves.1 = sum }
            count += 1
        }
        guard count == Self.textLength else { return nil }
        self.init(high: halves.0, low: halves.1)
    }
}

/// Makes the ids of one reactor.
struct QueueIDMaker {
    let start: UInt32
    let reactor: UInt16
    private let earliest: Int64
    private var counter: UInt32 = 0

    /// - Parameter lastSeen: when the last run was last known to run, in nanoseconds since 1970. With a clock that is earlier
    ///   (1970 at boot, until a time service answers) mail would be decades old as soon as the clock is right.
    init(start: UInt32, reactor: UInt16, lastSeen: Int64 = 0) {
        (self.start, self.reactor) = (start, reactor)
        earliest = max(0, lastSeen / 1_000_000)
    }

    /// - Parameter wall: nanoseconds since 1970.
    mutating func next(wall: Int64) -> QueueID {
        counter &+= 1
        return QueueID(
            milliseconds: max(earliest, wall / 1_000_000), start: start, reactor: reactor, counter: counter)
    }
}
