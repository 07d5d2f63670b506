import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"
/// Accepts and keeps: what the tests here look at is what was stored.
private let kept = "demo.test hold=true"

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// sender ▶ session ▶ spool: what is refused leaves nothing behind, what is accepted is stored as it came.
struct ReceiveTests {
    private func isClean(_ gateway: SimulatedGateway, _ domain: String = "demo.test") -> Bool {
        gateway.run { gateway.isIdle && gateway.sessions == 0 && gateway.files(domain).isEmpty }
        // Nothing reserved: the next message may take all of a quota.
        let whole = Gateway.Quota(maxMessages: 1, maxBytes: 1, code: nil)
        let store = gateway.store(of: domain)
        return gateway.files(domain).isEmpty && store.used == (0, 0) && store.mayTake(1, whole)
            && gateway.memoryBytes == 0 && gateway.accepted == 0
    }

    // MARK: Content

    /// The defence: `refuseBareLineEnding` in the machine's content scanner, and `contentFault` dropping the message here.
    @Test(
        "T-A1: smuggling strings end no message and store nothing",
        arguments: ["\n.\n", "\n.\r", "\r.\n", "\r.\r", "\n.\r\n", "\r.\r\n", "\r\n.\r\r\n", "\r\r\n.\r\r\n"],
        [false, true])
    func smuggling(_ border: String, _ inChunk: Bool) throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"])
        let content =
            "Subject: a\r\n\r\nb" + border
            + "MAIL FROM:<evil@demo.test>\r\nRCPT TO:<y@demo.test>\r\nDATA\r\nevil\r\n.\r\n"
        let reply: String?
        if inChunk {
            reply = client.send(bytes("BDAT \(content.utf8.count) LAST\r\n" + content))
        } else {
            #expect(client.say("DATA")?.hasPrefix("354") == true)
            reply = client.send(bytes(content))
        }
        #expect(reply?.hasPrefix("550 5.5.2") == true, "\(reply ?? "no reply")")
        #expect(client.ended())
        #expect(client.replies.count == 5 + (inChunk ? 0 : 1))
        gateway.pass(seconds: 5)
        #expect(isClean(gateway) && primary.messages.isEmpty)
    }

    @Test("T-A1: a NUL before the dot ends no message either") func nulBeforeDot() throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"])
        client.say("DATA")
        client.send(bytes("Subject: a\r\n\r\nb\r\n\0.\r\nMAIL FROM:<evil@demo.test>\r\n.\r\n"))
        client.say("QUIT")
        gateway.run { gateway.isIdle }
        #expect(gateway.accepted <= 1 && primary.messages.allSatisfy { $0.reversePath == "a@sender.test" })
    }

    /// The defence: nothing in the content's path looks at who the client is.
    @Test("T-A2: a trusted client is refused a bare line feed like everyone") func trustedClientsGetNoException() throws
    {
        let gateway = try SimulatedGateway(kept) { $0.trust.unlimited = [IPNetwork("203.0.113.0/24")!] }
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"])
        client.say("DATA")
        #expect(client.send(bytes("a: b\r\n\r\nc\n.\r\n"))?.hasPrefix("550 5.5.2") == true)
        #expect(client.ended() && isClean(gateway))
    }

    /// The defence: the trace header is written before the first content byte, and the dot counting of the machine.
    @Test("T-A2: whatever the splits, the content goes out as it came") func everySplit() throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        let content = bytes("A: b\r\n\r\n.c\r\n..\r\n...d\r\n")
        let wire = ScriptedClient.stuffed(content) + bytes(".\r\n")
        let client = ScriptedClient(gateway)
        client.greeting()
        client.say("EHLO client.test")
        for split in 0...wire.count {
            client.say("MAIL FROM:<s\(split)@sender.test>")
            client.say("RCPT TO:<x@demo.test>")
            client.say("DATA")
            let before = client.replies.count
            client.peer.send(Array(wire[..<split]))
            gateway.pass(seconds: 0.01)
            client.peer.send(Array(wire[split...]))
            gateway.run { client.replies.count > before }
            #expect(queueID(client.replies.last) != nil)
        }
        #expect(gateway.run { gateway.isIdle })
        #expect(primary.accepted.count == wire.count + 1)
        for message in primary.accepted {
            #expect(Array(message.content.suffix(content.count)) == content)
            #expect(message.text.hasPrefix("Received: from client.test"))
        }
    }

    /// The defence: `dropTransaction` at the end of a session, and the machine's count of announced octets.
    @Test("T-A3: a connection closed within BDAT stores nothing", arguments: [0, 1, 40, 99, 300_000])
    func closedWithinChunk(_ sent: Int) throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"])
        let content = ScriptedClient.message("chunk", bytes: 400_000)
        client.send(bytes("BDAT 100\r\n") + content[..<100])
        client.peer.send(bytes("BDAT \(content.count - 100) LAST\r\n") + content[100..<(100 + sent)])
        gateway.pass(seconds: 1)
        if sent % 2 == 0 { client.peer.finish() } else { client.peer.cut() }
        gateway.run { gateway.sessions == 0 }
        #expect(isClean(gateway))
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
    }

    @Test("T-A3: RSET and QUIT between chunks, a size that is no number") func chunkStates() throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"])
        #expect(client.send(bytes("BDAT 6\r\nA: b\r\n"))?.hasPrefix("250") == true)
        #expect(client.say("RSET")?.hasPrefix("250") == true)
        #expect(client.send(bytes("BDAT 2 LAST\r\n\r\n"))?.hasPrefix("503") == true)
        client.say("MAIL FROM:<>")
        client.say("RCPT TO:<x@demo.test>")
        client.send(bytes("BDAT 6\r\nA: b\r\n"))
        #expect(client.say("BDAT 9223372036854775808 LAST")?.hasPrefix("5") == true)
        client.say("QUIT")
        #expect(client.ended() && isClean(gateway))
    }

    /// The defence: `HeaderScanner` ends at the first empty line, and nothing else parses the header section.
    @Test("T-A8: one border between header section and body") func oneBorder() throws {
        let gateway = try SimulatedGateway(kept)
        let loops = String(repeating: "Received: from a by b; Mon, 1 Jan 2026 00:00:00 +0000\r\n", count: 101)
        // In the body they are text.
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], bytes("A: b\r\n\r\n" + loops))) != nil)
        // A space or a dot doesn't end the header section.
        for border in [" \r\n", ".\r\n"] {
            let text = "A: b\r\n" + border + loops + "\r\n"
            let reply = ScriptedClient.send(gateway, to: ["x@demo.test"], bytes(text))
            #expect(reply?.hasPrefix("554 5.4.6") == true || queueID(reply) != nil)
        }
        #expect(gateway.accepted >= 1)
    }

    /// The defence: `HeaderScanner.overLimit`, asked in `endOfContent`.
    @Test("T-A9: header bombs get a 554", arguments: [1, 2])
    func headerBomb(_ kind: Int) throws {
        let gateway = try SimulatedGateway(kept)
        let bomb =
            kind == 1
            ? String(repeating: "To: a@b.test\r\n", count: 200_000)
            : "X: " + String(repeating: String(repeating: "y", count: 900) + "\r\n ", count: 3_000) + "\r\n"
        let reply = ScriptedClient.send(gateway, to: ["x@demo.test"], bytes(bomb + "\r\nbody\r\n"))
        #expect(reply?.hasPrefix("554 5.6.0") == true, "\(reply ?? "none")")
        #expect(isClean(gateway))
    }

    /// The defence: `Limits.receivedFieldsMax`.
    @Test("T-E2: a message that has been through a hundred servers is looping") func loop() throws {
        let gateway = try SimulatedGateway(kept)
        let trace = { (count: Int) in
            bytes(
                String(repeating: "Received: from a by b; Mon, 1 Jan 2026 00:00:00 +0000\r\n", count: count)
                    + "\r\nx\r\n")
        }
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], trace(100))) != nil)
        #expect(ScriptedClient.send(gateway, to: ["x@demo.test"], trace(101))?.hasPrefix("554 5.4.6") == true)
        #expect(gateway.files("demo.test").count == 1)
    }

    // MARK: Recipients

    /// The defence: `Core.admit` looks at the domain behind the last `@` and at nothing else.
    @Test(
        "T-C1, T-C2: relay tricks are refused, and nothing is relayed",
        arguments: [
            "user@victim.test", "@demo.test:user@victim.test", "@demo.test,@demo.test:user@victim.test",
            "user%demo.test@victim.test", "demo.test!user@victim.test", "user@demo.test@victim.test",
            "user@victim.test@demo.test", "user@[198.51.100.7]", "user@[127.0.0.1]", "user@", "@demo.test", "user",
            "user@demo.test.", "user@.demo.test", "user@demo..test", "user@demo.test\u{0}", "us er@demo.test",
            "\"user@demo.test", "user@demo.test>\r <y@victim.test", "user@sub.demo.test", "<user@demo.test>",
            "-oX@victim.test", "../../etc@victim.test", "user@demo.test/../x",
        ])
    func relayTricks(_ path: String) throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        let client = ScriptedClient(gateway)
        client.envelope(to: [])
        let reply = client.say("RCPT TO:<\(path)>") ?? "none"
        #expect(["501 ", "550 ", "553 ", "500 "].contains(String(reply.prefix(4))), "\(path): \(reply)")
        #expect(["503", "554"].contains(String(client.say("DATA")?.prefix(3) ?? "")))
        client.say("QUIT")
        #expect(isClean(gateway) && primary.connections == 0)
    }

    /// The defence: the local part is never parsed again.
    @Test(
        "T-C1, T-C2: a local part is opaque, and goes to the domain's own primary as it is",
        arguments: [
            "user%victim.test@demo.test", "victim.test!user@demo.test", "\"user@victim.test\"@demo.test",
            "\"a b\"@demo.test", "-oX@demo.test", "|cat@demo.test", "\"../../x\"@demo.test", "$(id)@demo.test",
        ])
    func opaqueLocalParts(_ path: String) throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        let reply = ScriptedClient.send(gateway, to: [path])
        if queueID(reply) == nil {
            // Not valid without quotes: refused is right, too.
            #expect(reply?.first == "5")
        } else {
            #expect(gateway.run { gateway.isIdle })
            #expect(primary.accepted.map(\.paths) == [[path]])
        }
    }

    /// The defence: `offersXClient` and `needsProxyHeader` ask `settings.trust`.
    @Test("T-C3: XCLIENT and PROXY of strangers are commands nobody knows") func strangersProxy() throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.greeting()
        #expect(client.say("PROXY TCP4 10.0.0.1 10.0.0.2 1 2")?.first == "5")
        #expect(client.say("EHLO client.test")?.contains("XCLIENT") == false)
        #expect(client.say("XCLIENT ADDR=10.0.0.1")?.first == "5")
        client.say("MAIL FROM:<>")
        client.say("RCPT TO:<x@demo.test>")
        let id = try #require(queueID(client.data(ScriptedClient.message("t"))))
        let answer = gateway.ask(.export(id)).compactMap { if case .content(let bytes) = $0 { bytes } else { nil } }
        #expect(String(decoding: answer.first ?? [], as: UTF8.self).contains("[203.0.113.9]"))
    }

    @Test("T-C3: believed from where the settings say, and malformed ones close") func trustedProxy() throws {
        let gateway = try SimulatedGateway(kept) {
            $0.trust.proxy = [IPNetwork("203.0.113.0/24")!]
            $0.trust.xclient = [IPNetwork("203.0.113.0/24")!]
        }
        let client = ScriptedClient(gateway)
        #expect(client.say("PROXY TCP4 192.0.2.77 192.0.2.1 4000 25")?.hasPrefix("220") == true)
        client.say("EHLO client.test")
        client.say("MAIL FROM:<>")
        client.say("RCPT TO:<x@demo.test>")
        let id = try #require(queueID(client.data(ScriptedClient.message("t"))))
        let answer = gateway.ask(.export(id)).compactMap { if case .content(let bytes) = $0 { bytes } else { nil } }
        #expect(String(decoding: answer.first ?? [], as: UTF8.self).contains("[192.0.2.77]"))

        for header in [
            "PROXY TCP4 192.0.2.77\r\n", "EHLO x\r\n", "PROXY TCP4 a b c d\r\n", "\r\n\r\n\0\r\nQUIT\n!!!!!!",
        ] {
            let other = ScriptedClient(gateway)
            other.peer.send(bytes(header))
            #expect(other.ended(), "\(header)")
            #expect(other.replies.isEmpty, "\(header)")
        }
    }

    /// The defence: `MailFile.name` takes an id and a number.
    @Test("T-C6: names in a mail directory are made by the program") func generatedNames() throws {
        let gateway = try SimulatedGateway(kept)
        for path in ["\"../../../x\"@demo.test", "\"a/b\"@DEMO.test", "\"..\"@demo.test"] {
            #expect(queueID(ScriptedClient.send(gateway, from: "../x@sender.test", to: [path])) != nil)
        }
        let names = gateway.files("demo.test")
        #expect(names.count == 3)
        for name in names {
            guard case .message(let id, let count) = MailFile.entry(name) else {
                Issue.record("\(name)")
                continue
            }
            #expect(name == MailFile.name(id, contentBytes: count))
        }
        #expect(gateway.world.disk.names(in: "data/stores") == ["@system", "demo.test"])
        for domain in [
            "../x", "a/b.test", ".", "..", "a..test", "\0.test", String(repeating: "a", count: 300) + ".test",
        ] {
            #expect(throws: InvalidSetting.self, "\(domain)") { try GatewayDocument(domain: domain) }
        }
    }

    @Test("M3: many gateways in one transaction: one parcel each, beyond a hundred 452") func manyGateways() throws {
        let gateway = try SimulatedGateway(cores: 3, "g0.test hold=true")
        for number in 1..<102 { try gateway.create("g\(number).test hold=true") }
        gateway.ready()
        let client = ScriptedClient(gateway)
        client.envelope(to: [])
        for number in 0..<102 {
            let reply = client.say("RCPT TO:<x@g\(number).test>")
            #expect(reply?.hasPrefix(number < 100 ? "250" : "452 4.5.3") == true, "\(number): \(reply ?? "none")")
        }
        // A further recipient of a gateway that is in is welcome.
        #expect(client.say("RCPT TO:<y@g7.test>")?.hasPrefix("250") == true)
        #expect(queueID(client.data(ScriptedClient.message("all"))) != nil)
        gateway.run { gateway.queued == 100 }
        #expect(gateway.queued == 100 && gateway.accepted == 1)
        for number in 0..<102 { #expect(gateway.files("g\(number).test").count == (number < 100 ? 1 : 0)) }
        let two = gateway.queue.first { $0.domain == "g7.test" }
        #expect(two?.recipients == ["x@g7.test", "y@g7.test"])
    }

    @Test func disabledGatewayAnswers450() throws {
        let gateway = try SimulatedGateway("demo.test enabled=false")
        #expect(ScriptedClient(gateway).envelope(to: ["x@demo.test"])?.hasPrefix("450 4.2.1") == true)
        try gateway.update("demo.test", "enabled=true")
        gateway.pass(seconds: 0.1)
        #expect(ScriptedClient(gateway).envelope(to: ["x@DEMO.Test"])?.hasPrefix("250") == true)
    }

    @Test func postmasterIsAlwaysTaken() throws {
        let gateway = try SimulatedGateway("demo.test hold=true")
        gateway.ready()
        #expect(queueID(ScriptedClient.send(gateway, to: ["Postmaster"])) != nil)
        #expect(queueID(ScriptedClient.send(gateway, to: ["postMaster@\(SimulatedGateway.hostname)"])) != nil)
        #expect(gateway.files("@system").count == 2)
        gateway.pass(seconds: 10)
        #expect(gateway.queue.map(\.state) == [.held, .held])
        try gateway.set("postmaster=admin@demo.test")
        gateway.pass(seconds: 0.1)
        #expect(queueID(ScriptedClient.send(gateway, to: ["Postmaster"])) != nil)
        #expect(gateway.queue.first { $0.domain == "demo.test" }?.recipients == ["admin@demo.test"])
    }

    // MARK: Floods

    /// The defence: `isTooSlow`.
    @Test("T-D1: content that trickles in ends the session") func slowContent() throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"])
        client.say("DATA")
        let start = gateway.world.now
        while client.end == nil, gateway.world.now - start < 3_000_000_000_000 {
            client.peer.send(bytes("x"))
            gateway.run(seconds: 5) { client.end != nil }
        }
        #expect(client.end != nil && gateway.world.now - start < 600_000_000_000)
        #expect(isClean(gateway))
    }

    /// The defence: a session's deadline moves with whole commands only.
    @Test("T-D1: a command that trickles in ends the session") func slowCommand() throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.greeting()
        let start = gateway.world.now
        while client.end == nil, gateway.world.now - start < 3_000_000_000_000 {
            client.peer.send(bytes("N"))
            gateway.run(seconds: 20) { client.end != nil }
        }
        #expect(gateway.world.now - start < 400_000_000_000)
        #expect(client.replies.last?.hasPrefix("421") == true && client.end != nil)
        #expect(isClean(gateway))
    }

    /// The defence: `Limits.sessionSecondsMax`.
    @Test("T-D1: no session lasts longer than an hour") func endlessSession() throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.greeting()
        let start = gateway.world.now
        while client.end == nil, gateway.world.now - start < 4_000_000_000_000 {
            client.say("NOOP")
            gateway.run(seconds: 100) { client.end != nil }
        }
        #expect(client.end != nil && gateway.world.now - start < 3_700_000_000_000)
    }

    /// The defence: `outputPauseBytes`, and the deadline that runs while replies can't be sent.
    @Test("T-D1: who doesn't read its replies isn't read either, and goes") func slowReader() throws {
        let gateway = try SimulatedGateway(kept)
        let client = ScriptedClient(gateway)
        client.envelope(to: [])
        client.peer.isPaused = true
        client.peer.send(bytes(String(repeating: "HELP\r\nNOOP\r\n", count: 200_000)))
        gateway.pass(seconds: 30)
        #expect(gateway.sessions == 1)
        #expect(gateway.run(seconds: 700) { gateway.sessions == 0 })
        #expect(isClean(gateway))
    }

    /// The defence: `Core.admission` and `connectionsMax`.
    @Test("T-D2: connections of one network are limited, and those of all") func connectionLimits() throws {
        let gateway = try SimulatedGateway(cores: 1, kept) {
            $0.connectionsPerNetworkMax = 3
            $0.connectionsMax = 5
        }
        let greet = { (source: String) -> String in ScriptedClient(gateway, from: source).greeting() ?? "closed" }
        #expect((1...3).map { greet("203.0.113.\($0)").prefix(3) } == ["220", "220", "220"])
        #expect(greet("203.0.113.4").hasPrefix("421 4.7.0"))
        gateway.run { gateway.sessions == 3 }
        #expect(greet("198.51.100.1").hasPrefix("220") && greet("198.51.101.1").hasPrefix("220"))
        #expect(greet("198.51.102.1") == "closed")
        #expect(gateway.counters[0].connectionsRefused.load(ordering: .relaxed) == 2)
    }

    /// The defence: `recipientsMax`, `errorsBeforeDelay` and `errorsMax` in the machine's settings.
    @Test("T-D3: recipients are counted, and guessing gets slow and ends") func recipientFlood() throws {
        let gateway = try SimulatedGateway(kept) { $0.recipientsMax = 100 }
        let client = ScriptedClient(gateway)
        client.envelope(to: [])
        let many = (0..<150).map { "RCPT TO:<u\($0)@demo.test>\r\n" }.joined()
        client.send(bytes(many), replies: 150)
        let codes = client.replies.suffix(150).map { $0.prefix(9) }
        #expect(
            codes.prefix(100).allSatisfy { $0.hasPrefix("250") } && codes.suffix(50).allSatisfy { $0 == "452 4.5.3" })
        client.say("RSET")
        let harvester = ScriptedClient(gateway)
        harvester.envelope(to: [])
        let start = gateway.world.now
        var guesses = 0
        while harvester.say("RCPT TO:<g\(guesses)@other.test>") != nil { guesses += 1 }
        #expect(guesses <= 21 && harvester.replies.last?.hasPrefix("421 4.7.0") == true)
        #expect(gateway.world.now - start > 5_000_000_000)
    }

    /// The defence: `dropTransaction`, `LargeMessageWriter.abandon`, and `logEnd` for a commit whose session has gone.
    @Test("T-D4: aborted messages leave no files, no quota, no memory", arguments: 1...6)
    func abortedMessages(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, "demo.test hold=true quota.enabled=true quota.bytes=100M")
        gateway.ready()
        let content = ScriptedClient.message("aborted", bytes: 1 << 20)
        for round in 0..<12 {
            let client = ScriptedClient(gateway)
            client.envelope(to: ["x@demo.test"], parameters: " SIZE=\(content.count)")
            client.say("DATA")
            client.peer.send(Array(content[..<gateway.world.draw(content.count)]))
            gateway.pass(seconds: Double(gateway.world.draw(100)) / 1_000)
            switch round % 3 {
            case 0: client.peer.cut()
            case 1: client.peer.finish()
            default: client.peer.close()
            }
        }
        gateway.run { gateway.sessions == 0 }
        gateway.pass(seconds: 2)
        #expect(isClean(gateway), "\(gateway.files("demo.test")) \(gateway.memoryBytes)")
        #expect(gateway.world.disk.openHandles <= 4)
    }

    /// The defence: `ClientNetworks.waste` and the first look of `contentRefusal`.
    @Test("T-D4: a network that breaks off message after message is held off for a while") func wastedBytes() throws {
        let gateway = try SimulatedGateway(cores: 1, kept) { $0.messageSizeMax = 20_000 }
        gateway.ready()
        let content = ScriptedClient.message("aborted", bytes: 19_000)
        func aborted() -> String? {
            let client = ScriptedClient(gateway)
            client.envelope(to: ["x@demo.test"])
            let answer = client.say("DATA")
            client.peer.send(Array(content.dropLast(10)))
            gateway.pass(seconds: 1)
            client.peer.cut()
            gateway.pass(seconds: 1)
            return answer
        }
        for _ in 0..<9 { #expect(aborted()?.hasPrefix("354") == true) }
        #expect(aborted()?.hasPrefix("421 4.7.0") == true)
        gateway.pass(seconds: 700)
        #expect(aborted()?.hasPrefix("354") == true)
    }

    /// A client that leaves between its last byte and our 250: the message is kept or not, but its memory and its share of
    /// the quota are in either case what is right.
    @Test("T-D4: who leaves during the commit keeps nothing", arguments: 1...12)
    func leavingDuringCommit(_ seed: UInt64) throws {
        var settings = SimulatedSettings.quiet
        settings.windowBytes = 4_096
        let gateway = try SimulatedGateway(
            seed: seed, world: settings, "demo.test hold=true quota.enabled=true quota.bytes=100M")
        gateway.ready()
        let isLarge = seed % 2 == 0
        let fails = seed % 3 == 0
        let content = ScriptedClient.message("left", bytes: isLarge ? 600_000 : 2_000)
        let client = ScriptedClient(gateway)
        client.envelope(to: ["x@demo.test"], parameters: " SIZE=\(content.count)")
        // Replies that it doesn't take: the session learns of the cut while the commit runs.
        client.peer.isPaused = seed % 4 < 2
        if seed % 4 < 2 { client.peer.send(String(repeating: "NOOP\r\n", count: 500)) }
        client.peer.send("BDAT \(content.count) LAST\r\n")
        gateway.pass(seconds: 0.1)
        gateway.world.disk.hang(device: 1, for: 3_000_000_000)
        if fails { gateway.world.disk.inject(SimulatedDiskFault(.sync)) }
        client.peer.send(content)
        gateway.pass(seconds: 1)
        client.peer.cut()
        gateway.pass(seconds: 20)
        #expect(gateway.sessions == 0 && gateway.memoryBytes == 0)
        let store = gateway.store(of: "demo.test")
        let files = gateway.files("demo.test")
        #expect(files.count == gateway.accepted && files.allSatisfy { !$0.hasSuffix(".part") }, "\(files)")
        #expect(store.used.messages == files.count)
        #expect(store.mayTake(0, Gateway.Quota(maxMessages: nil, maxBytes: store.used.bytes, code: nil)))
    }

    /// The defence: `pausedListeners`.
    @Test("T-D11: out of descriptors, accepting backs off and comes back") func outOfDescriptors() throws {
        var settings = SimulatedSettings.quiet
        settings.socketsMax = 4
        let gateway = try SimulatedGateway(cores: 1, world: settings, kept)
        var clients = (0..<6).map { _ in ScriptedClient(gateway) }
        gateway.pass(seconds: 2)
        let greeted = clients.filter { !$0.replies.isEmpty }.count
        #expect(greeted == 3)
        let turns = gateway.world.counters.turns
        gateway.pass(seconds: 5)
        #expect(gateway.world.counters.turns - turns < 1_000)
        for client in clients where !client.replies.isEmpty { client.say("QUIT") }
        clients.removeAll { !$0.replies.isEmpty }
        gateway.pass(seconds: 5)
        #expect(clients.allSatisfy { $0.replies.first?.hasPrefix("220") == true })
    }

    // MARK: Quota

    /// The defence: `Store.charge` at the end of the content, exact, however many sessions come to it together.
    @Test("M9: two sessions, one slot", arguments: 1...10) func lastSlot(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(
            seed: seed, cores: 3, world: .quiet, "demo.test hold=true quota.enabled=true quota.messages=3")
        gateway.ready()
        let clients = (0..<6).map { number in
            ScriptedClient(
                gateway, script: ScriptedClient.steps(to: ["x@demo.test"], ScriptedClient.message("m\(number)")))
        }
        gateway.run { clients.allSatisfy(\.isDone) }
        let accepted = clients.filter { queueID($0.replies.last) != nil }.count
        #expect(accepted == 3 && gateway.files("demo.test").count == 3)
        #expect(gateway.store(of: "demo.test").used.messages == 3)
        for client in clients where queueID(client.replies.last) == nil {
            #expect(client.replies.contains { $0.hasPrefix("452 4.2.2") })
        }
    }

    @Test("M9: bytes are exact, 452 or 552 by choice, and Postmaster may exceed") func quotaBytes() throws {
        let gateway = try SimulatedGateway("demo.test hold=true quota.enabled=true quota.bytes=10K")
        gateway.ready()
        let reply = { (recipient: String, bytes: Int) in
            ScriptedClient.send(gateway, to: [recipient], ScriptedClient.message("q", bytes: bytes)) ?? "none"
        }
        #expect(queueID(reply("x@demo.test", 5_000)) != nil)
        #expect(reply("x@demo.test", 6_000).hasPrefix("452 4.2.2"))
        #expect(queueID(reply("x@demo.test", 4_000)) != nil)
        #expect(queueID(reply("postmaster@demo.test", 30_000)) != nil)
        #expect(reply("x@demo.test", 10).hasPrefix("452 4.2.2"))
        #expect(reply("postmaster@demo.test", 60_000).hasPrefix("452 4.2.2"))
        try gateway.update("demo.test", "quota.code=552")
        gateway.pass(seconds: 0.1)
        #expect(reply("x@demo.test", 10).hasPrefix("552 5.2.2"))
        // The declared size is looked at before the content comes.
        try gateway.update("demo.test", "quota.bytes=100K", "quota.code=null")
        gateway.pass(seconds: 0.1)
        let client = ScriptedClient(gateway)
        #expect(client.envelope(to: ["x@demo.test"], parameters: " SIZE=200000")?.hasPrefix("452 4.2.2") == true)
        #expect(gateway.files("demo.test").count == 3)
    }

    @Test("M9: one full gateway refuses the whole transaction at the end, and nobody is charged") func quotaOfOne()
        throws
    {
        let gateway = try SimulatedGateway(
            "a.test hold=true", "b.test hold=true quota.enabled=true quota.bytes=1K", "c.test hold=true")
        gateway.ready()
        let reply = ScriptedClient.send(
            gateway, to: ["x@a.test", "x@b.test", "x@c.test"], ScriptedClient.message("q", bytes: 5_000))
        #expect(reply?.hasPrefix("452 4.2.2") == true)
        for domain in ["a.test", "b.test", "c.test"] {
            #expect(gateway.store(of: domain).used == (0, 0) && gateway.files(domain).isEmpty)
        }
    }

    // MARK: Large messages

    /// A message above the memory limit with many lines that begin with a dot, on a slow disk: nothing stands still.
    @Test("dot lines in a large message while the writer is full", arguments: 1...6)
    func largeWithDots(_ seed: UInt64) throws {
        var settings = SimulatedSettings.quiet
        settings.fileDelay = 1_000_000...50_000_000
        settings.windowBytes = 1 << 20
        settings.segmentMaxBytes = 65_536
        let gateway = try SimulatedGateway(seed: seed, world: settings, demo)
        let primary = ScriptedPrimary(gateway)
        var content = bytes("A: b\r\n\r\n")
        while content.count < 1_500_000 { content += bytes(".dots at \(content.count)\r\n..\r\nplain\r\n") }
        let id = queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content))
        #expect(id != nil)
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        #expect(primary.accepted.first.map { Array($0.content.suffix(content.count)) == content } == true)
        #expect(gateway.memoryBytes == 0)
    }

    @Test func tooLargeIsRefusedEarlyAndLate() throws {
        let gateway = try SimulatedGateway(kept) { $0.messageSizeMax = 500_000 }
        let client = ScriptedClient(gateway)
        client.greeting()
        client.say("EHLO client.test")
        #expect(client.say("MAIL FROM:<a@b.test> SIZE=500001")?.hasPrefix("552 5.3.4") == true)
        client.say("MAIL FROM:<a@b.test>")
        client.say("RCPT TO:<x@demo.test>")
        #expect(client.data(ScriptedClient.message("big", bytes: 600_000))?.hasPrefix("552") == true)
        client.say("QUIT")
        #expect(client.ended() && isClean(gateway))
    }
}
