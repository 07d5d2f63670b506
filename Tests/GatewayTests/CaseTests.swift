import Foundation
import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"
private let kept = "demo.test hold=true"

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// Cases of Tests/cases.tsv that no other test tells of: the whole engine, on the simulated world.
struct CaseTests {
    // MARK: A: borders of messages

    /// The defence: the trace header is written before the first content byte, whatever brings it.
    @Test("T-A2: whatever the chunks, the content goes out as it came") func everyChunk() throws {
        let content = bytes(".\r\n..\r\nA: b\r\n\r\n.c\r\n.\r\n")
        for extensions in [["PIPELINING"], ["PIPELINING", "CHUNKING"]] {
            let gateway = try SimulatedGateway(demo)
            let primary = ScriptedPrimary(gateway)
            primary.extensions = extensions
            let client = ScriptedClient(gateway)
            client.envelope(to: [])
            client.say("RSET")
            for split in 0...content.count {
                client.say("MAIL FROM:<s\(split)@sender.test>")
                client.say("RCPT TO:<x@demo.test>")
                client.send(bytes("BDAT \(split)\r\n") + content[..<split])
                let reply = client.send(bytes("BDAT \(content.count - split) LAST\r\n") + content[split...])
                #expect(queueID(reply) != nil)
            }
            #expect(gateway.run { gateway.isIdle })
            #expect(primary.accepted.count == content.count + 1)
            for message in primary.accepted {
                #expect(Array(message.content.suffix(content.count)) == content)
                #expect(message.text.hasPrefix("Received: from client.test"))
                #expect(message.usedChunk == extensions.contains("CHUNKING"))
            }
        }
    }

    /// After what was refused, and why: by a reply of the engine, not of the machine alone.
    enum Rejection: String, CaseIterable, CustomTestStringConvertible {
        case recipient, disabled, disk, quotaAtEnd, headerBomb, loop, tooBig, failedWrite

        var testDescription: String { rawValue }

        var settings: String {
            switch self {
            case .quotaAtEnd: "demo.test hold=true quota.enabled=true quota.bytes=1K"
            case .disabled: "demo.test hold=true enabled=false"
            default: kept
            }
        }

        var content: [UInt8] {
            switch self {
            case .headerBomb: bytes(String(repeating: "To: a@b.test\r\n", count: 20_000) + "\r\n")
            case .loop: bytes(String(repeating: "Received: x\r\n", count: 101) + "\r\n")
            default: ScriptedClient.message("refused", bytes: self == .tooBig ? 400_000 : 2_000)
            }
        }

        var code: String {
            switch self {
            case .recipient: "550 5.7.1"
            case .disabled: "450 4.2.1"
            case .disk: "452 4.3.1"
            case .quotaAtEnd: "452 4.2.2"
            case .headerBomb: "554 5.6.0"
            case .loop: "554 5.4.6"
            case .tooBig: "552 5.3.4"
            case .failedWrite: "451 4.3.0"
            }
        }

        var isBeforeContent: Bool { [.recipient, .disabled, .disk].contains(self) }
    }

