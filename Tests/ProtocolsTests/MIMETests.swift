import Testing

@testable import Protocols

/// The structure of a message, scanned whole or in pieces.
func mimeStructure(
    _ text: String, pieceBytes: Int = .max, headerOnly: Bool = false, limits: MIMEScanner.Limits = .init()
) -> MIMEStructure {
    var scanner = MIMEScanner(headerOnly: headerOnly, limits: limits)
    let bytes = [UInt8](text.utf8)
    var at = 0
    while at < bytes.count {
        let end = at + min(pieceBytes, bytes.count - at)
        bytes[at..<end].withUnsafeBytes { scanner.received($0) }
        at = end
    }
    return scanner.finish()
}

extension MIMEStructure {
    /// One line a part: depth, kind, type, its header's and body's text, lines.
    func outline(of text: String) -> [String] {
        let bytes = [UInt8](text.utf8)
        func string(_ range: Range<Int>) -> String { String(decoding: bytes[range], as: UTF8.self) }
        var lines: [String] = []
        func visit(_ index: Int, _ depth: Int) {
            let part = parts[index]
            let type = String(decoding: part.type.word + [47] + part.type.subword, as: UTF8.self)
            let body = part.kind == .leaf ? " " + string(part.body).debugDescription : ""
            lines.append("\(depth) \(part.kind) \(type) \(part.bodyLines)\(body)")
            for child in part.children { visit(child, depth + 1) }
        }
        visit(0, 0)
        return lines
    }
}

@Suite struct MIMEScannerTests {
    /// The message in it took the last place, and the part behind the delimiter one more.
    @Test func aDelimiterInTheHeaderSectionOfAMessageMakesNoPartBeyondTheLimit() {
        var limits = MIMEScanner.Limits()
        limits.partsMax = 3
        let text = """
            Content-Type: multipart/mixed; boundary=b\r
            \r
            --b\r
            Content-Type: message/rfc822\r
            --b\r
            \r
            one\r
            --b--\r

            """
        #expect(mimeStructure(text, limits: limits).parts.count == 3)
        #expect(mimeStructure(text).parts.count == 4)
    }

    static let nested = """
        Subject: outer\r
        Content-Type: multipart/mixed; boundary="a b"\r
        \r
        preamble\r
        --a b\r
        \r
        one\r
        two\r
        --a b\r
        Content-Type: message/rfc822\r
        \r
        Subject: inner\r
        Content-Type: multipart/alternative;\r
        \tboundary=a\r
        \r
        --a  \r
        Content-Type: text/html; charset=utf-8\r
        \r
        <p>\r
        --a\r
        --a--\r
        epilogue\r
        --a b\r
        Content-Type: application/pdf\r
        Content-Transfer-Encoding: base64\r
        \r
        AAAA\r
        \r
        --a b--\r
        over\r

        """

