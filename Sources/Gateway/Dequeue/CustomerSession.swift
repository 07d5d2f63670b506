import Glibc
import Protocols
import Reactor

/// A session in which a customer comes for mail: what POP3 and on-demand relay have in common. Its subclasses own the machine.
///
/// ```text
/// PROXY header ▶ TLS from the first byte ▶ greeting ▶ input ▶ the subclass's `work` ▶ replies ▶ … ▶ last reply ▶ end
///                                                       └ busy: the home or a disk answers, then `proceed` ┘
/// ```
///
/// While it is busy, input is not looked at: so replies keep their order, and a customer that pipelines is held by TCP.
class CustomerSession {
    /// What `work` needs next.
    enum Next {
        case receive
        /// Somebody else will call `proceed`.
        case busy
        /// Output must leave first.
        case room
        case startTLS
        /// The connection is another's from here on.
        case turn
        case goodbye(String)
    }

    private enum Waiting { case input, busy, room, handshake, handshakeTurn, goodbye, turned, closed }

    let token: Token
    let connection: Connection
    unowned let core: Core
    let kind: ListenerKind
    let name: String
    private(set) var client: IPAddress
    /// Whose network this connection counts for.
    private(set) var counted: IPAddress
    private var needsProxyHeader: Bool
    private var waiting = Waiting.input
    private var isGreeted = false
    private(set) var lastWords = ""
    private var pausedUntil: UInt64 = 0
    private var deadline: UInt64
    private var timerAt: UInt64 = 0
    private var timer = TimerWheel.ID.none
    /// Messages that the customer took.
    var messages = 0

    init(core: Core, token: Token, socket: SocketHandle, kind: ListenerKind, client: IPAddress) {
        (self.core, self.token, self.kind, self.client) = (core, token, kind, client)
        counted = client
        name = "\(core.index)-\(token.index)-\(token.generation)c"
        connection = Connection(reactor: core.reactor, token: token, socket: socket)
        needsProxyHeader = core.settings.trust.proxy.contains { $0.contains(client) }
        deadline = core.reactor.now + UInt64(Limits.commandTimeoutSeconds) * Limits.nanosecondsPerSecond
        core.log.sessionBegan(name, client: client.description, listener: kind.rawValue)
    }

    // MARK: What a subclass says

    /// The greeting, or a refusal, into the output.
    func greet() { preconditionFailure("a session without a protocol") }
    /// Looks at input until more is needed, or somebody else.
    func work(_ input: UnsafeRawBufferPointer, _ consumed: inout Int) -> Next { preconditionFailure() }
    /// The handshake is done, behind STLS or before the greeting.
    func secured(_ info: TLSInfo) {}
    /// The output is empty: more of a message may follow. False: nothing was under way.
    func sendMore() -> Bool { false }
    /// Before TLS this is the one that makes it.
    var phaseWords: StaticString { "" }
    var timeoutSeconds: Int { Limits.commandTimeoutSeconds }
    /// The customer guessed: answer slowly (T-D5).
    var shouldDelayReplies: Bool { false }
    /// The last word to one that kept silent, into the output.
    func sayTimedOut() {}
    /// The last word of a server that stops, into the output. False: not now.
    func sayShutDown() -> Bool { true }
    /// What it holds goes back.
    func release() {}
    /// The last reply before a turn is on its way.
    func turned() {}
    /// Completions behind a turn go elsewhere. True: this one did.
    func diverts(_ completion: Completion) -> Bool { false }
    /// The reactor's messages to it.
    ///
    /// - Parameter key: nil: from no queue in particular.
    func received(_ key: QueueKey?, _ message: ToCustomerSession) {}

    // MARK: Start

    func start() {
        arm()
        if needsProxyHeader { return connection.receive() }
        begin()
    }

    private func begin() { if kind.isTLS { beginTLS() } else { sayHello() } }

    private func sayHello() {
        isGreeted = true
        greet()
        pump()
    }

    private func readProxyHeader() {
        var outcome = ProxyHeader.Parse.needMore
        connection.withInput { input in
            outcome = ProxyHeader.parse(input)
            if case .parsed(let consumed, _) = outcome { return consumed }
            return 0
        }
        switch outcome {
        case .needMore: connection.receive()
        case .invalid(let fault): end("malformed PROXY header (\(fault))")
        case .parsed(_, let endpoints):
            needsProxyHeader = false
            if let endpoints {
                // From here on all limits look at the client behind the proxy.
                core.networks.left(counted)
                client = endpoints.source
                counted = client
                core.networks.connected(client)
            }
            begin()
        }
    }

    // MARK: TLS

    private func beginTLS() {
        guard let wait = core.handshakeWait(of: client) else { return end("too many TLS handshakes from its network") }
        guard wait > 0 else { return shakeHands() }
        waiting = .handshakeTurn
        setDeadline(seconds: 60)
        arm(core.reactor.now + wait)
    }

    private func shakeHands() {
        guard let context = core.settings.serverTLS else { return end("TLS is not configured") }
        do throws(TLSFault) {
            let session = try TLSSession(server: context)
            waiting = .handshake
            setDeadline(seconds: 60)
            connection.startTLS(session)
            connection.receive()
        } catch {
            end("TLS: \(error)")
        }
    }

    // MARK: Input

