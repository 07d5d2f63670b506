import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"
private let second: UInt64 = 1_000_000_000

/// queue ▶ leases ▶ session with the primary ▶ settlement: each recipient is handed on once, or stays.
struct ForwardTests {
    private func accept(_ gateway: SimulatedGateway, _ count: Int) -> Int {
        (0..<count).filter {
            queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("m\($0)"))) != nil
        }.count
    }

    /// sender ▶ spool ▶ 250 ▶ queue ▶ primary: the bytes arrive as they came, behind one Received field, and nothing stays.
    @Test(arguments: 1...8) func messageGoesThrough(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 3, demo)
        let primary = ScriptedPrimary(gateway)
        let content = ScriptedClient.message("through", bytes: 20_000)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        let message = try #require(primary.accepted.first)
        #expect(message.reversePath == "a@sender.test" && message.paths == ["x@demo.test"])
        #expect(message.text.hasPrefix("Received: from client.test ([203.0.113.9])"))
        #expect(Array(message.content.suffix(content.count)) == content)
        #expect(gateway.files("demo.test").isEmpty)
        #expect(gateway.store(of: "demo.test").used == (0, 0))
    }

    // MARK: Content

    static let contents: [String] = [
        "A: b\r\n\r\n.\r\n..\r\n...\r\n.x\r\nx.\r\n", ".\r\n", "\r\n", "A: b\r\n\r\nno end", "A: b\r\n\r\n.",
        "A: b\r\n\r\nGrüße\r\n",
        "A: b\r\n\r\n" + String(repeating: "x", count: 5_000) + "\r\n.\r\n",
    ]

    /// DATA and BDAT, pipelined and not, in and out: what leaves is what came, with a CRLF at the end.
    @Test(
        "dot lines, 8-bit bytes and long lines pass unchanged",
        arguments: contents.indices,
        [["PIPELINING", "8BITMIME"], [], ["CHUNKING", "8BITMIME"], ["PIPELINING", "CHUNKING"]])
    func contentIsUnchanged(_ at: Int, _ extensions: [String]) throws {
        let content = Array(Self.contents[at].utf8)
        for (hot, inChunk) in [(true, false), (true, true), (false, false)] {
            let gateway = try SimulatedGateway(demo)
            let primary = ScriptedPrimary(gateway, isUp: hot)
            primary.extensions = extensions
            let client = ScriptedClient(gateway)
            client.envelope(to: ["x@demo.test"], parameters: " BODY=8BITMIME")
            if inChunk {
                #expect(queueID(client.send(Array("BDAT \(content.count) LAST\r\n".utf8) + content)) != nil)
            } else {
                client.say("DATA")
                let end = content.suffix(2).elementsEqual([13, 10]) ? ".\r\n" : "\r\n.\r\n"
                #expect(queueID(client.send(ScriptedClient.stuffed(content) + Array(end.utf8))) != nil)
            }
            if !hot {
                try gateway.restart()
                primary.start()
            }
            #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
            let whole = content.suffix(2).elementsEqual([13, 10]) ? content : content + [13, 10]
            let message = try #require(primary.accepted.first)
            #expect(Array(message.content.suffix(whole.count)) == whole, "\(extensions) hot \(hot) chunk \(inChunk)")
            #expect(message.text.prefix(9) == "Received:" && message.usedChunk == extensions.contains("CHUNKING"))
            #expect(message.mail.contains("BODY=8BITMIME") == extensions.contains("8BITMIME"))
        }
    }

    @Test func aPipelinedSenderIsServedInOrder() throws {
        let gateway = try SimulatedGateway(cores: 3, demo)
        let primary = ScriptedPrimary(gateway)
        let client = ScriptedClient(gateway)
        client.greeting()
        client.say("EHLO client.test")
        var text = ""
        for number in 0..<50 {
            let content = "Subject: m\(number)\r\n\r\nx\r\n"
            text +=
                "MAIL FROM:<a@sender.test>\r\nRCPT TO:<x@demo.test>\r\nBDAT \(content.utf8.count) LAST\r\n" + content
        }
        client.send(Array((text + "QUIT\r\n").utf8), replies: 151)
        #expect(
            client.replies.filter { queueID($0) != nil }.count == 50 && client.replies.last?.hasPrefix("221") == true)
        #expect(gateway.run { gateway.isIdle })
        #expect(Set(primary.accepted.map { $0.text.suffix(20) }).count == 50)
    }

    /// RFC 6531 §3.4 and RFC 3463's X.6.7: what the primary can't take comes back.
    @Test("SMTPUTF8 to a primary without it fails for good") func internationalToOld() throws {
        let gateway = try SimulatedGateway(cores: 2, demo, "sender.test hold=true")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        primary.extensions = ["8BITMIME", "PIPELINING"]
        #expect(
            queueID(ScriptedClient.send(gateway, to: ["грета@demo.test"], parameters: " SMTPUTF8 BODY=8BITMIME")) != nil
        )
        #expect(gateway.run { gateway.files("sender.test").count == 1 && gateway.files("demo.test").isEmpty })
        #expect(primary.messages.isEmpty && gateway.bounced == 1)
        let notice = try #require(gateway.queue.first)
        let text = gateway.ask(.export(QueueID(notice.id)!)).compactMap { answer -> String? in
            if case .content(let bytes) = answer { String(decoding: bytes, as: UTF8.self) } else { nil }
        }.first
        #expect(text?.contains("Status: 5.6.7") == true)
        primary.extensions.append("SMTPUTF8")
        // What the old session knows of it no longer holds.
        gateway.run { gateway.forwardSessions == 0 }
        #expect(
            queueID(ScriptedClient.send(gateway, to: ["грета@demo.test"], parameters: " SMTPUTF8 BODY=8BITMIME")) != nil
        )
        #expect(gateway.run { primary.accepted.first?.paths == ["грета@demo.test"] })
    }

    @Test func theEnvelopeIsReplayedExactly() throws {
        let gateway = try SimulatedGateway(cores: 2, demo)
        let primary = ScriptedPrimary(gateway)
        let client = ScriptedClient(gateway)
        client.envelope(to: [], parameters: " RET=HDRS ENVID=QQ314159")
        client.say("RCPT TO:<x@demo.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;other+40x.test")
        client.say("RCPT TO:<y@demo.test> NOTIFY=NEVER")
        #expect(queueID(client.data(ScriptedClient.message("t"))) != nil)
        #expect(gateway.run { gateway.isIdle })
        let message = try #require(primary.accepted.first)
        #expect(message.mail.contains("RET=HDRS") && message.mail.contains("ENVID=QQ314159"))
        #expect(message.recipients.first?.contains("ORCPT=rfc822;other+40x.test") == true)
        #expect(message.recipients.first?.contains("NOTIFY=FAILURE,DELAY") == true)
        #expect(message.recipients.last?.contains("NOTIFY=NEVER") == true)
    }

    @Test func envelopeFromReplacesAllButTheNullPath() throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " forward.envelopeFrom=relay@gateway.test")
        let primary = ScriptedPrimary(gateway)
        for from in ["a@sender.test", ""] {
            #expect(queueID(ScriptedClient.send(gateway, from: from, to: ["x@demo.test"])) != nil)
        }
        #expect(gateway.run { gateway.isIdle })
        #expect(primary.accepted.map(\.reversePath).sorted() == ["", "relay@gateway.test"])
    }

    // MARK: Outages

    /// The defence: `PrimaryHealth`: one session on return, doubled by hand-overs.
    @Test(
        "T-E4: slow start after an outage, probes every 2 s, the first message within 3 s of the return",
        arguments: 1...6)
    func outage(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 3, demo + " forward.concurrency=8")
        let primary = ScriptedPrimary(gateway)
        primary.act = { if case .connected = $0 { .replyAndClose("421 4.3.2 not yet") } else { nil } }
        #expect(accept(gateway, 200) == 200)
        gateway.pass(seconds: 120)
        #expect(gateway.health("demo.test")?.state == "down")
        let probes = zip(primary.connectedAt, primary.connectedAt.dropFirst()).map { $1 - $0 }.suffix(40)
        #expect(probes.count == 40 && probes.allSatisfy { (2 * second...5 * second / 2).contains($0) }, "\(probes)")
        // Now nobody answers at all.
        primary.stop()
        gateway.pass(seconds: 60)
        primary.act = { _ in nil }
        let refused = primary.connections
        primary.replyDelay = second / 50
        let start = gateway.world.now
        var opened: [Int] = []
        let world = gateway.world
        primary.start()
        #expect(gateway.run(seconds: 3) { primary.accepted.count >= 1 })
        #expect(world.now - start < 3 * second)
        // One session brought the first message.
        #expect(primary.connections == refused + 1)
        gateway.run(seconds: 300) {
            opened.append(primary.openConnections)
            return gateway.isIdle
        }
        #expect(primary.accepted.count == 200 && primary.openConnectionsMax <= 8 && opened.contains { $0 >= 4 })
        // 2 sessions not before 1 hand-over, 4 not before 2 …
        for (sessions, at) in primary.connectedAt.dropFirst(refused).prefix(8).enumerated() {
            let before = primary.accepted.filter { $0.at < at }.count
            #expect(before >= sessions / 2, "session \(sessions + 1) after \(before) hand-overs")
        }
    }

    @Test("T-E4: a primary that never answers is given up in time") func silentPrimary() throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " forward.concurrency=4")
        let primary = ScriptedPrimary(gateway)
        primary.act = { _ in .silence }
        #expect(accept(gateway, 3) == 3)
        gateway.pass(seconds: 400)
        #expect(gateway.health("demo.test")?.state == "down" && gateway.queued == 3)
        primary.act = { _ in nil }
        #expect(gateway.run(seconds: 400) { gateway.isIdle })
        #expect(primary.accepted.count == 3)
    }

    /// The primary fails at each moment of the conversation, in each way; then it is well again.
    @Test(
        "whatever breaks and wherever, each message arrives, and twice only when its answer was lost",
        arguments: 0..<8,
        [ScriptedPrimary.Action.cut, .replyAndClose("421 4.3.2 going down"), .reply("451 4.3.0 later"), .silence])
    func trouble(_ moment: Int, _ action: ScriptedPrimary.Action) throws {
        let gateway = try SimulatedGateway(
            seed: UInt64(moment), cores: 3, demo + " retry.schedule=[30s] forward.concurrency=3")
        let primary = ScriptedPrimary(gateway)
        if moment % 2 == 0 { primary.extensions = ["PIPELINING"] }
        var left = 3
        primary.act = { happened in
            let isIt: Bool
            switch (moment, happened) {
            case (0, .connected), (1, .hello), (2, .mail), (3, .recipient), (4, .data), (5, .someContent),
                (6, .content), (7, .quit):
                isIt = true
            default: isIt = false
            }
            guard isIt, left > 0 else { return nil }
            left -= 1
            return action
        }
        #expect(accept(gateway, 6) == 6)
        #expect(gateway.run(seconds: 7_200) { gateway.isIdle }, "\(gateway.queue)")
        for number in 0..<6 {
            let content = ScriptedClient.message("m\(number)")
            let arrived = primary.messages.filter { Array($0.content.suffix(content.count)) == content }
            let accepted = arrived.filter(\.isAccepted)
            #expect(accepted.count == 1, "message \(number) was accepted \(accepted.count) times")
        }
        #expect(gateway.files("demo.test").isEmpty && gateway.bounced == 0)
        gateway.run(seconds: 700) { gateway.forwardSessions == 0 }
        #expect(gateway.forwardSessions == 0)
    }

    /// The defence: `isPossibleDuplicate` is counted, and the retry is a deferral like others.
    @Test(
        "T-E6: a peer that dies after the final dot: tried again, counted as a possible duplicate",
        arguments: [false, true])
    func deadAfterDot(_ tookIt: Bool) throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " retry.schedule=[10s]")
        let primary = ScriptedPrimary(gateway)
        var isFirst = true
        primary.act = { moment in
            guard case .content = moment, isFirst else { return nil }
            isFirst = false
            return .cut
        }
        #expect(accept(gateway, 1) == 1)
        #expect(gateway.run(seconds: 60) { gateway.isIdle && primary.accepted.count == 1 })
        #expect(primary.messages.count == 2 && primary.messages[0].content == primary.messages[1].content)
        #expect(gateway.possibleDuplicates == 1)
    }

    // MARK: Recipients

    /// The defence: `ParcelState`, written and synced before the parcel waits again.
    @Test("T-E5: recipients that are settled are not sent again, not even after a crash", arguments: 1...8)
    func partial(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(
            seed: seed, cores: 2, demo + " retry.schedule=[60s]", "sender.test hold=true")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        var isWell = false
        primary.act = { moment in
            guard case .recipient(let line) = moment else { return nil }
            if line.contains("<bad@") { return .reply("550 5.1.1 nobody") }
            return line.contains("<later@") && !isWell ? .reply("450 4.2.0 later") : nil
        }
        let to = ["good@demo.test", "later@demo.test", "bad@demo.test"]
        #expect(queueID(ScriptedClient.send(gateway, to: to)) != nil)
        #expect(gateway.run { gateway.deferred == 1 && gateway.cores.allSatisfy { $0.spool.isIdle } })
        #expect(gateway.queue.first { $0.domain == "demo.test" }?.recipients == ["later@demo.test"])
        if seed % 2 == 0 {
            if seed % 4 == 0 { gateway.losePower() } else { gateway.kill() }
            try gateway.start()
            gateway.ready()
        }
        isWell = true
        #expect(gateway.run(seconds: 120) { gateway.files("demo.test").isEmpty })
        #expect(primary.accepted.map(\.paths) == [["good@demo.test"], ["later@demo.test"]])
        #expect(gateway.files("sender.test").count == 1)
    }

    /// A flush at once, while the state waits for its turn on a slow disk.
    @Test("T-E5: a retry that doesn't wait reads no old state", arguments: 1...6) func partialAndFlush(_ seed: UInt64)
        throws
    {
        var settings = SimulatedSettings.quiet
        settings.syncDelay = second / 2...2 * second
        let gateway = try SimulatedGateway(seed: seed, cores: 2, world: settings, demo, "busy.test hold=true")
        let primary = ScriptedPrimary(gateway)
        primary.act = { moment in
            if case .recipient(let line) = moment, line.contains("<later@") { .reply("450 4.2.0 later") } else { nil }
        }
        #expect(queueID(ScriptedClient.send(gateway, to: ["good@demo.test", "later@demo.test"])) != nil)
        gateway.run {
            // The commit lanes always have something to do.
            if gateway.world.draw(20) == 0 {
                _ = ScriptedClient(
                    gateway, script: ScriptedClient.steps(to: ["x@busy.test"], ScriptedClient.message("busy")))
            }
            return primary.accepted.count == 1
        }
        for _ in 0..<40 {
            gateway.flush()
            gateway.pass(seconds: 0.1)
        }
        #expect(primary.accepted.map(\.paths) == [["good@demo.test"]])
    }

    /// The state file can't be written: the recipients that have the message don't get it again.
    @Test(
        "T-E5, M4: a state that can't be written is tried again",
        arguments: [SimulatedDiskFault.Action.create, .write, .rename, .sync])
    func stateFault(_ action: SimulatedDiskFault.Action) throws {
        let gateway = try SimulatedGateway(cores: 2, demo + " retry.schedule=[5s]")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        var isWell = false
        primary.act = { moment in
            if case .recipient(let line) = moment, line.contains("<later@"), !isWell {
                .reply("450 4.2.0 later")
            } else {
                nil
            }
        }
        let client = ScriptedClient(gateway)
        client.envelope(to: ["good@demo.test", "later@demo.test"])
        let disk = gateway.world.disk
        primary.act = { moment in
            // Between the message's own commit and its state's.
            if case .content = moment { disk.inject(SimulatedDiskFault(action, times: 2)) }
            guard case .recipient(let line) = moment, line.contains("<later@"), !isWell else { return nil }
            return .reply("450 4.2.0 later")
        }
        #expect(queueID(client.data(ScriptedClient.message("t"))) != nil)
        gateway.run { primary.accepted.count == 1 }
        gateway.pass(seconds: 60)
        isWell = true
        // An unlink whose sync failed is done again, and the state's comes after it.
        #expect(gateway.run(seconds: 120) { gateway.isIdle && gateway.files("demo.test").isEmpty })
        #expect(primary.accepted.map(\.paths) == [["good@demo.test"], ["later@demo.test"]])
    }

    @Test func manyRecipientsOfOneMessage() throws {
        let gateway = try SimulatedGateway(cores: 2, demo)
        let primary = ScriptedPrimary(gateway)
        let to = (0..<300).map { "u\($0)@demo.test" }
        #expect(queueID(ScriptedClient.send(gateway, to: to)) != nil)
        #expect(gateway.run { gateway.isIdle })
        #expect(primary.accepted.flatMap(\.paths) == to && primary.accepted.count == 1)
    }

    // MARK: Sessions

    /// The defence: a session belongs to one queue (`ForwardSession.key`), whose gateway decides about TLS.
    @Test("T-E9: two gateways at one host share no connection") func sessionsAreNotShared() throws {
        let gateway = try SimulatedGateway(
            cores: 2, demo + " forward.tls=none", "strict.test forward.server=198.51.100.7 forward.tls=encrypt")
        let primary = ScriptedPrimary(gateway)
        for number in 0..<20 {
            let to = number % 2 == 0 ? "x@demo.test" : "x@strict.test"
            #expect(queueID(ScriptedClient.send(gateway, to: [to])) != nil)
        }
        gateway.pass(seconds: 30)
        // The primary offers no TLS: nothing of the strict one has left, whatever connections were there.
        #expect(primary.accepted.count == 10 && primary.accepted.allSatisfy { $0.paths == ["x@demo.test"] })
        #expect(gateway.files("strict.test").count == 10)
        #expect(
            gateway.queue.allSatisfy { $0.domain == "strict.test" && $0.lastReply?.contains("TLS is required") == true }
        )
    }

    @Test func concurrencyIsKept() throws {
        let gateway = try SimulatedGateway(cores: 3, demo + " forward.concurrency=3 hold=true")
        let primary = ScriptedPrimary(gateway)
        primary.replyDelay = second / 10
        #expect(accept(gateway, 120) == 120)
        try gateway.update("demo.test", "hold=false")
        #expect(gateway.run(seconds: 600) { gateway.isIdle })
        #expect(primary.accepted.count == 120 && primary.openConnectionsMax == 3)
        #expect(primary.connections < 20)
        gateway.run { gateway.forwardSessions == 0 && primary.openConnections == 0 }
        #expect(primary.commands.filter { $0 == "QUIT" }.count == primary.connections)
    }

    /// Design §6: at most 16 of a connection's settles may be unsynced, which bounds duplicates after a power loss.
    @Test("at most 16 messages of a connection come twice after a power loss", arguments: 1...8)
    func duplicatesAreBounded(_ seed: UInt64) throws {
        var settings = SimulatedSettings.quiet
        settings.syncDelay = second / 2...2 * second
        let gateway = try SimulatedGateway(
            seed: seed, cores: 2, world: settings, demo + " forward.concurrency=1 hold=true")
        let primary = ScriptedPrimary(gateway)
        let clients = (0..<100).map {
            ScriptedClient(gateway, script: ScriptedClient.steps(to: ["x@demo.test"], ScriptedClient.message("m\($0)")))
        }
        gateway.run { clients.allSatisfy(\.isDone) }
        try gateway.update("demo.test", "hold=false")
        gateway.run { primary.accepted.count >= 20 + gateway.world.draw(60) }
        gateway.losePower()
        let before = primary.accepted.count
        try gateway.start()
        #expect(gateway.run(seconds: 600) { gateway.ready() && gateway.isIdle && primary.accepted.count >= 100 })
        let again = primary.accepted.count - 100
        #expect(again <= 16 && Set(primary.accepted.map(\.text)).count == 100, "\(before) before, \(again) twice")
    }

    /// Seed 9984: what waits for the original's first bytes, which a notice quotes, belongs to these 16.
    @Test("nor more when many are large and refused for one recipient", arguments: 1...8)
    func duplicatesOfLargeOnesAreBounded(_ seed: UInt64) throws {
        var settings = SimulatedSettings.quiet
        settings.syncDelay = second / 2...2 * second
        settings.fileDelay = 0...second / 50
        let gateway = try SimulatedGateway(
            seed: seed, cores: 1, world: settings, demo + " forward.concurrency=1 hold=true")
        let primary = ScriptedPrimary(gateway)
        primary.act = {
            if case .recipient(let line) = $0, line.contains("<bad@") { .reply("550 5.1.1 nobody here") } else { nil }
        }
        for number in 0..<30 {
            let content = ScriptedClient.message("m\(number)", bytes: 270_000)
            #expect(
                queueID(ScriptedClient.send(gateway, from: "", to: ["x@demo.test", "bad@demo.test"], content)) != nil)
        }
        try gateway.update("demo.test", "hold=false")
        gateway.run { primary.accepted.count >= 17 }
        // What was handed over and is not settled, at any time.
        for _ in 0..<200 {
            let settled = 30 - gateway.files("demo.test").count { $0.hasSuffix(".eml") }
            #expect(primary.accepted.count - settled <= 16)
            gateway.pass(seconds: 0.02)
        }
    }

    @Test func aStopFinishesWhatIsOpen() throws {
        let gateway = try SimulatedGateway(cores: 3, demo)
        let primary = ScriptedPrimary(gateway)
        primary.replyDelay = second / 20
        let clients = (0..<40).map {
            ScriptedClient(gateway, script: ScriptedClient.steps(to: ["x@demo.test"], ScriptedClient.message("m\($0)")))
        }
        gateway.run { primary.accepted.count >= 5 }
        gateway.stop()
        #expect(gateway.run(seconds: 60) { gateway.cores.allSatisfy(\.isStopped) })
        let promised = clients.filter { queueID($0.replies.last) != nil }.count
        #expect(clients.allSatisfy(\.isDone) || promised > 0)
        try gateway.restart()
        #expect(gateway.run(seconds: 60) { gateway.ready() && gateway.isIdle && primary.accepted.count >= promised })
        #expect(Set(primary.accepted.map(\.text)).count == primary.accepted.count)
    }
}
