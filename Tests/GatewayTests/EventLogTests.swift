import Foundation
import Protocols
import Reactor
import Testing

@testable import Gateway

/// Each event is one line of `key=value`, whatever strangers put into it.
struct EventLogTests {
    private func lines(_ body: (EventLog) -> Void) throws -> [String] {
        let path = NSTemporaryDirectory() + "event-log-\(UInt64.random(in: 0...UInt64.max))"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let world = SimulatedWorld(seed: 1)
        let writer = try LogWriter(path: path)
        let log = EventLog(
            writer: writer, level: .info, reactor: Reactor(backend: world.makeBackend(index: 0)),
            counters: Counters())
        body(log)
        log.flush()
        writer.shutDown()
        return try String(contentsOfFile: path, encoding: .utf8).split(
            separator: "\n", omittingEmptySubsequences: false
        )
        .map(String.init)
    }

    private static let id = QueueID(milliseconds: 1_767_225_600_000, start: 1, reactor: 0, counter: 1)

    /// The defence: `EventLog.value`.
    @Test(
        "T-G3: no value can break its line, hide what follows it, or be endless",
        arguments: [
            "a\r\nb event=accepted", "\u{1b}[2Jx", "\0", "\u{7f}", "a b", "\"quoted\" end", "back\\slash",
            "\u{2028}\u{85}",
            "грета", "", "a\tb", String(repeating: "x", count: 100_000), String(repeating: "\n", count: 5_000),
            "x\" event=\"forged",
        ])
    func injection(_ text: String) throws {
        let reply = Reply(550, EnhancedStatus(5, 1, 1), text)
        let written = try lines { log in
            log.sessionBegan(text, client: text, listener: "smtp")
            log.accepted(
                Self.id.description, from: text, recipients: 1, gateways: 1, bytes: 5, client: text, session: text)
            log.refused(text, client: text, session: text, reply: reply)
            log.attempt(
                Self.id, to: text, domain: text, relay: text, delayMilliseconds: 1_230, outcome: "sent", reply: reply)
            log.alarm(text, gateway: text, id: Self.id, text)
            log.note(.warning, "x", text)
            log.sessionEnded(text, client: text, how: text, messages: 1)
        }
        #expect(written.count == 8 && written.last == "")
        for line in written.dropLast() {
            #expect(line.utf8.allSatisfy { $0 >= 32 && $0 < 127 }, "\(line.prefix(200))")
            #expect(line.hasPrefix("2026-01-01T00:00:"))
            #expect(line.utf8.count < 20_000)
            // The quotes come in pairs, and outside of them there is one `event` at most.
            var (outside, isQuoted, isEscaped) = ("", false, false)
            for character in line {
                if isEscaped {
                    isEscaped = false
                } else if character == "\\" {
                    isEscaped = true
                } else if character == "\"" {
                    isQuoted.toggle()
                } else if !isQuoted {
                    outside.append(character)
                }
            }
            #expect(!isQuoted)
            #expect(outside.split(separator: " ").filter { $0.hasPrefix("event=") }.count <= 1, "\(line.prefix(200))")
            #expect(outside.split(separator: " ").dropFirst().allSatisfy { $0.contains("=") }, "\(line.prefix(200))")
        }
    }

    @Test func linesReadAsPromised() throws {
        let written = try lines { log in
            log.attempt(
                Self.id, to: "a@b.example", domain: "b.example", relay: "192.0.2.1:25", delayMilliseconds: 342,
                outcome: "sent", reply: Reply(250, EnhancedStatus(2, 0, 0), "ok"))
            log.attempt(
                Self.id, to: "a@b.example", domain: "b.example", relay: "none", delayMilliseconds: 61_005,
                outcome: "deferred", reply: Reply(451, nil, "lost"))
        }
        #expect(
            written[0].hasSuffix(
                " id=\(Self.id) to=<a@b.example> gateway=b.example relay=192.0.2.1:25 delay=0.34 dsn=2.0.0 outcome=sent reply=\"250 2.0.0 ok\""
            ))
        #expect(written[1].contains(" delay=61.00 outcome=deferred reply=\"451 lost\""))
    }

    @Test func belowItsLevelNothingIsWritten() throws {
        #expect(try lines { $0.note(.debug, "x", "y") } == [""])
    }
}
