/// What an exchange asks of its owner, who looks it up and answers.
///
/// - A user that doesn't exist, is locked, or lacks what the mechanism needs is answered with `.nobody`, after the same
///   work as one that does: the peer is to learn nothing from the time or the words (T-D5).
public enum SASLQuestion: Hashable, Sendable {
    /// Is this the user's password? Answer `.verdict`, from a hash where there is one: for `.nobody`, hash against
    /// something all the same. Octets as received; passwords beyond ASCII are not normalised.
    case password(user: String, password: [UInt8])
    /// Answer `.secret`: the shared secret itself (CRAM-MD5, APOP).
    case secret(user: String)
    /// Answer `.scram`.
    case scramKeys(user: String)
}

/// The owner's answer to a `SASLQuestion`.
public enum SASLAnswer: Hashable, Sendable {
    case verdict(Bool)
    case secret([UInt8])
    case scram(SCRAMKeys)
    case nobody
    /// It can't be looked up now: the peer is told that it is not its fault.
    case unavailable
}

/// Why an exchange ended without a user.
public enum SASLFailure: Hashable, Sendable {
    /// Unknown user, wrong secret, or an identity that this user may not take on: one and the same.
    case credentials
    /// A response that is not what the mechanism wants.
    case malformed
    /// A response that is no base64.
    case encoding
    /// The client said `*`.
    case cancelled
    /// The client spoke first where it is the server's turn.
    case unexpectedInitialResponse
    case unavailable
}

/// What a server brings to each exchange.
public struct SASLServerContext {
    public var functions: SASLFunctions
    /// In challenges.
    public var hostname: String
    /// Random bytes of the site's, at least 16, the same after a restart and on all its servers: of them salts are made
    /// for users who don't exist.
    public var nobodySecret: [UInt8]
    /// As the site's users have it.
    public var scramIterations = SCRAMKeys.standardIterations
    /// Whom the client's certificate, checked, stands for. Nil: EXTERNAL is not offered.
    public var externalUser: String?
    /// Whether SCRAM-SHA-256-PLUS can be had, and what it is bound to: the name, `tls-exporter` (RFC 9266 §2), and the
    /// exporter's 32 bytes. Nil: not offered (T-B6).
    public var channelBinding: (name: String, data: [UInt8])?

    public init(functions: SASLFunctions, hostname: String, nobodySecret: [UInt8]) {
        precondition(nobodySecret.count >= 16)
        (self.functions, self.hostname, self.nobodySecret) = (functions, hostname, nobodySecret)
    }
}

/// The server's side of one SASL exchange (RFC 4422), without the protocol around it.
///
/// ```text
/// start ▶ challenge ─respond▶ … ask ─answer▶ … authenticated | failed
/// ```
///
/// The protocol around it cuts lines, writes challenges in base64 behind its own mark (`334 `, `+ `), and says the end in
/// its own words. POP3's USER and APOP go the same way, so that there is one for all.
///
/// - No mechanism that negotiates a security layer is here; TLS is that.
/// - The authorisation identity is empty or the authenticated user's own; another one fails.
/// - Errors: an owner out of order traps.
public struct SASLServerExchange {
    public enum Step: Hashable, Sendable {
        /// Send it, in base64, and call `respond` with the line that comes.
        case challenge([UInt8])
        /// Call `answer`.
        case ask(SASLQuestion)
        case authenticated(user: String)
        case failed(SASLFailure)
    }

    enum State {
        case plain
        case loginUser
        case loginPassword(user: String)
        case external
        case cram(challenge: [UInt8])
        case scram(SCRAMServer)
        /// SCRAM's last word was sent and waits for an empty response.
        case scramDone(user: String)
        /// The owner's answer decides.
        case password(user: String)
        case digest(user: String, SASLDigest)
        case scramKeys(SCRAMServer)
        case over
    }

    private let context: SASLServerContext
    private var state: State

    private init(_ context: SASLServerContext, _ state: State) {
        self.context = context
        self.state = state
    }

