import CReactor
import Glibc
import Protocols

/// One generator thread: its connections, its share of the numbers, and its clock.
///
/// Thread t of T sends the numbers t, t + T, t + 2T, … With a rate each number has its time, and latency counts from that time,
/// so that a server that stalls can't hide the messages that had to wait (no coordinated omission). Without, each
/// connection begins its next message when the last is answered, and latency counts from its first command.
final class Sender {
    let load: Load
    let gate: Gate
    let ledger: Ledger
    let composer: Composer
    let thread: Int
    let tlsMaker: TLSMaker?
    let poller = Poller()
    let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: SenderConnection.vectorsMax)
    let input = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)
    let staging = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 << 10, alignment: 16)
    let header = UnsafeMutablePointer<UInt8>.allocate(capacity: Composer.headerMax)
    var connections: [SenderConnection] = []
    /// Slots that may begin a message, the last first.
    var idle: [Int] = []
    /// Slots to connect again, with the time for it.
    var later: [(slot: Int, at: UInt64)] = []
    private var laterFirst = 0
    var tally = Tally()
    var now: UInt64 = 0
    var sourceTurn: Int
    /// Connections that broke off or did not come about, since the last answer.
    var failuresInARow = 0
    /// Connections that are being made, of those that stay open.
    var opening = 0
    /// Some servers listen with a backlog of 5. Where it overflows under SYN cookies, the client believes in a connection that
    /// the server has never seen.
    static let openingMax = 4
    /// How long a greeting is waited for, for the same reason.
    static let greetingNanoseconds: UInt64 = 5_000_000_000
    private var lookedAt: UInt64 = 0
    /// Why the run can't go on.
    var fault: String?

    private var next: Int
    private var underWay = 0
    /// First number after the warm-up, and first that is never given.
    private var measuredFrom: Int
    private var end: Int

    init(_ load: Load, thread: Int, gate: Gate, ledger: Ledger, date: String) throws(BenchFault) {
        (self.load, self.thread, self.gate, self.ledger) = (load, thread, gate, ledger)
        composer = Composer(
            run: ledger.run, domains: load.domains, recipients: load.recipients, from: load.from, date: date)
        tlsMaker = load.security == .none ? nil : try TLSMaker()
        sourceTurn = thread
        next = thread
        measuredFrom = load.warmUp
        end = load.warmUp
        let share = (load.connections + load.threads - 1 - thread) / load.threads
        let scratchBytes = Composer.commandsMax(recipients: load.recipients) + Composer.headerMax
        connections = (0..<share).map { SenderConnection(slot: $0, scratchBytes: scratchBytes) }
    }

    deinit {
        vectors.deallocate()
        input.deallocate()
        staging.deallocate()
        header.deallocate()
    }

    /// Sends the warm-up, waits for the gate, sends the rest. Returns when all is answered or the gate says stop.
    func run() {
        now = Clock.now
        if load.onePerSession {
            idle = connections.indices.reversed()
        } else {
            later = connections.map { ($0.slot, now) }
            reconnect()
        }
        turn(until: { self.next >= self.end && self.underWay == 0 && self.isConnected })
        gate.isWarm()
        turn(until: { self.gate.start > 0 })
        end = load.numbersEnd
        startedAt = gate.start
        let cpu = Clock.threadCPU
        let before = tally
        tally = Tally()
        // A run that ended in its warm-up says why.
        if gate.isStopped || fault != nil { tally.errors = before.errors }
        tally.keepConnections(of: before)
        turn(until: { self.isFinished })
        tally.cpu = Clock.threadCPU - cpu
        countOverdue()
        abandon()
        gate.end()
    }

    private(set) var startedAt: UInt64 = 0

    /// In an open loop with a duration: what was due and could not be begun has waited so long at least, and left out it would
    /// make a slow server look quick.
    private func countOverdue() {
        guard let rate = load.rate, let duration = load.durationNanoseconds, fault == nil else { return }
        while next < load.numbersEnd {
            let due = dueTime(next, rate)
            guard due < min(startedAt + duration, now) else { return }
            tally.latencies.record(nanoseconds: now - due)
            tally.overdue += 1
            next += load.threads
        }
    }

    private var isFinished: Bool {
        if let duration = load.durationNanoseconds, now >= startedAt + duration { end = min(end, next) }
        return next >= end && underWay == 0
    }

    /// All that can be are ready; a run of one message per session has none before its messages.
    private var isConnected: Bool { load.onePerSession || idle.count == connections.count }

    private func turn(until isDone: () -> Bool) {
        if !gate.isStopped, fault == nil { dispatch() }
        while !isDone(), !gate.isStopped, fault == nil {
            poller.wait(nanoseconds: patience()) { number, canRead, canWrite in
                now = Clock.now
                let connection = connections[Int(number & 0xFFFF_FFFF)]
                // A number carries the descriptor, so that an event of a closed one is not taken for its successor's.
                guard connection.socket == Int32(number >> 32) else { return }
                if canWrite, connection.isWaitingToWrite || connection.phase == .connecting { writable(connection) }
                if canRead, connection.socket == Int32(number >> 32) { readable(connection) }
                if load.rate == nil { dispatch() }
            }
            now = Clock.now
            reconnect()
            dispatch()
            giveUpSilentOnes()
        }
    }

    private func giveUpSilentOnes() {
        guard now > lookedAt + 100_000_000 else { return }
        lookedAt = now
        for connection in connections
        where connection.phase == .greeting && now > connection.connectedAt + Self.greetingNanoseconds {
            lost(connection, "no greeting within \(Self.greetingNanoseconds / 1_000_000_000) s")
        }
    }

    /// Until the next message is due; 10 ms at most, to see the gate.
    private func patience() -> UInt64 {
        var patience: UInt64 = startedAt == 0 ? 1_000_000 : 10_000_000
        if let rate = load.rate, next < end, !idle.isEmpty {
            let due = dueTime(next, rate)
            patience = min(patience, due > now ? due - now : 0)
        }
        return patience
    }

    private func dueTime(_ number: Int, _ rate: Double) -> UInt64 {
        // The warm-up goes at full speed.
        startedAt == 0 ? now : Pace(start: startedAt, rate: rate).due(number - measuredFrom)
    }

    /// Gives messages that are due to connections that are free.
    private func dispatch() {
        while next < end, let slot = idle.last {
            var began = now
            if let rate = load.rate {
                began = dueTime(next, rate)
                guard began <= now else { return }
            }
            if let duration = load.durationNanoseconds, startedAt > 0, began >= startedAt + duration { return }
            idle.removeLast()
            let connection = connections[slot]
            connection.number = next
            connection.began = began
            next += load.threads
            underWay += 1
            ledger.begin(connection.number)
            if connection.phase == .ready {
                begin(connection)
            } else {
                connection.hasPending = true
                connect(connection)
            }
        }
    }

    private func reconnect() {
        while laterFirst < later.count, later[laterFirst].at <= now, opening < Self.openingMax {
            let slot = later[laterFirst].slot
            laterFirst += 1
            if connections[slot].phase == .closed { connect(connections[slot]) }
        }
        if laterFirst == later.count {
            later.removeAll(keepingCapacity: true)
            laterFirst = 0
        }
    }

    // How a message ends

    /// The server has taken the message for at least one recipient.
    func accepted(_ connection: SenderConnection) {
        ledger[connection.number].expected = UInt16(connection.recipientsTaken)
        ledger[connection.number].state = Ledger.State.accepted.rawValue
        failuresInARow = 0
        if startedAt > 0 {
            tally.messages += 1
            tally.bytes += connection.bodyBytes
            tally.latencies.record(nanoseconds: now - min(connection.began, now))
            tally.mark(now, since: startedAt)
        }
        ended(connection)
    }

    func refused(_ connection: SenderConnection) {
        ledger[connection.number].state = Ledger.State.refused.rawValue
        if startedAt > 0 { tally.lastAt = now }
        ended(connection)
    }

    private func ended(_ connection: SenderConnection) {
        connection.number = -1
        underWay -= 1
        gate.answered()
    }

    /// The connection is gone; a message under way may have been taken or not.
    func lost(_ connection: SenderConnection, _ why: String) {
        let wasQuitting = connection.phase == .quitting
        let wasReady = connection.phase == .ready
        isOpening(connection, false)
        drop(connection)
        if wasReady { gate.drop() }
        if connection.number >= 0 {
            let isSent = !connection.hasPending
            ledger[connection.number].state = (isSent ? Ledger.State.unknown : .refused).rawValue
            tally.count(why)
            connection.hasPending = false
            ended(connection)
        } else if !wasQuitting, !wasReady {
            tally.count(why)
        }
        if wasReady { idle.removeAll { $0 == connection.slot } }
        if !wasQuitting {
            failuresInARow += 1
            if failuresInARow > 10 * connections.count + 100 {
                fault = "no message gets through to \(load.target): \(why)"
                return
            }
        }
        if load.onePerSession {
            idle.append(connection.slot)
        } else {
            later.append((connection.slot, now + (wasReady ? 0 : 100_000_000)))
        }
    }

    func isOpening(_ connection: SenderConnection, _ isOpening: Bool) {
        guard connection.isOpening != isOpening else { return }
        connection.isOpening = isOpening
        opening += isOpening ? 1 : -1
    }

    func drop(_ connection: SenderConnection) {
        // Without a close_notify OpenSSL would not let the session be resumed.
        connection.tls?.close()
        if connection.socket >= 0 { close(connection.socket) }
        connection.socket = -1
        connection.tls = nil
        connection.phase = .closed
        connection.isWaitingToWrite = false
        connection.parser = SMTPReplyParser()
        connection.unread.removeAll(keepingCapacity: true)
        connection.needsReset = false
        connection.clearOutput()
    }

    /// At the end: what has no answer stays unknown.
    private func abandon() {
        for connection in connections {
            if connection.number >= 0 { ledger[connection.number].state = Ledger.State.unknown.rawValue }
            if connection.phase == .ready {
                _ = send(connection.socket, "QUIT\r\n", connection.tls == nil ? 6 : 0, Int32(MSG_NOSIGNAL))
            }
            drop(connection)
        }
    }
}
