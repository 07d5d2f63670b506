import DequeModule
import Glibc
import Protocols
import Reactor

/// One reactor of the mail process: its sessions, its spool, the queues that it is home to.
///
/// `step` is one turn: what the world brought is handled in the order mailboxes and settles, commits, hand-over, receiving, and
/// then everything that was decided goes out at once.
final class Core: Queues.Owner {
    let index: Int
    let count: Int
    let reactor: Reactor
    let spool: Spool
    let log: EventLog
    let counters: Counters
    let calls: FileCalls
    private(set) var settings: CoreSettings
    private(set) var routes: Routes
    private(set) var queues: Queues!
    private(set) var resolver: NextHopResolver!
    var ids: QueueIDMaker
    private let listeners: [CoreListener]
    private let outboxes: [Mailbox<CoreMessage>?]
    private let inboxes: [Mailbox<CoreMessage>]
    private let quietCores: RelaxedCounter
    private var local: [CoreMessage] = []

    private var receiving = SessionTable<ReceiveSession>(kind: TokenKind.receive)
    private var forwarding = SessionTable<ForwardSession>(kind: TokenKind.forward)
    private var customers = SessionTable<CustomerSession>(kind: TokenKind.customer)
    private var writers: [UInt32: (session: Token, writer: LargeMessageWriter)] = [:]
    private var nextWriter: UInt32 = 0
    /// For texts that are copied at once; empty between uses.
    var scratch = ByteOutput()
    var networks = ClientNetworks()
    var guesses = Guesses()
    var memoryBytes = 0
    private(set) var isStopping = false
    private var stoppedAt: UInt64 = 0
    /// What waits for a notice to be durable.
    var notices: [QueueID: (Bool) -> Void] = [:]
    /// Stores whose trial is under way: a hung disk gets one at a time.
    var trying: Set<UInt64> = []
    /// Devices that are being measured: one that hangs is asked once.
    var measuring: Set<Int> = []
    private var recovery: [UInt64: Recovery] = [:]
    private var serverMachine: SMTPServerSettings
    private var acceptsAgain: UInt64 = 0

    /// What a reactor is made of.
    struct Parts {
        var index: Int
        var count: Int
        var start: UInt32
        /// See `Superblock`.
        var firstStartOfThisBoot: UInt32
        /// See `SpoolLock`.
        var lastSeen: Int64
        var settings: CoreSettings
        var routes: Routes
        var listeners: [CoreListener]
        /// One a reactor; nil at its own index.
        var outboxes: [Mailbox<CoreMessage>?]
        /// From the other reactors, then the control thread's.
        var inboxes: [Mailbox<CoreMessage>]
        var counters: Counters
        var logWriter: LogWriter?
        var logLevel: Configuration.LogLevel
        /// Reactors that are stopping and have no sessions any more.
        var quietCores = RelaxedCounter()
        /// nil: there is no journal.
        var journal: JournalStart?
    }

    init(_ parts: Parts, backend: any Backend) {
        (index, count, settings, routes) = (parts.index, parts.count, parts.settings, parts.routes)
        (listeners, outboxes, inboxes, counters) = (parts.listeners, parts.outboxes, parts.inboxes, parts.counters)
        quietCores = parts.quietCores
        reactor = Reactor(backend: backend)
        log = EventLog(writer: parts.logWriter, level: parts.logLevel, reactor: reactor, counters: counters)
        let reactor = reactor
        spool = Spool(
            reactor: reactor, token: Token(kind: TokenKind.spool, generation: 0, index: 0),
            journal: parts.journal.map {
                Journal(
                    $0, core: parts.index, reactor: reactor,
                    token: Token(kind: TokenKind.journal, generation: 0, index: 0))
            })
        calls = FileCalls(reactor: reactor, kind: TokenKind.calls, shelf: parts.journal?.shelf)
        firstStartOfThisBoot = parts.firstStartOfThisBoot
        ids = QueueIDMaker(start: parts.start, reactor: UInt16(parts.index), lastSeen: parts.lastSeen)
        serverMachine = SMTPServerSettings(hostname: parts.settings.hostname)
        serverMachine.messageSizeMax = parts.settings.messageSizeMax
        serverMachine.recipientsMax = parts.settings.recipientsMax
        serverMachine.outputPauseBytes = Limits.outputPauseBytes
        serverMachine.offersStartTLS = parts.settings.serverTLS != nil
        queues = Queues(
            owner: self, reactor: reactor, spool: spool, log: log, counters: counters, core: index, cores: count,
            timerKind: TokenKind.queueTimer, lastSeen: parts.lastSeen)
        spool.journal?.mayGrow = { [unowned self] in journalMayGrow }
        queues.hotBytesMax = parts.settings.messageMemoryBytes / 2
        resolver = NextHopResolver(calls: calls, reactor: reactor)
    }

