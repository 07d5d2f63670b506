import Testing

@testable import Protocols

private typealias Owner = SMTPServerOwner
private let settings = SMTPServerOwner.settings
private let envelope = SMTPServerOwner.envelope

private func started(_ settings: SMTPServerSettings = settings, in commands: String = "") -> Owner {
    Owner.started(settings, in: commands)
}

@Suite struct SMTPServerCommandTests {
    /// RFC 5321 §D.1.
    @Test func typicalSession() {
        let owner = Owner(settings)
        owner.send("EHLO bar.com\r\nMAIL FROM:<Smith@bar.com>\r\nRCPT TO:<Jones@foo.com>\r\n")
        owner.send("RCPT TO:<no@foo.com>\r\nRCPT TO:<Brown@foo.com>\r\nDATA\r\n")
        owner.send("Blah blah blah...\r\n...etc. etc. etc.\r\n.\r\nQUIT\r\n")
        let expected = [
            "220 mx.example ESMTP Postern", "250-mx.example", "250-PIPELINING", "250-SIZE 52428800", "250-STARTTLS",
            "250-8BITMIME", "250-SMTPUTF8", "250-CHUNKING", "250-ENHANCEDSTATUSCODES", "250-DSN",
            "250 LIMITS RCPTMAX=1000 MAILMAX=1000", "250 2.1.0 Sender ok", "250 2.1.5 Recipient ok",
            "550 5.1.1 no such user", "250 2.1.5 Recipient ok", "354 End data with <CRLF>.<CRLF>", "250 2.0.0 queued",
            "221 2.0.0 Bye", "",
        ]
        #expect(owner.replies == expected.joined(separator: "\r\n"))
        #expect(
            owner.events == [
                "ehlo:bar.com", "mail:Smith@bar.com", "rcpt:Jones@foo.com", "rcpt:no@foo.com", "rcpt:Brown@foo.com",
                "content", "end", "quit",
            ])
        #expect(owner.messages.count == 1)
        #expect(owner.messages.first?.content == [UInt8]("Blah blah blah...\r\n..etc. etc. etc.\r\n".utf8))
        #expect(owner.messages.first?.dots == 1)
    }

    /// A dialogue has the same outcome however it is cut.
    @Test func everySplit() {
        let dialogue =
            "EHLO c\r\nNOOP\r\n" + envelope + "DATA\r\nA: b\r\n\r\n.\r\n..\r\n...x\r\n\r\n.\r\n"
            + envelope + "BDAT 9\r\n.a\r\n\r\n.b\rBDAT 5 LAST\r\n\nc\r\n." + envelope + "RSET\r\nRCPT TO:<x@y>\r\n"
            + envelope + "EHLO d\r\nfoo\r\nMAIL FROM:<>\r\nRCPT TO:<no@d>\r\nBDAT 4 LAST\r\nQUITQUIT\r\n"
        let bytes = [UInt8](dialogue.utf8)
        let whole = Owner(settings)
        whole.send(bytes)
        #expect(whole.isClosed)
        #expect(whole.messages.count == 2)
        #expect(whole.messages.last?.content == [UInt8](".a\r\n\r\n.b\r\nc\r\n.".utf8))
        #expect(whole.messages.last?.dots == 3)
        #expect(whole.messages.last?.endsWithCRLF == false)
        func check(_ owner: Owner, _ what: String) {
            #expect(owner.replies == whole.replies, "\(what)")
            #expect(owner.events == whole.events, "\(what)")
            #expect(owner.messages.map(\.content) == whole.messages.map(\.content), "\(what)")
            #expect(owner.messages.map(\.dots) == whole.messages.map(\.dots), "\(what)")
        }
        for cut in 1..<bytes.count {
            let owner = Owner(settings)
            owner.send(Array(bytes[..<cut]))
            owner.send(Array(bytes[cut...]))
            check(owner, "cut at \(cut)")
        }
        for step in 1...7 {
            let owner = Owner(settings)
            for start in stride(from: 0, to: bytes.count, by: step) {
                owner.send(Array(bytes[start..<min(start + step, bytes.count)]))
            }
            check(owner, "steps of \(step)")
        }
    }

    /// The owner may also leave consumed bytes in `input` and go on behind them.
    @Test func consumedIsACursor() {
        var session = SMTPServerSession(settings: settings)
        var output = ByteOutput()
        session.greet(into: &output)
        let bytes = [UInt8]("HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.y\r\n.\r\nNOO".utf8)
        var consumed = 0
        var content: [UInt8] = []
        loop: while true {
            switch bytes.withUnsafeBytes({ session.next($0, consumed: &consumed, into: &output) }) {
            case .needMore: break loop
            case .mail: session.acceptMail(into: &output)
            case .recipient: session.acceptRecipient(into: &output)
            case .data: session.startContent(into: &output)
            case .content(let range): content += bytes[range]
            case .endOfContent: session.finishContent(Reply(250, nil, "ok"), into: &output)
            default: break
            }
        }
        #expect(content == [UInt8]("x\r\ny\r\n".utf8))
        #expect(consumed == bytes.count - 3)
    }

    @Test func verbValuesSpellTheirNames() {
        for verb in SMTPVerb.allCases {
            let packed = Array("\(verb)".uppercased().utf8).withUnsafeBytes { SMTPLineCursor.packed($0) }
            #expect(packed == verb.rawValue)
        }
    }

    @Test func hello() {
        let owner = Owner(settings)
        owner.send("HELO a\r\nhelo [1.2.3.4]\r\nEHLO Canon MX\r\nEHLO\r\nEHLO \u{e9}\r\nHELO a\tb\r\n")
        owner.send("EHLO \(String(repeating: "a", count: 255))\r\nEHLO \(String(repeating: "a", count: 256))\r\n")
        #expect(owner.codes() == ["220", "250", "250", "250", "501", "501", "501", "250", "501"])
        #expect(owner.events.prefix(3) == ["helo:a", "helo:[1.2.3.4]", "ehlo:Canon MX"])
    }

    @Test func commandsOutOfOrder() {
        let owner = Owner(settings)
        owner.send("MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\nSTARTTLS\r\nNOOP\r\nRSET\r\nHELP\r\nVRFY a\r\n")
        #expect(owner.codes() == ["220", "503", "503", "503", "503", "250", "250", "214", "252"])
        owner.send("EHLO c\r\nDATA\r\nRCPT TO:<a@b>\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nDATA\r\n")
        #expect(owner.codes() == ["250", "503", "503", "250", "503", "554"])
        #expect(owner.events.last == "reset")
        owner.send("MAIL FROM:<a@b>\r\nSTARTTLS\r\nRCPT TO:<c@d>\r\n")
        #expect(owner.codes() == ["250", "503", "250"])
    }

    @Test func otherCommands() {
        var owner = started()
        owner.send("EXPN a\r\nETRN a\r\nATRN\r\nAUTH PLAIN\r\nTURN\r\nXCLIENT NAME=a\r\nVRFY\r\n\r\nNOOP x y\r\n")
        #expect(owner.codes() == ["502", "502", "502", "502", "500", "502", "501", "500", "250"])
        owner = started()
        owner.send("DATA x\r\nRSET x\r\nQUIT x\r\nSTARTTLS x\r\nnoop \t \r\nMAILX\r\nSTARTTLSX\r\n8\r\n")
        #expect(owner.codes() == ["503", "501", "501", "501", "250", "500", "500", "500"])
        owner.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(owner.codes() == ["421"])
        #expect(owner.isClosed)
    }

    /// RFC 5321 §4.1.4: a refused EHLO leaves everything as it was.
    @Test func refusedHelloKeepsTheTransaction() {
        let owner = started(in: envelope)
        owner.send("EHLO\r\n")
        #expect(owner.isInTransaction)
        owner.send("RSET x\r\n")
        #expect(owner.isInTransaction)
        owner.send("EHLO x\r\n")
        #expect(!owner.isInTransaction)
        #expect(owner.events == ["reset", "ehlo:x"])
    }

    /// RFC 5321 §3.1.
    @Test func refusedSession() {
        func refused(_ code: Int, _ text: String) -> (String, Bool) {
            var session = SMTPServerSession(settings: settings)
            var output = ByteOutput()
            session.refuseSession(Reply(code, EnhancedStatus(code / 100, 7, 1), "no"), into: &output)
            let bytes = [UInt8](text.utf8)
            var consumed = 0
            var isClosed = false
            loop: while true {
                switch bytes.withUnsafeBytes({ session.next($0, consumed: &consumed, into: &output) }) {
                case .needMore: break loop
                case .quit, .hangUp:
                    isClosed = true
                    break loop
                default: Issue.record("an event of a refused session")
                }
            }
            let lines = String(decoding: output.bytes, as: UTF8.self).split(separator: "\r\n")
            return (lines.map { $0.prefix(3) }.joined(separator: " "), isClosed)
        }
        #expect(refused(554, "EHLO a\r\nMAIL FROM:<a@b>\r\nNOOP\r\n") == ("554 503 503 503", false))
        #expect(refused(554, "EHLO a\r\nQUIT\r\n") == ("554 503 221", true))
        #expect(refused(421, "EHLO a\r\n") == ("421", true))
        // An over-long line is no way out.
        let long = String(repeating: "x", count: 5_000)
        #expect(refused(554, "\(long)\r\nEHLO a\r\n") == ("554 500 503", false))
        // Octets that follow are none: every line is one more error.
        #expect(refused(554, "BDAT 3\r\nabcRSET\r\n") == ("554 503 503", false))
    }

    @Test func paths() {
        func code(_ command: String, in commands: String = "") -> String {
            let owner = started(in: commands)
            owner.send(command + "\r\n")
            return owner.replies.split(separator: " ").prefix(2).joined(separator: " ")
        }
        let mail = "MAIL FROM:<a@b>\r\n"
        #expect(code("MAIL FROM:<>") == "250 2.1.0")
        #expect(code("mail from:<a@b> ") == "250 2.1.0")
        #expect(code("MAIL FROM: <a@b>") == "250 2.1.0")
        #expect(code("MAIL FROM:  <a@b>") == "501 5.1.7")
        #expect(code("MAIL FROM:a@b") == "501 5.1.7")
        #expect(code("MAIL FROM:<a@b") == "501 5.1.7")
        #expect(code("MAIL FROM:<a@b>SIZE=1") == "501 5.5.4")
        #expect(code("MAIL FROM:") == "501 5.1.7")
        #expect(code("MAIL") == "501 5.5.4")
        #expect(code("MAIL TO:<a@b>") == "501 5.5.4")
        #expect(code("MAIL FROM:<a>") == "553 5.1.7")
        #expect(code("MAIL FROM:<Postmaster>") == "553 5.1.7")
        #expect(code("MAIL FROM:<\(String(repeating: "a", count: 300))@b>") == "501 5.1.7")
        #expect(code("RCPT TO:<>", in: mail) == "501 5.1.3")
        #expect(code("RCPT TO:<Postmaster>", in: mail) == "250 2.1.5")
        #expect(code("RCPT TO:<c@d> X=1", in: mail) == "555 5.5.4")
        #expect(code("RCPT TO:c@d", in: mail) == "501 5.1.3")
        #expect(code("RCPT TO:<c>", in: mail) == "553 5.1.3")
        #expect(code("RCPT TO:<c@d.>", in: mail) == "501 5.1.3")
        #expect(code("RCPT TO:<c@[127.0.0.1]>", in: mail) == "250 2.1.5")
    }

    /// RFC 6531 §3.5, §3.7.4.2.
    @Test func internationalAddressesNeedSMTPUTF8() {
        let owner = started()
        owner.send("MAIL FROM:<δ@b>\r\nMAIL FROM:<a@b>\r\nRCPT TO:<δ@b>\r\nRSET\r\n")
        #expect(owner.codes() == ["550", "250", "553", "250"])
        owner.send("MAIL FROM:<δ@b> SMTPUTF8\r\nRCPT TO:<δ@b>\r\n")
        #expect(owner.codes() == ["250", "250"])
        owner.send("VRFY δ\r\nVRFY δ SMTPUTF8\r\nVRFY a\r\n")
        #expect(owner.codes() == ["550", "252", "252"])
    }

    @Test func settingsAppearInEHLO() {
        var owner = Owner(settings, isTLS: true)
        owner.send("EHLO a\r\nSTARTTLS\r\n")
        #expect(!owner.replies.contains("250-STARTTLS"))
        #expect(owner.replies.contains("503 5.5.1 TLS"))
        var plain = settings
        plain.offersStartTLS = false
        plain.offersXClient = true
        owner = Owner(plain)
        owner.send("EHLO a\r\nSTARTTLS\r\n")
        #expect(!owner.replies.contains("250-STARTTLS"))
        #expect(owner.replies.contains("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n"))
        #expect(owner.replies.hasSuffix("502 5.5.1 Command not implemented\r\n"))
    }

    @Test("T-B1: plaintext behind STARTTLS is dropped")
    func injectionBehindStartTLS() {
        let owner = started()
        owner.send("STARTTLS\r\nEHLO injected\r\nMAIL FROM:<a@b>\r\n")
        #expect(owner.codes() == ["220"])
        #expect(owner.events == ["tls"])
    }

    @Test("T-B2: nothing is remembered over STARTTLS")
    func stateOverStartTLS() {
        let owner = started()
        owner.send("STARTTLS\r\n")
        #expect(owner.codes() == ["220"])
        #expect(owner.session.phase == .hello)
        owner.send("MAIL FROM:<a@b>\r\nSTARTTLS\r\nEHLO a\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\n")
        #expect(owner.codes() == ["503", "503", "250", "503", "250"])
    }

    @Test("T-C3: XCLIENT begins the conversation anew")
    func xclient() {
        var offering = settings
        offering.offersXClient = true
        let owner = started(offering)
        owner.send("XCLIENT NAME=spike.example ADDR=IPV6:2001:db8::1 PORT=25 LOGIN=[UNAVAILABLE] HELO=a+20b\r\n")
        #expect(owner.codes() == ["220"])
        #expect(
            owner.events == ["xclient:name=spike.example,address=2001:db8::1,port=25,login=-,helo=a b"])
        owner.send("MAIL FROM:<a@b>\r\nEHLO a\r\n" + envelope + "XCLIENT NAME=x\r\nRSET\r\n")
        #expect(owner.codes() == ["503", "250", "250", "250", "503", "250"])
        owner.send("XCLIENT\r\nXCLIENT NAME\r\nXCLIENT NAME=\r\nXCLIENT X=1\r\nXCLIENT NAME=+0A\r\n")
        owner.send("XCLIENT NAME=a NAME=b\r\nXCLIENT NAME=+GG\r\nXCLIENT NAME=+FF\r\nXCLIENT NAME=a=b\r\n")
        #expect(owner.codes() == Array(repeating: "501", count: 9))
    }

    @Test func endsByTheOwner() {
        var owner = started(in: envelope)
        #expect(owner.session.phase == .envelope)
        owner.session.timedOut(into: &owner.output)
        owner.send("NOOP\r\n")
        #expect(owner.codes() == ["421"])
        #expect(owner.events == ["hangUp"])
        owner = started()
        owner.session.shutDown(into: &owner.output)
        #expect(owner.replies == "421 4.3.2 mx.example Shutting down\r\n")
        #expect(owner.session.phase == .closing)
        owner = Owner(settings, recipientReply: { _ in Reply(421, EnhancedStatus(4, 3, 2), "going") })
        owner.send("EHLO a\r\n" + envelope + "NOOP\r\n")
        #expect(owner.codes() == ["220", "250", "250", "421"])
        #expect(owner.isClosed)
    }
}