    /// Begins the exchange of `mechanism`, which must be on offer.
    ///
    /// `initialResponse`: the base64 behind the mechanism's name in the command; nil if there was none.
    public static func start(
        _ mechanism: SASLMechanism, initialResponse: UnsafeRawBufferPointer?, context: SASLServerContext
    ) -> (SASLServerExchange, Step) {
        let challenge = mechanism == .cramMD5 ? Array(context.functions.challenge(hostname: context.hostname).utf8) : []
        let state: State =
            switch mechanism {
            case .plain: .plain
            case .login: .loginUser
            case .external: .external
            case .cramMD5: .cram(challenge: challenge)
            case .scramSHA256: .scram(SCRAMServer(isBound: false))
            case .scramSHA256Plus: .scram(SCRAMServer(isBound: true))
            }
        var exchange = SASLServerExchange(context, state)
        guard let initialResponse else {
            return (exchange, .challenge(mechanism == .login ? Array("Username:".utf8) : challenge))
        }
        guard mechanism.takesInitialResponse else {
            let step = exchange.end(.failed(.unexpectedInitialResponse))
            return (exchange, step)
        }
        // The one way to say an empty response (RFC 4954 §4, RFC 5034 §4).
        let isEmpty = initialResponse.count == 1 && initialResponse[0] == UInt8(ascii: "=")
        let step = isEmpty ? exchange.received([]) : exchange.respond(initialResponse, mayCancel: false)
        return (exchange, step)
    }

    /// POP3's USER and PASS.
    static func password(user: [UInt8], password: [UInt8], context: SASLServerContext) -> (SASLServerExchange, Step) {
        var exchange = SASLServerExchange(context, .plain)
        let step = exchange.check(user: user, password: password)
        return (exchange, step)
    }

    /// POP3's APOP (RFC 1939 §7): `digest` is 32 digits of the MD5 of the greeting's timestamp and the secret.
    static func apop(
        user: [UInt8], digest: [UInt8], timestamp: String, context: SASLServerContext
    ) -> (SASLServerExchange, Step) {
        var exchange = SASLServerExchange(context, .plain)
        let step = exchange.check(
            user: user, SASLDigest(isKeyed: false, challenge: Array(timestamp.utf8), claimed: digest))
        return (exchange, step)
    }

    /// The client's line behind a challenge, without CRLF.
    public mutating func respond(_ line: UnsafeRawBufferPointer) -> Step { respond(line, mayCancel: true) }

    private mutating func respond(_ line: UnsafeRawBufferPointer, mayCancel: Bool) -> Step {
        if mayCancel, line.count == 1, line[0] == UInt8(ascii: "*") { return end(.failed(.cancelled)) }
        guard line.count <= SASLLimits.lineMaxBytes, let response = Base64.decode(line) else {
            return end(.failed(.encoding))
        }
        return received(response)
    }

    private mutating func received(_ response: [UInt8]) -> Step {
        switch state {
        case .plain: return plain(response)
        case .loginUser:
            state = .loginPassword(user: String(decoding: response, as: UTF8.self))
            return .challenge(Array("Password:".utf8))
        case .loginPassword(let user): return check(user: Array(user.utf8), password: response)
        case .external:
            guard let user = context.externalUser else { return end(.failed(.credentials)) }
            return end(
                response.isEmpty || response == Array(user.utf8) ? .authenticated(user: user) : .failed(.credentials))
        case .cram(let challenge):
            guard let space = response.lastIndex(of: UInt8(ascii: " ")) else { return end(.failed(.malformed)) }
            let claimed = Array(response[(space + 1)...])
            return check(
                user: Array(response[..<space]), SASLDigest(isKeyed: true, challenge: challenge, claimed: claimed))
        case .scram(var scram): return take(scram.received(response, context: context), scram)
        case .scramDone(let user): return end(response.isEmpty ? .authenticated(user: user) : .failed(.malformed))
        case .password, .digest, .scramKeys, .over: preconditionFailure("no response was asked for")
        }
    }