    // MARK: Turns

    /// Opens the listeners and begins recovery.
    func start() {
        for (number, listener) in listeners.enumerated() {
            reactor.operations.append(Operation(.accept, listener.socket, listenerToken(number)))
        }
        tickAt = reactor.now
        arm()
        recoverNew()
    }

    private func listenerToken(_ number: Int) -> Token {
        Token(kind: TokenKind.listener, generation: 0, index: UInt32(number))
    }

    /// Runs until a shutdown is complete.
    func run() {
        start()
        while !isStopped { step() }
        // The last replies and closes leave.
        reactor.turn(mayWait: false)
        log.flush()
    }

    /// Messages taken from one mailbox in one turn.
    private static let mailPerTurn = 512
    /// An answer's answers, within one turn; the rest is for the next.
    private static let localRounds = 6

    func step() {
        // A box that was left half full rings no more; a spill list waits for room.
        let isQuiet =
            local.isEmpty && continuations.isEmpty && inboxes.allSatisfy(\.isEmpty)
            && outboxes.allSatisfy { $0 == nil || $0!.spilled == 0 }
        reactor.turn(mayWait: isQuiet)
        callbacks.begin(reactor.now)
        for inbox in inboxes {
            for _ in 0..<Self.mailPerTurn {
                guard let message = inbox.receive() else { break }
                timed("message") { handle(message) }
            }
            timed("routes") { takeRoutes() }
        }
        for finished in reactor.finished { timed("file or look-up") { handle(finished) } }
        timed("commit") { handleSpool() }
        for completion in reactor.completions { timed("socket") { handle(completion) } }
        for token in reactor.expired { timed("timer") { expire(token) } }
        for _ in 0..<Self.localRounds where !local.isEmpty {
            let messages = local
            local = []
            for message in messages { timed("message") { handle(message) } }
        }
        let due = continuations
        continuations = []
        for body in due { timed("walk", body) }
        timed("end of turn") {
            spool.flush()
            for outbox in outboxes { outbox?.flush() }
            log.flush()
        }
        if isStopping { proceedStopping() }
    }

    /// What was too long for one callback and goes on.
    private var continuations: [() -> Void] = []

    func nextTurn(_ body: @escaping () -> Void) { continuations.append(body) }

    private var callbacks = CallbackClock()

    /// A callback (design §3: none longer than 1 ms, a slow one is told of).
    private func timed(_ what: StaticString, _ callback: () -> Void) {
        callback()
        guard let took = callbacks.ended(reactor.backend.monotonicNow()) else { return }
        log.note(.warning, "slow-callback", "\(what): \(took / 1_000_000) ms")
    }

    func send(_ message: CoreMessage, to core: Int) {
        if core == index { local.append(message) } else { outboxes[core]!.send(message) }
    }

    /// Announcements that other homes have not yet taken.
    var announcedAhead: Int { outboxes.reduce(0) { $0 + ($1?.spilled ?? 0) } }

    func nextID() -> QueueID { ids.next(wall: reactor.wall) }

    // MARK: Messages

    /// Of those that came in a row only the last one counts.
    private var newestRoutes: Routes?

    private func takeRoutes() {
        guard let routes = newestRoutes else { return }
        newestRoutes = nil
        self.routes = routes
        queues.changed(routes)
        recoverNew()
    }

