import DequeModule
import Protocols
import Reactor

/// The queues that one reactor is home to: keeps index, leases, retry times and health, decides who gets a session, and asks the
/// spool for the end of what is settled (design §6).
///
/// A retry is decided in `attempted`, a bounce in `Verdict`, a session in `pump`.
final class Queues {
    /// What the owner does for it.
    protocol Owner: AnyObject {
        func send(_ message: CoreMessage, to core: Int)
        /// Composes and commits a notice; `then` runs when it is durable (or with a fault when it can't be).
        func notify(_ notice: Notice, then: @escaping (Bool) -> Void)
        /// Runs `body` in the next turn: what would take too long goes on there.
        func nextTurn(_ body: @escaping () -> Void)
        /// Runs `body` after ten seconds.
        func later(_ body: @escaping () -> Void)
        /// Asks the parcel's journal for its end.
        func end(_ end: JournalEnd)
        /// Makes a parcel's file in its mail directory; `then` runs when it is durable, or can't be.
        func store(
            _ id: QueueID, _ content: MessageContent, _ route: Route, _ envelope: Envelope, _ destination: String,
            then: @escaping (Bool) -> Void)
        /// Takes away what a failed `store` may have left; `then` runs when that is durable. A disk that fails keeps it waiting.
        func clear(_ store: Store, _ id: QueueID, _ bytes: Int, then: @escaping () -> Void)
        /// Keeps what a damaged record holds beside the mail; `then` runs when that is durable, or can't be.
        func keepDamaged(
            _ store: Store, _ id: QueueID, _ bytes: Int, _ place: JournalPlace, then: @escaping (Bool) -> Void)
        /// Reads a parcel's envelope and first bytes.
        func load(
            _ store: Store, _ lease: Lease, contentMaxBytes: Int,
            then: @escaping (Result<LoadedParcel, LoadFault>) -> Void)
    }

    let reactor: Reactor
    private let spool: Spool
    let log: EventLog
    private let counters: Counters
    let core: Int
    let cores: Int
    private let timerKind: UInt8
    var index = ParcelIndex()
    /// By number; nil: free.
    private(set) var queues: [GatewayQueue?] = []
    private var freeNumbers: [Int32] = []
    private var numbers: [QueueKey: Int32] = [:]
    var probesLeft = 0
    var probeSecond: UInt64 = 0
    var clock: ClockGuard
    unowned let owner: any Owner
    /// Parcels between a journal and their mail directory, by slot.
    var moves: [Int32: Move] = [:]
    var departures: [Int32: (Bool) -> Void] = [:]
    var toMove: Deque<ParcelReference> = []
    /// Of `moves`: those that failed and wait for a disk that fails.
    var clearing = 0
    /// Journals that are being looked through.
    var walking: Set<Int> = []
    /// The server is stopping: nothing is opened or given any more.
    var isStopping = false

    init(
        owner: any Owner, reactor: Reactor, spool: Spool, log: EventLog, counters: Counters, core: Int, cores: Int,
        timerKind: UInt8, lastSeen: Int64
    ) {
        (self.owner, self.reactor, self.spool, self.log, self.counters) = (owner, reactor, spool, log, counters)
        (self.core, self.cores, self.timerKind) = (core, cores, timerKind)
        clock = ClockGuard(now: reactor.now, wall: reactor.wall, lastSeen: lastSeen)
    }

    // MARK: Queues

    func queue(_ key: QueueKey, _ routes: Routes) -> GatewayQueue? {
        find(key) ?? routes.route(forID: key.gatewayID).map { makeQueue(key, $0) }
    }

    private func makeQueue(_ key: QueueKey, _ route: Route) -> GatewayQueue {
        let number = freeNumbers.popLast() ?? Int32(queues.count)
        let queue = GatewayQueue(
            key: key, number: number, route: route, isKeptHeld: key.destination == Self.keptDestination)
        if Int(number) == queues.count { queues.append(queue) } else { queues[Int(number)] = queue }
        numbers[key] = number
        return queue
    }

    /// The queue that a parcel waits in.
    func queue(of reference: ParcelReference) -> GatewayQueue {
        guard let queue = queues[Int(index[reference].queue)] else {
            preconditionFailure("a parcel whose queue has gone")
        }
        return queue
    }

