import Testing

@testable import Protocols

private typealias Owner = IMAPServerOwner
/// Items are named `rfc` and 822; see ``IMAPItemName``.
private let rfc = "RFC"

private let letter = """
    Return-Path: <a@b.example>\r
    Date: Mon, 7 Feb 1994 21:52:25 -0800 (PST)\r
    From: Fred Foobar <foobar@Blurdybloop.example>\r
    Subject: afternoon meeting\r
    To: mooch@owatagu.siam.edu.example\r
    Message-Id: <B27397-0100000@Blurdybloop.example>\r
    MIME-Version: 1.0\r
    Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\r
    \r
    Hello Joe, do you think we can meet at 3:30 tomorrow?\r

    """

@Suite struct IMAPLoginTests {
    @Test func greetingAndCapabilities() {
        let owner = Owner(isTLS: false)
        #expect(
            owner.take() == [
                "* OK [CAPABILITY IMAP4rev1 LITERAL- SASL-IR ID ENABLE STARTTLS LOGINDISABLED] mx.example Postern IMAP4rev1"
            ])
        #expect(
            owner.ask("a capability") == [
                "* CAPABILITY IMAP4rev1 LITERAL- SASL-IR ID ENABLE STARTTLS LOGINDISABLED", "a OK CAPABILITY completed",
            ])
        #expect(owner.ask("b LOGIN u p") == ["b NO [PRIVACYREQUIRED] No passwords without TLS"])
        #expect(owner.ask("b AUTHENTICATE PLAIN") == ["b NO [PRIVACYREQUIRED] Not without TLS"])
        #expect(owner.ask("c SELECT INBOX") == ["c BAD Log in first"])
        #expect(owner.ask("d STARTTLS") == ["d OK Begin TLS negotiation now"])
        #expect(owner.isTLS)
        #expect(
            owner.ask("e CAPABILITY").first == "* CAPABILITY IMAP4rev1 LITERAL- SASL-IR ID ENABLE AUTH=PLAIN")
        #expect(owner.ask("f STARTTLS") == ["f BAD TLS is already in use"])
        #expect(
            owner.ask("g LOGIN \"u\" {1+}\r\np") == [
                "g OK [CAPABILITY IMAP4rev1 LITERAL- SASL-IR ID ENABLE IDLE NAMESPACE UIDPLUS UNSELECT ESEARCH CONDSTORE "
                    + "QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE] Logged in"
            ])
        #expect(owner.ask("h LOGIN u p") == ["h BAD You are logged in already"])
        #expect(owner.events == ["tls", "login:u:p"])
    }

    @Test("T-B1: what follows STARTTLS in plaintext is dropped")
    func startTLSInjection() {
        let owner = Owner(isTLS: false)
        _ = owner.take()
        owner.send("a STARTTLS\r\nb LOGIN u p\r\nc NOOP\r\n")
        #expect(owner.take() == ["a OK Begin TLS negotiation now"])
        #expect(owner.ask("d NOOP") == ["d OK NOOP completed"])
        #expect(owner.events == ["tls"])
    }

    @Test("T-D6: AUTHENTICATE with and without an initial response, cancelled, malformed")
    func authenticate() {
        let owner = Owner()
        _ = owner.take()
        #expect(owner.ask("a AUTHENTICATE PLAIN") == ["+ "])
        #expect(owner.ask("*") == ["a BAD Authentication cancelled"])
        #expect(owner.ask("b AUTHENTICATE plain") == ["+ "])
        #expect(owner.ask("AHUA=cA==") == ["b BAD The response is not base64"])
        #expect(owner.ask("c AUTHENTICATE PLAIN AHUAcQ==") == ["c NO [AUTHENTICATIONFAILED] Login failed"])
        #expect(owner.shouldDelayReplies)
        #expect(owner.ask("d AUTHENTICATE PLAIN AHU") == ["d BAD The response is not base64"])
        #expect(owner.ask("e AUTHENTICATE GSSAPI") == ["e NO Unknown mechanism"])
        #expect(owner.ask("f AUTHENTICATE PLAIN =") == ["f NO [AUTHENTICATIONFAILED] Login failed"])
        #expect(owner.ask("g AUTHENTICATE PLAIN") == ["+ "])
        #expect(owner.ask("AHUAcA==").first?.hasPrefix("g OK [CAPABILITY") == true)
    }

    @Test("T-D5: failed logins end the session")
    func failedLogins() {
        let owner = Owner()
        for _ in 0..<5 { owner.send("a LOGIN u q\r\n") }
        #expect(owner.isClosed && owner.replies.hasSuffix("* BYE Too many failed logins\r\n"))
    }

    /// RFC 3501 §6.1.3: BYE, then OK.
    @Test func logout() {
        let owner = Owner()
        _ = owner.take()
        #expect(owner.ask("a LOGOUT") == ["* BYE Logging out", "a OK LOGOUT completed"])
        #expect(owner.isClosed)
    }

    /// RFC 3501 §5.4, RFC 7162 §1, RFC 2177 §3: nobody is put out within 30 minutes of a login.
    @Test func autologout() {
        let owner = Owner()
        #expect(owner.phase == .login && owner.phase.timeoutSeconds < 120)
        owner.send("a LOGIN u p\r\n")
        #expect(owner.phase == .command && owner.phase.timeoutSeconds >= 30 * 60)
        owner.send("b IDLE\r\n")
        #expect(owner.phase == .idle && owner.phase.timeoutSeconds >= 30 * 60)
        owner.session.timedOut(into: &owner.output)
        #expect(owner.replies.hasSuffix("* BYE Autologout\r\n") && owner.phase == .closing)
    }
}

