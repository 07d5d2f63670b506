import Testing

@testable import Protocols

/// The ODMR sessions of Tests/Dialogs, uncut and cut at every byte; behind the turn our side is an SMTP client.
@Suite struct ODMRDialogTests {
    struct Outcome: Equatable {
        var said: [String] = [""]
        var events: [String] = []
        var outcomes: [SMTPHandoverOutcome] = []
        var isClosed = false
    }

    func run(_ dialog: Dialog, _ cuts: Cuts) -> Outcome {
        var settings = ODMRServerOwner.settings
        settings.requiresAuthentication = !dialog.with.contains("noauth")
        let owner = ODMRServerOwner(settings, isTLS: dialog.with.contains("tls"))
        if dialog.with.contains("nomail") { owner.domainsWithMail = [] }
        if dialog.with.contains("down") { owner.granted = nil }
        owner.isTooOften = dialog.with.contains("often")
        owner.turnsWithoutMail = dialog.with.contains("held")
        if dialog.with.contains("held") { owner.envelope = nil }
        var outcome = Outcome()
        var offset = 0
        for step in dialog.steps {
            switch step {
            case .client(let bytes):
                outcome.said[outcome.said.count - 1] += owner.take()
                outcome.said.append("")
                for piece in cuts.pieces(of: bytes, from: offset) { owner.send(piece) }
                offset += bytes.count
            case .server, .closed: break
            case .tls:
                #expect(owner.awaitsTLS)
                owner.startTLS()
            }
        }
        outcome.said[outcome.said.count - 1] += owner.take()
        (outcome.events, outcome.outcomes, outcome.isClosed) = (owner.events, owner.outcomes, owner.isClosed)
        return outcome
    }

    @Test(arguments: Dialog.all(suffix: ".odmr")) func replay(_ dialog: Dialog) {
        let whole = run(dialog, Cuts(places: []))
        #expect(whole.said.filter { !$0.isEmpty } == dialog.serverTurns)
        let isClosed = if case .closed = dialog.steps.last { true } else { false }
        #expect(whole.isClosed == isClosed)
        for cuts in Cuts.all(dialog.bytes(of: .client).count) {
            let cut = run(dialog, cuts)
            guard cut == whole else {
                Issue.record("\(cuts): \(cut), not \(whole)")
                return
            }
        }
    }
}

@Suite struct ODMRServerTests {
    private let login = "EHLO example.org\r\nAUTH PLAIN AGFsdG4udGVzdABzM2NyZXQgd29yZA==\r\n"

    private func loggedIn(_ settings: ODMRServerSettings = ODMRServerOwner.settings) -> ODMRServerOwner {
        let owner = ODMRServerOwner(settings, isTLS: true)
        owner.send(login)
        #expect(owner.take().hasSuffix("235 2.7.0 Authenticated\r\n"))
        return owner
    }

    // MARK: RFC 2645

    @Test("RFC 2645 §5.1.1: the answer to EHLO has AUTH and ATRN, in the clear and in TLS; AUTH has CRAM-MD5 (§5.1.2)")
    func capabilities() {
        for isTLS in [false, true] {
            let owner = ODMRServerOwner(isTLS: isTLS)
            _ = owner.take()
            owner.send("EHLO example.org\r\n")
            let lines = owner.take().split(separator: "\r\n").map { $0.dropFirst(4) }
            #expect(lines.contains { $0.hasPrefix("AUTH ") && $0.split(separator: " ").contains("CRAM-MD5") })
            #expect(lines.contains("ATRN") && lines.contains("STARTTLS") == !isTLS)
        }
    }

    @Test("RFC 2645 §5.2.1: ATRN without AUTH is refused with 530, before and behind EHLO, and behind a failed AUTH")
    func unauthenticated() {
        for before in ["", "EHLO x.example\r\n", "EHLO x.example\r\nAUTH PLAIN AGEAYg==\r\n"] {
            let owner = ODMRServerOwner(isTLS: true)
            owner.send(before)
            _ = owner.take()
            owner.send("ATRN\r\n")
            #expect(owner.take() == "530 5.7.0 Authentication required\r\n")
            owner.send("ATRN altn.test\r\n")
            #expect(owner.take() == "530 5.7.0 Authentication required\r\n" && !owner.isTurned)
        }
    }

