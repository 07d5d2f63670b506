/// The server's side of one SMTP conversation (RFC 5321), without the socket.
///
/// ```text
///              ┌────────────────────── RSET, EHLO, refusal, finishContent ◀─────────────┐
///              ▼                                                                        │
/// greeting ▶ hello ─EHLO▶ command ─MAIL▶ envelope ─DATA▶ content ─CRLF.CRLF▶ endOfContent
///                                           └─────BDAT▶ content ◀▶ chunks ─LAST──┘
/// ```
///
/// The owner holds the socket and the input. It calls `next` until that returns `.needMore`, sends what is in the
/// output whenever it likes but at the latest then, and comes again with the unconsumed bytes and more behind them.
/// Events that ask something (`.mail`, `.recipient`, `.data`, `.chunk`, `.xclient`, `.endOfContent`) must be answered
/// before `next` is called again; the answer may come later.
///
/// - Content is consumed to the last byte of each input, so the owner may receive it where it will stay. Of commands,
///   less than one line (`lineMaxBytes`) stays unconsumed.
/// - Errors: a peer out of order gets a 503 and keeps its session; an owner out of order traps.
/// - Only CRLF ends a line. A bare CR or LF in content is refused with 550 5.5.2 and the end of the session, DATA and
///   BDAT alike, as it serves to smuggle messages past servers that take it for a line's end.
public struct SMTPServerSession: ~Copyable {
    public let settings: SMTPServerSettings
    var state = State.connected
    /// What the peer may say next, while it is its turn to send commands.
    var stage = Stage.hello
    public private(set) var isTLS: Bool

    var scanner = ContentScanner()
    /// Raw bytes of the message under way, dots taken off, that were given out or refused.
    public internal(set) var contentBytes = 0
    /// Recipients accepted in the transaction under way.
    public internal(set) var recipientCount = 0
    /// SMTPUTF8 was on the MAIL of the transaction under way.
    var isSMTPUTF8 = false
    var chunkCount = 0
    var discardedBytes = 0
    /// The peer said MAIL since EHLO, RSET or the last message: what it pipelined behind a refusal is no error of its.
    var hasSaidMail = false

    /// nil: AUTH is not offered. Elsewhere, for most sessions have none, and there are many of them.
    var login: Login?

    public internal(set) var transactionCount = 0
    public internal(set) var errorCount = 0
    /// Logins with a wrong user or secret.
    public internal(set) var failedLoginCount = 0
    var commandCount = 0

    /// - `isTLS`: the handshake is done before the greeting (RFC 8314 §3.3).
    /// - `offer`: for AUTH, which serves ETRN alone; nil: there is none.
    public init(settings: borrowing SMTPServerSettings, isTLS: Bool = false, offer: SASLOffer? = nil) {
        self.settings = copy settings
        self.isTLS = isTLS
        login = offer.map { Login($0, isTLS: isTLS) }
    }
}

// MARK: - Events

extension SMTPServerSession {
    /// What the peer did.
    public enum Event: Hashable, Sendable {
        /// Give more bytes.
        case needMore
        /// Replies have piled up in `output`: send them before the next call.
        case outputFull
        /// EHLO (`extended`) or HELO, already answered. At most 255 bytes of printable ASCII, possibly with spaces.
        case hello(name: String, extended: Bool)
        /// Answer with `acceptMail` or `refuseMail`.
        case mail(ReversePath, MailParameters)
        /// Answer with `acceptRecipient` or `refuseRecipient`. A nil domain is `<Postmaster>`.
        case recipient(MailAddress, RecipientParameters)
        /// DATA: answer with `startContent` or `refuseContent`.
        case data
        /// BDAT: answer with `startContent` or `refuseContent`; refused octets are received, dropped and answered once.
        case chunk(size: Int, isLast: Bool)
        /// Content, dots taken off: offsets in `input`. It and what is before it are consumed, perhaps a dot behind.
        case content(Range<Int>)
        /// The whole message is here: answer with `finishContent`.
        case endOfContent
        /// The message under way is refused for what it is: forget it. The reply is for the log. Either the rest is
        /// received and dropped, up to `.contentRefused`, or the session ends.
        case contentFault(Reply)
        /// Refused content is over and its reply is in the output. No transaction is under way.
        case contentRefused
        /// The peer asked for TLS: 220 is in the output. Flush it, do the handshake, call `tlsStarted`. All of `input`
        /// counts as consumed; drop whatever else came in plaintext (RFC 3207 §4.2, CVE-2011-0411).
        case startTLS
        /// Answer with `acceptXClient` or `refuseXClient`. Only if `offersXClient`.
        case xclient([XClientAttribute])
        /// Look it up; then `answer`.
        case ask(SASLQuestion)
        /// 235 is in the output.
        case authenticated(user: String)
        /// ETRN (RFC 1985): answer with `answerETRN`. Only if `offersETRN`.
        case etrn(ETRNRequest, user: String?)
        /// RSET, EHLO or an error ended the transaction: forget the message under way.
        case reset
        /// 221 is in the output: flush and close. A transaction under way is over.
        case quit
        /// Flush and close. A transaction under way is over.
        case hangUp
    }

