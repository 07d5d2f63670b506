import Testing

@testable import Reactor

/// Numbers from a seed (SplitMix64), so that a failure can be repeated.
private struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}

@Suite struct TimerWheelTests {
    private static let tick: UInt64 = 1 << 23
    private func token(_ index: UInt32) -> Token { Token(kind: 0, generation: 0, index: index) }

    @Test func firesOnceNeverEarlyAndAtMostOneTickLate() {
        var wheel = TimerWheel(now: 5_000)
        _ = wheel.set(3 * Self.tick + 1, token(1))
        var expired: [Token] = []
        wheel.advance(to: 3 * Self.tick, expired: &expired)
        #expect(expired.isEmpty)
        #expect(wheel.nextDeadline == 4 * Self.tick)
        wheel.advance(to: 4 * Self.tick, expired: &expired)
        wheel.advance(to: 900 * Self.tick, expired: &expired)
        #expect(expired == [token(1)])
        #expect(wheel.nextDeadline == nil && wheel.count == 0)
    }

    @Test func takesInstantsInThePastAndAtTheEndOfTime() {
        var wheel = TimerWheel(now: 100 * Self.tick)
        _ = wheel.set(0, token(1))
        let never = wheel.set(.max, token(2))
        var expired: [Token] = []
        wheel.advance(to: 101 * Self.tick, expired: &expired)
        #expect(expired == [token(1)])
        wheel.advance(to: 50_000_000 * Self.tick, expired: &expired)
        #expect(expired == [token(1)] && wheel.count == 1)
        wheel.cancel(never)
        #expect(wheel.nextDeadline == nil)
    }

    @Test func ignoresStaleNames() {
        var wheel = TimerWheel(now: 0)
        let first = wheel.set(Self.tick, token(1))
        wheel.cancel(first)
        wheel.cancel(first)
        let second = wheel.set(Self.tick, token(2))
        wheel.cancel(first)
        wheel.cancel(.none)
        var expired: [Token] = []
        wheel.advance(to: Self.tick, expired: &expired)
        #expect(expired == [token(2)])
        wheel.cancel(second)
        #expect(wheel.count == 0)
    }

    /// Against a sorted list: what fires, when, and in which order; and that a wait never oversleeps.
    @Test(arguments: 0..<24) func agreesWithASortedList(_ seed: UInt64) {
        var random = Seeded(state: seed)
        var now = random.next() % (1 << 50)
        var wheel = TimerWheel(now: now)
        var model: [UInt32: (id: TimerWheel.ID, tick: UInt64)] = [:]
        var next: UInt32 = 0
        var reached = now / Self.tick
        func distance() -> UInt64 {
            switch random.next() % 6 {
            case 0: random.next() % Self.tick
            case 1: random.next() % (64 * Self.tick)
            case 2: random.next() % (4_096 * Self.tick)
            case 3: (random.next() % 70) * 64 * Self.tick
            case 4: random.next() % (262_144 * Self.tick)
            default: random.next() % (40_000_000 * Self.tick)
            }
        }
        for _ in 0..<300 {
            switch random.next() % 8 {
            case 0...3:
                let deadline = now + distance()
                next += 1
                let due = max((deadline + Self.tick - 1) / Self.tick, reached + 1)
                model[next] = (wheel.set(deadline, token(next)), due)
            case 4:
                if let victim = model.keys.sorted().randomElement(using: &random) {
                    wheel.cancel(model.removeValue(forKey: victim)!.id)
                }
            default:
                // Often as a reactor does: to the instant that the wheel itself names.
                if let deadline = wheel.nextDeadline, random.next() % 2 == 0 {
                    now = max(now, deadline)
                } else {
                    now += distance() / 4
                }
                var expired: [Token] = []
                wheel.advance(to: now, expired: &expired)
                reached = now / Self.tick
                let due = model.filter { $0.value.tick <= reached }
                #expect(Set(expired.map(\.index)) == Set(due.keys) && expired.count == due.count)
                let ticks = expired.compactMap { model[$0.index]?.tick }
                #expect(ticks == ticks.sorted())
                for token in expired { model[token.index] = nil }
            }
            #expect(wheel.count == model.count)
            if let earliest = model.values.map(\.tick).min() {
                let deadline = wheel.nextDeadline
                #expect(deadline != nil && deadline! <= earliest * Self.tick && deadline! > reached * Self.tick)
            } else {
                #expect(wheel.nextDeadline == nil)
            }
        }
    }
}
