import Testing

@testable import Protocols

private typealias Owner = SMTPServerOwner
private let settings = SMTPServerOwner.settings
private let envelope = SMTPServerOwner.envelope

private func started(_ settings: SMTPServerSettings = settings, in commands: String = "") -> Owner {
    Owner.started(settings, in: commands)
}

@Suite struct SMTPServerContentTests {
    /// Content of every length that a wide load may begin or end at.
    @Test func contentOfAnyLength() {
        for count in 0...140 {
            let line = String(repeating: "x", count: count)
            for text in ["\(line)\r\n", "\(line)\r\n.\(line)\r\n", "a\r\n\(line)\r\n", "\(line)\r\n\r\n\(line)z\r\n"] {
                let stuffed = text.split(separator: "\r\n", omittingEmptySubsequences: false)
                    .map { $0.hasPrefix(".") ? "." + $0 : String($0) }.joined(separator: "\r\n")
                let owner = started(in: envelope)
                owner.send("DATA\r\n" + stuffed + ".\r\n")
                #expect(owner.messages.first?.content == [UInt8](text.utf8))
                owner.send(envelope + "BDAT \(text.utf8.count) LAST\r\n" + text + "NOOP\r\n")
                #expect(owner.messages.last?.content == [UInt8](text.utf8))
                #expect(owner.messages.map(\.dots) == (text.contains(".") ? [1, 1] : [0, 0]))
                #expect(owner.codes() == ["354", "250", "250", "250", "250", "250"])
            }
        }
    }

    private static let smuggling = [
        "\n.\n", "\n.\r", "\r.\n", "\r.\r", "\n.\r\n", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r\n.\r\r\n", "\r\r\n.\r\n",
        "\r\r\n.\r\r\n", "\r\n.\r.\r\n", "\r\n.\n\r\n", "\n", "\r", "\n\r",
    ]

    @Test("T-A1: only CRLF.CRLF ends DATA, bare CR or LF is refused")
    func smugglingInData() {
        let smuggled = envelope + "DATA\r\nsmuggled\r\n.\r\n"
        // At every distance to the bounds of the wide loads, and at the very beginning of the content.
        for sequence in Self.smuggling {
            for padding in Array(0...70) + [nil] {
                let before = padding.map { "Subject: x\r\n\r\n" + String(repeating: "x", count: $0) } ?? ""
                let owner = started(in: envelope)
                owner.send("DATA\r\n" + before + sequence + smuggled)
                #expect(owner.isClosed)
                #expect(owner.messages.isEmpty)
                #expect(owner.codes() == ["354", "550"])
                #expect(owner.events == ["content", "fault:550", "hangUp"])
            }
        }
    }

    /// What a receiver that looks at whole lines makes of DATA: the content, or nil for a bare CR or LF; and whether
    /// the end was there.
    private func model(_ bytes: [UInt8]) -> (content: [UInt8]?, dots: Int, isComplete: Bool) {
        var content: [UInt8] = []
        var dots = 0
        var rest = bytes[...]
        while let end = rest.firstIndex(where: { $0 == 13 || $0 == 10 }) {
            guard rest[end] == 13, end + 1 < rest.endIndex else {
                return (rest[end] == 13 ? content : nil, dots, false)
            }
            guard rest[end + 1] == 10 else { return (nil, dots, false) }
            var line = rest[..<end]
            rest = rest[(end + 2)...]
            if line.elementsEqual([46]) { return (content, dots, true) }
            if line.first == 46 { line = line.dropFirst() }
            if line.first == 46 { dots += 1 }
            content += line + [13, 10]
        }
        return (content, dots, false)
    }

    @Test func randomContentIsReadAsByTheModel() {
        var random = DialogueNoise(state: 0xda7a)
        for _ in 0..<3_000 {
            var bytes: [UInt8] = []
            for _ in 0..<random.below(24) {
                switch random.below(16) {
                case 0..<6: bytes += [13, 10]
                case 6..<9: bytes += [13, 10, 46, 46]
                case 9..<11: bytes.append(46)
                case 11 where random.below(20) == 0: bytes.append(random.below(2) == 0 ? 13 : 10)
                default: bytes += [UInt8](repeating: 120, count: random.below(90))
                }
            }
            bytes += [13, 10, 46, 13, 10]
            let expected = model(bytes)
            let owner = started(in: envelope + "DATA\r\n")
            let cut = random.below(bytes.count)
            owner.send(Array(bytes[..<cut]))
            owner.send(Array(bytes[cut...]))
            if let content = expected.content {
                #expect(expected.isComplete)
                #expect(owner.messages.first?.content == content)
                #expect(owner.messages.first?.dots == expected.dots)
            } else {
                #expect(owner.events.suffix(2) == ["fault:550", "hangUp"])
            }
        }
    }

