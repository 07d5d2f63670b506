/// Command lines.
extension ODMRServerSession {
    private static let helloNameMaxBytes = 255

    /// `hasMore`: something stands behind the line already.
    mutating func command(
        _ text: UnsafeRawBufferPointer, hasMore: Bool, into output: inout ByteOutput
    ) -> Event? {
        commandCount += 1
        guard commandCount <= settings.commandsMax else {
            return hangUp(Reply(421, EnhancedStatus(4, 7, 0), "Too many commands, closing"), into: &output)
        }
        // White space before the CRLF is tolerated (RFC 5321 §4.1.1).
        let end = text.lastIndex { $0 != UInt8(ascii: " ") && $0 != UInt8(ascii: "\t") }.map { $0 + 1 } ?? 0
        var cursor = SMTPLineCursor(UnsafeRawBufferPointer(rebasing: text[..<end]))
        let verb = SMTPVerb(rawValue: SMTPLineCursor.packed(cursor.word()))
        do throws(SMTPRefusal) {
            if text[..<end].contains(where: { $0 < 32 || $0 >= 127 }) {
                throw SMTPRefusal(501, EnhancedStatus(5, 5, 2), "Only printable ASCII in a command")
            }
            return try perform(verb, &cursor, hasMore: hasMore, into: &output)
        } catch {
            error.reply.write(into: &output)
            return countError(into: &output)
        }
    }

    /// A line within an AUTH.
    mutating func response(_ text: UnsafeRawBufferPointer, into output: inout ByteOutput) -> Event? {
        take(authentication.received(text, into: &output), into: &output)
    }

    /// Nil where the customer's next line goes on.
    mutating func take(_ event: SMTPAuthentication.Event, into output: inout ByteOutput) -> Event? {
        switch event {
        case .needResponse: return nil
        case .ask(let question):
            state = .answeringCredentials
            return .ask(question)
        case .authenticated(let user): return .authenticated(user: user)
        case .refused(let reply):
            if reply.isFailedLogin { failedLoginCount += 1 }
            return reply.isPermanent ? countError(into: &output) : nil
        }
    }

    mutating func hangUp(_ reply: Reply, into output: inout ByteOutput) -> Event {
        reply.write(into: &output)
        state = .closing
        return .hangUp
    }

    /// Behind the reply to what was wrong.
    mutating func countError(into output: inout ByteOutput) -> Event? {
        errorCount += 1
        guard errorCount >= settings.errorsMax else { return nil }
        return hangUp(.tooManyErrors, into: &output)
    }

    private mutating func perform(
        _ verb: SMTPVerb?, _ cursor: inout SMTPLineCursor, hasMore: Bool, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event? {
        switch verb {
        case .ehlo, .helo: return try hello(&cursor, extended: verb == .ehlo, into: &output)
        case .starttls:
            guard settings.offersStartTLS else { throw .notImplemented }
            guard !isTLS else { throw .badSequence("TLS is already in use") }
            guard hasSaidHello else { throw .badSequence("Say EHLO first") }
            guard authentication.user == nil else { throw .badSequence("Not after AUTH") }
            try requireNoArgument(cursor)
            state = .startingTLS
            output.append("220 2.0.0 Ready to start TLS\r\n")
            return .startTLS
        case .auth:
            guard hasSaidHello else { throw .badSequence("Say EHLO first") }
            _ = cursor.skip(UInt8(ascii: " "))
            return take(authentication.start(cursor.rest, into: &output), into: &output)
        case .atrn: return try turn(&cursor, hasMore: hasMore)
        case .quit:
            try requireNoArgument(cursor)
            state = .closing
            output.append("221 2.0.0 Bye\r\n")
            return .quit
        // Every SMTP client may say these.
        case .noop, .rset:
            output.append("250 2.0.0 Ok\r\n")
            return nil
        case .get, .post, .connect:
            return hangUp(Reply(421, EnhancedStatus(4, 7, 0), "This is no web server, closing"), into: &output)
        // RFC 2645 §5.4 allows it for all others.
        default: throw .notImplemented
        }
    }

    private func requireNoArgument(_ cursor: SMTPLineCursor) throws(SMTPRefusal) {
        guard cursor.isAtEnd else { throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "No argument expected") }
    }

    private mutating func hello(
        _ cursor: inout SMTPLineCursor, extended: Bool, into output: inout ByteOutput
    ) throws(SMTPRefusal) -> Event {
        cursor.skipSpaces()
        let name = cursor.rest
        guard (1...Self.helloNameMaxBytes).contains(name.count) else {
            throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "Say your domain name")
        }
        hasSaidHello = true
        output.append(text: "250\(extended ? "-" : " ")\(settings.hostname)\r\n")
        if extended {
            if settings.offersStartTLS, !isTLS, authentication.user == nil { output.append("250-STARTTLS\r\n") }
            // RFC 2645 §5.1.1 wants AUTH always; without a mechanism to name, its line would be malformed.
            if let announcement = authentication.announcement { output.append(text: "250-\(announcement)\r\n") }
            output.append("250-ENHANCEDSTATUSCODES\r\n250 ATRN\r\n")
        }
        return .hello(name: String(decoding: name, as: UTF8.self), extended: extended)
    }

    /// `ATRN [SP domain *("," domain)]` (RFC 2645 §5.2.1).
    private mutating func turn(_ cursor: inout SMTPLineCursor, hasMore: Bool) throws(SMTPRefusal) -> Event {
        guard authentication.user != nil || !settings.requiresAuthentication else {
            throw SMTPRefusal(530, EnhancedStatus(5, 7, 0), "Authentication required")
        }
        guard hasSaidHello else { throw .badSequence("Say EHLO first") }
        var domains: [QualifiedDomain] = []
        if !cursor.isAtEnd {
            cursor.skipSpaces()
            let names = cursor.rest.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
            guard names.count <= settings.domainsMax else {
                throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "More than \(settings.domainsMax) domains")
            }
            var seen: Set<QualifiedDomain> = []
            for name in names {
                guard let domain = QualifiedDomain(Array(name)) else {
                    throw SMTPRefusal(501, EnhancedStatus(5, 5, 4), "Syntax: ATRN [domain[,domain...]]")
                }
                if seen.insert(domain).inserted { domains.append(domain) }
            }
        }
        state = .answeringTurn(hasMore: hasMore)
        return .turn(user: authentication.user, domains)
    }
}

extension Reply {
    static var lineTooLong: Reply { Reply(500, EnhancedStatus(5, 5, 2), "Line too long") }
}
