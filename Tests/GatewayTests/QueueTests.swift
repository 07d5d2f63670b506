import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"

/// announcement ▶ home ▶ ready, deferred, leased ▶ gone: what waits, what an administrator sees and does.
struct QueueTests {
    private func accept(_ gateway: SimulatedGateway, _ count: Int, to recipient: String = "x@demo.test") -> [QueueID] {
        (0..<count).compactMap {
            queueID(ScriptedClient.send(gateway, to: [recipient], ScriptedClient.message("m\($0)")))
        }
    }

    // MARK: Held back

    /// The defence: `GatewayQueue.holdReason`.
    @Test func heldMailStaysUntilReleased() throws {
        let gateway = try SimulatedGateway(cores: 3, demo + " hold=true")
        let primary = ScriptedPrimary(gateway)
        #expect(accept(gateway, 3).count == 3)
        gateway.pass(seconds: 30)
        gateway.flush()
        gateway.pass(seconds: 30)
        #expect(primary.connections == 0 && gateway.queue.map(\.state) == [.held, .held, .held])
        #expect(gateway.health("demo.test")?.state == "held")
        try gateway.update("demo.test", "hold=false")
        #expect(gateway.run(seconds: 10) { gateway.isIdle })
        #expect(primary.accepted.count == 3)
    }

    @Test func onContactWaitsForAFlush() throws {
        let gateway = try SimulatedGateway(cores: 3, demo + " delivery.when=onContact")
        let primary = ScriptedPrimary(gateway)
        #expect(accept(gateway, 5).count == 5)
        gateway.pass(seconds: 7_200)
        #expect(primary.connections == 0 && gateway.queued == 5)
        gateway.flush("demo.test")
        #expect(gateway.run(seconds: 10) { gateway.isIdle })
        #expect(primary.accepted.count == 5)
        // The flush is over: what comes later waits again.
        #expect(accept(gateway, 1).count == 1)
        gateway.pass(seconds: 60)
        #expect(gateway.queued == 1)
    }

