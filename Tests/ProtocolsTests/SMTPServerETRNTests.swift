import Testing

@testable import Protocols

/// ETRN and AUTH on the ports of senders (RFC 1985, RFC 4954).
struct SMTPServerETRNTests {
    private static let settings: SMTPServerSettings = {
        var settings = SMTPServerSettings(hostname: "mx.example")
        settings.offersETRN = true
        return settings
    }()

    private func owner(offersAUTH: Bool = true, isTLS: Bool = false) -> SMTPServerOwner {
        let owner = SMTPServerOwner(Self.settings, isTLS: isTLS, offersAUTH: offersAUTH)
        owner.send("EHLO customer.test\r\n")
        return owner
    }

    @Test("RFC 1985 §5: what is offered is announced, and what is not offered does not exist") func announced() {
        #expect(owner().replies.contains("250-ETRN\r\n250-AUTH SCRAM-SHA-256 CRAM-MD5\r\n"))
        #expect(owner(isTLS: true).replies.contains("250-AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN\r\n"))
        #expect(!owner(offersAUTH: false).replies.contains("AUTH"))
        let none = SMTPServerOwner(SMTPServerSettings(hostname: "mx.example"))
        none.send("EHLO c.test\r\nETRN altn.test\r\nAUTH PLAIN\r\n")
        #expect(!none.replies.contains("250-ETRN") && none.codes() == ["220", "250", "502", "502"])
    }

    @Test("RFC 1985 §5.1: each reply") func replies() {
        let replies: [(ETRNReply, String)] = [
            (.started(.domain(QualifiedDomain("altn.test")!)), "250"), (.nothingWaits(.queue("q")), "251"),
            (.pendingStarted(.queue("q")), "252"), (.pendingCountStarted(3, .queue("q")), "253"),
            (.unable(.queue("q")), "458"), (.notAllowed(.queue("q")), "459"), (.authenticationRequired, "530"),
        ]
        for (reply, code) in replies {
            let owner = owner()
            _ = owner.codes()
            owner.etrnReply = { _ in reply }
            owner.send("ETRN altn.test\r\n")
            #expect(owner.codes() == [code])
        }
        let owner = owner()
        _ = owner.codes()
        owner.send("ETRN\r\nETRN localhost\r\nETRN [192.0.2.1]\r\nETRN #\r\nETRN #two words\r\nETRN a.test b.test\r\n")
        #expect(owner.codes() == ["500", "501", "501", "501", "501", "501"])
        owner.send("etrn @Altn.Test\r\nETRN #queue-1\r\n")
        #expect(owner.events.suffix(2) == ["etrn:@altn.test of nobody", "etrn:#queue-1 of nobody"])
    }

    @Test("RFC 1985 §5: not before EHLO, and not within a transaction; nor AUTH (RFC 4954 §4)") func order() {
        let early = SMTPServerOwner(Self.settings, offersAUTH: true)
        early.send("ETRN altn.test\r\nAUTH CRAM-MD5\r\n")
        #expect(early.codes() == ["220", "503", "503"])
        let owner = owner()
        _ = owner.codes()
        owner.send("MAIL FROM:<a@b.test>\r\nETRN altn.test\r\nAUTH CRAM-MD5\r\nRCPT TO:<c@d.test>\r\n")
        #expect(owner.codes() == ["250", "503", "503", "250"])
    }

    @Test("who is authenticated is known to ETRN, until TLS begins; cut at every byte it is the same")
    func authenticated() {
        let dialog = "AUTH PLAIN AGFsdG4udGVzdABzM2NyZXQgd29yZA==\r\nETRN altn.test\r\nAUTH PLAIN\r\nNOOP\r\n"
        for cut in 0...dialog.utf8.count {
            let owner = owner(isTLS: true)
            _ = owner.codes()
            let bytes = Array(dialog.utf8)
            owner.send(Array(bytes[..<cut]))
            owner.send(Array(bytes[cut...]))
            #expect(owner.codes() == ["235", "251", "503", "250"], "cut at \(cut)")
            #expect(owner.events.suffix(2) == ["authenticated:altn.test", "etrn:altn.test of altn.test"])
        }
        var settings = Self.settings
        settings.offersStartTLS = true
        let owner = SMTPServerOwner(settings, offersAUTH: true)
        owner.send("EHLO c.test\r\n")
        _ = owner.codes()
        owner.send("AUTH PLAIN AGFsdG4udGVzdABzM2NyZXQgd29yZA==\r\n")
        #expect(owner.codes() == ["504"])
    }

    @Test("a response that is wrong, cancelled, no base64 or endless") func responses() {
        let wrong = [("AGFsdG4udGVzdAB3cm9uZw==", "535"), ("*", "501"), ("!", "501"), ("=", "501")]
        for (response, code) in wrong {
            let owner = owner(isTLS: true)
            _ = owner.codes()
            owner.send("AUTH PLAIN\r\n\(response)\r\nNOOP\r\n")
            #expect(owner.codes() == ["334", code, "250"], "\(response)")
        }
        let owner = owner(isTLS: true)
        _ = owner.codes()
        owner.send("AUTH PLAIN\r\n" + String(repeating: "A", count: SASLLimits.lineMaxBytes))
        #expect(owner.codes() == ["334", "500"] && owner.isClosed)
        let bare = self.owner(isTLS: true)
        _ = bare.codes()
        bare.send("AUTH PLAIN\r\nAAAA\n")
        #expect(bare.codes() == ["334", "500"] && bare.isClosed)
    }
}
