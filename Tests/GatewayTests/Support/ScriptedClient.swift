import Protocols
import Reactor

@testable import Gateway

/// A client of the gateway, on another machine: says lines and content, and keeps the replies.
///
/// `say` waits for the answer, for tests that read as a conversation; `script` runs by itself, for crowds.
final class ScriptedClient {
    /// What the script sends, when as many replies have come as it waits for.
    struct Step {
        var bytes: [UInt8]
        /// Replies that this step brings.
        var replies = 1
        /// The script ends here unless all of them begin so; nil: whatever they say.
        var onlyAfter: String?
        /// Virtual nanoseconds before the last of the bytes are sent.
        var pause: UInt64 = 0
    }

    /// What a step with a pause holds back.
    private static let heldBackBytes = 50

    private let gateway: SimulatedGateway
    private(set) var peer: SimulatedPeer!
    /// Complete ones, each with its lines joined by `\n`.
    private(set) var replies: [String] = []
    private var unread: [UInt8] = []
    private var multiline = ""
    private var steps: [Step] = []
    private var awaited = 1
    private var isScripted = false
    /// 0: the gateway has finished sending; else an `errno`.
    private(set) var end: Int32?
    private(set) var isDone = false

    init(_ gateway: SimulatedGateway, from source: String = "203.0.113.9", script: [Step]? = nil) {
        self.gateway = gateway
        if let script { (steps, isScripted) = (script, true) }
        peer = gateway.world.client(to: SimulatedGateway.port, from: SocketAddress(IPAddress(source)!, port: 0)) {
            peer in
            peer.onReceive = { [self] _, bytes in received(bytes) }
            peer.onEnd = { [self] peer, fault in
                end = fault
                isDone = true
                peer.close()
            }
        }
    }

    // MARK: The conversation

    private func received(_ bytes: [UInt8]) {
        unread += bytes
        while let feed = unread.firstIndex(of: 10) {
            let line = String(decoding: unread[..<feed].filter { $0 != 13 }, as: UTF8.self)
            unread.removeSubrange(...feed)
            multiline += multiline.isEmpty ? line : "\n" + line
            guard line.count < 4 || !line.dropFirst(3).hasPrefix("-") else { continue }
            replies.append(multiline)
            multiline = ""
        }
        if isScripted { proceed() }
    }

    private func proceed() {
        while replies.count >= awaited, !isDone {
            guard let step = steps.first else {
                isDone = true
                return
            }
            if let wanted = step.onlyAfter, !replies.last!.hasPrefix(wanted) {
                isDone = true
                return
            }
            steps.removeFirst()
            awaited += step.replies
            guard step.pause > 0 else {
                peer.send(step.bytes)
                continue
            }
            let (first, rest) = (step.bytes.dropLast(Self.heldBackBytes), step.bytes.suffix(Self.heldBackBytes))
            peer.send(Array(first))
            gateway.world.after(step.pause) { [self] in if !isDone { peer.send(Array(rest)) } }
        }
    }

    /// The first reply; nil: the connection ended without one.
    @discardableResult
    func greeting(seconds: Double = 60) -> String? {
        gateway.run(seconds: seconds) { !replies.isEmpty || end != nil }
        return replies.first
    }

    /// Sends a line and waits for its reply.
    @discardableResult
    func say(_ line: String, seconds: Double = 60) -> String? { send(Array(line.utf8) + [13, 10], seconds: seconds) }

    /// Sends bytes and waits for `count` further replies; the last one, or nil when the connection ended before.
    @discardableResult
    func send(_ bytes: [UInt8], replies count: Int = 1, seconds: Double = 60) -> String? {
        let before = replies.count
        peer.send(bytes)
        gateway.run(seconds: seconds) { replies.count >= before + count || end != nil }
        return replies.count >= before + count ? replies.last : nil
    }

    /// Waits for one more reply to what was sent before.
    func next(seconds: Double = 60) -> String? { send([], seconds: seconds) }

    @discardableResult
    func ended(seconds: Double = 600) -> Bool { gateway.run(seconds: seconds) { end != nil } }

    // MARK: Messages

    /// A message without dots at the beginning of lines.
    static func message(_ subject: String, bytes: Int = 0) -> [UInt8] {
        var text = "From: <a@sender.test>\r\nSubject: \(subject)\r\n\r\nHello\r\n"
        let line = String(repeating: "x", count: 70) + "\r\n"
        while text.utf8.count < bytes { text += line }
        return Array(text.utf8)
    }

    /// Greeting, EHLO, MAIL and RCPTs, with the last reply.
    @discardableResult
    func envelope(from: String = "a@sender.test", to recipients: [String], parameters: String = "") -> String? {
        greeting()
        say("EHLO client.test")
        say("MAIL FROM:<\(from)>\(parameters)")
        var last: String?
        for recipient in recipients {
            last = say("RCPT TO:" + (recipient.hasPrefix("<") ? recipient : "<\(recipient)>"))
        }
        return last
    }

    /// DATA with its content, dot-stuffed here; the last reply.
    func data(_ content: [UInt8], seconds: Double = 60) -> String? {
        guard let ready = say("DATA"), ready.hasPrefix("354") else { return replies.last }
        return send(Self.stuffed(content) + Array(".\r\n".utf8), seconds: seconds)
    }

    static func stuffed(_ content: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(content.count + 16)
        var isAtLineStart = true
        for byte in content {
            if isAtLineStart, byte == UInt8(ascii: ".") { result.append(byte) }
            result.append(byte)
            isAtLineStart = byte == 10
        }
        return result
    }

    /// One message in one session.
    @discardableResult
    static func send(
        _ gateway: SimulatedGateway, from: String = "a@sender.test", to recipients: [String],
        _ content: [UInt8] = message("test"), parameters: String = ""
    ) -> String? {
        let client = ScriptedClient(gateway)
        let envelope = client.envelope(from: from, to: recipients, parameters: parameters)
        let reply = envelope?.hasPrefix("250") == true ? client.data(content) : envelope
        client.say("QUIT")
        return reply
    }

    /// A session of one pipelined message for `script`; the last step's reply is the one to the content.
    static func steps(from: String = "a@sender.test", to recipients: [String], _ content: [UInt8]) -> [Step] {
        var envelope = "MAIL FROM:<\(from)>\r\n"
        for recipient in recipients { envelope += "RCPT TO:<\(recipient)>\r\n" }
        return [
            Step(bytes: Array("EHLO client.test\r\n".utf8), onlyAfter: "220"),
            Step(bytes: Array((envelope + "DATA\r\n").utf8), replies: recipients.count + 2),
            Step(bytes: stuffed(content) + Array(".\r\n".utf8), onlyAfter: "354"),
        ]
    }
}

/// The id in a `250`.
func queueID(_ reply: String?) -> QueueID? {
    guard let reply, reply.hasPrefix("250 2.0.0 ") else { return nil }
    return QueueID(reply.dropFirst(10))
}
