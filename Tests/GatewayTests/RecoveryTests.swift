import Glibc
import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"

/// listing ▶ what is ours ▶ queue: a start finds all that was promised, and nothing else.
struct RecoveryTests {
    private let folder = SimulatedGateway.path(of: "demo.test")

    private func place(_ gateway: SimulatedGateway, _ name: String, _ text: String) {
        let disk = gateway.world.disk
        let handle = FileHandle(disk.carryOut(.openDirectory(path: folder, create: false)).value)
        Array(text.utf8).withUnsafeBytes { bytes in
            _ = disk.carryOut(.place(in: handle, name: name, [IOVector(bytes)]))
        }
        _ = disk.carryOut(.close(handle))
    }

    private func accept(_ gateway: SimulatedGateway, _ count: Int) -> [QueueID] {
        (0..<count).compactMap {
            queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("m\($0)")))
        }
    }

    /// The defence: `MailFile.entry` and the switch in `Recovery.slice`.
    @Test("M11: what was never promised goes, what isn't ours stays, damage is never sent") func oddFiles() throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " hold=true")
        gateway.ready()
        let ids = accept(gateway, 3)
        gateway.kill()
        let other = QueueID(milliseconds: 1_767_225_600_123, start: 77, reactor: 0, counter: 9)
        let names = [
            "\(other).part", MailFile.name(other, contentBytes: 5) + ".part", "notes.txt", "\(other)-x.eml",
            MailFile.stateName(other), MailFile.name(other, contentBytes: 12) + MailFile.damagedSuffix,
        ]
        for name in names { place(gateway, name, "X-Postern: nonsense") }
        let torn = QueueID(milliseconds: 1_767_225_600_124, start: 77, reactor: 0, counter: 10)
        place(gateway, MailFile.name(torn, contentBytes: 100), "X-Postern: 1 id=08YR")
        let primary = ScriptedPrimary(gateway)
        try gateway.start()
        gateway.ready()
        gateway.pass(seconds: 1)
        #expect(Set(gateway.queue.map(\.id)) == Set(ids.map(\.description) + [torn.description]))
        try gateway.update("demo.test", "hold=false")
        #expect(gateway.run(seconds: 30) { gateway.queued == 0 })
        gateway.pass(seconds: 1)
        #expect(primary.accepted.count == 3 && gateway.damaged == 1)
        #expect(
            Set(gateway.files("demo.test"))
                == Set([names[2], names[3], names[5], MailFile.name(torn, contentBytes: 100) + MailFile.damagedSuffix]))
        #expect(gateway.store(of: "demo.test").used == (0, 0))
    }

    @Test("M9: the quota is counted again") func quotaIsRebuilt() throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " hold=true quota.enabled=true quota.messages=3")
        gateway.ready()
        #expect(accept(gateway, 3).count == 3)
        let used = gateway.store(of: "demo.test").used
        try gateway.restart()
        gateway.ready()
        #expect(gateway.store(of: "demo.test").used == used)
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("452 4.2.2") == true)
    }

    /// The defence: the store's state `.listing` in `Core.admit`; `isListing` holds the leases back.
    @Test("M11: SMTP is open while a store is listed; with a quota it waits, and nothing is leased")
    func openWhileListing() throws {
        let gateway = try SimulatedGateway(cores: 2, "other.test forward.server=198.51.100.7")
        let device = gateway.world.disk.addDevice(mountedAt: "/mnt")
        try gateway.create("demo.test forward.server=198.51.100.7 mailDirectory=/mnt/demo")
        try gateway.create("quota.test mailDirectory=/mnt/quota quota.enabled=true quota.messages=9")
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 5).count == 5)
        gateway.kill()
        try gateway.start()
        gateway.world.disk.hang(device: device, for: 20_000_000_000)
        primary.start()
        gateway.pass(seconds: 1)
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("250") == true)
        #expect(ScriptedClient(gateway).envelope(to: ["x@quota.test"])?.hasPrefix("451 4.3.2") == true)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@other.test"])) != nil)
        gateway.pass(seconds: 5)
        #expect(primary.accepted.allSatisfy { $0.paths == ["x@other.test"] })
        #expect(gateway.run(seconds: 60) { gateway.ready() && gateway.isIdle && primary.accepted.count == 6 })
        #expect(ScriptedClient(gateway).envelope(to: ["x@quota.test"])?.hasPrefix("250") == true)
    }

    /// The defence: `isListing` in `GatewayQueue.holdReason`.
    @Test("M11: nothing is leased before the listing is through") func leasesWait() throws {
        let gateway = try SimulatedGateway(cores: 2, demo)
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 5).count == 5)
        gateway.kill()
        for number in 0..<1_200 {
            place(gateway, "\(QueueID(milliseconds: 5, start: 77, reactor: 0, counter: UInt32(number))).part", "x")
        }
        primary.start()
        try gateway.start()
        gateway.run { gateway.queued > 0 }
        #expect(gateway.isRecovering)
        gateway.ready()
        let listed = gateway.world.now
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 5 })
        #expect(primary.connectedAt.allSatisfy { $0 >= listed } && gateway.files("demo.test").isEmpty)
    }

    @Test("M11: what arrives while its store is being listed is counted once", arguments: 1...10)
    func arrivalsWhileListing(_ seed: UInt64) throws {
        var settings = SimulatedSettings.quiet
        settings.fileDelay = 1_000_000...100_000_000
        let gateway = try SimulatedGateway(seed: seed, cores: 3, world: settings, demo)
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 5).count == 5)
        gateway.kill()
        try gateway.start()
        let clients = (0..<8).map { number in
            ScriptedClient(
                gateway, script: ScriptedClient.steps(to: ["x@demo.test"], ScriptedClient.message("n\(number)")))
        }
        gateway.run { clients.allSatisfy(\.isDone) }
        gateway.ready()
        #expect(gateway.run { gateway.queued == 13 } && gateway.store(of: "demo.test").used.messages == 13)
        primary.start()
        #expect(gateway.run(seconds: 60) { gateway.isIdle && primary.accepted.count == 13 })
        #expect(Set(primary.accepted.map(\.text)).count == 13)
    }

    /// Design §6: oldest first.
    @Test("after a start the oldest goes first", arguments: 1...5) func oldestFirst(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 2, demo + " forward.concurrency=1")
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        let ids = accept(gateway, 30)
        try gateway.restart()
        primary.start()
        gateway.ready()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 30 })
        let order = primary.accepted.compactMap { message in ids.firstIndex { message.text.contains($0.description) } }
        #expect(order == order.sorted())
    }

    @Test("a start with another number of reactors finds everything", arguments: [1, 2, 5]) func otherCores(
        _ cores: Int
    ) throws {
        let gateway = try SimulatedGateway(
            cores: 3, demo, "other.test forward.server=198.51.100.7", "third.test forward.server=198.51.100.7")
        gateway.ready()
        for number in 0..<9 {
            let domain = ["demo.test", "other.test", "third.test"][number % 3]
            #expect(queueID(ScriptedClient.send(gateway, to: ["x@\(domain)"])) != nil)
        }
        gateway.kill()
        gateway.coreCount = cores
        let primary = ScriptedPrimary(gateway)
        try gateway.start()
        #expect(gateway.run { gateway.ready() && gateway.isIdle && primary.accepted.count == 9 })
    }

    @Test(
        "M11: kill and power loss during recovery change nothing that the next start relies on",
        arguments: [false, true])
    func crashWithinRecovery(_ power: Bool) throws {
        var parts = 0
        var isOver = false
        while !isOver, parts < 300 {
            let gateway = try SimulatedGateway(seed: UInt64(parts + 1), cores: 2, demo + " hold=true")
            gateway.ready()
            let ids = accept(gateway, 4)
            gateway.kill()
            place(gateway, "\(QueueID(milliseconds: 5, start: 77, reactor: 0, counter: 1)).part", "x")
            for _ in 0..<2 {
                try gateway.start()
                let before = gateway.world.counters.fileParts
                isOver =
                    !gateway.run(seconds: 2, until: { gateway.world.counters.fileParts - before >= parts })
                    || gateway.run(seconds: 0, until: { !gateway.isRecovering })
                if power { gateway.losePower() } else { gateway.kill() }
            }
            try gateway.start()
            gateway.ready()
            #expect(Set(gateway.queue.map(\.id)) == Set(ids.map(\.description)), "part \(parts)")
            #expect(gateway.store(of: "demo.test").used.messages == 4)
            parts += 1
        }
        #expect(parts > 3 && parts < 300)
    }

    @Test("M11: a listing that fails is tried again") func listingFails() throws {
        let gateway = try SimulatedGateway(cores: 2, demo)
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 3).count == 3)
        gateway.kill()
        primary.start()
        try gateway.start()
        gateway.world.disk.inject(SimulatedDiskFault(.read, times: 3))
        gateway.world.disk.inject(SimulatedDiskFault(.sync))
        #expect(gateway.run(seconds: 200) { gateway.ready() && gateway.isIdle && primary.accepted.count == 3 })
    }

    /// T-F5.
    @Test("a superblock of another version, or damaged, is refused and left alone") func superblock() throws {
        let gateway = try SimulatedGateway(cores: 1, demo)
        let disk = gateway.world.disk
        let folder = FileHandle(disk.carryOut(.openDirectory(path: "other", create: true)).value)
        let open = { () throws(SpoolFault) in
            try Superblock.open(folder, path: "other", files: disk, wall: 5_000_000_000, boot: "b")
        }
        #expect(try open().start == 1)
        #expect(try open().start == 2)
        for text in [
            "postern-spool 2 start=1 time=5 crc=0\n", "", "nonsense", "postern-spool 1 start=1 time=5 crc=0\n",
        ] {
            _ = disk.carryOut(.unlink(in: folder, name: "superblock"))
            Array(text.utf8).withUnsafeBytes { bytes in
                _ = disk.carryOut(.place(in: folder, name: "superblock", [IOVector(bytes)]))
            }
            #expect(throws: SpoolFault.self) { try open() }
            #expect(disk.contents(of: "other/superblock") == Array(text.utf8))
        }
    }

    /// Design rule M6: no two starts share a number, whatever a power loss leaves.
    @Test("start numbers never come again", arguments: 1...20) func startNumbers(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 1, demo)
        var last: UInt32 = gateway.cores[0].startNumber
        for _ in 0..<5 {
            gateway.losePower()
            try gateway.start()
            #expect(gateway.cores[0].startNumber > last)
            last = gateway.cores[0].startNumber
        }
    }
}
