import CReactor
import Glibc
import Protocols

/// Connections from their beginning to the first message, and their end.
extension Sender {
    func connect(_ connection: SenderConnection) {
        let source = load.source?.endpoint(sourceTurn)
        sourceTurn += load.threads
        let socket = Sockets.connect(to: load.target, from: source)
        isOpening(connection, true)
        guard socket >= 0 else { return lost(connection, "connect: \(String(cString: strerror(-socket)))") }
        connection.socket = socket
        connection.phase = .connecting
        poller.add(socket, eventNumber(connection), writing: true)
    }

    private func eventNumber(_ connection: SenderConnection) -> UInt64 {
        UInt64(connection.socket) << 32 | UInt64(connection.slot)
    }

    func writable(_ connection: SenderConnection) {
        if connection.phase == .connecting {
            let fault = Sockets.fault(of: connection.socket)
            guard fault == 0 else { return lost(connection, "connect: \(String(cString: strerror(fault)))") }
            poller.change(connection.socket, eventNumber(connection), writing: false)
            tally.connections += 1
            connection.connectedAt = now
            connection.phase = .greeting
            if load.security == .implicit { startTLS(connection) }
            return
        }
        if connection.phase == .handshake { return shakeHands(connection) }
        flush(connection)
    }

    func readable(_ connection: SenderConnection) {
        switch connection.phase {
        case .connecting: return writable(connection)
        case .handshake: return shakeHands(connection)
        default: break
        }
        let room = UnsafeMutableRawBufferPointer(rebasing: input[connection.unread.count...])
        guard !room.isEmpty else { return lost(connection, "reply too long") }
        var count = 0
        if let tls = connection.tls {
            readAll: while count < room.count {
                switch tls.read(UnsafeMutableRawBufferPointer(rebasing: room[count...])) {
                case .bytes(let read): count += read
                case .wantsMore: break readAll
                case .ended:
                    if count > 0 { break readAll }
                    return lost(connection, "connection lost")
                case .failed(let why): return lost(connection, why)
                }
            }
            if count == 0 { return }
        } else {
            count = recv(connection.socket, room.baseAddress, room.count, 0)
            if count < 0, errno == EAGAIN || errno == EINTR { return }
            guard count > 0 else {
                return lost(connection, count == 0 ? "connection lost" : String(cString: strerror(errno)))
            }
        }
        take(connection, count)
    }

    /// Takes replies out of what was read, with what was left of the last read before it.
    private func take(_ connection: SenderConnection, _ count: Int) {
        let kept = connection.unread.count
        if kept > 0 {
            connection.unread.withUnsafeBytes { input.copyMemory(from: $0) }
            connection.unread.removeAll(keepingCapacity: true)
        }
        let bytes = UnsafeRawBufferPointer(rebasing: input[..<(kept + count)])
        let socket = connection.socket
        var consumed = 0
        while consumed < bytes.count {
            switch connection.parser.next(bytes, consumed: &consumed) {
            case .needMore:
                connection.unread.append(contentsOf: bytes[consumed...])
                consumed = bytes.count
            case .fault(let fault): return lost(connection, "not SMTP: \(fault)")
            case .line(let code, let text, let isFirst, let isLast):
                if connection.phase == .hello {
                    note(connection, UnsafeRawBufferPointer(rebasing: bytes[text]), isFirst: isFirst)
                }
                if isLast {
                    replied(connection, code) { connection.parser.reply(bytes, lastText: text).text }
                    guard connection.socket == socket else { return }
                }
            }
        }
        if connection.hasOutput { flush(connection) }
    }

    /// Keywords of the EHLO reply (RFC 5321 §4.1.1.1).
    private func note(_ connection: SenderConnection, _ line: UnsafeRawBufferPointer, isFirst: Bool) {
        guard !isFirst, let word = line.split(separator: UInt8(ascii: " ")).first else { return }
        switch String(decoding: word, as: UTF8.self).uppercased() {
        case "PIPELINING": connection.offersPipelining = true
        case "CHUNKING": connection.offersChunking = true
        case "STARTTLS": connection.offersStartTLS = true
        case "SIZE": connection.offersSize = true
        default: break
        }
    }

