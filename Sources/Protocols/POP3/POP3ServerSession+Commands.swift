/// The verbs, with their letters as `SMTPLineCursor.packed` has them.
private enum POP3Verb: UInt64 {
    case user = 0x7265_7375
    case pass = 0x7373_6170
    case apop = 0x706f_7061
    case auth = 0x6874_7561
    case capa = 0x6170_6163
    case stls = 0x736c_7473
    case stat = 0x7461_7473
    case list = 0x7473_696c
    case uidl = 0x6c64_6975
    case retr = 0x7274_6572
    case top = 0x70_6f74
    case dele = 0x656c_6564
    case rset = 0x7465_7372
    case noop = 0x706f_6f6e
    case quit = 0x7469_7571
}

/// A command that is answered with `-ERR` and counts as an error of the peer.
private struct POP3Fault: Error {
    let refusal: POP3Refusal

    init(_ text: String) { refusal = POP3Refusal(nil, text) }
}

/// Command lines.
extension POP3ServerSession {
    mutating func command(
        _ line: LineReader.Line, _ input: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) -> Event? {
        do throws(POP3Fault) {
            switch line {
            case .needMore: preconditionFailure("no line")
            case .endless, .bareLineFeed: return hangUp("Lines end with CRLF, and sooner", into: &output)
            case .tooLong: throw POP3Fault("Line is too long")
            case .text(let range): return try perform(UnsafeRawBufferPointer(rebasing: input[range]), into: &output)
            }
        } catch {
            error.refusal.write(into: &output)
            errorCount += 1
            return errorCount >= settings.errorsMax ? hangUp() : nil
        }
    }

    private mutating func perform(
        _ text: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) throws(POP3Fault) -> Event? {
        guard !text.contains(where: { $0 < 32 || $0 == 127 }) else { throw POP3Fault("Control byte in a command") }
        if maildrop == nil {
            commandCount += 1
            guard commandCount <= settings.commandsBeforeLoginMax else {
                return hangUp("Too many commands", into: &output)
            }
        }
        var cursor = SMTPLineCursor(text)
        let verb = POP3Verb(rawValue: SMTPLineCursor.packed(cursor.word()))
        // A password may end in spaces (RFC 1939 §7), nothing else may.
        let argument = cursor.skip(UInt8(ascii: " ")) ? cursor.rest : UnsafeRawBufferPointer(start: nil, count: 0)
        if verb == .pass { return try pass(argument, into: &output) }
        let trimmed = UnsafeRawBufferPointer(
            rebasing: argument[..<(argument.lastIndex { $0 != UInt8(ascii: " ") }.map { $0 + 1 } ?? 0)])
        switch verb {
        case .capa:
            try requireNone(trimmed)
            writeCapabilities(into: &output)
            return nil
        case .quit: return try quit(trimmed, into: &output)
        case .user, .pass, .apop, .auth, .stls:
            guard maildrop == nil else { throw POP3Fault("You are logged in") }
            return try authorize(verb!, trimmed, into: &output)
        case .stat, .list, .uidl, .retr, .top, .dele, .rset, .noop:
            guard maildrop != nil else { throw POP3Fault("Log in first") }
            return try transact(verb!, trimmed, into: &output)
        case nil: throw POP3Fault("Unknown command")
        }
    }

    private func requireNone(_ argument: UnsafeRawBufferPointer) throws(POP3Fault) {
        guard argument.isEmpty else { throw POP3Fault("No argument expected") }
    }

    private mutating func quit(
        _ argument: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) throws(POP3Fault) -> Event {
        try requireNone(argument)
        guard let maildrop, maildrop.deletedCount > 0 else {
            state = .closing
            output.append("+OK Bye\r\n")
            return .quit
        }
        state = .answering(.update)
        return .update
    }

    private mutating func hangUp(_ text: String, into output: inout ByteOutput) -> Event {
        POP3Refusal(nil, "\(text), closing").write(into: &output)
        return hangUp()
    }

    /// Behind the last reply: each command has one.
    private mutating func hangUp() -> Event {
        state = .closing
        return .hangUp
    }

