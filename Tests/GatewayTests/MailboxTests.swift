import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo =
    "demo.test forward.server=198.51.100.7 retry.schedule=[5s] dequeue.method=mailbox dequeue.mailbox.password=geheim "
    + "delivery.when=onContact"

/// Mail that its customer fetches by POP3, on a simulated disk: login ▶ maildrop ▶ lease ▶ QUIT ▶ durable ▶ gone.
struct MailboxTests {
    private func gateway(_ gateways: String = demo, cores: Int = 2, seed: UInt64 = 1, journal: JournalSettings = .none)
        throws -> SimulatedGateway
    {
        let gateway = try SimulatedGateway(seed: seed, cores: cores, journal: journal, gateways)
        gateway.listens = [.pop3: 110]
        try gateway.restart()
        gateway.ready()
        return gateway
    }

    @discardableResult
    private func accept(_ gateway: SimulatedGateway, _ count: Int, bytes: Int = 0) -> [QueueID] {
        (0..<count).compactMap {
            queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], ScriptedClient.message("m\($0)", bytes: bytes)))
        }
    }

    /// With APOP (RFC 1939 §7): without TLS no password is shown.
    private func login(_ gateway: SimulatedGateway, _ password: String = "geheim", user: String = "demo.test")
        -> (customer: ScriptedCustomer, reply: String?)
    {
        let customer = ScriptedCustomer(gateway, port: 110)
        let greeting = customer.hear() ?? ""
        let timestamp = greeting.drop { $0 != "<" }.prefix { $0 != "\r\n" }
        let functions = SASLFunctions.openSSL
        let digest = functions.md5(Array((timestamp + password).utf8)).map { byte in
            let text = String(byte, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
        return (customer, customer.say("APOP \(user) \(digest)"))
    }

    @Test("what QUIT deleted is gone, also after a power loss; the rest waits", arguments: [1, 3])
    func fetch(cores: Int) throws {
        let gateway = try gateway(cores: cores)
        let ids = accept(gateway, 5)
        let (customer, reply) = login(gateway)
        #expect(reply?.hasPrefix("+OK Maildrop has 5 messages") == true)
        let listing = try #require(customer.say("UIDL", until: "\r\n.\r\n"))
        #expect(listing.hasSuffix("\r\n" + ids.enumerated().map { "\($0 + 1) \($1)\r\n" }.joined() + ".\r\n"))
        for number in 1...3 {
            let size = Int(
                try #require(customer.say("LIST \(number)")?.split(whereSeparator: { $0 == " " || $0 == "\r\n" }).last))
            let shown = try #require(customer.say("RETR \(number)", until: "\r\n.\r\n"))
            let content = shown.drop { $0 != "\r\n" }.dropFirst()
            #expect(content.utf8.count - 3 == size)
            #expect(content.hasPrefix("Return-Path: <a@sender.test>\r\nDelivered-To: x@demo.test\r\nReceived: "))
            #expect(content.hasSuffix("Subject: m\(number - 1)\r\n\r\nHello\r\n.\r\n"))
            #expect(customer.say("DELE \(number)")?.hasPrefix("+OK") == true)
        }
        #expect(gateway.queue.count == 5)
        #expect(customer.say("QUIT") == "+OK Bye\r\n")
        gateway.losePower()
        try gateway.start()
        gateway.ready()
        #expect(gateway.queue.map(\.id) == ids[3...].map(\.description))
        #expect(gateway.store(of: "demo.test").used.messages == 2)
        let again = login(gateway).customer
        #expect(again.say("UIDL 1") == "+OK 1 \(ids[3])\r\n")
    }

    @Test("T-E8: a session that ends without QUIT has deleted nothing, and its leases end") func cut() throws {
        let gateway = try gateway()
        accept(gateway, 3)
        let customer = login(gateway).customer
        customer.say("RETR 1", until: "\r\n.\r\n")
        customer.say("DELE 1")
        customer.say("DELE 2")
        customer.peer.close()
        let primary = ScriptedPrimary(gateway)
        gateway.pass(seconds: 5)
        gateway.flush()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 3 })
    }

    @Test("T-D6: a session that keeps silent ends after eleven minutes, and its leases with it") func silent() throws {
        let gateway = try gateway()
        accept(gateway, 1)
        let customer = login(gateway).customer
        customer.say("DELE 1")
        #expect(!gateway.run(seconds: 600) { customer.end != nil })
        #expect(customer.ended(seconds: 120))
        #expect(login(gateway).reply?.hasPrefix("+OK Maildrop has 1 messages") == true)
    }

    @Test(
        "kill or power loss at every part of a QUIT: what got +OK is gone, the rest is gone or whole",
        arguments: [false, true])
    func everyPart(power: Bool) throws {
        var parts = 0
        while parts < 100 {
            let gateway = try gateway(
                seed: UInt64(parts + 1),
                journal: parts % 2 == 0 ? .none : JournalSettings(segmentBytes: 1 << 16, limitBytes: 6 << 16))
            let ids = accept(gateway, 4)
            let customer = login(gateway).customer
            for number in 1...3 { customer.say("DELE \(number)") }
            let before = gateway.world.counters.fileParts
            customer.send(Array("QUIT\r\n".utf8))
            gateway.run(seconds: 5) {
                gateway.world.counters.fileParts - before >= parts || customer.heard.suffix(5) == Array("Bye\r\n".utf8)
            }
            let isDone = customer.heard.suffix(5) == Array("Bye\r\n".utf8)
            if power { gateway.losePower() } else { gateway.kill() }
            gateway.world.cutAllConnections()
            try gateway.start()
            gateway.ready()
            let left = gateway.queue.map(\.id)
            #expect(left.contains(ids[3].description))
            if isDone { #expect(left == [ids[3].description]) }
            let primary = ScriptedPrimary(gateway)
            gateway.flush()
            #expect(gateway.run { gateway.isIdle && primary.accepted.count == left.count })
            if isDone { return #expect(parts > 2) }
            parts += 1
        }
        Issue.record("QUIT never ended")
    }

    @Test("one message, one way: what a session took is not pushed, and what is being pushed is not taken")
    func bothWays() throws {
        let gateway = try gateway(demo.replacing("delivery.when=onContact", with: "delivery.when=immediately"))
        let primary = ScriptedPrimary(gateway, isUp: false)
        accept(gateway, 2)
        let customer = login(gateway).customer
        #expect(customer.say("DELE 1")?.hasPrefix("+OK") == true)
        primary.act = { if case .content = $0 { .silence } else { nil } }
        primary.start()
        gateway.flush()
        gateway.run(seconds: 20) { gateway.forwardSessions > 0 && gateway.queue.count { $0.state == .active } == 2 }
        #expect(customer.say("RETR 2") == "-ERR [SYS/TEMP] The message is being delivered, try later\r\n")
        #expect(customer.say("DELE 2")?.hasPrefix("-ERR [SYS/TEMP]") == true)
        #expect(customer.say("QUIT") == "+OK Bye\r\n")
        gateway.world.cutAllConnections()
        primary.act = { _ in nil }
        gateway.pass(seconds: 15)
        gateway.flush()
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
    }

    @Test("RFC 2449 §8: a second session hears IN-USE, until the first has ended") func inUse() throws {
        let gateway = try gateway(cores: 3)
        accept(gateway, 1)
        let first = login(gateway).customer
        #expect(login(gateway).reply == "-ERR [IN-USE] The maildrop is open in another session\r\n")
        #expect(first.say("QUIT") == "+OK Bye\r\n")
        #expect(login(gateway).reply?.hasPrefix("+OK") == true)
    }

    @Test("a mailbox for reading only deletes nothing, and may stand beside a push") func readOnly() throws {
        let gateway = try gateway(
            "demo.test forward.server=198.51.100.7 dequeue.mailbox.readOnly=true dequeue.mailbox.password=geheim")
        _ = ScriptedPrimary(gateway, isUp: false)
        accept(gateway, 1)
        let customer = login(gateway).customer
        #expect(customer.say("RETR 1", until: "\r\n.\r\n") != nil)
        #expect(customer.say("DELE 1")?.hasPrefix("-ERR") == true)
        customer.say("QUIT")
        #expect(gateway.queue.count == 1)
    }

    @Test("who is not right, has no mailbox, or whose gateway is on hold, does not get in") func refused() throws {
        let gateway = try gateway()
        accept(gateway, 1)
        let wrong = "-ERR [AUTH] Authentication failed\r\n"
        #expect(login(gateway, "falsch").reply == wrong)
        #expect(login(gateway, user: "nobody.test").reply == wrong)
        try gateway.update("demo.test", "dequeue.mailbox.pop3=false")
        gateway.pass(seconds: 1)
        #expect(login(gateway).reply == wrong)
        try gateway.update("demo.test", "dequeue.mailbox.pop3=true", "hold=true")
        gateway.pass(seconds: 1)
        #expect(login(gateway).reply == "-ERR [SYS/TEMP] The maildrop can't be opened now, try later\r\n")
        try gateway.update("demo.test", "hold=false")
        gateway.pass(seconds: 1)
        #expect(login(gateway).reply?.hasPrefix("+OK") == true)
    }

    @Test("T-D5: an address that guesses is refused for ten minutes, with the right password too") func guesses() throws
    {
        let gateway = try gateway(cores: 1)
        for _ in 0..<Guesses.ofClientMax { login(gateway, "falsch").customer.peer.close() }
        #expect(login(gateway).reply?.hasPrefix("-ERR [SYS/TEMP]") == true)
        gateway.pass(seconds: 601)
        #expect(login(gateway).reply?.hasPrefix("+OK") == true)
    }

    @Test(
        "a large message comes from its file, with dots stuffed or not, and TOP shows its beginning",
        arguments: [false, true])
    func large(dots: Bool) throws {
        let gateway = try gateway()
        var content = ScriptedClient.message("big", bytes: 700_000)
        if dots { content += Array(".dot\r\n..\r\n".utf8) }
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        let customer = login(gateway).customer
        let top = try #require(customer.say("TOP 1 1", until: "\r\n.\r\n"))
        #expect(top.hasSuffix("Subject: big\r\n\r\nHello\r\n.\r\n"))
        customer.send(Array("RETR 1\r\n".utf8))
        let shown = try #require(customer.hear(until: "\r\n.\r\n"))
        #expect(
            shown.utf8.suffix(ScriptedClient.stuffed(content).count + 3).elementsEqual(
                ScriptedClient.stuffed(content) + Array(".\r\n".utf8)))
    }

    @Test("more than sixteen settles of one QUIT wait for one another's syncs") func many() throws {
        let gateway = try gateway()
        accept(gateway, 50)
        let customer = login(gateway).customer
        for number in 1...50 { customer.say("DELE \(number)") }
        #expect(customer.say("QUIT") == "+OK Bye\r\n")
        #expect(gateway.queue.isEmpty && gateway.files("demo.test").isEmpty)
    }

    @Test("a parcel that some recipients have shows only the others, under another unique id") func partly() throws {
        let gateway = try gateway(
            demo.replacing("delivery.when=onContact", with: "delivery.when=immediately").replacing("[5s]", with: "[1h]")
        )
        let primary = ScriptedPrimary(gateway)
        primary.act = {
            if case .recipient(let line) = $0, line.contains("<later@") { .reply("450 4.2.0 later") } else { nil }
        }
        let id = try #require(queueID(ScriptedClient.send(gateway, to: ["now@demo.test", "later@demo.test"])))
        #expect(gateway.run { primary.accepted.count == 1 })
        gateway.pass(seconds: 2)
        let customer = login(gateway).customer
        #expect(customer.say("UIDL 1") == "+OK 1 \(id).1\r\n")
        let shown = try #require(customer.say("RETR 1", until: "\r\n.\r\n"))
        #expect(shown.contains("Delivered-To: later@demo.test\r\n") && !shown.contains("Delivered-To: now@demo.test"))
        customer.say("DELE 1")
        #expect(customer.say("QUIT") == "+OK Bye\r\n")
        #expect(gateway.files("demo.test").isEmpty)
    }
}