    private func replied(_ connection: SenderConnection, _ code: Int, text: () -> String) {
        switch connection.phase {
        case .greeting:
            guard code == 220 else { return turnedAway(connection, code, text()) }
            hello(connection)
        case .hello:
            guard code == 250 else { return turnedAway(connection, code, text()) }
            if load.security == .starttls, connection.tls == nil {
                guard connection.offersStartTLS else { return missing("STARTTLS", "--tls") }
                say(connection, "STARTTLS\r\n")
                connection.phase = .startTLS
                return
            }
            if load.pipelining, !connection.offersPipelining { return missing("PIPELINING", "--pipelining") }
            if load.chunking, !connection.offersChunking { return missing("CHUNKING", "--bdat") }
            connection.phase = .ready
            gate.greet()
            isOpening(connection, false)
            if connection.hasPending {
                connection.hasPending = false
                begin(connection)
            } else {
                idle.append(connection.slot)
            }
        case .startTLS:
            guard code == 220 else { return turnedAway(connection, code, text()) }
            startTLS(connection)
        case .envelope, .content: transactionReplied(connection, code, text: text)
        case .quitting: lost(connection, "")
        case .ready: turnedAway(connection, code, text())
        case .closed, .connecting, .handshake: break
        }
    }

    /// A server that says no before any message, or 421 between two.
    private func turnedAway(_ connection: SenderConnection, _ code: Int, _ text: String) {
        let error = String(code)
        tally.words[error] = tally.words[error] ?? text
        // 421 between two messages is the server's right (RFC 5321 §3.8): connected again, and no error.
        lost(connection, error)
    }

    private func missing(_ keyword: String, _ option: String) {
        fault = "\(load.target) does not offer \(keyword): leave out `\(option)`, or measure it where it is offered"
    }

    private func hello(_ connection: SenderConnection) {
        connection.phase = .hello
        let line = Array("EHLO \(load.helo)\r\n".utf8)
        line.withUnsafeBufferPointer {
            (connection.scratch + connection.scratchEnd).update(from: $0.baseAddress!, count: $0.count)
        }
        connection.scratchEnd += line.count
    }

    func say(_ connection: SenderConnection, _ line: StaticString) {
        connection.scratchEnd += Composer.put(line, to: connection.scratch + connection.scratchEnd)
    }

    // TLS

    private func startTLS(_ connection: SenderConnection) {
        connection.unread.removeAll(keepingCapacity: true)
        guard let stream = tlsMaker?.stream(on: connection.socket, resume: load.resume ? connection.session : nil)
        else {
            return lost(connection, "OpenSSL: out of memory")
        }
        connection.tls = stream
        connection.phase = .handshake
        shakeHands(connection)
    }

    private func shakeHands(_ connection: SenderConnection) {
        guard let tls = connection.tls else { return }
        switch tls.handshake() {
        case .wantsMore: return
        case .ended: return lost(connection, "TLS: connection lost")
        case .failed(let why): return lost(connection, "TLS: \(why)")
        case .bytes: break
        }
        if tls.isResumed { tally.resumedHandshakes += 1 } else { tally.fullHandshakes += 1 }
        if load.security == .implicit {
            connection.phase = .greeting
        } else {
            hello(connection)
            flush(connection)
        }
        // What came with the last flight has no event of its own.
        if connection.socket >= 0 { readable(connection) }
    }

    /// The message is answered, and with one per session so is the session's work.
    func quit(_ connection: SenderConnection) {
        if load.resume, let tls = connection.tls, let session = tls.session {
            if let old = connection.session { SSL_SESSION_free(old) }
            connection.session = session
        }
        say(connection, "QUIT\r\n")
        connection.phase = .quitting
    }

    func flush(_ connection: SenderConnection) {
        switch connection.flush(vectors, staging: staging) {
        case .done:
            if connection.phase == .content || (connection.phase == .envelope && load.chunking), connection.number >= 0
            {
                ledger[connection.number].sentAt = now
            }
            guard connection.isWaitingToWrite else { return }
            connection.isWaitingToWrite = false
            poller.change(connection.socket, eventNumber(connection), writing: false)
        case .blocked:
            guard !connection.isWaitingToWrite else { return }
            connection.isWaitingToWrite = true
            poller.change(connection.socket, eventNumber(connection), writing: true)
        case .lost: lost(connection, "connection lost")
        }
    }
}
