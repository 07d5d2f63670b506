import Testing

@testable import Protocols

/// What came of a dialogue.
private struct Outcome: Equatable {
    /// What we said, by turns of the other side.
    var said: [String] = [""]
    var events: [String] = []
    /// Raw content of each whole message.
    var messages: [[UInt8]] = []
    var isClosed = false
}

/// A server session under a dialogue's client: accepts what the gateways of the recordings accept.
private struct ServerReplay: ~Copyable {
    private var session: SMTPServerSession
    private var output = ByteOutput()
    private(set) var outcome = Outcome()
    private var content: [UInt8] = []
    private var pending: [UInt8] = []
    private var needsProxyHeader: Bool
    private var isInContent = false
    /// In the clear behind STARTTLS: dropped until the handshake.
    private var awaitsTLS = false

    init(_ dialog: borrowing Dialog) {
        var settings = SMTPServerSettings(hostname: "mx.gateway.test")
        settings.messageSizeMax = 65_536
        settings.offersStartTLS = true
        settings.offersXClient = dialog.with.contains("xclient")
        session = SMTPServerSession(settings: settings)
        needsProxyHeader = dialog.with.contains("proxy")
        if !needsProxyHeader { session.greet(into: &output) }
    }

    mutating func nextTurn() {
        flush()
        outcome.said.append("")
    }

    mutating func flush() {
        outcome.said[outcome.said.count - 1] += String(decoding: output.bytes, as: UTF8.self)
        output.removeAll()
    }

    mutating func startTLS() {
        guard awaitsTLS else { return outcome.events.append("no STARTTLS") }
        awaitsTLS = false
        session.tlsStarted()
    }

    mutating func receive(_ bytes: [UInt8]) {
        if awaitsTLS || outcome.isClosed { return }
        pending += bytes
        if needsProxyHeader {
            switch pending.withUnsafeBytes({ ProxyHeader.parse($0) }) {
            case .needMore: return
            case .invalid(let fault):
                outcome.events.append("\(fault)")
                outcome.isClosed = true
                return
            case .parsed(let consumed, let endpoints):
                outcome.events.append("\(String(describing: endpoints))")
                pending.removeFirst(consumed)
                needsProxyHeader = false
                session.greet(into: &output)
            }
        }
        while !outcome.isClosed, !awaitsTLS {
            let input = pending
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            if case .content(let range) = event { content += input[range] }
            pending.removeFirst(consumed)
            switch event {
            case .needMore: return flush()
            case .content: break
            default: take(event)
            }
        }
        flush()
    }

    private mutating func take(_ event: SMTPServerSession.Event) {
        outcome.events.append("\(event)")
        switch event {
        case .needMore, .outputFull, .content: break
        case .hello: isInContent = false
        case .mail: session.acceptMail(into: &output)
        case .recipient(let address, _):
            if let refusal = Self.refusal(of: address) {
                session.refuseRecipient(refusal, into: &output)
            } else {
                session.acceptRecipient(into: &output)
            }
        case .data, .chunk:
            if !isInContent { content = [] }
            isInContent = true
            session.startContent(into: &output)
        case .endOfContent:
            outcome.messages.append(content)
            outcome.events.append("\(session.contentBytes) bytes, \(session.linesBeginningWithDot) dots, ")
            outcome.events.append("ends with CRLF: \(session.contentEndsWithCRLF)")
            isInContent = false
            session.finishContent(Reply(250, EnhancedStatus(2, 0, 0), "ID"), into: &output)
        case .contentFault, .contentRefused, .reset: isInContent = false
        case .startTLS:
            isInContent = false
            pending = []
            awaitsTLS = true
        case .xclient: session.acceptXClient(into: &output)
        case .ask, .authenticated, .etrn: preconditionFailure("not offered")
        case .quit, .hangUp: outcome.isClosed = true
        }
    }

    private static func refusal(of address: MailAddress) -> Reply? {
        switch address.domain {
        case nil: nil
        case .name("off.test"):
            Reply(450, EnhancedStatus(4, 2, 1), "The gateway of <\(address)> is disabled, try again later")
        case .name(let name) where name == "demo.test" || name.hasSuffix(".demo.test"): nil
        default: Reply(550, EnhancedStatus(5, 7, 1), "No gateway here for <\(address)>")
        }
    }

    static func run(_ dialog: Dialog, _ cuts: Cuts) -> Outcome {
        var replay = ServerReplay(dialog)
        var offset = 0
        for step in dialog.steps {
            switch step {
            case .client(let bytes):
                replay.nextTurn()
                for piece in cuts.pieces(of: bytes, from: offset) { replay.receive(piece) }
                offset += bytes.count
            case .server, .closed: break
            case .tls: replay.startTLS()
            }
        }
        replay.flush()
        return replay.outcome
    }
}