    private func handle(_ message: CoreMessage) {
        if newestRoutes != nil {
            if case .routes = message {} else { takeRoutes() }
        }
        switch message {
        case .routes(let routes): newestRoutes = routes
        case .settings(let settings): self.settings = settings
        case .announce(let announcement): queues.enqueue(announcement, routes)
        case .open(let key, let route, let home): open(key, route, home)
        case .sessionUp(let key, let address): queues.sessionUp(key, address)
        case .turnedUp(let key, let address): queues.turnedUp(key, address, routes)
        case .turnedEnded(let key, let address): queues.turnedEnded(key, address)
        case .want(let key, let address, let count): queues.wants(key, address, count)
        case .leases(let token, let key, let leases):
            if let session = forwarding.find(token), session.leased(key, leases) { break }
            // It ended while they were on their way.
            let returned = leases.map { Settlement(slot: $0.slot, generation: $0.generation, result: .released) }
            send(.settle(key, nil, returned), to: Routes.home(of: key.gatewayID, reactors: count))
        case .settle(let key, let address, let settlements): queues.settle(key, address, settlements)
        case .credit(let token, let count):
            if token.kind == TokenKind.customer {
                customers.find(token)?.received(nil, .credit(count))
            } else {
                forwarding.find(token)?.credited(count)
            }
        case .sessionEnded(let key, let address, let end): queues.sessionEnded(key, address, end)
        case .end(let end): spool.journal?.end(end)
        case .moveOut(let core, let generation): queues.moveOut(core: core, through: generation)
        case .moved(let reference): queues.moved(reference)
        case .customer(let key, let address, let what): queues.customer(key, address, what, routes)
        case .toCustomer(let token, let key, let what):
            if token.kind == TokenKind.receive {
                receiving.find(token)?.received(what)
                return
            }
            if let session = customers.find(token) { return session.received(key, what) }
            // It ended while a parcel was on its way.
            guard case .parcel(let lease) = what else { return }
            giveBack(lease, key)
        case .request(let request): queues.answer(request)
        case .shutDown: beginStopping()
        }
    }

    private func handle(_ finished: Finished) {
        switch finished {
        case .files(let task):
            switch task.token.kind {
            case TokenKind.spool: spool.finished(task)
            case TokenKind.journal: spool.journalFinished(task)
            case TokenKind.calls: calls.finished(task)
            case TokenKind.largeWriter: writerFinished(task)
            default: break
            }
        case .lookup(let token, let answer): calls.finished(token, answer)
        case .work: break
        }
    }

    private func handle(_ completion: Completion) {
        switch completion.token.kind {
        case TokenKind.receive: receiving.find(completion.token)?.completed(completion)
        case TokenKind.forward: forwarding.find(completion.token)?.completed(completion)
        case TokenKind.customer: customers.find(completion.token)?.completed(completion)
        case TokenKind.listener: accepted(completion)
        default: break
        }
    }

    private func expire(_ token: Token) {
        switch token.kind {
        case TokenKind.receiveTimer: receiving.find(token.with(kind: TokenKind.receive))?.timerFired()
        case TokenKind.forwardTimer: forwarding.find(token.with(kind: TokenKind.forward))?.timerFired()
        case TokenKind.customerTimer: customers.find(token.with(kind: TokenKind.customer))?.timerFired()
        case TokenKind.queueTimer: queues.timerFired(token)
        case TokenKind.tick: tick()
        default: break
        }
    }

    // MARK: Receiving

    func serverSettings(for client: IPAddress) -> SMTPServerSettings {
        var machine = serverMachine
        machine.offersXClient = settings.trust.xclient.contains { $0.contains(client) }
        machine.offersETRN = routes.snapshot.etrnCount > 0
        if isUnlimited(client) {
            machine.transactionsMax = 1_000_000
            machine.commandsMax = 10_000_000
        }
        return machine
    }

