/// What a listener for on-demand mail relay offers, and the limits of each of its sessions.
public struct ODMRServerSettings: Sendable {
    /// The name in the greeting and in the answer to EHLO: a domain in ASCII (A-labels), or an address literal.
    public var hostname: String
    /// Follows the name in the greeting; begins with `ESMTP`, without CR and LF.
    public var greetingText = "ESMTP Postern on-demand mail relay"
    public var offersStartTLS = false
    /// ATRN without AUTH gets 530, as RFC 2645 §5.2.1 wants it. Off is a departure for customers who are known by their
    /// address alone; then `.turn` comes without a user, and the owner must know the address.
    public var requiresAuthentication = true

    /// A command line with its CRLF: room for a long list of domains (fetchmail always sends the whole).
    public var lineMaxBytes = 8_192
    /// Domains in one ATRN; with more it gets 501.
    public var domainsMax = 250
    /// Commands in one session; one more gets 421 and the end.
    public var commandsMax = 100
    /// Refusals other than for what the server can't do now, at which the session gets 421 and ends.
    public var errorsMax = 10

    public init(hostname: String) { self.hostname = hostname }
}

/// The provider's side of on-demand mail relay until the roles turn (RFC 2645), without the socket.
///
/// ```text
/// greeting ▶ initial ─AUTH▶ authenticated ─ATRN▶ turn ─answerTurn▶ turned ▶ SMTPClientSession
///               └STLS▶ tlsStarted, from the beginning    └ 450 451 453 ▶ authenticated
/// ```
///
/// The owner holds the socket and the input. It calls `next` until `.needMore`, sends the output at the latest then, and
/// comes again with the unconsumed bytes and more behind them. Events that ask something must be answered before `next`
/// is called again; the answer may come later, within the ten minutes that a customer waits (RFC 2645 §5.2.1).
///
/// After `.turned` the customer is the server: flush, make an `SMTPClientSession` with `turnedSettings`, and give it all
/// that comes from now on. It waits for the customer's `220`, for its own five minutes, then hands over; what it does not
/// hand over stays queued (T-E7). TLS stays as it is over the turn.
///
/// - Held open: answer `.turn` although nothing waits, and keep the client session while mail comes.
/// - Nothing may follow ATRN before its answer, or it would be taken for the customer's greeting: such a session ends
///   (D-17).
/// - Errors: a peer out of order gets a reply and keeps its session; an owner out of order traps.
public struct ODMRServerSession: ~Copyable {
    public let settings: ODMRServerSettings
    /// After a handshake, before `tlsStarted`, the owner notes here what the certificate says and what to bind to.
    public var offer: SASLOffer
    public private(set) var isTLS: Bool

    var state = State.connected
    var hasSaidHello = false
    var authentication: SMTPAuthentication
    var lines = LineReader()
    var commandCount = 0
    public internal(set) var errorCount = 0
    /// Logins with a wrong user or secret.
    public internal(set) var failedLoginCount = 0

    /// - `isTLS`: the handshake is done before the greeting.
    public init(settings: ODMRServerSettings, offer: SASLOffer, isTLS: Bool = false) {
        (self.settings, self.offer, self.isTLS) = (settings, offer, isTLS)
        authentication = SMTPAuthentication(offer: offer, isTLS: isTLS)
    }
}

// MARK: - Events

extension ODMRServerSession {
    /// What the customer did.
    public enum Event: Hashable, Sendable {
        /// Give more bytes.
        case needMore
        /// EHLO (`extended`) or HELO, already answered. At most 255 bytes of printable ASCII, possibly with spaces.
        case hello(name: String, extended: Bool)
        /// 220 is in the output. Flush it, do the handshake, call `tlsStarted`. All of the input counts as consumed; drop
        /// whatever else came in plaintext (RFC 3207 §4.2).
        case startTLS
        /// Look it up; then `answer`.
        case ask(SASLQuestion)
        /// 235 is in the output.
        case authenticated(user: String)
        /// ATRN, with each domain once; none: all that he may have. `user` is nil only where `requiresAuthentication` is
        /// off. Call `answerTurn`.
        case turn(user: String?, [QualifiedDomain])
        /// 250 is in the output: flush it, and go on as the client. This session is over.
        case turned([QualifiedDomain])
        /// 221 is in the output: flush and close.
        case quit
        /// Flush and close.
        case hangUp
    }

    /// Where the session stands, for timeouts and for the log.
    public enum Phase: CaseIterable, Sendable {
        case greeting, initial, authenticated, startTLS, turning, turned, closing

        /// Completes "lost connection …" and "timeout …".
        public var words: StaticString {
            switch self {
            case .greeting: "before the greeting"
            case .initial: "before AUTH"
            case .authenticated: "before ATRN"
            case .startTLS: "after STARTTLS"
            case .turning: "while ATRN was being looked up"
            case .turned: "after the turn"
            case .closing: "while closing"
            }
        }

        /// How long to wait for the customer (RFC 5321 §4.5.3.2.7). For `turned` see `SMTPClientSession.Phase`.
        public var timeoutSeconds: Int {
            switch self {
            case .startTLS: 60
            case .closing: 30
            default: 300
            }
        }
    }

    enum State {
        /// No greeting yet.
        case connected
        case commands
        case answeringCredentials
        case authenticatedDue(user: String)
        /// `hasMore`: something was there behind ATRN.
        case answeringTurn(hasMore: Bool)
        case turnedDue([QualifiedDomain])
        case startingTLS
        case turned
        /// The last reply is in the output.
        case closing
    }
}

