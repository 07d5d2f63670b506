@testable import Protocols

/// A client session against a server that says anything: each hand-over is answered once for each recipient, nobody
/// counts as served whose content was not sent and answered with 2xx, and the outcome is the same however the replies
/// are cut.
///
/// Input: options (two bytes), cut seed (two bytes), then what the server sends, in flights.
enum SMTPClientTarget {
    struct Options: OptionSet {
        let rawValue: UInt16
        static let tlsRequired = Options(rawValue: 1)
        static let tlsNever = Options(rawValue: 2)
        static let noChunking = Options(rawValue: 4)
        static let noPipelining = Options(rawValue: 8)
        static let eager = Options(rawValue: 16)
        static let quits = Options(rawValue: 32)
        static let timesOut = Options(rawValue: 64)
        static let quitsAtOnce = Options(rawValue: 128)
        /// Content goes out at the end of the flight that asked for it.
        static let isSlow = Options(rawValue: 256)
    }

    struct Outcome: Equatable {
        var commands: [UInt8] = []
        var events: [String] = []
    }

    private struct Message {
        let envelope: SMTPClientEnvelope
        let content: [UInt8]
    }

    private static let messages: [Message] = {
        func message(_ from: String, _ to: [String], _ content: String, _ adjust: (inout SMTPClientEnvelope) -> Void)
            -> Message
        {
            var envelope = SMTPClientEnvelope(
                reversePath: from, recipients: to.map { .init(path: $0) }, size: content.utf8.count)
            adjust(&envelope)
            return Message(envelope: envelope, content: Array(content.utf8))
        }
        return [
            message("s@a.example", ["a@b.example", "b@b.example"], "Subject: 1\r\n\r\n.dot\r\n..\r\nend\r\n") {
                $0.linesBeginningWithDot = 2
                $0.recipients[0].notify = "SUCCESS,FAILURE"
                $0.recipients[1].orcpt = "rfc822;b@b.example"
                $0.envid = "QQ1"
                $0.ret = "HDRS"
            },
            message("", ["a@b.example"], "x") { $0.is8Bit = true },
            message("ü@a.example", ["a@b.example", "ö@b.example", "c@b.example"], "y\r\n") { $0.needsSMTPUTF8 = true },
            message("s@a.example", ["evil\r\nRCPT TO:<x@y>"], "z\r\n") { _ in },
            message("s@a.example", (0..<5).map { "u\($0)@b.example" }, String(repeating: "line\r\n", count: 50)) { _ in
            },
        ]
    }()

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = Options(rawValue: input.number())
        let cuts = Cuts(seed: input.number())
        let flights = input.parts(FuzzInput.flight)
        let whole = converse(options, flights, nil)
        requireSame(whole, converse(options, flights, cuts), "outcomes, whole and cut")
        require(hasOnlyCRLF(whole.commands), "a bare CR or LF in the commands")
        require(!text(whole.commands).contains("x@y"), "a recipient spoke commands")
    }

    private struct Handover {
        let message: Message
        var isContentSent = false
        var positive: Set<Int> = []
    }

    private static func converse(_ options: Options, _ flights: [[UInt8]], _ cuts: Cuts?) -> Outcome {
        var settings = SMTPClientSettings(
            helloName: "gw.example",
            tls: options.contains(.tlsRequired) ? .required : options.contains(.tlsNever) ? .never : .opportunistic)
        settings.usesChunking = !options.contains(.noChunking)
        settings.usesPipelining = !options.contains(.noPipelining)
        settings.eagerContentMaxBytes = options.contains(.eager) ? 1 << 16 : 0
        var session = SMTPClientSession(settings: settings)
        var output = ByteOutput()
        var outcome = Outcome()
        var open: [SMTPHandoverID: Handover] = [:]
        var waiting = messages[...]
        var pending: [UInt8] = []
        var isOver = false
        var isDropping = false
        var stepsAllowed = 64
        var due: (id: SMTPHandoverID, framing: SMTPContentFraming)?

        if options.contains(.quitsAtOnce) { session.quit(into: &output) }

        func send(_ id: SMTPHandoverID, _ framing: SMTPContentFraming) {
            guard var handover = open[id] else { fail("content for a hand-over that is over") }
            require(!handover.isContentSent, "content asked for twice")
            handover.isContentSent = true
            open[id] = handover
            let content = handover.message.content
            switch framing {
            case .dots(isStuffed: true):
                var stuffer = DotStuffer()
                withExact(content) { stuffer.append($0, into: &output) }
                stuffer.finish(into: &output)
            case .dots(isStuffed: false):
                output.append(content)
                DotStuffer.appendTerminator(contentEndsWithCRLF: content.last == 10, into: &output)
            case .chunk(let size):
                requireSame(size, content.count, "the chunk's size")
                output.append(content)
            }
            session.contentSent(id, into: &output)
        }

        /// Until `.needMore`; `isFlightOver`: then whatever may be sent is sent.
        func act(isFlightOver: Bool) {
            while true {
                stepsAllowed -= 1
                require(stepsAllowed > 0, "more steps than bytes")
                var consumed = 0
                let event = withExact(pending) { session.next($0, consumed: &consumed, into: &output) }
                require((0...pending.count).contains(consumed), "consumed \(consumed) of \(pending.count)")
                pending.removeFirst(consumed)
                _ = session.phase.timeoutSeconds
                switch event {
                case .needMore:
                    require(pending.count < SMTPReplyParser.Limits.lineMaxBytes, "\(pending.count) bytes left over")
                    guard isFlightOver else { return }
                    if let (id, framing) = due {
                        due = nil
                        // Not if the session ended meanwhile.
                        if open[id] != nil { send(id, framing) }
                    } else if session.canSend, let message = waiting.popFirst() {
                        require(!isOver, "canSend behind the end")
                        open[session.send(message.envelope, into: &output)] = Handover(message: message)
                    } else if options.contains(.quits), waiting.isEmpty, session.quit == .notYet {
                        session.quit(into: &output)
                    } else {
                        return
                    }
                case .startTLS:
                    outcome.events.append("startTLS")
                    require(pending.isEmpty && open.isEmpty, "STARTTLS with something pending")
                    // What came with the answer in the clear is dropped.
                    isDropping = true
                    session.tlsStarted(into: &output)
                    require(session.capabilities == SMTPPeerCapabilities(), "capabilities kept over STARTTLS")
                    return
                case .ready:
                    outcome.events.append("ready")
                    if options.contains(.tlsRequired) { require(session.isTLSActive, "ready without TLS") }
                case .recipientAnswered(let id, let index, let reply):
                    outcome.events.append("rcpt \(id.number).\(index) \(reply)")
                    check(reply)
                    guard open[id] != nil else { fail("an answer for a hand-over that is over") }
                    if reply.isPositive { open[id]?.positive.insert(index) }
                case .sendContent(let id, let framing):
                    outcome.events.append("content \(id.number)")
                    require(due == nil, "content asked for while other content is due")
                    if options.contains(.isSlow) { due = (id, framing) } else { send(id, framing) }
                case .answered(let result):
                    outcome.events.append("answered \(result)")
                    settle(result)
                case .closed(let reply):
                    outcome.events.append("closed \(reply.map { "\($0)" } ?? "")")
                    require(!isOver, "ended twice")
                    isOver = true
                case .failed(let failure):
                    outcome.events.append("failed \(failure)")
                    check(failure.asReply)
                    require(!isOver, "ended twice")
                    isOver = true
                }
            }
        }

        func settle(_ result: SMTPHandoverOutcome) {
            guard let handover = open.removeValue(forKey: result.id) else { fail("answered twice") }
            requireSame(result.recipients.count, handover.message.envelope.recipients.count, "recipients answered")
            for (index, recipient) in result.recipients.enumerated() {
                check(recipient.reply)
                guard recipient.reply.isPositive else { continue }
                require(recipient.isFromPeer && recipient.reply.code / 100 == 2, "served by \(recipient)")
                require(handover.isContentSent && recipient.phase == .endOfContent, "served without content")
                require(handover.positive.contains(index), "served, though refused")
            }
            if result.isPossibleDuplicate { require(handover.isContentSent, "a duplicate of what was not sent") }
        }

        for flight in flights {
            isDropping = false
            stepsAllowed += 16
            for piece in cuts?.pieces(flight) ?? [flight] where !isDropping {
                pending += piece
                stepsAllowed += 4 * piece.count + 8
                act(isFlightOver: false)
            }
            if isDropping { pending = [] }
            act(isFlightOver: true)
        }
        if options.contains(.timesOut) { session.timedOut() } else { session.connectionLost() }
        stepsAllowed += 64
        act(isFlightOver: true)
        require(isOver, "no end")
        require(open.isEmpty && session.openHandovers.isEmpty, "\(open.count) hand-overs without an answer")
        outcome.commands = output.array
        return outcome
    }

    private static func check(_ reply: Reply) {
        require((200...599).contains(reply.code), "reply \(reply)")
        require(reply.text.utf8.allSatisfy { !isControl($0) && $0 < 127 }, "text of a reply: \(reply)")
        require(reply.text.utf8.count <= SMTPReplyParser.Limits.replyMaxBytes, "a long reply")
    }
}