@Suite struct SMTPServerLimitTests {
    @Test("T-A5: over-long lines get 500, and past a limit the end")
    func overlongLines() {
        for step in [1_000, 3_000, 70_000] {
            let owner = started()
            let line = [UInt8](("NOOP " + String(repeating: "x", count: 60_000) + "\r\nNOOP\r\n").utf8)
            for start in stride(from: 0, to: line.count, by: step) {
                owner.send(Array(line[start..<min(start + step, line.count)]))
            }
            #expect(owner.codes() == ["500", "250"])
            let endless = [UInt8](repeating: UInt8(ascii: "x"), count: 70_000)
            for start in stride(from: 0, to: endless.count, by: step) where !owner.isClosed {
                owner.send(Array(endless[start..<min(start + step, endless.count)]))
            }
            #expect(owner.codes() == ["500"])
            #expect(owner.isClosed)
        }
        let owner = started()
        let longest = String(repeating: "x", count: settings.lineMaxBytes - 7)
        owner.send("NOOP \(longest)\r\nNOOP \(longest)x\r\n")
        #expect(owner.codes() == ["250", "500"])
    }

    @Test("T-A5: the number of chunks is limited")
    func manyChunks() {
        var few = settings
        few.chunksMax = 3
        let owner = started(few, in: envelope)
        owner.send("BDAT 1\r\naBDAT 0\r\nBDAT 0\r\n")
        #expect(!owner.isClosed)
        owner.send("BDAT 1\r\naNOOP\r\n")
        #expect(owner.codes() == ["250", "250", "250", "421"])
        #expect(owner.isClosed)
    }