    @Test func nestedParts() {
        let structure = mimeStructure(Self.nested)
        #expect(
            structure.outline(of: Self.nested) == [
                "0 multipart multipart/mixed 27", "1 leaf text/plain 1 \"one\\r\\ntwo\"",
                "1 message message/rfc822 10", "2 multipart multipart/alternative 6",
                "3 leaf text/html 0 \"<p>\"", "3 leaf text/plain 0 \"\"",
                "1 leaf application/pdf 1 \"AAAA\\r\\n\"",
            ])
        #expect(!structure.isIncomplete)
        #expect(structure.index(at: [2, 1]) == 4 && structure.index(at: [3]) == 6 && structure.index(at: [4]) == nil)
        #expect(structure.index(at: [1, 1]) == nil && structure.index(at: [2, 1, 1]) == nil)
        #expect(structure.messageIndex(at: [2]) == 3 && structure.messageIndex(at: [1]) == nil)
        #expect(structure.parts[3].value(of: .subject) == Array("inner".utf8))
        #expect(structure.parts[4].type.parameter("charset") == Array("utf-8".utf8))
    }

    /// RFC 2046 §5.1.1's complex example in short, and the digest of §5.1.5.
    @Test func digestDefaultsToMessages() {
        let text =
            "Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: one\r\n\r\nhello\r\n--d\r\n"
            + "Content-Type: text/plain\r\n\r\ntext\r\n--d--\r\n"
        #expect(
            mimeStructure(text).outline(of: text) == [
                "0 multipart multipart/digest 10", "1 message message/rfc822 2", "2 leaf text/plain 0 \"hello\"",
                "1 leaf text/plain 0 \"text\"",
            ])
    }

    @Test func everyCutGivesTheSame() {
        for text in [Self.nested, "A: b\r\n c\r\n\r\nx\n--\n", "\r\nx", "x\r\n\r\ny", "Subject: x\r", ""] {
            let whole = mimeStructure(text)
            for size in 1...max(1, text.utf8.count) { #expect(mimeStructure(text, pieceBytes: size) == whole) }
        }
    }

    @Test func headerOnlyStopsThere() {
        var scanner = MIMEScanner(headerOnly: true)
        Array(Self.nested.utf8).withUnsafeBytes { scanner.received($0) }
        #expect(scanner.isDone)
        let structure = scanner.finish()
        #expect(structure.parts.count == 1)
        #expect(structure.root.header == mimeStructure(Self.nested).root.header)
        #expect(structure.root.value(of: .subject) == Array("outer".utf8))
    }

    @Test func headerWithoutEmptyLine() {
        let multipart = "Content-Type: multipart/mixed; boundary=b\r\n--b\r\n\r\nx\r\n--b--\r\n"
        #expect(
            mimeStructure(multipart).outline(of: multipart) == [
                "0 multipart multipart/mixed 4", "1 leaf text/plain 0 \"x\"",
            ])
        let message = "Content-Type: message/rfc822\r\nno field\r\nmore\r\n"
        #expect(
            mimeStructure(message).outline(of: message) == [
                "0 message message/rfc822 2", "1 leaf text/plain 2 \"no field\\r\\nmore\\r\\n\"",
            ])
    }

    @Test func boundariesThatBeginAlike() {
        let text =
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\n"
            + "--bb\r\n\r\nx\r\n--bb--\r\n--b--\r\n"
        #expect(
            mimeStructure(text).outline(of: text) == [
                "0 multipart multipart/mixed 8", "1 multipart multipart/mixed 3", "2 leaf text/plain 0 \"x\"",
            ])
    }

    @Test("T-A10: nesting beyond the limit is a leaf; the end of an outer part ends all within")
    func nestingBomb() {
        var text = ""
        for depth in 0..<10_000 { text += "Content-Type: multipart/mixed; boundary=b\(depth)x\r\n\r\n--b\(depth)x\r\n" }
        let structure = mimeStructure(text)
        #expect(structure.isIncomplete && structure.parts.count == 32)
        #expect(structure.parts[31].kind == .leaf && asciiMatches(structure.parts[31].type.word, "application"))
        let messages = String(repeating: "Content-Type: message/rfc822\r\n\r\n", count: 10_000)
        #expect(mimeStructure(messages).parts.count == 32)
    }

    @Test("T-A10: parts beyond the limit are content of the last one")
    func manyParts() {
        let text = "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + String(repeating: "--b\r\n\r\n", count: 5_000)
        let structure = mimeStructure(text)
        #expect(structure.isIncomplete && structure.parts.count == 1_000)
        #expect(structure.parts.last?.body.upperBound == text.utf8.count)
    }

    @Test("T-A10: what is kept of header values is bounded")
    func longValues() {
        let value = String(repeating: "x", count: 300_000)
        let structure = mimeStructure("Subject: \(value)\r\nTo: a@b\r\nFrom: \(value)\r\n \(value)\r\n\r\n")
        #expect(structure.isIncomplete)
        let kept = structure.root.fields.map(\.value.count)
        #expect(kept.allSatisfy { $0 <= 64 << 10 } && structure.root.value(of: .to) == Array("a@b".utf8))
        let many = String(repeating: "--b\r\nContent-ID: \(value.prefix(60_000))\r\n\r\n", count: 20)
        let all = mimeStructure("Content-Type: multipart/mixed; boundary=b\r\n\r\n" + many)
        #expect(all.parts.count == 21)
        #expect(all.parts.flatMap(\.fields).map(\.value.count).reduce(0, +) <= 256 << 10)
    }
}

