/// Notices that the wall clock jumped, so that no mail expires because of it (T-G1).
///
/// The monotonic clock is the witness: when the wall clock has moved more than `toleranceSeconds` more or less than it, nothing
/// expires for `quarantineSeconds`, in which an administrator or a time service can put it right.
struct ClockGuard {
    private var offset: Int64
    private var distrustedUntil: UInt64 = 0
    private(set) var isTrusted = true

    private static let toleranceSeconds: Int64 = 300
    private static let quarantineSeconds: UInt64 = 3_600

    init(now: UInt64, wall: Int64) { offset = wall - Int64(now) }

    mutating func look(now: UInt64, wall: Int64, _ log: EventLog) {
        let moved = (wall - Int64(now)) - offset
        if abs(moved) > Self.toleranceSeconds * 1_000_000_000 {
            offset = wall - Int64(now)
            distrustedUntil = now + Self.quarantineSeconds * 1_000_000_000
            isTrusted = false
            log.note(
                .warning, "clock-jumped",
                "the wall clock moved by \(moved / 1_000_000_000) s; no mail expires for \(Self.quarantineSeconds / 60) min"
            )
        } else if !isTrusted, now >= distrustedUntil {
            isTrusted = true
        } else if isTrusted {
            // Slow drift and small corrections are followed.
            offset = wall - Int64(now)
        }
    }
}