    @Test("RFC 2645 §5.2.1: the decision by the letter") func decisions() throws {
        let (a, b, c) = try (
            #require(QualifiedDomain("a.test")), #require(QualifiedDomain("b.test")),
            #require(QualifiedDomain("c.test"))
        )
        func decide(
            _ requested: [QualifiedDomain], _ granted: [QualifiedDomain]?, _ withMail: Set<QualifiedDomain>,
            turnsWithoutMail: Bool = false
        ) -> ATRNDecision {
            .decide(
                requested: requested, granted: granted, turnsWithoutMail: turnsWithoutMail,
                hasMail: { withMail.contains($0) })
        }
        #expect(decide([], [a, b], [b]) == .turn([a, b]))  // no domain: all that he may have
        #expect(decide([a], [a, b], [a]) == .turn([a]))
        #expect(decide([a], [a, b], [b]) == .noMail)  // mail of one that he did not ask for doesn't count
        #expect(decide([a, b], [a, b], [b]) == .turn([a, b]))
        #expect(decide([a, c], [a, b], [a]) == .notYours)  // one that is not his: nothing for any
        #expect(decide([c], [a, b], [c]) == .notYours)
        #expect(decide([], [a, b], []) == .noMail)
        #expect(decide([], [a, b], [], turnsWithoutMail: true) == .turn([a, b]))
        #expect(decide([c], [a, b], [], turnsWithoutMail: true) == .notYours)
        #expect(decide([], [], [a]) == .notYours)
        #expect(decide([a], nil, [a]) == .cannotVerify)
        for (decision, code) in [
            (ATRNDecision.turn([a]), 250), (.noMail, 453), (.notYours, 450), (.tooOften, 450), (.cannotVerify, 451),
        ] { #expect(decision.reply.code == code) }
    }

    @Test("T-C4: a domain that is another's is never asked about, nor one that does not exist told from it")
    func others() {
        let owner = loggedIn()
        for domain in ["example.com", "nowhere.test", "altn.test,example.com"] {
            owner.send("ATRN \(domain)\r\n")
            #expect(owner.take() == "450 4.7.1 ATRN request refused\r\n")
        }
        #expect(!owner.isTurned)
    }

    @Test(
        "RFC 2645 §5.2.1: what is no list of domains gets 501",
        arguments: [
            "ATRN ,", "ATRN altn.test,", "ATRN ,altn.test", "ATRN altn.test altn2.test", "ATRN altn.test, altn2.test",
            "ATRN test",
            "ATRN -a.test", "ATRN a-.test", "ATRN a..test", "ATRN altn.test.", "ATRN .test", "ATRN [192.0.2.1]",
            "ATRN a_b.test", "ATRN bücher.test", "ATRN *.test", "ATRN ../x.test", "ATRN a'b.test", "ATRN a\u{1}.test",
            "ATRN \(String(repeating: "a", count: 64)).test",
            "ATRN " + Array(repeating: "altn.test", count: 251).joined(separator: ","),
        ])
    func malformedDomains(_ command: String) {
        let owner = loggedIn()
        owner.send(command + "\r\n")
        #expect(owner.take().hasPrefix("501 5.5.") && !owner.isTurned)
    }

    @Test("RFC 2645 §5.2.1: names in any case, each once; a long list fits") func lists() throws {
        let owner = loggedIn()
        owner.send("ATRN ALTN.Test,altn2.test,altn.test\r\n")
        #expect(owner.take().hasPrefix("250 ") && owner.events.last == "turned altn.test,altn2.test")
        var session = ODMRServerSession(
            settings: ODMRServerOwner.settings, offer: SASLOffer(context: SASLDirectory().context), isTLS: true)
        var output = ByteOutput()
        session.greet(into: &output)
        let names = (0..<250).map { "customer-number-\($0).test" }
        var input = Array((login + "ATRN \(names.joined(separator: ","))\r\n").utf8)
        while true {
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            input.removeFirst(consumed)
            if case .ask(let question) = event { session.answer(SASLDirectory().answer(question), into: &output) }
            if case .turn(let user, let domains) = event {
                #expect(user == "altn.test" && domains.map(\.description) == names)
                return
            }
            try #require(event != .needMore && event != .hangUp)
        }
    }

    @Test("D-1: without AUTH only where the site says so, and then without a user") func withoutAuthentication() {
        var settings = ODMRServerOwner.settings
        settings.requiresAuthentication = false
        let owner = ODMRServerOwner(settings)
        owner.send("EHLO example.org\r\nATRN\r\n")
        #expect(owner.take().hasSuffix("250 2.0.0 OK, now reversing the connection\r\n"))
        #expect(owner.events == ["hello example.org", "turned altn.test"])
    }

    @Test("D-17: what comes behind ATRN before its answer is never the customer's greeting") func early() {
        let owner = loggedIn()
        owner.send("ATRN\r\n220 smuggled\r\n")
        #expect(owner.take() == "503 5.5.1 Nothing may follow ATRN before its answer, closing\r\n")
        #expect(owner.isClosed && !owner.isTurned)
        // A refused ATRN may have a QUIT behind it.
        let other = loggedIn()
        other.domainsWithMail = []
        other.send("ATRN\r\nQUIT\r\n")
        #expect(other.take() == "453 4.2.0 You have no mail\r\n221 2.0.0 Bye\r\n")
        // Or it has come, and the owner did not present it.
        var session = ODMRServerSession(
            settings: ODMRServerOwner.settings, offer: SASLOffer(context: SASLDirectory().context), isTLS: true)
        var output = ByteOutput()
        session.greet(into: &output)
        var input = Array((login + "ATRN\r\n").utf8)
        var isOver = false
        while !isOver {
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            input.removeFirst(consumed)
            switch event {
            case .ask(let question): session.answer(SASLDirectory().answer(question), into: &output)
            case .turn: session.answerTurn(.turn([QualifiedDomain("altn.test")!]), earlyBytes: 3, into: &output)
            case .hangUp, .needMore, .turned: isOver = true
            default: break
            }
            if isOver { #expect(event == .hangUp) }
        }
    }

    @Test("T-E7: a customer who turns and then is silent, or answers garbage, has taken nothing") func garbage() {
        for answer in [
            "250 nonsense\r\n", "\0\0\0\0\r\n", "554 go away\r\n", "220 hi\r\n500 no\r\n500 no\r\n",
            String(repeating: "x", count: 9_000),
        ] {
            let owner = loggedIn()
            owner.send("ATRN\r\n")
            owner.send(answer)
            #expect(owner.isClosed && owner.outcomes.allSatisfy { $0.recipients.allSatisfy { !$0.reply.isPositive } })
        }
        let silent = loggedIn()
        silent.send("ATRN\r\n")
        silent.send("220 ")
        #expect(silent.clientPhase == .greeting && SMTPClientSession.Phase.greeting.timeoutSeconds == 300)
        silent.client.timedOut()
        silent.send("")
        #expect(silent.isClosed && silent.outcomes.isEmpty)
    }

    @Test("T-D5, T-D6: attempts, commands and lines are bounded") func bounds() {
        let guessing = ODMRServerOwner(isTLS: true)
        guessing.send("EHLO x\r\n" + String(repeating: "AUTH PLAIN AGEAYg==\r\n", count: 50))
        #expect(
            guessing.isClosed
                && guessing.take().hasSuffix(
                    "535 5.7.8 Authentication failed\r\n421 4.7.0 Too many errors, closing\r\n")
        )
        let idling = ODMRServerOwner(isTLS: true)
        idling.send(String(repeating: "NOOP\r\n", count: 200))
        #expect(idling.isClosed)
        let asking = loggedIn()
        asking.send(String(repeating: "ATRN other.test\r\n", count: 50))
        #expect(asking.isClosed)
        let long = ODMRServerOwner()
        long.send("NOOP " + String(repeating: "x", count: 20_000) + "\r\n")
        #expect(long.take().hasSuffix("500 5.5.2 Line too long\r\n") && !long.isClosed)
        long.send("EHLO " + String(repeating: "x", count: 100_000))
        #expect(long.isClosed)
        let response = ODMRServerOwner(isTLS: true)
        response.send("EHLO x\r\nAUTH PLAIN\r\n" + String(repeating: "A", count: 12_288) + "\r\nNOOP\r\n")
        #expect(response.take().hasSuffix("500 5.5.6 Response is too long\r\n250 2.0.0 Ok\r\n"))
    }

    @Test("RFC 2645 §5.2.1: phases wait long enough") func phases() {
        #expect(ODMRServerSession.Phase.authenticated.timeoutSeconds >= 300)
        let owner = loggedIn()
        #expect(owner.phase == .authenticated)
        owner.send("ATRN\r\n")
        #expect(owner.phase == .turned)
    }
}

@Suite struct ETRNTests {
    private func request(_ text: String) throws(ETRNReply) -> ETRNRequest {
        try ETRNRequest(argument: Array(text.utf8))
    }

