import Testing

@testable import Protocols

private typealias Owner = IMAPServerOwner
/// Items are named `rfc` and 822; see ``IMAPItemName``.
private let rfc = "RFC"

extension IMAPServerOwner {
    /// Another session, or another way out, takes a message.
    fileprivate func vanish(_ uid: UInt32) {
        folders[0].removeAll { $0.uid == uid }
        session.vanished([uid])
    }

    fileprivate func appear(_ uid: UInt32, flags: IMAPFlags = []) {
        modSequence += 1
        folders[0].append(Mail(uid: uid, content: Array("new\r\n".utf8), modSequence: modSequence))
        session.appeared([IMAPMessage(uid: uid, flags: flags, modSequence: modSequence)])
    }

    fileprivate func flag(_ uid: UInt32, _ flags: IMAPFlags) {
        guard let index = folders[0].firstIndex(where: { $0.uid == uid }) else { return }
        modSequence += 1
        (folders[0][index].flags, folders[0][index].modSequence) = (flags, modSequence)
        session.flagsChanged([IMAPMessage(uid: uid, flags: flags, modSequence: modSequence)])
    }
}

@Suite struct IMAPNewsTests {
    @Test("RFC 3501 §7.4.1: no EXPUNGE outside a command or within FETCH, STORE, SEARCH")
    func expungesWait() {
        let owner = Owner.selected(Owner.mails(["a", "b", "c", "d"]))
        owner.vanish(111)
        owner.send("")
        #expect(owner.take() == [])
        #expect(
            owner.ask("a FETCH 1:4 UID") == [
                "* 1 FETCH (UID 101)", "* 3 FETCH (UID 121)", "* 4 FETCH (UID 131)",
                "a NO [EXPUNGEISSUED] Some messages are gone",
            ])
        #expect(owner.ask("b STORE 3 +FLAGS.SILENT \\Seen") == ["b OK STORE completed"])
        #expect(owner.ask("c SEARCH ALL") == ["* SEARCH 1 3 4", "c OK SEARCH completed"])
        #expect(owner.ask("d NOOP") == ["* 2 EXPUNGE", "d OK NOOP completed"])
        #expect(owner.ask("e FETCH 2 UID") == ["* 2 FETCH (UID 121)", "e OK FETCH completed"])
        owner.vanish(101)
        owner.vanish(131)
        owner.appear(141)
        // By UID numbers may change; from the last one down none does on the way.
        #expect(
            owner.ask("f UID FETCH 121 FLAGS") == [
                "* 2 FETCH (UID 121 FLAGS (\\Seen))", "* 3 EXPUNGE", "* 1 EXPUNGE", "* 2 EXISTS", "* 0 RECENT",
                "f OK FETCH completed",
            ])
    }

    @Test("RFC 3501 §7.3.1: a message that came and went untold is never heard of")
    func unannounced() {
        let owner = Owner.selected(Owner.mails(["a"]))
        owner.appear(201, flags: .recent)
        owner.vanish(201)
        #expect(owner.ask("a NOOP") == ["a OK NOOP completed"])
        owner.appear(202, flags: .recent)
        owner.flag(202, .flagged)
        #expect(owner.ask("b NOOP") == ["* 2 EXISTS", "* 1 RECENT", "b OK NOOP completed"])
        #expect(owner.ask("c FETCH 2 FLAGS").first == "* 2 FETCH (FLAGS (\\Flagged \\Recent))")
    }

    @Test("RFC 2177 §3: IDLE tells at once, and DONE is answered at once")
    func idle() {
        let owner = Owner.selected(Owner.mails(["a", "b"]))
        #expect(owner.ask("a IDLE") == ["+ Idling"])
        owner.appear(201)
        owner.send("")
        #expect(owner.take() == ["* 3 EXISTS", "* 0 RECENT"])
        owner.vanish(101)
        owner.flag(111, .seen)
        owner.send("")
        #expect(owner.take() == ["* 1 EXPUNGE", "* 1 FETCH (FLAGS (\\Seen))"])
        #expect(owner.ask("done") == ["a OK IDLE completed"])
        #expect(owner.ask("b IDLE") == ["+ Idling"])
        #expect(owner.ask("c NOOP") == ["b BAD DONE ends IDLE"])
        owner.vanish(111)
        owner.send("d IDLE\r\nDONE\r\ne NOOP\r\n")
        #expect(owner.take() == ["+ Idling", "* 1 EXPUNGE", "d OK IDLE completed", "e OK NOOP completed"])
    }

    /// A message is taken while a command is worked out.
    @Test func vanishesMeanwhile() {
        let owner = Owner.selected(Owner.mails(["a", "b", "c"]))
        owner.meanwhile = { $0.vanish(111) }
        #expect(
            owner.ask("a FETCH 1:3 \(rfc)822.SIZE") == [
                "* 1 FETCH (\(rfc)822.SIZE 1)", "* 3 FETCH (\(rfc)822.SIZE 1)",
                "a NO [EXPUNGEISSUED] Some messages are gone",
            ])
        owner.meanwhile = { $0.vanish(121) }
        #expect(owner.ask("b STORE 3 +FLAGS (\\Seen)") == ["b NO [EXPUNGEISSUED] Some messages are gone"])
        #expect(owner.ask("c NOOP") == ["* 3 EXPUNGE", "* 2 EXPUNGE", "c OK NOOP completed"])
    }
}

