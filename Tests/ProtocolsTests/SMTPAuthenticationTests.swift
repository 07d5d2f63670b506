import Testing

@testable import Protocols

private func base64(_ text: String) -> [UInt8] { Base64.encode(Array(text.utf8)) }
private func string(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

/// AUTH as a server's machine owns it.
@Suite struct SMTPAuthenticationTests {
    private let directory = SASLDirectory()

    /// Events, answered at once, and what was written.
    private func run(_ lines: [String], isTLS: Bool = true) -> (String, [SMTPAuthentication.Event], String?) {
        var authentication = SMTPAuthentication(offer: SASLOffer(context: directory.context), isTLS: isTLS)
        var output = ByteOutput()
        var events: [SMTPAuthentication.Event] = []
        for line in lines {
            var event = Array(line.utf8).withUnsafeBytes { bytes in
                authentication.isUnderWay
                    ? authentication.received(bytes, into: &output) : authentication.start(bytes, into: &output)
            }
            events.append(event)
            if case .ask(let question) = event {
                event = authentication.answer(directory.answer(question), into: &output)
                events.append(event)
            }
        }
        return (string(output.array), events, authentication.user)
    }

    private var plain: String { string(base64("\0\(SASLDirectory.user)\0\(SASLDirectory.password)")) }

    @Test("RFC 4954 §4.1: PLAIN with its response along, and behind an empty challenge") func examples() {
        #expect(run(["PLAIN \(plain)"]).0 == "235 2.7.0 Authenticated\r\n")
        #expect(run(["plain", plain]).0 == "334 \r\n235 2.7.0 Authenticated\r\n")
        #expect(run(["PLAIN \(plain)"]).2 == SASLDirectory.user)
        #expect(run(["LOGIN", string(base64("x"))]).0 == "334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n")
    }

    @Test("RFC 4954 §4, §6: each refusal, after which the client may try again") func refusals() {
        for (lines, reply) in [
            ([""], "501 5.5.4"), (["KERBEROS_V4"], "504 5.5.4"), (["PLAIN *"], "501 5.5.2"),
            (["PLAIN", "*"], "501 5.7.0"),
            (["PLAIN ="], "501 5.5.4"), (["PLAIN AAA"], "501 5.5.2"), (["CRAM-MD5 AAAA"], "501 5.7.0"),
            (["PLAIN \(string(base64("\0a\0b")))"], "535 5.7.8"), (["EXTERNAL ="], "504 5.5.4"),
            (["SCRAM-SHA-256-PLUS"], "504 5.5.4"), (["PLAIN  \(plain)"], "501 5.5.2"),
        ] {
            let (text, events, user) = run(lines)
            #expect(text.split(separator: "\r\n").last?.hasPrefix(reply) == true, "\(lines): \(text)")
            #expect(user == nil && !events.isEmpty)
            let again = run(lines + ["PLAIN \(plain)"])
            #expect(again.2 == SASLDirectory.user, "\(lines)")
        }
    }

    @Test("RFC 4954 §4: no plaintext mechanism without TLS, none after success") func order() {
        #expect(run(["PLAIN \(plain)"], isTLS: false).0.hasPrefix("504 5.5.4 "))
        #expect(run(["PLAIN \(plain)", "PLAIN \(plain)"]).0.hasSuffix("503 5.5.1 You are authenticated\r\n"))
        #expect(
            SMTPAuthentication(offer: SASLOffer(context: directory.context), isTLS: false).announcement
                == "AUTH SCRAM-SHA-256 CRAM-MD5")
    }

    @Test("RFC 4954 §6: a directory that is down is not the client's fault") func unavailable() {
        var authentication = SMTPAuthentication(offer: SASLOffer(context: directory.context), isTLS: true)
        var output = ByteOutput()
        _ = Array("PLAIN \(plain)".utf8).withUnsafeBytes { authentication.start($0, into: &output) }
        _ = authentication.answer(.unavailable, into: &output)
        #expect(string(output.array) == "454 4.7.0 Temporary authentication failure\r\n")
    }

    @Test("RFC 4954 §4: a response that is too long, and one as long as may be") func length() {
        var authentication = SMTPAuthentication(offer: SASLOffer(context: directory.context), isTLS: true)
        var output = ByteOutput()
        _ = Array("PLAIN".utf8).withUnsafeBytes { authentication.start($0, into: &output) }
        #expect(authentication.isUnderWay)
        _ = authentication.tooLong(into: &output)
        #expect(string(output.array).hasSuffix("500 5.5.6 Response is too long\r\n") && !authentication.isUnderWay)
        let most = String(repeating: "A", count: 12_284)
        #expect(run(["PLAIN", most]).0.hasSuffix("501 5.5.4 Malformed response\r\n"))
    }
}