    func find(_ key: QueueKey) -> GatewayQueue? { numbers[key].flatMap { queues[Int($0)] } }

    private static let lookedAtPerSecond = 200
    private var nextLook = 0

    /// Queues that nobody needs any more: of deleted gateways, and of destinations to which all mail has gone.
    private func forgetIdle(_ routes: Routes) {
        for _ in 0..<min(Self.lookedAtPerSecond, queues.count) {
            nextLook = nextLook + 1 < queues.count ? nextLook + 1 : 0
            guard let queue = queues[nextLook], queue.isIdle, !queue.isListing,
                !queue.key.destination.isEmpty || routes.route(forID: queue.key.gatewayID) == nil
            else { continue }
            reactor.cancelTimer(queue.timer)
            numbers[queue.key] = nil
            freeNumbers.append(queue.number)
            queues[nextLook] = nil
        }
    }

    /// The destination of mail that is kept in `@system` (Postmaster's, while nobody is named for it).
    static let keptDestination = "@held"

    /// The gateways' settings changed: what was known of a primary whose next hop changed no longer holds.
    func changed(_ routes: Routes) {
        // A walk that is under way begins again with these.
        changes += 1
        let change = changes
        walkQueues { [self] queue in
            guard change == changes else { return false }
            take(routes.route(forID: queue.key.gatewayID), queue)
            return true
        } then: {
        }
    }

    private var changes = 0

    private func take(_ route: Route?, _ queue: GatewayQueue) {
        guard let route else { return }
        let old = queue.route.gateway
        guard old !== route.gateway || queue.route.store !== route.store else { return }
        queue.route = route
        if old.forward != route.gateway.forward {
            for at in queue.sessions.indices { queue.sessions[at].isStale = true }
            queue.staleOpening = queue.opening
            queue.health.tryNow()
        }
        pump(queue)
    }

    // MARK: Walks

    private static let queuesAtOnce = 200

    /// Looks at all queues, some in one callback. `visit` says whether to go on.
    func walkQueues(
        from first: Int = 0, _ visit: @escaping (GatewayQueue) -> Bool, then: @escaping () -> Void
    ) {
        let end = min(first + Self.queuesAtOnce, queues.count)
        for number in first..<max(first, end) {
            if let queue = queues[number], !visit(queue) { return then() }
        }
        guard end < queues.count else { return then() }
        owner.nextTurn { [self] in walkQueues(from: end, visit, then: then) }
    }

    /// Looks at all parcels, some in one callback: of those that come or go meanwhile, some.
    func walkParcels(
        from first: Int = 0, atOnce count: Int = 10_000, _ visit: @escaping (ParcelReference) -> Bool,
        then: @escaping () -> Void
    ) {
        let end = min(first + count, index.slots)
        for slot in first..<max(first, end) {
            if let reference = index.reference(at: slot), !visit(reference) { return then() }
        }
        guard end < index.slots else { return then() }
        owner.nextTurn { [self] in walkParcels(from: end, atOnce: count, visit, then: then) }
    }

    /// Recovery begins or ends for a gateway.
    func setListing(_ key: QueueKey, _ isListing: Bool, _ routes: Routes) {
        guard let queue = queue(key, routes) else { return }
        queue.isListing = isListing
        if !isListing { pump(queue) }
    }

    // MARK: Parcels

    /// A parcel has become durable, or was found at recovery.
    func enqueue(_ announcement: Announcement, hasState: Bool = false, isRecovered: Bool = false, _ routes: Routes) {
        let queue = queue(announcement.key, routes) ?? makeQueue(announcement.key, announcement.route)
        let reference = index.insert(
            announcement.id, bytes: announcement.bytes, queue: queue.number, hot: announcement.hot,
            place: announcement.place)
        if announcement.hot != nil { hot.append(reference, announcement.hot!.content.allocatedBytes) }
        index[reference].hasState = hasState
        if isRecovered {
            // Recovered: how often it was tried follows from its age (design rule M4).
            let age = Int((reactor.wall / 1_000_000 - announcement.id.milliseconds) / 1_000)
            let position = queue.route.gateway.retry.position(atAgeSeconds: max(0, age))
            index[reference].attempts = UInt16(clamping: position.attempts)
        }
        queue.queued += 1
        queue.queuedBytes += announcement.bytes
        counters.queued.add(1, ordering: .relaxed)
        queue.append(reference)
        trimHot()
        pump(queue)
    }

