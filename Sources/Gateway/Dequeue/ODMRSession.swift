import Protocols
import Reactor

/// A customer's session of on-demand mail relay (RFC 2645), until the roles turn; then a `ForwardSession` has the connection.
///
/// ```text
/// AUTH ▶ ATRN ▶ which domains are his? ▶ homes: how much waits? ▶ 250, turn ▶ hand over from all his queues ▶ QUIT
///                                             └ nothing: 453 · not his: 450 · can't be known now: 451
/// ```
final class ODMRSession: CustomerSession {
    private var machine: ODMRServerSession
    private var asked = ""
    /// Of the ATRN that is being looked up.
    private var requested: [QualifiedDomain] = []
    private var granted: [Gateway] = []
    private var wanted: [QueueKey: Gateway] = [:]
    private var counts: [String: Int] = [:]
    private var answersLeft = 0
    private var isBusy = false
    private var isUnknown = false
    private var forward: ForwardSession?

    override init(core: Core, token: Token, socket: SocketHandle, kind: ListenerKind, client: IPAddress) {
        var settings = ODMRServerSettings(hostname: core.settings.hostname)
        settings.offersStartTLS = core.settings.serverTLS != nil
        settings.requiresAuthentication = core.routes.snapshot.gatewaysKnownByAddress.isEmpty
        machine = ODMRServerSession(
            settings: settings, offer: core.saslOffer([.scramSHA256, .cramMD5, .plain, .login]), isTLS: kind.isTLS)
        super.init(core: core, token: token, socket: socket, kind: kind, client: client)
    }

    private var address: SessionAddress { SessionAddress(core: core.index, token: token) }

    override var phaseWords: StaticString { machine.phase.words }
    override var timeoutSeconds: Int { machine.phase.timeoutSeconds }
    override var shouldDelayReplies: Bool { machine.shouldDelayReplies && machine.errorCount > delayed }
    private var delayed = 0

    override func greet() {
        if let refusal = core.admission(of: client) {
            core.counters.connectionsRefused.add(1, ordering: .relaxed)
            return machine.refuseSession(refusal, into: &connection.output)
        }
        machine.greet(into: &connection.output)
    }

    override func secured(_ info: TLSInfo) { if machine.phase == .startTLS { machine.tlsStarted() } }

    // MARK: Until the turn

    override func work(_ input: UnsafeRawBufferPointer, _ consumed: inout Int) -> Next {
        delayed = machine.errorCount
        while true {
            let event = machine.next(input, consumed: &consumed, into: &connection.output)
            noteFailures()
            switch event {
            case .needMore: return .receive
            case .hello: break
            case .startTLS:
                consumed = input.count
                return .startTLS
            case .ask(let question):
                asked = question.user
                machine.answer(core.answer(question, for: .customer, client: client), into: &connection.output)
                noteFailures()
            case .authenticated(let user):
                let gateways = core.routes.snapshot.gateways(ofCustomer: user).map(\.domain).joined(separator: ",")
                core.log.loggedIn(
                    user, gateways: gateways, client: client.description, session: name, listener: kind.rawValue)
            case .turn(let user, let domains):
                if lookUp(user, domains) { return .busy }
            case .turned(let domains): return turn(domains)
            case .quit: return .goodbye("quit")
            case .hangUp: return .goodbye("hung up \(machine.phase.words)")
            }
        }
    }

    private var notedFailures = 0

    private func noteFailures() {
        guard machine.failedLoginCount > notedFailures else { return }
        notedFailures = machine.failedLoginCount
        core.loginFailed(asked, client, session: name, listener: kind.rawValue)
    }

    /// What is his, and what of it he wants. False: answered at once.
    private func lookUp(_ user: String?, _ domains: [QualifiedDomain]) -> Bool {
        let snapshot = core.routes.snapshot
        let candidates = user.map { snapshot.gateways(ofCustomer: $0) } ?? snapshot.gatewaysKnownByAddress
        granted = candidates.filter { gateway in
            let atrn = gateway.dequeue.atrn
            guard gateway.dequeue.method == .atrn, user != nil || !atrn.requiresAuthentication else { return false }
            return atrn.requireAddress.isEmpty || atrn.requireAddress.contains { $0.contains(client) }
        }
        requested = domains
        let names = Set(domains.map(\.description))
        wanted = [:]
        for gateway in granted where names.isEmpty || names.contains(gateway.domain) {
            wanted[QueueKey(gatewayID: gateway.id)] = gateway
        }
        (counts, answersLeft, isBusy, isUnknown) = ([:], wanted.count, false, false)
        // One that is not his, and he gets none: nothing need be counted.
        guard !wanted.isEmpty, wanted.count == max(names.count, names.isEmpty ? wanted.count : 0) else {
            answer()
            return false
        }
        for key in wanted.keys.sorted() {
            core.send(.customer(key, address, .count), to: Routes.home(of: key.gatewayID, reactors: core.count))
        }
        return true
    }

    override func received(_ key: QueueKey?, _ message: ToCustomerSession) {
        guard answersLeft > 0, let key, let gateway = wanted[key] else { return }
        switch message {
        case .waiting(let count): counts[gateway.domain] = count
        case .refused(let refusal): if refusal.isInUse { isBusy = true } else { isUnknown = true }
        default: return
        }
        answersLeft -= 1
        guard answersLeft == 0, machine.phase == .turning else { return }
        answer()
        proceed()
    }

    private func answer() {
        let all = granted.compactMap { QualifiedDomain($0.domain) }
        var decision: ATRNDecision =
            .decide(
                requested: requested, granted: isUnknown ? nil : all,
                turnsWithoutMail: wanted.values.contains(where: \.dequeue.atrn.holdsOpen)
            ) { [counts] in counts[$0.description] ?? 0 > 0 }
        if isBusy, case .turn = decision { decision = .tooOften }
        machine.answerTurn(decision, earlyBytes: connection.hasInput ? 1 : 0, into: &connection.output)
        if case .turn = decision {
        } else {
            core.log.refused(
                "ATRN \(requested.map(\.description).joined(separator: ","))", client: client.description,
                session: name,
                reply: decision.reply)
        }
    }

    // MARK: Behind it

    private func turn(_ domains: [QualifiedDomain]) -> Next {
        let sources = domains.compactMap { domain -> ForwardSession.Source? in
            // The gateway may have gone meanwhile.
            guard let route = core.routes.route(forDomain: domain.description) else { return nil }
            let id = route.gateway.id
            return ForwardSession.Source(
                QueueKey(gatewayID: id), route, home: Routes.home(of: id, reactors: core.count))
        }
        guard !sources.isEmpty else { return .goodbye("its gateways have gone") }
        let turned = ForwardSession.Turned(
            connection: connection, settings: machine.turnedSettings, relay: "atrn[\(client)]",
            holdsOpen: sources.contains { $0.route.gateway.dequeue.atrn.holdsOpen },
            then: { [weak self] in self?.ended() })
        guard let session = core.openTurned(sources, turned) else { return .goodbye("too many sessions") }
        forward = session
        return .turn
    }

    override func turned() { forward?.start() }

    override func diverts(_ completion: Completion) -> Bool {
        guard let forward, isTurned else { return false }
        forward.completed(completion)
        return true
    }

    private func ended() {
        messages = forward?.handedOver ?? 0
        forward = nil
        closed("the turned session ended")
    }

    override func sayTimedOut() { machine.timedOut(into: &connection.output) }

    override func sayShutDown() -> Bool {
        guard machine.phase != .turned, machine.phase != .turning else { return false }
        machine.shutDown(into: &connection.output)
        return true
    }
}
