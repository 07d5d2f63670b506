/// What is known of a primary, from real attempts and probes (design §6).
///
/// ```text
/// up ──connection fails──▶ down ──probe answered──▶ returning ──window is full──▶ up
///  └──session breaks off──▶ slow ──hand-over done──▶ up
/// ```
///
/// `window` is the number of sessions allowed now: one on return, doubled by each hand-over up to the gateway's concurrency
/// (slow start), halved when a session breaks off.
struct PrimaryHealth: Sendable {
    enum State: Equatable, Sendable {
        case up, slow, returning
        /// Monotonic nanoseconds; nothing but a probe is tried before `nextProbe`.
        case down(since: UInt64, nextProbe: UInt64)
        /// There is nowhere to go; looked up again at `nextLook`.
        case noNextHop(nextLook: UInt64)

        var word: String {
            switch self {
            case .up: "up"
            case .slow: "slow"
            case .returning: "returning"
            case .down: "down"
            case .noNextHop: "no-next-hop"
            }
        }
    }

    private(set) var state = State.up
    private(set) var window = initialWindow
    /// Of the last failure, for people.
    private(set) var detail = ""

    private static let initialWindow = 2
    /// How often a next hop that isn't there is looked up again.
    private static let lookNanoseconds: UInt64 = 300 * Limits.nanosecondsPerSecond

    /// When a session may be opened: nil: now.
    func waitsUntil(_ now: UInt64) -> UInt64? {
        switch state {
        case .up, .slow, .returning: nil
        case .down(_, let next), .noNextHop(let next): next > now ? next : nil
        }
    }

    var isDown: Bool { if case .down = state { true } else { false } }
    var hasNoNextHop: Bool { if case .noNextHop = state { true } else { false } }

    /// A session reached the point where mail can be sent. Returns whether the state changed.
    mutating func answered() -> Bool {
        switch state {
        case .up, .slow, .returning: return false
        case .down, .noNextHop:
            state = .returning
            window = 1
            return true
        }
    }

    mutating func handedOver(concurrency: Int) {
        switch state {
        case .returning:
            window = min(window * 2, concurrency)
            if window == concurrency { state = .up }
        case .slow:
            state = .up
            window = min(window + 1, concurrency)
        case .up: window = min(window + 1, concurrency)
        case .down, .noNextHop: break
        }
    }

    /// No connection, or none that takes mail. Returns whether the state changed.
    mutating func failed(_ why: String, now: UInt64, jitter: UInt64) -> Bool {
        detail = why
        window = 1
        guard case .down(let since, _) = state else {
            state = .down(since: now, nextProbe: now + Limits.probeNanoseconds)
            return true
        }
        var pause = Limits.probeNanoseconds
        let outage = now - since
        if outage > Limits.probeQuickNanoseconds {
            // From 2 s to 60 s within the next ten minutes.
            pause = min(Limits.probeSlowNanoseconds, pause + (outage - Limits.probeQuickNanoseconds) / 10)
        }
        state = .down(since: since, nextProbe: now + pause + jitter % (pause / 8))
        return false
    }

    mutating func brokeOff(_ why: String) {
        detail = why
        guard waitsUntil(0) == nil else { return }
        state = .slow
        window = max(1, window / 2)
    }

    mutating func foundNoNextHop(_ why: String, now: UInt64) -> Bool {
        detail = why
        let changed = !hasNoNextHop
        state = .noNextHop(nextLook: now + Self.lookNanoseconds)
        return changed
    }

    /// An administrator's flush, or a changed gateway: what was known no longer holds anything back.
    mutating func tryNow() {
        switch state {
        case .down(let since, _): state = .down(since: since, nextProbe: 0)
        case .noNextHop: state = .noNextHop(nextLook: 0)
        default: break
        }
    }
}