    /// Where the conversation stands, for timeouts and for the log.
    public enum Phase: CaseIterable, Sendable {
        case greeting, refused, hello, command, envelope, content, endOfContent, startTLS, closing

        /// Completes "lost connection …" and "timeout …".
        public var words: StaticString {
            switch self {
            case .greeting: "before the greeting"
            case .refused: "after being refused"
            case .hello: "before EHLO"
            case .command: "between transactions"
            case .envelope: "in the envelope"
            case .content: "in the message content"
            case .endOfContent: "while the message was being stored"
            case .startTLS: "after STARTTLS"
            case .closing: "while closing"
            }
        }

        /// How long to wait for the peer: five minutes where RFC 5321 §4.5.3.2.7 asks for them.
        public var timeoutSeconds: Int {
            switch self {
            case .refused, .closing: 30
            case .startTLS: 60
            default: 300
            }
        }
    }

    enum State {
        /// No greeting yet.
        case connected
        case commands
        /// The rest of an over-long command line; bytes so far.
        case overlongLine(Int)
        case answering(Question)
        /// The peer's next line belongs to an AUTH.
        case authenticating
        case authenticatedDue(user: String)
        /// Within DATA.
        case data
        /// Within BDAT; octets still to come.
        case chunk(remaining: Int, isLast: Bool)
        /// Within refused DATA.
        case discardingData(Reply)
        /// Within a refused BDAT.
        case discardingChunk(remaining: Int, Reply, isError: Bool)
        case startingTLS
        /// The last reply is in the output.
        case closing
    }

    enum Question {
        case mail(smtpUTF8: Bool)
        case recipient, data
        case chunk(size: Int, isLast: Bool)
        case endOfContent
        case xclient
        case credentials
        case etrn
    }

    /// What AUTH has come to.
    final class Login {
        private let offer: SASLOffer
        var authentication: SMTPAuthentication

        init(_ offer: SASLOffer, isTLS: Bool) {
            self.offer = offer
            authentication = SMTPAuthentication(offer: offer, isTLS: isTLS)
        }

        /// Nothing that was said counts any more.
        func beginAnew(isTLS: Bool) { authentication = SMTPAuthentication(offer: offer, isTLS: isTLS) }
    }

    enum Stage {
        /// Refused in the greeting; only QUIT is left (RFC 5321 §3.1).
        case refused
        case hello, ready, envelope
        /// Between the BDATs of one message.
        case chunks
    }
}

// MARK: - Conversation

extension SMTPServerSession {
    /// Sends the 220.
    public mutating func greet(into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        state = .commands
        output.append("220 ")
        output.append(text: settings.hostname)
        output.append(" ")
        output.append(text: settings.greetingText)
        output.append("\r\n")
    }

    /// Sends `reply` instead of a greeting: with a 421 the session ends, after a 554 it waits for the peer's QUIT and
    /// answers all else with 503 (RFC 5321 §3.1).
    public mutating func refuseSession(_ reply: Reply, into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        reply.write(into: &output)
        state = reply.code == 421 ? .closing : .commands
        stage = .refused
    }

