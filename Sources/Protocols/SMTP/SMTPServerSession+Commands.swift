/// Command lines.
extension SMTPServerSession {
    private static let helloNameMaxBytes = 255

    /// Behind the LF that ends the line at `start`; nil if it is not there or too far away to matter.
    func lineEnd(_ input: UnsafeRawBufferPointer, from start: Int, maxBytes: Int? = nil) -> Int? {
        let end = min(input.count, start + (maxBytes ?? settings.lineMaxBytes))
        var at = start
        while at < end {
            if input[at] == UInt8(ascii: "\n") { return at + 1 }
            at += 1
        }
        return nil
    }

    /// The line is a BDAT. One that can't be read leaves open how many octets follow, so it ends the session: they must
    /// not be taken for commands.
    func isChunkCommand(_ input: UnsafeRawBufferPointer, from start: Int) -> Bool {
        var cursor = SMTPLineCursor(UnsafeRawBufferPointer(rebasing: input[start...].prefix(5)))
        return cursor.skip(anyCase: "bdat")
    }

    /// Skips to the end of a line that is too long to read.
    mutating func skipLine(
        _ skipped: Int, _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        let reply = Reply(500, EnhancedStatus(5, 5, 2), "Line too long")
        let rest = UnsafeRawBufferPointer(rebasing: input[consumed...])
        let end = rest.firstIndex(of: UInt8(ascii: "\n"))
        let count = end.map { $0 + 1 } ?? rest.count
        consumed += count
        guard skipped + count <= settings.overlongMaxBytes else { return hangUp(reply, into: &output) }
        guard end != nil else {
            state = .overlongLine(skipped + count)
            return .needMore
        }
        state = .commands
        answer(reply, into: &output)
        return nil
    }

    /// The line from `consumed` up to `end`, behind its LF. nil if there is nothing to tell.
    mutating func command(
        _ input: UnsafeRawBufferPointer, until end: Int, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        let start = consumed
        consumed = end
        guard end - start >= 2, input[end - 2] == UInt8(ascii: "\r") else {
            return hangUp(Reply(500, EnhancedStatus(5, 5, 2), "Bare LF; lines end with CRLF"), into: &output)
        }
        // White space before the CRLF is tolerated (RFC 5321 §4.1.1).
        var textEnd = end - 2
        while textEnd > start, input[textEnd - 1] == UInt8(ascii: " ") || input[textEnd - 1] == UInt8(ascii: "\t") {
            textEnd -= 1
        }
        let text = UnsafeRawBufferPointer(rebasing: input[start..<textEnd])
        commandCount += 1
        guard commandCount <= settings.commandsMax else {
            return hangUp(Reply(421, EnhancedStatus(4, 7, 0), "Too many commands, closing"), into: &output)
        }
        var cursor = SMTPLineCursor(text)
        let verb = SMTPVerb(rawValue: SMTPLineCursor.packed(cursor.word()))
        do throws(SMTPRefusal) {
            if let control = text.first(where: { $0 < 32 || $0 == 127 }) {
                guard !isChunkCommand(text, from: 0) else { return hangUp(.chunkSyntax, into: &output) }
                throw control == 0
                    ? SMTPRefusal(501, EnhancedStatus(5, 5, 2), "NUL in a command")
                    : SMTPRefusal(501, EnhancedStatus(5, 5, 2), "Control character in a command")
            }
            if stage == .refused, verb != .quit { throw .badSequence("No service here, say QUIT") }
            let event = try perform(verb, &cursor, into: &output)
            if case .reset = event, verb == .ehlo || verb == .helo {
                // Two things to tell: the line is read again, now outside of a transaction.
                consumed = start
                commandCount -= 1
            } else if case .startTLS = event {
                consumed = input.count
            }
            return event
        } catch {
            answer(error.reply, isError: error.isError, into: &output)
            return nil
        }
    }

