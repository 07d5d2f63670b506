import Glibc
import Protocols
import Reactor

/// One SMTP session with a primary: takes leases from the queue's home, hands the messages over, returns settlements.
///
/// ```text
/// find next hop ▶ connect (address by address) ▶ greeting, EHLO, STARTTLS ▶ want leases ▶ hand over, two at a time ▶ rest ▶ QUIT
/// ```
///
/// What it may hold is bounded: leases, hand-overs and settles that are not yet synced are at most `Limits.leasesPerConnection`
/// together, which bounds the duplicates after a power loss (design §6).
///
/// Behind an ATRN (RFC 2645) it goes the same way, over the customer's own connection and from all queues of his at once.
final class ForwardSession {
    /// A queue that this session empties.
    struct Source {
        let key: QueueKey
        let route: Route
        let home: Int
        /// Leases were asked for and have not come.
        var isWanting = false
        /// Nothing waits there, as far as is known.
        var isEmpty = false
        var settlements: [Settlement] = []

        init(_ key: QueueKey, _ route: Route, home: Int) { (self.key, self.route, self.home) = (key, route, home) }
    }

    /// What is known of a turned connection.
    struct Turned {
        let connection: Connection
        let settings: SMTPClientSettings
        /// In the log.
        let relay: String
        /// New mail goes out as it comes, until the customer ends it.
        let holdsOpen: Bool
        /// The socket is closed.
        let then: () -> Void
    }

    /// A parcel that this session has.
    private final class Holding {
        let lease: Lease
        let source: Int
        var parcel: LoadedParcel?
        var stuffer: DotStuffer?
        /// Of a large file: the next byte to send.
        var offset = 0
        /// Indexes into the envelope's recipients that are sent.
        var recipients: [Int] = []
        let since: UInt64
        init(_ lease: Lease, of source: Int, since: UInt64) {
            (self.lease, self.source, self.since) = (lease, source, since)
        }
    }

    let token: Token
    private unowned let core: Core
    /// One; behind a turn one or more.
    private var sources: [Source]
    private let turned: Turned?
    /// Whose next hop it is: mail of our own for a domain that is a gateway here goes the way of that gateway's mail.
    private let hop: Gateway
    private var connection: Connection?
    private var machine: SMTPClientSession
    private var addresses: [NextHopAddress] = []
    private var current: NextHopAddress?
    private var relay = "none"
    private var lastFailure: Reply?
    private var isUp = false
    private var isQuitting = false
    private var isEnding = false
    private var tlsRefusedBy: NextHopAddress?
    /// Leases that are being read or wait for their turn, in order.
    private var holdings: [Holding] = []
    private var open: [SMTPHandoverID: Holding] = [:]
    /// What is sent piece by piece now.
    private var streaming: (id: SMTPHandoverID, holding: Holding)?
    /// Settles whose sync is not known yet.
    private var unsynced = 0
    /// Answered, and on their way to be settled: the original's first bytes are being read for a notice.
    private var answeredOnly = 0
    private var deadline: UInt64 = .max
    private var timer = TimerWheel.ID.none
    private var timerAt: UInt64 = .max
    private(set) var handedOver = 0
    private var hadLeases = false

    private static let connectSeconds = 30
    private static let chunkBytes = 64 << 10

    init(core: Core, token: Token, key: QueueKey, route: Route, home: Int) {
        self.core = core
        self.token = token
        sources = [Source(key, route, home: home)]
        turned = nil
        let domain = key.destination
        hop = (domain.isEmpty ? nil : core.routes.route(forDomain: domain))?.gateway ?? route.gateway
        machine = SMTPClientSession(settings: Self.settings(core, hop, withTLS: true))
    }

    /// The roles have turned: the customer is the server now.
    init(core: Core, token: Token, sources: [Source], turned: Turned) {
        (self.core, self.token, self.sources, self.turned) = (core, token, sources, turned)
        hop = sources[0].route.gateway
        machine = SMTPClientSession(settings: turned.settings)
        connection = turned.connection
        relay = turned.relay
    }

    private var key: QueueKey { sources[0].key }
    private var route: Route { sources[0].route }

