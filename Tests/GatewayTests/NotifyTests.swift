import Protocols
import Reactor
import Testing

@testable import Gateway

/// outcome ▶ verdict ▶ notice, durable ▶ the end of its cause (RFC 3461, RFC 3464, RFC 5321 §6.1).
struct NotifyTests {
    /// A gateway for the recipients, and one for the sender, whose primary collects the notices.
    private struct World {
        let gateway: SimulatedGateway
        let primary: ScriptedPrimary
        let senders: ScriptedPrimary
        var notices: [ScriptedPrimary.Message] { senders.accepted }

        init(seed: UInt64 = 1, _ settings: String = "", world: SimulatedSettings = .quiet) throws {
            gateway = try SimulatedGateway(
                seed: seed, cores: 2, world: world, "demo.test forward.server=198.51.100.7 " + settings,
                "sender.test forward.server=198.51.100.9")
            gateway.ready()
            primary = ScriptedPrimary(gateway)
            senders = ScriptedPrimary(gateway, at: "198.51.100.9")
            primary.act = { moment in
                guard case .recipient(let line) = moment else { return nil }
                if line.contains("<bad") { return .reply("550 5.1.1 nobody here") }
                return line.contains("<later") ? .reply("450 4.2.0 later") : nil
            }
        }

        func send(
            _ recipients: [String], from: String = "a@sender.test", parameters: String = "", _ content: [UInt8]? = nil
        ) -> QueueID? {
            let client = ScriptedClient(gateway)
            client.envelope(from: from, to: [], parameters: parameters)
            for recipient in recipients { client.say("RCPT TO:\(recipient)") }
            return queueID(client.data(content ?? ScriptedClient.message("original")))
        }

        func done(seconds: Double = 60) -> Bool { gateway.run(seconds: seconds) { gateway.isIdle } }
    }

    /// The defence: `Verdict.notice` looks at the reverse-path first.
    @Test("T-E3: no notice about a message with the null reverse-path") func nullSender() throws {
        let world = try World()
        #expect(world.send(["<bad@demo.test>"], from: "") != nil)
        #expect(world.done())
        #expect(world.gateway.bounced == 1 && world.notices.isEmpty && world.gateway.files("demo.test").isEmpty)
        #expect(world.gateway.files("@system").isEmpty)
    }

    /// The defence: `ForwardSession.hop`. So too when the sender's mail directory was not there at the time of the notice.
    @Test("a notice waiting for a domain of nobody goes when that becomes a gateway here") func noticeOfLaterGateway()
        throws
    {
        let world = try World()
        #expect(world.send(["<bad@demo.test>"], from: "a@late.test") != nil)
        #expect(world.gateway.run(seconds: 60) { world.gateway.bounced == 1 })
        world.gateway.pass(seconds: 30)
        #expect(world.gateway.queue.map(\.domain) == ["@system"])
        try world.gateway.create("late.test forward.server=198.51.100.9 hold=true")
        world.gateway.flush()
        world.gateway.pass(seconds: 30)
        #expect(world.notices.isEmpty)
        try world.gateway.update("late.test", "hold=false")
        // It is looked at every five minutes.
        #expect(world.done(seconds: 400) && world.notices.map(\.paths) == [["a@late.test"]])
    }