    /// What may be had, now and after login alike (RFC 2449 §5).
    private func writeCapabilities(into output: inout ByteOutput) {
        output.append("+OK Capabilities follow\r\nTOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\n")
        if settings.offersUser, offer.mayShowPasswords(isTLS: isTLS) { output.append("USER\r\n") }
        let mechanisms = offer.mechanisms(isTLS: isTLS).map(\.rawValue)
        if !mechanisms.isEmpty { output.append(text: "SASL \(mechanisms.joined(separator: " "))\r\n") }
        // "Permitted in the current state" (RFC 2595 §4).
        if settings.offersStartTLS, !isTLS, maildrop == nil { output.append("STLS\r\n") }
        if let retention = maildrop?.retention ?? settings.retention {
            let days =
                switch retention {
                case .never: "NEVER"
                case .days(let days): "\(days)"
                }
            output.append(text: "EXPIRE \(days)\(maildrop == nil ? " USER" : "")\r\n")
        }
        if let seconds = settings.loginDelaySeconds { output.append(text: "LOGIN-DELAY \(seconds)\r\n") }
        output.append("IMPLEMENTATION Postern\r\n.\r\n")
    }
}

// MARK: - Before login

extension POP3ServerSession {
    private mutating func authorize(
        _ verb: POP3Verb, _ argument: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) throws(POP3Fault) -> Event? {
        switch verb {
        case .user:
            try requirePasswords()
            guard !argument.isEmpty else { throw POP3Fault("Syntax: USER name") }
            // Said to everybody: whether there is such a user stays open.
            userSaid = Array(argument)
            output.append("+OK Now the password\r\n")
            return nil
        case .apop:
            guard let timestamp else { throw POP3Fault("APOP is not offered") }
            guard let space = argument.lastIndex(of: UInt8(ascii: " ")) else {
                throw POP3Fault("Syntax: APOP name digest")
            }
            let (exchange, step) = SASLServerExchange.apop(
                user: Array(argument[..<space]), digest: Array(argument[(space + 1)...]), timestamp: timestamp,
                context: offer.context)
            return take(step, exchange, into: &output)
        case .auth:
            guard !argument.isEmpty else { throw POP3Fault("Syntax: AUTH mechanism [response]") }
            guard let (exchange, step) = offer.start(argument, isTLS: isTLS) else {
                throw POP3Fault("Mechanism is not on offer")
            }
            return take(step, exchange, into: &output)
        case .stls:
            guard settings.offersStartTLS else { throw POP3Fault("TLS is not offered") }
            guard !isTLS else { throw POP3Fault("Command not permitted when TLS active") }
            try requireNone(argument)
            state = .startingTLS
            output.append("+OK Begin TLS negotiation\r\n")
            return .startTLS
        default: preconditionFailure("not a command of the authorization state")
        }
    }

    private func requirePasswords() throws(POP3Fault) {
        guard settings.offersUser else { throw POP3Fault("USER is not offered") }
        guard offer.mayShowPasswords(isTLS: isTLS) else { throw POP3Fault("No passwords in the clear, say STLS first") }
    }

    private mutating func pass(
        _ password: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) throws(POP3Fault) -> Event? {
        guard maildrop == nil else { throw POP3Fault("You are logged in") }
        try requirePasswords()
        guard let user = userSaid else { throw POP3Fault("Say USER first") }
        userSaid = nil
        let (exchange, step) = SASLServerExchange.password(
            user: user, password: Array(password), context: offer.context)
        return take(step, exchange, into: &output)
    }

    /// A line within an AUTH.
    mutating func response(
        _ line: LineReader.Line, _ exchange: SASLServerExchange, _ input: UnsafeRawBufferPointer,
        into output: inout ByteOutput
    ) -> Event? {
        switch line {
        case .needMore: preconditionFailure("no line")
        case .endless, .bareLineFeed: return hangUp("Lines end with CRLF, and sooner", into: &output)
        case .tooLong: return take(.failed(.malformed), exchange, into: &output)
        case .text(let range):
            var exchange = exchange
            let step = exchange.respond(UnsafeRawBufferPointer(rebasing: input[range]))
            return take(step, exchange, into: &output)
        }
    }

    /// - Returns: `.ask`, `.login`, `.hangUp`, or nil where the peer's next line goes on.
    mutating func take(
        _ step: SASLServerExchange.Step, _ exchange: SASLServerExchange, into output: inout ByteOutput
    ) -> Event? {
        switch step {
        case .challenge(let bytes):
            state = .response(exchange)
            output.append("+ ")
            Base64.encode(bytes, into: &output)
            output.append("\r\n")
            return nil
        case .ask(let question):
            state = .answering(.credentials(exchange))
            return .ask(question)
        case .authenticated(let user):
            state = .answering(.login)
            return .login(user: user)
        case .failed(let failure):
            state = .commands
            POP3Refusal(failure).write(into: &output)
            // The server's own trouble is no attempt.
            if failure != .unavailable { failedLoginCount += 1 }
            return failedLoginCount >= settings.failedLoginsMax ? hangUp() : nil
        }
    }
}