    // MARK: Hot parcels

    private var hot = HotList()
    /// Bytes of messages kept in memory after their commit, so that they leave without being read again.
    var hotBytesMax = 64 << 20

    private func trimHot() {
        hot.sweep { index.holds($0) && index[$0].hot != nil }
        while hot.bytes > hotBytesMax, let oldest = hot.takeOldest() {
            if index.holds(oldest) { cool(oldest) }
        }
    }

    /// Its bytes are forgotten; they are read again when it leaves.
    private func cool(_ reference: ParcelReference) {
        guard let parcel = index[reference].hot else { return }
        hot.forget(parcel.content.allocatedBytes)
        index[reference].hot = nil
    }

    // MARK: Settling

    func settle(_ key: QueueKey, _ session: SessionAddress?, _ settlements: [Settlement]) {
        guard let queue = find(key) else { return }
        // Released ones go back to the front, so the first of them last.
        for settlement in settlements.reversed() {
            let reference = ParcelReference(slot: settlement.slot, generation: settlement.generation)
            guard index.holds(reference), index[reference].state == .leased else { continue }
            switch settlement.result {
            case .delivered:
                queue.health.handedOver(concurrency: queue.route.gateway.forward.concurrency)
                counters.delivered.add(1, ordering: .relaxed)
                leave(reference, queue, credit: session)
            case .released:
                queue.leased -= 1
                index[reference].state = .ready
                queue.putBack(reference)
            case .collected:
                counters.delivered.add(1, ordering: .relaxed)
                leave(reference, queue, credit: session)
            case .unread: giveBack(reference, queue)
            case .mixed(let parcel): attempted(reference, queue, parcel, session)
            case .damaged(let why):
                setAside(reference, queue, why, session)
            case .unreadable(let fault):
                log.alarm(
                    "unreadable", gateway: queue.route.gateway.domain, id: index[reference].id,
                    "the mail file can't be read (error \(fault)); tried again later")
                postpone(reference, queue, seconds: 60)
                credit(session)
            }
        }
        pump(queue)
    }

    func credit(_ session: SessionAddress?) {
        if let session { owner.send(.credit(session.token, 1), to: session.core) }
    }

    /// The end of a parcel: its file goes with the next commit.
    func leave(_ reference: ParcelReference, _ queue: GatewayQueue, credit: SessionAddress?) {
        if waitsForMove(reference, { [self] in leave(reference, queue, credit: credit) }) { return }
        let entry = index[reference]
        let credit = credit.map { Removal.Credit(core: $0.core, session: $0.token) }
        if entry.place.isNone {
            let removal = Removal(
                store: queue.route.store, name: MailFile.name(entry.id, contentBytes: entry.bytes), bytes: entry.bytes,
                purpose: .settled(credit: credit))
            removal.hasState = entry.hasState
            spool.remove(removal)
        } else {
            owner.end(
                JournalEnd(
                    place: entry.place, id: entry.id, store: queue.route.store, bytes: entry.bytes,
                    purpose: .settled(credit: credit)))
        }
        forget(reference, queue)
    }

    /// Takes a parcel out of the index and the sums.
    private func forget(_ reference: ParcelReference, _ queue: GatewayQueue) {
        cool(reference)
        if index[reference].state == .leased { queue.leased -= 1 }
        if index[reference].state == .ready { queue.readyCount -= 1 }
        queue.queued -= 1
        queue.queuedBytes -= index[reference].bytes
        counters.queued.subtract(1, ordering: .relaxed)
        index.remove(reference)
    }

    private func setAside(
        _ reference: ParcelReference, _ queue: GatewayQueue, _ why: String, _ session: SessionAddress?
    ) {
        if waitsForMove(reference, { [self] in setAside(reference, queue, why, session) }) { return }
        let entry = index[reference]
        guard entry.place.isNone else { return setAsideRecord(reference, queue, why, session) }
        setAside(entry.id, entry.bytes, in: queue.route.store, why)
        forget(reference, queue)
        credit(session)
    }