    @Test("T-A1: a NUL does not hide a dot")
    func nulBeforeDot() {
        let owner = started(in: envelope)
        owner.send("DATA\r\na\r\n\0.\r\n.\r\n")
        #expect(owner.messages.first?.content == [UInt8]("a\r\n\0.\r\n".utf8))
    }

    @Test("T-A1: bare CR or LF in BDAT is refused, also over chunks")
    func smugglingInChunks() {
        for sequence in ["\n.\n", "\n.\r\n", "\r.\r\n", "\r\r\n", "\n", "\rx"] {
            for padding in 0...70 {
                let text = String(repeating: "x", count: padding) + sequence + "rest\r\n"
                let owner = started(in: envelope)
                owner.send("BDAT \(text.utf8.count) LAST\r\n" + text)
                #expect(owner.events == ["content", "fault:550", "hangUp"])
            }
        }
        var owner = started(in: envelope + "BDAT 2\r\na\r")
        owner.send("BDAT 2 LAST\r\n\nb")
        #expect(owner.messages.first?.content == [UInt8]("a\r\nb".utf8))
        #expect(owner.messages.first?.endsWithCRLF == false)
        for chunks in [
            "BDAT 2\r\na\rBDAT 1 LAST\r\nb", "BDAT 2\r\na\rBDAT 0 LAST\r\n", "BDAT 2 LAST\r\na\r", "BDAT 1\r\n\n",
        ] {
            owner = started(in: envelope)
            owner.send(chunks)
            #expect(owner.events.suffix(2) == ["fault:550", "hangUp"], "\(chunks)")
        }
    }

    /// RFC 3030 §4.2.
    @Test func chunks() {
        let owner = started(in: envelope)
        owner.send("BDAT 0\r\nBDAT 4\r\n.\r\n.BDAT 3 LAST\r\n.\r\n" + envelope + "bdat 0 last\r\n")
        #expect(owner.codes() == ["250", "250", "250", "250", "250", "250"])
        #expect(owner.messages.map(\.content) == [[UInt8](".\r\n..\r\n".utf8), []])
        #expect(owner.messages.map(\.dots) == [2, 0])
        #expect(owner.messages.map(\.endsWithCRLF) == [true, true])
    }

    @Test("T-A3: BDAT in every state")
    func chunksOutOfOrder() {
        // The octets look like commands and must not be taken for such.
        let chunk = "BDAT 6 LAST\r\nQUIT\r\n"
        let owner = Owner(settings)
        owner.send(chunk)
        #expect(owner.codes() == ["220", "503"])
        owner.send("EHLO a\r\n" + chunk + "MAIL FROM:<a@b>\r\n" + chunk + "NOOP\r\n")
        #expect(owner.codes() == ["250", "503", "250", "554", "250"])
        owner.send("MAIL FROM:<a@b>\r\nRCPT TO:<no@b>\r\n" + chunk + "RCPT TO:<a@b>\r\n")
        #expect(owner.codes() == ["250", "550", "554", "503"])
        owner.send(envelope + chunk + chunk + "DATA\r\n")
        #expect(owner.codes() == ["250", "250", "250", "503", "503"])
        owner.send(envelope + "BDAT 6\r\nQUIT\r\nDATA\r\nRCPT TO:<a@b>\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\nNOOP\r\n")
        #expect(owner.codes() == ["250", "250", "250", "503", "503", "503", "503", "250"])
        owner.send("RSET\r\n" + chunk + envelope + chunk)
        #expect(owner.codes() == ["250", "503", "250", "250", "250"])
        #expect(owner.messages.count == 2)
        owner.send(envelope + "BDAT 6\r\nQUIT\r\nQUIT\r\n")
        #expect(owner.codes() == ["250", "250", "250", "221"])
        #expect(owner.isClosed)
    }