extension POP3Refusal {
    init(_ failure: SASLFailure) {
        switch failure {
        case .credentials: self.init(.credentials, "Authentication failed")
        case .malformed: self.init(nil, "Malformed response")
        case .encoding: self.init(nil, "Response is no base64")
        case .cancelled: self.init(nil, "Authentication cancelled")
        case .unexpectedInitialResponse: self.init(nil, "The server speaks first")
        case .unavailable: self.init(.temporary, "Can't check that now, try later")
        }
    }
}

// MARK: - After login

extension POP3ServerSession {
    private mutating func transact(
        _ verb: POP3Verb, _ argument: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) throws(POP3Fault) -> Event? {
        switch verb {
        case .stat:
            try requireNone(argument)
            output.append("+OK ")
            output.append(number: maildrop!.remainingCount)
            output.append(" ")
            output.append(number: maildrop!.remainingSize)
            output.append("\r\n")
        case .list, .uidl:
            guard argument.isEmpty else { return try listOne(verb, argument, into: &output) }
            writeTotals("+OK", into: &output)
            state = .listing(verb == .list ? .sizes : .uniqueIDs, next: 1)
        case .retr:
            let message = try message(argument)
            state = .answering(.retrieve(message))
            return .retrieve(message: message)
        case .top:
            var cursor = SMTPLineCursor(argument)
            let number = cursor.word()
            cursor.skipSpaces()
            guard let lines = SMTPLineCursor.number(cursor.rest) else { throw POP3Fault("Syntax: TOP message lines") }
            let message = try message(number)
            state = .answering(.top(lines: lines))
            return .top(message: message)
        case .dele:
            let message = try message(argument)
            guard !maildrop!.isReadOnly else { throw POP3Fault("This maildrop is read-only, nothing can be deleted") }
            state = .answering(.delete(message))
            return .delete(message: message)
        case .rset:
            try requireNone(argument)
            maildrop!.undeleteAll()
            writeTotals("+OK Maildrop has", into: &output)
        case .noop:
            try requireNone(argument)
            output.append("+OK\r\n")
        default: preconditionFailure("not a command of the transaction state")
        }
        return nil
    }

    private mutating func listOne(
        _ verb: POP3Verb, _ argument: UnsafeRawBufferPointer, into output: inout ByteOutput
    ) throws(POP3Fault) -> Event? {
        let message = try message(argument)
        if verb == .uidl {
            state = .answering(.uniqueID(message, isInList: false))
            return .uniqueID(message: message)
        }
        output.append("+OK ")
        writeSize(message, into: &output)
        return nil
    }

    private func message(_ text: UnsafeRawBufferPointer) throws(POP3Fault) -> Int {
        guard let number = SMTPLineCursor.number(text) else { throw POP3Fault("Which message? A number is wanted") }
        guard maildrop!.has(number) else { throw POP3Fault("No such message") }
        return number
    }

    func writeTotals(_ head: StaticString, into output: inout ByteOutput) {
        output.append(head)
        output.append(" ")
        output.append(number: maildrop!.remainingCount)
        output.append(" messages (")
        output.append(number: maildrop!.remainingSize)
        output.append(" octets)\r\n")
    }

    private func writeSize(_ message: Int, into output: inout ByteOutput) {
        output.append(number: message)
        output.append(" ")
        output.append(number: maildrop!.size(of: message))
        output.append("\r\n")
    }

    /// Goes on with a list, as far as the output may grow.
    mutating func list(_ listing: Listing, from first: Int, into output: inout ByteOutput) -> Event? {
        var message = first
        while message <= maildrop!.count {
            guard maildrop!.has(message) else {
                message += 1
                continue
            }
            if listing == .uniqueIDs {
                state = .answering(.uniqueID(message, isInList: true))
                return .uniqueID(message: message)
            }
            guard output.count < settings.outputPauseBytes else {
                state = .listing(listing, next: message)
                return .outputFull
            }
            writeSize(message, into: &output)
            message += 1
        }
        state = .commands
        output.append(".\r\n")
        return nil
    }
}
