import Protocols
import Reactor

@testable import Gateway

/// A customer with a POP3 client that remembers what it has: logs in, fetches what is new, deletes, quits, or breaks off anywhere.
final class POP3Robot {
    private enum Awaited {
        case greeting, login, list
        case content(Int)
        case deleted(Int)
        case quit, nothing
    }

    private let world: SimulatedWorld
    private let user: String
    /// What this customer has fetched, in this session and before, by unique id.
    private let memory: POP3Memory
    private let isCalm: Bool
    private var peer: SimulatedPeer!
    private var unread: [UInt8] = []
    private var scanned = 0
    private var awaited = Awaited.greeting
    private var names: [String] = []
    private var deleted: [String] = []
    private(set) var isDone = false

    /// - Parameter isCalm: Fetches and deletes everything, and ends well.
    init(_ gateway: SimulatedGateway, user: String, memory: POP3Memory, isCalm: Bool) {
        (world, self.user, self.memory, self.isCalm) = (gateway.world, user, memory, isCalm)
        let address = SocketAddress(SimulatedGateway.address, port: 110)
        peer = world.client(to: address, from: SocketAddress(IPAddress("203.0.113.77")!, port: 0)) { peer in
            peer.onReceive = { [self] _, bytes in
                unread += bytes
                while step() {}
            }
            peer.onEnd = { [self] peer, _ in
                isDone = true
                awaited = .nothing
                peer.close()
            }
        }
    }

    private func say(_ line: String, _ next: Awaited) {
        if !isCalm, world.draw(40) == 0 { return cut() }
        awaited = next
        peer.send(line + "\r\n")
    }

    private func cut() {
        isDone = true
        awaited = .nothing
        peer.cut()
    }

    private func step() -> Bool {
        let isLong: Bool
        switch awaited {
        case .nothing: return false
        case .list, .content: isLong = unread.first == UInt8(ascii: "+")
        default: isLong = false
        }
        let mark = Array((isLong ? "\r\n.\r\n" : "\r\n").utf8)
        guard let at = unread.place(of: mark, from: &scanned) else { return false }
        let reply = Array(unread[..<(at + mark.count)])
        unread.removeFirst(reply.count)
        answered(reply)
        return true
    }

    private func answered(_ reply: [UInt8]) {
        let text = String(decoding: reply, as: UTF8.self)
        guard text.hasPrefix("+OK") else {
            switch awaited {
            // Being pushed just now, or gone: next time.
            case .content(let number), .deleted(let number): return next(number + 1)
            default: return cut()
            }
        }
        switch awaited {
        case .greeting:
            let timestamp = text.drop { $0 != "<" }.prefix { $0 != "\r\n" }
            let digest = SASLFunctions.openSSL.md5(Array((timestamp + "geheim").utf8)).map { byte in
                let text = String(byte, radix: 16)
                return text.count == 1 ? "0" + text : text
            }.joined()
            say("APOP \(user) \(digest)", .login)
        case .login: say("UIDL", .list)
        case .list:
            names = text.split(separator: "\r\n").dropFirst().dropLast().map { String($0.split(separator: " ")[1]) }
            for name in names where memory.gone.contains(name) {
                memory.faults.append("\(name) was deleted and is listed")
            }
            next(1)
        case .content(let number):
            let lines = reply.drop { $0 != 10 }.dropFirst()
            memory.take(names[number - 1], Self.unstuffed(Array(lines.dropLast(3))), at: world.now)
            delete(number)
        case .deleted(let number):
            deleted.append(names[number - 1])
            next(number + 1)
        case .quit:
            memory.gone.formUnion(deleted)
            for name in deleted { memory.goneAt[name] = world.now }
            isDone = true
            awaited = .nothing
            peer.finish()
        case .nothing: break
        }
    }

    private func next(_ number: Int) {
        guard number <= names.count else {
            if !isCalm, world.draw(4) == 0 { return cut() }
            return say("QUIT", .quit)
        }
        if memory.contents[names[number - 1]] == nil { say("RETR \(number)", .content(number)) } else { delete(number) }
    }

    private func delete(_ number: Int) {
        guard isCalm || world.draw(3) > 0 else { return next(number + 1) }
        say("DELE \(number)", .deleted(number))
    }

    private static func unstuffed(_ bytes: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        var isAtStart = true
        for byte in bytes {
            if isAtStart, byte == UInt8(ascii: ".") {
                isAtStart = false
                continue
            }
            result.append(byte)
            isAtStart = byte == 10
        }
        return result
    }
}

