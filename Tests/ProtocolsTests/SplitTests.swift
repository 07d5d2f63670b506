import Testing

@testable import Protocols

/// What must not depend on where the network cuts, and is in no dialogue of Tests/Dialogs.
@Suite struct SplitTests {
    private static var small: SMTPServerSettings {
        var settings = SMTPServerOwner.settings
        settings.messageSizeMax = 40
        settings.discardMaxBytes = 30
        return settings
    }

    private func outcome(_ settings: SMTPServerSettings, _ pieces: [[UInt8]]) -> [String] {
        let owner = SMTPServerOwner(settings)
        for piece in pieces { owner.send(piece) }
        return [owner.replies, "\(owner.messages.map(\.content))", "\(owner.isClosed)"] + owner.events
    }

    private func check(
        _ settings: SMTPServerSettings, _ text: String, _ sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let bytes = [UInt8](text.utf8)
        let whole = outcome(settings, [bytes])
        for cuts in Cuts.all(bytes.count, pairsUpTo: 0) {
            let cut = outcome(settings, cuts.pieces(of: bytes, from: 0))
            guard cut == whole else {
                Issue.record("\(text.debugDescription) \(cuts): \(cut), not \(whole)", sourceLocation: sourceLocation)
                return
            }
        }
    }

    private static let start = "EHLO c\r\n" + SMTPServerOwner.envelope + "DATA\r\n"

    /// Content beyond the limits, ended in each way, with lines of each length around them.
    @Test("T-D4: where refused content is cut doesn't decide how the session goes on", arguments: 30...90)
    func refusedContent(_ count: Int) {
        for text in [
            String(repeating: "x", count: count), String(repeating: ".....\r\n", count: count / 7),
            String(repeating: "xxxx\r\n", count: count / 6),
        ] {
            check(Self.small, Self.start + text + "\r\n.\r\nNOOP\r\n")
        }
    }

    /// Past the limit the message is too big, whatever else is wrong with it; before, it is what is wrong.
    @Test("T-A1: a bare line ending at the size limit has one answer", arguments: 35...45)
    func bareAtLimit(_ count: Int) {
        for sequence in ["\n", "\rx", "\r\r\n", "\r\n.\rx", "\r\n.\n"] {
            check(Self.small, Self.start + String(repeating: "x", count: count) + sequence + "\r\n.\r\nNOOP\r\n")
        }
    }

    @Test("T-A3: where refused chunks are cut doesn't decide how the session goes on")
    func refusedChunks() {
        for count in 25...35 {
            let octets = String(repeating: "x", count: count)
            let start = "EHLO c\r\n" + SMTPServerOwner.envelope
            check(Self.small, start + "BDAT 10\r\n\(octets.prefix(10))BDAT \(count) LAST\r\n\(octets)NOOP\r\n")
            check(Self.small, start + "BDAT \(count)\r\n\(octets)BDAT \(count) LAST\r\n\(octets)NOOP\r\n")
            // Two refused ones count together.
            let half = octets.prefix(count / 2)
            check(
                Self.small,
                "EHLO c\r\nMAIL FROM:<a@b>\r\nBDAT 15\r\n\(octets.prefix(15))BDAT \(half.count) LAST\r\n\(half)NOOP\r\n"
            )
        }
    }

    @Test("T-A5: where an over-long line is cut doesn't decide how the session goes on")
    func overlongLines() {
        var settings = SMTPServerOwner.settings
        (settings.lineMaxBytes, settings.overlongMaxBytes) = (20, 30)
        for count in 14...34 {
            check(settings, "NOOP " + String(repeating: "x", count: count) + "\r\nNOOP\r\n")
            check(settings, "BDAT " + String(repeating: " ", count: count) + "3\r\nabcNOOP\r\n")
        }
    }

    @Test("T-C3: a malformed PROXY header is the same one however it is cut")
    func malformedProxyHeaders() {
        let signature = "\r\n\r\n\0\r\nQUIT\n"
        let texts = [
            "EHLO x\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", "PROXY TCP5 a b c d\r\n", "PROXY \r\n",
            "PROXY TCP4 192.0.2.1\r\n", "PROXY UNKNOWN " + String(repeating: "f", count: 200), "\r\n\r\nX",
            signature + "\u{11}\u{11}\0\u{c}", signature + "!\u{12}\0\u{c}", signature + "!\u{11}\0\u{b}",
            signature + "!!\0\u{b}",
            signature + "!\u{11}\u{7f}\u{7f}",
        ]
        for text in texts {
            let bytes = [UInt8](text.utf8)
            let whole = bytes.withUnsafeBytes { ProxyHeader.parse($0) }
            guard case .invalid = whole else {
                Issue.record("\(text.debugDescription) is well-formed")
                continue
            }
            for count in 0...bytes.count {
                let parse = bytes[..<count].withUnsafeBytes { ProxyHeader.parse($0) }
                #expect(parse == .needMore || parse == whole, "\(text.debugDescription) cut at \(count)")
            }
        }
    }

    /// Replies that are none: at any cut the same fault, or none yet.
    @Test func malformedRepliesAreTheSameHoweverTheyAreCut() {
        for text in [
            "hello\r\n", "99 x\r\n", "250-a\r\n251 b\r\n", "250 a\n", "250x\r\n", "25\r\n", "\r\n", "600 x\r\n",
            "250-" + String(repeating: "x", count: 3_000) + "\r\n", "250 a\0b\r\n", "250 a\rb\r\n",
        ] {
            let bytes = [UInt8](text.utf8)
            func events(_ pieces: [[UInt8]]) -> [String] {
                var parser = SMTPReplyParser()
                var pending: [UInt8] = []
                var events: [String] = []
                for piece in pieces {
                    pending += piece
                    loop: while true {
                        var consumed = 0
                        let (input, event) = (pending, pending.withUnsafeBytes { parser.next($0, consumed: &consumed) })
                        pending.removeFirst(consumed)
                        switch event {
                        case .needMore: break loop
                        case .fault(let fault):
                            events.append("\(fault)")
                            return events
                        case .line(let code, let text, let isFirst, let isLast):
                            events.append(
                                "\(code) \(String(decoding: input[text], as: UTF8.self)) \(isFirst) \(isLast)")
                        }
                    }
                }
                return events
            }
            let whole = events([bytes])
            for cuts in Cuts.all(bytes.count, pairsUpTo: 20) {
                #expect(events(cuts.pieces(of: bytes, from: 0)) == whole, "\(text.prefix(40).debugDescription) \(cuts)")
            }
        }
    }
}
