import Testing

@testable import Protocols

@Suite struct POP3ServerTests {
    // MARK: RFC 1939

    @Test("RFC 1939 §3: replies are +OK or -ERR, and no longer than 512 octets") func replyLength() {
        for code in POP3Refusal.Code.allCases {
            var output = ByteOutput()
            POP3Refusal(code, String(repeating: "x", count: 200)).write(into: &output)
            #expect(output.count <= 512)
        }
        let owner = POP3ServerOwner.loggedIn()
        owner.send("STAT\r\nLIST 1\r\nUIDL 1\r\nNOOP\r\nFOO\r\nRSET\r\nDELE 7\r\nDELE 1\r\n")
        for line in owner.take().split(separator: "\r\n") {
            #expect((line.hasPrefix("+OK") || line.hasPrefix("-ERR")) && line.utf8.count <= 510)
        }
    }

    @Test("RFC 1939 §3: an idle session is kept for ten minutes at least, and ends without a word and without UPDATE")
    func autologout() {
        for phase in [POP3ServerSession.Phase.authorization, .transaction] { #expect(phase.timeoutSeconds >= 600) }
        let owner = POP3ServerOwner.loggedIn()
        owner.send("DELE 1\r\n")
        owner.output.removeAll()
        owner.session.timedOut()
        owner.send("")
        #expect(owner.replies.isEmpty && owner.isClosed && owner.removed.isEmpty && !owner.events.contains("update"))
    }

    @Test("T-E8: a connection that breaks off, is aborted or makes too many errors has deleted nothing") func lost() {
        let owner = POP3ServerOwner.loggedIn()
        owner.send("DELE 1\r\nDELE 2\r\nQUI")
        #expect(owner.events == ["delete", "delete"] && owner.removed.isEmpty)
        let other = POP3ServerOwner.loggedIn()
        other.send("DELE 1\r\n" + String(repeating: "FOO\r\n", count: 100) + "QUIT\r\n")
        #expect(other.isClosed && other.removed.isEmpty)
        #expect(other.take().split(separator: "\r\n").count == 1 + POP3ServerOwner.settings.errorsMax)
        let third = POP3ServerOwner.loggedIn()
        third.send("DELE 1\r\n")
        third.session.abort()
        third.send("QUIT\r\n")
        #expect(third.isClosed && third.removed.isEmpty)
    }

    @Test("RFC 1939 §6: QUIT deletes what is marked then, and nothing else") func update() {
        let owner = POP3ServerOwner.loggedIn()
        owner.send("RETR 1\r\nDELE 1\r\nRSET\r\nDELE 2\r\nQUIT\r\n")
        #expect(owner.removed == ["3fG7x9"])
        let other = POP3ServerOwner.loggedIn()
        other.send("RETR 1\r\nDELE 1\r\nRSET\r\nQUIT\r\n")
        #expect(other.removed.isEmpty && !other.events.contains("update"))
    }

    @Test("RFC 1939 §11: the size is what comes, without terminator and stuffed dots") func sizes() {
        for content in ["", "x", "\r\n", "a: b\r\n\r\n.", "a: b\r\n\r\n.\r\n..\r\n...", ".\r\n", "a\r\n", "a\r\n.b"] {
            let stored = POP3Stored("id", content)
            let owner = POP3ServerOwner.loggedIn(messages: [stored])
            owner.send("LIST 1\r\nRETR 1\r\n")
            let text = owner.take()
            let size = stored.presented.count
            let head = "+OK 1 \(size)\r\n+OK \(size) octets\r\n"
            #expect(text.hasPrefix(head) && text.hasSuffix("\r\n.\r\n"))
            let lines = text.dropFirst(head.count).dropLast(2).split(
                separator: "\r\n", omittingEmptySubsequences: false)
            let unstuffed = lines.map { $0.hasPrefix(".") ? $0.dropFirst() : $0 }.joined(separator: "\r\n")
            #expect(Array(unstuffed.utf8) == stored.presented, "\(content.debugDescription)")
        }
    }

    @Test("The prefix: Return-Path and one Delivered-To for each recipient, with its size known beforehand")
    func prefix() {
        for recipients in [[], ["a@b.example"], ["a@b.example", "ö@ö.example"]] {
            let prefix = MailboxPrefix(reversePath: "", recipients: recipients)
            var output = ByteOutput()
            prefix.write(into: &output)
            #expect(output.count == prefix.count)
            #expect(
                String(decoding: output.bytes, as: UTF8.self)
                    == "Return-Path: <>\r\n" + recipients.map { "Delivered-To: \($0)\r\n" }.joined())
        }
    }