    private func accepted(_ completion: Completion) {
        guard case .accept = completion.kind else { return }
        let listener = listeners[Int(completion.token.index)]
        guard completion.result >= 0 else {
            log.alarm(
                "accept", gateway: "",
                "no connection can be accepted (\(String(cString: strerror(Int32(-completion.result))))); again in 0.1 s"
            )
            // Out of descriptors: not spinning, sessions that end free some (T-D11).
            pausedListeners.append(Int(completion.token.index))
            acceptsAgain = reactor.now + Limits.nanosecondsPerSecond / 10
            return arm()
        }
        let socket = SocketHandle(completion.result)
        guard receiving.count + customers.count < settings.connectionsMax,
            let peer = reactor.backend.peerAddress(of: socket)
        else {
            counters.connectionsRefused.add(1, ordering: .relaxed)
            // Without a session there is nobody to free: closing is all.
            reactor.operations.append(
                Operation(.close, socket, Token(kind: TokenKind.refused, generation: 0, index: 0)))
            return
        }
        let client = IPAddress(peer)
        networks.connected(client)
        counters.sessionsTotal.add(1, ordering: .relaxed)
        counters.sessions.add(1, ordering: .relaxed)
        guard listener.kind.isForSenders else {
            return customers.insert { token in makeCustomerSession(token, socket, listener.kind, client) }.start()
        }
        let session = receiving.insert { token in
            ReceiveSession(core: self, token: token, socket: socket, kind: listener.kind, client: client)
        }
        session.start()
    }

    private var pausedListeners: [Int] = []

    func ended(_ session: ReceiveSession) {
        session.logEnd()
        session.cancelTimer()
        networks.left(session.counted)
        counters.sessions.subtract(1, ordering: .relaxed)
        receiving.remove(session.token)
    }

    func ended(_ session: CustomerSession) {
        session.logEnd()
        networks.left(session.counted)
        counters.sessions.subtract(1, ordering: .relaxed)
        customers.remove(session.token)
    }

    // MARK: Large messages

    func largeWriter(_ id: QueueID, _ parcels: [IncomingParcel], for session: Token) -> LargeMessageWriter {
        nextWriter &+= 1
        let token = Token(kind: TokenKind.largeWriter, generation: 0, index: nextWriter)
        let writer = LargeMessageWriter(id: id, parcels: parcels, reactor: reactor, token: token)
        writers[nextWriter] = (session, writer)
        return writer
    }

    private func writerFinished(_ task: FileTask) {
        guard let (session, writer) = writers[task.token.index] else { return }
        writer.finished(task)
        if writer.isDone { writers[task.token.index] = nil }
        receiving.find(session)?.writerProceeded()
    }

    // MARK: Spool

    private func handleSpool() {
        for message in spool.committed {
            if let then = message.then {
                then(message.fault)
                continue
            }
            if let fault = message.fault {
                noteFailure(fault, message.id)
            } else {
                for parcel in message.parcels { parcel.store.failuresInARow.store(0, ordering: .relaxed) }
            }
            if message.fault == nil { accepted(message) } else { discharge(message) }
            switch message.owner.kind {
            case TokenKind.receive: receiving.find(message.owner)?.committed(message)
            case TokenKind.notice: notices.removeValue(forKey: message.id)?(message.fault == nil)
            default: break
            }
        }
        for removal in spool.removed {
            switch removal.purpose {
            case .undo: break
            case .settled(let credit):
                removal.store.discharge(removal.bytes)
                if let credit { send(.credit(credit.session, 1), to: credit.core) }
            case .clear(let then): then()
            }
        }
        for end in spool.ended { ended(end) }
        for state in spool.stated { state.then() }
        for setback in spool.setbacks {
            log.alarm(
                "settle-failed", gateway: setback.store.domain,
                "\(String(cString: strerror(setback.fault))): what was handed over or postponed can't be noted down; again in 10 s, and after a restart before that it may be sent again"
            )
        }
        noteJournalFault()
        spool.taken()
        askToMoveOut()
    }

    /// A message that did not become durable takes nothing of its quotas.
    func discharge(_ message: IncomingMessage) {
        for parcel in message.parcels { parcel.store.discharge(message.chargedBytes) }
        message.chargedBytes = 0
    }

