import Testing

@testable import Protocols

private let original = """
    Received: from a by b; Tue, 24 Nov 2026 14:20:00 +0000
    Message-ID: <1@sender.test>
    From: alice@sender.test
    Subject: Hello

    The body.
    .
    """.split(separator: "\n", omittingEmptySubsequences: false).joined(separator: "\r\n") + "\r\n"

private func notification(_ kind: DeliveryStatusNotification.Kind = .failed) -> DeliveryStatusNotification {
    DeliveryStatusNotification(
        kind: kind, id: "9aB2c1", hostname: "mx1.provider.test", sender: "alice@sender.test",
        unixSeconds: 1_795_530_600,
        queueID: "3fG7x2", envelopeID: nil, arrivalUnixSeconds: 1_795_530_000, retryUntilUnixSeconds: 1_795_962_000,
        ret: nil, originalIsInternational: false,
        recipients: [
            .init(
                address: "bob@altn.test", status: EnhancedStatus(5, 1, 1), remoteMTA: "mail.altn.test",
                reply: Reply(550, EnhancedStatus(5, 1, 1), "no such user"), lastAttemptUnixSeconds: 1_795_530_500)
        ])
}

/// A DSN taken apart the way a mail program does.
private struct Parsed {
    let header: String
    let parts: [(header: String, body: String)]
    let content: DeliveryStatusNotification.Content

    init(_ notification: DeliveryStatusNotification, _ original: [UInt8] = Array(original.utf8), isWhole: Bool = true) {
        content = original.withUnsafeBytes { notification.build(original: $0, isWhole: isWhole) }
        Self.expectSound(content)
        let text = String(decoding: content.bytes, as: UTF8.self)
        header = Self.cut(text, "\r\n\r\n").0
        let boundary = Self.cut(Self.cut(header, "boundary=\"").1, "\"").0
        var pieces: [String] = []
        var rest = Self.cut(text, "\r\n--\(boundary)").1
        while !rest.hasPrefix("--\r\n") && !rest.isEmpty {
            let (piece, behind) = Self.cut(rest, "\r\n--\(boundary)")
            pieces.append(String(piece.dropFirst()))
            rest = behind
        }
        #expect(rest == "--\r\n")
        parts = pieces.map { Self.cut($0, "\r\n\r\n") }
    }

    static func cut(_ text: String, _ separator: String) -> (String, String) {
        let text = Array(text.utf8)
        let separator = Array(separator.utf8)
        var at = 0
        while at + separator.count <= text.count {
            if text[at..<at + separator.count].elementsEqual(separator) {
                return (
                    String(decoding: text[..<at], as: UTF8.self),
                    String(decoding: text[(at + separator.count)...], as: UTF8.self)
                )
            }
            at += 1
        }
        return (String(decoding: text, as: UTF8.self), "")
    }

    /// RFC 5322 §2.1: only CRLF, no NUL, lines of at most 998 bytes; and the facts beside the bytes are true.
    private static func expectSound(_ content: DeliveryStatusNotification.Content) {
        #expect(content.bytes.suffix(2) == [13, 10])
        var dots = 0
        for line in content.bytes.split(separator: 10, omittingEmptySubsequences: false).dropLast() {
            #expect(line.last == 13 && !line.dropLast().contains(13) && !line.contains(0))
            #expect(line.count <= 999)
            if line.first == UInt8(ascii: ".") { dots += 1 }
        }
        #expect(content.linesBeginningWithDot == dots)
        #expect(content.is8Bit == content.bytes.contains { $0 > 127 })
    }
}