    @Test("T-A3: BDAT sizes")
    func chunkSizes() {
        // Nobody knows what follows, so the session ends.
        for size in ["", " ", " -1", " x", " +1", " 1x", " 0x10", " 1.0", " LAST", " 999999999999999999999"] {
            let owner = started(in: envelope)
            owner.send("BDAT\(size)\r\nQUIT\r\n")
            #expect(owner.codes() == ["501"], "\(size)")
            #expect(owner.isClosed)
        }
        for size in ["9223372036854775807", "9223372036854775808", "18446744073709551616", "268435457"] {
            let owner = started(in: envelope)
            owner.send("BDAT \(size)\r\nQUIT\r\n")
            #expect(owner.codes() == ["552"], "\(size)")
            #expect(owner.isClosed)
        }
        for line in ["BDAT 6\0", "bdat\t6", "BDAT 6\r", "BDAT\0", "BDAT \(String(repeating: " ", count: 3_000))6"] {
            let owner = started(in: envelope)
            owner.send(line + "\r\nQUIT\r\n")
            #expect(owner.codes() == ["501"])
            #expect(owner.isClosed)
        }
        // Known, so passed over.
        let owner = started(in: envelope)
        owner.send("BDAT 6 FIRST\r\nQUIT\r\nRCPT TO:<a@b>\r\n")
        #expect(owner.codes() == ["501", "503"])
        #expect(owner.events == ["fault:501", "refused"])
    }