    /// The defence: one `dropTransaction` here, one `resetTransaction` in the machine.
    @Test(
        "T-A4: after each rejection by the gateway RCPT, DATA and BDAT get 503, and the next message is whole",
        arguments: Rejection.allCases, [false, true])
    func rejections(_ why: Rejection, _ inChunk: Bool) throws {
        let gateway = try SimulatedGateway(cores: 1, why.settings) { $0.messageSizeMax = 350_000 }
        gateway.ready()
        let client = ScriptedClient(gateway)
        client.envelope(to: [])
        if why == .disk {
            gateway.world.disk.setCapacity(of: 1, bytes: 1 << 20)
            gateway.pass(seconds: 2)
        }
        if why == .failedWrite { gateway.world.disk.inject(SimulatedDiskFault(.write)) }
        let refused = client.say("RCPT TO:<x@\(why == .recipient ? "other" : "demo").test>")
        if why.isBeforeContent {
            #expect(refused?.hasPrefix(why.code) == true, "\(refused ?? "none")")
            if inChunk {
                #expect(client.send(bytes("BDAT 6 LAST\r\nA: b\r\n"))?.hasPrefix("554 5.5.1") == true)
            } else {
                #expect(client.say("DATA")?.hasPrefix("554 5.5.1") == true)
            }
        } else {
            let content = why.content
            let reply =
                inChunk ? client.send(bytes("BDAT \(content.count) LAST\r\n") + content) : client.data(content)
            #expect(reply?.hasPrefix(why.code) == true, "\(reply ?? "none")")
        }
        #expect(client.say("RCPT TO:<x@demo.test>")?.hasPrefix("503") == true)
        #expect(client.say("DATA")?.hasPrefix("503") == true)
        #expect(client.send(bytes("BDAT 6 LAST\r\nQUIT\r\n"))?.hasPrefix("503") == true)
        gateway.run { gateway.isIdle }
        #expect(gateway.files("demo.test").isEmpty && gateway.memoryBytes == 0 && gateway.accepted == 0)
        // The way is free again.
        if why == .disk { gateway.world.disk.setCapacity(of: 1, bytes: 1 << 40) }
        if why == .disabled { try gateway.update("demo.test", "enabled=true") }
        gateway.pass(seconds: 6)
        #expect(client.say("MAIL FROM:<b@sender.test>")?.hasPrefix("250") == true)
        #expect(client.say("RCPT TO:<x@demo.test>")?.hasPrefix("250") == true)
        #expect(queueID(client.data(bytes("B: c\r\n\r\n"))) != nil)
        #expect(gateway.queue.map(\.from) == ["b@sender.test"])
    }