// MARK: - Conversation

extension ODMRServerSession {
    /// Sends the 220.
    public mutating func greet(into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        state = .commands
        output.append(text: "220 \(settings.hostname) \(settings.greetingText)\r\n")
    }

    /// Sends `reply`, a 421 or 554, instead of a greeting; the session is over.
    public mutating func refuseSession(_ reply: Reply, into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        _ = hangUp(reply, into: &output)
    }

    /// Goes through `input` from `consumed` on, up to the first thing that happened; `consumed` comes back behind what
    /// need not be presented again.
    public mutating func next(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event {
        while true {
            switch state {
            case .connected: preconditionFailure("not greeted")
            case .answeringCredentials, .answeringTurn: preconditionFailure("the last event was not answered")
            case .startingTLS: preconditionFailure("tlsStarted was not called")
            case .turned: preconditionFailure("the connection was handed over")
            case .closing:
                consumed = input.count
                return .hangUp
            case .authenticatedDue(let user):
                state = .commands
                return .authenticated(user: user)
            case .turnedDue(let domains):
                state = .turned
                return .turned(domains)
            case .commands:
                let isResponse = authentication.isUnderWay
                let lineMaxBytes = isResponse ? SASLLimits.lineMaxBytes : settings.lineMaxBytes
                let line = lines.next(input, consumed: &consumed, lineMaxBytes: lineMaxBytes)
                switch line {
                case .needMore: return .needMore
                case .bareLineFeed:
                    return hangUp(Reply(500, EnhancedStatus(5, 5, 2), "Bare LF; lines end with CRLF"), into: &output)
                case .endless: return hangUp(.lineTooLong, into: &output)
                case .tooLong:
                    if isResponse {
                        _ = authentication.tooLong(into: &output)
                    } else {
                        Reply.lineTooLong.write(into: &output)
                    }
                    if let event = countError(into: &output) { return event }
                case .text(let range):
                    let text = UnsafeRawBufferPointer(rebasing: input[range])
                    let hasMore = consumed < input.count
                    let event =
                        isResponse ? response(text, into: &output) : command(text, hasMore: hasMore, into: &output)
                    guard let event else { continue }
                    if event == .startTLS { consumed = input.count }
                    return event
                }
            }
        }
    }

    /// What was found for `.ask`.
    public mutating func answer(_ answer: SASLAnswer, into output: inout ByteOutput) {
        guard case .answeringCredentials = state else { preconditionFailure("nothing was asked") }
        state = .commands
        let event = authentication.answer(answer, into: &output)
        if case .authenticated(let user)? = take(event, into: &output) { state = .authenticatedDue(user: user) }
    }

    /// Answers an ATRN. `earlyBytes`: what has come from the customer since, and was not presented.
    public mutating func answerTurn(_ decision: ATRNDecision, earlyBytes: Int, into output: inout ByteOutput) {
        guard case .answeringTurn(let hasMore) = state else { preconditionFailure("no ATRN to answer") }
        state = .commands
        switch decision {
        case .turn(let domains):
            precondition(!domains.isEmpty)
            guard !hasMore, earlyBytes == 0 else {
                let reply = Reply(503, EnhancedStatus(5, 5, 1), "Nothing may follow ATRN before its answer, closing")
                _ = hangUp(reply, into: &output)
                return
            }
            state = .turnedDue(domains)
            decision.reply.write(into: &output)
        case .notYours, .tooOften:
            decision.reply.write(into: &output)
            _ = countError(into: &output)
        case .noMail, .cannotVerify: decision.reply.write(into: &output)
        }
    }

    /// The handshake is done. All that the customer said before is forgotten (RFC 3207 §4.2).
    public mutating func tlsStarted() {
        guard case .startingTLS = state else { preconditionFailure("no STARTTLS under way") }
        isTLS = true
        state = .commands
        hasSaidHello = false
        authentication = SMTPAuthentication(offer: offer, isTLS: true)
    }

    /// The customer kept silent for too long: 421 4.4.2. Flush and close. Not to be said after the turn.
    public mutating func timedOut(into output: inout ByteOutput) {
        precondition(phase != .turned)
        _ = hangUp(Reply(421, EnhancedStatus(4, 4, 2), "\(settings.hostname) Timeout, closing"), into: &output)
    }

    /// The server is stopping: 421 4.3.2. Flush and close. Not to be said after the turn.
    public mutating func shutDown(into output: inout ByteOutput) {
        precondition(phase != .turned)
        _ = hangUp(Reply(421, EnhancedStatus(4, 3, 2), "\(settings.hostname) Shutting down"), into: &output)
    }
}

// MARK: - What the owner may want to know

extension ODMRServerSession {
    /// For the `SMTPClientSession` behind the turn. Without TLS so far it takes what the customer's EHLO offers.
    public var turnedSettings: SMTPClientSettings {
        var client = SMTPClientSettings(helloName: settings.hostname, tls: isTLS ? .never : .opportunistic)
        client.isImplicitTLS = isTLS
        return client
    }

    /// The customer failed before: answer slowly (T-D5).
    public var shouldDelayReplies: Bool { errorCount > 1 }

    public var phase: Phase {
        switch state {
        case .connected: .greeting
        case .startingTLS: .startTLS
        case .answeringTurn: .turning
        case .turned, .turnedDue: .turned
        case .closing: .closing
        case .commands, .answeringCredentials, .authenticatedDue: authentication.user == nil ? .initial : .authenticated
        }
    }
}