@Suite struct MIMEHeaderValueTests {
    private func value(_ text: String) -> MIMEHeaderValue { MIMEHeaderValue(Array(text.utf8)) }

    private func shown(_ text: String) -> String {
        let value = value(text)
        let parameters = value.parameters.map {
            String(decoding: $0.name, as: UTF8.self) + "=" + String(decoding: $0.value, as: UTF8.self)
        }
        return
            ([String(decoding: value.word, as: UTF8.self), String(decoding: value.subword, as: UTF8.self)] + parameters)
            .joined(separator: "|")
    }

    @Test(arguments: [
        ("text/plain; charset=us-ascii (Plain text)", "text|plain|charset=us-ascii"),
        ("text/plain; charset=\"us-ascii\"", "text|plain|charset=us-ascii"),
        ("Text (x(y)) / (z) HTML;;format=flowed ;x", "Text|HTML|format=flowed"),
        ("attachment; filename=a b (1).pdf", "attachment||filename=a b"),
        ("attachment; filename=a(1).pdf; size=3", "attachment||filename=a(1).pdf|size=3"),
        ("attachment; filename=\"a;\\\"b\\\"\"", "attachment||filename=a;\"b\""),
        ("a/b; x=1; X=2", "a|b|x=1"), ("", "|"), ("a/b; x=\"open", "a|b|x=open"),
        // RFC 2231 §3.
        (
            "message/external-body; access-type=URL; URL*0=\"ftp://\"; URL*1=\"cs.utk.edu/pub/moore/x\"",
            "message|external-body|access-type=URL|url=ftp://cs.utk.edu/pub/moore/x"
        ),
        // RFC 2231 §4.1.
        (
            "application/x-stuff; title*0*=us-ascii'en'This%20is%20even%20more%20; title*1*=%2A%2A%2Afun%2A%2A%2A%20;"
                + " title*2=\"isn't it!\"",
            "application|x-stuff|title*=us-ascii'en'This%20is%20even%20more%20%2A%2A%2Afun%2A%2A%2A%20isn%27t%20it!"
        ),
        ("a/b; n*1=b; n*0=a; n*3=d", "a|b|n=ab"), ("a/b; n=plain; n*=utf-8''better", "a|b|n*=utf-8''better"),
    ])
    func parses(_ text: String, _ expected: String) { #expect(shown(text) == expected) }

    @Test("T-A11: a file name in sections is read as one")
    func continuedFileName() {
        let text = "attachment; filename*0*=utf-8''inv%6Fice; filename*1*=%2Ee; filename*2=xe"
        #expect(value(text).parameter("filename") == Array("invoice.exe".utf8))
    }

    @Test func manyParametersAreBounded() {
        let text = "a/b" + (0..<10_000).map { ";p\($0)=1" }.joined()
        #expect(value(text).parameters.count == MIMEHeaderValue.parametersMax)
    }
}

@Suite struct MIMEAddressTests {
    private func shown(_ text: String) -> String {
        MIMEAddresses.parse(Array(text.utf8)).map { element in
            switch element {
            case .groupStart(let name): return "[" + String(decoding: name, as: UTF8.self)
            case .groupEnd: return "]"
            case .mailbox(let mailbox):
                return [mailbox.name ?? [45], mailbox.route ?? [45], mailbox.local, mailbox.host]
                    .map { String(decoding: $0, as: UTF8.self) }.joined(separator: "|")
            }
        }.joined(separator: " ")
    }