@Suite struct IMAPStoreTests {
    @Test func store() {
        let owner = Owner.selected(Owner.mails(["a", "b", "c"]))
        #expect(
            owner.ask("a STORE 2:3 +FLAGS (\\Deleted $junk $Other)") == [
                "* 2 FETCH (FLAGS (\\Deleted $Junk))", "* 3 FETCH (FLAGS (\\Deleted $Junk))", "a OK STORE completed",
            ])
        #expect(owner.ask("b STORE 2 -FLAGS.SILENT (\\Deleted)") == ["b OK STORE completed"])
        #expect(
            owner.ask("c STORE 2 FLAGS \\Seen \\Draft") == [
                "* 2 FETCH (FLAGS (\\Seen \\Draft))", "c OK STORE completed",
            ])
        #expect(owner.ask("d STORE 2 FLAGS ()") == ["* 2 FETCH (FLAGS ())", "d OK STORE completed"])
        #expect(owner.ask("e STORE 2 +FLAGS (\\Recent)") == ["e BAD \\RECENT is no flag that can be set"])
        #expect(owner.ask("f UID STORE 101 +FLAGS (\\Seen)").first == "* 1 FETCH (UID 101 FLAGS (\\Seen))")
        #expect(owner.ask("g STORE 9 FLAGS ()") == ["g BAD No message has such a number"])
    }

    @Test func expunge() {
        let owner = Owner.selected(
            Owner.mails(["a", "b", "c", "d"]), then: "x STORE 1,3:4 +FLAGS.SILENT (\\Deleted)\r\n")
        // RFC 4315 §2.1: only what is both deleted and named.
        #expect(owner.ask("a UID EXPUNGE 102:125") == ["* 3 EXPUNGE", "a OK EXPUNGE completed"])
        #expect(owner.folders[0].map(\.uid) == [101, 111, 131])
        owner.leased = [131]
        #expect(
            owner.ask("b EXPUNGE") == [
                "* 1 EXPUNGE", "b NO [INUSE] 1 messages are being handed over or can't be removed",
            ])
        #expect(owner.folders[0].map(\.uid) == [111, 131])
        owner.leased = []
        #expect(owner.ask("c CLOSE") == ["c OK Folder closed"])
        #expect(owner.folders[0].map(\.uid) == [111])
        // RFC 3691 §2: UNSELECT removes nothing.
        _ = owner.ask("d SELECT INBOX\r\ne STORE 1 +FLAGS (\\Deleted)")
        #expect(owner.ask("f UNSELECT") == ["f OK Folder closed"])
        #expect(owner.folders[0].map(\.uid) == [111])
    }
}

@Suite struct IMAPModSequenceTests {
    @Test(
        "RFC 7162 §3.1: the first command that speaks of mod-sequences is told the highest; flags then come with them")
    func aware() {
        for command in [
            "ENABLE CONDSTORE", "FETCH 1 MODSEQ", "FETCH 1 FLAGS (CHANGEDSINCE 99)", "SEARCH MODSEQ 99",
            "STORE 1 (UNCHANGEDSINCE 99) +FLAGS (\\Draft)", "STATUS INBOX (HIGHESTMODSEQ)",
        ] {
            let owner = Owner.selected(Owner.mails(["a"]))
            #expect(owner.ask("a \(command)").contains("* OK [HIGHESTMODSEQ 10] Highest"), "\(command)")
            #expect(!owner.ask("a \(command)").contains { $0.contains("HIGHESTMODSEQ 10]") }, "\(command)")
            owner.flag(101, .seen)
            let news = owner.ask("b NOOP")
            #expect(news.first == "* 1 FETCH (UID 101 FLAGS (\\Seen) MODSEQ (\(owner.modSequence)))", "\(command)")
        }
    }