    @Test("RFC 1985 §5, §5.3: a node, all below a node, a queue; and back") func requests() throws {
        #expect(try request("sigurd.InnoSoft.com") == .domain(#require(QualifiedDomain("sigurd.innosoft.com"))))
        #expect(try request("@foo.com") == .subtree(#require(QualifiedDomain("foo.com"))))
        #expect(try request("#uucp") == .queue("uucp"))
        for text in ["a.b", "@a.b.c", "#q_1.x-y"] { #expect(try request(text).description == text) }
    }

    @Test(
        "RFC 1985 §5.1: what is no node gets 501, also @ of a top-level domain (§8), an address, T-C4's quotes",
        arguments: [
            "localname", "@com", "@", "#", "# q", "#a'b", "[192.0.2.1]", "a..b", "a.b.", "-a.b", "a b", "a.b c",
            "@@a.b",
            "a'); DROP TABLE x;--.test", "ü.test", "a\u{0}.b", "#" + String(repeating: "q", count: 65),
            String(repeating: "a.", count: 127) + "aa",
        ])
    func malformed(_ text: String) { #expect(throws: ETRNReply.malformedArgument) { try request(text) } }

    @Test("RFC 1985 §5.3: @foo.com is foo.com and what ends in it, by labels") func subtree() throws {
        let foo = try #require(QualifiedDomain("foo.com"))
        for (text, isWithin) in [
            ("foo.com", true), ("fred.foo.com", true), ("a.b.c.d.e.f.g.foo.com", true), ("xfoo.com", false),
            ("foo.com.x", false),
        ] {
            #expect(try #require(QualifiedDomain(text)).isWithin(foo) == isWithin)
        }
    }

    @Test("RFC 1985 §5.1, §7: each answer has its code and text; 459 says the same of every domain") func replies()
        throws
    {
        let node = try request("mysoft.com")
        let table: [(ETRNReply, String)] = [
            (.started(node), "250 2.0.0 OK, queuing for node mysoft.com started"),
            (.nothingWaits(node), "251 2.0.0 OK, no messages waiting for node mysoft.com"),
            (.pendingStarted(node), "252 2.0.0 OK, pending messages for node mysoft.com started"),
            (.pendingCountStarted(14, node), "253 2.0.0 OK, 14 pending messages for node mysoft.com started"),
            (.unable(node), "458 4.3.0 Unable to queue messages for node mysoft.com"),
            (.notAllowed(node), "459 4.7.1 Node mysoft.com not allowed: not yours to ask for"),
            (.missingArgument, "500 5.5.2 Syntax: ETRN [@|#]node"),
            (.malformedArgument, "501 5.5.4 Syntax: ETRN [@|#]node, a domain name in full"),
            (.outOfOrder, "503 5.5.1 Say EHLO first, and not in a transaction"),
            (.authenticationRequired, "530 5.7.0 Authentication required"),
        ]
        for (reply, text) in table { #expect(reply.reply.description == text) }
        #expect(throws: ETRNReply.missingArgument) { try request("") }
        // The longest node fits a reply line (RFC 5321 §4.5.3.1.5).
        let long = String(String(repeating: String(repeating: "a", count: 62) + ".", count: 4).dropLast())
        for reply in [ETRNReply.pendingCountStarted(.max, try request("@" + long)), .notAllowed(try request(long))] {
            var output = ByteOutput()
            reply.reply.write(into: &output)
            #expect(output.count <= 512)
        }
    }
}
