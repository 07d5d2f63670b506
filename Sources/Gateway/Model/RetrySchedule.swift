/// When an envelope is tried again, and how long.
public struct RetrySchedule: Hashable, Sendable {
    /// Seconds to wait after the first, second, … failed attempt; the last one repeats. Never empty.
    public let stepsSeconds: [Int]
    /// Seconds from acceptance to the bounce (RFC 5321 §4.5.4.1); nil: never.
    public let lifetimeSeconds: Int?

    enum Limits {
        static let steps = 64
        static let stepSeconds = 1...7 * 86_400
        static let lifetimeSeconds = 60...365 * 86_400
    }

    /// RFC 5321 §4.5.4.1 asks for at least four to five days.
    static let standardLifetimeSeconds = 5 * 86_400
    static let standardStepsSeconds = [60, 300, 900, 1_800, 3_600]

    public static let standard = RetrySchedule(
        stepsSeconds: standardStepsSeconds, lifetimeSeconds: standardLifetimeSeconds)

    public init(stepsSeconds: [Int], lifetimeSeconds: Int?) {
        precondition(!stepsSeconds.isEmpty)
        self.stepsSeconds = stepsSeconds
        self.lifetimeSeconds = lifetimeSeconds
    }

    /// Seconds to wait after `attempts` failed attempts (1 or more).
    public func delaySeconds(afterAttempts attempts: Int) -> Int {
        stepsSeconds[min(max(attempts, 1), stepsSeconds.count) - 1]
    }

    /// Where in the schedule an envelope stands whose attempts are not known, as after a start: how many were due since
    /// its acceptance, the one at once included, and how long until the next.
    public func position(atAgeSeconds ageSeconds: Int) -> (attempts: Int, waitSeconds: Int) {
        var rest = max(ageSeconds, 0)
        for (index, step) in stepsSeconds.enumerated() {
            if rest < step { return (index + 1, step - rest) }
            rest -= step
        }
        let last = stepsSeconds[stepsSeconds.count - 1]
        return (stepsSeconds.count + 1 + rest / last, last - rest % last)
    }
}