    private mutating func perform(
        _ verb: SMTPVerb?, _ cursor: inout SMTPLineCursor, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event? {
        switch verb {
        case .mail: return try mail(&cursor)
        case .rcpt: return try recipient(&cursor)
        case .data: return try data(cursor, into: &output)
        case .bdat: return chunk(&cursor, into: &output)
        case .ehlo, .helo: return try hello(&cursor, extended: verb == .ehlo, into: &output)
        case .rset:
            try requireNoArgument(cursor)
            let wasInTransaction = isInTransaction
            resetTransaction()
            hasSaidMail = false
            output.append("250 2.0.0 Ok\r\n")
            return wasInTransaction ? .reset : nil
        case .noop: output.append("250 2.0.0 Ok\r\n")
        case .quit:
            try requireNoArgument(cursor)
            resetTransaction()
            state = .closing
            output.append("221 2.0.0 Bye\r\n")
            return .quit
        case .starttls: return try startTLS(cursor, into: &output)
        case .xclient: return try xclient(&cursor)
        case .vrfy: try verify(&cursor, into: &output)
        case .help: output.append("214 2.0.0 See RFC 5321\r\n")
        case .auth: return try authenticate(&cursor, into: &output)
        case .etrn: return try etrn(&cursor, into: &output)
        case .expn, .atrn: throw .notImplemented
        case .get, .post, .connect:
            return hangUp(Reply(421, EnhancedStatus(4, 7, 0), "This is no web server, closing"), into: &output)
        case nil: throw SMTPRefusal(500, EnhancedStatus(5, 5, 2), "Command not recognized")
        }
        return nil
    }

    private func requireNoArgument(_ cursor: SMTPLineCursor) throws(SMTPRefusal) {
        guard cursor.isAtEnd else { throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "No argument expected") }
    }

    private mutating func hello(
        _ cursor: inout SMTPLineCursor, extended: Bool, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event {
        cursor.skipSpaces()
        let name = cursor.rest
        guard !name.isEmpty, name.count <= Self.helloNameMaxBytes, name.allSatisfy({ $0 < 127 }) else {
            throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "Say your domain name")
        }
        guard !isInTransaction else {
            resetTransaction()
            return .reset
        }
        stage = .ready
        hasSaidMail = false
        output.append(extended ? "250-" : "250 ")
        output.append(text: settings.hostname)
        output.append("\r\n")
        if extended { writeExtensions(into: &output) }
        return .hello(name: String(decoding: name, as: UTF8.self), extended: extended)
    }

    private func writeExtensions(into output: inout ByteOutput) {
        output.append("250-PIPELINING\r\n250-SIZE ")
        output.append(number: settings.messageSizeMax)
        output.append("\r\n")
        if settings.offersStartTLS, !isTLS { output.append("250-STARTTLS\r\n") }
        output.append("250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n")
        if settings.offersETRN { output.append("250-ETRN\r\n") }
        if let announcement = login?.authentication.announcement {
            output.append("250-")
            output.append(text: announcement)
            output.append("\r\n")
        }
        if settings.offersXClient { output.append("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n") }
        output.append("250 LIMITS RCPTMAX=")
        output.append(number: settings.recipientsMax)
        output.append(" MAILMAX=")
        output.append(number: settings.transactionsMax)
        output.append("\r\n")
    }