    /// RFC 5161 §3.1, §3.2.
    @Test func enable() {
        let owner = Owner()
        _ = owner.ask("a LOGIN u p")
        #expect(owner.ask("b ENABLE x-foo condstore") == ["* ENABLED CONDSTORE", "b OK ENABLE completed"])
        #expect(owner.ask("c ENABLE CONDSTORE") == ["* ENABLED", "c OK ENABLE completed"])
        #expect(owner.ask("d ENABLE") == ["d BAD Something is missing"])
        #expect(owner.ask("e SELECT INBOX (CONDSTORE)").contains("* OK [HIGHESTMODSEQ 10] Highest"))
        #expect(owner.ask("f SELECT INBOX (QRESYNC (7 1))") == ["f BAD QRESYNC is not enabled"])
    }

    /// RFC 7162 §3.1.3's examples 6 and 7: who was changed is told, and named in MODIFIED.
    @Test func conditionalStore() {
        let owner = Owner.selected(Owner.mails(["a", "b", "c"]), then: "x ENABLE CONDSTORE\r\n")
        owner.flag(111, .answered)
        let news = owner.modSequence
        #expect(
            owner.ask("a STORE 1:3 (UNCHANGEDSINCE 10) +FLAGS.SILENT (\\Deleted)") == [
                "* 1 FETCH (UID 101 MODSEQ (12))", "* 2 FETCH (UID 111 FLAGS (\\Answered) MODSEQ (\(news)))",
                "* 3 FETCH (UID 121 MODSEQ (13))", "a OK [MODIFIED 2] STORE completed",
            ])
        #expect(
            owner.ask("b UID STORE 101:121 (UNCHANGEDSINCE 0) +FLAGS.SILENT (\\Seen)").last
                == "b OK [MODIFIED 101,111,121] STORE completed")
        #expect(owner.folders[0].map(\.flags) == [.deleted, .answered, .deleted])
        #expect(
            owner.ask("c FETCH 1:3 FLAGS (CHANGEDSINCE 12)") == [
                "* 3 FETCH (FLAGS (\\Deleted) MODSEQ (13))", "c OK FETCH completed",
            ])
    }

    @Test("RFC 7162 §3.1.2.2: after NOMODSEQ what needs mod-sequences is BAD")
    func noModSequences() {
        let owner = Owner(Owner.mails(["a"]))
        owner.modSequence = 0
        _ = owner.ask("a LOGIN u p")
        #expect(owner.ask("b SELECT INBOX (CONDSTORE)").contains("* OK [NOMODSEQ] Mod-sequences are not kept"))
        for command in [
            "FETCH 1 MODSEQ", "FETCH 1 FLAGS (CHANGEDSINCE 1)", "SEARCH MODSEQ 1",
            "STORE 1 (UNCHANGEDSINCE 1) FLAGS ()",
        ] {
            #expect(owner.ask("c \(command)") == ["c BAD Mod-sequences are not kept here"])
        }
        #expect(owner.ask("d STORE 1 FLAGS (\\Seen)").first == "* 1 FETCH (UID 101 FLAGS (\\Seen))")
    }

    @Test("what is not announced is refused")
    func notOffered() {
        let owner = Owner.selected(Owner.mails(["a"]), settings: IMAPServerSettings(hostname: "h"))
        #expect(owner.ask("a CAPABILITY").first?.contains("CONDSTORE") == false)
        #expect(owner.ask("b SELECT INBOX (CONDSTORE)") == ["b BAD Unknown parameter"])
        #expect(owner.ask("c STATUS INBOX (HIGHESTMODSEQ)") == ["c BAD Unknown item of STATUS"])
        #expect(owner.ask("d STATUS INBOX (DELETED)") == ["d BAD Unknown item of STATUS"])
        #expect(owner.ask("e GETQUOTA \"\"") == ["e BAD Command not recognized"])
        #expect(owner.ask("f ENABLE CONDSTORE") == ["* ENABLED", "f OK ENABLE completed"])
        #expect(owner.ask("g MOVE 1 Copies") == ["g BAD Command not recognized"])
        #expect(owner.ask("h SEARCH RETURN (SAVE) ALL") == ["h BAD Unknown option of RETURN"])
    }
}