    @Test(arguments: [
        ("Terry Gray <gray@cac.washington.edu>", "Terry Gray|-|gray|cac.washington.edu"),
        ("a@b, \"Joe Q. Public\" <john.q.public@example.com>", "-|-|a|b Joe Q. Public|-|john.q.public|example.com"),
        ("Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", "Pete|-|pete|silly.test"),
        (
            "A Group(Some people):Chris Jones <c@(Chris's host.)public.example>,\r\n joe@example.org;",
            "[A Group Chris Jones|-|c|public.example -|-|joe|example.org ]"
        ),
        ("(Empty list)(start)Hidden recipients :(nobody(that I know)) ;", "[Hidden recipients ]"),
        ("<@a,@b:c@d>", "-|@a,@b|c|d"), ("MAILER-DAEMON (Mail System)", "Mail System|-|MAILER-DAEMON|"),
        ("jdoe@one.test (John Doe)", "John Doe|-|jdoe|one.test"), ("\"a b\"@[127.0.0.1]", "-|-|a b|[127.0.0.1]"),
        (", ,a@b,", "-|-|a|b"), ("<>", ""), ("x <", ""), ("a b@c", "-|-|ab|c"),
        ("=?utf-8?q?=C3=A4?= <a@b>", "=?utf-8?q?=C3=A4?=|-|a|b"),
    ])
    func parses(_ text: String, _ expected: String) { #expect(shown(text) == expected) }

    @Test func manyAreBounded() {
        let count = MIMEAddresses.parse(Array(String(repeating: "a@b,", count: 100_000).utf8)).count
        #expect(count == MIMEAddresses.elementsMax)
    }
}

@Suite struct MIMETextTests {
    private func decoded(_ text: [UInt8], _ encoding: MIMEEncoding, _ charset: MIMECharset, pieces: Int) -> String {
        var decoder = MIMETextDecoder(encoding: encoding, charset: charset)
        var result: [UInt8] = []
        var at = 0
        while at < text.count {
            let end = min(at + pieces, text.count)
            text[at..<end].withUnsafeBytes { decoder.decode($0, into: &result) }
            at = end
        }
        decoder.finish(into: &result)
        return String(decoding: result, as: UTF8.self)
    }

    @Test func bodies() {
        for pieces in [1, 2, 3, 100] {
            #expect(decoded(Array("SGVsbG8gV29ybGQ=\r\nw4RC".utf8), .base64, .utf8, pieces: pieces) == "hello worldäb")
            #expect(
                decoded(Array("caf=C3=\r\n=89 =3D =x =\r\nEnd=".utf8), .quotedPrintable, .utf8, pieces: pieces)
                    == "café = =x end")
            #expect(decoded([0xc4, 0x42, 0xe9], .identity, .latin1, pieces: pieces) == "äbé")
            #expect(decoded(Array("ÀÉ ΑΩ ЖЯ".utf8), .identity, .utf8, pieces: pieces) == "àé αω жя")
        }
    }

    /// The examples of RFC 2047 §8.
    @Test(arguments: [
        ("=?ISO-8859-1?Q?a?=", "a"), ("=?ISO-8859-1?Q?a?= b", "a b"), ("=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
        ("=?ISO-8859-1?Q?a?=   =?ISO-8859-1?Q?b?=", "ab"), ("=?ISO-8859-1?Q?a_b?=", "a b"),
        ("=?ISO-8859-1?Q?Andr=E9?= Pirard", "andré pirard"), ("=?US-ASCII*EN?Q?Keith_Moore?=", "keith moore"),
        ("=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=", "if you can read this yo"),
        ("=?x?q?", "=?x?q?"), ("=?x?z?a?=", "=?x?z?a?="), ("A =?utf-8?b?w4Q=?=", "a ä"),
    ])
    func encodedWords(_ value: String, _ expected: String) {
        #expect(String(decoding: MIMEEncodedWords.folded(Array(value.utf8)), as: UTF8.self) == expected)
    }
}