    /// Goes through `input` from `consumed` on, up to the first thing that happened.
    ///
    /// `consumed` comes back behind what need not be presented again. So the owner may call again with the same `input`
    /// and `consumed`, or cut off the consumed bytes and begin at 0.
    public mutating func next(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event {
        while true {
            switch state {
            case .connected: preconditionFailure("not greeted")
            case .answering: preconditionFailure("the last event was not answered")
            case .startingTLS: preconditionFailure("tlsStarted was not called")
            case .closing:
                consumed = input.count
                return .hangUp
            case .commands:
                if errorCount >= settings.errorsMax { return hangUp(.tooManyErrors, into: &output) }
                if output.count >= settings.outputPauseBytes { return .outputFull }
                guard let end = lineEnd(input, from: consumed) else {
                    guard input.count - consumed >= settings.lineMaxBytes else { return .needMore }
                    if isChunkCommand(input, from: consumed) { return hangUp(.chunkSyntax, into: &output) }
                    state = .overlongLine(0)
                    continue
                }
                if let event = command(input, until: end, consumed: &consumed, into: &output) { return event }
            case .authenticating:
                guard let end = lineEnd(input, from: consumed, maxBytes: SASLLimits.lineMaxBytes) else {
                    guard input.count - consumed >= SASLLimits.lineMaxBytes else { return .needMore }
                    return hangUp(Reply(500, EnhancedStatus(5, 5, 6), "Response is too long"), into: &output)
                }
                if let event = response(input, until: end, consumed: &consumed, into: &output) { return event }
            case .authenticatedDue(let user):
                state = .commands
                return .authenticated(user: user)
            case .overlongLine(let bytes):
                if let event = skipLine(bytes, input, consumed: &consumed, into: &output) { return event }
            case .data, .chunk, .discardingData, .discardingChunk:
                if let event = content(input, consumed: &consumed, into: &output) { return event }
            }
        }
    }

    public mutating func acceptMail(into output: inout ByteOutput) {
        guard case .answering(.mail(let smtpUTF8)) = state else { preconditionFailure("no MAIL to answer") }
        resetTransaction()
        transactionCount += 1
        isSMTPUTF8 = smtpUTF8
        stage = .envelope
        state = .commands
        output.append("250 2.1.0 Sender ok\r\n")
    }

    public mutating func refuseMail(_ reply: Reply, into output: inout ByteOutput) {
        guard case .answering(.mail) = state else { preconditionFailure("no MAIL to answer") }
        state = .commands
        answer(reply, into: &output)
    }

    public mutating func acceptRecipient(into output: inout ByteOutput) {
        guard case .answering(.recipient) = state else { preconditionFailure("no RCPT to answer") }
        recipientCount += 1
        state = .commands
        output.append("250 2.1.5 Recipient ok\r\n")
    }

    public mutating func refuseRecipient(_ reply: Reply, into output: inout ByteOutput) {
        guard case .answering(.recipient) = state else { preconditionFailure("no RCPT to answer") }
        state = .commands
        answer(reply, into: &output)
    }

    /// Takes the content of a DATA (354) or of a BDAT.
    public mutating func startContent(into output: inout ByteOutput) {
        switch state {
        case .answering(.data):
            state = .data
            output.append("354 End data with <CRLF>.<CRLF>\r\n")
        case .answering(.chunk(let size, let isLast)):
            state = .chunk(remaining: size, isLast: isLast)
        default: preconditionFailure("no DATA or BDAT to answer")
        }
    }

    /// Refuses a DATA or BDAT, or the rest of content that is under way: that is received and dropped, and `reply`
    /// sent behind it. The transaction is over.
    public mutating func refuseContent(_ reply: Reply, into output: inout ByteOutput) {
        switch state {
        case .answering(.data):
            state = .commands
            resetTransaction()
            answer(reply, into: &output)
        case .answering(.chunk(let size, _)): discardChunk(size, reply)
        case .chunk(let remaining, _): discardChunk(remaining, reply)
        case .data: state = .discardingData(reply)
        default: preconditionFailure("no content to refuse")
        }
    }

    /// Answers for the whole message: a 250 takes it over (RFC 5321 §4.2.5). The transaction is over.
    public mutating func finishContent(_ reply: Reply, into output: inout ByteOutput) {
        guard case .answering(.endOfContent) = state else { preconditionFailure("no message to answer for") }
        state = .commands
        resetTransaction()
        if reply.isPositive {
            errorCount = 0
            commandCount = 0
            discardedBytes = 0
            hasSaidMail = false
        }
        answer(reply, into: &output)
    }

    /// What was found for `.ask`.
    public mutating func answer(_ answer: SASLAnswer, into output: inout ByteOutput) {
        guard case .answering(.credentials) = state else { preconditionFailure("nothing was asked") }
        state = .commands
        let event = login!.authentication.answer(answer, into: &output)
        if case .authenticated(let user)? = take(event) { state = .authenticatedDue(user: user) }
    }

    public mutating func answerETRN(_ reply: ETRNReply, into output: inout ByteOutput) {
        guard case .answering(.etrn) = state else { preconditionFailure("no ETRN to answer") }
        state = .commands
        // A 4xx, but whoever asks for other people's mail is counted.
        if case .notAllowed = reply { errorCount += 1 }
        answer(reply.reply, into: &output)
    }

    /// The handshake is done. All that the peer said before is forgotten (RFC 3207 §4.2).
    public mutating func tlsStarted() {
        guard case .startingTLS = state else { preconditionFailure("no STARTTLS under way") }
        isTLS = true
        state = .commands
        stage = .hello
        login?.beginAnew(isTLS: true)
    }

    /// Takes the attributes over: the conversation begins anew, with a greeting.
    public mutating func acceptXClient(into output: inout ByteOutput) {
        guard case .answering(.xclient) = state else { preconditionFailure("no XCLIENT to answer") }
        stage = .hello
        state = .connected
        login?.beginAnew(isTLS: isTLS)
        greet(into: &output)
    }

    public mutating func refuseXClient(_ reply: Reply, into output: inout ByteOutput) {
        guard case .answering(.xclient) = state else { preconditionFailure("no XCLIENT to answer") }
        state = .commands
        answer(reply, into: &output)
    }

    /// The peer kept silent for too long: 421 4.4.2. Flush and close.
    public mutating func timedOut(into output: inout ByteOutput) {
        _ = hangUp(Reply(421, EnhancedStatus(4, 4, 2), "\(settings.hostname) Timeout, closing"), into: &output)
    }

    /// The server is stopping: 421 4.3.2. Flush and close. Not to be said while a message is being stored.
    public mutating func shutDown(into output: inout ByteOutput) {
        _ = hangUp(Reply(421, EnhancedStatus(4, 3, 2), "\(settings.hostname) Shutting down"), into: &output)
    }
}

// MARK: - What the owner may want to know

extension SMTPServerSession {
    public var isInTransaction: Bool { stage == .envelope || stage == .chunks }
    /// Lines of the raw content of the message under way that begin with a dot.
    public var linesBeginningWithDot: Int { scanner.linesBeginningWithDot }
    /// False if the message under way needs a CRLF at its end; only BDAT can bring such a one.
    public var contentEndsWithCRLF: Bool { scanner.isAtLineStart }
    /// The peer made many errors: answer slowly.
    public var shouldDelayReplies: Bool { errorCount >= settings.errorsBeforeDelay }

