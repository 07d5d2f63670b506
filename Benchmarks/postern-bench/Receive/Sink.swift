import CReactor
import Glibc
import Reactor
import Synchronization

/// A primary that takes everything at once and looks at every byte: one thread, any number of listeners.
final class Sink {
    static let connectionsMax = 20_000
    private static let commandMaxBytes = 4096
    private static let listenerMark: UInt64 = 1 << 63

    let plan: SinkPlan
    let gate: Gate
    let arrivals: Arrivals
    /// Which of the listeners are to be closed for a while.
    let outage: Outage
    private let endpoints: [Endpoint]
    private var listeners: [Int32]
    private let poller = Poller()
    private let tlsMaker: TLSMaker?
    private var connections: [SinkConnection?] = []
    private var free: [Int] = []
    private let input = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
    private var now: UInt64 = 0
    /// Replies held back, the earliest first.
    private var held: [(slot: Int, socket: Int32, at: UInt64)] = []
    private var heldFirst = 0
    private(set) var sessions = 0

    /// Opens all listeners.
    init(_ endpoints: [Endpoint], plan: SinkPlan, gate: Gate, ledger: Ledger?, outage: Outage = Outage())
        throws(BenchFault)
    {
        (self.endpoints, self.plan, self.gate, self.outage) = (endpoints, plan, gate, outage)
        arrivals = Arrivals(ledger: ledger)
        tlsMaker = plan.offersTLS ? try TLSMaker(serverName: plan.hostname) : nil
        listeners = []
        for endpoint in endpoints { listeners.append(try Self.open(endpoint)) }
        for (index, listener) in listeners.enumerated() { poller.add(listener, Self.listenerMark | UInt64(index)) }
    }

    deinit {
        for listener in listeners where listener >= 0 { close(listener) }
        input.deallocate()
    }

    private static func open(_ endpoint: Endpoint) throws(BenchFault) -> Int32 {
        let listener = Sockets.listen(on: endpoint)
        guard listener >= 0 else {
            throw BenchFault(
                "can't listen on \(endpoint): \(String(cString: strerror(-listener))); choose another with `--sink` or `--listen`"
            )
        }
        return listener
    }

    /// Serves until the gate says stop; then what has come is in `arrivals`.
    func run() {
        let cpu = Clock.threadCPU
        while !gate.isStopped {
            poller.wait(nanoseconds: patience()) { number, canRead, canWrite in
                now = Clock.now
                if number & Self.listenerMark != 0 { return accept(Int(number & ~Self.listenerMark)) }
                guard let connection = connections[Int(number & 0xFFFF_FFFF)], connection.socket == Int32(number >> 32)
                else {
                    return
                }
                if canWrite, !flush(connection) { return drop(connection) }
                if canRead, !read(connection) { drop(connection) }
            }
            now = Clock.now
            release()
            if outage.hasChanged { obeyOutage() }
        }
        threadCPU = Clock.threadCPU - cpu
        for connection in connections { connection.map(drop) }
    }

    private(set) var threadCPU: UInt64 = 0

    private func patience() -> UInt64 {
        guard heldFirst < held.count else { return 20_000_000 }
        let at = held[heldFirst].at
        return min(20_000_000, at > now ? at - now : 0)
    }

    private func accept(_ index: Int) {
        for _ in 0..<64 {
            guard listeners[index] >= 0 else { return }
            let socket = Sockets.accept(listeners[index])
            guard socket >= 0 else { return }
            guard connections.count - free.count < Self.connectionsMax else {
                close(socket)
                return
            }
            sessions += 1
            let slot = free.popLast() ?? connections.count
            if slot == connections.count { connections.append(nil) }
            let connection = SinkConnection(slot: slot, socket: socket, listener: index)
            connections[slot] = connection
            poller.add(socket, UInt64(socket) << 32 | UInt64(slot))
            connection.say("220 \(plan.hostname) ESMTP\r\n")
            if !flush(connection) { drop(connection) }
        }
    }

    private func drop(_ connection: SinkConnection) {
        connection.tls?.close()
        connection.tls = nil
        close(connection.socket)
        connections[connection.slot] = nil
        free.append(connection.slot)
    }

    // Outages

    private func obeyOutage() {
        let down = outage.take()
        for index in endpoints.indices {
            if down.contains(index), listeners[index] >= 0 {
                close(listeners[index])
                listeners[index] = -1
                for connection in connections where connection?.listener == index { connection.map(drop) }
            } else if !down.contains(index), listeners[index] < 0 {
                let listener = Sockets.listen(on: endpoints[index])
                if listener < 0 {
                    outage.failed("\(endpoints[index]) can't be opened again: \(String(cString: strerror(-listener)))")
                    continue
                }
                listeners[index] = listener
                poller.add(listener, Self.listenerMark | UInt64(index))
            }
        }
    }

