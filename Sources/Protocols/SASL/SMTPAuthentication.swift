/// The AUTH of SMTP (RFC 4954), as a part of a server's machine that cuts the lines and knows where AUTH may stand.
///
/// ```text
/// start ▶ needResponse ─received▶ … ask ─answer▶ … authenticated | refused
/// ```
///
/// The machine around it announces `announcement`, calls `start` for an AUTH command outside of a transaction, and while
/// `isUnderWay` gives every line to `received`, at most `SASLLimits.lineMaxBytes` long, or says `tooLong`.
/// After a TLS handshake it makes a new one: nothing that was said before counts (RFC 3207 §4.2).
public struct SMTPAuthentication {
    public enum Event: Hashable, Sendable {
        /// A challenge is in the output: the peer's next line is its response.
        case needResponse
        /// Look it up and call `answer`.
        case ask(SASLQuestion)
        /// 235 is in the output.
        case authenticated(user: String)
        /// A refusal is in the output, for the log and for counting here again.
        case refused(Reply)
    }

    private enum State {
        case idle
        case response(SASLServerExchange)
        case question(SASLServerExchange)
        case authenticated(user: String)
    }

    private var offer: SASLOffer
    private let isTLS: Bool
    private var state = State.idle

    public init(offer: SASLOffer, isTLS: Bool) { (self.offer, self.isTLS) = (offer, isTLS) }

    /// The peer's lines belong to the exchange.
    public var isUnderWay: Bool { if case .response = state { true } else { false } }

    public var user: String? { if case .authenticated(let user) = state { user } else { nil } }

    /// `AUTH CRAM-MD5 …`, for the answer to EHLO; nil if there is nothing to log in with now.
    public var announcement: String? {
        let names = offer.mechanisms(isTLS: isTLS).map(\.rawValue)
        return names.isEmpty ? nil : "AUTH " + names.joined(separator: " ")
    }

    /// AUTH, with what stands behind its space.
    public mutating func start(_ argument: UnsafeRawBufferPointer, into output: inout ByteOutput) -> Event {
        switch state {
        case .idle: break
        case .authenticated: return refuse(Reply(503, EnhancedStatus(5, 5, 1), "You are authenticated"), into: &output)
        case .response, .question: preconditionFailure("an AUTH is under way")
        }
        guard !argument.isEmpty else {
            return refuse(Reply(501, EnhancedStatus(5, 5, 4), "Syntax: AUTH mechanism [response]"), into: &output)
        }
        guard let (exchange, step) = offer.start(argument, isTLS: isTLS) else {
            return refuse(Reply(504, EnhancedStatus(5, 5, 4), "Mechanism is not on offer"), into: &output)
        }
        return take(step, exchange, into: &output)
    }

    /// A line of the exchange, without CRLF.
    public mutating func received(_ line: UnsafeRawBufferPointer, into output: inout ByteOutput) -> Event {
        guard case .response(var exchange) = state else { preconditionFailure("no AUTH waits for a line") }
        let step = exchange.respond(line)
        return take(step, exchange, into: &output)
    }

    /// The line was longer than `SASLLimits.lineMaxBytes`.
    public mutating func tooLong(into output: inout ByteOutput) -> Event {
        guard isUnderWay else { preconditionFailure("no AUTH waits for a line") }
        return refuse(Reply(500, EnhancedStatus(5, 5, 6), "Response is too long"), into: &output)
    }

    /// What the owner found for `.ask`.
    public mutating func answer(_ answer: SASLAnswer, into output: inout ByteOutput) -> Event {
        guard case .question(var exchange) = state else { preconditionFailure("nothing was asked") }
        let step = exchange.answer(answer)
        return take(step, exchange, into: &output)
    }

    private mutating func take(
        _ step: SASLServerExchange.Step, _ exchange: SASLServerExchange, into output: inout ByteOutput
    ) -> Event {
        switch step {
        case .challenge(let bytes):
            state = .response(exchange)
            output.append("334 ")
            Base64.encode(bytes, into: &output)
            output.append("\r\n")
            return .needResponse
        case .ask(let question):
            state = .question(exchange)
            return .ask(question)
        case .authenticated(let user):
            state = .authenticated(user: user)
            Reply(235, EnhancedStatus(2, 7, 0), "Authenticated").write(into: &output)
            return .authenticated(user: user)
        case .failed(let failure): return refuse(Reply(failure), into: &output)
        }
    }

    private mutating func refuse(_ reply: Reply, into output: inout ByteOutput) -> Event {
        if user == nil { state = .idle }
        reply.write(into: &output)
        return .refused(reply)
    }
}

extension Reply {
    /// The credentials were wrong.
    var isFailedLogin: Bool { code == 535 }

    /// RFC 4954 §4 and §6.
    init(_ failure: SASLFailure) {
        switch failure {
        case .credentials: self.init(535, EnhancedStatus(5, 7, 8), "Authentication failed")
        case .malformed: self.init(501, EnhancedStatus(5, 5, 4), "Malformed response")
        case .encoding: self.init(501, EnhancedStatus(5, 5, 2), "Response is no base64")
        case .cancelled: self.init(501, EnhancedStatus(5, 7, 0), "Authentication cancelled")
        case .unexpectedInitialResponse: self.init(501, EnhancedStatus(5, 7, 0), "The server speaks first")
        case .unavailable: self.init(454, EnhancedStatus(4, 7, 0), "Temporary authentication failure")
        }
    }
}
