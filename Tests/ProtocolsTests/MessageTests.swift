import Testing

@testable import Protocols

private func text(_ write: (inout ByteOutput) -> Void) -> String {
    var output = ByteOutput()
    write(&output)
    return String(decoding: output.bytes, as: UTF8.self)
}

private func scan(
    _ content: [UInt8], splitAt split: Int = 0, step: Int = .max, traceName: StaticString = "X-Postern-Gateway",
    limits: HeaderScanner.Limits = HeaderScanner.Limits()
) -> HeaderScanner {
    var scanner = HeaderScanner(traceFieldName: traceName, limits: limits)
    content.withUnsafeBytes { bytes in
        var at = 0
        while at < bytes.count {
            let end = at < split ? split : step == .max ? bytes.count : min(at + step, bytes.count)
            scanner.received(UnsafeRawBufferPointer(rebasing: bytes[at..<end]))
            at = end
        }
    }
    scanner.finish()
    return scanner
}

private func scan(_ content: String) -> HeaderScanner { scan(Array(content.utf8)) }

/// All that a scanner has found, to compare two runs.
private func facts(_ scanner: HeaderScanner) -> [String] {
    [
        "\(scanner.headerBytes) \(scanner.bodyOffset) \(scanner.fieldCount) \(scanner.lineCount)",
        "\(scanner.receivedFieldCount) \(scanner.traceFieldCount) \(scanner.traceValues) \(scanner.hasDate)",
        "\(scanner.hasMessageID) \(String(describing: scanner.messageIDRange)) \(scanner.isAutoSubmitted)",
        "\(scanner.has8BitHeader) \(String(describing: scanner.overLimit))",
    ]
}

struct HeaderScannerTests {
    private static let message = """
        Received: from a by b; Tue, 24 Nov 2026 14:20:00 +0000
        received : from c
        \tby d
        X-Postern-Gateway:  altn.test; \r
          mx1.provider.test \r
        DATE: Tue, 24 Nov 2026 14:20:00 +0000
        Message-Id:
         <1@altn.test>
        Auto-Submitted: Auto-Replied; x=y
        X-Receivedx: no
        Subject: caf\u{e9}

        Received: in the body
        """.split(separator: "\n", omittingEmptySubsequences: false)
        .map { $0.hasSuffix("\r") ? String($0.dropLast()) : String($0) }.joined(separator: "\r\n")

    @Test func `RFC 5322 §2.1: the border and what is before it`() {
        let bytes = Array(Self.message.utf8)
        let scanner = scan(bytes)
        #expect(scanner.isInBody)
        #expect(String(decoding: bytes[scanner.bodyOffset...], as: UTF8.self) == "Received: in the body")
        #expect(scanner.headerBytes == scanner.bodyOffset - 2)
        #expect(scanner.fieldCount == 8 && scanner.lineCount == 11)
        #expect(scanner.receivedFieldCount == 2)
        #expect(scanner.traceFieldCount == 1)
        #expect(scanner.traceValues == [Array("altn.test;   mx1.provider.test".utf8)])
        #expect(scanner.hasDate && scanner.hasMessageID && scanner.isAutoSubmitted && scanner.has8BitHeader)
        #expect(scanner.messageIDRange.map { String(decoding: bytes[$0], as: UTF8.self) } == "<1@altn.test>")
        #expect(scanner.overLimit == nil)
    }

