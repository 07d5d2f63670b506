/// The server's side of one POP3 session (RFC 1939, with RFC 2449, 2595, 5034), without socket, store or clock.
///
/// ```text
/// greeting ▶ authorization ─ask, login─▶ open ▶ transaction ─QUIT▶ update ▶ over
///               └STLS▶ tlsStarted┘                 └ list, retrieve, top, delete
/// ```
///
/// The owner holds the socket and the input. It calls `next` until that returns `.needMore`, sends what is in the output
/// whenever it likes but at the latest then, and comes again with the unconsumed bytes and more behind them. Events that
/// ask something must be answered before `next` is called again; the answer may come later.
///
/// - **Content never enters the session**, but for TOP, whose chunks pass through. The owner appends or sends it.
/// - **Only QUIT deletes** (T-E8). A session that ends in any other way, silence included, has deleted nothing: then
///   there is no `.update`, and the owner drops what it holds.
/// - Before TLS nothing that shows a password is taken, so that nothing can be said about it (RFC 8314 §4.1).
/// - Errors: a peer out of order gets `-ERR` and keeps its session; an owner out of order traps.
public struct POP3ServerSession: ~Copyable {
    public let settings: POP3ServerSettings
    /// After a handshake, before `tlsStarted`, the owner notes here what the certificate says and what to bind to.
    public var offer: SASLOffer
    public private(set) var isTLS: Bool
    /// From login on.
    public internal(set) var maildrop: POP3Maildrop?

    var state = State.connected
    /// From the last USER, before login.
    var userSaid: [UInt8]?
    var timestamp: String?
    var lines = LineReader()
    public internal(set) var errorCount = 0
    public internal(set) var failedLoginCount = 0
    var commandCount = 0

    /// - `isTLS`: the handshake is done before the greeting (RFC 8314 §3.1).
    public init(settings: POP3ServerSettings, offer: SASLOffer, isTLS: Bool = false) {
        (self.settings, self.offer, self.isTLS) = (settings, offer, isTLS)
    }
}

// MARK: - Events

extension POP3ServerSession {
    /// What the peer did. Messages are numbers of `maildrop`, from 1.
    public enum Event: Hashable, Sendable {
        /// Give more bytes.
        case needMore
        /// Replies have piled up in the output: send them before the next call.
        case outputFull
        /// Look it up, after the same work whether the user exists or not; then `answer`.
        case ask(SASLQuestion)
        /// The credentials were right. Take hold of the maildrop and call `open`, or `refuse`.
        case login(user: String)
        /// The peer asked for TLS: `+OK` is in the output. Flush it, do the handshake, call `tlsStarted`. All of the input
        /// counts as consumed; drop whatever else came in plaintext (T-B1).
        case startTLS
        /// Call `giveUniqueID`. A list asks once for each message, in order.
        case uniqueID(message: Int)
        /// Take a lease, open the content; then `startRetrieval`, or `refuse`.
        case retrieve(message: Int)
        /// Open the content, without a lease; then `startTop`, or `refuse`.
        case top(message: Int)
        /// Take a lease; then `acceptDelete`, or `refuse`. Nothing is deleted before `.update`.
        case delete(message: Int)
        /// QUIT: settle what `maildrop.forEachDeleted` names, and when that is durable, `finishUpdate`.
        case update
        /// The last reply is in the output: flush and close. Nothing is to be deleted.
        case quit
        /// Flush and close. Unless `.update` came before, nothing is to be deleted.
        case hangUp
    }

    /// Where the session stands, for timeouts and for the log.
    public enum Phase: CaseIterable, Sendable {
        case greeting, authorization, startTLS, transaction, content, update, closing

        /// Completes "lost connection …" and "timeout …".
        public var words: StaticString {
            switch self {
            case .greeting: "before the greeting"
            case .authorization: "before login"
            case .startTLS: "after STLS"
            case .transaction: "between commands"
            case .content: "while a message was being sent"
            case .update: "while deleted messages were being removed"
            case .closing: "while closing"
            }
        }

        /// How long to wait for the peer: ten minutes at least (RFC 1939 §3). For `content`: without room for another
        /// block.
        public var timeoutSeconds: Int {
            switch self {
            case .greeting, .authorization: 600
            case .startTLS: 60
            case .transaction: 660
            case .content: 180
            case .update, .closing: 30
            }
        }
    }

