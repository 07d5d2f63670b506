import Protocols
import Reactor

@testable import Gateway

/// A customer of the gateway at one of its ports: says lines, and keeps all that it hears.
final class ScriptedCustomer {
    private let gateway: SimulatedGateway
    private(set) var peer: SimulatedPeer!
    private(set) var heard: [UInt8] = []
    private var taken = 0
    private(set) var end: Int32?

    init(_ gateway: SimulatedGateway, port: UInt16, from source: String = "203.0.113.77") {
        self.gateway = gateway
        let address = SocketAddress(SimulatedGateway.address, port: port)
        peer = gateway.world.client(to: address, from: SocketAddress(IPAddress(source)!, port: 0)) { peer in
            peer.onReceive = { [self] _, bytes in
                heard += bytes
                if isServing { serve() }
            }
            peer.onEnd = { [self] peer, fault in
                end = fault
                peer.close()
            }
        }
    }

    /// What was heard since the last call, once it ends as wanted; nil: the connection ended before, or nothing came.
    @discardableResult
    func hear(until suffix: String = "\r\n", seconds: Double = 60) -> String? {
        let wanted = Array(suffix.utf8)
        let isThere = { [self] in
            heard.count - taken >= wanted.count && Array(heard.suffix(wanted.count)) == wanted
        }
        guard gateway.run(seconds: seconds, until: { isThere() || end != nil }), isThere() else { return nil }
        defer { taken = heard.count }
        return String(decoding: heard[taken...], as: UTF8.self)
    }

    @discardableResult
    func say(_ line: String, until suffix: String = "\r\n", seconds: Double = 60) -> String? {
        send(Array((line + "\r\n").utf8))
        return hear(until: suffix, seconds: seconds)
    }

    func send(_ bytes: [UInt8]) { peer.send(bytes) }

    @discardableResult
    func ended(seconds: Double = 600) -> Bool { gateway.run(seconds: seconds) { end != nil } }

    // MARK: Behind a turn (RFC 2645 §5.3)

    private var isServing = false
    private var isInContent = false
    private var recipients: [String] = []
    /// Messages that were accepted: recipients and content.
    private(set) var messages: [(recipients: [String], content: String)] = []
    /// All command lines.
    private(set) var commands: [String] = []
    /// To the content; nil: the connection breaks instead of an answer.
    var contentReply: () -> String? = { "250 2.0.0 taken" }

    /// The roles have turned: greets, and takes what comes.
    func beginServing() {
        isServing = true
        peer.send(Array("220 customer.test\r\n".utf8))
        serve()
    }

    private func serve() {
        while end == nil {
            if isInContent {
                let terminator = Array("\r\n.\r\n".utf8)
                let rest = Array(heard[taken...])
                guard let at = rest.indices.first(where: { rest[$0...].starts(with: terminator) }) else { return }
                let content = String(decoding: rest[..<(at + 2)], as: UTF8.self)
                taken += at + terminator.count
                isInContent = false
                guard let reply = contentReply() else { return peer.close() }
                if reply.hasPrefix("2") { messages.append((recipients, content)) }
                peer.send(Array((reply + "\r\n").utf8))
                continue
            }
            guard let feed = heard[taken...].firstIndex(of: 10) else { return }
            let line = String(decoding: heard[taken...feed].filter { $0 >= 32 }, as: UTF8.self)
            taken = feed + 1
            commands.append(line)
            switch line.prefix(4) {
            case "EHLO": peer.send(Array("250-customer.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n".utf8))
            case "MAIL":
                recipients = []
                peer.send(Array("250 ok\r\n".utf8))
            case "RCPT":
                recipients.append(String(line.dropFirst(9).prefix { $0 != ">" }))
                peer.send(Array("250 ok\r\n".utf8))
            case "DATA":
                isInContent = true
                peer.send(Array("354 go on\r\n".utf8))
            case "QUIT":
                peer.send(Array("221 bye\r\n".utf8))
                peer.close()
                return
            default: peer.send(Array("250 ok\r\n".utf8))
            }
        }
    }
}