    private static func settings(_ core: Core, _ gateway: Gateway, withTLS: Bool) -> SMTPClientSettings {
        let use: SMTPClientSettings.TLSUse =
            switch gateway.forward.tls {
            case .none: .never
            case .may: withTLS ? .opportunistic : .never
            case .encrypt, .verify: .required
            }
        return SMTPClientSettings(helloName: core.settings.hostname, tls: use)
    }

    private var address: SessionAddress { SessionAddress(core: core.index, token: token) }
    private var forward: Gateway.Forward { hop.forward }

    // MARK: Connecting

    func start() {
        if turned != nil {
            setDeadline(seconds: machine.phase.timeoutSeconds)
            return pump()
        }
        let domain = key.destination.isEmpty ? hop.domain : key.destination
        if hop.id != route.gateway.id, hop.isHeld || hop.delivery == .onContact {
            return found(.none("the gateway \(domain) \(hop.isHeld ? "is on hold" : "is asked for by its customer")"))
        }
        core.resolver.find(
            forward.nextHop, port: forward.port, domain: domain, identity: core.settings.identity
        ) { [weak self] found in self?.found(found) }
    }

    private func found(_ found: NextHopResolver.Found) {
        guard !isEnding else { return }
        switch found {
        case .addresses(let list):
            addresses = list
            connectNext()
        case .none(let why): finish(.noNextHop(why))
        case .refused(let reply): finish(.refused(reply))
        case .later(let why): finish(.unreachable(Reply(451, EnhancedStatus(4, 4, 3), why)))
        }
    }

    private func connectNext() {
        guard !addresses.isEmpty else {
            return finish(
                .unreachable(
                    lastFailure ?? Reply(451, EnhancedStatus(4, 4, 1), "no address of the next hop can be used")))
        }
        let next = addresses.removeFirst()
        current = next
        machine = SMTPClientSession(settings: Self.settings(core, hop, withTLS: tlsRefusedBy != next))
        let port = forward.port
        relay = "\(next.host.map { "\($0)" } ?? "")[\(next.address)]:\(port)"
        if next.host == nil { relay = next.address.isV4 ? "\(next.address):\(port)" : "[\(next.address)]:\(port)" }
        if let source = forward.source, source.isV4 != next.address.isV4 {
            lastFailure = Reply(451, EnhancedStatus(4, 4, 1), "\(relay): `forward.source` is of the other IP version")
            return connectNext()
        }
        let socket = core.reactor.backend.connect(
            to: SocketAddress(next.address, port: port), from: forward.source.map { SocketAddress($0, port: 0) },
            token: token)
        guard socket >= 0 else {
            connectFailed(Int32(-socket))
            return
        }
        connection = Connection(reactor: core.reactor, token: token, socket: socket)
        setDeadline(seconds: Self.connectSeconds)
    }