    /// Retry times, health and recovery hold nothing back under a flush.
    @Test func flushOverridesRetryAndRecovery() throws {
        let gateway = try SimulatedGateway(cores: 3, demo + " delivery.when=onContact retry.schedule=[1h]")
        let primary = ScriptedPrimary(gateway)
        primary.act = { if case .recipient = $0 { .reply("451 4.3.0 not now") } else { nil } }
        #expect(accept(gateway, 2).count == 2)
        gateway.flush()
        gateway.run { gateway.deferred == 2 }
        gateway.pass(seconds: 5)
        #expect(gateway.queue.map(\.state) == [.deferred, .deferred])
        #expect(
            gateway.queue.allSatisfy {
                $0.attempts == 1 && $0.lastReply == "451 4.3.0 not now" && $0.nextAttempt != nil
            })
        primary.act = { _ in nil }
        gateway.flush()
        #expect(gateway.run(seconds: 10) { gateway.isIdle })
        #expect(accept(gateway, 4).count == 4)
        try gateway.restart()
        // Recovery has not begun yet.
        gateway.flush()
        #expect(gateway.run(seconds: 10) { gateway.ready() && gateway.isIdle && primary.accepted.count == 6 })
    }

    // MARK: An administrator

    @Test func listShowDeleteBounceExport() throws {
        let gateway = try SimulatedGateway(cores: 3, demo + " hold=true", "sender.test hold=true")
        gateway.ready()
        let content = ScriptedClient.message("shown")
        let id = try #require(queueID(ScriptedClient.send(gateway, to: ["x@demo.test", "y@demo.test"], content)))
        let others = accept(gateway, 2)
        #expect(gateway.queue.count == 3)
        let find = { (id: QueueID) -> [QueuedMessage] in
            gateway.ask(.find(id)).flatMap { answer -> [QueuedMessage] in
                if case .queued(let list) = answer { list } else { [] }
            }
        }
        let shown = try #require(find(id).first)
        #expect(shown.from == "a@sender.test" && shown.recipients == ["x@demo.test", "y@demo.test"])
        #expect(
            shown.domain == "demo.test" && shown.state == .held && shown.attempts == 0 && shown.bytes > content.count)
        #expect(shown.receivedAt == Double(id.milliseconds) / 1_000)
        let exported = gateway.ask(.export(id)).compactMap { if case .content(let bytes) = $0 { bytes } else { nil } }
        #expect(
            exported.count == 1 && exported[0].count == shown.bytes
                && Array(exported[0].suffix(content.count)) == content)
        // The same from the file.
        try gateway.restart()
        gateway.ready()
        #expect(
            gateway.ask(.export(id)).contains {
                if case .content(let bytes) = $0 { bytes == exported[0] } else { false }
            })
        #expect(find(id).first?.recipients == shown.recipients)

        _ = gateway.ask(.delete(others[0]))
        gateway.run { gateway.cores.allSatisfy { $0.spool.isIdle } }
        #expect(find(others[0]).isEmpty && gateway.files("demo.test").count == 2)
        _ = gateway.ask(.bounce(id))
        gateway.run { gateway.files("demo.test").count == 1 && gateway.cores.allSatisfy { $0.spool.isIdle } }
        #expect(find(id).isEmpty)
        // The sender is told, through the gateway that its domain has here.
        let notice = try #require(gateway.queue.first { $0.domain == "sender.test" })
        #expect(notice.from.isEmpty && notice.recipients == ["a@sender.test"])
        #expect(gateway.ask(.delete(id)).allSatisfy { if case .notFound = $0 { true } else { false } })
        #expect(gateway.store(of: "demo.test").used.messages == 1)
    }

    @Test func dropAndBounceOfAWholeGateway() throws {
        let gateway = try SimulatedGateway(
            cores: 2, demo + " hold=true", "sender.test hold=true", "third.test hold=true")
        gateway.ready()
        #expect(accept(gateway, 5).count == 5 && accept(gateway, 2, to: "x@third.test").count == 2)
        let id = { gateway.directory.snapshot.gateway(forDomain: $0)!.id }
        _ = gateway.ask(.bounceAll(gatewayID: id("demo.test")))
        #expect(gateway.run { gateway.files("demo.test").isEmpty && gateway.files("sender.test").count == 5 })
        _ = gateway.ask(.drop(gatewayID: id("third.test"), only: nil))
        #expect(gateway.run { gateway.files("third.test").isEmpty })
        #expect(gateway.queued == 5 && gateway.queue.allSatisfy { $0.domain == "sender.test" })
    }

    // MARK: Time

    /// The defence: `ClockGuard`, asked wherever something could expire.
    @Test("T-G1: a wall clock that jumps ahead expires nothing", arguments: 1...8) func clockJumps(_ seed: UInt64)
        throws
    {
        let gateway = try SimulatedGateway(seed: seed, cores: 2, demo + " retry.schedule=[10s]")
        let primary = ScriptedPrimary(gateway)
        primary.act = { if case .recipient = $0 { .reply("451 4.3.0 not now") } else { nil } }
        #expect(accept(gateway, 10).count == 10)
        gateway.run { gateway.deferred >= 10 }
        gateway.pass(seconds: Double(gateway.world.draw(1_000)) / 100)
        gateway.world.jumpWallClock(by: 10 * 86_400 * 1_000_000_000)
        gateway.pass(seconds: 120)
        #expect(gateway.bounced == 0 && gateway.queued == 10)
        // It is put right; the mail goes on as before.
        gateway.world.jumpWallClock(by: -10 * 86_400 * 1_000_000_000)
        primary.act = { _ in nil }
        #expect(gateway.run(seconds: 60) { gateway.isIdle })
        #expect(primary.accepted.count == 10)
    }

    @Test("T-G1: a primary that is down while the clock jumps", arguments: 1...4) func clockJumpsDuringOutage(
        _ seed: UInt64
    ) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 2, demo)
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 10).count == 10)
        gateway.pass(seconds: Double(gateway.world.draw(1_000)) / 100)
        gateway.world.jumpWallClock(by: 10 * 86_400 * 1_000_000_000)
        gateway.pass(seconds: 120)
        #expect(gateway.bounced == 0 && gateway.queued == 10)
        gateway.world.jumpWallClock(by: -20 * 86_400 * 1_000_000_000)
        gateway.pass(seconds: 10)
        primary.start()
        #expect(gateway.run(seconds: 60) { gateway.isIdle })
        #expect(primary.accepted.count == 10)
    }

    /// The defence: `ClockGuard` and `QueueIDMaker` know when the last run was seen.
    @Test("T-G1: a clock that is wrong at boot, until a time service puts it right", arguments: [-30, 15, 30 * 365])
    func clockIsWrongAtBoot(_ days: Int64) throws {
        let day: Int64 = 86_400 * 1_000_000_000
        let gateway = try SimulatedGateway(cores: 2, demo + " retry.schedule=[10s]")
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 5).count == 5)
        gateway.kill()
        gateway.world.jumpWallClock(by: days * day)
        try gateway.start()
        // The primary is down, and whatever is too old bounces with a failed attempt.
        gateway.pass(seconds: 60)
        #expect(accept(gateway, 5).count == 5)
        gateway.pass(seconds: 60)
        gateway.world.jumpWallClock(by: -days * day)
        // Past the hour in which nothing expires; past none's lifetime of five days.
        gateway.pass(seconds: 2 * 3_600)
        #expect(gateway.bounced == 0 && gateway.queued == 10)
        primary.start()
        #expect(gateway.run(seconds: 120) { gateway.isIdle })
        #expect(primary.accepted.count == 10)
    }

    @Test("T-G1: mail expires on its day beyond 2038") func expiresBeyond2038() throws {
        let gateway = try SimulatedGateway(cores: 1, demo + " retry.schedule=[10m] retry.lifetime=90m")
        gateway.kill()
        gateway.world.jumpWallClock(by: 20 * 365 * 86_400 * 1_000_000_000)
        try gateway.start()
        _ = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 3).count == 3)
        gateway.pass(seconds: 80 * 60)
        #expect(gateway.bounced == 0 && gateway.queued == 3)
        gateway.pass(seconds: 40 * 60)
        #expect(gateway.bounced == 3)
    }

    @Test func retriesFollowTheSchedule() throws {
        let gateway = try SimulatedGateway(cores: 1, demo + " retry.schedule=[10s,100s,1000s]")
        let primary = ScriptedPrimary(gateway)
        var tries: [UInt64] = []
        let world = gateway.world
        primary.act = { moment in
            guard case .recipient = moment else { return nil }
            tries.append(world.now)
            return .reply("450 4.2.0 greylisted")
        }
        #expect(accept(gateway, 1).count == 1)
        gateway.pass(seconds: 3_500)
        let gaps = zip(tries, tries.dropFirst()).map { Double($1 - $0) / 1e9 }
        #expect(gaps.count == 5)
        for (gap, step) in zip(gaps, [10.0, 100, 1_000, 1_000, 1_000]) {
            #expect(gap > step * 0.9 && gap < step * 1.12 + 2, "\(gap)")
        }
    }

    /// The defence: `GatewayQueue.takeReady` takes from the front.
    @Test func oldestFirst() throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " forward.concurrency=1")
        let primary = ScriptedPrimary(gateway, isUp: false)
        let ids = accept(gateway, 20)
        primary.start()
        #expect(gateway.run { gateway.isIdle })
        let order = primary.accepted.compactMap { message in
            ids.firstIndex { message.text.contains($0.description) }
        }
        #expect(order == Array(0..<20))
    }

    @Test func oneDeadCustomerSlowsNobody() throws {
        let gateway = try SimulatedGateway(cores: 2, demo, "dead.test forward.server=198.51.100.99")
        let primary = ScriptedPrimary(gateway)
        gateway.world.setBlackholed(SocketAddress(IPAddress("198.51.100.99")!, port: 25), true)
        #expect(accept(gateway, 20, to: "x@dead.test").count == 20)
        #expect(accept(gateway, 5).count == 5)
        #expect(gateway.run(seconds: 5) { primary.accepted.count == 5 })
        gateway.pass(seconds: 60)
        #expect(gateway.health("dead.test")?.state == "down" && gateway.queued == 20)
        #expect(gateway.health("demo.test")?.state == "up")
    }
}