    @Test("T-A5: the number of commands is limited")
    func manyCommands() {
        var few = settings
        few.commandsMax = 10
        var owner = started(few)
        owner.send(String(repeating: "RSET\r\n", count: 9) + "NOOP\r\nNOOP\r\n")
        #expect(owner.codes() == Array(repeating: "250", count: 9) + ["421"])
        #expect(owner.isClosed)
        // An accepted message begins the count again.
        owner = started(few)
        for _ in 0..<10 { owner.send(envelope + "DATA\r\n.\r\nNOOP\r\n") }
        #expect(!owner.isClosed)
    }

    @Test("T-D3: recipients and errors are limited")
    func manyRecipients() {
        var few = settings
        few.recipientsMax = 2
        var owner = started(few, in: "MAIL FROM:<a@b>\r\n")
        owner.send(String(repeating: "RCPT TO:<c@d>\r\n", count: 40) + "DATA\r\n.\r\n")
        #expect(owner.codes() == ["250", "250"] + Array(repeating: "452", count: 38) + ["354", "250"])
        owner = started(in: "MAIL FROM:<a@b>\r\n")
        owner.send(String(repeating: "RCPT TO:<no@d>\r\n", count: 9))
        #expect(!owner.shouldDelayReplies)
        owner.send("RCPT TO:<no@d>\r\n")
        #expect(owner.shouldDelayReplies)
        owner.send(String(repeating: "RCPT TO:<no@d>\r\n", count: 30))
        #expect(owner.codes() == Array(repeating: "550", count: 20) + ["421"])
        #expect(owner.isClosed)
        owner = started()
        for _ in 0..<5 { owner.send("X\r\nX\r\nX\r\nX\r\nX\r\n" + envelope + "DATA\r\n.\r\n") }
        #expect(!owner.isClosed)
        #expect(owner.session.errorCount == 0)
    }