    // Bytes in and out

    /// False: the connection has ended.
    private func read(_ connection: SinkConnection) -> Bool {
        if connection.isShakingHands {
            switch connection.tls?.handshake() {
            case .bytes: connection.isShakingHands = false
            case .wantsMore: return true
            default: return false
            }
        }
        while true {
            let kept = connection.unread.count
            let room = UnsafeMutableRawBufferPointer(rebasing: input[kept...])
            var count = 0
            if let tls = connection.tls {
                switch tls.read(room) {
                case .bytes(let read): count = read
                case .wantsMore: return true
                case .ended, .failed: return false
                }
            } else {
                count = recv(connection.socket, room.baseAddress, room.count, 0)
                if count < 0 { return errno == EAGAIN || errno == EINTR }
                if count == 0 { return false }
            }
            if kept > 0 {
                connection.unread.withUnsafeBytes { input.copyMemory(from: $0) }
                connection.unread.removeAll(keepingCapacity: true)
            }
            guard take(connection, UnsafeRawBufferPointer(rebasing: input[..<(kept + count)])), flush(connection) else {
                return false
            }
            // Plaintext: the poller tells if there is more. TLS may hold a record that it can't see.
            if connection.tls == nil || connection.isShakingHands || count == 0 { return true }
        }
    }

