import Glibc
import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"
private let kept = "demo.test hold=true"

/// session ▶ batch ▶ commit lane ▶ disk: a `250` is sent only for what is on stable storage.
struct SpoolTests {
    // MARK: Every moment of a commit

    /// One world's story up to the `parts`-th change of the disk, then the end of the machine, and a new start.
    private func story(_ seed: UInt64, parts: Int, power: Bool) throws -> (done: Bool, gateway: SimulatedGateway) {
        let gateway = try SimulatedGateway(
            seed: seed, cores: 3, demo, "other.test forward.server=198.51.100.8")
        gateway.ready()
        let other = ScriptedPrimary(gateway, at: "198.51.100.8")
        other.stop()
        let before = gateway.world.counters.fileParts
        let clients = (0..<4).map { number in
            ScriptedClient(
                gateway,
                script: ScriptedClient.steps(
                    from: "s\(number)@sender.test", to: ["x@demo.test"] + (number % 2 == 0 ? ["y@other.test"] : []),
                    ScriptedClient.message("m\(number)", bytes: number == 3 ? 300_000 : 1_000)))
        }
        let isOver = { clients.allSatisfy(\.isDone) }
        gateway.run(seconds: 5) { gateway.world.counters.fileParts - before >= parts || isOver() }
        let done = isOver()
        if power { gateway.losePower() } else { gateway.kill() }
        // What the senders learnt before the end.
        gateway.world.cutAllConnections()
        let promised = clients.indices.filter { queueID(clients[$0].replies.last) != nil }
        let primary = ScriptedPrimary(gateway)
        other.start()
        try gateway.start()
        gateway.ready()
        #expect(gateway.run(seconds: 300) { gateway.isIdle })
        for number in promised {
            let content = ScriptedClient.message("m\(number)", bytes: number == 3 ? 300_000 : 1_000)
            let arrived = primary.accepted.filter { $0.reversePath == "s\(number)@sender.test" }
            #expect(arrived.count == 1, "seed \(seed), part \(parts): message \(number)")
            #expect(arrived.allSatisfy { Array($0.content.suffix(content.count)) == content })
            guard number % 2 == 0 else { continue }
            #expect(other.accepted.filter { $0.reversePath == "s\(number)@sender.test" }.count == 1)
        }
        for message in primary.accepted + other.accepted { #expect(message.text.hasPrefix("Received: ")) }
        gateway.pass(seconds: 1)
        // What was torn by a power loss was never promised; it stays, set aside.
        for file in gateway.files("demo.test") + gateway.files("other.test") {
            #expect(power && file.hasSuffix(MailFile.damagedSuffix), "seed \(seed), part \(parts): \(file)")
        }
        return (done, gateway)
    }

    /// The defence: the place of the 250, behind the sync in `Spool.judge`; `.part` names; the checksums.
    @Test("kill at every part of a commit: each 250 is delivered, nothing is changed") func killAtEveryPart() throws {
        var parts = 0
        while try !story(UInt64(1 + parts % 3), parts: parts, power: false).done, parts < 400 { parts += 1 }
        #expect(parts > 10 && parts < 400)
    }

    @Test("power loss at every part of a commit: each 250 is delivered, nothing is changed") func powerLossAtEveryPart()
        throws
    {
        var (parts, torn, lost) = (0, 0, 0)
        while parts < 400 {
            var isDone = true
            for seed in 1...3 {
                let (done, gateway) = try story(UInt64(seed + parts), parts: parts, power: true)
                torn += gateway.world.counters.tornFiles
                lost += gateway.world.counters.lostEntryChanges
                isDone = isDone && done
            }
            if isDone { break }
            parts += 1
        }
        #expect(parts > 10 && parts < 400)
        // The campaign met what it is for.
        #expect(torn > 0 && lost > 0)
    }

    // MARK: Faults

    /// The defence: `judge` and `noteFailure`.
    @Test(
        "M5: a failed write or sync: 451, the files go; the second one in a row fails the store, a trial brings it back",
        arguments: [SimulatedDiskFault.Action.create, .write, .close, .sync])
    func failures(_ action: SimulatedDiskFault.Action) throws {
        let gateway = try SimulatedGateway(
            cores: 2, "demo.test hold=true mailDirectory=/a/demo", "other.test hold=true mailDirectory=/b/other")
        gateway.ready()
        let content = ScriptedClient.message("m")
        let disk = gateway.world.disk
        let files = { (disk.names(in: "/a/demo") ?? []).filter { $0 != MailFile.headName } }
        disk.inject(SimulatedDiskFault(action))
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"], content)?.hasPrefix("451 4.3.0") == true)
        gateway.run { gateway.isIdle }
        #expect(files().isEmpty && gateway.store(of: "demo.test").used == (0, 0))
        #expect(gateway.alarms == 1)
        // One is no reason to refuse anything else.
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        // Just behind a time of trials, which come every 5 s.
        gateway.run { gateway.world.now / 1_000_000_000 % 5 == 3 }
        disk.inject(SimulatedDiskFault(action))
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"], content)?.hasPrefix("451") == true)
        gateway.run { gateway.cores.allSatisfy { $0.spool.isIdle } }
        disk.inject(SimulatedDiskFault(action))
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"], content)?.hasPrefix("451") == true)
        #expect(gateway.store(of: "demo.test").state.load(ordering: .relaxed) == .failed)
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"], content)?.hasPrefix("452 4.3.1") == true)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@other.test"], content)) != nil)
        #expect(gateway.run(seconds: 20) { gateway.store(of: "demo.test").state.load(ordering: .relaxed) == .ready })
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        gateway.run { gateway.isIdle }
        #expect(files().count == 2 && gateway.store(of: "demo.test").used.messages == 2)
    }

    /// The defence: one batch's messages are judged each by its own steps and its own file system's sync.
    @Test("M3, M5: one of two file systems fails: nobody has the message") func oneOfTwoDevices() throws {
        let gateway = try SimulatedGateway("demo.test hold=true mailDirectory=/a/demo")
        let second = gateway.world.disk.addDevice(mountedAt: "/b")
        try gateway.create("other.test hold=true mailDirectory=/b/other")
        gateway.ready()
        gateway.world.disk.inject(SimulatedDiskFault(.sync, device: second))
        let reply = ScriptedClient.send(gateway, to: ["x@demo.test", "y@other.test"])
        #expect(reply?.hasPrefix("451") == true)
        gateway.pass(seconds: 5)
        #expect(gateway.accepted == 0 && gateway.queued == 0)
        #expect(gateway.world.disk.names(in: "/a/demo") == [MailFile.headName])
        #expect(gateway.world.disk.names(in: "/b/other") == [MailFile.headName])
        #expect(gateway.store(of: "demo.test").used == (0, 0) && gateway.store(of: "other.test").used == (0, 0))
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test", "y@other.test"])) != nil)
    }

    @Test("M5: a failed sync's message is not in the queue after a power loss either", arguments: 1...20)
    func failedSyncThenPowerLoss(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, kept)
        gateway.ready()
        gateway.world.disk.inject(SimulatedDiskFault(.sync))
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"])?.hasPrefix("451") == true)
        let id = queueID(ScriptedClient.send(gateway, to: ["x@demo.test"]))
        #expect(id != nil)
        gateway.losePower()
        try gateway.start()
        gateway.ready()
        #expect(gateway.queue.map(\.id) == [id!.description])
    }

    /// The defence: `Device.hasRoom` at RCPT and DATA; settles need no room.
    @Test("M10: a full disk: 452 4.3.1 before the content, and settling goes on") func fullDisk() throws {
        let gateway = try SimulatedGateway(demo)
        let disk = gateway.world.disk
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        for _ in 0..<5 { #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil) }
        disk.setCapacity(of: 1, bytes: 1 << 20)
        gateway.pass(seconds: 2)
        let refused = ScriptedClient(gateway)
        #expect(refused.envelope(to: ["x@demo.test"])?.hasPrefix("452 4.3.1") == true)
        // Really full: not a byte is left.
        disk.setCapacity(of: 1, bytes: 0)
        primary.start()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 5 })
        #expect(gateway.files("demo.test").isEmpty)
        disk.setCapacity(of: 1, bytes: 1 << 40)
        gateway.pass(seconds: 2)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
    }

    @Test("M10: inodes run out, too") func noInodes() throws {
        let gateway = try SimulatedGateway(kept)
        gateway.ready()
        gateway.world.disk.setCapacity(of: 1, inodes: 900)
        gateway.pass(seconds: 2)
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("452 4.3.1") == true)
    }

    /// The reserve was measured a moment ago: the disk may be full all the same.
    @Test("M10: full within the commit is 452 and fails no store") func fullWithinCommit() throws {
        let gateway = try SimulatedGateway(kept)
        gateway.ready()
        for _ in 0..<3 {
            gateway.world.disk.inject(SimulatedDiskFault(.write, fault: ENOSPC))
            #expect(ScriptedClient.send(gateway, to: ["x@demo.test"])?.hasPrefix("452 4.3.1") == true)
        }
        #expect(gateway.store(of: "demo.test").state.load(ordering: .relaxed) == .ready)
        gateway.run { gateway.isIdle }
        #expect(gateway.files("demo.test").isEmpty && gateway.store(of: "demo.test").used == (0, 0))
    }

    // MARK: Stores

    /// The defence: `StoreKeeper.check` makes a head file only for a gateway without one in the database.
    @Test("M8: a store that the database knows and the disk doesn't is unavailable, never made anew") func unmounted()
        throws
    {
        let gateway = try SimulatedGateway("other.test hold=true")
        let device = gateway.world.disk.addDevice(mountedAt: "/mnt")
        try gateway.create("demo.test hold=true mailDirectory=/mnt/demo")
        gateway.ready()
        let id = queueID(ScriptedClient.send(gateway, to: ["x@demo.test"]))
        gateway.kill()
        gateway.world.disk.setMounted(false, device: device)
        try gateway.start()
        gateway.ready()
        #expect(gateway.complaints.count == 1)
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("451 4.3.0") == true)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@other.test"])) != nil)
        #expect(gateway.world.disk.names(in: "/mnt/demo") == nil || gateway.world.disk.names(in: "/mnt/demo") == [])
        gateway.kill()
        gateway.world.disk.setMounted(true, device: device)
        try gateway.start()
        gateway.ready()
        #expect(gateway.complaints.isEmpty)
        #expect(gateway.queue.contains { $0.id == id!.description })
    }

    @Test("M8: a directory is one gateway's, by the head file in it") func directoryOfAnother() throws {
        let gateway = try SimulatedGateway("demo.test hold=true mailDirectory=/a/x")
        gateway.ready()
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
        // The database was lost and made anew: other ids, other gateways.
        let lost = try gateway.directory.delete("demo.test", expectedETag: nil)
        try gateway.create("other.test hold=true mailDirectory=/a/x")
        #expect(
            gateway.complaints.count == 1 && gateway.directory.snapshot.gateway(forDomain: "other.test")!.id > lost.id)
        gateway.pass(seconds: 0.1)
        #expect(ScriptedClient(gateway).envelope(to: ["x@other.test"])?.hasPrefix("451 4.3.0") == true)
    }

    @Test("M8: a damaged or foreign head file makes a store unavailable") func damagedHead() throws {
        let gateway = try SimulatedGateway(kept)
        gateway.ready()
        gateway.kill()
        gateway.world.disk.rot("data/stores/demo.test/\(MailFile.headName)", at: 3)
        try gateway.start()
        #expect(gateway.complaints.count == 1)
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("451") == true)
    }

    // MARK: Large messages

    /// The defence: `LargeMessageWriter`'s `finished` and `proceed`, each fault in each of its steps.
    @Test("a large message whose writing fails leaves nothing", arguments: 1...14)
    func largeFault(_ countdown: Int) throws {
        for action in [SimulatedDiskFault.Action.create, .write, .sync, .close, .rename] {
            let gateway = try SimulatedGateway(seed: UInt64(countdown), kept)
            gateway.ready()
            let handles = gateway.world.disk.openHandles
            gateway.world.disk.inject(SimulatedDiskFault(action, countdown: countdown))
            let reply = ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("l", bytes: 700_000))
            gateway.pass(seconds: 30)
            gateway.world.disk.removeFaults()
            let files = gateway.files("demo.test")
            #expect(
                files.count == (queueID(reply) == nil ? 0 : 1), "\(action) \(countdown): \(reply ?? "none") \(files)")
            #expect(queueID(reply) != nil || reply?.hasPrefix("451") == true)
            #expect(gateway.store(of: "demo.test").used.messages == files.count, "\(action) \(countdown)")
            #expect(gateway.world.disk.openHandles == handles, "\(action) \(countdown): handles")
            #expect(gateway.memoryBytes == 0)
        }
    }

    @Test("large messages go through, in DATA and in BDAT, to several gateways", arguments: 1...4)
    func large(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 3, demo, "other.test forward.server=198.51.100.8")
        let primaries = [ScriptedPrimary(gateway), ScriptedPrimary(gateway, at: "198.51.100.8")]
        primaries[1].extensions.append("CHUNKING")
        let content = ScriptedClient.message("large", bytes: 900_000)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test", "y@other.test"])
        let reply: String?
        if seed % 2 == 0 {
            reply = client.data(content)
        } else {
            var at = 0
            var last: String?
            while at < content.count {
                let size = min(content.count - at, 1 + gateway.world.draw(300_000))
                let isLast = at + size == content.count
                last = client.send(Array("BDAT \(size)\(isLast ? " LAST" : "")\r\n".utf8) + content[at..<(at + size)])
                at += size
            }
            reply = last
        }
        #expect(queueID(reply) != nil)
        #expect(gateway.run(seconds: 120) { gateway.isIdle })
        for primary in primaries {
            #expect(primary.accepted.count == 1)
            #expect(primary.accepted.first.map { Array($0.content.suffix(content.count)) == content } == true)
        }
        #expect(gateway.files("demo.test").isEmpty && gateway.files("other.test").isEmpty)
    }

    // MARK: Memory

    /// The defence: `trimHot`, and the cold path of `ParcelLoader`.
    @Test("hot parcels are evicted, and leave from their files", arguments: 1...4) func eviction(_ seed: UInt64) throws
    {
        let gateway = try SimulatedGateway(seed: seed, demo) { $0.messageMemoryBytes = 200_000 }
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        for number in 0..<30 {
            let reply = ScriptedClient.send(
                gateway, to: ["x@demo.test"], ScriptedClient.message("m\(number)", bytes: 9_000))
            #expect(queueID(reply) != nil)
        }
        primary.start()
        #expect(gateway.run { gateway.isIdle })
        #expect(Set(primary.accepted.map(\.text.count)).count >= 1 && primary.accepted.count == 30)
        for number in 0..<30 {
            let content = ScriptedClient.message("m\(number)", bytes: 9_000)
            #expect(primary.accepted.filter { Array($0.content.suffix(content.count)) == content }.count == 1)
        }
    }

    /// The defence: the checksum is compared before the first byte is sent (P4).
    @Test("a message whose stored bytes have changed is set aside, never sent", arguments: [0, 20, 200, 900, 400_000])
    func rotten(_ offset: Int) throws {
        let gateway = try SimulatedGateway(demo)
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        let bytes = offset == 400_000 ? 500_000 : 2_000
        let content = ScriptedClient.message("rotten", bytes: bytes)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("fine"))) != nil)
        gateway.kill()
        let name = try #require(gateway.files("demo.test").min { $0 < $1 })
        gateway.world.disk.rot("data/stores/demo.test/\(name)", at: offset)
        primary.start()
        try gateway.start()
        gateway.ready()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        #expect(primary.messages.count == 1 && primary.accepted[0].text.contains("fine"))
        #expect(gateway.damaged == 1)
        gateway.pass(seconds: 1)
        #expect(gateway.files("demo.test") == [name + MailFile.damagedSuffix])
        #expect(gateway.store(of: "demo.test").used == (0, 0))
        // Nor is it taken for mail at the next start.
        try gateway.restart()
        gateway.ready()
        gateway.pass(seconds: 5)
        #expect(primary.messages.count == 1 && gateway.queued == 0)
    }
}