@Suite struct IMAPLineTests {
    @Test("T-D7: literals beyond the limits are refused before they are sent, or end the session")
    func literalFloods() {
        let owner = Owner()
        _ = owner.take()
        #expect(owner.ask("a LOGIN {4294967295}") == ["a BAD [TOOBIG] The literal is too big"])
        #expect(owner.ask("a LOGIN {99999999999999999999}") == ["a BAD [TOOBIG] The literal is too big"])
        #expect(owner.ask("b LOGIN {1}") == ["+ Ready for the literal"])
        #expect(owner.ask("u {01}") == ["+ Ready for the literal"])
        #expect(owner.ask("q") == ["b NO [AUTHENTICATIONFAILED] Login failed"])
        // RFC 7888 §5: not asked for, and more than 4096.
        owner.send("c LOGIN {5000+}\r\n" + String(repeating: "x", count: 5_000) + " {3+}\r\nabc\r\n")
        #expect(owner.take() == ["c BAD [TOOBIG] The literal is too big to be sent without being asked for"])
        #expect(owner.ask("d NOOP") == ["d OK NOOP completed"])
        owner.send("e LOGIN {4294967295+}\r\n")
        #expect(owner.isClosed && owner.take() == ["* BYE [TOOBIG] The literal is too big"])
        let many = Owner()
        many.send("a LOGIN " + String(repeating: "{1}\r\na", count: 10_000))
        #expect(many.isClosed)
        #expect(many.replies.utf8.count < 200_000)
    }

    @Test("T-D7: before login a command may be short only")
    func longLines() {
        let owner = Owner()
        owner.send("a NOOP " + String(repeating: "x", count: 30_000))
        #expect(owner.isClosed && owner.replies.hasSuffix("* BYE [TOOBIG] The command is too long\r\n"))
        let longer = Owner.selected([])
        longer.send("a UID FETCH " + Array(repeating: "1", count: 20_000).joined(separator: ",") + " FLAGS\r\n")
        #expect(longer.take() == ["a OK FETCH completed"])
    }

    @Test("a bare LF ends the session")
    func bareLineFeed() {
        let owner = Owner()
        owner.send("a NOOP\nb NOOP\r\n")
        #expect(owner.isClosed && owner.replies.hasSuffix("* BYE Bare LF; lines end with CRLF\r\n"))
    }