    /// A record that is not what was written: its bytes are kept before its segment is used again, and nobody gets it.
    private func setAsideRecord(
        _ reference: ParcelReference, _ queue: GatewayQueue, _ why: String, _ session: SessionAddress?
    ) {
        let entry = index[reference]
        owner.keepDamaged(queue.route.store, entry.id, entry.bytes, entry.place) { [self] isKept in
            guard isKept else {
                return owner.later { [self] in setAsideRecord(reference, queue, why, session) }
            }
            log.alarm(
                "damaged", gateway: queue.route.gateway.domain, id: entry.id,
                "\(why); set aside as \(MailFile.name(entry.id, contentBytes: entry.bytes))\(MailFile.damagedSuffix), not sent"
            )
            counters.damaged.add(1, ordering: .relaxed)
            leave(reference, queue, credit: session)
        }
    }

    /// A file that is not what was written: it gets another name, and nobody gets it.
    func setAside(_ id: QueueID, _ bytes: Int, in store: Store, _ why: String) {
        let name = MailFile.name(id, contentBytes: bytes)
        log.alarm(
            "damaged", gateway: store.domain, id: id, "\(why); set aside as \(name)\(MailFile.damagedSuffix), not sent")
        counters.damaged.add(1, ordering: .relaxed)
        let task = FileTask(token: Token(kind: 0, generation: 0, index: 0), device: store.device.id)
        task.steps = [
            .rename(in: store.directory, from: name, to: store.directory, name: name + MailFile.damagedSuffix)
        ]
        task.context = store
        reactor.backend.run(task, on: .bulk)
        store.discharge(bytes)
    }

    /// Not plain success: who failed, who waits, who is told (RFC 3461 §5.2, RFC 5321 §6.1).
    private func attempted(
        _ reference: ParcelReference, _ queue: GatewayQueue, _ parcel: SettledParcel, _ session: SessionAddress?
    ) {
        let gateway = queue.route.gateway
        let entry = index[reference]
        clock.look(now: reactor.now, wall: reactor.wall, log)
        index[reference].attempts = entry.attempts == .max ? .max : entry.attempts + 1
        let ageSeconds = Int((reactor.wall / 1_000_000 - entry.id.milliseconds) / 1_000)
        let isExpired = clock.isTrusted && gateway.retry.lifetimeSeconds.map { ageSeconds >= $0 } ?? false
        let isLate =
            clock.isTrusted && ageSeconds >= Notice.delayedAfterSeconds && gateway.delivery == .immediately
        let verdict = Verdict(parcel, isExpired: isExpired, isLate: isLate)
        if let last = parcel.outcomes.last(where: { $0 != nil }) { queue.lastReply = last?.reply.description }
        if verdict.isProgress { queue.health.handedOver(concurrency: gateway.forward.concurrency) }
        counters.bounced.add(verdict.failed.count, ordering: .relaxed)
        let finish = { [self] in
            if verdict.isOver {
                counters.delivered.add(verdict.failed.isEmpty ? 1 : 0, ordering: .relaxed)
                leave(reference, queue, credit: session)
            } else {
                counters.deferred.add(1, ordering: .relaxed)
                let attempts = Int(index[reference].attempts)
                let delay = gateway.retry.delaySeconds(afterAttempts: attempts)
                let jitter = Int(reactor.backend.random() % UInt64(max(1, delay / 10)))
                wait(reference, queue, verdict.state, before: parcel.state, seconds: delay + jitter, session)
            }
        }
        // The consequences are durable before their cause goes (design rule M4).
        let notices = verdict.notices(entry.id, parcel)
        notifyAll(notices[...]) { [self] missing in
            guard index.holds(reference) else { return }
            if missing.isEmpty {
                finish()
            } else {
                // Who has the message must not get it again while a notice can't be written, and whose failure is reported must
                // not be reported twice.
                let delivered = parcel.outcomes.indices.filter { parcel.outcomes[$0]?.reply.isPositive == true }
                let reported = notices.dropLast(missing.count).filter { $0.kind == .failed }.flatMap {
                    $0.about.map(\.0)
                }
                var state = parcel.state
                state.settled = (state.settled + delivered + reported).sorted()
                wait(reference, queue, state, before: parcel.state, seconds: 60, session)
            }
            pump(queue)
        }
    }

