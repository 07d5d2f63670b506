import Protocols
import Reactor
import Testing

@testable import Gateway

/// Two gateways with their mail on two disks, of which one neither works nor fails.
struct HangingDiskTests {
    private let gateway: SimulatedGateway
    private let primary: ScriptedPrimary
    private let second: Int

    init() throws {
        gateway = try SimulatedGateway(seed: 5, cores: 2, "near.test forward.server=198.51.100.7")
        primary = ScriptedPrimary(gateway)
        second = gateway.world.disk.addDevice(mountedAt: "/mnt")
        try gateway.create("far.test forward.server=198.51.100.7 mailDirectory=/mnt/far.test")
        gateway.ready()
    }

    private func message(to recipients: [String], _ number: Int) -> ScriptedClient {
        ScriptedClient(
            gateway,
            script: ScriptedClient.steps(
                from: "s\(number)@sender.test", to: recipients, ScriptedClient.message("m\(number)", bytes: 2_000)))
    }

    @Test("M5: a disk that hangs holds back its own gateways' mail and no other's") func hangs() {
        gateway.world.disk.hang(device: second, for: 60_000_000_000)
        let far = message(to: ["a@far.test"], 1)
        let both = message(to: ["a@near.test", "a@far.test"], 2)
        gateway.pass(seconds: 1)
        for number in 3..<20 {
            let near = message(to: ["a@near.test"], number)
            #expect(gateway.run(seconds: 3) { near.isDone })
            #expect(queueID(near.replies.last) != nil, "\(near.replies)")
        }
        #expect(gateway.run(seconds: 5) { primary.accepted.count == 17 })
        #expect(!far.isDone && !both.isDone)

        // Once it is known, nothing more is begun there.
        gateway.pass(seconds: 15)
        let refused = message(to: ["a@far.test"], 20)
        gateway.run(seconds: 5) { refused.isDone }
        #expect(refused.replies.contains { $0.hasPrefix("451 4.3.0 The disk") }, "\(refused.replies)")
        #expect(gateway.alarms > 0)

        // And when it answers again, what waited is promised and goes on.
        #expect(gateway.run(seconds: 60) { far.isDone && both.isDone })
        #expect(queueID(far.replies.last) != nil && queueID(both.replies.last) != nil)
        gateway.pass(seconds: 2)
        let after = message(to: ["a@far.test"], 21)
        gateway.run(seconds: 5) { after.isDone }
        #expect(queueID(after.replies.last) != nil)
        #expect(gateway.run(seconds: 60) { gateway.isIdle })
        #expect(primary.accepted.count == 17 + 4)
    }

    @Test("M5: mail on a disk that hangs is fetched later, the other's is sent meanwhile") func fetch() throws {
        primary.stop()
        let all = (0..<6).map { message(to: [$0 % 2 == 0 ? "a@near.test" : "a@far.test"], $0) }
        #expect(gateway.run(seconds: 10) { all.allSatisfy(\.isDone) })
        try gateway.restart()
        gateway.ready()
        gateway.world.disk.hang(device: second, for: 120_000_000_000)
        primary.start()
        gateway.flush()
        #expect(gateway.run(seconds: 60) { primary.accepted.count == 3 })
        #expect(primary.accepted.allSatisfy { $0.paths == ["a@near.test"] })
        #expect(gateway.run(seconds: 400) { gateway.isIdle })
        #expect(primary.accepted.count == 6)
    }
}
