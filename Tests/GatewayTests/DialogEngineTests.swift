import Foundation
import Protocols
import Reactor
import Testing

@testable import Gateway

private let certificate = Result { try SelfSignedCertificate.make(hostname: SimulatedGateway.hostname) }

/// What a dialogue's client learnt, and what was stored.
private struct EngineOutcome: Equatable {
    var replies: [String] = []
    var isClosed = false
    /// Reverse-path, forward-paths, content without our trace header; in the order of the ids.
    var stored: [String] = []
}

/// Plays the client of a dialogue against a gateway of one reactor.
private struct EngineReplay {
    let dialog: Dialog

    /// The part behind it is in DialogTests, and with a real handshake in TLSEngineTests: here nobody shakes hands, and
    /// what comes in the clear instead ends the session.
    var hasTLS: Bool { dialog.steps.contains { if case .tls = $0 { true } else { false } } }

    private static func gateway(_ dialog: Dialog) throws -> SimulatedGateway {
        let tls = try TLSContext(server: [try certificate.get().certificate], sessionContext: "smtp")
        let gateway = try SimulatedGateway(cores: 1, "demo.test hold=true", "off.test enabled=false") { settings in
            settings.hostname = "mx.gateway.test"
            settings.messageSizeMax = 65_536
            settings.serverTLS = tls
            if dialog.with.contains("xclient") { settings.trust.xclient = [IPNetwork("203.0.113.0/24")!] }
            if dialog.with.contains("proxy") { settings.trust.proxy = [IPNetwork("203.0.113.0/24")!] }
        }
        for suffix in ["plain", "dsn", "tls"] {
            for sender in ["postfix", "exim", "opensmtpd"] {
                try gateway.create("\(sender).\(suffix).demo.test hold=true")
            }
        }
        gateway.ready()
        return gateway
    }

    /// Each reply whole, its lines joined as `ScriptedClient` has them.
    private static func replies(_ text: String) -> [String] {
        var list: [String] = []
        var lines: [Substring] = []
        for line in text.split(separator: "\r\n", omittingEmptySubsequences: true) {
            lines.append(line)
            guard !line.dropFirst(3).hasPrefix("-") else { continue }
            list.append(lines.joined(separator: "\n"))
            lines = []
        }
        return list
    }

    func run(_ cuts: Cuts) throws -> (outcome: EngineOutcome, expected: EngineOutcome) {
        let gateway = try Self.gateway(dialog)
        let client = ScriptedClient(gateway)
        var expected = EngineOutcome()
        var offset = 0
        loop: for step in dialog.steps {
            switch step {
            case .client(let bytes):
                for piece in cuts.pieces(of: bytes, from: offset) {
                    client.peer.send(piece)
                    // Until it has been read: then nothing happens any more.
                    guard !cuts.places.isEmpty else { continue }
                    // Not until the next timer, which would make a slow peer of it.
                    gateway.world.after(10_000_000) {}
                    gateway.pass(seconds: 0.01)
                }
                offset += bytes.count
            case .server(let bytes):
                expected.replies += Self.replies(String(decoding: bytes, as: UTF8.self))
                gateway.run { client.replies.count >= expected.replies.count || client.end != nil }
            case .closed: gateway.run { client.end != nil }
            case .tls: break loop
            }
        }
        gateway.pass(seconds: 0.1)
        var outcome = EngineOutcome()
        outcome.replies = client.replies.map(Dialog.withoutIDs)
        if !hasTLS {
            outcome.isClosed = client.end != nil
            expected.isClosed = expected.replies.last?.hasPrefix("221") == true
            if case .closed? = dialog.steps.last { expected.isClosed = true }
        }
        for message in gateway.queue.sorted(by: { $0.id < $1.id }) {
            let id = try #require(QueueID(message.id[...]))
            for case .content(let bytes) in gateway.ask(.export(id)) {
                outcome.stored.append("\(message.from) \(message.recipients) \(Self.withoutTrace(bytes))")
            }
        }
        return (outcome, expected)
    }

    /// What came, as text of bytes; our one field ends with the first line that nothing continues.
    private static func withoutTrace(_ bytes: [UInt8]) -> String {
        guard bytes.starts(with: Array("Received: ".utf8)) else { return "no trace header" }
        var at = 0
        while let feed = bytes[at...].firstIndex(of: 10) {
            at = feed + 1
            guard at < bytes.count, bytes[at] == 9 || bytes[at] == 32 else { break }
        }
        return String(describing: Array(bytes[at...]))
    }

    /// All bytes alone, and places here and there, others for each dialogue.
    func cuts() -> [Cuts] {
        let count = dialog.bytes(of: .client).count
        guard count > 1 else { return [] }
        let first = dialog.name.utf8.reduce(7) { ($0 &* 31 &+ Int($1)) & 0xffff }
        let places = (0..<8).map { 1 + (first &+ $0 &* (count / 8 + 1)) % (count - 1) }
        return (count < 700 ? [Cuts(places: Array(1..<count))] : []) + places.map { Cuts(places: [$0]) }
            + [Cuts(places: Set(places).sorted())]
    }
}

/// client ▶ network that cuts ▶ session ▶ spool: the dialogues of Tests/Dialogs, through a whole gateway.
struct DialogEngineTests {
    @Test("through the gateway, each dialogue is the same however it is cut", arguments: Dialog.all(.server))
    func throughTheGateway(_ dialog: Dialog) throws {
        let replay = EngineReplay(dialog: dialog)
        let (whole, expected) = try replay.run(Cuts(places: []))
        #expect(whole.replies == expected.replies)
        #expect(whole.isClosed == expected.isClosed)
        if replay.hasTLS { #expect(whole.stored.isEmpty) }
        if let messages = dialog.messages, !replay.hasTLS {
            #expect(whole.stored.count == messages.count)
            for (stored, content) in zip(whole.stored, messages) {
                // A message ends in CRLF where it is stored.
                let ends = content.isEmpty || content.suffix(2).elementsEqual([13, 10])
                #expect(stored.hasSuffix(String(describing: content + (ends ? [] : [13, 10]))))
            }
        }
        for cuts in replay.cuts() {
            let cut = try replay.run(cuts).outcome
            #expect(cut == whole, "\(cuts)")
        }
    }
}