    /// The defence: content is never looked for the end of a line before it is passed on.
    @Test("T-A6: lines of any length go through unchanged", arguments: [998, 999, 8_193, 65_537, 400_000])
    func longLines(_ count: Int) throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        let content = bytes("A: b\r\n\r\n." + String(repeating: "x", count: count) + "\r\nend\r\n")
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        #expect(primary.accepted.first.map { Array($0.content.suffix(content.count)) == content } == true)
    }

    /// The defence: nothing reads MIME; it is text.
    @Test("T-A10: a MIME bomb is text, and goes through unchanged") func nestedParts() throws {
        let gateway = try SimulatedGateway(demo)
        let primary = ScriptedPrimary(gateway)
        var text = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n"
        for depth in 0..<5_000 {
            text += "--b\(depth)\r\nContent-Type: multipart/mixed; boundary=\"b\(depth + 1)\"\r\n\r\n"
        }
        text += "--" + String(repeating: "y", count: 70_000) + "\r\n"
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], bytes(text))) != nil)
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        #expect(primary.accepted.first?.text.hasSuffix(text) == true)
    }

    // MARK: B: TLS to primaries

    /// The defence: `SMTPClientSettings.TLSUse.required`; `tlsRefusedBy` only for `may`.
    @Test(
        "T-B4: a policy that asks for TLS never falls back to the clear",
        arguments: ["encrypt", "verify"],
        [
            "220 primary.test\r\n", "500 5.5.1 no\r\n", "220 go\r\n250 this is no TLS\r\n",
            "220 go\r\n\u{15}\u{3}\u{3}", "",
        ])
    func stripping(_ policy: String, _ answer: String) throws {
        let gateway = try SimulatedGateway(cores: 1, demo + " forward.tls=\(policy) retry.schedule=[10s]")
        var commands: [String] = []
        let offers = answer != "220 primary.test\r\n"
        // Offers STARTTLS or not, answers it so (with nothing: by breaking off), and takes everything else.
        let server = gateway.world.serve(SocketAddress(IPAddress("198.51.100.7")!, port: 25)) { peer in
            peer.onConnect = { $0.send("220 primary.test\r\n") }
            peer.onReceive = { peer, bytes in
                let words = String(decoding: bytes, as: UTF8.self).split(separator: "\r\n").map(String.init)
                commands += words
                switch words.first?.prefix(4) {
                case "EHLO": peer.send(offers ? "250-primary.test\r\n250 STARTTLS\r\n" : "250 primary.test\r\n")
                case "STAR": if answer.isEmpty { peer.cut() } else { peer.send(answer) }
                case "DATA": peer.send("354 go on\r\n")
                default: peer.send("250 ok\r\n")
                }
            }
        }
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
        gateway.pass(seconds: 200)
        #expect(commands.count { $0.hasPrefix("EHLO") } > 1)
        #expect(commands.contains("STARTTLS") == offers)
        #expect(!commands.contains { $0.hasPrefix("MAIL") || $0.hasPrefix("DATA") })
        #expect(gateway.queued == 1 && gateway.bounced == 0)
        // With `may` the same mail goes, in the clear where there is no other way.
        gateway.world.stopServing(server)
        let primary = ScriptedPrimary(gateway)
        if offers { primary.extensions.append("STARTTLS") }
        try gateway.update("demo.test", "forward.tls=may")
        gateway.flush("demo.test")
        #expect(gateway.run(seconds: 300) { gateway.isIdle && primary.accepted.count == 1 })
    }

    // MARK: D: resources

    /// The defence: there is none to find.
    @Test("T-D9: no regular expression looks at mail") func noRegularExpressions() throws {
        var seen = 0
        for part in ["Protocols", "Reactor", "Gateway"] {
            for file in try SourceTree.files(in: "Sources/\(part)", suffix: ".swift") {
                let text = try SourceTree.text(of: file)
                seen += 1
                for word in ["Regex", "NSRegularExpression", "regcomp", "#/", ".firstMatch(of:", "wholeMatch("] {
                    #expect(!text.contains(word), "\(file): \(word)")
                }
            }
        }
        #expect(seen > 100)
    }

    // MARK: E: flow

    /// The defence: `GatewayQueue` gives no more leases to a session that was opened under other settings.
    @Test("T-E9: a connection opened under a weaker policy carries nothing more once it is stricter") func stricter()
        throws
    {
        let gateway = try SimulatedGateway(cores: 2, demo + " forward.tls=none forward.concurrency=1")
        let primary = ScriptedPrimary(gateway)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
        // The connection is still open and waits for more.
        #expect(gateway.run { primary.accepted.count == 1 && gateway.isIdle } && primary.openConnections == 1)
        try gateway.update("demo.test", "forward.tls=encrypt")
        gateway.pass(seconds: 0.01)
        for _ in 0..<5 { #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil) }
        gateway.pass(seconds: 60)
        #expect(primary.messages.count == 1 && gateway.queued == 5)
    }

    // MARK: F: storage

    /// The defence: `SpoolLock`.
    @Test("T-F6: a second server on the same data is refused, and the lock goes with its holder") func twoServers()
        throws
    {
        let folder = NSTemporaryDirectory() + "lock-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let holder = Process()
        holder.executableURL = URL(filePath: "/usr/bin/flock")
        // The lock is its own, not the child's, so that it is gone when its end is known.
        holder.arguments = ["--close", folder + "/lock", "cat"]
        let (toHolder, fromHolder) = (Pipe(), Pipe())
        (holder.standardInput, holder.standardOutput) = (toHolder, fromHolder)
        try holder.run()
        toHolder.fileHandleForWriting.write(Data("x".utf8))
        // It has the lock when it echoes.
        #expect(fromHolder.fileHandleForReading.readData(ofLength: 1) == Data("x".utf8))
        let fault = #expect(throws: SpoolFault.self) { _ = try SpoolLock(folder: folder, owner: nil) }
        #expect(fault?.description.contains("another server is running") == true)
        kill(holder.processIdentifier, SIGKILL)
        toHolder.fileHandleForWriting.closeFile()
        holder.waitUntilExit()
        _ = try SpoolLock(folder: folder, owner: nil)
        // Held until the process ends, so also against ourselves.
        #expect(throws: SpoolFault.self) { _ = try SpoolLock(folder: folder, owner: nil) }
    }
}

/// The tree that this test was built from.
enum SourceTree {
    static let root = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().standardizedFileURL

    static func files(in folder: String, suffix: String) throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: root.appending(path: folder).path)
            .filter { $0.hasSuffix(suffix) }.map { "\(folder)/\($0)" }.sorted()
    }

    static func text(of file: String) throws -> String {
        try String(contentsOf: root.appending(path: file), encoding: .utf8)
    }
}
