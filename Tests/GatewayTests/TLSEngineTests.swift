import Protocols
import Reactor
import Testing

@testable import Gateway

private let certificate = Result { try SelfSignedCertificate.make(hostname: SimulatedGateway.hostname) }

/// A client that speaks in the clear until it shakes hands.
private final class TLSClient {
    private let gateway: SimulatedGateway
    private var peer: SimulatedPeer!
    private var session: TLSSession?
    /// In the clear, and inside.
    private(set) var plain = ""
    private(set) var inside = ""
    private(set) var isEnded = false
    private(set) var wasClosedInOrder = false
    /// What the server sent instead of TLS.
    private(set) var fault: TLSFault?

    init(_ gateway: SimulatedGateway) {
        self.gateway = gateway
        peer = gateway.world.client(
            to: SimulatedGateway.port, from: SocketAddress(IPAddress("203.0.113.9")!, port: 0)
        ) { peer in
            peer.onReceive = { [self] _, bytes in received(bytes) }
            peer.onEnd = { [self] peer, _ in
                isEnded = true
                peer.close()
            }
        }
    }

    private func received(_ bytes: [UInt8]) {
        guard let session else {
            plain += String(decoding: bytes, as: UTF8.self)
            return
        }
        bytes.withUnsafeBytes { bytes in
            do throws(TLSFault) { try session.receive(bytes) } catch { fault = error }
        }
        var buffer = [UInt8](repeating: 0, count: 4_096)
        loop: while true {
            switch buffer.withUnsafeMutableBytes({ session.read(into: $0) }) {
            case .bytes(let count): inside += String(decoding: buffer[..<count], as: UTF8.self)
            case .wantsMore: break loop
            case .closed:
                wasClosedInOrder = true
                break loop
            case .failed(let fault):
                self.fault = fault
                break loop
            }
        }
        flush()
    }

    private func flush() {
        guard let session else { return }
        var buffer = [UInt8](repeating: 0, count: 16_384)
        while session.pendingCiphertext > 0 {
            let count = buffer.withUnsafeMutableBytes { session.takeCiphertext(into: $0) }
            peer.send(Array(buffer[..<count]))
        }
    }

    func sendPlain(_ text: String) { peer.send(text) }
    var isEstablished: Bool { if case .established? = session?.handshake { true } else { false } }
    func sendRaw(_ bytes: [UInt8]) { peer.send(bytes) }

    /// Waits until `isDone`, or the end.
    @discardableResult
    func wait(_ seconds: Double = 60, _ isDone: () -> Bool) -> Bool {
        gateway.run(seconds: seconds) { isDone() || isEnded }
        return isDone()
    }

    func handshake() throws {
        session = try TLSSession(client: try TLSContext(client: .nothing), serverName: nil, verify: false)
        flush()
        wait { if case .established = session!.handshake { true } else { fault != nil } }
    }

    /// The replies' last lines of what is said now.
    func say(_ text: String, replies: Int = 1) -> [String] {
        inside = ""
        let bytes = Array(text.utf8)
        #expect(bytes.withUnsafeBytes { session!.write($0) } == bytes.count)
        flush()
        let lines = {
            self.inside.split(separator: "\r\n").filter { $0.dropFirst(3).first == " " }.map(String.init)
        }
        wait { lines().count >= replies }
        return lines()
    }

    /// A close_notify without the end of the connection, then bytes in the clear.
    func closeNotify(then plain: String) {
        session!.close()
        flush()
        peer.send(plain)
    }

    func finish() { peer.finish() }
}

/// client ─STARTTLS▶ handshake ▶ session: what was said in the clear counts no more, and what breaks off stores nothing.
struct TLSEngineTests {
    private func world(seed: UInt64 = 1, segmentMaxBytes: Int = 8_192) throws -> SimulatedGateway {
        let tls = try TLSContext(server: [try certificate.get().certificate], sessionContext: "smtp")
        var settings = SimulatedSettings.quiet
        settings.segmentMaxBytes = segmentMaxBytes
        let gateway = try SimulatedGateway(
            seed: seed, cores: 1, world: settings, "demo.test hold=true"
        ) { $0.serverTLS = tls }
        gateway.ready()
        return gateway
    }