    public var phase: Phase {
        switch state {
        case .connected: .greeting
        case .data, .chunk, .discardingData, .discardingChunk: .content
        case .answering(.endOfContent): .endOfContent
        case .startingTLS: .startTLS
        case .closing: .closing
        case .commands, .overlongLine, .answering, .authenticating, .authenticatedDue:
            switch stage {
            case .refused: .refused
            case .hello: .hello
            case .ready: .command
            case .envelope: .envelope
            case .chunks: .content
            }
        }
    }
}

// MARK: - Common to commands and content

extension SMTPServerSession {
    /// The only way in which a transaction ends.
    mutating func resetTransaction() {
        if isInTransaction { stage = .ready }
        recipientCount = 0
        isSMTPUTF8 = false
        contentBytes = 0
        chunkCount = 0
        scanner = ContentScanner()
    }

    /// Sends a reply of ours or the owner's. A 421 is the last one (RFC 5321 §3.8).
    mutating func answer(_ reply: Reply, isError: Bool = true, into output: inout ByteOutput) {
        if isError, reply.isPermanent { errorCount += 1 }
        if reply.code == 421 { state = .closing }
        reply.write(into: &output)
    }

    mutating func hangUp(_ reply: Reply, into output: inout ByteOutput) -> Event {
        reply.write(into: &output)
        state = .closing
        return .hangUp
    }

    /// Octets of a BDAT that is refused are received before the refusal is sent (RFC 3030 §2).
    mutating func discardChunk(_ remaining: Int, _ reply: Reply, isError: Bool = true) {
        resetTransaction()
        state = .discardingChunk(remaining: remaining, reply, isError: isError)
    }
}

extension Reply {
    static var tooManyErrors: Reply { Reply(421, EnhancedStatus(4, 7, 0), "Too many errors, closing") }
}
