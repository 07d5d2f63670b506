import Protocols
import Reactor
import Testing

@testable import Gateway

/// What simulated days have found, each made small.
struct SimulatedFindsTests {
    /// The defence: `Connection.keepInput`. The sender is faster than the disk, so input comes while the writer is full.
    @Test(
        "P4: input that finds the large message's writer full is kept, not read again later from a buffer that is used anew"
    )
    func inputBehindAFullWriter() throws {
        var settings = SimulatedSettings.quiet
        settings.fileDelay = 20_000_000...60_000_000
        for seed in 1...20 as ClosedRange<UInt64> {
            let gateway = try SimulatedGateway(
                seed: seed, world: settings, "demo.test forward.server=198.51.100.7 retry.schedule=[1s]"
            ) {
                // Without memory for it, a message is written from its first byte on.
                $0.messageMemoryBytes = 1
            }
            gateway.ready()
            let primary = ScriptedPrimary(gateway)
            let client = ScriptedClient(gateway)
            client.envelope(to: ["x@demo.test"])
            client.say("DATA")
            var text = "Subject: large\r\n\r\n"
            for line in 0..<9_000 { text += "line \(line) of a large message\r\n" }
            let content = Array(text.utf8)
            gateway.world.disk.hang(device: 1, for: 1_000_000_000)
            var sent = 200_000 + Int(seed) * 2_000
            client.peer.send(Array(content[..<sent]))
            for step in 0..<200 as Range<UInt64> {
                let part = Array(content[sent..<(sent + 50)])
                sent += 50
                gateway.world.after(900_000_000 + step * 1_000_000) { client.peer.send(part) }
            }
            gateway.pass(seconds: 3)
            client.send(Array(content[sent...]) + Array(".\r\n".utf8))
            #expect(queueID(client.replies.last) != nil)
            #expect(gateway.run(seconds: 600) { !primary.accepted.isEmpty })
            #expect(
                primary.accepted.first.map { $0.content.suffix(content.count).elementsEqual(content) } == true,
                "seed \(seed)")
        }
    }

    /// The defence: `FileStep.place` syncs the data before the rename; without it the superblock was damaged, or a state file,
    /// with which its message was set aside.
    @Test("a power loss while a file is replaced leaves the old one or the new one") func replacedFile() throws {
        for seed in 1...200 as ClosedRange<UInt64> {
            let world = SimulatedWorld(seed: seed)
            let disk = world.disk
            let folder = FileHandle(disk.carryOut(.openDirectory(path: "data", create: true)).value)
            let texts = ["the old text", "the new text"].map { Array($0.utf8) }
            for (at, text) in texts.enumerated() {
                let placed = text.withUnsafeBytes { disk.carryOut(.place(in: folder, name: "state", [IOVector($0)])) }
                #expect(placed.isDone)
                if at == 0 { _ = disk.carryOut(.syncFileSystem(folder)) }
            }
            world.powerLoss()
            let left = disk.contents(of: "data/state")
            #expect(texts.contains { $0 == left }, "seed \(seed)")
        }
    }

    /// The defence: `Queues.notifyAll` tries again; elsewhere nobody knows that the report is owed.
    @Test("a report of success that the disk refuses is written later") func reportBehindAFullDisk() throws {
        let gateway = try SimulatedGateway(
            "demo.test forward.server=198.51.100.7", "sender.test forward.server=198.51.100.9")
        let primary = ScriptedPrimary(gateway)
        primary.extensions = []
        let senders = ScriptedPrimary(gateway, at: "198.51.100.9")
        gateway.ready()
        try gateway.update("demo.test", "hold=true")
        let client = ScriptedClient(gateway)
        client.envelope(to: ["<x@demo.test> NOTIFY=SUCCESS"])
        #expect(queueID(client.data(ScriptedClient.message("report"))) != nil)
        let disk = gateway.world.disk
        disk.setCapacity(of: 1, inodes: disk.usedInodes(of: 1))
        try gateway.update("demo.test", "hold=false")
        gateway.pass(seconds: 5)
        #expect(primary.accepted.count == 1 && senders.accepted.isEmpty)
        disk.setCapacity(of: 1, inodes: 1 << 30)
        #expect(gateway.run(seconds: 300) { gateway.isIdle })
        #expect(senders.accepted.count == 1 && senders.accepted[0].text.contains("Action: relayed"))
        #expect(primary.accepted.count == 1)
    }

    /// The defence: `ParcelLoader` closes the mail file that it opened.
    @Test("T-D11: a large message whose state file can't be read leaves no file open") func unreadableState() throws {
        let gateway = try SimulatedGateway("demo.test forward.server=198.51.100.7 retry.schedule=[1s]")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        var isFirst = true
        primary.act = { moment in
            guard case .recipient(let line) = moment, line.contains("<later"), isFirst else { return nil }
            isFirst = false
            gateway.world.disk.inject(SimulatedDiskFault(.read, countdown: 2))
            return .reply("450 4.2.0 later")
        }
        let content = ScriptedClient.message("large", bytes: 300_000)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test", "later@demo.test"], content)) != nil)
        #expect(gateway.run(seconds: 600) { primary.accepted.count == 2 && gateway.isIdle })
        gateway.pass(seconds: 10)
        #expect(gateway.alarms > 0)
        #expect(gateway.world.disk.openHandles == gateway.handlesAtRest)
    }

    /// The defence: `Spool.judge` removes what a failed step may have left.
    @Test("M5: a refused message's file goes also when the failed step could not unlink it") func leftBehind() throws {
        let gateway = try SimulatedGateway("demo.test forward.server=198.51.100.7")
        gateway.ready()
        for action in [SimulatedDiskFault.Action.close, .unlink] {
            gateway.world.disk.inject(SimulatedDiskFault(action))
        }
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"])?.hasPrefix("451") == true)
        gateway.pass(seconds: 15)
        #expect(gateway.files("demo.test").isEmpty)
    }

    /// The defence: `Recovery.enqueue`; such a notice was kept as held mail for nobody, at each start again.
    @Test("a notice torn by a power loss is set aside at recovery") func tornNotice() throws {
        let gateway = try SimulatedGateway("demo.test forward.server=198.51.100.7")
        gateway.ready()
        gateway.kill()
        let disk = gateway.world.disk
        let folder = "\(SimulatedGateway.dataPath)/stores/\(Gateway.systemDomain)"
        let handle = FileHandle(disk.carryOut(.openDirectory(path: folder, create: true)).value)
        let id = QueueID(milliseconds: 1_767_225_600_123, start: 77, reactor: 0, counter: 9)
        let name = MailFile.name(id, contentBytes: 100)
        _ = Array("X-Postern: 1 id=0".utf8).withUnsafeBytes {
            disk.carryOut(.place(in: handle, name: name, [IOVector($0)]))
        }
        try gateway.start()
        gateway.ready()
        #expect(gateway.run(seconds: 60) { gateway.isIdle })
        gateway.pass(seconds: 1)
        #expect(gateway.damaged == 1 && gateway.queue.isEmpty)
        #expect(disk.names(in: folder)?.contains(name + MailFile.damagedSuffix) == true)
    }

    /// The defence: `Recovery.sync`. The store has a device of its own: each start syncs the data folder's.
    @Test(
        "P3: who is noted as settled stays so when a kill and a power loss come before the message's unlink is synced")
    func notedBeforeTwoEnds() throws {
        for seed in 1...40 as ClosedRange<UInt64> {
            let gateway = try SimulatedGateway(seed: seed)
            let (disk, folder) = (gateway.world.disk, "/mnt/second/demo")
            _ = disk.addDevice(mountedAt: "/mnt/second")
            try gateway.create(
                "demo.test forward.server=198.51.100.7 retry.schedule=[1s] mailDirectory=\(folder)")
            gateway.ready()
            let primary = ScriptedPrimary(gateway)
            var isFirst = true
            primary.act = { moment in
                guard case .recipient(let line) = moment, line.contains("<later"), isFirst else { return nil }
                isFirst = false
                return .reply("450 4.2.0 later")
            }
            #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test", "later@demo.test"])) != nil)
            let isMail = { (name: String) in name.hasSuffix(".eml") }
            let hasCome = gateway.run(seconds: 60) {
                primary.accepted.count == 2 && disk.names(in: folder)?.contains(where: isMail) == false
                    && disk.durableFiles(in: folder)?.contains { isMail($0.name) } == true
            }
            #expect(hasCome)
            gateway.kill()
            try gateway.start()
            let unlinks = gateway.world.counters.unlinks
            gateway.run(seconds: 10) { gateway.world.counters.unlinks > unlinks || !gateway.isRecovering }
            gateway.losePower()
            try gateway.start()
            gateway.ready()
            #expect(gateway.run(seconds: 600) { gateway.isIdle })
            #expect(primary.accepted.count { $0.paths.contains("x@demo.test") } == 1, "seed \(seed)")
        }
    }

    /// The defence: the id in a mail file's first line. Only a name is that of the new message: its commit was cut off by a power loss,
    /// and its blocks held a message that had left.
    @Test("P3: a file that shows what its blocks held before is not sent again, though all its checksums are right")
    func anotherMessagesBlocks() throws {
        let gateway = try SimulatedGateway("demo.test forward.server=198.51.100.7")
        gateway.ready()
        let primary = ScriptedPrimary(gateway, isUp: false)
        let id = try #require(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])))
        let (disk, folder) = (gateway.world.disk, "data/stores/demo.test")
        let name = try #require(gateway.files("demo.test").first)
        let bytes = try #require(disk.contents(of: "\(folder)/\(name)"))
        primary.start()
        #expect(gateway.run(seconds: 60) { gateway.isIdle } && primary.accepted.count == 1)
        gateway.kill()
        let handle = FileHandle(disk.carryOut(.openDirectory(path: folder, create: false)).value)
        let next = QueueID(milliseconds: id.milliseconds + 1_000, start: 1, reactor: 0, counter: 99)
        let size = try #require(Int(name.split(separator: "-")[1].dropLast(4)))
        let torn = MailFile.name(next, contentBytes: size)
        _ = bytes.withUnsafeBytes { disk.carryOut(.place(in: handle, name: torn, [IOVector($0)])) }
        try gateway.start()
        gateway.ready()
        #expect(gateway.run(seconds: 60) { gateway.isIdle })
        gateway.pass(seconds: 1)
        #expect(primary.accepted.count == 1 && gateway.damaged == 1)
        #expect(gateway.files("demo.test") == [torn + MailFile.damagedSuffix])
    }
}