    /// What comes in one read with STARTTLS is dropped, what comes later is read as a handshake and ends the session: the
    /// seed's network decides, and some of each must be met. The defence: `consumed = input.count` at STARTTLS, in the
    /// machine and in `ReceiveSession.work`.
    @Test("T-B1, T-B2: commands pipelined behind STARTTLS are gone, and so is all that was said before")
    func injection() throws {
        var (dropped, ended) = (0, 0)
        for seed in UInt64(1)...40 {
            let gateway = try world(seed: seed)
            let client = TLSClient(gateway)
            client.wait { client.plain.hasPrefix("220 ") }
            client.sendPlain("EHLO c.test\r\n")
            client.wait { client.plain.hasSuffix("MAILMAX=1000\r\n") }
            client.sendPlain("STARTTLS\r\nMAIL FROM:<evil@sender.test>\r\nRCPT TO:<x@demo.test>\r\nNOO")
            client.wait { client.plain.hasSuffix("start TLS\r\n") }
            try client.handshake()
            guard client.isEstablished else {
                #expect(client.wait { client.isEnded } && !client.plain.contains("250 2.1.0"))
                ended += 1
                continue
            }
            dropped += 1
            #expect(client.plain.hasSuffix("220 2.0.0 Ready to start TLS\r\n"))
            // Not executed, and half a command is not the beginning of the next.
            #expect(client.say("P\r\n") == ["500 5.5.2 Command not recognized"])
            #expect(client.say("MAIL FROM:<a@sender.test>\r\n") == ["503 5.5.1 Say EHLO first"])
            #expect(client.say("EHLO c.test\r\n").count == 1 && !client.inside.contains("STARTTLS"))
            #expect(client.say("RCPT TO:<x@demo.test>\r\n") == ["503 5.5.1 Say MAIL first"])
            let replies = client.say(
                "MAIL FROM:<a@sender.test>\r\nRCPT TO:<x@demo.test>\r\nBDAT 8 LAST\r\nA: b\r\n\r\n", replies: 3)
            #expect(queueID(replies.last) != nil)
            #expect(gateway.queue.map(\.from) == ["a@sender.test"])
        }
        #expect(dropped > 0 && ended > 0)
    }

    /// Plaintext that comes later than with the STARTTLS is read as a handshake, which it is not.
    @Test(
        "T-B1: commands in the clear after the 220 end the session",
        arguments: ["NOOP\r\n", "MAIL FROM:<>\r\n", "\u{16}\u{3}\u{1}"])
    func lateInjection(_ text: String) throws {
        let gateway = try world()
        let client = TLSClient(gateway)
        client.sendPlain("EHLO c.test\r\nSTARTTLS\r\n")
        client.wait { client.plain.hasSuffix("start TLS\r\n") }
        client.sendPlain(text + String(repeating: "NOOP\r\n", count: 20))
        #expect(client.wait { client.isEnded })
        #expect(!client.plain.hasSuffix("250 2.0.0 Ok\r\n"))
        #expect(gateway.run { gateway.sessions == 0 } && gateway.queue.isEmpty)
    }

    /// The defence: the deadline that `beginTLS` sets.
    @Test("T-B7: a handshake that stalls ends the session", arguments: [0, 1, 40])
    func stalled(_ sent: Int) throws {
        let gateway = try world()
        let client = TLSClient(gateway)
        client.sendPlain("EHLO c.test\r\nSTARTTLS\r\n")
        client.wait { client.plain.hasSuffix("start TLS\r\n") }
        let start = gateway.world.now
        let session = try TLSSession(client: try TLSContext(client: .nothing), serverName: nil, verify: false)
        var hello = [UInt8](repeating: 0, count: 4_096)
        _ = hello.withUnsafeMutableBytes { session.takeCiphertext(into: $0) }
        // A byte every 20 s is as slow as none.
        for byte in hello[..<sent] where !client.isEnded {
            client.sendRaw([byte])
            client.wait(20) { false }
        }
        #expect(client.wait(400) { client.isEnded })
        #expect(gateway.world.now - start < 200_000_000_000)
        #expect(gateway.run { gateway.sessions == 0 })
    }

    @Test("T-B7: records that come byte by byte are the same") func byByte() throws {
        let gateway = try world(segmentMaxBytes: 1)
        let client = TLSClient(gateway)
        client.sendPlain("EHLO c.test\r\nSTARTTLS\r\n")
        client.wait { client.plain.hasSuffix("start TLS\r\n") }
        try client.handshake()
        let replies = client.say(
            "EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<x@demo.test>\r\nBDAT 8 LAST\r\nA: b\r\n\r\n", replies: 4)
        #expect(queueID(replies.last) != nil)
    }

    /// The defence: a close_notify is the end of a connection, and the end of a connection is none of a message.
    @Test("T-A3, T-B7: close_notify within a chunk, then bytes in the clear: nothing is stored", arguments: 0...3)
    func closeNotifyInChunk(_ kind: Int) throws {
        let gateway = try world()
        let client = TLSClient(gateway)
        client.sendPlain("EHLO c.test\r\nSTARTTLS\r\n")
        client.wait { client.plain.hasSuffix("start TLS\r\n") }
        try client.handshake()
        let content = kind < 2 ? "BDAT 8 LAST\r\nA: b\r\n" : "DATA\r\n"
        let replies = client.say(
            "EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<x@demo.test>\r\n" + content, replies: kind < 2 ? 3 : 4)
        #expect(replies.last?.prefix(3) == (kind < 2 ? "250" : "354"))
        if kind >= 2 { _ = client.say("A: b\r\n\r\n.", replies: 0) }
        client.closeNotify(then: kind % 2 == 0 ? "\r\n" : "")
        gateway.pass(seconds: 1)
        client.finish()
        #expect(gateway.run(seconds: 400) { gateway.sessions == 0 })
        gateway.pass(seconds: 2)
        #expect(gateway.queue.isEmpty && gateway.files("demo.test").isEmpty && gateway.accepted == 0)
        #expect(gateway.memoryBytes == 0 && gateway.store(of: "demo.test").used == (0, 0))
    }
}