    func completed(_ completion: Completion) {
        if diverts(completion) { return }
        switch connection.completed(completion) {
        case .nothing, .connected, .connectFailed: break
        case .input:
            if needsProxyHeader { return readProxyHeader() }
            if case .goodbye = waiting {
                connection.dropInput()
                return connection.receive()
            }
            pump()
            connection.keepInput()
        case .end: peerEnded()
        case .lost(let why):
            if case .goodbye = waiting { end(lastWords) } else { end("lost connection \(phaseWords): \(why)") }
        case .sent:
            switch waiting {
            case .goodbye: linger()
            case .room: pump()
            case .busy: if sendMore() { setDeadline(seconds: timeoutSeconds) }
            default: break
            }
        case .secured(let info):
            waiting = .input
            secured(info)
            if isGreeted { pump() } else { sayHello() }
        case .closed:
            waiting = .closed
            core.ended(self)
        }
    }

    var isTurned: Bool { waiting == .turned }

    /// Whoever has the connection has closed it.
    func closed(_ how: String) {
        lastWords = how
        waiting = .closed
        core.ended(self)
    }

    /// What the session was busy with has come.
    func proceed() {
        guard case .busy = waiting else { return }
        waiting = .input
        pump()
    }

    private func pump() {
        guard !connection.isClosing else { return }
        switch waiting {
        case .input, .room: break
        default: return
        }
        guard core.reactor.now >= pausedUntil else {
            waiting = .room
            return connection.flush()
        }
        waiting = .input
        var next = Next.receive
        connection.withInput { input in
            var consumed = 0
            next = work(input, &consumed)
            return consumed
        }
        switch next {
        case .receive:
            connection.flush()
            if connection.isAtEnd { return peerEnded() }
            if shouldDelayReplies, !core.isUnlimited(client) {
                // Guessing gets slower with each wrong guess.
                waiting = .room
                pausedUntil = core.reactor.now + Limits.nanosecondsPerSecond
                setDeadline(seconds: timeoutSeconds)
                if pausedUntil < timerAt { arm(pausedUntil) }
            } else if connection.unsentBytes > Limits.outputPauseBytes {
                waiting = .room
            } else {
                setDeadline(seconds: timeoutSeconds)
                connection.receive()
            }
        case .busy:
            waiting = .busy
            setDeadline(seconds: timeoutSeconds)
            connection.flush()
        case .room:
            waiting = .room
            setDeadline(seconds: timeoutSeconds)
            connection.flush()
        case .startTLS:
            connection.flush()
            beginTLS()
        case .turn:
            connection.flush()
            waiting = .turned
            core.reactor.cancelTimer(timer)
            turned()
        case .goodbye(let why): sayGoodbye(why)
        }
    }

    // MARK: The end

    func sayGoodbye(_ why: String) {
        lastWords = why
        waiting = .goodbye
        release()
        setDeadline(seconds: 30)
        connection.flush()
        if !connection.hasUnsent { linger() }
    }

    private func peerEnded() {
        switch waiting {
        case .goodbye, .closed: end(lastWords)
        default: end("lost connection \(phaseWords)")
        }
    }

    /// The last reply is out: the peer gets a moment to read it before the socket goes.
    private func linger() {
        connection.shutDownSending()
        setDeadline(seconds: 2)
        connection.receive()
    }

    func end(_ how: String) {
        if !connection.isClosing {
            lastWords = how
            connection.close()
        }
        release()
    }

    /// The session has gone from the reactor's table.
    func logEnd() {
        release()
        core.reactor.cancelTimer(timer)
        core.log.sessionEnded(name, client: client.description, how: lastWords, messages: messages)
    }

    /// The server is stopping.
    func shutDown() {
        guard !connection.isClosing else { return }
        switch waiting {
        case .handshake, .handshakeTurn: return end("server is stopping")
        case .goodbye, .closed, .turned: return
        case .input, .room, .busy: break
        }
        if needsProxyHeader { return end("server is stopping") }
        guard sayShutDown() else { return }
        sayGoodbye("server is stopping")
        setDeadline(seconds: 5)
    }

    // MARK: Time

    private func setDeadline(seconds: Int) {
        deadline = core.reactor.now + UInt64(seconds) * Limits.nanosecondsPerSecond
        if deadline < timerAt { arm() }
    }

    private func arm(_ at: UInt64? = nil) {
        core.reactor.cancelTimer(timer)
        timerAt = at ?? deadline
        timer = core.reactor.setTimer(timerAt, token.with(kind: TokenKind.customerTimer))
    }

    func timerFired() {
        timerAt = .max
        if case .handshakeTurn = waiting { return shakeHands() }
        if case .room = waiting, pausedUntil > 0, core.reactor.now >= pausedUntil {
            pausedUntil = 0
            pump()
        }
        guard core.reactor.now >= deadline else { return arm() }
        let words = "timed out \(phaseWords)"
        switch waiting {
        case .input where connection.unsentBytes == 0 && isGreeted:
            sayTimedOut()
            sayGoodbye(words)
            setDeadline(seconds: 5)
            arm()
        case .goodbye, .closed: end(lastWords)
        case .turned: break
        default: end(words)
        }
    }
}

extension ListenerKind {
    /// TLS from the first byte.
    var isTLS: Bool {
        switch self {
        case .smtps, .pop3s, .odmrs: true
        case .smtp, .pop3, .odmr: false
        }
    }

    /// Speaks SMTP to senders.
    var isForSenders: Bool { self == .smtp || self == .smtps }
}
