import Protocols
import Reactor

@testable import Gateway

/// A customer's server, on another machine: takes messages, keeps them, and fails where it is told to.
final class ScriptedPrimary {
    /// What the gateway has just said.
    enum Moment: Equatable {
        case connected, hello
        /// The whole command line.
        case mail(String)
        case recipient(String)
        case data
        /// Some of the content has come.
        case someContent
        /// All of it has come; nobody has been told.
        case content
        case reset, quit
    }

    enum Action: Equatable {
        case reply(String)
        /// Replies, then closes.
        case replyAndClose(String)
        case cut
        /// At `.content`: the message is taken, and the connection breaks before anybody is told.
        case takeAndCut
        /// From here on, for ever.
        case silence
    }

    /// A message whose content has come whole.
    struct Message: Equatable {
        /// The MAIL command's line.
        var mail: String
        /// Lines of the RCPT commands that were accepted.
        var recipients: [String]
        /// Dots taken off.
        var content: [UInt8]
        /// False: refused, or the connection was cut instead of an answer.
        var isAccepted: Bool
        var usedChunk: Bool
        var at: UInt64
        /// Which connection, and how many messages that one had brought before.
        var link = 0
        var place = 0

        var text: String { String(decoding: content, as: UTF8.self) }
        /// `<path>` of the reverse-path.
        var reversePath: String { ScriptedPrimary.path(mail) }
        var paths: [String] { recipients.map(ScriptedPrimary.path) }
    }

    /// What is known of a connection, by its number.
    struct Link {
        var accepted = 0
        /// It ended by QUIT, its answer read: all earlier answers were read too.
        var hasEndedWell = false
    }

    let address: SocketAddress
    private(set) var links: [Link] = []
    private let world: SimulatedWorld
    private var number: Int?
    /// Lines of the answer to EHLO.
    var extensions = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"]
    /// nil: as a friendly server does.
    var act: (Moment) -> Action? = { _ in nil }
    /// Virtual nanoseconds before each reply.
    var replyDelay: UInt64 = 0
    private(set) var messages: [Message] = []
    private(set) var connections = 0
    private(set) var openConnections = 0
    private(set) var openConnectionsMax = 0
    private(set) var connectedAt: [UInt64] = []
    /// All command lines.
    private(set) var commands: [String] = []

    var accepted: [Message] { messages.filter(\.isAccepted) }

    init(_ gateway: SimulatedGateway, at address: String = "198.51.100.7", port: UInt16 = 25, isUp: Bool = true) {
        world = gateway.world
        self.address = SocketAddress(IPAddress(address)!, port: port)
        if isUp { start() }
    }

    func start() {
        guard number == nil else { return }
        number = world.serve(address) { [self] peer in
            let session = Session(self)
            peer.onConnect = { session.connected($0) }
            peer.onReceive = { session.received($0, $1) }
            peer.onEnd = { session.ended($0, $1) }
        }
    }

    /// New connections are refused.
    func stop() {
        if let number { world.stopServing(number) }
        number = nil
    }

    static func path(_ line: String) -> String {
        guard let start = line.firstIndex(of: "<"), let end = line.lastIndex(of: ">") else { return line }
        return String(line[line.index(after: start)..<end])
    }

    // MARK: One connection

    private final class Session {
        private enum State {
            case commands, data
            case chunk(left: Int, isLast: Bool)
            case over
        }

        private unowned let primary: ScriptedPrimary
        private var state = State.commands
        private var unread: [UInt8] = []
        private var mail = ""
        private var recipients: [String] = []
        private var content: [UInt8] = []
        private var usedChunk = false
        private var isCounted = false
        private var hasQuit = false
        private let link: Int

        init(_ primary: ScriptedPrimary) {
            self.primary = primary
            link = primary.links.count
            primary.links.append(Link())
        }

        func connected(_ peer: SimulatedPeer) {
            primary.connections += 1
            primary.openConnections += 1
            isCounted = true
            primary.openConnectionsMax = max(primary.openConnectionsMax, primary.openConnections)
            primary.connectedAt.append(primary.world.now)
            _ = answer(peer, .connected, "220 primary.test ESMTP")
        }

        func ended(_ peer: SimulatedPeer, _ fault: Int32) {
            if hasQuit, fault == 0 { primary.links[link].hasEndedWell = true }
            if isCounted { primary.openConnections -= 1 }
            isCounted = false
            state = .over
            peer.close()
        }

        /// Whether the reply was positive.
        private func answer(_ peer: SimulatedPeer, _ moment: Moment, _ usual: String) -> Bool {
            switch primary.act(moment) ?? .reply(usual) {
            case .reply(let text):
                say(peer, text)
                return text.first == "2" || text.first == "3"
            case .replyAndClose(let text):
                say(peer, text)
                peer.finish()
                state = .over
                return text.first == "2"
            case .cut:
                state = .over
                peer.cut()
                return false
            case .takeAndCut:
                state = .over
                peer.cut()
                return true
            case .silence:
                state = .over
                return false
            }
        }