    @Test func errors() {
        let owner = Owner()
        _ = owner.take()
        #expect(owner.ask("") == ["* BAD A command begins with a tag"])
        #expect(owner.ask("a") == ["a BAD Something is missing"])
        #expect(owner.ask("a FOO") == ["a BAD Command not recognized"])
        #expect(owner.ask("a NOOP x") == ["a BAD Something is behind the command"])
        #expect(owner.ask("a LOGIN \"u p") == ["a BAD A quote is open"])
        #expect(owner.ask("a LOGIN \"u\\x\" p") == ["a BAD A backslash in quotes stands before \" and \\ only"])
        #expect(owner.ask("a LOGIN u\u{0} p") == ["a BAD A space is missing"])
        #expect(owner.ask("a LOGIN ~{1}") == ["+ Ready for the literal"])
        #expect(owner.ask("u p") == ["a BAD A space is missing"])
        for _ in 0..<20 { owner.send("a FOO\r\n") }
        #expect(owner.isClosed && owner.replies.hasSuffix("* BYE Too many errors\r\n"))
    }
}

@Suite struct IMAPFolderTests {
    /// RFC 3501 §6.3.1 and RFC 7162 §3.1.2.1: what SELECT must give.
    @Test func select() {
        var mails = Owner.mails([letter, letter])
        mails[0].flags = .seen
        let owner = Owner(mails)
        _ = owner.ask("a LOGIN u p")
        #expect(
            owner.ask("b SELECT inbox") == [
                "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded $MDNSent $Junk $NotJunk)",
                "* 2 EXISTS",
                "* 0 RECENT", "* OK [UNSEEN 2] First unseen", "* OK [UIDVALIDITY 7] UIDs valid",
                "* OK [UIDNEXT 112] Predicted next UID",
                "* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded $MDNSent $Junk $NotJunk)] Kept",
                "* OK [HIGHESTMODSEQ 10] Highest", "b OK [READ-WRITE] SELECT completed",
            ])
        let examined = owner.ask("c EXAMINE INBOX")
        #expect(examined.contains("* OK [PERMANENTFLAGS ()] Kept"))
        #expect(examined.last == "c OK [READ-ONLY] EXAMINE completed")
        #expect(owner.ask("d STORE 1 +FLAGS (\\Deleted)") == ["d NO [READ-ONLY] The folder is read-only"])
        #expect(owner.ask("d EXPUNGE") == ["d NO [READ-ONLY] The folder is read-only"])
        #expect(
            owner.ask("e FETCH 2 BODY[TEXT]<0.5>") == [
                "* 2 FETCH (BODY[TEXT]<0> {5}", "Hello)", "e OK FETCH completed",
            ])
        #expect(owner.folders[0][1].flags == [])
        // RFC 3501 §6.3.1: a SELECT that fails leaves nothing selected.
        #expect(owner.ask("f SELECT nowhere") == ["f NO [NONEXISTENT] No such folder"])
        #expect(owner.ask("g FETCH 1 FLAGS") == ["g BAD Select a folder first"])
        #expect(owner.ask("h SELECT Copies").last == "h OK [READ-ONLY] SELECT completed")
        #expect(owner.ask("i CLOSE") == ["i OK Folder closed"])
        #expect(owner.events == ["login:u:p", "open:0", "open:0:ro", "read:111", "close", "open:1", "close"])
    }

    @Test func names() {
        let owner = Owner()
        _ = owner.ask("a LOGIN u p")
        let inbox = "* LIST (\\Noinferiors) \"/\" INBOX"
        let copies = "* LIST (\\Noinferiors) \"/\" Copies"
        #expect(owner.ask("b LIST \"\" *") == [inbox, copies, "b OK LIST completed"])
        #expect(owner.ask("b LIST \"\" %") == [inbox, copies, "b OK LIST completed"])
        #expect(owner.ask("b LIST \"\" \"in%x\"") == [inbox, "b OK LIST completed"])
        #expect(owner.ask("b LIST Co *s") == [copies, "b OK LIST completed"])
        #expect(owner.ask("b LIST \"\" %/%") == ["b OK LIST completed"])
        #expect(owner.ask("b LIST \"\" \"\"") == ["* LIST (\\Noselect) \"/\" \"\"", "b OK LIST completed"])
        #expect(owner.ask("b LSUB \"\" I*") == ["* LSUB (\\Noinferiors) \"/\" INBOX", "b OK LSUB completed"])
        #expect(owner.ask("c CREATE x/../y") == ["c NO [CANNOT] Folders are fixed here"])
        #expect(owner.ask("c CREATE Copies") == ["c NO [ALREADYEXISTS] The folder exists"])
        #expect(owner.ask("c DELETE INBOX") == ["c NO [CANNOT] Folders are fixed here"])
        #expect(owner.ask("c RENAME x y") == ["c NO [NONEXISTENT] No such folder"])
        #expect(owner.ask("d SUBSCRIBE Copies") == ["d OK SUBSCRIBE completed"])
        #expect(owner.ask("d UNSUBSCRIBE Copies") == ["d NO [CANNOT] Every folder stays subscribed"])
        #expect(owner.ask("e NAMESPACE") == ["* NAMESPACE ((\"\" \"/\")) NIL NIL", "e OK NAMESPACE completed"])
        #expect(
            owner.ask("f ID (\"name\" \"x\" \"version\" NIL)") == ["* ID (\"name\" \"Postern\")", "f OK ID completed"])
        #expect(
            owner.ask("g STATUS inbox (MESSAGES UIDNEXT UIDVALIDITY UNSEEN RECENT)") == [
                "* STATUS INBOX (MESSAGES 0 UIDNEXT 1 UIDVALIDITY 7 UNSEEN 0 RECENT 0)", "g OK STATUS completed",
            ])
    }

    /// Wildcards against names take bounded time (T-D7).
    @Test func wildcards() {
        func matches(_ name: String, _ pattern: String) -> Bool {
            IMAPServerSession.matches(Array(name.utf8), Array(pattern.utf8), anyCase: false)
        }
        #expect(matches("a/b", "*") && matches("a/b", "a/%") && matches("a/b", "%/%") && !matches("a/b", "%"))
        #expect(matches("abc", "a*c") && matches("abc", "abc*") && !matches("abc", "ab") && !matches("", "a"))
        #expect(!matches(String(repeating: "a", count: 200), String(repeating: "*a", count: 400) + "b"))
    }

    /// RFC 9208 §4.2, §5.1: QUOTA, and the items of STATUS that come with it.
    @Test func quota() {
        var mails = Owner.mails(["x", "yz"])
        mails[1].flags = .deleted
        let owner = Owner(mails)
        _ = owner.ask("a LOGIN u p")
        let quota = "* QUOTA \"\" (STORAGE 3 10 MESSAGE 2 100)"
        #expect(owner.ask("b GETQUOTA \"\"") == [quota, "b OK GETQUOTA completed"])
        #expect(owner.ask("c GETQUOTAROOT inbox") == ["* QUOTAROOT INBOX \"\"", quota, "c OK GETQUOTAROOT completed"])
        #expect(owner.ask("d GETQUOTA x") == ["d NO [NONEXISTENT] No such quota root"])
        #expect(owner.ask("e SETQUOTA \"\" (STORAGE 1)") == ["e NO [NOPERM] The provider sets the quota"])
        #expect(
            owner.ask("f STATUS INBOX (DELETED DELETED-STORAGE)").first
                == "* STATUS INBOX (DELETED 1 DELETED-STORAGE 2)")
    }

    /// RFC 3501 §6.3.11: all or nothing, which is nothing here; who waits isn't asked for the message.
    @Test func append() {
        let owner = Owner.selected([])
        #expect(owner.ask("a APPEND INBOX (\\Seen) {310}") == ["a NO [CANNOT] Mail comes by SMTP only"])
        owner.send("b APPEND INBOX {5+}\r\nhello\r\nc NOOP\r\n")
        #expect(owner.take() == ["b NO [CANNOT] Mail comes by SMTP only", "c OK NOOP completed"])
        owner.send("d append INBOX {5000+}\r\n" + String(repeating: "y", count: 5_000) + "\r\ne NOOP\r\n")
        #expect(
            owner.take() == [
                "d BAD [TOOBIG] The literal is too big to be sent without being asked for", "e OK NOOP completed",
            ])
        #expect(owner.ask("f COPY 1:* Copies") == ["f NO [CANNOT] Folders here can't take copies"])
    }
}

