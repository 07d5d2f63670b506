import Testing

@testable import Protocols

@Test func malformedReplies() {
    let long = String(repeating: "x", count: 2043)
    for (reply, fault) in [
        ("nonsense", "notAReply"), ("25", "notAReply"), ("199 x", "notAReply"), ("600 x", "notAReply"),
        ("250x", "notAReply"), ("2 0 x", "notAReply"), ("250-a\n251 b", "codesDiffer"), ("", "notAReply"),
        ("250 x" + long, "lineTooLong"),
        (Array(repeating: "250-x", count: 101).joined(separator: "\n"), "replyTooLong"),
        (Array(repeating: "250-" + long.dropLast(), count: 9).joined(separator: "\n"), "replyTooLong"),
    ] {
        var parser = SMTPReplyParser()
        let bytes = Array(
            (reply.split(separator: "\n", omittingEmptySubsequences: false) + [""]).joined(separator: "\r\n").utf8)
        var consumed = 0
        var found = ""
        while found.isEmpty {
            switch bytes.withUnsafeBytes({ parser.next($0, consumed: &consumed) }) {
            case .line: continue
            case .fault(let fault): found = "\(fault)"
            case .needMore: found = "none"
            }
        }
        #expect(found == fault, "\(reply.prefix(20))")
    }
}

@Test func bareLineFeedEndsTheSession() {
    var parser = SMTPReplyParser()
    var consumed = 0
    let step = Array("554 5.7.1 bad line: x\n250 ok\r\n".utf8).withUnsafeBytes { parser.next($0, consumed: &consumed) }
    #expect(step == .fault(.bareLineFeed))
}

private func parse(_ text: String) -> Reply? {
    var parser = SMTPReplyParser()
    var consumed = 0
    return Array(text.utf8).withUnsafeBytes { bytes in
        while case .line(_, let text, _, let isLast) = parser.next(bytes, consumed: &consumed) {
            if isLast { return parser.reply(bytes, lastText: text) }
        }
        return nil
    }
}

@Test func repliesAreRead() {
    #expect(parse("250 2.1.0 Ok\r\n") == Reply(250, .init(2, 1, 0), "Ok"))
    #expect(parse("250\r\n") == Reply(250, nil, ""))
    #expect(parse("250 \r\n") == Reply(250, nil, ""))
    #expect(parse("550 5.1.1\r\n") == Reply(550, .init(5, 1, 1), ""))
    #expect(parse("550 5.123.999 x\r\n") == Reply(550, .init(5, 123, 999), "x"))
    // No status: wrong class, four digits, no end.
    for text in ["2.1.1 x", "5.1.1234 x", "5.1 x", "5..1 x", "5.1.1x", "5.1.", "5"] {
        #expect(parse("550 \(text)\r\n") == Reply(550, nil, text))
    }
    #expect(
        parse("550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n") == Reply(550, .init(5, 7, 1), "one two three"))
    #expect(parse("550-one\r\n550-\r\n550 5.7.1 two\r\n") == Reply(550, .init(5, 7, 1), "one two"))
    #expect(parse("550-5.7.1\r\n550-5.7.1 two\r\n550\r\n") == Reply(550, .init(5, 7, 1), "two"))
    #expect(parse("550 a\tb\u{0}c\u{e4}\rd\u{1b}[2J\r\n") == Reply(550, nil, "a?b?c???d?[2J"))
    let longest = String(repeating: "x", count: 2048 - 6)
    #expect(parse("550 \(longest)\r\n") == Reply(550, nil, longest))
}

/// Whatever comes, the parser reads the same from it whole and byte by byte, and moves on or stops.
@Test func anyBytesAtEverySplit() {
    let alphabet = Array("2550-- \r\n\r\n.x\0".utf8) + [0xff]
    for seed in 0..<300 {
        var random = ConversationRandom(state: UInt64(seed))
        let bytes = Array("250-a\r\n250".utf8) + (0..<60).map { _ in alphabet.randomElement(using: &random)! }
        var whole = SMTPReplyParser()
        var (consumed, end) = (0, 0)
        var (steps, expected): ([SMTPReplyParser.Step], [SMTPReplyParser.Step]) = ([], [])
        while expected.last.map({ if case .line = $0 { true } else { false } }) ?? true {
            expected.append(bytes.withUnsafeBytes { whole.next($0, consumed: &consumed) })
        }
        var parser = SMTPReplyParser()
        consumed = 0
        while end < bytes.count {
            end += 1
            let step = bytes[..<end].withUnsafeBytes { parser.next($0, consumed: &consumed) }
            if step != .needMore { steps.append(step) }
            if case .fault = step { break }
        }
        if expected.last == .needMore { expected.removeLast() }
        #expect(steps == expected, "seed \(seed)")
    }
}