/// The messages that a recorded client, which was us, handed over: read from its words, line by line.
private struct Handed {
    var envelope: SMTPClientEnvelope
    var content: [UInt8]

    static func all(_ words: [UInt8]) -> [Handed] {
        var rest = words[...]
        var list: [Handed] = []
        var envelope = SMTPClientEnvelope(reversePath: "", recipients: [], size: 0)
        func line() -> String? {
            guard let end = rest.firstIndex(of: 10) else { return nil }
            defer { rest = rest[(end + 1)...] }
            return String(decoding: rest[..<(end - 1)], as: UTF8.self)
        }
        while let command = line() {
            let words = command.split(separator: " ")
            func parameter(_ name: String) -> String? {
                words.first { $0.hasPrefix(name + "=") }.map { String($0.dropFirst(name.count + 1)) }
            }
            let path = command.firstIndex(of: "<").flatMap { from in
                command.firstIndex(of: ">").map { String(command[command.index(after: from)..<$0]) }
            }
            switch words.first {
            case "MAIL":
                envelope = SMTPClientEnvelope(reversePath: path ?? "", recipients: [], size: 0)
                envelope.needsSMTPUTF8 = words.contains("SMTPUTF8")
                envelope.is8Bit = words.contains("BODY=8BITMIME")
                (envelope.ret, envelope.envid) = (parameter("RET"), parameter("ENVID"))
                envelope.size = parameter("SIZE").flatMap { Int($0) } ?? 0
            case "RCPT":
                envelope.recipients.append(
                    .init(path: path ?? "", notify: parameter("NOTIFY"), orcpt: parameter("ORCPT")))
            case "BDAT":
                let count = Int(words[1])!
                list.append(Handed(envelope, Array(rest.prefix(count))))
                rest = rest.dropFirst(count)
                envelope.recipients = []
            case "DATA":
                var content: [UInt8] = []
                while let end = rest.firstIndex(of: 10) {
                    let line = rest[...end]
                    rest = rest[(end + 1)...]
                    if line.elementsEqual([46, 13, 10]) { break }
                    content += line.first == 46 ? line.dropFirst() : line
                }
                list.append(Handed(envelope, content))
                envelope.recipients = []
            default: break
            }
        }
        // One that came no further than its envelope.
        if !envelope.recipients.isEmpty { list.append(Handed(envelope, [])) }
        return list
    }

    private init(_ envelope: SMTPClientEnvelope, _ content: [UInt8]) {
        (self.envelope, self.content) = (envelope, content)
        self.envelope.size = content.count
        self.envelope.linesBeginningWithDot =
            content.split(separator: 10).count { $0.first == 46 }
    }
}

/// A client session under a dialogue's server.
private struct ClientReplay: ~Copyable {
    private var session: SMTPClientSession
    private var output = ByteOutput()
    private(set) var outcome = Outcome()
    private var waiting: ArraySlice<Handed>
    private var open: [SMTPHandoverID: Handed] = [:]
    private var pending: [UInt8] = []
    private var hasQuit = false
    private var awaitsTLS = false

    init(_ dialog: borrowing Dialog) {
        let tls: SMTPClientSettings.TLSUse =
            dialog.with.contains("tls") ? .required : dialog.with.contains("may") ? .opportunistic : .never
        session = SMTPClientSession(settings: SMTPClientSettings(helloName: "mx.gateway.test", tls: tls))
        waiting = Handed.all(dialog.bytes(of: .client))[...]
    }

    mutating func nextTurn() { outcome.said.append("") }

    mutating func startTLS() {
        guard awaitsTLS else { return outcome.events.append("no STARTTLS") }
        awaitsTLS = false
        session.tlsStarted(into: &output)
        act()
    }

    /// New hand-overs begin when the server has said all of its turn: how it was cut must not matter to us.
    mutating func turnEnds() {
        while !awaitsTLS, session.canSend {
            if let message = waiting.popFirst() {
                open[session.send(message.envelope, into: &output)] = message
            } else if !hasQuit, open.isEmpty {
                hasQuit = true
                session.quit(into: &output)
            } else {
                break
            }
            act()
        }
        act()
    }

    mutating func receive(_ bytes: [UInt8]) {
        if awaitsTLS { return }
        pending += bytes
        act()
    }

    mutating func lose() {
        session.connectionLost()
        act()
    }

