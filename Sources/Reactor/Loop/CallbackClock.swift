import CReactor
import Glibc

/// How long the callbacks of one reactor take: none may hold the others up.
///
/// A callback's time is from the end of the one before, less what its thread waited for a processor (the kernel's run delay; asked
/// for only when a callback took long, so that the time costs one look at the clock).
public struct CallbackClock: ~Copyable {
    /// From here on a callback is slow.
    public static let slowNanoseconds: UInt64 = 10_000_000
    /// Shorter ones are not looked at more closely.
    private static let closeLookNanoseconds: UInt64 = 2_000_000

    public private(set) var longest: UInt64 = 0
    public private(set) var slow = 0
    private var last: UInt64 = 0
    private var delay: UInt64 = 0
    private var file: Int32 = -1

    public init() {}

    deinit { if file >= 0 { close(file) } }

    /// A turn's callbacks begin.
    public mutating func begin(_ now: UInt64) { last = now }

    /// A callback has ended. Its length when it was slow.
    public mutating func ended(_ now: UInt64) -> UInt64? {
        let took = now &- last
        last = now
        guard took >= Self.closeLookNanoseconds else {
            longest = max(longest, took)
            return nil
        }
        let before = delay
        look()
        let worked = took - min(took, delay - before)
        longest = max(longest, worked)
        guard worked >= Self.slowNanoseconds else { return nil }
        slow += 1
        return worked
    }

    /// Once a second, so that a close look does not take an old delay for a new one.
    public mutating func tick() { look() }

    /// Time that this thread was ready to run and had no processor, in all (`schedstat`, second number; nanoseconds).
    private mutating func look() {
        if file < 0 { file = cr_open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC, 0) }
        guard file >= 0 else { return }
        var text: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
        withUnsafeMutableBytes(of: &text) { buffer in
            let count = pread(file, buffer.baseAddress, buffer.count, 0)
            guard count > 0 else { return }
            var fields = buffer[..<count].split(separator: UInt8(ascii: " ")).dropFirst()
            if let field = fields.popFirst() {
                delay = field.reduce(0) { $0 &* 10 &+ UInt64($1 &- UInt8(ascii: "0")) }
            }
        }
    }
}