    @Test func `every split finds the same`() {
        let noBorder = "A: b\r\nReceived: c\r\nno field here\r\nDate: d\r\n\r\n"
        let contents = [
            Self.message, noBorder, "\r\nbody", "A: b\r\n\rX", " a\r\n", "A: b\r\n\r\n", "A: b", "Abc", "A: b\r\n\r",
        ]
        for content in contents.map({ Array($0.utf8) }) {
            let whole = facts(scan(content))
            for split in 1..<content.count { #expect(facts(scan(content, splitAt: split)) == whole) }
            for step in 1...9 { #expect(facts(scan(content, step: step)) == whole) }
        }
    }

    @Test(arguments: [
        ("", 0, 0), ("\r\n", 0, 2), ("\r\nA: b\r\n", 0, 2), ("A: b\r\n\r\n", 6, 8), ("A: b\r\n\r\n\r\n", 6, 8),
        ("A: b\r\n", 6, 6), ("A: b", 4, 4), ("A", 0, 0), ("A: b\r\nhello\r\n\r\n", 6, 6), ("A: b\r\n: c\r\n\r\n", 6, 6),
        ("A: b\r\nx y: c\r\n\r\n", 6, 6), (" A: b\r\n\r\n", 0, 0), ("A: b\r\n \r\n\r\n", 9, 11), ("A:\r\n\r\n", 4, 6),
        ("A: b\r\nB\u{e9}: c\r\n\r\n", 6, 6), ("A: b\n\nbody", 5, 6), ("A: b\r\n\rbody", 6, 6), ("A:b\r\nB\r\n", 5, 5),
    ])
    func `T-A8: one border`(content: String, header: Int, body: Int) {
        let scanner = scan(content)
        #expect(scanner.headerBytes == header)
        #expect(scanner.bodyOffset == body)
        #expect(scanner.isInBody)
    }

    @Test(arguments: [
        ("no", false), (" NO ", false), (" no; x", false), (" no (really)", false), ("\r\n no", false),
        (" auto-generated", true), (" none", true), (" n", true), (" auto-replied", true), (" n\r\n o", true),
    ])
    func `RFC 3834 §5: Auto-Submitted`(value: String, isAutoSubmitted: Bool) {
        #expect(scan("Auto-Submitted:\(value)\r\n\r\n").isAutoSubmitted == isAutoSubmitted)
        #expect(scan("Auto-Submitted:\(value)\r\nA: b\r\n\r\n").isAutoSubmitted == isAutoSubmitted)
    }

    @Test func `T-E2: trace values are bounded`() {
        let long = "x-postern-GATEWAY: " + String(repeating: "a", count: 300) + "\r\n"
        let scanner = scan(String(repeating: long, count: 12) + "\r\n")
        #expect(scanner.traceFieldCount == 12)
        #expect(scanner.traceValues.count == HeaderScanner.traceValuesMax)
        #expect(scanner.traceValues.allSatisfy { $0.count == HeaderScanner.traceValueMaxBytes })
    }

    @Test func `T-A9: too many fields`() {
        var limits = HeaderScanner.Limits()
        limits.fieldsMax = 10
        let fits = String(repeating: "A: b\r\n", count: 10)
        #expect(scan(Array((fits + "\r\nbody").utf8), limits: limits).overLimit == nil)
        let over = scan(Array((fits + "C: d\r\n\r\nbody").utf8), limits: limits)
        #expect(over.overLimit == .fields && over.isInBody)
        #expect(over.fieldCount == 10 && over.headerBytes == 60)
        #expect(facts(scan(Array((fits + "C: d\r\n\r\nbody").utf8), step: 1, limits: limits)) == facts(over))
        // The shape of the known attacks, at the default limit.
        #expect(scan(String(repeating: "To: <a@b>\r\n", count: 100_000)).overLimit == .fields)
    }

    @Test func `T-A9: too many bytes`() {
        var limits = HeaderScanner.Limits()
        limits.headerMaxBytes = 40
        let exact = "A: " + String(repeating: "b", count: 33) + "\r\n\r\n"
        for step in [1, 7, Int.max] {
            #expect(scan(Array((exact + "body").utf8), step: step, limits: limits).overLimit == nil)
            let over = scan(Array(("A" + exact + "body").utf8), step: step, limits: limits)
            #expect(over.overLimit == .bytes && over.headerBytes == 40 && over.bodyOffset == 40)
        }
    }

    @Test func `bytes above 127 count in the header section only`() {
        for length in 0..<20 {
            let filler = String(repeating: "x", count: length)
            #expect(scan("A: \(filler)\u{e9}\r\n\r\nb").has8BitHeader)
            #expect(!scan("A: \(filler)\r\n\r\n\u{e9}").has8BitHeader)
            #expect(!scan("A: \(filler)\r\n\u{e9}").has8BitHeader)
        }
    }
}

/// The same border and counts, line by line and without any care for speed.
private func slowFacts(_ content: [UInt8]) -> (header: Int, body: Int, fields: Int, received: Int) {
    var at = 0
    var fields = 0
    var received = 0
    while at < content.count {
        let end = content[at...].firstIndex(of: 10).map { $0 + 1 } ?? content.count
        let line = Array(content[at..<end])
        if line == [10] || line == [13, 10] { return (at, end, fields, received) }
        if line[0] == 32 || line[0] == 9 {
            if fields == 0 { return (at, at, fields, received) }
        } else {
            guard let colon = line.firstIndex(of: 58) else { return (at, at, fields, received) }
            let name = Array(line[..<colon].reversed().drop { $0 == 32 || $0 == 9 }.reversed())
            if name.isEmpty || !name.allSatisfy({ (33...126).contains($0) }) { return (at, at, fields, received) }
            fields += 1
            if String(decoding: name, as: UTF8.self).lowercased() == "received" { received += 1 }
        }
        at = end
    }
    return (at, at, fields, received)
}

struct HeaderScannerRandomTests {
    @Test func `random content: as a slow reading finds it, at random splits`() {
        let pieces = [
            "\r\n", "\r\n", "\r\n", "\n", "\r", ":", ": ", " ", "\t", "Received", "Received:", "a", "Ab", "\u{e9}",
            "\0",
            "Message-ID: <x@y>\r\n", "Auto-Submitted: no", "X-Postern-Gateway: z",
            "a longer piece of text: than a word",
        ]
        var state: UInt64 = 11
        func random(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        for _ in 0..<4000 {
            let content = (0..<random(16)).flatMap { _ in Array(pieces[random(pieces.count)].utf8) }
            let slow = slowFacts(content)
            let whole = scan(content)
            #expect(whole.headerBytes == slow.header && whole.bodyOffset == slow.body, "\(content)")
            #expect(whole.fieldCount == slow.fields && whole.receivedFieldCount == slow.received, "\(content)")
            #expect(facts(scan(content, step: 1 + random(9))) == facts(whole), "\(content)")
        }
    }
}

struct MailDateTests {
    @Test(arguments: [
        (Int64(1_795_530_000), 0, "Tue, 24 Nov 2026 14:20:00 +0000"), (0, 0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (0, -90, "Wed, 31 Dec 1969 22:30:00 -0130"), (951_782_400, 0, "Tue, 29 Feb 2000 00:00:00 +0000"),
        (4_107_542_399, 0, "Sun, 28 Feb 2100 23:59:59 +0000"), (4_107_542_400, 0, "Mon, 01 Mar 2100 00:00:00 +0000"),
        (2_147_483_648, 330, "Tue, 19 Jan 2038 08:44:08 +0530"), (.max, 0, "Fri, 31 Dec 9999 23:59:59 +0000"),
        (.min, 0, "Thu, 01 Jan 1970 00:00:00 +0000"), (880_127_706, -360, "Fri, 21 Nov 1997 09:55:06 -0600"),
    ])
    func `RFC 5322 §3.3: date-time`(seconds: Int64, offset: Int, expected: String) {
        #expect(text { MailDate.write(unixSeconds: seconds, offsetMinutes: offset, into: &$0) } == expected)
    }

    @Test func `every day of 400 years follows the one before`() {
        var day = 31
        var lengths = 0
        for number in 1...146_097 {
            let date = text { MailDate.writeISO8601(unixMilliseconds: Int64(number) * 86_400_000 - 1, into: &$0) }
            let next = text { MailDate.writeISO8601(unixMilliseconds: Int64(number) * 86_400_000, into: &$0) }
            #expect(date.hasSuffix("T23:59:59.999Z") && next.hasSuffix("T00:00:00.000Z") && date < next)
            day = Int(next.utf8.dropFirst(8).prefix(2).reduce(0) { $0 * 10 + $1 - 48 })
            if day == 1 { lengths += 1 }
        }
        #expect(lengths == 4800)
        #expect(day == 1)
    }

    @Test func `ISO 8601 for logs`() {
        #expect(
            text { MailDate.writeISO8601(unixMilliseconds: 1_795_530_000_042, into: &$0) } == "2026-11-24T14:20:00.042Z"
        )
        #expect(text { MailDate.writeISO8601(unixMilliseconds: .min, into: &$0) } == "1970-01-01T00:00:00.000Z")
        #expect(text { MailDate.writeISO8601(unixMilliseconds: .max, into: &$0) } == "9999-12-31T23:59:59.999Z")
    }
}

struct TraceHeaderTests {
    private static func header() -> TraceHeader {
        TraceHeader(
            helloName: "mail.example.org", clientName: "out3.example.org", clientAddress: IPAddress("192.0.2.1")!,
            hostname: "mx1.provider.test", transmission: TransmissionProtocol(isExtended: true, isTLS: true),
            queueID: "3fG7x2", onlyRecipient: "user@altn.test", tlsDescription: "TLSv1.3 TLS_AES_256_GCM_SHA384",
            unixSeconds: 1_795_530_000)
    }

    @Test func `RFC 5321 §4.4: the field`() {
        #expect(
            text { Self.header().write(into: &$0) } == """
                Received: from mail.example.org (out3.example.org [192.0.2.1])\r
                \tby mx1.provider.test with ESMTPS id 3fG7x2\r
                \t(TLSv1.3 TLS_AES_256_GCM_SHA384)\r
                \tfor <user@altn.test>; Tue, 24 Nov 2026 14:20:00 +0000\r

                """)
        var header = Self.header()
        header.clientName = nil
        header.clientAddress = IPAddress("2001:db8::1")!
        header.helloName = "[IPv6:2001:db8::1]"
        header.onlyRecipient = nil
        header.tlsDescription = nil
        header.transmission = TransmissionProtocol(isExtended: false)
        #expect(
            text { header.write(into: &$0) } == """
                Received: from [IPv6:2001:db8::1]\r
                \t([IPv6:2001:db8::1])\r
                \tby mx1.provider.test with SMTP id 3fG7x2;\r
                \tTue, 24 Nov 2026 14:20:00 +0000\r

                """)
    }

    @Test func `RFC 3848 §1, RFC 6531 §4.3: keywords`() {
        let keywords = [false, true].flatMap { international in
            [false, true].flatMap { tls in
                [false, true].map { authenticated in
                    TransmissionProtocol(
                        isExtended: true, isTLS: tls, isAuthenticated: authenticated, isInternational: international
                    ).keyword.description
                }
            }
        }
        #expect(
            keywords == [
                "ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA", "UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA",
            ])
    }