    /// MAILMAX of RFC 9422.
    @Test func manyTransactions() {
        var few = settings
        few.transactionsMax = 2
        let owner = started(few)
        owner.send("MAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\nRSET\r\n")
        #expect(owner.codes() == ["250", "250", "250", "250", "421"])
        #expect(owner.isClosed)
    }

    @Test("T-A1: a bare LF ends the session in commands too")
    func bareLineEndingsInCommands() {
        var owner = started()
        owner.send("NOOP\nMAIL FROM:<a@b>\r\n")
        #expect(owner.codes() == ["500"])
        #expect(owner.isClosed)
        owner = started()
        owner.send("NOOP\rMAIL FROM:<a@b>\r\nNOOP\r\r\nNOOP\r\n")
        #expect(owner.codes() == ["501", "501", "250"])
        owner = started()
        owner.send("\n")
        #expect(owner.codes() == ["500"])
    }

    /// Whatever comes, a session neither traps nor grows, and it goes on or ends.
    @Test func noise() {
        var random = DialogueNoise(state: 0x5eed)
        let words = [
            "EHLO a\r\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<a@b>\r\n", "DATA\r\n", "BDAT 5\r\n", "BDAT 3 LAST\r\n",
            "RSET\r\n",
            "\r\n.\r\n", ".", "\r\n", "\r", "\n", "\0", "<", ">", "@", "\"", "\\", ":", " ", "x", "STARTTLS\r\n", "=",
            "+4",
            "NOTIFY=", "ORCPT=utf-8;\\x{", "SIZE=", "\u{3b4}", "[", "IPv6:", "]",
        ]
        for _ in 0..<2_000 {
            let owner = Owner(settings)
            for _ in 0..<random.below(40) where !owner.isClosed {
                var bytes = [UInt8](words[random.below(words.count)].utf8)
                if random.below(4) == 0, !bytes.isEmpty {
                    bytes[random.below(bytes.count)] = UInt8(random.below(256))
                }
                owner.send(bytes)
            }
            #expect(owner.output.count < 64 << 10)
        }
    }
}