@Suite struct IMAPSearchTests {
    private static let base64 = """
        Subject: =?utf-8?B?R3LDvMOfZQ==?=\r
        From: "Jos=?" <jose@a.example>\r
        Date: Tue, 24 Nov 2026 23:59:59 -1200\r
        Content-Type: multipart/mixed; boundary=b\r
        \r
        hidden preamble\r
        --b\r
        Content-Type: text/plain; charset=iso-8859-1\r
        Content-Transfer-Encoding: base64\r
        \r
        Y2Fm6SBhdSBsYWl0\r
        --b\r
        Content-Type: text/html; charset=utf-8\r
        Content-Transfer-Encoding: quoted-printable\r
        \r
        sch=C3=B6n=\r
        er Tag\r
        --b\r
        Content-Type: image/png\r
        \r
        cafe\r
        --b--\r

        """

    private static func owner() -> IMAPServerOwner {
        var mails = Owner.mails([
            "Subject: Hello\r\nTo: x@y.example\r\nX-Empty:\r\n\r\nplain body\r\n", base64,
            "Subject: folded\r\n line\r\n\r\n" + String(repeating: "z", count: 300) + "abcabcabd",
        ])
        mails[0].flags = [.seen, .keyword(2)]
        mails[0].unixSeconds = 1_795_478_399  // 2026-11-23 23:59:59
        mails[1].flags = [.deleted]
        mails[2].unixSeconds = 1_795_651_200  // 2026-11-26 00:00:00
        for index in mails.indices { mails[index].modSequence = UInt64(index + 1) }
        return .selected(mails)
    }

    @Test(arguments: [
        ("ALL", "1 2 3"), ("SEEN", "1"), ("UNSEEN", "2 3"), ("DELETED", "2"), ("NOT DELETED", "1 3"),
        ("KEYWORD $junk", "1"),
        ("UNKEYWORD $Junk", "2 3"), ("KEYWORD nope", ""), ("UNKEYWORD nope", "1 2 3"), ("NEW", ""), ("OLD", "1 2 3"),
        ("RECENT", ""), ("2:*", "2 3"), ("UID 101,121", "1 3"), ("OR SEEN DELETED", "1 2"), ("(SEEN NOT DELETED)", "1"),
        ("NOT (OR SEEN DELETED)", "3"), ("SEEN DELETED", ""), ("BEFORE 24-Nov-2026", "1"), ("ON \"24-Nov-2026\"", "2"),
        ("SINCE 24-nov-2026", "2 3"), ("SENTON 24-Nov-2026", "2"), ("SENTBEFORE 25-Nov-2026", "2"),
        ("SENTSINCE 25-Nov-2026", ""), ("LARGER 200", "2 3"), ("SMALLER 200", "1"), ("SUBJECT hello", "1"),
        ("SUBJECT \"LO\"", "1"), ("TO Y.EXAMPLE", "1"), ("FROM jose", "2"), ("CC x", ""), ("HEADER X-Empty \"\"", "1"),
        ("HEADER Subject \"folded line\"", "3"), ("BODY \"plain BODY\"", "1"), ("BODY hello", ""), ("TEXT hello", "1"),
        ("TEXT \"subject: h\"", "1"), ("BODY abcabd", "3"), ("BODY \"au lait\"", "2"), ("BODY \"er tag\"", "2"),
        ("BODY cafe", ""), ("BODY preamble", ""), ("BODY quoted-printable", "2"),
        ("CHARSET US-ASCII TEXT image/png", "2"),
        ("OR BODY nothing SEEN", "1"), ("NOT BODY abcabd", "1 2"), ("SEEN BODY plain", "1"),
    ])
    func keys(_ program: String, _ expected: String) {
        let owner = Self.owner()
        let found = expected.isEmpty ? "* SEARCH" : "* SEARCH " + expected
        #expect(owner.ask("a SEARCH \(program)") == [found, "a OK SEARCH completed"])
    }