    private mutating func act() {
        loop: while !awaitsTLS {
            var consumed = 0
            let event = pending.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            pending.removeFirst(consumed)
            switch event {
            case .needMore: break loop
            case .startTLS:
                outcome.events.append("startTLS")
                pending = []
                awaitsTLS = true
            case .sendContent(let id, let framing):
                outcome.events.append("content \(framing)")
                let content = open[id]!.content
                switch framing {
                case .dots(isStuffed: true):
                    var stuffer = DotStuffer()
                    content.withUnsafeBytes { stuffer.append($0, into: &output) }
                    stuffer.finish(into: &output)
                case .dots:
                    output.append(content)
                    DotStuffer.appendTerminator(
                        contentEndsWithCRLF: content.isEmpty || content.suffix(2).elementsEqual([13, 10]), into: &output
                    )
                case .chunk: output.append(content)
                }
                session.contentSent(id, into: &output)
            case .answered(let outcome):
                open[outcome.id] = nil
                self.outcome.events.append("\(outcome)")
            case .closed, .failed:
                outcome.isClosed = true
                outcome.events.append("\(event)")
            default: outcome.events.append("\(event)")
            }
        }
        outcome.said[outcome.said.count - 1] += String(decoding: output.bytes, as: UTF8.self)
        output.removeAll()
    }

    static func run(_ dialog: Dialog, _ cuts: Cuts) -> Outcome {
        var replay = ClientReplay(dialog)
        var offset = 0
        for step in dialog.steps {
            switch step {
            case .server(let bytes):
                replay.nextTurn()
                for piece in cuts.pieces(of: bytes, from: offset) { replay.receive(piece) }
                replay.turnEnds()
                offset += bytes.count
            case .client: break
            case .closed: replay.lose()
            case .tls:
                // Recordings end here.
                if case .tls? = dialog.steps.last { return replay.outcome }
                replay.nextTurn()
                replay.startTLS()
            }
        }
        return replay.outcome
    }
}

/// Each conversation of Tests/Dialogs, uncut: the words of the file. Cut anywhere: the same words, events and content.
@Suite struct DialogTests {
    @Test("as the server, each dialogue is the same however it is cut", arguments: Dialog.all(.server))
    private func server(_ dialog: Dialog) {
        let whole = ServerReplay.run(dialog, Cuts(places: []))
        // Before the client's first word only a greeting can come, and behind a PROXY header not even that.
        #expect(whole.said.filter { !$0.isEmpty } == dialog.serverTurns)
        if let messages = dialog.messages { #expect(whole.messages == messages) }
        if case .closed? = dialog.steps.last { #expect(whole.isClosed) }
        for cuts in Cuts.all(dialog.bytes(of: .client).count) {
            guard ServerReplay.run(dialog, cuts) == whole else {
                let cut = ServerReplay.run(dialog, cuts)
                Issue.record("\(cuts): \(cut.events) \(cut.said), not \(whole.events) \(whole.said)")
                return
            }
        }
    }

    @Test("as the client, each dialogue is the same however it is cut", arguments: Dialog.all(.client))
    private func client(_ dialog: Dialog) {
        let whole = ClientReplay.run(dialog, Cuts(places: []))
        // Where one message's commands end and the next one's begin is a matter of when it was there.
        #expect(whole.said.joined() == String(decoding: dialog.bytes(of: .client), as: UTF8.self))
        for cuts in Cuts.all(dialog.bytes(of: .server).count) {
            guard ClientReplay.run(dialog, cuts) == whole else {
                let cut = ClientReplay.run(dialog, cuts)
                Issue.record("\(cuts): \(cut.events) \(cut.said), not \(whole.events) \(whole.said)")
                return
            }
        }
    }

    /// The comparison sees what it must: another word, another order, a byte that is not there.
    @Test func differencesAreSeen() throws {
        let text = "# x\nrole: server\nS: 220 mx.gateway.test ESMTP Postern\nC: NOOP\\\nC: \\r\\n\\\nC: RSET\n"
        let dialog = try Dialog("x", text)
        let whole = ServerReplay.run(dialog, Cuts(places: []))
        #expect(dialog.bytes(of: .client) == [UInt8]("NOOP\r\nRSET\r\n".utf8))
        #expect(whole.said == ["220 mx.gateway.test ESMTP Postern\r\n", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"])
        let other = try Dialog("x", text.replacing("RSET", with: "RSE"))
        #expect(ServerReplay.run(other, Cuts(places: [])) != whole)
        #expect(Cuts.all(5).count == 1 + 4 + 6)
        #expect(Cuts(places: [1, 3]).pieces(of: [1, 2, 3], from: 1) == [[1, 2], [3]])
        for bad in ["role: server\nS: 220", "# x\nS: 220", "# x\nrole: server\nQ: x", "# x\nrole: server\nC: \\q"] {
            #expect(throws: Dialog.Fault.self) { try Dialog("x", bad) }
        }
    }
}
