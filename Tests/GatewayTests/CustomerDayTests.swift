import Protocols
import Reactor
import Testing

@testable import Gateway

/// Rough days of three gateways whose customers come for their mail: by POP3, by POP3 while it is pushed, too, and by ATRN.
/// Ends of the process, power losses and failing disks between; then calm, and the ledger.
struct CustomerDayTests {
    private static let domains = ["pop.test", "both.test", "turn.test"]

    private struct Entry {
        let number: Int
        let domain: String
        let content: [UInt8]
        let client: ScriptedClient
        var id: QueueID? { queueID(client.replies.last) }
    }

    @Test(
        "what a customer deleted is his, what he did not comes again, and nothing is lost",
        arguments: 1...12 as ClosedRange<UInt64>)
    func day(_ seed: UInt64) throws {
        var settings = SimulatedSettings.quiet
        settings.syncDelay = 100_000...2_000_000
        let journal = SimulatedDay.journal(seed)
        let gateway = try SimulatedGateway(seed: seed, cores: 1 + Int(seed % 3), world: settings, journal: journal)
        let mailbox = "dequeue.method=mailbox dequeue.mailbox.password=geheim retry.schedule=[3s]"
        try gateway.create("pop.test \(mailbox) delivery.when=onContact")
        try gateway.create("both.test \(mailbox) forward.server=198.51.100.7")
        try gateway.create(
            "turn.test dequeue.method=atrn dequeue.secret=geheim delivery.when=onContact retry.schedule=[3s]")
        gateway.listens = [.pop3: 110, .odmr: 366]
        try gateway.restart()
        gateway.ready()
        let world = gateway.world
        let primary = ScriptedPrimary(gateway)
        primary.act = { moment in
            guard case .content = moment, world.draw(8) == 0 else { return nil }
            return [.reply("451 4.3.0 later"), .takeAndCut, .cut][world.draw(3)]
        }
        let memories = ["pop.test": POP3Memory(), "both.test": POP3Memory()]
        var fetchers: [POP3Robot] = []
        var turners: [ATRNRobot] = []
        var entries: [Entry] = []
        var ends: [UInt64] = []
        let visit = { (isCalm: Bool) in
            for domain in Self.domains where isCalm || world.draw(2) == 0 {
                if let memory = memories[domain] {
                    fetchers.append(POP3Robot(gateway, user: domain, memory: memory, isCalm: isCalm))
                } else {
                    turners.append(ATRNRobot(gateway, user: domain, isCalm: isCalm))
                }
            }
        }
        let end = { (power: Bool) throws in
            ends.append(world.now)
            if power { gateway.losePower() } else { gateway.kill() }
            world.cutAllConnections()
            world.disk.removeFaults()
            gateway.coreCount = 1 + world.draw(3)
            for _ in 0..<9 where gateway.cores.isEmpty {
                do { try gateway.start() } catch is SpoolFault { gateway.kill() }
            }
        }
        for _ in 0..<60 {
            for _ in 0...world.draw(3) {
                let (number, domain) = (entries.count, Self.domains[world.draw(3)])
                let content = ScriptedClient.message(
                    "n\(number).", bytes: [0, 3_000, 280_000][world.draw(20) == 0 ? 2 : world.draw(2)])
                entries.append(
                    Entry(
                        number: number, domain: domain, content: content,
                        client: ScriptedClient(gateway, script: ScriptedClient.steps(to: ["x@\(domain)"], content))))
            }
            if world.draw(2) == 0 { visit(false) }
            gateway.pass(seconds: Double(world.draw(1_500)) / 1_000)
            switch world.draw(12) {
            case 0: try end(true)
            case 1: try end(false)
            case 2:
                world.disk.inject(
                    SimulatedDiskFault([.sync, .unlink, .write][world.draw(3)], countdown: 1 + world.draw(3)))
            case 3: world.cutAllConnections()
            case 4: gateway.flush("both.test")
            default: break
            }
        }
        // Calm.
        world.disk.removeFaults()
        primary.act = { _ in nil }
        gateway.run(seconds: 60) { entries.allSatisfy { $0.client.isDone } }
        for _ in 0..<60 {
            visit(true)
            gateway.flush("both.test")
            gateway.pass(seconds: 15)
            if gateway.isIdle { break }
        }
        #expect(gateway.isIdle, "nothing is on loan to nobody: \(gateway.queue)")
        try end(true)
        gateway.ready()
        visit(true)
        gateway.pass(seconds: 20)
        #expect(gateway.isIdle, "\(gateway.queue)")
        for domain in Self.domains { #expect(gateway.store(of: domain).used == (0, 0)) }
        for memory in memories.values { #expect(memory.faults.isEmpty, "\(memory.faults)") }
        var againOf: [ObjectIdentifier: Int] = [:]
        var sums = (fetched: 0, turned: 0, pushed: 0, again: 0)
        for entry in entries {
            guard let id = entry.id else { continue }
            let what: Comment = "message \(entry.number), \(id), to \(entry.domain)"
            let isIt = { (content: [UInt8]) in content.suffix(entry.content.count).elementsEqual(entry.content) }
            let fetched = memories[entry.domain]?.contents[id.description]
            if let fetched {
                #expect(isIt(fetched), what)
                sums.fetched += 1
            }
            let pushed = primary.accepted.filter { isIt($0.content) }
            sums.pushed += pushed.count
            let turned = turners.flatMap { robot in
                robot.taken.enumerated().filter { isIt($0.element.content) }.map { (robot, $0.offset, $0.element.at) }
            }
            sums.turned += turned.count
            #expect(fetched != nil || !pushed.isEmpty || !turned.isEmpty, "lost: \(what)")
            if let gone = memories[entry.domain]?.goneAt[id.description] {
                for arrival in pushed {
                    #expect(arrival.at < gone, "\(what) was pushed after its customer had deleted it")
                    // Settled, unless the process ended, or its answer may not have been read.
                    let mayBeUnread = !primary.links[arrival.link].hasEndedWell
                    #expect(mayBeUnread || ends.contains { $0 > arrival.at && $0 < gone }, "\(what) went both ways")
                }
            }
            for ((robot, _, at), later) in zip(turned, turned.dropFirst()) {
                sums.again += 1
                againOf[ObjectIdentifier(robot), default: 0] += 1
                // What was not settled when the process ended, or answered and perhaps not read: no more than a connection holds.
                let isOpen = ends.contains { $0 > at && $0 <= later.2 } || !robot.hasEndedWell
                #expect(isOpen, "\(what) came again by ATRN")
            }
        }
        // Design §6: so many of one connection may be unsettled; two of their answers may not have been read.
        #expect(againOf.values.allSatisfy { $0 <= Limits.leasesPerConnection + 2 })
        #expect(sums.fetched > 0 && sums.turned > 0 && sums.pushed > 0, "\(sums)")
        #expect(ends.count > 1)
    }
}