    @Test("RFC 3501 §6.4.4: UTF-8 is searched; another character set is refused, with those that are not")
    func charsets() {
        let owner = Self.owner()
        #expect(owner.ask("a SEARCH CHARSET UTF-8 SUBJECT {6+}\r\nGRÜß").first == "* SEARCH 2")
        owner.send("b UID SEARCH CHARSET utf-8 SUBJECT {6+}\r\nGRÜß BODY {5+}\r\nCAFÉ\r\n")
        #expect(owner.take() == ["* SEARCH 111", "b OK SEARCH completed"])
        owner.send("c SEARCH CHARSET UTF-8 BODY \"SCHÖNER\"\r\n")
        #expect(owner.take().first == "* SEARCH 2")
        #expect(
            owner.ask("d SEARCH CHARSET KOI8-R TEXT x") == [
                "d NO [BADCHARSET (US-ASCII UTF-8)] Search in US-ASCII or UTF-8"
            ])
    }

    /// RFC 4731 §3.1.
    @Test func extended() {
        let owner = Self.owner()
        #expect(owner.ask("a SEARCH RETURN (MIN COUNT) UNSEEN").first == "* ESEARCH (TAG \"a\") MIN 2 COUNT 2")
        #expect(owner.ask("b SEARCH RETURN () ALL").first == "* ESEARCH (TAG \"b\") ALL 1:3")
        #expect(
            owner.ask("c UID SEARCH RETURN (MAX ALL) NOT 2").first == "* ESEARCH (TAG \"c\") UID MAX 121 ALL 101,121")
        #expect(owner.ask("d SEARCH RETURN (MIN MAX ALL COUNT) DRAFT").first == "* ESEARCH (TAG \"d\") COUNT 0")
        #expect(owner.ask("e SEARCH RETURN (MIN) DRAFT").first == "* ESEARCH (TAG \"e\")")
        // RFC 7162 §3.1.5, RFC 4731 §3.2.
        #expect(owner.ask("f SEARCH MODSEQ \"/flags/\\\\draft\" all 2").contains("* SEARCH 2 3 (MODSEQ 3)"))
        #expect(owner.ask("g SEARCH MODSEQ 99").first == "* SEARCH")
        #expect(owner.ask("h SEARCH RETURN (MIN) MODSEQ 1").first == "* ESEARCH (TAG \"h\") MIN 1 MODSEQ 1")
        #expect(owner.ask("i SEARCH RETURN (MIN MAX) MODSEQ 1").first == "* ESEARCH (TAG \"i\") MIN 1 MAX 3 MODSEQ 3")
        #expect(
            owner.ask("j SEARCH RETURN (MIN COUNT) MODSEQ 1").first == "* ESEARCH (TAG \"j\") MIN 1 COUNT 3 MODSEQ 3")
    }

    /// Content is read only where nothing else decides.
    @Test func readsNoMoreThanNeeded() {
        let owner = Self.owner()
        _ = owner.ask("a SEARCH UNSEEN 3 BODY abcabd")
        #expect(Set(owner.events) == ["read:121"])
        owner.events = []
        _ = owner.ask("b SEARCH OR SEEN SUBJECT hello")
        #expect(owner.events == ["read:111", "read:121"])
    }

    @Test("T-D7: a search is bounded in depth, keys and texts")
    func hostile() {
        let owner = Self.owner()
        for deep in [String(repeating: "(", count: 5_000), String(repeating: "NOT ", count: 5_000)] {
            #expect(owner.ask("a SEARCH \(deep)").last?.hasPrefix("a BAD ") == true)
        }
        let many = Array(repeating: "SEEN", count: 2_000).joined(separator: " ")
        #expect(owner.ask("b SEARCH \(many)") == ["b BAD The search is too deep or too long"])
        let texts = Array(repeating: "BODY x", count: 17).joined(separator: " ")
        #expect(owner.ask("c SEARCH \(texts)") == ["c NO [LIMIT] Search for fewer or shorter texts"])
        #expect(
            owner.ask("d FETCH 1 BODY[\(Array(repeating: "1", count: 100).joined(separator: "."))]").last
                == "d BAD No such part")
        #expect(owner.ask("e SEARCH SENTON 31-Feb-2026") == ["e BAD There is no such day"])
        #expect(owner.ask("f FETCH 1 (" + String(repeating: "UID ", count: 200) + "UID)") == ["f BAD Too many items"])
    }

    @Test func dates() {
        func day(_ text: String) -> Int? { IMAPDate.day(ofField: Array(text.utf8)) }
        #expect(day(" Mon, 7 Feb 1994 21:52:25 -0800 (PST)") == 8_803)
        #expect(day("1 Jan 70 00:00:00 GMT") == 0 && day("Thu, 01-Jan-1970") == 0 && day("31 Dec 1969 x") == -1)
        #expect(day("29 Feb 2024 x") == 19_782 && day("29 Feb 2023 x") == nil && day("x") == nil && day("") == nil)
    }
}