    @Test("T-E3: a notice that can't be delivered ends") func noticeBounces() throws {
        let world = try World()
        world.senders.act = { if case .recipient = $0 { .reply("550 5.1.1 nobody") } else { nil } }
        #expect(world.send(["<bad@demo.test>"]) != nil)
        #expect(world.done())
        #expect(
            world.gateway.bounced == 2 && world.senders.messages.isEmpty && world.gateway.files("sender.test").isEmpty)
    }

    /// RFC 3461 §4.1 and §5.2: who is told of what.
    @Test(
        "T-E3: NOTIFY decides about failures",
        arguments: [
            (nil, true), ("FAILURE", true), ("SUCCESS,FAILURE", true), ("NEVER", false), ("SUCCESS", false),
            ("DELAY", false),
        ])
    func notifyOfFailure(_ notify: String?, _ isTold: Bool) throws {
        let world = try World()
        #expect(world.send(["<bad@demo.test>" + (notify.map { " NOTIFY=\($0)" } ?? "")]) != nil)
        #expect(world.done())
        #expect(world.notices.count == (isTold ? 1 : 0) && world.gateway.files("demo.test").isEmpty)
    }

    @Test func aFailureIsReportedInFull() throws {
        let world = try World()
        let id = try #require(
            world.send(
                ["<bad@demo.test> ORCPT=rfc822;first@other.test", "<good@demo.test>", "<bad2@demo.test> NOTIFY=NEVER"],
                parameters: " ENVID=QQ314159 RET=HDRS", ScriptedClient.message("original", bytes: 5_000)))
        #expect(world.done())
        let notice = try #require(world.notices.first)
        #expect(world.notices.count == 1 && notice.reversePath.isEmpty && notice.paths == ["a@sender.test"])
        #expect(notice.recipients[0].contains("NOTIFY=NEVER"))
        for text in [
            "multipart/report", "report-type=delivery-status", "Original-Envelope-Id: QQ314159",
            "Final-Recipient: rfc822;",
            "Original-Recipient: rfc822; first@other.test", "Action: failed", "Status: 5.1.1", "550 5.1.1 nobody here",
            "Reporting-MTA: dns;", "Subject: original", id.description, "text/rfc822-headers",
        ] { #expect(notice.text.contains(text), "\(text)\n\(notice.text)") }
        #expect(!notice.text.contains("bad2@") && !notice.text.contains("good@") && !notice.text.contains("xxxxxxxxxx"))
        #expect(world.primary.accepted.map(\.paths) == [["good@demo.test"]])
    }

    /// RFC 3461 §5.2.2: the duty goes on with the message, or is ours.
    @Test("relayed notices for NOTIFY=SUCCESS", arguments: [false, true]) func relayed(_ offersDSN: Bool) throws {
        let world = try World()
        world.primary.extensions = ["PIPELINING"] + (offersDSN ? ["DSN"] : [])
        #expect(world.send(["<good@demo.test> NOTIFY=SUCCESS"]) != nil)
        #expect(world.done())
        #expect(world.notices.count == (offersDSN ? 0 : 1))
        if !offersDSN {
            #expect(world.notices[0].text.contains("Action: relayed") && world.notices[0].text.contains("Status: 2."))
        }
        #expect(world.primary.accepted.count == 1)
    }

    @Test("a message past its lifetime comes back", arguments: [false, true]) func expiry(_ isDown: Bool) throws {
        let world = try World("retry.lifetime=300s retry.schedule=[60s]")
        if isDown { world.primary.stop() }
        #expect(world.send(["<later@demo.test>"]) != nil)
        world.gateway.pass(seconds: 200)
        #expect(world.notices.isEmpty && world.gateway.queued == 1)
        #expect(world.gateway.run(seconds: 400) { world.gateway.isIdle })
        let notice = try #require(world.notices.first)
        #expect(notice.text.contains("Action: failed") && notice.text.contains("Status: 5.4.7"))
        #expect(world.gateway.bounced == 1 && world.gateway.files("demo.test").isEmpty)
    }

    @Test("a message that is late is reported once, if that is wanted") func delayed() throws {
        let world = try World("retry.schedule=[30m]")
        for notify in ["", " NOTIFY=DELAY", " NOTIFY=FAILURE", " NOTIFY=NEVER"] {
            #expect(world.send(["<later\(notify.count)@demo.test>" + notify]) != nil)
        }
        world.gateway.pass(seconds: 4 * 3_600 - 60)
        #expect(world.notices.isEmpty)
        world.gateway.pass(seconds: 3_600)
        #expect(world.notices.count == 2)
        for notice in world.notices {
            #expect(notice.text.contains("Action: delayed") && notice.text.contains("Status: 4."))
        }
        // Not again: not later, and not after a start.
        try world.gateway.restart()
        world.gateway.ready()
        world.gateway.pass(seconds: 3_600)
        #expect(world.notices.count == 2 && world.gateway.queue.filter { $0.domain == "demo.test" }.count == 4)
    }

    // MARK: Mail of our own

    @Test("notices to strangers leave by their domain's MX, from @system") func strangers() throws {
        let gateway = try SimulatedGateway(cores: 2, "demo.test forward.server=198.51.100.7")
        let zone = ScriptedResolver()
        gateway.world.resolver = { zone.answer($0) }
        zone.records = ["stranger.test": [.mx(10, "mx.stranger.test")], "mx.stranger.test": [.a("198.51.100.30")]]
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        primary.act = { if case .recipient = $0 { .reply("550 5.1.1 nobody") } else { nil } }
        let stranger = ScriptedPrimary(gateway, at: "198.51.100.30", isUp: false)
        #expect(queueID(ScriptedClient.send(gateway, from: "a@stranger.test", to: ["x@demo.test"])) != nil)
        gateway.pass(seconds: 5)
        #expect(gateway.queue.map(\.domain) == ["@system"])
        // It waits by destination after a start, too.
        try gateway.restart()
        gateway.ready()
        stranger.start()
        #expect(gateway.run(seconds: 60) { gateway.isIdle && stranger.accepted.count == 1 })
        #expect(stranger.accepted[0].paths == ["a@stranger.test"] && gateway.files("@system").isEmpty)
    }

    @Test func aSmarthostTakesMailOfOurOwn() throws {
        let gateway = try SimulatedGateway(cores: 2, "demo.test forward.server=198.51.100.7")
        try gateway.set("smarthost=198.51.100.40:2525")
        gateway.ready()
        let primary = ScriptedPrimary(gateway)
        primary.act = { if case .recipient = $0 { .reply("550 5.1.1 nobody") } else { nil } }
        let smarthost = ScriptedPrimary(gateway, at: "198.51.100.40", port: 2525)
        #expect(queueID(ScriptedClient.send(gateway, from: "a@stranger.test", to: ["x@demo.test"])) != nil)
        #expect(gateway.run(seconds: 30) { gateway.isIdle && smarthost.accepted.count == 1 })
    }

    // MARK: Order

    /// Design rule M4. The defence: `leave` runs in `notify`'s closure, when the notice is durable.
    @Test("M4: a consequence is durable before its cause goes", arguments: [false, true]) func consequenceFirst(
        _ power: Bool
    ) throws {
        var parts = 0
        while parts < 200 {
            let world = try World(seed: UInt64(parts + 1))
            let gateway = world.gateway
            world.senders.stop()
            let before = gateway.world.counters.fileParts
            #expect(world.send(["<bad@demo.test>"]) != nil)
            let isOver = { gateway.files("demo.test").isEmpty && gateway.cores.allSatisfy { $0.spool.isIdle } }
            gateway.run(seconds: 10) { gateway.world.counters.fileParts - before >= parts || isOver() }
            let done = isOver()
            if power { gateway.losePower() } else { gateway.kill() }
            world.senders.start()
            try gateway.start()
            gateway.ready()
            #expect(gateway.run(seconds: 120) { gateway.isIdle })
            // A crash between the two may tell twice; never not at all.
            #expect((1...2).contains(world.notices.count), "part \(parts): \(world.notices.count)")
            if done { break }
            parts += 1
        }
        #expect(parts > 5 && parts < 200)
    }

    @Test("M4: while a notice can't be stored, nobody gets the message twice") func noticeFault() throws {
        let world = try World("retry.schedule=[5s]")
        let disk = world.gateway.world.disk
        world.primary.act = { moment in
            if case .recipient(let line) = moment, line.contains("<bad") { return .reply("550 5.1.1 nobody here") }
            if case .content = moment { disk.inject(SimulatedDiskFault(.write, times: 6)) }
            return nil
        }
        #expect(world.send(["<good@demo.test>", "<bad@demo.test>"]) != nil)
        #expect(world.gateway.run(seconds: 900) { world.gateway.isIdle && world.notices.count >= 1 })
        #expect(world.primary.accepted.map(\.paths) == [["good@demo.test"]] && world.notices.count == 1)
        #expect(world.gateway.files("demo.test").isEmpty)
    }
}