    /// One notice after the other, up to the first that can't be made durable; `then` gets what is left. A report of success
    /// is tried until it is: nobody else knows that it is owed.
    private func notifyAll(_ notices: ArraySlice<Notice>, then: @escaping (ArraySlice<Notice>) -> Void) {
        guard let first = notices.first else { return then([]) }
        owner.notify(first) { [self] isDurable in
            if isDurable { return notifyAll(notices.dropFirst(), then: then) }
            guard notices.contains(where: { $0.kind == .relayed }) else { return then(notices) }
            owner.later { [self] in notifyAll(notices, then: then) }
        }
    }

    /// Postpones a parcel, once what is known of it is durable: a recipient that is settled never gets it again (T-E5).
    private func wait(
        _ reference: ParcelReference, _ queue: GatewayQueue, _ state: ParcelState, before: ParcelState, seconds: Int,
        _ session: SessionAddress?
    ) {
        guard state != before else {
            postpone(reference, queue, seconds: seconds)
            return credit(session)
        }
        if waitsForMove(
            reference,
            { [self] in wait(reference, queue, state, before: before, seconds: seconds, session) })
        {
            return
        }
        let id = index[reference].id
        let isInJournal = !index[reference].place.isNone
        spool.writeState(
            StateFile(store: queue.route.store, id: id, state: state) { [self] in
                guard index.holds(reference) else { return }
                if isInJournal {
                    return moveRemembered(reference, queue, state, seconds: seconds, session)
                }
                index[reference].hasState = true
                index[reference].delayNoticeSent = state.delayNoticeSent
                // What is left of it is known only with its state file.
                cool(reference)
                postpone(reference, queue, seconds: seconds)
                credit(session)
            })
    }

    /// A parcel of which there is something to remember goes to its mail directory, where the state file is already.
    private func moveRemembered(
        _ reference: ParcelReference, _ queue: GatewayQueue, _ state: ParcelState, seconds: Int,
        _ session: SessionAddress?
    ) {
        let again = { [self] in moveRemembered(reference, queue, state, seconds: seconds, session) }
        if waitsForMove(reference, again) { return }
        let then = { [self] (isMoved: Bool) in
            guard isMoved else { return owner.later(again) }
            index[reference].hasState = true
            index[reference].delayNoticeSent = state.delayNoticeSent
            cool(reference)
            postpone(reference, queue, seconds: seconds)
            credit(session)
        }
        // Asked for by the journal meanwhile.
        if index[reference].place.isNone { then(true) } else { move(reference, then: then) }
    }

    private func postpone(_ reference: ParcelReference, _ queue: GatewayQueue, seconds delay: Int) {
        if index[reference].state == .leased { queue.leased -= 1 }
        index[reference].state = .deferred
        index[reference].nextTrySeconds = seconds + UInt32(clamping: delay)
        queue.defer(reference, until: index[reference].nextTrySeconds)
        arm(queue)
    }

    // MARK: Time

    /// Of the monotonic clock, 1 or more.
    var seconds: UInt32 { UInt32(clamping: reactor.now / Limits.nanosecondsPerSecond + 1) }

    func arm(_ queue: GatewayQueue, at instant: UInt64? = nil) {
        var next = instant ?? .max
        if let deferred = queue.nextDeferredSeconds { next = min(next, UInt64(deferred) * Limits.nanosecondsPerSecond) }
        if queue.readyCount > 0, queue.holdReason == nil, let probe = queue.health.waitsUntil(reactor.now) {
            next = min(next, probe)
        }
        guard next < queue.timerAt else { return }
        reactor.cancelTimer(queue.timer)
        queue.timerAt = next
        queue.timer = reactor.setTimer(next, Token(kind: timerKind, generation: 0, index: UInt32(queue.number)))
    }

    func timerFired(_ token: Token) {
        guard Int(token.index) < queues.count, let queue = queues[Int(token.index)] else { return }
        queue.timer = .none
        queue.timerAt = .max
        pump(queue)
    }

    /// Once a second.
    func tick(_ routes: Routes) {
        clock.look(now: reactor.now, wall: reactor.wall, log)
        forgetIdle(routes)
    }
}
