import Protocols
import Testing

@testable import Gateway

private let second = Limits.nanosecondsPerSecond

/// Rates that follow from what was seen: of TLS handshakes by network, of unlinks by disk.
struct PaceTests {
    @Test("T-B7: handshakes of one network beyond the rate wait their turn, and no longer than bearable")
    func handshakes() throws {
        var networks = ClientNetworks()
        let (client, neighbour, other) = (
            IPAddress("203.0.113.9")!, IPAddress("203.0.113.200")!, IPAddress("198.51.100.9")!
        )
        let waits = (0..<2_000).map { networks.handshake($0 % 2 == 0 ? client : neighbour, now: second, reactors: 2) }
        #expect(waits.prefix(Limits.handshakesAtOnce / 2 - 1).allSatisfy { $0 == 0 })
        let waiting = waits.compactMap { $0 }.filter { $0 > 0 }
        #expect(!waiting.isEmpty && waiting == waiting.sorted() && waiting.last! <= Limits.handshakeWaitNanoseconds)
        // The share of one of two reactors.
        #expect(waiting[1] - waiting[0] == 2 * second / UInt64(Limits.handshakesPerSecond))
        #expect(waits.last! == nil)
        #expect(networks.handshake(other, now: second, reactors: 2) == 0)
        // Ended connections do not give the rate back; time does.
        networks.connected(client)
        networks.left(client)
        #expect(networks.handshake(client, now: second, reactors: 2) == nil)
        networks.forgetOld(now: 700 * second)
        #expect(networks.handshake(client, now: 700 * second, reactors: 2) == 0)
    }

    /// Seen: a thousand unlinks of 2.8 ms each in one commit, and other domains' 250s behind them.
    @Test("unlinks that take long become fewer a commit, quick ones more") func unlinks() {
        var pace = RemovalPace()
        let first = pace.perCommit
        pace.took(20_000_000)
        #expect(pace.perCommit > first)
        for _ in 0..<20 { pace.took(400_000_000) }
        #expect(pace.perCommit == 16)
        for _ in 0..<20 { pace.took(5_000_000) }
        #expect(pace.perCommit == 1_000)
    }
}