    /// What the owner found for the question asked last.
    public mutating func answer(_ answer: SASLAnswer) -> Step {
        if answer == .unavailable { return end(.failed(.unavailable)) }
        switch (state, answer) {
        case (.password(let user), .verdict(let isRight)):
            return end(isRight ? .authenticated(user: user) : .failed(.credentials))
        case (.password, .nobody): return end(.failed(.credentials))
        case (.digest(let user, let digest), .secret), (.digest(let user, let digest), .nobody):
            // Nobody's digest is computed, too, and fails whatever was said.
            let secret = if case .secret(let secret) = answer { secret } else { context.nobodySecret }
            let isRight = digest.isRight(secret: secret, context.functions) && answer != .nobody
            return end(isRight ? .authenticated(user: user) : .failed(.credentials))
        case (.scramKeys(var scram), .scram), (.scramKeys(var scram), .nobody):
            let serverNonce = Base64.encode(context.functions.random(18))
            let step: SCRAMServer.Step
            if case .scram(let keys) = answer {
                step = scram.found(keys, isNobody: false, serverNonce: serverNonce)
            } else {
                let keys = SCRAMKeys(
                    nobody: scram.user, secret: context.nobodySecret, iterations: context.scramIterations,
                    functions: context.functions)
                step = scram.found(keys, isNobody: true, serverNonce: serverNonce)
            }
            return take(step, scram)
        default: preconditionFailure("\(answer) is no answer to the question")
        }
    }

    private mutating func end(_ step: Step) -> Step {
        state = .over
        return step
    }

    private mutating func take(_ step: SCRAMServer.Step, _ scram: SCRAMServer) -> Step {
        switch step {
        case .challenge(let bytes):
            state = .scram(scram)
            return .challenge(bytes)
        case .findKeys:
            state = .scramKeys(scram)
            return .ask(.scramKeys(user: scram.user))
        case .verified(let lastWord):
            state = .scramDone(user: scram.user)
            return .challenge(lastWord)
        case .failed(let failure): return end(.failed(failure))
        }
    }

    /// `[authzid] NUL authcid NUL passwd` (RFC 4616 §2).
    private mutating func plain(_ response: [UInt8]) -> Step {
        let parts = response.split(separator: 0, omittingEmptySubsequences: false)
        guard parts.count == 3, !parts[1].isEmpty, !parts[2].isEmpty else { return end(.failed(.malformed)) }
        guard parts[0].isEmpty || parts[0] == parts[1] else { return end(.failed(.credentials)) }
        return check(user: Array(parts[1]), password: Array(parts[2]))
    }

    private mutating func check(user: [UInt8], password: [UInt8]) -> Step {
        guard let user = SASLName.user(user), (1...SASLLimits.passwordMaxBytes).contains(password.count),
            !password.contains(0)
        else { return end(.failed(.credentials)) }
        state = .password(user: user)
        return .ask(.password(user: user, password: password))
    }

    private mutating func check(user: [UInt8], _ digest: SASLDigest) -> Step {
        guard let user = SASLName.user(user), digest.claimed.count == 32 else { return end(.failed(.credentials)) }
        state = .digest(user: user, digest)
        return .ask(.secret(user: user))
    }
}

/// The MD5 that a client made of a challenge and a shared secret.
struct SASLDigest {
    /// HMAC with the secret as its key (RFC 2195 §2); else the secret stands behind the challenge (RFC 1939 §7).
    let isKeyed: Bool
    let challenge: [UInt8]
    /// 32 digits, in lower case as both documents have it.
    let claimed: [UInt8]

    func isRight(secret: [UInt8], _ functions: SASLFunctions) -> Bool {
        let digest = isKeyed ? functions.hmacMD5(secret, challenge) : functions.md5(challenge + secret)
        return functions.areEqual(Array(SASLFunctions.hexadecimal(digest).utf8), claimed)
    }
}
