import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"

/// Gateways that come and go while mail for them arrives.
struct DeletionTests {
    /// Seen: 46 of 120 messages with a 250 were renamed aside with the directory of a gateway whose deletion had found it empty.
    @Test("P2: a deletion finds what arrives meanwhile, or its sender hears a 450", arguments: 1...12)
    func arrivingDuringDeletion(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 3, demo + " hold=true")
        gateway.ready()
        let clients = (0..<12).map {
            ScriptedClient(
                gateway,
                script: ScriptedClient.steps(
                    from: "s\($0)@sender.test", to: ["x@demo.test"],
                    ScriptedClient.message("m\($0)", bytes: 3_000)))
        }
        gateway.run(seconds: 5) { clients.contains { $0.replies.count > Int(seed % 5) } }
        let store = gateway.store(of: "demo.test")
        store.setClosing(true)
        let countedAtOnce = store.used.messages
        gateway.run(seconds: 30) { clients.allSatisfy(\.isDone) }
        gateway.pass(seconds: 1)
        let promised = clients.count { queueID($0.replies.last) != nil }
        #expect(promised == countedAtOnce && store.used.messages == promised && gateway.queued == promised)
        for client in clients where queueID(client.replies.last) == nil {
            #expect(client.replies.contains { $0.hasPrefix("450 4.2.1") }, "\(client.replies)")
        }
        // And while it lasts nothing leaves, not even under a flush.
        try gateway.update("demo.test", "hold=false")
        gateway.flush()
        gateway.pass(seconds: 5)
        #expect(gateway.queued == promised)
        let id = gateway.directory.snapshot.gateway(forDomain: "demo.test")!.id
        _ = gateway.ask(.drop(gatewayID: id, only: nil))
        #expect(gateway.run(seconds: 10) { store.used.messages == 0 } && gateway.files("demo.test").isEmpty)
    }

    /// Seen: an announcement reached a home that had not heard of the gateway yet, and was dropped as an orphan.
    @Test("P2: mail for a gateway that its home does not know yet is queued", arguments: 1...8)
    func mailBeforeTheHomeKnows(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 2, "first.test hold=true")
        gateway.ready()
        let other = try SimulatedGateway(seed: seed, cores: 2, "first.test hold=true", "new.test hold=true")
        other.ready()
        // What a reactor sends that has the new routes, to one that has the old ones.
        let route = Route(
            gateway: other.directory.snapshot.gateway(forDomain: "new.test")!, store: other.store(of: "new.test"))
        let id = QueueID(milliseconds: 1_767_225_600_000, start: 1, reactor: 0, counter: 1)
        let home = gateway.cores[Routes.home(of: route.gateway.id, reactors: 2)]
        home.queues.enqueue(
            Announcement(key: QueueKey(gatewayID: route.gateway.id), route: route, id: id, bytes: 10, hot: nil),
            home.routes)
        #expect(gateway.queued == 1)
    }

    @Test("idle queues of deleted gateways and of destinations go, and their directories are closed") func idleQueues()
        throws
    {
        let gateway = try SimulatedGateway(seed: 3, cores: 2, demo)
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        let handles = gateway.world.disk.openHandles
        for number in 0..<20 {
            let domain = "g\(number).test"
            try gateway.create("\(domain) forward.server=198.51.100.7")
            gateway.ready()
            #expect(queueID(ScriptedClient.send(gateway, to: ["x@\(domain)"], ScriptedClient.message("m"))) != nil)
            gateway.run(seconds: 20) { gateway.isIdle }
            try gateway.delete(domain)
        }
        #expect(primary.accepted.count == 20)
        gateway.pass(seconds: 120)
        #expect(gateway.cores.allSatisfy { $0.queues.queues.count { $0 != nil } <= 2 })
        #expect(gateway.world.disk.openHandles == handles)
    }

    /// Seen: each hot parcel answered at once, from within the call for the one before, until the stack was used up.
    @Test("a long list of parcels in memory does not deepen the stack") func longList() throws {
        let gateway = try SimulatedGateway(seed: 4, cores: 1, "a.test hold=true")
        gateway.ready()
        let core = gateway.cores[0]
        let route = core.routes.route(forDomain: "a.test")!
        let content = MessageContent()
        [UInt8]("x\r\n".utf8).withUnsafeBytes { content.append($0) }
        let envelope = Envelope(reversePath: "", recipients: [Envelope.Recipient(path: "x@a.test")])
        for number in 0..<20_000 {
            let id = QueueID(milliseconds: 1_767_225_600_000, start: 1, reactor: 0, counter: UInt32(number + 1))
            core.queues.enqueue(
                Announcement(
                    key: QueueKey(gatewayID: route.gateway.id), route: route, id: id, bytes: 3,
                    hot: HotParcel(envelope: envelope, content: content)), core.routes)
        }
        #expect(gateway.queue.count == 20_000)
    }

    /// Seen in reading: the state file's unlink succeeded, the message's failed, and after a kill all recipients got it again.
    @Test("T-E5: a state file stays until its message has gone for good") func stateOutlivesTheMessage() throws {
        let gateway = try SimulatedGateway(seed: 5, cores: 2, demo + " retry.schedule=[30s]")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        var isCalm = false
        primary.act = {
            if case .recipient(let line) = $0, line.contains("<late"), !isCalm { return .reply("450 4.2.0 later") }
            return nil
        }
        let reply = ScriptedClient.send(
            gateway, to: ["early@demo.test", "late@demo.test"], ScriptedClient.message("m"))
        #expect(queueID(reply) != nil)
        gateway.run(seconds: 20) { primary.accepted.count == 1 && gateway.files("demo.test").count == 2 }
        isCalm = true
        gateway.world.disk.inject(SimulatedDiskFault(.unlink))
        #expect(gateway.run(seconds: 60) { primary.accepted.count == 2 })
        gateway.pass(seconds: 2)
        #expect(gateway.files("demo.test").count == 2, "the message's unlink failed: \(gateway.files("demo.test"))")
        try gateway.restart()
        gateway.ready()
        #expect(gateway.run(seconds: 200) { gateway.isIdle && gateway.files("demo.test").isEmpty })
        let toEarly = primary.accepted.count { $0.paths.contains("early@demo.test") }
        #expect(toEarly == 1)
    }

    /// Seen in reading: behind 64 young parcels at the front of the queue no old one was looked at.
    @Test("an old parcel behind many young ones expires while its primary is down") func oldBehindYoung() throws {
        let gateway = try SimulatedGateway(
            seed: 6, cores: 1, demo + " retry.schedule=[10m] retry.lifetime=2h", "sender.test hold=true")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        primary.act = { if case .recipient = $0 { .reply("450 4.2.0 later") } else { nil } }
        #expect(queueID(ScriptedClient.send(gateway, to: ["old@demo.test"], ScriptedClient.message("m"))) != nil)
        gateway.pass(seconds: 6_600)
        primary.stop()
        for number in 0..<300 {
            #expect(
                queueID(ScriptedClient.send(gateway, to: ["y\(number)@demo.test"], ScriptedClient.message("m"))) != nil)
        }
        gateway.pass(seconds: 1_500)
        #expect(gateway.bounced == 1)
    }
}