        private func say(_ peer: SimulatedPeer, _ text: String) {
            guard primary.replyDelay > 0 else { return peer.send(text + "\r\n") }
            primary.world.after(primary.replyDelay) { peer.send(text + "\r\n") }
        }

        func received(_ peer: SimulatedPeer, _ bytes: [UInt8]) {
            unread += bytes
            while step(peer) {}
        }

        private func step(_ peer: SimulatedPeer) -> Bool {
            switch state {
            case .over: return false
            case .commands:
                guard let feed = unread.firstIndex(of: 10) else { return false }
                let line = String(decoding: unread[..<feed].filter { $0 != 13 }, as: UTF8.self)
                unread.removeSubrange(...feed)
                command(peer, line)
                return true
            case .data:
                guard let end = endOfData() else {
                    if let action = primary.act(.someContent), action == .cut {
                        state = .over
                        peer.cut()
                    }
                    return false
                }
                content = Self.unstuffed(unread[..<end])
                unread.removeSubrange(..<(end + 3))
                scanned = 0
                state = .commands
                finish(peer)
                return true
            case .chunk(let left, let isLast):
                let count = min(left, unread.count)
                content += unread[..<count]
                unread.removeSubrange(..<count)
                guard count == left else {
                    state = .chunk(left: left - count, isLast: isLast)
                    return false
                }
                state = .commands
                if isLast { finish(peer) } else { say(peer, "250 2.0.0 chunk") }
                return true
            }
        }

        /// Up to where `endOfData` has looked.
        private var scanned = 0

        /// Where the line with the dot begins.
        private func endOfData() -> Int? {
            if unread.starts(with: [46, 13, 10]) { return 0 }
            while scanned + 5 <= unread.count {
                if unread[scanned] == 13, unread[scanned..<(scanned + 5)].elementsEqual([13, 10, 46, 13, 10]) {
                    return scanned + 2
                }
                scanned += 1
            }
            return nil
        }

        private static func unstuffed(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
            var result: [UInt8] = []
            result.reserveCapacity(bytes.count)
            var isAtLineStart = true
            for byte in bytes {
                if isAtLineStart, byte == UInt8(ascii: ".") {
                    isAtLineStart = false
                    continue
                }
                result.append(byte)
                isAtLineStart = byte == 10
            }
            return result
        }

        private func finish(_ peer: SimulatedPeer) {
            var message = Message(
                mail: mail, recipients: recipients, content: content, isAccepted: false, usedChunk: usedChunk,
                at: primary.world.now)
            if recipients.isEmpty {
                say(peer, "503 5.5.1 no recipients")
            } else {
                message.isAccepted = answer(peer, .content, "250 2.0.0 taken")
                message.link = link
                message.place = primary.links[link].accepted
                if message.isAccepted { primary.links[link].accepted += 1 }
                primary.messages.append(message)
            }
            forget()
        }

        private func forget() { (mail, recipients, content, usedChunk) = ("", [], [], false) }

        private func command(_ peer: SimulatedPeer, _ line: String) {
            primary.commands.append(line)
            let verb = line.prefix { $0 != " " }.uppercased()
            switch verb {
            case "EHLO", "HELO":
                let lines = ["primary.test"] + (verb == "EHLO" ? primary.extensions : [])
                let text = lines.enumerated().map { "250\($0.offset == lines.count - 1 ? " " : "-")\($0.element)" }
                _ = answer(peer, .hello, text.joined(separator: "\r\n"))
            case "MAIL":
                forget()
                if answer(peer, .mail(line), "250 2.1.0 sender ok") { mail = line }
            case "RCPT":
                if mail.isEmpty {
                    say(peer, "503 5.5.1 MAIL first")
                } else if answer(peer, .recipient(line), "250 2.1.5 recipient ok") {
                    recipients.append(line)
                }
            case "DATA":
                if recipients.isEmpty { return say(peer, "554 5.5.1 no valid recipients") }
                if answer(peer, .data, "354 go on") { state = .data }
            case "BDAT":
                let words = line.split(separator: " ")
                usedChunk = true
                state = .chunk(left: Int(words[1])!, isLast: words.count > 2)
            case "RSET":
                forget()
                _ = answer(peer, .reset, "250 2.0.0 reset")
            case "QUIT":
                if answer(peer, .quit, "221 2.0.0 bye") {
                    hasQuit = true
                    peer.finish()
                }
            default: say(peer, "500 5.5.2 what?")
            }
        }
    }
}
