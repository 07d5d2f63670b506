import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7 retry.schedule=[2s]"
private let small = JournalSettings(segmentBytes: 1 << 16, limitBytes: 6 << 16)
private let roomy = JournalSettings(segmentBytes: 1 << 19, limitBytes: 6 << 19)

/// session ▶ journal ▶ disk ▶ queue ▶ primary ▶ the record's end ▶ the segment is used again, on a simulated disk.
struct JournalTests {
    private func ready(_ gateway: SimulatedGateway) {
        gateway.ready()
        // Until every reactor's journal has its segments.
        gateway.pass(seconds: 2)
    }

    private func accept(_ gateway: SimulatedGateway, _ numbers: Range<Int>, bytes: Int = 0) -> [QueueID] {
        numbers.compactMap {
            queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("m\($0)", bytes: bytes)))
        }
    }

    private func sum(_ gateway: SimulatedGateway, _ value: (Counters) -> Int) -> Int {
        gateway.counters.reduce(0) { $0 + value($1) }
    }
    private func journaled(_ gateway: SimulatedGateway) -> Int {
        sum(gateway) { $0.journalMessages.load(ordering: .relaxed) }
    }
    private func moved(_ gateway: SimulatedGateway) -> Int { sum(gateway) { $0.journalMoved.load(ordering: .relaxed) } }

    // MARK: The way through

    @Test("mail for a primary that is up leaves without a file in its mail directory") func through() throws {
        let gateway = try SimulatedGateway(cores: 3, journal: roomy, demo, "other.test forward.server=198.51.100.8")
        ready(gateway)
        let primary = ScriptedPrimary(gateway)
        let other = ScriptedPrimary(gateway, at: "198.51.100.8")
        let placed = gateway.world.counters.filesPlaced
        #expect(accept(gateway, 0..<20).count == 20)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test", "y@other.test"])) != nil)
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 21 && other.accepted.count == 1 })
        #expect(gateway.world.counters.filesPlaced == placed && journaled(gateway) == 21 && moved(gateway) == 0)
        let journal = SimulatedJournal(gateway.world.disk)
        #expect(journal.live.isEmpty && journal.parcels == 22 && journal.settles == 22)
        #expect(gateway.store(of: "demo.test").used == (0, 0))
    }

    @Test("without a journal, and for a large message, there is a file") func withoutJournal() throws {
        let gateway = try SimulatedGateway(journal: small, demo)
        ready(gateway)
        _ = ScriptedPrimary(gateway, isUp: false)
        #expect(
            queueID(
                ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("m", bytes: 20_000))) != nil)
        #expect(gateway.files("demo.test").count == 1 && journaled(gateway) == 0)
    }

    /// The defence: the 250 stands behind the sync in `Journal.conclude`; `JournalOpener`.
    private func story(_ seed: UInt64, parts: Int, power: Bool) throws -> (done: Bool, gateway: SimulatedGateway) {
        let gateway = try SimulatedGateway(
            seed: seed, cores: 3, journal: small, demo, "other.test forward.server=198.51.100.8 retry.schedule=[2s]")
        ready(gateway)
        let other = ScriptedPrimary(gateway, at: "198.51.100.8")
        other.stop()
        let before = gateway.world.counters.fileParts
        let clients = (0..<4).map { number in
            ScriptedClient(
                gateway,
                script: ScriptedClient.steps(
                    from: "s\(number)@sender.test", to: ["x@demo.test"] + (number % 2 == 0 ? ["y@other.test"] : []),
                    ScriptedClient.message("m\(number)", bytes: 3_000)))
        }
        let isOver = { clients.allSatisfy(\.isDone) }
        gateway.run(seconds: 5) { gateway.world.counters.fileParts - before >= parts || isOver() }
        let done = isOver()
        if power { gateway.losePower() } else { gateway.kill() }
        gateway.world.cutAllConnections()
        let promised = clients.indices.filter { queueID(clients[$0].replies.last) != nil }
        let primary = ScriptedPrimary(gateway)
        other.start()
        // Cut off in the middle of opening the journal, then again with another number of reactors.
        for steps in [parts % 40, 13] {
            _ = try gateway.startAndFail(afterSteps: steps)
            if power { gateway.losePower() } else { gateway.kill() }
        }
        gateway.coreCount = 1 + parts % 4
        try gateway.start()
        gateway.ready()
        #expect(gateway.run(seconds: 300) { gateway.isIdle })
        for number in promised {
            let content = ScriptedClient.message("m\(number)", bytes: 3_000)
            let arrived = primary.accepted.filter { $0.reversePath == "s\(number)@sender.test" }
            #expect(arrived.count == 1, "seed \(seed), part \(parts): message \(number)")
            #expect(arrived.allSatisfy { Array($0.content.suffix(content.count)) == content })
            guard number % 2 == 0 else { continue }
            #expect(other.accepted.filter { $0.reversePath == "s\(number)@sender.test" }.count == 1)
        }
        #expect(gateway.openingAlarms.isEmpty, "seed \(seed), part \(parts)")
        return (done, gateway)
    }

    @Test("J8: kill or power loss at every part of a commit, and of the starts behind it", arguments: [false, true])
    func everyPart(power: Bool) throws {
        var parts = 0
        while try !story(UInt64(1 + parts % 5), parts: parts, power: power).done, parts < 300 { parts += 1 }
        #expect(parts > 5 && parts < 300)
    }

    // MARK: Segments

    @Test("J6: a segment is used again when all of it has left, oldest first, and never before") func usedAgain() throws
    {
        let gateway = try SimulatedGateway(cores: 1, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway)
        var promised = 0
        for round in 0..<6 {
            promised += accept(gateway, 0..<12, bytes: 9_000).count
            #expect(gateway.run { gateway.isIdle }, "round \(round)")
        }
        #expect(promised == 72 && primary.accepted.count == 72 && journaled(gateway) > 40)
        gateway.pass(seconds: 1)
        // Ten times what the segments hold went through them.
        #expect(sum(gateway) { $0.journalSegments.load(ordering: .relaxed) } >= 10)
        #expect(gateway.journals![0].shelf.openFiles <= 6)
    }

    @Test("J6, J9: from half of the limit on, mail that stays goes to its mail directory") func moves() throws {
        let gateway = try SimulatedGateway(cores: 2, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        let ids = accept(gateway, 0..<80, bytes: 9_000)
        #expect(ids.count == 80)
        gateway.pass(seconds: 120)
        #expect(moved(gateway) > 0 && !gateway.files("demo.test").isEmpty)
        let lives = SimulatedJournal(gateway.world.disk).live
        // Each is in one place, or on its way.
        #expect(gateway.files("demo.test").count + lives.count >= 80)
        #expect(gateway.queue.map(\.id) == ids.map(\.description).sorted())
        try gateway.restart()
        gateway.ready()
        primary.start()
        #expect(gateway.run(seconds: 300) { gateway.isIdle })
        #expect(primary.accepted.count == 80 && gateway.files("demo.test").isEmpty)
    }

    /// The defence: `JournalShelf.holds` behind the read, `LoadFault.moved`.
    @Test("J7: what is read while its segment begins another life is asked for again") func staleRead() throws {
        let gateway = try SimulatedGateway(cores: 1, journal: small, demo) { $0.messageMemoryBytes = 1 << 14 }
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        let ids = accept(gateway, 0..<1)
        let shelf = gateway.journals![0].shelf
        let place = JournalPlace(core: 0, slot: 0, generation: 9, offset: 4096 + 64)
        #expect(!shelf.holds(place))
        let core = gateway.cores[0]
        let lease = Lease(slot: 0, generation: 0, id: ids[0], bytes: 10, hot: nil, hasState: false, place: place)
        var fault: LoadFault?
        ParcelLoader(files: core.calls).load(
            gateway.store(of: "demo.test"), lease, contentMaxBytes: 1 << 18, opensLarge: false, prefixBytes: 0
        ) { if case .failure(let why) = $0 { fault = why } }
        #expect(gateway.run { fault != nil })
        guard case .moved? = fault else {
            Issue.record("\(String(describing: fault))")
            return
        }
        primary.start()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
    }

    // MARK: Faults

    /// The defence: `Journal.conclude` and `JournalSegmentHeader.predecessorEnd`.
    @Test(
        "J4: after a failed write or sync its senders hear 451, another segment is begun, and the refused batch is void",
        arguments: [SimulatedDiskFault.Action.write, .sync], [false, true])
    func failedCommit(_ action: SimulatedDiskFault.Action, power: Bool) throws {
        let gateway = try SimulatedGateway(cores: 1, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 0..<1).count == 1)
        gateway.world.disk.inject(SimulatedDiskFault(action))
        #expect(
            ScriptedClient.send(gateway, from: "refused@sender.test", to: ["x@demo.test"])?.hasPrefix("451 4.3.0")
                == true)
        #expect(gateway.alarms == 1 && gateway.store(of: "demo.test").state.load(ordering: .relaxed) == .ready)
        gateway.pass(seconds: 1)
        #expect(accept(gateway, 2..<3).count == 1)
        #expect(journaled(gateway) == 2)
        if power { gateway.losePower() } else { gateway.kill() }
        try gateway.start()
        gateway.ready()
        primary.start()
        #expect(gateway.run { gateway.isIdle })
        #expect(primary.accepted.count == 2 && !primary.accepted.contains { $0.reversePath == "refused@sender.test" })
    }

    @Test("J4, J5: ends of a failed commit are written again: nothing comes twice", arguments: 1...10)
    func failedEnd(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 3, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 0..<6).count == 6)
        gateway.world.disk.inject(SimulatedDiskFault(.sync, times: 2))
        primary.start()
        #expect(gateway.run(seconds: 100) { gateway.isIdle && primary.accepted.count == 6 })
        #expect(gateway.store(of: "demo.test").used == (0, 0))
        gateway.losePower()
        try gateway.start()
        gateway.ready()
        gateway.pass(seconds: 30)
        #expect(primary.accepted.count == 6 && gateway.isIdle)
    }

    @Test("a journal whose disk fails for long: mail goes to the mail directories") func fails() throws {
        let gateway = try SimulatedGateway(cores: 1, journal: small, "demo.test hold=true mailDirectory=/mnt/demo")
        _ = gateway.world.disk.addDevice(mountedAt: "/elsewhere")
        ready(gateway)
        gateway.world.disk.inject(SimulatedDiskFault(.write, times: 3))
        #expect(accept(gateway, 0..<1).isEmpty)
        gateway.pass(seconds: 1)
        #expect(gateway.run(seconds: 60) { accept(gateway, 1..<2).count == 1 })
        #expect(gateway.queue.count == 1)
    }

    @Test("J2: a damaged record is set aside with its bytes and never sent; the others are") func damage() throws {
        let gateway = try SimulatedGateway(cores: 1, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        let ids = accept(gateway, 0..<3)
        let folder = "\(SimulatedGateway.dataPath)/\(JournalOpener.folder)"
        gateway.kill()
        let name = (gateway.world.disk.names(in: folder) ?? []).first { name in
            let bytes = gateway.world.disk.contents(of: "\(folder)/\(name)") ?? []
            return bytes.withUnsafeBytes { JournalSegmentHeader($0)?.isFree } == false
        }
        let bytes = gateway.world.disk.contents(of: "\(folder)/\(name!)")!
        let header = bytes.withUnsafeBytes { JournalSegmentHeader($0)! }
        let scan = bytes.withUnsafeBytes { JournalScan($0, header.life, knownEnd: nil) }
        #expect(scan.parcels.map(\.header.id) == ids)
        gateway.world.disk.rot("\(folder)/\(name!)", at: scan.parcels[1].offset + 64 + scan.parcels[1].header.headBytes)
        try gateway.start()
        gateway.ready()
        primary.start()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 2 })
        #expect(gateway.openingAlarms == ["journal-damaged"])
        #expect((gateway.world.disk.names(in: folder) ?? []).contains { $0.hasSuffix(MailFile.damagedSuffix) })
    }

    @Test("J10: a file of the same id with other content is kept, with an alarm, and the journal's is sent")
    func sameID()
        throws
    {
        let gateway = try SimulatedGateway(cores: 1, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        let ids = accept(gateway, 0..<1)
        gateway.kill()
        let record = SimulatedJournal(gateway.world.disk).live[0]
        let name = MailFile.name(ids[0], contentBytes: record.contentBytes)
        let head = MailFile.head(gatewayID: record.gatewayID, domain: "demo.test", envelope: record.envelope)
        let content = MessageContent()
        content.append([UInt8](repeating: 0x61, count: record.contentBytes))
        let other = MailFile.firstLine(
            ids[0].description, head: head, contentBytes: content.count, linesBeginningWithDot: 0,
            contentCRC: content.crc)
        let disk = gateway.world.disk
        let folder = SimulatedGateway.path(of: "demo.test")
        let handle = FileHandle(disk.carryOut(.openDirectory(path: folder, create: false)).value)
        let kept = KeptBytes(other + head + content.prefix(content.count))
        #expect(disk.carryOut(.create(in: handle, name: name, [kept.vector])).isDone)
        _ = disk.carryOut(.close(handle))
        try gateway.start()
        gateway.ready()
        primary.start()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        #expect(gateway.openingAlarms == ["same-id"] && primary.accepted[0].text.contains("Subject: m0"))
        #expect(gateway.files("demo.test") == [name + MailFile.damagedSuffix])
    }

    // MARK: Mail directories that can't take it

    @Test("M8: mail of a directory that is not mounted at the start waits beside the journal, and comes back")
    func stranded() throws {
        let gateway = try SimulatedGateway(cores: 2, journal: small, "other.test forward.server=198.51.100.8")
        let device = gateway.world.disk.addDevice(mountedAt: "/mnt")
        try gateway.create(demo + " mailDirectory=/mnt/demo")
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 0..<5).count == 5)
        gateway.kill()
        gateway.world.disk.setMounted(false, device: device)
        try gateway.start()
        gateway.ready()
        #expect(gateway.openingAlarms == ["mail-stranded"] && gateway.queue.isEmpty)
        gateway.kill()
        gateway.world.disk.setMounted(true, device: device)
        try gateway.start()
        gateway.ready()
        primary.start()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 5 })
        let id = gateway.directory.snapshot.gateway(forDomain: "demo.test")!.id
        #expect(gateway.world.disk.names(in: gateway.journals![0].shelf.strandedPath(id)) == [])
    }

    @Test("J6: a parcel that can't move keeps its segment, and accepting goes on") func directoryFails() throws {
        let gateway = try SimulatedGateway(cores: 1, journal: small, demo + " mailDirectory=/mnt/demo")
        ready(gateway)
        _ = gateway.world.disk.addDevice(mountedAt: "/elsewhere")
        _ = ScriptedPrimary(gateway, isUp: false)
        var promised = accept(gateway, 0..<20, bytes: 9_000).count
        gateway.world.disk.inject(SimulatedDiskFault(.create, times: 200))
        gateway.pass(seconds: 40)
        gateway.world.disk.removeFaults()
        #expect(gateway.run(seconds: 60) { gateway.store(of: "demo.test").state.load(ordering: .relaxed) == .ready })
        promised += accept(gateway, 20..<40, bytes: 9_000).count
        #expect(promised == 40)
        gateway.pass(seconds: 60)
        #expect(gateway.queue.count == 40)
    }

    /// Seed 7995: a move failed, its message was delivered and its record ended; the file stayed, and the next start sent it again.
    @Test("a move that failed leaves no file that a start could find", arguments: [false, true])
    func failedMove(power: Bool) throws {
        let gateway = try SimulatedGateway(cores: 1, journal: small)
        ready(gateway)
        let disk = gateway.world.disk
        let device = disk.addDevice(mountedAt: "/mnt")
        try gateway.create(demo + " mailDirectory=/mnt/demo")
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        let moves = { gateway.world.counters.failedSyncs > 0 }
        #expect(accept(gateway, 0..<20, bytes: 9_000).count == 20)
        // The files are written, and the sync behind them fails.
        disk.inject(SimulatedDiskFault(.sync, device: device))
        var promised = 20
        while !moves(), promised < 60 { promised += accept(gateway, promised..<promised + 1, bytes: 9_000).count }
        #expect(moves())
        primary.start()
        gateway.flush()
        #expect(gateway.run(seconds: 300) { gateway.isIdle && primary.accepted.count == promised })
        gateway.pass(seconds: 15)
        #expect(disk.names(in: "/mnt/demo") == [MailFile.headName])
        if power { gateway.losePower() } else { gateway.kill() }
        try gateway.start()
        gateway.ready()
        gateway.pass(seconds: 15)
        #expect(primary.accepted.count == promised)
    }

    // MARK: Quota and state

    @Test("M9: the quota counts mail in the journal, and after a start again") func quota() throws {
        let gateway = try SimulatedGateway(cores: 2, journal: small, demo + " quota.enabled=true quota.messages=3")
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        #expect(accept(gateway, 0..<3).count == 3 && journaled(gateway) == 3)
        let used = gateway.store(of: "demo.test").used
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("452 4.2.2") == true)
        try gateway.restart()
        gateway.ready()
        #expect(gateway.store(of: "demo.test").used == used)
        primary.start()
        #expect(gateway.run { gateway.isIdle })
        #expect(gateway.store(of: "demo.test").used == (0, 0))
        #expect(accept(gateway, 3..<4).count == 1)
    }

    @Test("M4: who has a message while others wait is remembered in its mail directory", arguments: [false, true])
    func partly(power: Bool) throws {
        let gateway = try SimulatedGateway(cores: 2, journal: small, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway)
        primary.act = {
            if case .recipient(let line) = $0, line.contains("<later@") { .reply("450 4.2.0 later") } else { nil }
        }
        #expect(queueID(ScriptedClient.send(gateway, to: ["now@demo.test", "later@demo.test"])) != nil)
        #expect(gateway.run { primary.accepted.count == 1 && moved(gateway) == 1 })
        gateway.pass(seconds: 0.2)
        if power { gateway.losePower() } else { gateway.kill() }
        primary.act = { _ in nil }
        try gateway.start()
        gateway.ready()
        gateway.flush()
        #expect(gateway.run { gateway.isIdle })
        #expect(primary.accepted.map(\.paths) == [["now@demo.test"], ["later@demo.test"]])
    }

    @Test("M10: mail in the journal keeps the room that it would need in its mail directory") func reserve() throws {
        let gateway = try SimulatedGateway(cores: 1, journal: roomy, demo)
        ready(gateway)
        let primary = ScriptedPrimary(gateway, isUp: false)
        let device = gateway.store(of: "demo.test").device
        gateway.world.disk.setCapacity(
            of: 1, bytes: gateway.world.disk.usedBytes(of: 1) + Limits.deviceReserveBytes + 150_000)
        gateway.pass(seconds: 2)
        #expect(device.hasRoom(for: 64 << 10))
        #expect(accept(gateway, 0..<6, bytes: 9_000).count == 6 && journaled(gateway) == 6)
        gateway.pass(seconds: 2)
        #expect(!device.hasRoom(for: 64 << 10))
        primary.start()
        #expect(gateway.run { gateway.isIdle })
        #expect(device.hasRoom(for: 64 << 10))
    }
}
