import Glibc
import Protocols
import Reactor
import Testing

@testable import Gateway

/// A day in a rough world, drawn from one seed: many senders, primaries with moods, outages, cut connections, kills, power
/// losses, clocks that jump. At the end the ledger is compared: what senders were promised with what became of it.
///
/// `POSTERN_SEEDS=1000-2000` runs those seeds instead; a failure names its seed, and that seed gives the same day again.
struct SimulatedDayTests {
    private static let domains = ["a.test", "b.test", "c.test"]
    private static let primaryAddresses = ["198.51.100.1", "198.51.100.2", "198.51.100.3"]
    private static let messageCount = 40

    private static let seeds: ClosedRange<UInt64> = {
        let given = getenv("POSTERN_SEEDS").map { String(cString: $0) } ?? "1-50"
        let bounds = given.split(separator: "-").compactMap { UInt64($0) }
        return bounds.count == 2 ? bounds[0]...bounds[1] : bounds[0]...bounds[0]
    }()

    /// What all days together have met.
    private struct Sum {
        var promised = 0
        var delivered = 0
        var bounced = 0
        var queued = 0
        var again = 0
        var kills = 0
        var powerLosses = 0
        var cuts = 0
        var tornFiles = 0
        var diskFaults = 0
        var outages = 0
        var description: String {
            "promised \(promised), delivered \(delivered), bounced \(bounced), still queued \(queued), again \(again), kills \(kills), power losses \(powerLosses), cut connections \(cuts), torn files \(tornFiles), disk faults \(diskFaults), outages \(outages)"
        }
    }

    @Test("each 250 is delivered, bounced or queued, unchanged, and twice only where a hand-over was open") func days()
        throws
    {
        var sum = Sum()
        for seed in Self.seeds { try Day(seed: seed).live(&sum) }
        print("simulated days \(Self.seeds.lowerBound)-\(Self.seeds.upperBound): \(sum.description)")
        guard Self.seeds.count >= 50 else { return }
        // A campaign that never met trouble proves nothing.
        #expect(sum.promised > 500 && sum.delivered > 500 && sum.bounced > 10)
        #expect(sum.kills > 10 && sum.powerLosses > 10 && sum.cuts > 10 && sum.tornFiles > 0 && sum.diskFaults > 10)
    }

    @Test("the same seed is the same day", arguments: [3, 17] as [UInt64]) func replay(_ seed: UInt64) throws {
        var (first, second) = (Sum(), Sum())
        let hashes = [try Day(seed: seed).live(&first), try Day(seed: seed).live(&second)]
        #expect(hashes[0] == hashes[1] && first.description == second.description)
    }

    // MARK: One day

    private final class Day {
        /// A message that a sender tried to hand in; its sender is `s<number>@sender.test`.
        private struct Entry {
            let number: Int
            let recipients: [String]
            let content: [UInt8]
            let client: ScriptedClient
            var id: QueueID? { queueID(client.replies.last) }
            /// Those whose RCPT was accepted.
            var promised: [String] {
                guard id != nil else { return [] }
                return recipients.indices.filter { client.replies[3 + $0].hasPrefix("250") }.map { recipients[$0] }
            }
        }

        private let seed: UInt64
        private let gateway: SimulatedGateway
        private let primaries: [ScriptedPrimary]
        private let senders: ScriptedPrimary
        private var ledger: [Entry] = []
        private var isCalm = false
        private var outages = 0

        init(seed: UInt64) throws {
            self.seed = seed
            var settings = SimulatedSettings.drawn(from: seed)
            // A connection that is cut at every other segment carries nothing, and proves nothing.
            if settings.segmentMaxBytes < 512 { settings.cutChance /= 50 }
            if settings.windowBytes < 4_096 { settings.windowBytes = 4_096 }
            gateway = try SimulatedGateway(
                seed: seed, cores: 2 + Int(seed % 2), world: settings,
                "a.test forward.server=198.51.100.1 retry.schedule=[5s,20s] forward.concurrency=4",
                "b.test forward.server=198.51.100.2 retry.schedule=[10s] quota.enabled=true quota.messages=12",
                "c.test forward.server=198.51.100.3 retry.schedule=[3s,30s] forward.concurrency=2",
                "sender.test forward.server=198.51.100.9 retry.schedule=[5s]"
            ) { $0.messageMemoryBytes = 1 << 20 }
            let gateway = gateway
            primaries = SimulatedDayTests.primaryAddresses.map { ScriptedPrimary(gateway, at: $0) }
            senders = ScriptedPrimary(gateway, at: "198.51.100.9")
            for (at, primary) in primaries.enumerated() {
                primary.extensions =
                    [
                        ["PIPELINING", "8BITMIME", "DSN"], ["PIPELINING", "CHUNKING"], [],
                        ["CHUNKING", "SIZE 1000000"],
                    ][(at + Int(seed)) % 4]
                let mood = [0, 5, 40][world.draw(3)]
                primary.act = { [unowned self] in act($0, mood) }
            }
        }

        private var world: SimulatedWorld { gateway.world }

        private func act(_ moment: ScriptedPrimary.Moment, _ mood: Int) -> ScriptedPrimary.Action? {
            if case .recipient(let line) = moment, line.contains("<bad") { return .reply("550 5.1.1 nobody here") }
            guard !isCalm, world.draw(1_000) < mood else { return nil }
            switch moment {
            case .recipient where world.draw(2) == 0: return .reply("450 4.2.0 greylisted")
            case .someContent: return .cut
            default: return [.cut, .replyAndClose("421 4.3.2 going down"), .reply("451 4.3.0 later")][world.draw(3)]
            }
        }

