@testable import Protocols

/// A whole server session under an owner that answers by simple rules: the outcome is the same however the stream is
/// cut, no event comes out of order, and no content is smuggled.
///
/// Input: options, cut seed (two bytes), then what the client sends, in flights.
enum SMTPServerTarget {
    struct Options: OptionSet {
        let rawValue: UInt8
        static let small = Options(rawValue: 1)
        static let startTLS = Options(rawValue: 2)
        static let xclient = Options(rawValue: 4)
        /// Content that begins with `R` is refused while it comes.
        static let refusesContent = Options(rawValue: 8)
        static let timesOut = Options(rawValue: 16)
        static let refusesSession = Options(rawValue: 32)
        static let refusesMessages = Options(rawValue: 64)
        static let discardsLittle = Options(rawValue: 128)
    }

    struct Outcome: Equatable {
        var replies: [UInt8] = []
        var events: [String] = []
        var messages: [[UInt8]] = []
        var phase = SMTPServerSession.Phase.greeting

        var refusesContentItself: Bool { events.contains { $0.hasPrefix("fault ") } }
    }

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = Options(rawValue: input.byte())
        let cuts = Cuts(seed: input.number())
        let flights = input.parts(FuzzInput.flight)
        let whole = converse(options, flights, nil)
        checkReplies(whole, flights)
        let cut = converse(options, flights, cuts)
        // Whether the owner refuses content, or the machine before it for what is behind it (a line ending, its length),
        // depends on the read; perhaps the reply is still to come.
        if options.contains(.refusesContent), whole.refusesContentItself || cut.refusesContentItself { return }
        requireSame(text(whole.replies), text(cut.replies), "replies, whole and cut")
        requireSame(whole, cut, "outcomes, whole and cut")
    }

    private static func settings(_ options: Options) -> SMTPServerSettings {
        var settings = SMTPServerSettings(hostname: "mx.example")
        settings.offersStartTLS = options.contains(.startTLS)
        settings.offersXClient = options.contains(.xclient)
        settings.offersETRN = options.contains(.xclient)
        if options.contains(.small) {
            settings.messageSizeMax = 200
            settings.recipientsMax = 2
            settings.transactionsMax = 3
            settings.commandsMax = 24
            settings.errorsMax = 4
            settings.chunksMax = 3
            settings.lineMaxBytes = 64
            settings.overlongMaxBytes = 128
            settings.outputPauseBytes = 200
        }
        if options.contains(.discardsLittle) { settings.discardMaxBytes = 300 }
        return settings
    }

    private static func converse(_ options: Options, _ flights: [[UInt8]], _ cuts: Cuts?) -> Outcome {
        var owner = Owner(settings(options), options)
        for flight in flights {
            let pieces = cuts?.pieces(flight) ?? [flight]
            owner.take(pieces)
            if owner.isClosed { break }
        }
        return owner.end()
    }

    private struct Owner: ~Copyable {
        var session: SMTPServerSession
        let options: Options
        var output = ByteOutput()
        var outcome = Outcome()
        var isClosed = false
        private var content: [UInt8] = []
        private var hasGreeted = false
        private var isInTransaction = false
        private var accepted = 0
        private var hasContent = false
        private var steps = 0

        init(_ settings: SMTPServerSettings, _ options: Options) {
            let offer = options.contains(.xclient) ? SASLOffer(context: FuzzDirectory.context) : nil
            session = SMTPServerSession(settings: settings, offer: offer)
            self.options = options
            if options.contains(.refusesSession) {
                session.refuseSession(Reply(554, EnhancedStatus(5, 7, 1), "go away"), into: &output)
            } else {
                session.greet(into: &output)
            }
        }

        /// One flight. After STARTTLS the rest of it is dropped, as the owner of a socket does.
        mutating func take(_ pieces: [[UInt8]]) {
            var pending: [UInt8] = []
            var stepsAllowed = 16
            for piece in pieces {
                pending += piece
                // A byte is presented again at most with the rest of its line; each event passes a byte or ends a state.
                stepsAllowed += 4 * piece.count + 4
                loop: while !isClosed {
                    steps += 1
                    stepsAllowed -= 1
                    require(stepsAllowed > 0, "more steps than bytes")
                    var consumed = 0
                    let event = withExact(pending) { session.next($0, consumed: &consumed, into: &output) }
                    require((0...pending.count).contains(consumed), "consumed \(consumed) of \(pending.count)")
                    if case .content(let range) = event {
                        require(range.lowerBound >= 0 && range.upperBound <= consumed, "content not consumed")
                        require(!range.isEmpty, "content without bytes")
                        content += pending[range]
                    }
                    pending.removeFirst(consumed)
                    switch event {
                    case .needMore:
                        require(
                            pending.count < max(session.settings.lineMaxBytes, SASLLimits.lineMaxBytes),
                            "\(pending.count) bytes left over")
                        if case .content = session.phase, isWithinContent {
                            require(pending.isEmpty, "content left over")
                        }
                        break loop
                    case .startTLS:
                        note("tls")
                        require(pending.isEmpty && !isInTransaction, "STARTTLS")
                        session.tlsStarted()
                        return
                    case .outputFull:
                        require(output.count >= session.settings.outputPauseBytes, "full at \(output.count) bytes")
                        send()
                        // Each time is paid for by replies, and those by lines.
                        stepsAllowed += 1
                    default: take(event)
                    }
                }
            }
        }

        private var isWithinContent: Bool {
            switch session.state {
            case .data, .chunk, .discardingData, .discardingChunk: true
            default: false
            }
        }

        private mutating func send() {
            outcome.replies += output.array
            output = ByteOutput()
        }

        private mutating func note(_ event: String) { outcome.events.append(event) }

        private mutating func take(_ event: SMTPServerSession.Event) {
            switch event {
            case .needMore, .startTLS, .outputFull: break
            case .hello(let name, let extended):
                note("hello \(extended) \(name)")
                require(!isInTransaction, "EHLO within a transaction")
                require((1...255).contains(name.utf8.count) && !name.utf8.contains(where: isControl), "hello name")
                hasGreeted = true
            case .mail(let path, let parameters):
                note("mail <\(path)> \(parameters)")
                require(hasGreeted && !isInTransaction, "MAIL out of order")
                checkPath(path, parameters.smtpUTF8)
                require(parameters.envid?.utf8.contains(where: isControl) != true, "ENVID")
                if case .mailbox(let address) = path, address.localPart.hasPrefix("bad") {
                    session.refuseMail(Reply(550, EnhancedStatus(5, 7, 1), "no"), into: &output)
                } else {
                    session.acceptMail(into: &output)
                    isInTransaction = true
                    accepted = 0
                    hasContent = false
                }
            case .recipient(let address, let parameters):
                note("rcpt <\(address)> \(parameters)")
                require(isInTransaction && !hasContent, "RCPT out of order")
                checkPath(.mailbox(address), true)
                require(parameters.orcpt?.utf8.contains(where: isControl) != true, "ORCPT")
                if address.localPart.hasPrefix("no") {
                    session.refuseRecipient(Reply(550, EnhancedStatus(5, 1, 1), "no such user"), into: &output)
                } else if address.localPart.hasPrefix("bye") {
                    session.refuseRecipient(Reply(421, EnhancedStatus(4, 3, 2), "bye"), into: &output)
                } else {
                    session.acceptRecipient(into: &output)
                    accepted += 1
                }
            case .data, .chunk:
                note("\(event)")
                require(isInTransaction && accepted > 0, "content without a recipient")
                if case .data = event { require(!hasContent, "DATA behind BDAT") }
                if !hasContent { content = [] }
                hasContent = true
                session.startContent(into: &output)
            case .content:
                require(hasContent, "content out of order")
                require(content.count <= session.settings.messageSizeMax, "content beyond the limit")
                if options.contains(.refusesContent), content.first == UInt8(ascii: "R") {
                    session.refuseContent(Reply(452, EnhancedStatus(4, 3, 1), "full"), into: &output)
                    forget()
                }
            case .endOfContent:
                note("end")
                require(isInTransaction && hasContent && accepted == session.recipientCount, "end out of order")
                checkContent()
                outcome.messages.append(content)
                let refuses = options.contains(.refusesMessages)
                session.finishContent(
                    refuses
                        ? Reply(451, EnhancedStatus(4, 3, 0), "later")
                        : Reply(250, EnhancedStatus(2, 0, 0), "queued"), into: &output)
                forget()
            case .contentFault(let reply):
                note("fault \(reply)")
                require(isInTransaction, "a fault out of order")
                forget()
            case .contentRefused:
                note("refused")
                require(!isInTransaction, "refused within a transaction")
            case .xclient(let attributes):
                note("xclient \(attributes)")
                require(!isInTransaction, "XCLIENT within a transaction")
                if attributes.contains(where: { $0.name == .login }) {
                    session.refuseXClient(Reply(501, nil, "no"), into: &output)
                } else {
                    session.acceptXClient(into: &output)
                    hasGreeted = false
                }
            case .ask(let question):
                note("ask \(question)")
                require(!isInTransaction, "AUTH within a transaction")
                session.answer(FuzzDirectory.answer(question), into: &output)
            case .authenticated(let user):
                note("authenticated \(user)")
                require(user == FuzzDirectory.user, "nobody got in")
            case .etrn(let request, let user):
                note("etrn \(request)")
                require(!isInTransaction, "ETRN within a transaction")
                session.answerETRN(user == nil ? .notAllowed(request) : .pendingCountStarted(3, request), into: &output)
            case .reset:
                note("reset")
                require(isInTransaction, "nothing to reset")
                forget()
            case .quit, .hangUp:
                note("\(event)")
                isClosed = true
            }
        }

        private mutating func forget() {
            isInTransaction = false
            hasContent = false
            accepted = 0
        }

        private func checkPath(_ path: ReversePath, _ isInternational: Bool) {
            guard case .mailbox(let address) = path else { return }
            let bytes = Array("<\(address)>".utf8)
            require(!bytes.contains(where: isControl), "a control byte in an address")
            require(isInternational || !address.isInternational, "an international address without SMTPUTF8")
            var at = 0
            let again = try? withExact(bytes) { try AddressParser.parsePath($0, at: &at) }
            require(again == path && at == bytes.count, "\(address) is not read as it is written")
        }

        private func checkContent() {
            require(hasOnlyCRLF(content), "a bare CR or LF in a message")
            requireSame(session.contentBytes, content.count, "contentBytes")
            var dots = 0
            var previous: UInt8 = 10
            for byte in content {
                if byte == UInt8(ascii: "."), previous == 10 { dots += 1 }
                previous = byte
            }
            requireSame(session.linesBeginningWithDot, dots, "linesBeginningWithDot")
            requireSame(session.contentEndsWithCRLF, previous == 10, "contentEndsWithCRLF")
        }

        mutating func end() -> Outcome {
            if !isClosed {
                if options.contains(.timesOut) { session.timedOut(into: &output) }
            }
            send()
            outcome.phase = session.phase
            return outcome
        }
    }

    /// Each reply is well-formed, and no line of the client's is answered twice.
    private static func checkReplies(_ outcome: Outcome, _ flights: [[UInt8]]) {
        require(hasOnlyCRLF(outcome.replies) && outcome.replies.suffix(2) == [13, 10], "reply lines")
        var replies = 0
        for line in outcome.replies.split(separator: 10) {
            require(line.count <= 511 && line.allSatisfy { $0 < 127 }, "reply line: \(text(line))")
            let head = Array(line.prefix(4))
            require(
                head.count == 4 && (UInt8(ascii: "2")...UInt8(ascii: "5")).contains(head[0])
                    && (head[3] == UInt8(ascii: " ") || head[3] == UInt8(ascii: "-")), "reply line: \(text(line))")
            if head[3] == UInt8(ascii: " ") { replies += 1 }
        }
        let lines = flights.reduce(0) { $0 + $1.count { $0 == 10 } }
        // The greeting, the end of the session, and a last line without its end.
        require(replies <= lines + 4, "\(replies) replies to \(lines) lines")
    }
}