struct DeliveryStatusNotificationTests {
    @Test func `RFC 3464 §2: a failed recipient`() {
        let dsn = Parsed(notification())
        #expect(
            dsn.header == """
                From: Mail Delivery System <MAILER-DAEMON@mx1.provider.test>\r
                To: <alice@sender.test>\r
                Subject: Undelivered: your message could not be delivered\r
                Date: Tue, 24 Nov 2026 14:30:00 +0000\r
                Message-ID: <9aB2c1@mx1.provider.test>\r
                In-Reply-To: <1@sender.test>\r
                References: <1@sender.test>\r
                Auto-Submitted: auto-replied\r
                MIME-Version: 1.0\r
                Content-Type: multipart/report; report-type=delivery-status;\r
                \tboundary="=_postern-9aB2c1-0"
                """)
        #expect(dsn.parts.count == 3)
        #expect(dsn.parts[0].header.contains("Content-Type: text/plain; charset=us-ascii"))
        #expect(
            dsn.parts[0].body == """
                This is the mail system at mx1.provider.test.\r
                \r
                Your message could not be delivered to the recipients below.\r
                No further attempt will be made.\r
                \r
                  bob@altn.test\r
                    The mail server mail.altn.test answered:\r
                      550 5.1.1 no such user\r
                    The recipient's mail system does not take mail for this address. Please\r
                      check it for typing errors, and send the message again if you find one.\r
                \r
                Your message came here on Tue, 24 Nov 2026 14:20:00 +0000\r
                and had the number 3fG7x2 in our records.\r
                \r
                If you need help, send this whole message to your mail administrator.\r
                Please do not answer it: it was made by a program.\r

                """)
        #expect(dsn.parts[1].header.hasSuffix("Content-Type: message/delivery-status"))
        #expect(
            dsn.parts[1].body == """
                Reporting-MTA: dns; mx1.provider.test\r
                Arrival-Date: Tue, 24 Nov 2026 14:20:00 +0000\r
                X-Postern-Queue-ID: 3fG7x2\r
                \r
                Final-Recipient: rfc822; bob@altn.test\r
                Action: failed\r
                Status: 5.1.1\r
                Remote-MTA: dns; mail.altn.test\r
                Diagnostic-Code: smtp; 550 5.1.1 no such user\r
                Last-Attempt-Date: Tue, 24 Nov 2026 14:28:20 +0000\r

                """)
        #expect(dsn.parts[2].header.hasSuffix("Content-Type: text/rfc822-headers"))
        #expect(dsn.parts[2].body == Parsed.cut(original, "\r\n\r\n").0 + "\r\n")
        #expect(!dsn.content.is8Bit && !dsn.content.needsSMTPUTF8)
    }

    @Test func `RFC 3461 §6.3: ENVID and ORCPT come back decoded`() {
        var dsn = notification()
        dsn.envelopeID = "QQ+2B314159+20x"
        dsn.recipients[0].originalRecipient = "rfc822;Bob+2Bx@altn.test"
        let status = Parsed(dsn).parts[1].body
        #expect(status.hasPrefix("Original-Envelope-Id: QQ+314159 x\r\nReporting-MTA: "))
        #expect(status.contains("\r\n\r\nOriginal-Recipient: rfc822; Bob+x@altn.test\r\nFinal-Recipient: "))
        dsn.envelopeID = "a+0D+0AX-Evil:+20b+00"
        dsn.recipients[0].originalRecipient = "rfc822;a+0D+0A+0D+0AAction: x"
        let clean = Parsed(dsn).parts[1].body
        #expect(clean.hasPrefix("Original-Envelope-Id: a??X-Evil: b?\r\n"))
        #expect(!clean.contains("\r\nAction: x"))
    }

    @Test func `RFC 3464 §2.3: delayed, relayed and delivered`() {
        var delayed = notification(.delayed)
        delayed.recipients[0].status = EnhancedStatus(4, 4, 1)
        delayed.recipients[0].reply = nil
        delayed.recipients[0].remoteMTA = nil
        delayed.recipients[0].explanation = "connection refused"
        delayed.ret = .full
        let dsn = Parsed(delayed)
        #expect(dsn.parts[1].body.contains("Action: delayed\r\nStatus: 4.4.1\r\n"))
        #expect(dsn.parts[1].body.contains("Diagnostic-Code: X-Postern; connection refused\r\n"))
        #expect(dsn.parts[1].body.hasSuffix("Will-Retry-Until: Sun, 29 Nov 2026 14:20:00 +0000\r\n"))
        #expect(!dsn.parts[1].body.contains("Remote-MTA"))
        #expect(dsn.parts[0].body.contains("    Reason: connection refused\r\n"))
        #expect(
            dsn.parts[0].body.contains("Delivery will be tried again until\r\nSun, 29 Nov 2026 14:20:00 +0000.\r\n"))
        #expect(dsn.parts[2].header.contains("text/rfc822-headers"))
        delayed.retryUntilUnixSeconds = nil
        #expect(!Parsed(delayed).parts[1].body.contains("Will-Retry-Until"))
        for kind in [DeliveryStatusNotification.Kind.relayed, .delivered] {
            var success = notification(kind)
            success.recipients[0].status = EnhancedStatus(2, 0, 0)
            success.recipients[0].reply = Reply(250, EnhancedStatus(2, 0, 0), "ok")
            success.ret = .full
            let dsn = Parsed(success)
            #expect(dsn.parts[1].body.contains("Action: \(kind.rawValue)\r\nStatus: 2.0.0\r\n"))
            #expect(!dsn.parts[1].body.contains("Will-Retry-Until"))
            #expect(dsn.parts[2].header.contains("text/rfc822-headers"))
        }
    }

    @Test func `RFC 3461 §6.2: RET=FULL brings a small failed message back`() {
        var dsn = notification()
        dsn.ret = .full
        let whole = Parsed(dsn)
        #expect(whole.parts[2].header.hasSuffix("Content-Type: message/rfc822"))
        #expect(whole.parts[2].body == original)
        #expect(whole.content.linesBeginningWithDot == 1)
        #expect(Parsed(dsn, isWhole: false).parts[2].header.contains("text/rfc822-headers"))
        #expect(Parsed(dsn, Array(original.utf8.dropLast(2))).parts[2].body == original)
        let long = original + String(repeating: "x", count: 998) + "\r\n"
        #expect(Parsed(dsn, Array(long.utf8)).parts[2].body == long)
        for unfit in [
            original + String(repeating: "x", count: 999) + "\r\n", original + "\0\r\n", original + "a\rb\r\n",
            original + "a\nb\r\n", original + "a\r", original + String(repeating: "0123456789\r\n", count: 4200),
        ] {
            #expect(Parsed(dsn, Array(unfit.utf8)).parts[2].header.contains("text/rfc822-headers"))
        }
        dsn.ret = .headers
        #expect(Parsed(dsn).parts[2].header.contains("text/rfc822-headers"))
    }

    @Test func `RFC 3461 §5.2: who wants which DSN`() {
        let alice = ReversePath.mailbox(
            MailAddress(localPart: "alice", domain: .name("sender.test"), domainText: "sender.test"))
        let wanted: [(NotifyConditions?, [DeliveryStatusNotification.Kind])] = [
            (nil, [.failed, .delayed]), (.never, []), (.failure, [.failed]), (.delay, [.delayed]),
            (.success, [.relayed, .delivered]),
            ([.success, .failure, .delay], [.failed, .delayed, .relayed, .delivered]),
        ]
        for (notify, kinds) in wanted {
            for kind in DeliveryStatusNotification.Kind.allCases {
                let isWanted = DeliveryStatusNotification.isWanted(kind, notify: notify, reversePath: alice)
                #expect(isWanted == kinds.contains(kind))
            }
        }
    }

    @Test func `T-E3: a null reverse-path gets none`() {
        for kind in DeliveryStatusNotification.Kind.allCases {
            for notify: NotifyConditions? in [nil, [.success, .failure, .delay]] {
                #expect(!DeliveryStatusNotification.isWanted(kind, notify: notify, reversePath: .null))
            }
        }
    }

    @Test func `RFC 6533: an international sender`() {
        var dsn = notification()
        dsn.sender = "ålice@sender.test"
        dsn.originalIsInternational = true
        dsn.recipients[0].address = "bücher@altn.test"
        dsn.recipients[0].originalRecipient = "utf-8;b\\x{FC}cher\\x{2B}x@altn.test"
        let original = "From: ålice@sender.test\r\nSubject: Grüße\r\n\r\nGrüße\r\n"
        let headers = Parsed(dsn, Array(original.utf8))
        #expect(headers.content.needsSMTPUTF8 && headers.content.is8Bit)
        #expect(headers.header.contains("To: <ålice@sender.test>\r\n"))
        #expect(headers.header.hasSuffix("Content-Transfer-Encoding: 8bit"))
        #expect(headers.parts[0].header.contains("charset=utf-8\r\nContent-Transfer-Encoding: 8bit"))
        #expect(headers.parts[0].body.contains("\r\n  bücher@altn.test\r\n"))
        #expect(
            headers.parts[1].header.hasSuffix(
                "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit"))
        #expect(headers.parts[1].body.contains("Original-Recipient: utf-8; bücher+x@altn.test\r\n"))
        #expect(headers.parts[1].body.contains("Final-Recipient: utf-8; bücher@altn.test\r\n"))
        #expect(
            headers.parts[2].header.hasSuffix("Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit")
        )
        #expect(headers.parts[2].body == "From: ålice@sender.test\r\nSubject: Grüße\r\n")
        dsn.ret = .full
        let full = Parsed(dsn, Array(original.utf8))
        #expect(full.parts[2].header.hasSuffix("Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit"))
        #expect(full.parts[2].body == original)
    }

    @Test func `RFC 6533 §4.5: an ASCII sender gets international facts in 7 bits`() {
        var dsn = notification()
        dsn.originalIsInternational = true
        dsn.recipients[0].address = "bücher@altn.test"
        dsn.recipients[0].originalRecipient = "UTF-8;bücher@altn.test"
        let parsed = Parsed(dsn, Array("Subject: Grüße\r\n\r\nGrüße\r\n".utf8))
        #expect(!parsed.content.needsSMTPUTF8 && !parsed.content.is8Bit)
        #expect(parsed.parts[0].header.contains("charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable"))
        #expect(parsed.parts[0].body.contains("  b=C3=BCcher@altn.test\r\n"))
        #expect(parsed.parts[1].header.hasSuffix("Content-Type: message/delivery-status"))
        #expect(
            parsed.parts[1].body.contains(
                "Original-Recipient: UTF-8; b\\x{FC}cher@altn.test\r\n"
                    + "Final-Recipient: utf-8; b\\x{FC}cher@altn.test\r\n"
            ))
        #expect(
            parsed.parts[2].header.hasSuffix(
                "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: quoted-printable"))
        #expect(parsed.parts[2].body == "Subject: Gr=C3=BC=C3=9Fe\r\n")
    }

    @Test func `raw 8-bit header fields go back as they are`() {
        let raw = Array("Subject: Gr".utf8) + [0xfc, 0xdf, 13, 10, 13, 10]
        for isInternational in [false, true] {
            var dsn = notification()
            dsn.originalIsInternational = isInternational
            let parsed = Parsed(dsn, raw)
            #expect(parsed.content.is8Bit && !parsed.content.needsSMTPUTF8)
            #expect(parsed.header.hasSuffix("Content-Transfer-Encoding: 8bit"))
            #expect(
                parsed.parts[2].header.hasSuffix("Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: 8bit")
            )
        }
    }

    @Test func `RFC 2046 §5.1.1: the boundary begins no line of the original`() {
        var dsn = notification()
        dsn.ret = .full
        let two = original + "--=_postern-9aB2c1-0\r\n--=_postern-9aB2c1-1--\r\nx--=_postern-9aB2c1-2\r\n"
        let parsed = Parsed(dsn, Array(two.utf8))
        #expect(parsed.header.contains("boundary=\"=_postern-9aB2c1-2\""))
        #expect(parsed.parts[2].body == two)
        let all = original + (0..<16).map { "--=_postern-9aB2c1-\($0)\r\n" }.joined()
        #expect(Parsed(dsn, Array(all.utf8)).parts.count == 2)
    }

    @Test func `long and hostile texts stay in their lines`() {
        var dsn = notification()
        dsn.hostname = String(repeating: "h", count: 2000)
        dsn.sender = String(repeating: "s", count: 2000) + "@\r\nBcc: x"
        dsn.envelopeID = String(repeating: "e", count: 2000)
        dsn.recipients[0].address = String(repeating: "ü", count: 2000)
        dsn.recipients[0].originalRecipient = "utf-8;" + String(repeating: "\\x{FC}", count: 2000)
        dsn.recipients[0].remoteMTA = "a\r\n\r\nb"
        dsn.recipients[0].reply = Reply(550, nil, String(repeating: "word ", count: 5000) + "\r\n.\r\n")
        let parsed = Parsed(dsn)
        #expect(!parsed.header.contains("\r\nBcc"))
        #expect(parsed.content.bytes.count < 65_536)
        dsn.recipients[0].reply = Reply(550, nil, String(repeating: "w", count: 50_000))
        _ = Parsed(dsn)
        let header = "Subject: " + String(repeating: "é", count: 3000) + "\r\nX: \0a\rb\r\n" + "\r\n"
        let returned = Parsed(notification(), Array(header.utf8)).parts[2].body
        #expect(returned.hasSuffix("\r\nX: ?a?b\r\n"))
        #expect(!returned.contains("\u{fffd}"))
    }

    @Test func `a long header section is cut between lines`() {
        let line = "X-Filler: " + String(repeating: "x", count: 88) + "\r\n"
        let returned = Parsed(notification(), Array((String(repeating: line, count: 1000) + "\r\n").utf8)).parts[2].body
        #expect(returned.utf8.count == 655 * 100)
        #expect(Parsed(notification(), [UInt8](repeating: UInt8(ascii: "x"), count: 100_000)).parts[2].body == "")
    }

    @Test func `many recipients: the text names some, the report all`() {
        var dsn = notification()
        dsn.recipients = (0..<1000).map { .init(address: "r\($0)@altn.test", status: EnhancedStatus(5, 2, 2)) }
        let parsed = Parsed(dsn)
        #expect(parsed.parts[0].body.contains("  r19@altn.test\r\n"))
        #expect(!parsed.parts[0].body.contains("r20@altn.test"))
        #expect(parsed.parts[0].body.contains("  and 980 more, named in the delivery report below.\r\n"))
        #expect(
            parsed.parts[1].body.contains(
                "Final-Recipient: rfc822; r999@altn.test\r\nAction: failed\r\nStatus: 5.2.2\r\n"))
    }

    @Test func `random originals and texts give sound messages`() {
        let pieces = [
            "\r\n", "\r\n", "\n", "\r", "\0", ".", "--", "A: b", "\u{fc}", " ", ":", "+0D+0A", ";", "\\x{FC}",
            "\u{2028}",
            "--=_postern-9aB2c1-0", String(repeating: "x", count: 990), "Message-ID: <", ">", "\u{1f600}",
        ]
        var state: UInt64 = 3
        func random(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        func text(_ most: Int) -> String { (0..<random(most)).map { _ in pieces[random(pieces.count)] }.joined() }
        for round in 0..<200 {
            var dsn = notification(DeliveryStatusNotification.Kind.allCases[round % 4])
            dsn.ret = random(2) == 0 ? .full : nil
            dsn.originalIsInternational = random(2) == 0
            dsn.sender = text(5) + "@"
            dsn.envelopeID = text(5)
            dsn.recipients[0].address = text(5)
            dsn.recipients[0].originalRecipient = "utf-8;" + text(5)
            dsn.recipients[0].reply = Reply(550, nil, text(9))
            var bytes = Array(("A: b" + text(20)).utf8)
            if random(4) == 0 { bytes.append(0xff) }
            #expect(Parsed(dsn, bytes).parts.count == 3)
        }
    }

    @Test func `an empty original`() {
        let parsed = Parsed(notification(), [])
        #expect(parsed.parts.count == 3 && parsed.parts[2].body == "")
    }
}