    /// A message is durable: its homes hear of it.
    private func accepted(_ message: IncomingMessage) {
        counters.accepted.add(1, ordering: .relaxed)
        counters.acceptedBytes.add(message.content.count, ordering: .relaxed)
        if !message.parcels[0].place.isNone { counters.journalMessages.add(1, ordering: .relaxed) }
        for parcel in message.parcels {
            if parcel.place.isNone {
                parcel.store.device.took(message.content.count)
            } else {
                // Should it have to move there.
                parcel.store.device.reserve(message.content.count)
            }
            let key = QueueKey(gatewayID: parcel.store.gatewayID, destination: parcel.destination)
            let hot = message.isLarge ? nil : HotParcel(envelope: parcel.envelope, content: message.content)
            let home = Routes.home(of: key.gatewayID, reactors: count)
            send(
                .announce(
                    Announcement(
                        key: key, route: parcel.route, id: message.id, bytes: message.content.count, hot: hot,
                        place: parcel.place)),
                to: home)
        }
    }

    // MARK: Forwarding

    func load(
        _ store: Store, _ lease: Lease, contentMaxBytes: Int, then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        ParcelLoader(files: calls).load(
            store, lease, contentMaxBytes: contentMaxBytes, opensLarge: false, prefixBytes: contentMaxBytes, then: then)
    }

    private func open(_ key: QueueKey, _ route: Route, _ home: Int) {
        guard !isStopping, forwarding.count < Limits.forwardSessionsMax else {
            let nobody = SessionAddress(core: index, token: Token(kind: TokenKind.ignored, generation: 0, index: 0))
            return send(.sessionEnded(key, nobody, .notNow), to: home)
        }
        let session = forwarding.insert { token in
            ForwardSession(core: self, token: token, key: key, route: route, home: home)
        }
        counters.forwardSessions.add(1, ordering: .relaxed)
        session.start()
    }

    /// False: there are too many sessions.
    func openTurned(_ sources: [ForwardSession.Source], _ turned: ForwardSession.Turned) -> ForwardSession? {
        guard !isStopping, forwarding.count < Limits.forwardSessionsMax else { return nil }
        counters.forwardSessions.add(1, ordering: .relaxed)
        return forwarding.insert { token in ForwardSession(core: self, token: token, sources: sources, turned: turned) }
    }

    func ended(_ session: ForwardSession) {
        counters.forwardSessions.subtract(1, ordering: .relaxed)
        forwarding.remove(session.token)
    }

    // MARK: Recovery

    /// Mail directories that are listed at a time: a start with ten thousand of them must not hold up those who send meanwhile.
    private static let recoveriesAtOnce = 16
    private var unlisted: Deque<Store> = []

    /// Lists the mail directories that this reactor is home to and that are not counted yet.
    private func recoverNew() {
        for id in routes.ids where Routes.home(of: id, reactors: count) == index && recovery[id] == nil {
            guard let store = routes.route(forID: id)?.store, store.state.load(ordering: .relaxed) == .listing else {
                continue
            }
            recovery[id] = Recovery(core: self, store: store)
            queues.setListing(QueueKey(gatewayID: id), true, routes)
            unlisted.append(store)
        }
        recoverNext()
    }

    private func recoverNext() {
        while recovery.count - unlisted.count < Self.recoveriesAtOnce, let store = unlisted.popFirst() {
            recovery[store.gatewayID]?.start()
        }
    }

    /// A disk that fails is asked again in a while.
    func recoverLater(_ recovery: Recovery) { later { recovery.start() } }

    /// Runs `body` after ten seconds.
    func later(_ body: @escaping () -> Void) { waiting.append((reactor.now + 10 * Limits.nanosecondsPerSecond, body)) }

    private var waiting: [(at: UInt64, body: () -> Void)] = []

    func recovered(_ store: Store) {
        recovery[store.gatewayID] = nil
        recoverNext()
    }

    /// Gateways whose mail directories are still being listed.
    var recovering: Int { recovery.count }
    var startNumber: UInt32 { ids.start }
    let firstStartOfThisBoot: UInt32