    /// Our own means are at an end; that says nothing of the primary.
    private static func isOurs(_ fault: Int32) -> Bool { [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(fault) }

    private func connectFailed(_ fault: Int32) {
        if Self.isOurs(fault) { return finish(.notNow) }
        let words = String(cString: strerror(fault)).lowercased()
        lastFailure = Reply(451, EnhancedStatus(4, 4, 1), "connect to \(relay): \(words)")
        connection = nil
        connectNext()
    }

    // MARK: Completions

    func completed(_ completion: Completion) {
        guard let connection else { return }
        switch connection.completed(completion) {
        case .nothing: break
        case .connected:
            setDeadline(seconds: machine.phase.timeoutSeconds)
            connection.receive()
        case .connectFailed(let fault):
            if Self.isOurs(fault) {
                tellEnd(.notNow)
                return connection.close()
            }
            lastFailure = Reply(
                451, EnhancedStatus(4, 4, 1), "connect to \(relay): \(String(cString: strerror(fault)).lowercased())")
            isRedialling = true
            connection.close()
        case .input: pump()
        case .end, .lost:
            if machine.phase == .tlsHandshake, mayGoWithoutTLS() { return }
            machine.connectionLost()
            pump()
        case .sent:
            if streaming != nil { streamMore() } else { pump() }
        case .secured(let info): secured(info)
        case .closed:
            self.connection = nil
            if isRedialling, !isEnding {
                isRedialling = false
                connectNext()
            } else {
                core.reactor.cancelTimer(timer)
                isGone = true
                turned?.then()
                if !hasUnloaded { core.ended(self) }
            }
        }
    }

    /// The connection closes only to try the next address.
    private var isRedialling = false
    /// All is told and closed; files may still be on their way back to it.
    private var isGone = false
    private var hasUnloaded: Bool { loading > 0 }
    private var loading = 0

    private func pump() {
        guard let connection, !connection.isClosing else { return }
        fill()
        while true {
            var event = SMTPClientSession.Event.needMore
            connection.withInput { input in
                var consumed = 0
                event = machine.next(input, consumed: &consumed, into: &connection.output)
                return consumed
            }
            switch event {
            case .needMore:
                if fill() { continue }
                if connection.isAtEnd, machine.phase != .quit {
                    // The stream ended together with its last bytes.
                    machine.connectionLost()
                    continue
                }
                connection.flush()
                setDeadline(seconds: machine.phase.timeoutSeconds)
                connection.receive()
                settleAll()
                wantMore()
                rest()
                return
            case .startTLS: return startTLS()
            case .ready: ready()
            case .recipientAnswered: break
            case .sendContent(let id, let framing): sendContent(id, framing)
            case .answered(let outcome): answered(outcome)
            case .closed:
                return close(.done)
            case .failed(let failure):
                return failed(failure)
            }
        }
    }

    private func ready() {
        isUp = true
        for source in sources {
            core.send(turned == nil ? .sessionUp(source.key, address) : .turnedUp(source.key, address), to: source.home)
        }
    }

    private func failed(_ failure: SMTPClientFailure) {
        if !isUp {
            lastFailure = Self.named(failure.asReply, relay)
            if case .tlsRefused = failure.reason, mayGoWithoutTLS() { return }
            // The next address may do better (RFC 5321 §5.1).
            if !addresses.isEmpty { return redial() }
            return close(.unreachable(lastFailure!))
        }
        close(.lost(Self.named(failure.asReply, relay)))
    }

    private static func named(_ reply: Reply, _ relay: String) -> Reply {
        Reply(reply.code, reply.status, "\(relay): \(reply.text)")
    }

    private func redial() {
        guard let connection else { return connectNext() }
        isRedialling = true
        connection.flush()
        connection.close()
    }

    // MARK: TLS

    private func startTLS() {
        guard let connection else { return }
        connection.flush()
        let verifies = forward.tls == .verify && turned == nil
        do throws(TLSFault) {
            let context = verifies ? core.settings.clientTLS.verified : core.settings.clientTLS.unverified
            let session = try TLSSession(
                client: context, serverName: current?.host ?? current.map { $0.address.description }, verify: verifies)
            connection.startTLS(session)
            setDeadline(seconds: machine.phase.timeoutSeconds)
            connection.receive()
        } catch {
            machine.connectionLost()
            pump()
        }
    }

    private func secured(_ info: TLSInfo) {
        guard let connection else { return }
        if forward.tls == .verify, turned == nil, info.peerVerification != .verified {
            lastFailure = Reply(451, EnhancedStatus(4, 7, 5), "\(relay): the certificate is not trusted")
            return redialOrEnd()
        }
        machine.tlsStarted(into: &connection.output)
        pump()
    }

    private func redialOrEnd() {
        if addresses.isEmpty { close(.unreachable(lastFailure!)) } else { redial() }
    }

    /// `may`: a handshake that fails is tried again without TLS, once an address (RFC 3207 §6 leaves it to policy; RFC 7435).
    private func mayGoWithoutTLS() -> Bool {
        guard forward.tls == .may, let current, tlsRefusedBy != current else {
            if machine.phase == .tlsHandshake {
                lastFailure = Reply(451, EnhancedStatus(4, 7, 5), "\(relay): the TLS handshake failed")
                if !addresses.isEmpty { redial() } else { close(.unreachable(lastFailure!)) }
                return true
            }
            return false
        }
        tlsRefusedBy = current
        addresses.insert(current, at: 0)
        guard let connection else { return true }
        isRedialling = true
        connection.close()
        return true
    }

    // MARK: Leases

    /// The home's answer. False: this session takes none any more.
    func leased(_ key: QueueKey, _ leases: [Lease]) -> Bool {
        guard let source = sources.firstIndex(where: { $0.key == key }) else { return false }
        sources[source].isWanting = false
        guard isUp, !isQuitting, !isEnding, let connection, !connection.isClosing else { return false }
        if leases.isEmpty {
            restsSince = core.reactor.now
            sources[source].isWanting = true
            sources[source].isEmpty = true
            rest()
            return true
        }
        hadLeases = true
        sources[source].isEmpty = false
        var leases = leases[...]
        if sources.count > 1 {
            // Several homes may have answered at once: what is too much goes back.
            let taken = leases.prefix(max(0, room))
            for lease in leases[taken.endIndex...] {
                sources[source].settlements.append(
                    Settlement(slot: lease.slot, generation: lease.generation, result: .released))
            }
            leases = taken
        }
        let route = sources[source].route
        for lease in leases {
            let holding = Holding(lease, of: source, since: core.reactor.now)
            holdings.append(holding)
            loading += 1
            ParcelLoader(files: core.calls).load(
                route.store, lease, contentMaxBytes: Limits.memoryMessageBytes, opensLarge: true, prefixBytes: 0
            ) { [weak self] loaded in self?.loaded(holding, loaded) }
        }
        pump()
        return true
    }

    private func loaded(_ holding: Holding, _ loaded: Result<LoadedParcel, LoadFault>) {
        loading -= 1
        if isEnding {
            if case .success(let parcel) = loaded { closeFile(parcel, holding) }
            if isGone, loading == 0 { core.ended(self) }
            return
        }
        guard holdings.contains(where: { $0 === holding }) else {
            // Given back meanwhile.
            if case .success(let parcel) = loaded { closeFile(parcel, holding) }
            return
        }
        switch loaded {
        case .success(let parcel):
            holding.parcel = parcel
        case .failure(.damaged(let why)): drop(holding, .damaged(why))
        case .failure(.unreadable(let fault)): drop(holding, .unreadable(fault))
        case .failure(.moved): drop(holding, .released)
        }
        if holding.lease.hot == nil || holding.lease.hasState { pump() }
    }

    private func drop(_ holding: Holding, _ result: Settlement.Result) {
        holdings.removeAll { $0 === holding }
        settle(holding, result)
    }

    private func closeFile(_ parcel: LoadedParcel, _ holding: Holding) {
        if let file = parcel.file {
            core.calls.run([.close(file)], on: .bulk, of: sources[holding.source].route.store) { _ in }
        }
    }

    /// Parcels that it may take yet.
    private var room: Int { Limits.leasesPerConnection - holdings.count - open.count - unsynced - answeredOnly }

    /// Asks for as many leases as the bound allows, before the last ones are used up.
    private func wantMore() {
        guard isUp, !isQuitting, !core.isStopping, holdings.count < 2 else { return }
        guard sources.contains(where: { !$0.isWanting }) else { return }
        if machine.isUsedUp { return quit() }
        let room = room
        guard room >= min(4, Limits.leasesPerConnection / 4) else { return }
        for at in sources.indices where !sources[at].isWanting {
            sources[at].isWanting = true
            core.send(.want(sources[at].key, address, count: max(1, room / sources.count)), to: sources[at].home)
        }
    }

    /// That many of this session's settles are synced.
    func credited(_ count: Int) {
        unsynced -= count
        wantMore()
        rest()
    }

    private var restsSince: UInt64 = 0

    /// Without work the connection is kept for a moment, then ends.
    private func rest() {
        guard isUp, !isQuitting, holdings.isEmpty, open.isEmpty else { return }
        if core.isStopping { return quit() }
        if let turned {
            // The customer waits for the end, unless he wants what comes.
            if !turned.holdsOpen, sources.allSatisfy(\.isEmpty) { quit() }
            return
        }
        guard sources[0].isWanting else { return }
        // The home's empty answer may have come before the last hand-over began.
        if restsSince == 0 { restsSince = core.reactor.now }
        let until = restsSince + Limits.lingerNanoseconds
        if core.reactor.now >= until { return quit() }
        if timerAt > until { arm(until) }
    }

    private func quit() {
        guard let connection, !isQuitting, !connection.isClosing else { return }
        isQuitting = true
        machine.quit(into: &connection.output)
        connection.flush()
        setDeadline(seconds: open.isEmpty ? 10 : machine.phase.timeoutSeconds)
        arm(deadline)
        connection.receive()
    }

    /// The server is stopping: what is open is finished, the rest goes back.
    func shutDown() {
        if !isUp { return isEnding ? () : finish(.done) }
        for holding in holdings { settle(holding, .released) }
        holdings = []
        settleAll()
        rest()
    }

    // MARK: Handing over

    /// Offers what is ready to the machine. Whether it took something.
    @discardableResult private func fill() -> Bool {
        var took = false
        while let connection, machine.canSend, !isQuitting, let holding = holdings.first, let parcel = holding.parcel {
            holdings.removeFirst()
            restsSince = 0
            let envelope = parcel.envelope
            holding.recipients = envelope.recipients.indices.filter { !parcel.state.settled.contains($0) }
            guard !holding.recipients.isEmpty else {
                settle(holding, .delivered)
                continue
            }
            var reversePath = envelope.reversePath
            // `<>` stays `<>` (design §9).
            if turned == nil, let replacement = forward.envelopeFrom, !reversePath.isEmpty {
                reversePath = replacement.description
            }
            var sent = SMTPClientEnvelope(
                reversePath: reversePath,
                recipients: holding.recipients.map {
                    let recipient = envelope.recipients[$0]
                    return .init(path: recipient.path, notify: recipient.notify, orcpt: recipient.orcpt)
                }, size: parcel.sizes.contentBytes)
            sent.is8Bit = envelope.is8Bit
            sent.needsSMTPUTF8 = envelope.needsSMTPUTF8
            sent.ret = envelope.ret
            sent.envid = envelope.envid
            sent.linesBeginningWithDot = parcel.sizes.linesBeginningWithDot
            open[machine.send(sent, into: &connection.output)] = holding
            took = true
        }
        return took
    }

    private func sendContent(_ id: SMTPHandoverID, _ framing: SMTPContentFraming) {
        guard let connection, let holding = open[id], let parcel = holding.parcel else {
            preconditionFailure("content for a hand-over that is not open")
        }
        switch framing {
        case .dots(isStuffed: true): holding.stuffer = DotStuffer()
        default: break
        }
        if let content = parcel.content {
            if holding.stuffer != nil {
                content.forEachPiece { holding.stuffer!.append($0, into: &connection.output) }
            } else {
                connection.queue(content)
            }
            return contentSent(id, holding, framing)
        }
        streaming = (id, holding)
        streamFraming = framing
        holding.offset = 0
        connection.flush()
        sendMore(holding, parcel)
    }

    private static let sliceBytes = 1 << 20

    /// The next part of a large file. A slice at a time, so that a slow line has its three minutes for each (RFC 5321
    /// §4.5.3.2.5), and a fast one doesn't hold the reactor.
    private func sendMore(_ holding: Holding, _ parcel: LoadedParcel) {
        guard let connection, connection.tls == nil, holding.stuffer == nil else { return readMore() }
        // From the page cache to the socket, without a copy here (design rule M2).
        let length = min(Self.sliceBytes, parcel.sizes.contentBytes - holding.offset)
        connection.queueFile(
            parcel.file!, offset: Int64(parcel.sizes.contentOffset + holding.offset), length: length)
        holding.offset += length
        setDeadline(seconds: machine.phase.timeoutSeconds)
        connection.flush()
    }

    private var streamFraming = SMTPContentFraming.dots(isStuffed: false)

    /// The last piece has been sent: the next one, or the end.
    private func streamMore() {
        guard let (id, holding) = streaming, let parcel = holding.parcel, !isReading else { return }
        guard holding.offset >= parcel.sizes.contentBytes else { return sendMore(holding, parcel) }
        streaming = nil
        contentSent(id, holding, streamFraming)
        pump()
    }

    private var isReading = false

    private func readMore() {
        guard let (_, holding) = streaming, let parcel = holding.parcel else { return }
        isReading = true
        let length = min(Self.chunkBytes, parcel.sizes.contentBytes - holding.offset)
        core.calls.run(
            [.read(parcel.file!, at: Int64(parcel.sizes.contentOffset + holding.offset), length: length)], on: .bulk,
            of: sources[holding.source].route.store
        ) { [weak self] outcomes in self?.read(holding, outcomes[0], length) }
    }

    private func read(_ holding: Holding, _ outcome: FileOutcome, _ length: Int) {
        isReading = false
        guard let connection, !connection.isClosing, streaming?.holding === holding else { return }
        guard outcome.isDone, outcome.data.count == length else {
            // The message is cut here; the peer must not take it for whole.
            machine.connectionLost()
            return pump()
        }
        holding.offset += length
        outcome.data.withUnsafeBytes { bytes in
            if holding.stuffer != nil {
                holding.stuffer!.append(bytes, into: &connection.output)
            } else {
                connection.output.append(bytes)
            }
        }
        setDeadline(seconds: machine.phase.timeoutSeconds)
        connection.flush()
    }

    private func contentSent(_ id: SMTPHandoverID, _ holding: Holding, _ framing: SMTPContentFraming) {
        guard let connection else { return }
        switch framing {
        case .dots(isStuffed: false):
            // Stored content always ends in CRLF.
            DotStuffer.appendTerminator(contentEndsWithCRLF: true, into: &connection.output)
        case .dots(isStuffed: true): holding.stuffer!.finish(into: &connection.output)
        case .chunk: break
        }
        machine.contentSent(id, into: &connection.output)
    }

    // MARK: Outcomes

    private func answered(_ outcome: SMTPHandoverOutcome) {
        guard let holding = open.removeValue(forKey: outcome.id), let parcel = holding.parcel else { return }
        if streaming?.holding === holding { streaming = nil }
        handedOver += 1
        if outcome.isPossibleDuplicate { core.counters.possibleDuplicates.add(1, ordering: .relaxed) }
        let delay = core.reactor.wall / 1_000_000 - holding.lease.id.milliseconds
        var isPlain = true
        var outcomes = [RecipientOutcome?](repeating: nil, count: parcel.envelope.recipients.count)
        for (place, at) in holding.recipients.enumerated() {
            let result = outcome.recipients[place]
            let recipient = parcel.envelope.recipients[at]
            core.log.attempt(
                holding.lease.id, to: recipient.path, domain: sources[holding.source].route.gateway.domain,
                relay: relay,
                delayMilliseconds: delay,
                outcome: result.reply.isPositive ? "sent" : result.reply.isPermanent ? "bounced" : "deferred",
                reply: result.reply)
            if !result.reply.isPositive { isPlain = false }
            if recipient.notifyConditions?.contains(.success) == true, !outcome.isDSNPassedOn { isPlain = false }
            outcomes[at] = RecipientOutcome(
                reply: result.reply,
                remoteMTA: result.isFromPeer ? current?.host ?? current.map { "[\($0.address.literalText)]" } : nil,
                isDSNPassedOn: outcome.isDSNPassedOn)
        }
        if isPlain, parcel.state.isInitial || holding.recipients.count + parcel.state.settled.count == outcomes.count {
            // A turn says nothing of the primary's health.
            return settle(holding, turned == nil ? .delivered : .collected)
        }
        // Only a notice needs the original: for what failed for good, succeeded with a wish to hear of it, or is late.
        let isLate = delay >= Int64(Notice.delayedAfterSeconds) * 1_000
        let mayNotify = outcomes.contains { $0.map { !$0.reply.isTransient } ?? false } || isLate
        answeredOnly += 1
        withPrefix(mayNotify, parcel, sources[holding.source].route) { [self] prefix in
            answeredOnly -= 1
            settle(
                holding,
                .mixed(
                    SettledParcel(
                        envelope: parcel.envelope, state: parcel.state, outcomes: outcomes, original: prefix,
                        isWhole: prefix.count == parcel.sizes.contentBytes)))
            settleAll()
        }
    }

    /// The original's first bytes, for a notice.
    private func withPrefix(
        _ isWanted: Bool, _ parcel: LoadedParcel, _ route: Route, _ then: @escaping ([UInt8]) -> Void
    ) {
        guard isWanted || route.gateway.retry.lifetimeSeconds.map({ $0 < Notice.delayedAfterSeconds }) ?? false else {
            return then([])
        }
        if let content = parcel.content { return then(content.prefix(Notice.originalMaxBytes)) }
        guard let file = parcel.file else { return then([]) }
        loading += 1
        core.calls.run(
            [
                .read(
                    file, at: Int64(parcel.sizes.contentOffset),
                    length: min(Notice.originalMaxBytes, parcel.sizes.contentBytes))
            ], on: .bulk, of: route.store
        ) { [self] outcomes in
            loading -= 1
            then(outcomes[0].data)
            if isGone, loading == 0 { core.ended(self) }
        }
    }

    private func settle(_ holding: Holding, _ result: Settlement.Result) {
        if let parcel = holding.parcel { closeFile(parcel, holding) }
        holding.parcel = nil
        if case .released = result {} else { unsynced += 1 }
        sources[holding.source].settlements.append(
            Settlement(slot: holding.lease.slot, generation: holding.lease.generation, result: result))
    }

    private func settleAll() {
        for at in sources.indices where !sources[at].settlements.isEmpty {
            core.send(.settle(sources[at].key, address, sources[at].settlements), to: sources[at].home)
            sources[at].settlements = []
        }
    }

    // MARK: The end

    /// Ends without a connection, or closes it.
    private func finish(_ end: SessionEnd) {
        if connection != nil { return close(end) }
        tellEnd(end)
        isGone = true
        core.reactor.cancelTimer(timer)
        if loading == 0 { core.ended(self) }
    }

    private func close(_ end: SessionEnd) {
        tellEnd(end)
        connection?.flush()
        connection?.close()
    }

    private func tellEnd(_ end: SessionEnd) {
        guard !isEnding else { return }
        isEnding = true
        var end = end
        // A primary that takes connections and no mail is as good as down: probed, not stormed (T-E4).
        if handedOver == 0, hadLeases, case .lost(let reply) = end { end = .unreachable(reply) }
        if handedOver == 0, hadLeases, case .done = end, !isQuitting {
            end = .unreachable(Reply(421, EnhancedStatus(4, 4, 2), "\(relay): the server ended the session"))
        }
        assert(open.isEmpty, "the machine answers each hand-over before it tells of its end")
        for holding in holdings { settle(holding, .released) }
        holdings = []
        settleAll()
        for source in sources {
            core.send(
                turned == nil ? .sessionEnded(source.key, address, end) : .turnedEnded(source.key, address),
                to: source.home)
        }
    }

    // MARK: Time

    private func setDeadline(seconds: Int) {
        deadline = core.reactor.now + UInt64(seconds) * Limits.nanosecondsPerSecond
        if deadline < timerAt { arm(deadline) }
    }

    private func arm(_ at: UInt64) {
        core.reactor.cancelTimer(timer)
        timerAt = at
        timer = core.reactor.setTimer(at, token.with(kind: TokenKind.forwardTimer))
    }

    func timerFired() {
        timerAt = .max
        rest()
        if core.reactor.now >= deadline { return timedOut() }
        if timerAt > deadline { arm(deadline) }
    }

    private func timedOut() {
        guard let connection, !connection.isClosing else { return }
        if !isUp, machine.phase == .greeting, connection.bytesReceived == 0 {
            lastFailure = Reply(451, EnhancedStatus(4, 4, 1), "connect to \(relay): timed out")
            return addresses.isEmpty ? close(.unreachable(lastFailure!)) : redial()
        }
        if isQuitting, open.isEmpty { return close(.done) }
        if turned?.holdsOpen == true, machine.phase == .idle, !machine.awaitsNoop {
            // Nothing came for a while: is he still there? It also keeps his router from forgetting the connection.
            machine.noop(into: &connection.output)
            return pump()
        }
        machine.timedOut()
        pump()
    }
}