/// What a POP3 customer has on his own disk.
final class POP3Memory {
    /// By unique id.
    private(set) var contents: [String: [UInt8]] = [:]
    /// Unique ids that a QUIT with `+OK` deleted.
    var gone: Set<String> = []
    var goneAt: [String: UInt64] = [:]
    var faults: [String] = []

    func take(_ name: String, _ content: [UInt8], at instant: UInt64) {
        if let before = contents[name], before != content { faults.append("\(name) shows other bytes than before") }
        contents[name] = content
    }
}

/// A customer's server that comes by ATRN: logs in, turns, takes what comes, defers some, or breaks off anywhere.
final class ATRNRobot {
    private enum Awaited { case greeting, hello, challenge, login, turn, commands, content, nothing }

    private let world: SimulatedWorld
    private let user: String
    private let isCalm: Bool
    private var peer: SimulatedPeer!
    private var unread: [UInt8] = []
    private var scanned = 0
    private var awaited = Awaited.greeting
    private(set) var isDone = false
    /// It ended by QUIT, and all its answers were read.
    private(set) var hasEndedWell = false
    /// Contents that were accepted, in order, and when.
    private(set) var taken: [(content: [UInt8], at: UInt64)] = []

    init(_ gateway: SimulatedGateway, user: String, isCalm: Bool) {
        (world, self.user, self.isCalm) = (gateway.world, user, isCalm)
        let address = SocketAddress(SimulatedGateway.address, port: 366)
        peer = world.client(to: address, from: SocketAddress(IPAddress("203.0.113.78")!, port: 0)) { peer in
            peer.onReceive = { [self] _, bytes in
                unread += bytes
                while step() {}
            }
            peer.onEnd = { [self] peer, _ in
                isDone = true
                awaited = .nothing
                peer.close()
            }
        }
    }

    private func say(_ text: String, _ next: Awaited) {
        if !isCalm, world.draw(60) == 0 { return cut() }
        awaited = next
        peer.send(text + "\r\n")
    }

    private func cut() {
        isDone = true
        awaited = .nothing
        peer.cut()
    }

    private func step() -> Bool {
        if awaited == .nothing { return false }
        let mark = Array((awaited == .content ? "\r\n.\r\n" : "\r\n").utf8)
        guard let at = unread.place(of: mark, from: &scanned) else { return false }
        let bytes = Array(unread[..<at])
        unread.removeFirst(at + mark.count)
        if awaited == .content { content(bytes + [13, 10]) } else { line(String(decoding: bytes, as: UTF8.self)) }
        return true
    }

    private func line(_ line: String) {
        switch awaited {
        case .greeting: line.hasPrefix("220") ? say("EHLO customer.test", .hello) : cut()
        case .hello: if line.hasPrefix("250 ") { say("AUTH CRAM-MD5", .challenge) }
        case .challenge:
            guard let challenge = Base64.decode(Array(line.utf8.dropFirst(4))) else { return cut() }
            let digest = SASLFunctions.openSSL.hmacMD5(Array("geheim".utf8), challenge).map { byte in
                let text = String(byte, radix: 16)
                return text.count == 1 ? "0" + text : text
            }.joined()
            say(String(decoding: Base64.encode(Array("\(user) \(digest)".utf8)), as: UTF8.self), .login)
        case .login: line.hasPrefix("235") ? say("ATRN", .turn) : cut()
        case .turn: line.hasPrefix("250") ? say("220 customer.test", .commands) : cut()
        case .commands: command(line)
        case .content, .nothing: break
        }
    }

    private func command(_ line: String) {
        switch line.prefix(4) {
        case "EHLO": say("250-customer.test\r\n250 PIPELINING", .commands)
        case "DATA": say("354 go on", .content)
        case "QUIT":
            hasEndedWell = true
            isDone = true
            awaited = .nothing
            peer.send("221 bye\r\n")
            peer.finish()
        default: say("250 ok", .commands)
        }
    }

    private func content(_ bytes: [UInt8]) {
        if !isCalm, world.draw(8) == 0 { return say("451 4.3.0 later", .commands) }
        taken.append((bytes, world.now))
        say("250 2.0.0 taken", .commands)
    }
}

extension [UInt8] {
    /// Where `mark` begins; what was looked at before is not looked at again, until something is found.
    fileprivate func place(of mark: [UInt8], from scanned: inout Int) -> Int? {
        var at = scanned
        let found = withUnsafeBufferPointer { bytes -> Int? in
            while at + mark.count <= bytes.count {
                if bytes[at] == mark[0], bytes[at..<at + mark.count].elementsEqual(mark) { return at }
                at += 1
            }
            return nil
        }
        scanned = found == nil ? at : 0
        return found
    }
}