    // MARK: Ticks

    private var tickAt: UInt64 = 0
    private var ticks = 0
    private var tickTimer = TimerWheel.ID.none

    private func arm() {
        reactor.cancelTimer(tickTimer)
        tickTimer = reactor.setTimer(
            min(tickAt + Limits.nanosecondsPerSecond, pausedListeners.isEmpty ? .max : acceptsAgain),
            Token(kind: TokenKind.tick, generation: 0, index: 0))
    }

    private func tick() {
        if !pausedListeners.isEmpty, reactor.now >= acceptsAgain {
            for number in pausedListeners where !isStopping {
                reactor.operations.append(Operation(.accept, listeners[number].socket, listenerToken(number)))
            }
            pausedListeners = []
        }
        // Only the listeners were due: without this the next tick would never come.
        guard reactor.now >= tickAt + Limits.nanosecondsPerSecond else { return arm() }
        tickAt = reactor.now
        ticks += 1
        queues.tick(routes)
        noteHangs()
        lookAtJournal()
        callbacks.tick()
        counters.longestCallbackNanoseconds.store(Int(callbacks.longest), ordering: .relaxed)
        counters.slowCallbacks.store(callbacks.slow, ordering: .relaxed)
        counters.busyNanoseconds.store(Int(reactor.busyNanoseconds), ordering: .relaxed)
        counters.messageMemoryBytes.store(memoryBytes, ordering: .relaxed)
        counters.commits.store(Int(spool.commits), ordering: .relaxed)
        if index == 0 { measureSpace() }
        if ticks % 5 == 0 { tryFailedStores() }
        if ticks % 60 == 0 { networks.forgetOld(now: reactor.now) }
        let due = waiting.filter { $0.at <= reactor.now }
        waiting.removeAll { $0.at <= reactor.now }
        for (_, body) in due { body() }
        arm()
    }

    // MARK: The end

    private(set) var isStopped = false
    private static let stopNanoseconds: UInt64 = 30 * Limits.nanosecondsPerSecond

    private func beginStopping() {
        guard !isStopping else { return }
        isStopping = true
        stoppedAt = reactor.now
        for listener in listeners {
            reactor.operations.append(
                Operation(.close, listener.socket, Token(kind: TokenKind.refused, generation: 0, index: 0)))
        }
        queues.isStopping = true
    }

    /// Sessions first; then, since one reactor's last settles go to another, all wait for all; then mailboxes and the last commit.
    private func proceedStopping() {
        guard reactor.now >= nextStopLook else { return }
        nextStopLook = reactor.now + Self.stopLookNanoseconds
        for session in receiving.all { session.shutDown() }
        for session in forwarding.all { session.shutDown() }
        for session in customers.all { session.shutDown() }
        _ = reactor.setTimer(
            reactor.now + Self.stopLookNanoseconds, Token(kind: TokenKind.ignored, generation: 0, index: 0))
        let isLate = reactor.now - stoppedAt > Self.stopNanoseconds
        if !isQuiet, isLate || (receiving.count == 0 && forwarding.count == 0 && customers.count == 0) {
            isQuiet = true
            quietCores.value.add(1, ordering: .sequentiallyConsistent)
        }
        guard isQuiet, isLate || quietCores.value.load(ordering: .sequentiallyConsistent) == count else { return }
        let isEmpty =
            local.isEmpty && inboxes.allSatisfy(\.isEmpty) && outboxes.allSatisfy { $0 == nil || $0!.spilled == 0 }
        let isTooLate = reactor.now - stoppedAt > Self.stopNanoseconds + 20 * Limits.nanosecondsPerSecond
        // Seen empty twice with a turn between: what another reactor sent in its last step has been taken.
        emptyLooks = isEmpty && spool.isIdle ? emptyLooks + 1 : 0
        if emptyLooks >= 3 || isTooLate { isStopped = true }
    }

    private var isQuiet = false
    private var emptyLooks = 0
    private var nextStopLook: UInt64 = 0
    private static let stopLookNanoseconds: UInt64 = 10_000_000
}