    @Test func refusedChunksPipelined() {
        // RFC 3030 §2: further chunks in the pipeline are dropped, and are no reason to hang up.
        var owner = started(in: "MAIL FROM:<a@b>\r\nRCPT TO:<no@b>\r\n")
        owner.send(String(repeating: "BDAT 6\r\nQUIT\r\n", count: 50) + "BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
        #expect(owner.codes() == ["554"] + Array(repeating: "503", count: 50) + ["250"])
        #expect(!owner.isClosed)
        owner = started()
        owner.mailReply = Reply(550, EnhancedStatus(5, 7, 1), "no")
        owner.send("MAIL FROM:<a@b>\r\n" + String(repeating: "RCPT TO:<a@b>\r\n", count: 50) + "DATA\r\nNOOP\r\n")
        #expect(owner.codes() == ["550"] + Array(repeating: "503", count: 51) + ["250"])
    }

    @Test("T-A4: after every rejection the transaction is over")
    func rejections() {
        let probe = "RCPT TO:<a@b>\r\nDATA\r\nBDAT 3 LAST\r\nabc"
        let probed = ["503", "503", "503"]
        let refusal = Reply(452, EnhancedStatus(4, 3, 1), "full")
        var owner = started()
        owner.mailReply = refusal
        owner.send("MAIL FROM:<a@b>\r\n" + probe)
        #expect(owner.codes() == ["452"] + probed)
        owner = started(in: envelope)
        owner.contentReply = refusal
        owner.send("DATA\r\n" + probe)
        #expect(owner.codes() == ["452"] + probed)
        owner.send(envelope + "BDAT 3\r\nabc" + probe)
        #expect(owner.codes() == ["250", "250", "452"] + probed)
        owner = started(in: envelope)
        owner.finalReply = Reply(554, EnhancedStatus(5, 7, 1), "spam")
        owner.send("DATA\r\nx\r\n.\r\n" + probe)
        #expect(owner.codes() == ["354", "554"] + probed)
        owner.send(envelope + "BDAT 3 LAST\r\nabc" + probe)
        #expect(owner.codes() == ["250", "250", "554"] + probed)
        owner.send("MAIL FROM:<a@b>\r\nDATA\r\n" + probe)
        #expect(owner.codes() == ["250", "554"] + probed)
        // A failed VRFY changes nothing.
        owner.send(envelope + "VRFY\r\nVRFY \u{e9}\r\nDATA\r\n.\r\n")
        #expect(owner.codes() == ["250", "250", "501", "550", "354", "554"])
    }

    /// Seen by the fuzzer: 550 where it came in one read, 552 where it came in several.
    @Test func tooBigThenBareLineEnding() {
        var small = settings
        small.messageSizeMax = 100
        let content = [UInt8]((String(repeating: "x", count: 99) + "\r\nmore\nMAIL FROM:<a@b>\r\n").utf8)
        for step in [1, 7, 101, 102, 106, content.count] {
            let owner = started(small, in: envelope + "DATA\r\n")
            for start in stride(from: 0, to: content.count, by: step) {
                owner.send(Array(content[start..<min(start + step, content.count)]))
            }
            #expect(owner.codes() == ["552"], "reads of \(step)")
            #expect(owner.events.suffix(2) == ["fault:552", "hangUp"], "reads of \(step)")
        }
    }

    /// RFC 1870 §6.3.
    @Test func tooBig() {
        var small = settings
        small.messageSizeMax = 100
        small.discardMaxBytes = 1_100
        let line = String(repeating: "x", count: 48) + "\r\n"
        var owner = started(small, in: envelope)
        owner.send("DATA\r\n" + line + line + ".\r\n")
        #expect(owner.codes() == ["354", "250"])
        owner.send(envelope + "DATA\r\n" + line + line + "..x\r\n")
        #expect(owner.events.last == "fault:552")
        #expect(owner.session.phase == .content)
        owner.send(line + "..\r\n.")
        owner.send("\r\nRCPT TO:<a@b>\r\n")
        #expect(owner.codes() == ["250", "250", "354", "552", "503"])
        #expect(owner.events.last == "refused")
        owner.send(envelope + "BDAT 100\r\n" + line + line + "BDAT 1 LAST\r\nxNOOP\r\n")
        #expect(owner.codes() == ["250", "250", "250", "552", "250"])
        owner.send(envelope + "BDAT 1000 LAST\r\n" + String(repeating: line, count: 20) + "NOOP\r\n")
        #expect(owner.codes() == ["250", "250", "552", "250"])
        owner.send(envelope + "BDAT 1001 LAST\r\n" + line)
        #expect(owner.codes() == ["250", "250", "552"])
        #expect(owner.isClosed)
        owner = started(small, in: envelope)
        owner.send("DATA\r\n" + line + line + line)
        owner.send(String(repeating: line, count: 21))
        #expect(!owner.isClosed)
        owner.send("x")
        #expect(owner.codes() == ["354", "552"])
        #expect(owner.isClosed)
        // Bare line endings end a refused message's session too.
        owner = started(small, in: envelope)
        owner.send("DATA\r\n" + line + line + line)
        owner.send("\n.\nMAIL FROM:<x@y>\r\n")
        #expect(owner.codes() == ["354", "552"])
        #expect(owner.isClosed)
        #expect(owner.messages.isEmpty)
    }

    @Test("T-A3: a connection that breaks off is no end of a message")
    func brokenOff() {
        for text in ["DATA\r\na\r\n", "DATA\r\na\r\n.", "DATA\r\na\r\n.\r", "BDAT 5 LAST\r\nab\r\n", "BDAT 2\r\n\r\n"] {
            let owner = started(in: envelope + text)
            #expect(owner.messages.isEmpty)
            #expect(owner.isInTransaction)
        }
    }

    @Test func contentGivenUpByTheOwner() {
        let refusal = Reply(452, EnhancedStatus(4, 3, 1), "full")
        let owner = started(in: envelope)
        owner.send("DATA\r\nabc\r\n")
        owner.session.refuseContent(refusal, into: &owner.output)
        owner.send("def\r\n.\r\nNOOP\r\n")
        #expect(owner.codes() == ["354", "452", "250"])
        #expect(owner.events == ["content", "refused"])
        owner.send(envelope + "BDAT 6\r\nab")
        owner.session.refuseContent(refusal, into: &owner.output)
        owner.send("QUITBDAT 1 LAST\r\nxNOOP\r\n")
        #expect(owner.codes() == ["250", "250", "452", "503", "250"])
    }

    @Test("T-A6: text lines of any length stream")
    func longLines() {
        let line = String(repeating: "x", count: 300_000)
        let owner = started(in: envelope + "DATA\r\n")
        for _ in 0..<3 { owner.send(line) }
        #expect(owner.content.count == 900_000)
        owner.send("\r\n.\r\n")
        #expect(owner.codes() == ["250"])
    }

    @Test("T-A7: NUL is an error in commands and is counted in text")
    func nul() {
        let owner = started()
        owner.send("NOOP\0\r\nMAIL FROM:<a\0@b>\r\n\0\r\nMAIL FROM:<a@b>\0RCPT\r\nQUIT\0\r\n")
        #expect(owner.codes() == ["501", "501", "501", "501", "501"])
        owner.send(envelope + "DATA\r\na\0b\0\r\n.\r\n" + envelope + "BDAT 3 LAST\r\n\0\0\0")
        #expect(owner.codes() == ["250", "250", "354", "250", "250", "250", "250"])
        #expect(owner.messages.map(\.content) == [[97, 0, 98, 0, 13, 10], [0, 0, 0]])
    }
}