    enum State {
        /// No greeting yet.
        case connected
        case commands
        /// The peer's next line belongs to an AUTH.
        case response(SASLServerExchange)
        case answering(Question)
        /// `login` is to be told.
        case loginDue(user: String)
        case listing(Listing, next: Int)
        /// The content of a RETR is the owner's to send.
        case sending
        case top(POP3TopCutter)
        case startingTLS
        /// The last reply is in the output.
        case closing
    }

    enum Question {
        case credentials(SASLServerExchange)
        case login
        case uniqueID(Int, isInList: Bool)
        case retrieve(Int)
        case top(lines: Int)
        case delete(Int)
        case update
    }

    enum Listing { case sizes, uniqueIDs }
}

// MARK: - Conversation

extension POP3ServerSession {
    /// Sends the greeting. `timestamp`: a message id that was never used before, such as `SASLFunctions.challenge` makes;
    /// nil: APOP is not offered (RFC 1939 §7).
    public mutating func greet(timestamp: String?, into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        if let timestamp {
            precondition(timestamp.hasPrefix("<") && timestamp.hasSuffix(">") && timestamp.contains("@"))
        }
        state = .commands
        self.timestamp = timestamp
        output.append("+OK ")
        output.append(text: settings.greetingText)
        if let timestamp { output.append(text: " \(timestamp)") }
        output.append("\r\n")
    }

    /// Sends `refusal` instead of a greeting; the session is over.
    public mutating func refuseSession(_ refusal: POP3Refusal, into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        state = .closing
        refusal.write(into: &output)
    }

