@testable import Protocols

/// A whole POP3 session under an owner that answers by simple rules: the same however the stream is cut, numbers and
/// totals right, one reply for each line, nothing deleted but by QUIT.
///
/// Input: options, cut seed (two bytes), then what the client sends, in flights.
enum POP3Target {
    struct Options: OptionSet {
        let rawValue: UInt8
        static let tls = Options(rawValue: 1)
        static let showsPasswords = Options(rawValue: 2)
        static let readOnly = Options(rawValue: 4)
        static let small = Options(rawValue: 8)
        static let refusesLogin = Options(rawValue: 16)
        static let refusesMessages = Options(rawValue: 32)
        static let loggedIn = Options(rawValue: 64)
    }

    struct Outcome: Equatable {
        var replies: [UInt8] = []
        var events: [String] = []
        var deleted: [Int] = []
        var phase = POP3ServerSession.Phase.greeting
    }

    private static let sizes = [0, 1, 70, 3_000, 12]
    private static let content = Array("a: b\r\n\r\n.\r\n..x\r\ny".utf8)

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = Options(rawValue: input.byte())
        let cuts = Cuts(seed: input.number())
        var flights = input.parts(FuzzInput.flight)
        if options.contains(.loggedIn) { flights.insert(Array("USER altn.test\r\nPASS secret\r\n".utf8), at: 0) }
        let whole = converse(options, flights, nil)
        checkReplies(whole, flights)
        let cut = converse(options, flights, cuts)
        requireSame(text(whole.replies), text(cut.replies), "replies, whole and cut")
        requireSame(whole, cut, "outcomes, whole and cut")
    }

    private static func converse(_ options: Options, _ flights: [[UInt8]], _ cuts: Cuts?) -> Outcome {
        var settings = POP3ServerSettings()
        settings.offersStartTLS = true
        if options.contains(.small) {
            (settings.lineMaxBytes, settings.errorsMax, settings.outputPauseBytes) = (64, 4, 100)
            (settings.commandsBeforeLoginMax, settings.failedLoginsMax) = (8, 2)
        }
        var offer = SASLOffer(context: FuzzDirectory.context)
        offer.showsPasswordsInClear = options.contains(.showsPasswords)
        let isTLS = options.contains(.tls) || options.contains(.loggedIn)
        var owner = Owner(POP3ServerSession(settings: settings, offer: offer, isTLS: isTLS), options)
        for flight in flights {
            owner.take(cuts?.pieces(flight) ?? [flight])
            if owner.isClosed { break }
        }
        owner.send()
        owner.outcome.phase = owner.session.phase
        return owner.outcome
    }

    private struct Owner: ~Copyable {
        var session: POP3ServerSession
        let options: Options
        var output = ByteOutput()
        var outcome = Outcome()
        var isClosed = false
        /// Not consumed: it is presented again.
        private var pending: [UInt8] = []
        private var isLoggedIn = false
        private var mayLogIn = false
        /// What came since the session began or TLS did.
        private var heard: [UInt8] = []

        init(_ session: consuming POP3ServerSession, _ options: Options) {
            self.session = session
            self.options = options
            self.session.greet(timestamp: "<1@mx.example>", into: &output)
        }

        /// One flight. After STLS the rest of it is dropped, as the owner of a socket does.
        mutating func take(_ pieces: [[UInt8]]) {
            var stepsAllowed = 16
            for piece in pieces {
                pending += piece
                heard += piece
                // A list asks once for each message.
                stepsAllowed += 4 + piece.count * 4 * (POP3Target.sizes.count + 2)
                loop: while !isClosed {
                    stepsAllowed -= 1
                    require(stepsAllowed > 0, "more steps than bytes")
                    var consumed = 0
                    let event = withExact(pending) { session.next($0, consumed: &consumed, into: &output) }
                    require((0...pending.count).contains(consumed), "consumed \(consumed) of \(pending.count)")
                    pending.removeFirst(consumed)
                    switch event {
                    case .needMore:
                        require(pending.count < SASLLimits.lineMaxBytes, "\(pending.count) bytes left over")
                        break loop
                    case .outputFull:
                        require(output.count >= session.settings.outputPauseBytes, "full at \(output.count) bytes")
                        send()
                    case .startTLS:
                        outcome.events.append("tls")
                        require(pending.isEmpty && !session.isTLS && !isLoggedIn, "STLS")
                        session.tlsStarted()
                        heard = []
                        return
                    default: take(event)
                    }
                    checkTotals()
                }
            }
        }

        mutating func send() {
            outcome.replies += output.array
            output = ByteOutput()
        }

        private mutating func take(_ event: POP3ServerSession.Event) {
            outcome.events.append("\(event)")
            switch event {
            case .needMore, .outputFull, .startTLS: break
            case .ask(let question):
                require(!isLoggedIn, "asked behind login")
                if case .password(let user, _) = question {
                    require(session.isTLS || options.contains(.showsPasswords), "a password in the clear")
                    // In its own words or in base64, but since TLS.
                    require(
                        has(Array(user.utf8)) || has(Array("AUTH".utf8)) || has(Array("auth".utf8)),
                        "a name from before TLS")
                }
                let answer = FuzzDirectory.answer(question)
                mayLogIn = answer != .nobody && answer != .verdict(false)
                session.answer(answer, into: &output)
            case .login(let user):
                require(mayLogIn && user == FuzzDirectory.user && !isLoggedIn, "login of \(user)")
                if options.contains(.refusesLogin) {
                    session.refuse(.inUse, into: &output)
                } else {
                    isLoggedIn = true
                    let isReadOnly = options.contains(.readOnly)
                    session.open(POP3Maildrop(sizes: POP3Target.sizes, isReadOnly: isReadOnly), into: &output)
                }
            case .uniqueID(let message):
                checkAlive(message)
                session.giveUniqueID("id\(message)".utf8, into: &output)
            case .retrieve(let message):
                checkAlive(message)
                if options.contains(.refusesMessages) { return session.refuse(.messageInUse, into: &output) }
                requireSame(
                    session.startRetrieval(linesBeginningWithDot: 1, into: &output), .dots(isStuffed: true), "framing")
                output.append("x\r\n.\r\n")
                session.contentSent()
            case .top(let message):
                checkAlive(message)
                if options.contains(.refusesMessages) { return session.refuse(.gone, into: &output) }
                session.startTop(into: &output)
                let isMoreWanted = withExact(POP3Target.content) { session.topContent($0, into: &output) }
                if isMoreWanted { _ = withExact(POP3Target.content) { session.topContent($0, into: &output) } }
                session.finishTop(into: &output)
            case .delete(let message):
                checkAlive(message)
                require(!options.contains(.readOnly), "DELE in a read-only maildrop")
                if options.contains(.refusesMessages) { return session.refuse(.messageInUse, into: &output) }
                session.acceptDelete(into: &output)
            case .update:
                var deleted: [Int] = []
                session.maildrop!.forEachDeleted { deleted.append($0) }
                require(isLoggedIn && !deleted.isEmpty && deleted == deleted.sorted(), "update")
                outcome.deleted = deleted
                session.finishUpdate(failed: deleted.count > 3 ? 1 : 0, into: &output)
            case .quit, .hangUp: isClosed = true
            }
        }

        private func has(_ bytes: [UInt8]) -> Bool {
            guard heard.count >= bytes.count else { return false }
            return (0...(heard.count - bytes.count)).contains { heard[$0..<($0 + bytes.count)].elementsEqual(bytes) }
        }

        private func checkAlive(_ message: Int) {
            require(isLoggedIn && (1...POP3Target.sizes.count).contains(message), "message \(message)")
            session.maildrop!.forEachDeleted { require($0 != message, "a deleted message") }
        }

        private func checkTotals() {
            guard let maildrop = session.maildrop else { return }
            var (count, size) = (POP3Target.sizes.count, POP3Target.sizes.reduce(0, +))
            maildrop.forEachDeleted {
                count -= 1
                size -= POP3Target.sizes[$0 - 1]
            }
            requireSame([maildrop.remainingCount, maildrop.remainingSize], [count, size], "totals")
        }
    }

    private static func checkReplies(_ outcome: Outcome, _ flights: [[UInt8]]) {
        require(hasOnlyCRLF(outcome.replies) && outcome.replies.suffix(2) == [13, 10], "reply lines")
        var replies = 0
        for line in outcome.replies.split(separator: 10) {
            require(line.count <= 511 && line.allSatisfy { $0 < 127 }, "reply line: \(text(line))")
            if line.starts(with: Array("+".utf8)) || line.starts(with: Array("-ERR".utf8)) { replies += 1 }
        }
        let lines = flights.reduce(0) { $0 + $1.count { $0 == 10 } }
        // The greeting, and a last line without its end.
        require(replies <= lines + 2, "\(replies) replies to \(lines) lines")
    }
}
