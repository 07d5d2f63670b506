import Protocols
import Reactor
import Testing

@testable import Gateway

/// Mail that its customer asks for: over his own connection (ATRN, RFC 2645), or to his server (ETRN, RFC 1985).
struct DequeueTests {
    private func gateway(_ gateways: String..., cores: Int = 2, journal: JournalSettings = .none) throws
        -> SimulatedGateway
    {
        let gateway = try SimulatedGateway(cores: cores, journal: journal)
        for text in gateways { try gateway.create(text) }
        gateway.listens = [.odmr: 366]
        try gateway.restart()
        gateway.ready()
        return gateway
    }

    private func accept(_ gateway: SimulatedGateway, _ recipients: String...) {
        for recipient in recipients { #expect(queueID(ScriptedClient.send(gateway, to: [recipient])) != nil) }
    }

    /// Says EHLO and AUTH CRAM-MD5 (RFC 2645 §5.1.2); the reply to the latter.
    @discardableResult
    private func login(
        _ customer: ScriptedCustomer, user: String = "tim", secret: String = "geheim", greeted: Bool = false
    ) -> String? {
        if !greeted {
            customer.hear()
            customer.say("EHLO customer.test", until: "ATRN\r\n")
        }
        let challenge = Array((customer.say("AUTH CRAM-MD5") ?? "").utf8.dropFirst(4).prefix { $0 > 32 })
        guard let bytes = Base64.decode(challenge) else { return nil }
        let digest = SASLFunctions.openSSL.hmacMD5(Array(secret.utf8), bytes).map { byte in
            let text = String(byte, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
        return customer.say(String(decoding: Base64.encode(Array("\(user) \(digest)".utf8)), as: UTF8.self))
    }

    private static let a =
        "a.test dequeue.method=atrn dequeue.user=tim dequeue.secret=geheim delivery.when=onContact"
    private static let b = "b.test dequeue.method=atrn dequeue.user=tim delivery.when=onContact"

    // MARK: ATRN

    @Test("RFC 2645: all of a customer's domains go out over his connection, then QUIT", arguments: [1, 3])
    func turn(cores: Int) throws {
        let gateway = try gateway(Self.a, Self.b, "c.test delivery.when=onContact", cores: cores)
        accept(gateway, "x@a.test", "y@b.test", "z@c.test", "w@a.test")
        let customer = ScriptedCustomer(gateway, port: 366)
        #expect(login(customer) == "235 2.7.0 Authenticated\r\n")
        #expect(customer.say("ATRN") == "250 2.0.0 OK, now reversing the connection\r\n")
        customer.beginServing()
        #expect(gateway.run { customer.end != nil || customer.commands.last == "QUIT" })
        #expect(customer.messages.map(\.recipients).flatMap(\.self).sorted() == ["w@a.test", "x@a.test", "y@b.test"])
        #expect(customer.messages.allSatisfy { $0.content.hasSuffix("Subject: test\r\n\r\nHello\r\n") })
        #expect(customer.commands.first == "EHLO mx.gateway.test")
        gateway.pass(seconds: 5)
        #expect(gateway.queue.map(\.domain) == ["c.test"])
        #expect(gateway.files("a.test").isEmpty && gateway.files("b.test").isEmpty)
        #expect(gateway.forwardSessions == 0 && gateway.sessions == 0)
    }

    @Test("RFC 2645 §5.2.1: 530, 450, 453, and only what was named") func decisions() throws {
        let gateway = try gateway(
            Self.a, Self.b, "c.test dequeue.method=atrn dequeue.secret=other delivery.when=onContact")
        let nobody = ScriptedCustomer(gateway, port: 366)
        nobody.hear()
        nobody.say("EHLO customer.test", until: "ATRN\r\n")
        #expect(nobody.say("ATRN a.test")?.hasPrefix("530 5.7.0") == true)
        let customer = ScriptedCustomer(gateway, port: 366)
        login(customer)
        #expect(customer.say("ATRN")?.hasPrefix("453 4.2.0") == true)
        accept(gateway, "x@a.test", "y@b.test", "z@c.test")
        #expect(customer.say("ATRN a.test,c.test")?.hasPrefix("450 4.7.1") == true)
        #expect(customer.say("ATRN d.test")?.hasPrefix("450 4.7.1") == true)
        #expect(customer.say("ATRN b.test")?.hasPrefix("250") == true)
        customer.beginServing()
        #expect(gateway.run { customer.commands.last == "QUIT" })
        #expect(customer.messages.map(\.recipients) == [["y@b.test"]])
        #expect(login(ScriptedCustomer(gateway, port: 366), secret: "falsch")?.hasPrefix("535 5.7.8") == true)
    }

    @Test("D-17: what stands behind ATRN ends the session") func pipelined() throws {
        let gateway = try gateway(Self.a)
        accept(gateway, "x@a.test")
        let customer = ScriptedCustomer(gateway, port: 366)
        login(customer)
        #expect(customer.say("ATRN\r\n220 customer.test")?.hasPrefix("503 5.5.1") == true)
        #expect(customer.ended() && gateway.queue.count == 1)
    }

    @Test("the address decides where the gateway says so, with or without a login") func byAddress() throws {
        let gateway = try gateway(
            "a.test dequeue.method=atrn dequeue.atrn.requireAuthentication=false dequeue.atrn.requireAddress=203.0.113.77 delivery.when=onContact"
        )
        accept(gateway, "x@a.test")
        let stranger = ScriptedCustomer(gateway, port: 366, from: "203.0.113.78")
        stranger.hear()
        stranger.say("EHLO customer.test", until: "ATRN\r\n")
        #expect(stranger.say("ATRN a.test")?.hasPrefix("450 4.7.1") == true)
        let customer = ScriptedCustomer(gateway, port: 366)
        customer.hear()
        customer.say("EHLO customer.test", until: "ATRN\r\n")
        #expect(customer.say("ATRN a.test")?.hasPrefix("250") == true)
        customer.beginServing()
        #expect(gateway.run { customer.messages.count == 1 })
    }

    @Test("held open: new mail goes out at once, and NOOP keeps the connection") func heldOpen() throws {
        let gateway = try gateway(Self.a + " dequeue.atrn.holdOpen=true", Self.b)
        let customer = ScriptedCustomer(gateway, port: 366)
        login(customer)
        #expect(customer.say("ATRN")?.hasPrefix("250") == true)
        customer.beginServing()
        gateway.pass(seconds: 1_000)
        #expect(customer.end == nil && customer.commands.contains("NOOP"))
        for recipient in ["x@a.test", "y@b.test", "z@a.test"] {
            accept(gateway, recipient)
            #expect(gateway.run(seconds: 3) { customer.messages.last?.recipients == [recipient] })
        }
        let second = ScriptedCustomer(gateway, port: 366)
        login(second)
        #expect(second.say("ATRN")?.hasPrefix("450 4.7.0") == true)
        customer.peer.close()
        gateway.pass(seconds: 5)
        #expect(gateway.forwardSessions == 0 && gateway.queue.isEmpty)
        #expect(second.say("ATRN")?.hasPrefix("250") == true)
    }

    @Test("T-E7: a customer who vanishes in a turned session gets all of it again, or nothing twice", arguments: 0..<4)
    func vanishes(after taken: Int) throws {
        let gateway = try gateway(Self.a, cores: 1)
        accept(gateway, "m0@a.test", "m1@a.test", "m2@a.test", "m3@a.test")
        let first = ScriptedCustomer(gateway, port: 366)
        login(first)
        first.say("ATRN")
        first.contentReply = { first.messages.count < taken ? "250 2.0.0 taken" : nil }
        first.beginServing()
        gateway.pass(seconds: 5)
        #expect(first.messages.count == taken && gateway.forwardSessions == 0)
        let second = ScriptedCustomer(gateway, port: 366)
        login(second)
        #expect(second.say("ATRN")?.hasPrefix("250") == true)
        second.beginServing()
        #expect(gateway.run { second.commands.last == "QUIT" })
        let both = (first.messages + second.messages).flatMap(\.recipients).sorted()
        #expect(both == ["m0@a.test", "m1@a.test", "m2@a.test", "m3@a.test"])
        gateway.pass(seconds: 5)
        #expect(gateway.queue.isEmpty)
    }

    @Test("what the customer refuses bounces, what he defers waits for the next time") func refusals() throws {
        let gateway = try gateway(Self.a)
        accept(gateway, "x@a.test")
        let customer = ScriptedCustomer(gateway, port: 366)
        login(customer)
        customer.say("ATRN")
        customer.contentReply = { "451 4.3.0 later" }
        customer.beginServing()
        #expect(gateway.run { customer.commands.last == "QUIT" })
        gateway.pass(seconds: 2)
        #expect(gateway.queue.map(\.state) == [.deferred] || gateway.queue.count == 1)
        let again = ScriptedCustomer(gateway, port: 366)
        login(again)
        #expect(again.say("ATRN")?.hasPrefix("250") == true)
        again.contentReply = { "550 5.7.1 no" }
        again.beginServing()
        #expect(gateway.run { again.commands.last == "QUIT" })
        gateway.pass(seconds: 2)
        #expect(gateway.queue.allSatisfy { $0.domain == Gateway.systemDomain })
    }

    @Test("T-D5: guesses are counted whatever the mechanism, on every port", arguments: ["CRAM-MD5", "SCRAM-SHA-256"])
    func guesses(mechanism: String) throws {
        let gateway = try gateway(
            Self.a, Self.e.replacing("requireAuthentication=false", with: "requireAuthentication=true"), cores: 1)
        let guess = { (port: UInt16, end: String) in
            let customer = ScriptedCustomer(gateway, port: port)
            customer.hear()
            customer.say("EHLO customer.test", until: end)
            guard mechanism == "SCRAM-SHA-256" else { return login(customer, secret: "falsch", greeted: true) }
            var exchange = SASLClientExchange(.scramSHA256, user: "tim", password: "falsch", functions: .openSSL)
            let first = String(decoding: Base64.encode(exchange.initialResponse!), as: UTF8.self)
            let challenge = Array(
                (customer.say("AUTH SCRAM-SHA-256 \(first)") ?? "").utf8.dropFirst(4).prefix { $0 > 32 })
            guard let response = challenge.withUnsafeBytes({ try? exchange.respond(to: $0) }) else { return "454" }
            return customer.say(String(decoding: Base64.encode(response), as: UTF8.self))
        }
        for number in 0..<Guesses.ofClientMax {
            let reply = number % 2 == 0 ? guess(366, "ATRN\r\n") : guess(25, "\r\n")
            #expect(reply?.hasPrefix("535") == true, "\(number): \(reply ?? "nothing")")
        }
        #expect(guess(366, "ATRN\r\n")?.hasPrefix("454") == true)
        #expect(guess(25, "\r\n")?.hasPrefix("454") == true)
    }

    // MARK: ETRN

    private func etrn(_ gateway: SimulatedGateway, _ argument: String, from source: String = "203.0.113.9") -> String? {
        let client = ScriptedClient(gateway, from: source)
        client.greeting()
        client.say("EHLO customer.test")
        return client.say("ETRN \(argument)")
    }

    private static let e =
        "e.test forward.server=198.51.100.7 dequeue.method=etrn dequeue.etrn.requireAuthentication=false dequeue.etrn.allow=203.0.113.9 delivery.when=onContact"

    @Test("ETRN starts the queue: 251, 253 with the true number, and the mail goes") func starts() throws {
        let gateway = try gateway(Self.e)
        let primary = ScriptedPrimary(gateway)
        #expect(etrn(gateway, "e.test")?.hasPrefix("251 2.0.0 OK, no messages waiting for node e.test") == true)
        accept(gateway, "x@e.test", "y@e.test")
        gateway.pass(seconds: 30)
        #expect(primary.accepted.isEmpty)
        #expect(etrn(gateway, "E.Test") == "253 2.0.0 OK, 2 pending messages for node e.test started")
        #expect(gateway.run { primary.accepted.count == 2 && gateway.isIdle })
        accept(gateway, "z@e.test")
        gateway.pass(seconds: 30)
        #expect(primary.accepted.count == 2)
    }

    @Test("T-C4: a domain that is unknown, another's, or fetched another way has one answer") func notAllowed() throws {
        let gateway = try gateway(Self.e, Self.a, "plain.test forward.server=198.51.100.8")
        let answer = { (domain: String, source: String) in
            etrn(gateway, domain, from: source)?.replacing(domain, with: "DOMAIN")
        }
        let wanted = "459 4.7.1 Node DOMAIN not allowed: not yours to ask for"
        for domain in ["unknown.test", "a.test", "plain.test"] { #expect(answer(domain, "203.0.113.9") == wanted) }
        #expect(answer("e.test", "203.0.113.10") == wanted)
        try gateway.update("e.test", "dequeue.etrn.deny=203.0.113.0/24")
        gateway.pass(seconds: 1)
        #expect(answer("e.test", "203.0.113.9") == wanted)
        try gateway.update("e.test", "dequeue.etrn.requireAuthentication=true", "dequeue.etrn.deny=[]")
        gateway.pass(seconds: 1)
        #expect(etrn(gateway, "e.test")?.hasPrefix("530 5.7.0") == true)
    }

    @Test("ETRN goes to the server that the gateway names for it, or to who asks") func target() throws {
        let gateway = try gateway(Self.e + " dequeue.etrn.server=198.51.100.9 dequeue.etrn.port=2525")
        let named = ScriptedPrimary(gateway, at: "198.51.100.9", port: 2525)
        let asker = ScriptedPrimary(gateway, at: "203.0.113.9", port: 2525)
        let usual = ScriptedPrimary(gateway)
        accept(gateway, "x@e.test")
        #expect(etrn(gateway, "e.test")?.hasPrefix("253") == true)
        #expect(gateway.run { named.accepted.count == 1 && gateway.isIdle })
        try gateway.update("e.test", "dequeue.etrn.sendToRequester=true")
        gateway.pass(seconds: 3)
        accept(gateway, "y@e.test")
        #expect(etrn(gateway, "e.test")?.hasPrefix("253") == true)
        #expect(gateway.run { asker.accepted.count == 1 && gateway.isIdle })
        accept(gateway, "z@e.test")
        gateway.pass(seconds: 3)
        gateway.flush("e.test")
        #expect(gateway.run { usual.accepted.count == 1 && gateway.isIdle })
    }

    @Test("RFC 1985 §5.3: `@domain` is all below it, `#name` a customer's queues") func nodes() throws {
        let common =
            " forward.server=198.51.100.7 dequeue.method=etrn dequeue.etrn.requireAuthentication=false dequeue.etrn.allow=203.0.113.9 delivery.when=onContact dequeue.user=tim"
        let gateway = try gateway("e.test" + common, "sub.e.test" + common, "fe.test" + common)
        let primary = ScriptedPrimary(gateway)
        accept(gateway, "x@e.test", "y@sub.e.test", "z@fe.test")
        #expect(etrn(gateway, "@e.test")?.hasPrefix("253 2.0.0 OK, 2 pending messages for node @e.test") == true)
        #expect(gateway.run { primary.accepted.count == 2 })
        #expect(etrn(gateway, "#tim")?.hasPrefix("253 2.0.0 OK, 1 pending messages for node #tim") == true)
        #expect(gateway.run { primary.accepted.count == 3 })
        #expect(etrn(gateway, "#nobody")?.hasPrefix("459") == true)
    }
}