    @Test("RFC 1939 §7: a password may hold spaces, also at its end; RFC 2449 §4: a command has 255 octets")
    func passwords() {
        let password = " a  b "
        let owner = POP3ServerOwner(isTLS: true)
        owner.send("USER altn.test\r\nPASS \(password)\r\n")
        #expect(owner.take().hasSuffix("-ERR [AUTH] Authentication failed\r\n"))
        owner.send("USER altn.test\r\nPASS s3cret word \r\n")
        #expect(owner.take().hasSuffix("-ERR [AUTH] Authentication failed\r\n"))
        owner.send("USER altn.test\r\nPASS s3cret word\r\nNOOP" + String(repeating: " ", count: 249) + "\r\n")
        #expect(owner.take().hasSuffix("octets)\r\n+OK\r\n"))
    }

    @Test(
        "RFC 1939 §7: TOP, as a plain reader has it, however it comes in chunks", arguments: [0, 1, 2, 3, 99, Int.max])
    func top(_ lines: Int) {
        for content in [
            "", "\r\n", "a: b", "a: b\r\n", "a: b\r\n\r\n", "a: b\r\n\r\n.\r\n..x\r\n\r\ny", "\r\n\r\n.\r\n",
            "a: b\r\n\r\nx\r\ny\r\nz\r\n",
            ".a: b\r\n\r\n.",
        ] {
            var all = content.components("\r\n")
            if content.hasSuffix("\r\n") || content.isEmpty { all.removeLast() }
            let headerEnd = all.firstIndex(of: "").map { $0 + 1 } ?? all.count
            let kept = all[..<(headerEnd + min(lines, all.count - headerEnd))]
            let expected = kept.map { ($0.hasPrefix(".") ? "." : "") + $0 + "\r\n" }.joined() + ".\r\n"
            let bytes = Array(content.utf8)
            for size in 1...max(bytes.count, 1) {
                var cutter = POP3TopCutter(bodyLines: lines)
                var output = ByteOutput()
                var rest = bytes[...]
                while !rest.isEmpty {
                    let chunk = Array(rest.prefix(size))
                    rest = rest.dropFirst(size)
                    guard chunk.withUnsafeBytes({ cutter.append($0, into: &output) }) else { break }
                }
                cutter.finish(into: &output)
                #expect(
                    String(decoding: output.bytes, as: UTF8.self) == expected, "\(content.debugDescription), \(size)")
            }
        }
    }

    @Test("A maildrop of 100,000 messages: lists wait for the peer, and are whole") func largeMaildrop() {
        let count = 100_000
        var session = POP3ServerSession(
            settings: POP3ServerOwner.settings, offer: SASLOffer(context: SASLDirectory().context), isTLS: true)
        var output = ByteOutput()
        session.greet(timestamp: nil, into: &output)
        var input = Array("USER altn.test\r\nPASS s3cret word\r\nDELE 7\r\nLIST\r\nUIDL\r\nSTAT\r\n".utf8)
        var (listed, ids, most, text) = (0, 0, 0, [UInt8]())
        loop: while true {
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            input.removeFirst(consumed)
            most = max(most, output.count)
            switch event {
            case .needMore: break loop
            case .outputFull:
                text += output.array
                output.removeAll()
            case .ask(let question): session.answer(SASLDirectory().answer(question), into: &output)
            case .login: session.open(POP3Maildrop(sizes: (1...count).map { $0 * 1_000 }), into: &output)
            case .delete: session.acceptDelete(into: &output)
            case .uniqueID(let message):
                ids += 1
                session.giveUniqueID("id\(message)".utf8, into: &output)
            default: Issue.record("\(event)")
            }
        }
        text += output.array
        listed = text.split(separator: 10).count
        #expect(ids == count - 1 && most <= POP3ServerOwner.settings.outputPauseBytes + 100)
        // Greeting, USER, PASS, DELE, two lists with head and end, STAT.
        #expect(listed == 2 * (count - 1) + 9)
        let size = count * (count + 1) / 2 * 1_000 - 7_000
        #expect(String(decoding: text.suffix(40), as: UTF8.self).hasSuffix("+OK \(count - 1) \(size)\r\n"))
    }

    // MARK: RFC 2449, RFC 5034

    @Test("RFC 2449 §6.5, §6.7: EXPIRE and LOGIN-DELAY only where they are true, the worst case before login")
    func expire() {
        var settings = POP3ServerOwner.settings
        (settings.retention, settings.loginDelaySeconds) = (.days(5), 60)
        let owner = POP3ServerOwner.loggedIn(settings)
        owner.send("CAPA\r\n")
        #expect(owner.take().contains("\r\nEXPIRE 5\r\nLOGIN-DELAY 60\r\n"))
        let before = POP3ServerOwner(settings)
        before.send("CAPA\r\n")
        #expect(before.take().contains("\r\nEXPIRE 5 USER\r\n"))
        let none = POP3ServerOwner.loggedIn()
        none.send("CAPA\r\n")
        #expect(!none.replies.contains("EXPIRE") && !none.replies.contains("LOGIN-DELAY"))
        #expect(none.take().contains("\r\nIMPLEMENTATION Postern\r\n"))
    }

    @Test("RFC 5034 §4: SCRAM-SHA-256 over POP3, in the clear, with its last word as a challenge") func scram() throws {
        let owner = POP3ServerOwner()
        _ = owner.take()
        var client = SASLClientExchange(
            .scramSHA256, user: SASLDirectory.user, password: SASLDirectory.password, functions: .testing())
        owner.send(Array("AUTH SCRAM-SHA-256 ".utf8) + Base64.encode(client.initialResponse ?? []) + [13, 10])
        for _ in 0..<2 {
            let challenge = owner.take()
            #expect(challenge.hasPrefix("+ ") && challenge.hasSuffix("\r\n"))
            let response = try Array(challenge.dropFirst(2).dropLast().utf8).withUnsafeBytes {
                try client.respond(to: $0)
            }
            owner.send(Base64.encode(response) + [13, 10])
        }
        #expect(owner.take().hasPrefix("+OK Maildrop") && client.isComplete)
    }

    @Test("RFC 5034 §4: responses may be longer than commands, up to a limit") func responseLength() {
        let owner = POP3ServerOwner(isTLS: true)
        owner.send("AUTH PLAIN\r\n" + String(repeating: "A", count: 12_284) + "\r\n")
        #expect(owner.take().hasSuffix("-ERR Malformed response\r\n"))
        owner.send("AUTH PLAIN\r\n" + String(repeating: "A", count: 12_288) + "\r\nCAPA\r\n")
        #expect(owner.take().contains("-ERR Malformed response\r\n+OK Capabilities"))
    }

    // MARK: Hostile peers

    @Test("T-D5: attempts, commands and lines before login are bounded") func bounds() {
        let guessing = POP3ServerOwner(isTLS: true)
        for _ in 0..<9 { guessing.send("USER altn.test\r\nPASS x\r\n") }
        #expect(guessing.isClosed && guessing.events.count { $0 == "ask" } == 3)
        #expect(guessing.shouldDelayReplies)

        let idling = POP3ServerOwner(isTLS: true)
        idling.send(String(repeating: "CAPA\r\n", count: 100))
        #expect(idling.isClosed && idling.take().hasSuffix("-ERR Too many commands, closing\r\n"))

        let long = POP3ServerOwner(isTLS: true)
        _ = long.take()
        long.send("NOOP " + String(repeating: "x", count: 60_000) + "\r\nCAPA\r\n")
        #expect(long.take().hasPrefix("-ERR Line is too long\r\n+OK "))
        long.send(String(repeating: "x", count: 70_000))
        #expect(long.isClosed)
    }

    @Test("T-D5: a directory that is down is no failed attempt") func unavailable() {
        let owner = POP3ServerOwner(isTLS: true)
        owner.directory.isAvailable = false
        for _ in 0..<5 { owner.send("USER altn.test\r\nPASS x\r\n") }
        #expect(!owner.isClosed && owner.failedLoginCount == 0)
    }

    @Test("Where an over-long line is cut doesn't decide how the session goes on") func overlongLines() {
        for count in 504...507 {
            let bytes = Array(("NOOP " + String(repeating: "x", count: count) + "\r\nCAPA\r\n").utf8)
            func outcome(_ pieces: [[UInt8]]) -> String {
                let owner = POP3ServerOwner()
                for piece in pieces { owner.send(piece) }
                return owner.replies + "\(owner.isClosed)"
            }
            let whole = outcome([bytes])
            for place in 1..<bytes.count {
                #expect(outcome([Array(bytes[..<place]), Array(bytes[place...])]) == whole)
            }
            #expect(outcome(bytes.map { [$0] }) == whole)
        }
    }

    @Test("A session that is refused in the greeting is over") func refusedSession() {
        var session = POP3ServerSession(
            settings: POP3ServerSettings(), offer: SASLOffer(context: SASLDirectory().context))
        var output = ByteOutput()
        session.refuseSession(.tooManySessions, into: &output)
        #expect(String(decoding: output.bytes, as: UTF8.self) == "-ERR [SYS/TEMP] Too many sessions, try later\r\n")
        var consumed = 0
        #expect(
            Array("CAPA\r\n".utf8).withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) } == .hangUp)
    }
}

extension String {
    /// Split at `separator`, which is one character or several.
    fileprivate func components(_ separator: String) -> [String] {
        split(separator: separator, omittingEmptySubsequences: false).map(String.init)
    }
}