    /// Goes through `input` from `consumed` on, up to the first thing that happened; `consumed` comes back behind what
    /// need not be presented again.
    public mutating func next(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event {
        while true {
            if output.count >= settings.outputPauseBytes {
                switch state {
                case .commands, .listing: return .outputFull
                default: break
                }
            }
            switch state {
            case .connected: preconditionFailure("not greeted")
            case .answering: preconditionFailure("the last event was not answered")
            case .sending, .top: preconditionFailure("the content was not finished")
            case .startingTLS: preconditionFailure("tlsStarted was not called")
            case .closing:
                consumed = input.count
                return .hangUp
            case .loginDue(let user):
                state = .answering(.login)
                return .login(user: user)
            case .listing(let listing, let message):
                if let event = list(listing, from: message, into: &output) { return event }
            case .response(let exchange):
                let line = lines.next(input, consumed: &consumed, lineMaxBytes: SASLLimits.lineMaxBytes)
                if line == .needMore { return .needMore }
                if let event = response(line, exchange, input, into: &output) { return event }
            case .commands:
                let line = lines.next(input, consumed: &consumed, lineMaxBytes: settings.lineMaxBytes)
                if line == .needMore { return .needMore }
                guard let event = command(line, input, into: &output) else { continue }
                if event == .startTLS { consumed = input.count }
                return event
            }
        }
    }

    /// What was found for `.ask`.
    public mutating func answer(_ answer: SASLAnswer, into output: inout ByteOutput) {
        guard case .answering(.credentials(var exchange)) = state else { preconditionFailure("nothing was asked") }
        let step = exchange.answer(answer)
        guard let event = take(step, exchange, into: &output) else { return }
        guard case .login(let user) = event else { return }
        state = .loginDue(user: user)
    }

    /// The maildrop is held and its messages are counted.
    public mutating func open(_ maildrop: consuming POP3Maildrop, into output: inout ByteOutput) {
        guard case .answering(.login) = state else { preconditionFailure("no login to answer") }
        state = .commands
        (userSaid, timestamp) = (nil, nil)
        self.maildrop = maildrop
        writeTotals("+OK Maildrop has", into: &output)
    }

    /// Refuses `.login`, `.retrieve`, `.top` or `.delete`. Of a login it counts no failure: the credentials were right.
    public mutating func refuse(_ refusal: POP3Refusal, into output: inout ByteOutput) {
        switch state {
        case .answering(.login), .answering(.retrieve), .answering(.top), .answering(.delete): break
        default: preconditionFailure("nothing to refuse")
        }
        state = .commands
        refusal.write(into: &output)
    }

    /// The message's id: one that stays the same for ever and is given to no other message (RFC 1939 §7), of 1 to 70
    /// bytes from `!` to `~`.
    public mutating func giveUniqueID(_ id: some Collection<UInt8>, into output: inout ByteOutput) {
        guard case .answering(.uniqueID(let message, let isInList)) = state else {
            preconditionFailure("no id is wanted")
        }
        precondition((1...70).contains(id.count) && id.allSatisfy { $0 > 32 && $0 < 127 })
        if !isInList { output.append("+OK ") }
        output.append(number: message)
        output.append(" ")
        for byte in id { output.append(byte) }
        output.append("\r\n")
        state = isInList ? .listing(.uniqueIDs, next: message + 1) : .commands
    }

    /// Takes a `.retrieve`: `+OK` is in the output.
    ///
    /// The owner appends, or sends behind the output, what stands before the content (`MailboxPrefix`) and the content, as
    /// the result says, and calls `contentSent`. Or, if it can't, `abort`.
    ///
    /// `linesBeginningWithDot`: as kept with the content; 0 lets it go out as it is, without a look at it.
    public mutating func startRetrieval(
        linesBeginningWithDot: Int, into output: inout ByteOutput
    ) -> SMTPContentFraming {
        guard case .answering(.retrieve(let message)) = state else { preconditionFailure("no RETR to answer") }
        state = .sending
        output.append("+OK ")
        output.append(number: maildrop!.size(of: message))
        output.append(" octets\r\n")
        return .dots(isStuffed: linesBeginningWithDot > 0)
    }

    /// Content and terminator are in the output, or on their way.
    public mutating func contentSent() {
        guard case .sending = state else { preconditionFailure("no content was under way") }
        state = .commands
    }

    /// Takes a `.top`: give it the message from its beginning, prefix and all, with `topContent`, then `finishTop`.
    public mutating func startTop(into output: inout ByteOutput) {
        guard case .answering(.top(let lines)) = state else { preconditionFailure("no TOP to answer") }
        state = .top(POP3TopCutter(bodyLines: lines))
        output.append("+OK Top of the message follows\r\n")
    }

    /// - Returns: whether more is wanted.
    public mutating func topContent(_ chunk: UnsafeRawBufferPointer, into output: inout ByteOutput) -> Bool {
        guard case .top(var cutter) = state else { preconditionFailure("no TOP is under way") }
        let isMoreWanted = cutter.append(chunk, into: &output)
        state = .top(cutter)
        return isMoreWanted
    }

    /// The message is at its end, or no more was wanted.
    public mutating func finishTop(into output: inout ByteOutput) {
        guard case .top(var cutter) = state else { preconditionFailure("no TOP is under way") }
        cutter.finish(into: &output)
        state = .commands
    }

    /// The content under way can't be read on. Close at once: the peer must not take what it has for the whole.
    public mutating func abort() { state = .closing }

    public mutating func acceptDelete(into output: inout ByteOutput) {
        guard case .answering(.delete(let message)) = state else { preconditionFailure("no DELE to answer") }
        state = .commands
        maildrop!.delete(message)
        output.append("+OK Message is marked as deleted\r\n")
    }

    /// All of the deletions that could be made are durable. `failed`: how many could not.
    public mutating func finishUpdate(failed: Int, into output: inout ByteOutput) {
        guard case .answering(.update) = state else { preconditionFailure("no QUIT to answer") }
        state = .closing
        if failed == 0 {
            output.append("+OK Bye\r\n")
        } else {
            // RFC 1939 §6 has this answer: the rest is deleted all the same.
            POP3Refusal(.temporary, "Some deleted messages were not removed: \(failed)").write(into: &output)
        }
    }

    /// The handshake is done. What the peer said before is forgotten.
    public mutating func tlsStarted() {
        guard case .startingTLS = state else { preconditionFailure("no STLS under way") }
        isTLS = true
        state = .commands
        userSaid = nil
    }

    /// The peer kept silent for too long, or the server is stopping: close without a word, as RFC 1939 §3 wants it, and
    /// delete nothing. Not to be said during an update.
    public mutating func timedOut() {
        if case .answering(.update) = state { preconditionFailure("an update is under way") }
        state = .closing
    }
}

// MARK: - What the owner may want to know

extension POP3ServerSession {
    /// The peer failed to log in before, or made many errors: answer slowly (T-D5).
    public var shouldDelayReplies: Bool {
        failedLoginCount > 0 && maildrop == nil || errorCount >= settings.errorsMax / 2
    }

    public var phase: Phase {
        switch state {
        case .connected: .greeting
        case .startingTLS: .startTLS
        case .closing: .closing
        case .sending, .top: .content
        case .answering(.update): .update
        case .commands, .response, .answering, .loginDue, .listing: maildrop == nil ? .authorization : .transaction
        }
    }
}