    private mutating func startTLS(
        _ cursor: SMTPLineCursor, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event {
        guard settings.offersStartTLS else { throw .notImplemented }
        guard !isTLS else { throw .badSequence("TLS is already in use") }
        guard stage == .ready else { throw .badSequence(isInTransaction ? "Not in a transaction" : "Say EHLO first") }
        try requireNoArgument(cursor)
        state = .startingTLS
        output.append("220 2.0.0 Ready to start TLS\r\n")
        return .startTLS
    }

    /// RFC 4954 §4: outside of a transaction, behind EHLO.
    private mutating func authenticate(
        _ cursor: inout SMTPLineCursor, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event? {
        guard let login else { throw .notImplemented }
        guard stage == .ready else { throw .badSequence(isInTransaction ? "Not in a transaction" : "Say EHLO first") }
        _ = cursor.skip(UInt8(ascii: " "))
        return take(login.authentication.start(cursor.rest, into: &output))
    }

    /// A line within an AUTH.
    mutating func response(
        _ input: UnsafeRawBufferPointer, until end: Int, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        let start = consumed
        consumed = end
        guard end - start >= 2, input[end - 2] == UInt8(ascii: "\r") else {
            return hangUp(Reply(500, EnhancedStatus(5, 5, 2), "Bare LF; lines end with CRLF"), into: &output)
        }
        let line = UnsafeRawBufferPointer(rebasing: input[start..<end - 2])
        return take(login!.authentication.received(line, into: &output))
    }

    /// nil where the peer's next line goes on.
    mutating func take(_ event: SMTPAuthentication.Event) -> Event? {
        switch event {
        case .needResponse:
            state = .authenticating
            return nil
        case .ask(let question):
            state = .answering(.credentials)
            return .ask(question)
        case .authenticated(let user):
            state = .commands
            return .authenticated(user: user)
        case .refused(let reply):
            state = .commands
            if reply.isPermanent { errorCount += 1 }
            if reply.isFailedLogin { failedLoginCount += 1 }
            return nil
        }
    }

    /// `ETRN SP [@|#]node` (RFC 1985 §5).
    private mutating func etrn(
        _ cursor: inout SMTPLineCursor, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event? {
        guard settings.offersETRN else { throw .notImplemented }
        do throws(ETRNReply) {
            guard stage == .ready else { throw .outOfOrder }
            cursor.skipSpaces()
            let request = try ETRNRequest(argument: Array(cursor.rest))
            state = .answering(.etrn)
            return .etrn(request, user: login?.authentication.user)
        } catch {
            answer(error.reply, into: &output)
            return nil
        }
    }

    private mutating func xclient(_ cursor: inout SMTPLineCursor) throws(SMTPRefusal) -> Event {
        guard settings.offersXClient else { throw .notImplemented }
        guard !isInTransaction else { throw .badSequence("Not in a transaction") }
        let attributes = try cursor.xclientAttributes()
        state = .answering(.xclient)
        return .xclient(attributes)
    }

    private mutating func mail(_ cursor: inout SMTPLineCursor) throws(SMTPRefusal) -> Event {
        switch stage {
        case .refused, .hello: throw .badSequence("Say EHLO first")
        case .ready: break
        case .envelope, .chunks: throw .badSequence("A transaction is under way")
        }
        hasSaidMail = true
        guard transactionCount < settings.transactionsMax else {
            throw SMTPRefusal(421, EnhancedStatus(4, 7, 0), "Too many transactions in one session")
        }
        let path = try readPath(&cursor, keyword: "from:", faultStatus: EnhancedStatus(5, 1, 7))
        let parameters = try cursor.mailParameters()
        if let size = parameters.size, size > settings.messageSizeMax {
            throw SMTPRefusal(552, EnhancedStatus(5, 3, 4), "Message is too big")
        }
        if case .mailbox(let address) = path {
            guard address.domain != nil else { throw SMTPRefusal(553, EnhancedStatus(5, 1, 7), "Sender has no domain") }
            guard parameters.smtpUTF8 || cursor.isASCII else { throw .needsSMTPUTF8(550) }
        }
        state = .answering(.mail(smtpUTF8: parameters.smtpUTF8))
        return .mail(path, parameters)
    }

    private mutating func recipient(_ cursor: inout SMTPLineCursor) throws(SMTPRefusal) -> Event {
        switch stage {
        case .refused, .hello, .ready: throw .needsMail(hasSaidMail)
        case .envelope: break
        case .chunks: throw .badSequence("The message is under way")
        }
        let path = try readPath(&cursor, keyword: "to:", faultStatus: EnhancedStatus(5, 1, 3))
        guard case .mailbox(let address) = path else {
            throw SMTPRefusal(501, EnhancedStatus(5, 1, 3), "Recipient is empty")
        }
        guard isSMTPUTF8 || cursor.isASCII else { throw .needsSMTPUTF8(553) }
        let parameters = try cursor.recipientParameters(smtpUTF8: isSMTPUTF8)
        guard recipientCount < settings.recipientsMax else {
            throw SMTPRefusal(452, EnhancedStatus(4, 5, 3), "Too many recipients")
        }
        state = .answering(.recipient)
        return .recipient(address, parameters)
    }

    /// Leniency: one space behind the colon (sent by many appliances and old mailers).
    private func readPath(
        _ cursor: inout SMTPLineCursor, keyword: StaticString, faultStatus: EnhancedStatus
    ) throws(SMTPRefusal) -> ReversePath {
        cursor.skipSpaces()
        guard cursor.skip(anyCase: keyword) else {
            throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "Syntax: MAIL FROM:<address>, RCPT TO:<address>")
        }
        _ = cursor.skip(UInt8(ascii: " "))
        do throws(AddressFault) {
            return try cursor.path()
        } catch {
            switch error {
            case .brackets: throw SMTPRefusal(501, faultStatus, "Address is not in <brackets>")
            case .localPart: throw SMTPRefusal(501, faultStatus, "Malformed local part")
            case .noDomain: throw SMTPRefusal(553, faultStatus, "Address has no domain")
            case .domain: throw SMTPRefusal(501, faultStatus, "Malformed domain")
            case .length: throw SMTPRefusal(501, faultStatus, "Address is too long")
            }
        }
    }

    private mutating func data(
        _ cursor: SMTPLineCursor, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event? {
        switch stage {
        case .refused, .hello, .ready: throw .needsMail(hasSaidMail)
        case .chunks: throw .badSequence("DATA after BDAT")
        case .envelope: break
        }
        try requireNoArgument(cursor)
        guard recipientCount > 0 else {
            resetTransaction()
            answer(.noRecipients, into: &output)
            return .reset
        }
        state = .answering(.data)
        return .data
    }

    /// `BDAT SP chunk-size [ SP "LAST" ]` (RFC 3030 §2). Octets follow whatever the answer is.
    private mutating func chunk(_ cursor: inout SMTPLineCursor, into output: inout ByteOutput) -> Event? {
        cursor.skipSpaces()
        guard let size = SMTPLineCursor.number(cursor.word()) else {
            return hangUp(.chunkSyntax, into: &output)
        }
        cursor.skipSpaces()
        let isLast = !cursor.isAtEnd
        let isWellFormed = !isLast || SMTPLineCursor.matches(cursor.rest, "last")
        chunkCount += 1
        let fault: Reply? =
            if !isInTransaction {
                SMTPRefusal.needsMail(hasSaidMail).reply
            } else if !isWellFormed {
                .chunkSyntax
            } else if recipientCount == 0 {
                .noRecipients
            } else if chunkCount > settings.chunksMax {
                Reply(421, EnhancedStatus(4, 7, 0), "Too many chunks")
            } else if size > settings.messageSizeMax - contentBytes {
                .tooBig
            } else {
                nil
            }
        guard let fault else {
            state = .answering(.chunk(size: size, isLast: isLast))
            return .chunk(size: size, isLast: isLast)
        }
        let wasInTransaction = isInTransaction
        discardChunk(size, fault, isError: wasInTransaction || !hasSaidMail)
        return wasInTransaction ? .contentFault(fault) : nil
    }

    /// VRFY tells nothing (RFC 5321 §7.3). An address in UTF-8 needs SMTPUTF8 (RFC 6531 §3.7.4.2).
    private func verify(_ cursor: inout SMTPLineCursor, into output: inout ByteOutput) throws(SMTPRefusal) {
        cursor.skipSpaces()
        let argument = cursor.rest
        guard !argument.isEmpty else { throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "Verify whom?") }
        if argument.contains(where: { $0 >= 128 }) {
            let parameter: StaticString = " smtputf8"
            let tail = UnsafeRawBufferPointer(rebasing: argument.suffix(parameter.utf8CodeUnitCount))
            guard SMTPLineCursor.matches(tail, parameter) else { throw .needsSMTPUTF8(550) }
        }
        output.append("252 2.0.0 Send some mail, it will be tried\r\n")
    }
}

extension SMTPRefusal {
    static func badSequence(_ text: String) -> SMTPRefusal { SMTPRefusal(503, EnhancedStatus(5, 5, 1), text) }

    /// What was pipelined behind a refused MAIL is answered so too, and is no error of the peer.
    static func needsMail(_ hasSaidMail: Bool) -> SMTPRefusal {
        var refusal = badSequence("Say MAIL first")
        refusal.isError = !hasSaidMail
        return refusal
    }

    static var notImplemented: SMTPRefusal {
        SMTPRefusal(502, EnhancedStatus(5, 5, 1), "Command not implemented")
    }

    static func needsSMTPUTF8(_ code: Int) -> SMTPRefusal {
        SMTPRefusal(code, EnhancedStatus(5, 6, 7), "Address needs SMTPUTF8")
    }
}

extension Reply {
    static var chunkSyntax: Reply { Reply(501, EnhancedStatus(5, 5, 4), "Syntax: BDAT size [LAST]") }
    static var noRecipients: Reply { Reply(554, EnhancedStatus(5, 5, 1), "No valid recipients") }
}
