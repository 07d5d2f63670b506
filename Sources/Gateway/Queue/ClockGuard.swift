/// Notices that the wall clock jumped, so that no mail expires because of it (T-G1).
///
/// The monotonic clock is the witness: when the wall clock has moved more than `toleranceSeconds` more or less than it, nothing
/// expires for `quarantineSeconds`, in which an administrator or a time service can put it right. Between two runs there is no
/// such witness: after a start earlier than the last run was seen, or more than `absenceSeconds` later, nothing expires for as long.
struct ClockGuard {
    private var offset: Int64
    private var distrustedUntil: UInt64 = 0
    private(set) var isTrusted = true

    private static let toleranceSeconds: Int64 = 300
    private static let absenceSeconds: Int64 = 3_600
    private static let quarantineSeconds: UInt64 = 3_600

    /// - Parameter lastSeen: the wall clock when the last run was last known to run.
    init(now: UInt64, wall: Int64, lastSeen: Int64) {
        offset = wall - Int64(now)
        let since = (wall - lastSeen) / 1_000_000_000
        if !(-Self.toleranceSeconds...Self.absenceSeconds).contains(since) { distrust(now) }
    }

    private mutating func distrust(_ now: UInt64) {
        distrustedUntil = now + Self.quarantineSeconds * 1_000_000_000
        isTrusted = false
    }

    mutating func look(now: UInt64, wall: Int64, _ log: EventLog) {
        let moved = (wall - Int64(now)) - offset
        if abs(moved) > Self.toleranceSeconds * 1_000_000_000 {
            offset = wall - Int64(now)
            distrust(now)
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
