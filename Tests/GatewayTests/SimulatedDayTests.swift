import Glibc
import Testing

@testable import Gateway

/// Days in a rough world (`SimulatedDay`), one a seed. At the end the ledger is compared: what senders were promised with
/// what became of it.
///
/// `make simulate SEEDS=10000` runs many in a release build, `make simulate SEED=k` one of them again: it is the same to the
/// last decision. Here `POSTERN_SEEDS=1000-2000` (or one number) names them, and each prints its line.
struct SimulatedDayTests {
    private static let given = getenv("POSTERN_SEEDS").map { String(cString: $0) }

    private static let seeds: ClosedRange<UInt64> = {
        let bounds = (given ?? "1-12").split(separator: "-").compactMap { UInt64($0) }
        return bounds.count == 2 ? bounds[0]...bounds[1] : bounds[0]...bounds[0]
    }()

    private static func line(_ text: String) {
        print(text)
        fflush(nil)
    }

    @Test("each 250 is delivered, bounced or queued, unchanged, and twice only where a hand-over was open")
    func days() throws {
        var sums: [(name: String, count: Int)] = []
        for seed in Self.seeds {
            // A trap names no seed: the line before it does.
            if Self.given != nil { Self.line("begin \(seed)") }
            let day = try SimulatedDay(seed: seed)
            let trace = try day.live()
            let tally = day.tally
            for failure in day.failures { Issue.record("seed \(seed), trace \(String(trace, radix: 16)): \(failure)") }
            if Self.given != nil {
                for failure in day.failures { Self.line("failed \(seed) \(failure)") }
                let counts = tally.map { "\($0.name)=\($0.count)" }.joined(separator: " ")
                Self.line("day \(seed) trace=\(String(trace, radix: 16)) \(counts)")
            }
            sums = sums.isEmpty ? tally : zip(sums, tally).map { ($0.name, $0.count + $1.count) }
        }
        print("days \(Self.seeds): \(sums.map { "\($0.name) \($0.count)" }.joined(separator: ", "))")
        guard Self.seeds.count >= 20 else { return }
        // A campaign that never met one kind of trouble proves nothing about it.
        for sum in sums { #expect(sum.count > 0, "\(sum.name) never happened") }
    }

    @Test("the same seed is the same day", arguments: [3, 17] as [UInt64]) func replay(_ seed: UInt64) throws {
        let days = [try SimulatedDay(seed: seed), try SimulatedDay(seed: seed)]
        let traces = try days.map { try $0.live() }
        #expect(traces[0] == traces[1])
        #expect(days[0].tally.map(\.count) == days[1].tally.map(\.count))
    }
}