@Suite struct IMAPFetchTests {
    /// RFC 3501 §7.4.2's example, as far as it goes.
    @Test func envelopeAndStructure() {
        let owner = Owner.selected(Owner.mails([letter]))
        #expect(
            owner.ask("a FETCH 1 FULL") == [
                "* 1 FETCH (FLAGS () INTERNALDATE \"24-Nov-2026 14:30:00 +0000\" \(rfc)822.SIZE \(letter.utf8.count) ENVELOPE "
                    + "(\"Mon, 7 Feb 1994 21:52:25 -0800 (PST)\" \"afternoon meeting\" "
                    + "((\"Fred Foobar\" NIL \"foobar\" \"Blurdybloop.example\")) "
                    + "((\"Fred Foobar\" NIL \"foobar\" \"Blurdybloop.example\")) "
                    + "((\"Fred Foobar\" NIL \"foobar\" \"Blurdybloop.example\")) "
                    + "((NIL NIL \"mooch\" \"owatagu.siam.edu.example\")) NIL NIL NIL "
                    + "\"<B27397-0100000@Blurdybloop.example>\") "
                    + "BODY (\"TEXT\" \"PLAIN\" (\"charset\" \"US-ASCII\") NIL NIL \"7bit\" 55 1))",
                "a OK FETCH completed",
            ])
        #expect(
            owner.ask("b UID FETCH 101 BODYSTRUCTURE").first
                == "* 1 FETCH (UID 101 BODYSTRUCTURE (\"TEXT\" \"PLAIN\" (\"charset\" \"US-ASCII\") NIL NIL \"7bit\" 55 1 "
                + "NIL NIL NIL NIL))")
        // The structure is known from before.
        #expect(owner.events == ["read:101"])
    }

    @Test func nestedStructure() {
        let owner = Owner.selected(Owner.mails([MIMEScannerTests.nested]))
        #expect(
            owner.ask("a FETCH 1 BODY").first
                == "* 1 FETCH (BODY ((\"text\" \"plain\" NIL NIL NIL \"7bit\" 8 1)(\"message\" \"rfc822\" NIL NIL NIL \"7bit\" "
                + "143 (NIL \"inner\" NIL NIL NIL NIL NIL NIL NIL NIL) ((\"text\" \"html\" (\"charset\" \"utf-8\") NIL NIL "
                + "\"7bit\" 3 0)(\"text\" \"plain\" NIL NIL NIL \"7bit\" 0 0) \"alternative\") 10)(\"application\" \"pdf\" NIL "
                + "NIL NIL \"base64\" 6) \"mixed\"))")
        func section(_ name: String) -> String {
            owner.send("x FETCH 1 BODY.PEEK[\(name)]\r\n")
            return (owner.take() + [""]).joined(separator: "\r\n")
                .replacing("* 1 FETCH (BODY[\(name)] ", with: "")
                .replacing(")\r\nx OK FETCH completed\r\n", with: "")
        }
        #expect(section("1") == "{8}\r\none\r\ntwo")
        #expect(section("1.MIME") == "{2}\r\n\r\n")
        #expect(section("2.1.MIME") == "{42}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n")
        #expect(section("2.HEADER.FIELDS (subject)") == "{18}\r\nSubject: inner\r\n\r\n")
        #expect(section("2.HEADER.FIELDS.NOT (CONTENT-TYPE)") == "{18}\r\nSubject: inner\r\n\r\n")
        #expect(section("2.TEXT").hasPrefix("{74}\r\n--a  \r\n"))
        #expect(section("2.1") == "{3}\r\n<p>" && section("3") == "{6}\r\nAAAA\r\n")
        #expect(section("9") == "NIL" && section("1.TEXT") == "NIL" && section("2.1.1") == "NIL")
        #expect(section("HEADER.FIELDS (X-None)") == "{2}\r\n\r\n")
        #expect(section("TEXT").hasSuffix("over\r\n"))
        #expect(owner.folders[0][0].flags == [])
    }

    /// RFC 3501 §6.4.5: the parts of the whole, partial fetches, and `\Seen`.
    @Test func sections() {
        var mails = Owner.mails(["B: c\r\n\r\nhello\r\n"])
        mails[0].prefix = Array("Return-Path: <a@b>\r\nDelivered-To: c@d\r\n".utf8)
        let owner = Owner.selected(mails)
        #expect(owner.ask("a FETCH 1 \(rfc)822.SIZE").first == "* 1 FETCH (\(rfc)822.SIZE 54)")
        #expect(
            owner.ask("b FETCH 1 BODY.PEEK[]<35.10>") == [
                "* 1 FETCH (BODY[]<35> {10}", "@d", "B: c", ")", "b OK FETCH completed",
            ])
        #expect(owner.ask("b FETCH 1 (BODY.PEEK[]<99.5>)").first == "* 1 FETCH (BODY[]<99> {0}")
        #expect(
            owner.ask("c FETCH 1 (\(rfc)822.HEADER)") == [
                "* 1 FETCH (\(rfc)822.HEADER {47}", "Return-Path: <a@b>", "Delivered-To: c@d", "B: c", "", ")",
                "c OK FETCH completed",
            ])
        #expect(owner.folders[0][0].flags == [])
        #expect(
            owner.ask("d FETCH 1 BODY[TEXT]") == [
                "* 1 FETCH (BODY[TEXT] {7}", "hello", " FLAGS (\\Seen))", "d OK FETCH completed",
            ])
        #expect(owner.folders[0][0].flags == .seen)
        #expect(
            owner.ask("e FETCH 1 \(rfc)822.TEXT") == [
                "* 1 FETCH (\(rfc)822.TEXT {7}", "hello", ")", "e OK FETCH completed",
            ])
        owner.folders[0][0].flags = []
        owner.session.flagsChanged([IMAPMessage(uid: 101, flags: [], modSequence: 5)])
        #expect(owner.ask("f FETCH 1 (\(rfc)822 FLAGS)").last == "f OK FETCH completed")
        #expect(owner.folders[0][0].flags == .seen)
    }

    @Test func sets() {
        let owner = Owner.selected(Owner.mails(["a", "b", "c"]))
        #expect(
            owner.ask("a FETCH 3,1:2,2 UID").dropLast() == [
                "* 1 FETCH (UID 101)", "* 2 FETCH (UID 111)", "* 3 FETCH (UID 121)",
            ])
        #expect(owner.ask("a FETCH *:2 UID").dropLast() == ["* 2 FETCH (UID 111)", "* 3 FETCH (UID 121)"])
        #expect(owner.ask("a FETCH 4 UID") == ["a BAD No message has such a number"])
        #expect(owner.ask("a FETCH 0 UID") == ["a BAD 0 is no number of a message"])
        // RFC 3501 §6.4.8: by UID, what isn't there is passed over, and * is the last one.
        #expect(owner.ask("a UID FETCH 500:* UID").dropLast() == ["* 3 FETCH (UID 121)"])
        #expect(owner.ask("a UID FETCH 102:120,4294967295 FLAGS").dropLast() == ["* 2 FETCH (UID 111 FLAGS ())"])
        #expect(Owner.selected([]).ask("a FETCH 1:* FLAGS") == ["a BAD No message has such a number"])
        #expect(Owner.selected([]).ask("a UID FETCH 1:* FLAGS") == ["a OK FETCH completed"])
    }

    @Test func unreadable() {
        let owner = Owner.selected(Owner.mails([letter, letter]))
        owner.unreadable = [101]
        let reply = owner.ask("a FETCH 1:2 ENVELOPE")
        #expect(reply.count == 2 && reply[0].hasPrefix("* 2 FETCH (ENVELOPE (\"Mon"))
        #expect(reply[1] == "a NO [UNAVAILABLE] Some messages can't be read")
    }

    /// Replies that pile up are sent before more is made; so is a long way without one.
    @Test func manyMessages() {
        var settings = Owner.settings
        settings.outputPauseBytes = 200
        settings.turnMessagesMax = 100
        let owner = Owner.selected(Owner.mails(Array(repeating: "x", count: 1_000)), settings: settings)
        #expect(owner.ask("a FETCH 1:* (UID FLAGS)").count == 1_001)
        #expect(owner.ask("b SEARCH UNSEEN").first?.split(separator: " ").count == 1_002)
        #expect(owner.events.filter { $0 == "workLeft" }.count == 9)
        #expect(owner.ask("c FETCH 1:* (FLAGS) (CHANGEDSINCE 5)").count == 2)
        #expect(owner.ask("d STORE 1:* +FLAGS.SILENT (\\Deleted)").count == 1_001)
        #expect(owner.ask("e EXPUNGE").filter { $0.hasSuffix("EXPUNGE") }.count == 1_000)
        #expect(owner.folders[0].isEmpty)
    }
}