    @Test func `T-C2: what the client chose can't leave its place`() {
        var header = Self.header()
        header.helloName = "a)\r\nX-Evil: (b;\0\u{e9}"
        header.clientName = "x (y) z\n"
        header.onlyRecipient = "a\r\nb@altn.test"
        header.tlsDescription = "TLS) \r\n("
        let lines = text { header.write(into: &$0) }.split(separator: "\r\n")
        #expect(lines[0] == "Received: from a???X-Evil:??b???? (x??y??z? [192.0.2.1])")
        #expect(lines[2] == "\t(TLS? ???);")
        #expect(!lines.contains { $0.contains("for <") })
        #expect(lines.allSatisfy { $0.hasPrefix("Received:") || $0.hasPrefix("\t") })
    }

    @Test func `RFC 6531 §3.7.3: an international recipient needs the keyword`() {
        var header = Self.header()
        header.onlyRecipient = "bücher@altn.test"
        #expect(!text { header.write(into: &$0) }.contains("for <"))
        header.transmission.isInternational = true
        #expect(text { header.write(into: &$0) }.contains("for <bücher@altn.test>;"))
    }

    @Test func `RFC 5322 §2.1.1: lines stay short`() {
        var header = Self.header()
        let label = String(repeating: "a", count: 60)
        header.helloName = "\(label).example.org"
        header.clientName = "\(label).example.net"
        header.hostname = "\(label).provider.test"
        header.onlyRecipient = "\(label)@altn.test"
        #expect(text { header.write(into: &$0) }.split(separator: "\r\n").allSatisfy { $0.utf8.count <= 110 })
        header.helloName = String(repeating: "h", count: 3000)
        header.clientName = String(repeating: "c", count: 3000)
        header.hostname = String(repeating: "s", count: 3000)
        header.onlyRecipient = String(repeating: "r", count: 3000)
        header.tlsDescription = String(repeating: "t", count: 3000)
        #expect(text { header.write(into: &$0) }.split(separator: "\r\n").allSatisfy { $0.utf8.count <= 998 })
        header.helloName = ""
        #expect(text { header.write(into: &$0) }.hasPrefix("Received: from unknown\r\n\t("))
    }
}