        private func newMessage() {
            let number = ledger.count
            var recipients: [String] = []
            for domain in SimulatedDayTests.domains where recipients.isEmpty || world.draw(3) == 0 {
                for name in 0...world.draw(2) {
                    recipients.append("\(world.draw(8) == 0 ? "bad" : "u")\(name)@\(domain)")
                }
            }
            var size = [0, 500, 5_000, 40_000, world.draw(20) == 0 ? 400_000 : 100][world.draw(5)]
            // Each segment is an event.
            size = min(size, world.settings.segmentMaxBytes * 100)
            var content = ScriptedClient.message("n\(number).", bytes: size)
            if world.draw(4) == 0 { content += Array(".dot\r\n..\r\n".utf8) }
            let client = ScriptedClient(
                gateway, from: "203.0.113.\(number % 200 + 1)",
                script: ScriptedClient.steps(from: "s\(number)@sender.test", to: recipients, content))
            ledger.append(Entry(number: number, recipients: recipients, content: content, client: client))
        }

        @discardableResult
        func live(_ sum: inout Sum) throws -> UInt64 {
            gateway.ready()
            while ledger.count < SimulatedDayTests.messageCount {
                for _ in 0...world.draw(4) { newMessage() }
                gateway.pass(seconds: Double(world.draw(4_000)) / 1_000)
                try happen()
            }
            gateway.run(seconds: 400) { ledger.allSatisfy { $0.client.isDone } }
            isCalm = true
            for primary in primaries { primary.start() }
            gateway.run(seconds: 600) { gateway.isIdle }
            gateway.losePower()
            world.disk.removeFaults()
            try gateway.start()
            gateway.run(seconds: 300) { gateway.ready() && gateway.isIdle }
            settle(&sum)
            return world.traceHash
        }

        /// Trouble, of one kind or none.
        private func happen() throws {
            switch world.draw(14) {
            case 0, 1:
                gateway.losePower()
                world.disk.removeFaults()
                try gateway.start()
            case 2:
                gateway.kill()
                world.disk.removeFaults()
                try gateway.start()
            case 3: world.cutAllConnections()
            case 4, 5:
                let primary = primaries[world.draw(3)]
                primary.stop()
                outages += 1
                world.after(UInt64(world.draw(60)) * 1_000_000_000) { primary.start() }
            case 6: world.jumpWallClock(by: Int64(world.draw(20) - 10) * 3_600_000_000_000)
            case 7:
                world.disk.inject(
                    SimulatedDiskFault(
                        [.write, .sync, .rename, .unlink, .create][world.draw(5)], times: 1 + world.draw(3)))
            case 8: world.disk.hang(device: 1, for: UInt64(world.draw(10)) * 1_000_000_000)
            case 9: gateway.flush()
            default: break
            }
        }

        // MARK: The ledger

        private func settle(_ sum: inout Sum) {
            let counters = world.counters
            let queued = gateway.queue
            let notices = senders.accepted
            var again = 0
            for entry in ledger {
                let path = "s\(entry.number)@sender.test"
                var isBounced = notices.contains { $0.paths == [path] }
                isBounced = isBounced || queued.contains { $0.domain == "sender.test" && $0.recipients == [path] }
                if entry.id != nil { sum.promised += 1 }
                for recipient in entry.recipients {
                    let arrived = primaries.flatMap(\.accepted).filter {
                        $0.reversePath == path && $0.paths.contains(recipient)
                    }
                    for message in arrived {
                        #expect(
                            Array(message.content.suffix(entry.content.count)) == entry.content,
                            "seed \(seed): \(recipient) got other bytes of message \(entry.number)")
                    }
                    again += max(0, arrived.count - 1)
                    let isQueued = queued.contains {
                        $0.id == entry.id?.description && $0.recipients.contains(recipient)
                    }
                    if recipient.hasPrefix("bad") {
                        #expect(arrived.isEmpty)
                        if isBounced { sum.bounced += 1 }
                    } else if !arrived.isEmpty {
                        sum.delivered += 1
                    }
                    if isQueued { sum.queued += 1 }
                    guard entry.promised.contains(recipient) else { continue }
                    let isAccountedFor =
                        recipient.hasPrefix("bad") ? isBounced || isQueued : !arrived.isEmpty || isQueued
                    #expect(
                        isAccountedFor, "seed \(seed): message \(entry.number) to \(recipient) was promised and is gone"
                    )
                }
            }
            // Only an answer that was lost, or a settle that was not yet on the disk, sends again.
            let ends = counters.kills + counters.powerLosses
            let breaks = counters.cutConnections + counters.resetConnections
            let openHandovers = 2 * breaks + ends * (16 + 2) * 10
            #expect(
                again <= openHandovers, "seed \(seed): \(again) times again, with \(breaks) breaks and \(ends) ends")
            #expect(counters.badHandles == 0, "seed \(seed): a file handle was used after its close")
            sum.again += again
            sum.kills += counters.kills
            sum.powerLosses += counters.powerLosses
            sum.cuts += counters.cutConnections
            sum.tornFiles += counters.tornFiles
            sum.diskFaults += counters.failedSyncs + counters.failedFileSteps
            sum.outages += outages
        }
    }
}
