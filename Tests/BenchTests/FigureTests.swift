import Foundation
import Testing

@testable import postern_bench

struct FigureTests {
    @Test func percentilesAreThoseRecorded() throws {
        var latencies = Latencies()
        #expect(latencies.percentile(50) == nil && latencies.maximum == nil)
        for microseconds in 1...10_000 { latencies.record(nanoseconds: UInt64(microseconds) * 1000) }
        for (percent, expected) in [(50.0, 5_000), (99, 9_900), (99.9, 9_990)] {
            let found = try #require(latencies.percentile(percent))
            #expect(abs(found - expected) <= expected / 500, "p\(percent): \(found)")
        }
        #expect(latencies.maximum == 10_000)
    }

    @Test func mergedTalliesAreTheirSum() {
        var (one, two) = (Tally(), Tally())
        one.count("451", words: "later")
        two.count("451", words: "other words")
        two.count("connection lost")
        one.messages = 1
        two.messages = 2
        one.latencies.record(nanoseconds: 1_000_000)
        two.latencies.record(nanoseconds: 3_000_000)
        one.mark(10, since: 0)
        two.mark(Tally.bucketNanoseconds * 2 + 5, since: 0)
        one.merge(two)
        #expect(one.messages == 3 && one.errors == ["451": 2, "connection lost": 1] && one.words["451"] == "later")
        #expect(one.latencies.count == 2 && one.latencies.maximum == 3_000)
        #expect(one.timeline == [1, 0, 1] && one.firstAt == 10 && one.lastAt == Tally.bucketNanoseconds * 2 + 5)
    }

    /// A loss, a duplicate and a message that nobody answered are told apart.
    @Test func ledgerTellsLossFromDuplicate() throws {
        let ledger = try Ledger(run: 1, capacity: 10)
        func set(_ number: Int, _ state: Ledger.State, expected: UInt16, arrived: UInt16, marks: UInt8 = 0) {
            ledger.begin(number)
            ledger[number] = Ledger.Entry(
                sentAt: 1, expected: expected, arrived: arrived, state: state.rawValue, marks: marks)
        }
        set(0, .accepted, expected: 1, arrived: 1)
        set(1, .accepted, expected: 3, arrived: 1)
        set(2, .accepted, expected: 1, arrived: 2)
        set(3, .refused, expected: 0, arrived: 0)
        set(4, .unknown, expected: 0, arrived: 1)
        set(5, .unknown, expected: 0, arrived: 0)
        set(6, .accepted, expected: 1, arrived: 0, marks: 2)
        set(7, .refused, expected: 0, arrived: 1)
        #expect(ledger.touched == 8)
        #expect(
            ledger.sums(0..<8)
                == Ledger.Sums(
                    accepted: 4, expected: 6, arrived: 6, lost: 2, duplicates: 1, unanswered: 1, unexpected: 1))
    }

    /// The names of the contract are there, also where nothing was measured.
    @Test func jsonHasTheContractsNames() throws {
        var outcome = Outcome(mode: "accept", target: "127.0.0.1:25", run: "1")
        outcome.errors = ["451": 3]
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(try Screen.json(outcome))) as? [String: Any])
        for name in [
            "messages", "seconds", "perSecond", "p50us", "p99us", "p999us", "errors", "serverCpuUsPerMessage", "lost",
            "wrong",
        ] { #expect(object[name] != nil, "\(name)") }
        #expect(object["p50us"] is NSNull && object["serverCpuUsPerMessage"] is NSNull)
        #expect(object["errors"] as? [String: Int] == ["451": 3])
    }

    @Test func setOfNumbersFindsGaps() {
        var numbers = NumberSet()
        let inserted = [0, 70, 70, 2, Ledger.capacityMax].map { numbers.insert($0) }
        #expect(inserted == [true, true, false, true, false])
        #expect(numbers.count == 3 && numbers.largest == 70 && numbers.missing == 68)
    }

    @Test func numbersAreReadable() {
        #expect(Screen.count(1_234_567) == "1,234,567" && Screen.count(-12) == "-12")
        #expect(
            Screen.decimal(1234.56, 1) == "1,234.6" && Screen.decimal(0.05, 2) == "0.05"
                && Screen.decimal(-0.5, 1) == "-0.5")
        #expect(
            Screen.latency(999) == "999 µs" && Screen.latency(1_500) == "1.50 ms"
                && Screen.latency(2_000_000) == "2.00 s")
    }
}