struct XTextTests {
    @Test func `RFC 3461 §4: known answers`() {
        #expect(XText.encode("foo+bar=baz @x".utf8) == "foo+2Bbar+3Dbaz+20@x")
        #expect(XText.encode([0, 255, 33, 126]) == "+00+FF!~")
        #expect(XText.decode("foo+2Bbar+3Dbaz+20@x") == Array("foo+bar=baz @x".utf8))
        #expect(XText.decode("+2b") == Array("+".utf8))
        #expect(XText.decode("") == [])
        for bad in ["+", "+2", "+2G", "a=b", "a b", "\u{7f}", "é", "+ 2"] { #expect(XText.decode(bad) == nil) }
    }

    @Test func `every octet comes back`() {
        let all = Array(UInt8.min...UInt8.max)
        #expect(XText.decode(XText.encode(all)) == all)
    }

    @Test func `RFC 6533 §3: the forms of an address`() {
        let address = "dömi+x=1\\@例え.test"
        #expect(
            UTF8AddressText.encodeXText(address) == "d\\x{F6}mi\\x{2B}x\\x{3D}1\\x{5C}@\\x{4F8B}\\x{3048}.test")
        #expect(UTF8AddressText.encodeUnitext(address) == "dömi\\x{2B}x\\x{3D}1\\x{5C}@例え.test")
        #expect(UTF8AddressText.decode(UTF8AddressText.encodeXText(address)) == address)
        #expect(UTF8AddressText.decode(UTF8AddressText.encodeUnitext(address)) == address)
        #expect(UTF8AddressText.decode("\\x{1f600}@a") == "😀@a")
        #expect(UTF8AddressText.decode("bob@altn.test") == "bob@altn.test")
        for bad in [
            "", "a b", "a+b", "a=b", "\\", "\\x", "\\x{", "\\x{}", "\\x{A}", "\\x{0A}", "\\x{41}", "\\x{0041}",
            "\\x{D800}", "\\x{110000}", "\\x{0000F6}", "\\x{F6", "\\y{F6}", "\\x{85}", "a\nb", "\\x{7F}",
        ] {
            #expect(UTF8AddressText.decode(bad) == nil, "\(bad)")
        }
    }
}

struct QuotedPrintableTests {
    private func encode(_ plain: String) -> String {
        text { output in Array(plain.utf8).withUnsafeBytes { QuotedPrintable.encode($0, into: &output) } }
    }

    @Test func `RFC 2045 §6.7: known answers`() {
        #expect(encode("caf\u{e9} = 1\r\n") == "caf=C3=A9 =3D 1\r\n")
        #expect(encode("a \r\nb\t") == "a=20\r\nb=09")
        #expect(encode("a\rb\nc") == "a=0Db=0Ac")
        let line = String(repeating: "x", count: 100)
        #expect(encode(line) == "\(line.prefix(75))=\r\n\(line.prefix(25))")
        #expect(encode(String(repeating: "é", count: 99)).split(separator: "\r\n").allSatisfy { $0.utf8.count <= 76 })
    }
}