    private func take(_ connection: SinkConnection, _ bytes: UnsafeRawBufferPointer) -> Bool {
        var at = 0
        while at < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[at...])
            switch connection.mode {
            case .commands:
                guard let found = memchr(rest.baseAddress!, 10, rest.count) else {
                    guard rest.count < Self.commandMaxBytes else { return false }
                    connection.unread.append(contentsOf: rest)
                    return true
                }
                let length = UnsafeRawPointer(found) - rest.baseAddress! + 1
                at += length
                guard command(connection, UnsafeRawBufferPointer(rebasing: rest[..<length])) else { return false }
                if connection.isShakingHands { return at == bytes.count }  // nothing may come before the handshake
            case .content:
                let (used, isEnd) = connection.scanner.scan(rest) {
                    connection.check.feed($0)
                    connection.contentBytes += $0.count
                }
                at += used
                if isEnd {
                    connection.mode = .commands
                    finish(connection)
                }
            case .chunk:
                let piece = min(connection.chunkLeft, rest.count)
                connection.check.feed(UnsafeRawBufferPointer(rebasing: rest[..<piece]))
                connection.contentBytes += piece
                connection.chunkLeft -= piece
                at += piece
                if connection.chunkLeft == 0 { chunkEnded(connection) }
            }
        }
        return true
    }

    /// Sends what it has to say; false: the connection has ended.
    private func flush(_ connection: SinkConnection) -> Bool {
        guard connection.heldUntil <= now else { return true }
        while connection.outputSent < connection.output.count {
            var sent = 0
            connection.output.withUnsafeBytes { bytes in
                let rest = UnsafeRawBufferPointer(rebasing: bytes[connection.outputSent...])
                guard let tls = connection.tls, !connection.isShakingHands else {
                    sent = send(connection.socket, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL))
                    if sent < 0, errno == EAGAIN || errno == EINTR { sent = 0 }
                    return
                }
                switch tls.write(rest) {
                case .bytes(let count): sent = count
                case .wantsMore: sent = 0
                default: sent = -1
                }
            }
            if sent < 0 { return false }
            if sent == 0 {
                wait(connection, toWrite: true)
                return true
            }
            connection.outputSent += sent
        }
        connection.output.removeAll(keepingCapacity: true)
        connection.outputSent = 0
        wait(connection, toWrite: false)
        return !connection.isEnding
    }

    private func wait(_ connection: SinkConnection, toWrite: Bool) {
        guard connection.isWaitingToWrite != toWrite else { return }
        connection.isWaitingToWrite = toWrite
        poller.change(connection.socket, UInt64(connection.socket) << 32 | UInt64(connection.slot), writing: toWrite)
    }

    // Commands

    /// Answers one command line, CRLF included; false: not to be borne.
    private func command(_ connection: SinkConnection, _ line: UnsafeRawBufferPointer) -> Bool {
        guard line.count >= 6 else {
            connection.say("500 5.5.2 what?\r\n")
            return true
        }
        // The first four letters, in upper case.
        let verb = line[..<4].reduce(UInt32(0)) { $0 << 8 | UInt32($1 & 0xDF) }
        switch verb {
        case Self.ehlo:
            connection.reset()
            connection.say(
                "250-\(plan.hostname)\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 1073741824\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250-DSN\r\n"
            )
            if tlsMaker != nil, connection.tls == nil { connection.say("250-STARTTLS\r\n") }
            connection.say("250 ENHANCEDSTATUSCODES\r\n")
        case Self.helo:
            connection.reset()
            connection.say("250 \(plan.hostname)\r\n")
        case Self.mail:
            if connection.hasMail {
                connection.say("503 5.5.1 one at a time\r\n")
            } else {
                connection.hasMail = true
                connection.say("250 2.1.0 ok\r\n")
            }
        case Self.rcpt:
            if connection.hasMail {
                connection.recipients += 1
                connection.say("250 2.1.5 ok\r\n")
            } else {
                connection.say("503 5.5.1 MAIL first\r\n")
            }
        case Self.data:
            if connection.recipients > 0 {
                connection.mode = .content
                connection.say("354 go on\r\n")
            } else {
                connection.say("503 5.5.1 RCPT first\r\n")
            }
        case Self.bdat: return beginChunk(connection, line)
        case Self.rset:
            connection.reset()
            connection.say("250 2.0.0 ok\r\n")
        case Self.noop: connection.say("250 2.0.0 ok\r\n")
        case Self.quit:
            connection.say("221 2.0.0 bye\r\n")
            connection.isEnding = true
        case Self.star where tlsMaker != nil && connection.tls == nil:
            connection.say("220 2.0.0 go on\r\n")
            guard flush(connection), let stream = tlsMaker?.stream(on: connection.socket) else { return false }
            connection.reset()
            connection.tls = stream
            connection.isShakingHands = true
        default: connection.say("502 5.5.1 not here\r\n")
        }
        return true
    }

    private static let ehlo = word("EHLO"), helo = word("HELO"), mail = word("MAIL"), rcpt = word("RCPT")
    private static let data = word("DATA"), bdat = word("BDAT"), rset = word("RSET"), noop = word("NOOP")
    private static let quit = word("QUIT"), star = word("STARTTLS")
    private static func word(_ text: String) -> UInt32 { text.utf8.prefix(4).reduce(0) { $0 << 8 | UInt32($1) } }

    /// `BDAT 1234 [LAST]` (RFC 3030 §2).
    private func beginChunk(_ connection: SinkConnection, _ line: UnsafeRawBufferPointer) -> Bool {
        let words = line[5...].split { $0 <= UInt8(ascii: " ") }
        guard let first = words.first, let count = Int(String(decoding: first, as: UTF8.self)), count >= 0 else {
            return false
        }
        connection.chunkLeft = count
        connection.isLastChunk = words.count > 1
        connection.mode = .chunk
        if count == 0 { chunkEnded(connection) }
        return true
    }

    private func chunkEnded(_ connection: SinkConnection) {
        connection.mode = .commands
        if connection.recipients == 0 {
            connection.say("503 5.5.1 RCPT first\r\n")
        } else if connection.isLastChunk {
            finish(connection)
        } else {
            connection.say("250 2.0.0 chunk\r\n")
        }
    }

    /// The message is complete: judged, counted, answered.
    private func finish(_ connection: SinkConnection) {
        let answer = arrivals.judge(
            connection.check, recipients: connection.recipients, bytes: connection.contentBytes,
            listener: connection.listener, plan: plan, now: now, start: gate.start)
        switch answer {
        case .taken, .repeated, .dropped: connection.say("250 2.0.0 taken\r\n")
        case .deferred: connection.say("451 4.3.0 later\r\n")
        case .refused: connection.say("554 5.7.1 not this one\r\n")
        }
        if answer == .taken { gate.arrive() }
        connection.reset()
        guard plan.delayNanoseconds > 0 else { return }
        connection.heldUntil = now + plan.delayNanoseconds
        held.append((connection.slot, connection.socket, connection.heldUntil))
    }

    private func release() {
        while heldFirst < held.count, held[heldFirst].at <= now {
            let (slot, socket, _) = held[heldFirst]
            heldFirst += 1
            guard let connection = connections[slot], connection.socket == socket else { continue }
            if !flush(connection) { drop(connection) }
        }
        if heldFirst > 1024, heldFirst * 2 > held.count {
            held.removeFirst(heldFirst)
            heldFirst = 0
        }
    }
}

/// Which listeners are to be down, said by the main thread.
final class Outage: Sendable {
    private let wanted = Locked<Set<Int>>([])
    private let changed = Atomic<Bool>(false)
    private let faults = Locked<[String]>([])

    var hasChanged: Bool { changed.load(ordering: .acquiring) }
    func set(_ down: Set<Int>) {
        wanted.withLock { $0 = down }
        changed.store(true, ordering: .releasing)
    }
    func take() -> Set<Int> {
        changed.store(false, ordering: .releasing)
        return wanted.withLock { $0 }
    }
    func failed(_ sentence: String) { faults.withLock { $0.append(sentence) } }
    var sentences: [String] { faults.withLock { $0 } }
}
