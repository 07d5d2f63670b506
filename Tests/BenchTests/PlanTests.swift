import Foundation
import Testing

@testable import postern_bench

struct PlanTests {
    @Test func domainsGoInTurn() throws {
        let domains = try #require(Domains("d%d.test:300"))
        #expect(domains.count == 300)
        #expect(domains.names.first == "d0.test" && domains.names.last == "d299.test" && domains.names.count == 300)
        for (number, name) in [(0, "d0.test"), (299, "d299.test"), (300, "d0.test"), (100_017, "d117.test")] {
            let written = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) {
                String(decoding: $0[..<domains.write(number, to: $0.baseAddress!)], as: UTF8.self)
            }
            #expect(written == name)
        }
        #expect(Domains("one.test")?.names == ["one.test"])
    }

    @Test(arguments: [
        "", "d%d.test", "d%d.test:0", "d%d.test:100001", "d%d.test:x", "a b.test", "d%s.test:3", "a..b", "one.test:3",
        "d%d%d.test:3",
        "x@y:3",
    ])
    func wrongDomainsAreRefused(_ text: String) { #expect(Domains(text) == nil) }

    @Test func sizesAreNumbersOrTheMixture() {
        #expect(Sizes("10240") == .fixed(10_240))
        #expect(Sizes("10k") == .fixed(10_240))
        #expect(Sizes("2m") == .fixed(2 << 20))
        for text in ["", "-1", "k", "1g", "9999999999", "mixed"] { #expect(Sizes(text) == nil, "\(text)") }
        #expect(Sizes.mixture.reduce(0) { $0 + $1.perThousand } == 1000)
        // The same for every run, and every size of it occurs.
        let drawn = Set((0..<20_000).map { Sizes.mix.bytes($0) })
        #expect(drawn == Set(Sizes.mixture.map(\.bytes)))
    }

    /// The open loop's timetable depends on nothing that happens.
    @Test func paceIsEven() {
        let pace = Pace(start: 1_000, rate: 4_000)
        #expect(pace.due(0) == 1_000)
        #expect(pace.due(1) == 251_000)
        #expect(pace.due(4_000) == 1_000_001_000)
        // An hour later it has not drifted.
        #expect(pace.due(4_000 * 3_600) == 3_600_000_001_000)
    }

    @Test func listenersMultiply() throws {
        #expect(try ListenRange.parse("127.0.0.1:2600").map(\.description) == ["127.0.0.1:2600"])
        let all = try ListenRange.parse("127.0.1.254-127.0.2.1:2600-2601").map(\.description)
        #expect(all.count == 8 && all.first == "127.0.1.254:2600" && all.last == "127.0.2.1:2601")
        for text in ["2600", "127.0.0.1:0", "127.0.0.1:2-1", "127.0.0.2-127.0.0.1:2600", "127.0.0.0-127.1.0.0:2600"] {
            #expect(throws: BenchFault.self, "\(text)") { try ListenRange.parse(text) }
        }
    }

    @Test func sourcesGoRound() throws {
        let sources = try #require(SourceAddresses("127.0.0.0/30"))
        #expect((0..<3).map { sources.endpoint($0).description } == ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"])
        #expect(SourceAddresses("127.0.0.9")?.endpoint(5).description == "127.0.0.9:0")
        for text in ["", "127.0.0/8", "127.0.0.1/7", "127.0.0.1/33", "::1"] {
            #expect(SourceAddresses(text) == nil, "\(text)")
        }
    }

    @Test(arguments: [
        ("60s", 60_000_000_000 as UInt64?), ("500ms", 500_000_000), ("2m", 120_000_000_000), ("1h", 3_600_000_000_000),
        ("7", 7_000_000_000), ("", nil), ("-1s", nil), ("x", nil), ("9999h", nil),
    ])
    func times(_ text: String, _ nanoseconds: UInt64?) { #expect(LoadOptions.nanoseconds(text) == nanoseconds) }

    /// Both sides of the floor have the same bytes at the same points.
    @Test(arguments: [false, true], [false, true])
    func floorScriptSurvivesItsText(_ pipelining: Bool, _ chunking: Bool) throws {
        var load = Load(target: Endpoint(address: [127, 0, 0, 1], port: 25), domains: Domains("d000.test")!)
        (load.pipelining, load.chunking, load.recipients, load.onePerSession) = (pipelining, chunking, 2, chunking)
        let script = FloorScript(load)
        #expect(FloorScript(text: script.text) == script)
        #expect(script.message.count == (pipelining ? (chunking ? 1 : 2) : (chunking ? 4 : 5)))
        #expect(script.message.filter(\.commits).count == 1)
        #expect(script.message.last?.reads ?? 0 > 10_240)
    }

    @Test func drawsFollowTheirShare() {
        let drawn = (0..<100_000).filter { Mixed.draw($0, share: 0.1) }.count
        #expect((9_500...10_500).contains(drawn))
        #expect(!Mixed.draw(5, share: 0) && Mixed.draw(5, share: 1))
    }
}