@Suite struct IMAPSplitTests {
    private static let dialogue =
        [
            "a CAPABILITY", "b LOGIN {1}", "u {1+}", "p", "c LIST \"\" *", "d SELECT INBOX (CONDSTORE)",
            "e FETCH 1:2 (FLAGS ENVELOPE BODY.PEEK[HEADER.FIELDS (SUBJECT)] BODYSTRUCTURE)",
            "f UID FETCH 101 BODY[]<3.7>",
            "g STORE 1:2 +FLAGS.SILENT (\\Deleted)", "h SEARCH RETURN (COUNT) BODY {3+}", "one DELETED",
            "i SEARCH TEXT \"two\"",
            "j APPEND INBOX {5+}", "12345", "k APPEND INBOX {5}", "l IDLE", "DONE", "m UID EXPUNGE 101", "n FOO", "",
            "o CLOSE",
            "p STATUS INBOX (MESSAGES)", "q AUTHENTICATE PLAIN", "r LOGOUT",
        ].joined(separator: "\r\n") + "\r\n"

    private func outcome(_ pieces: [[UInt8]]) -> [String] {
        let owner = Owner(Owner.mails([MIMEScannerTests.nested, "Subject: two\r\n\r\none\r\n"]))
        for piece in pieces { owner.send(piece) }
        return owner.take() + owner.events + ["\(owner.isClosed)"] + owner.folders[0].map { "\($0.uid) \($0.flags)" }
    }

    /// A dialogue has the same outcome however it is cut.
    @Test func everySplit() {
        let bytes = [UInt8](Self.dialogue.utf8)
        let whole = outcome([bytes])
        #expect(whole.contains("r OK LOGOUT completed") && whole.contains("j NO [CANNOT] Mail comes by SMTP only"))
        for at in 1..<bytes.count {
            let cut = outcome([Array(bytes[..<at]), Array(bytes[at...])])
            guard cut == whole else {
                Issue.record("cut at \(at): \(cut), not \(whole)")
                return
            }
        }
        #expect(outcome(bytes.map { [$0] }) == whole)
    }

    /// Content gives the same however the owner reads it.
    @Test func everyPiece() {
        func replies(_ pieceBytes: Int) -> [String] {
            let owner = Owner(Owner.mails([MIMEScannerTests.nested]))
            owner.pieceBytes = pieceBytes
            owner.send(
                "a LOGIN u p\r\nb SELECT INBOX\r\nc FETCH 1 (BODY[2.HEADER.FIELDS.NOT (X)] BODYSTRUCTURE)\r\n"
                    + "d SEARCH BODY {8+}\r\none\r\ntwo\r\ne SEARCH TEXT inner SUBJECT outer BODY <p>\r\n")
            return owner.take()
        }
        let whole = replies(10_000)
        #expect(whole.filter { $0 == "* SEARCH 1" }.count == 2)
        for size in 1...40 { #expect(replies(size) == whole) }
    }
}

@Suite struct IMAPValueTests {
    @Test func base64() {
        func decoded(_ text: String) -> [UInt8]? { Base64.decode(Array(text.utf8)) }
        #expect(
            decoded("") == [] && decoded("Zg==") == [102] && decoded("Zm8=") == [102, 111]
                && decoded("Zm9v") == [102, 111, 111])
        for bad in ["Zg", "Zg=", "Z===", "Zh==", "Zg==Zg==", "Zm 9", "====", "Zm9v\n"] {
            #expect(decoded(bad) == nil, "\(bad)")
        }
        for count in 0..<20 {
            var output = ByteOutput()
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 37 + 200) }
            Base64.encode(bytes, into: &output)
            #expect(Base64.decode(output.array) == bytes)
        }
    }

    @Test func presentedContent() {
        let content = IMAPPresentedContent(prefixBytes: 10, fileBytes: 20)
        #expect(content.bytes == 30)
        #expect(content.split(0..<30) == (0..<10, 0..<20) && content.split(5..<12) == (5..<10, 0..<2))
        #expect(content.split(12..<15).prefix.isEmpty && content.split(12..<15).file == 2..<5)
        #expect(content.split(3..<7).file.isEmpty && content.split(25..<99).file == 15..<20)
    }

    @Test func aMessageTakesSixteenBytes() { #expect(MemoryLayout<IMAPMessage>.stride == 16) }

    @Test func strings() {
        func written(_ text: String) -> String {
            var output = ByteOutput()
            output.append(string: Array(text.utf8))
            return String(decoding: output.bytes, as: UTF8.self)
        }
        #expect(
            written("a\"b\\c") == "\"a\\\"b\\\\c\"" && written("ä") == "{2}\r\nä"
                && written("a\u{0}\u{1}") == "{2}\r\na\u{1}")
    }
}
