import Protocols
import Reactor

/// Who gets a session, and who gets which parcels: leases as design §6.
extension Queues {
    /// Opens sessions and hands out leases, as far as health, window and settings allow.
    func pump(_ queue: GatewayQueue) {
        queue.release(until: seconds, &index)
        if queue.key.destination.isEmpty {
            queue.route.store.setFlowing(
                queue.holdReason == nil && queue.health.waitsUntil(reactor.now) == nil)
        }
        guard !isStopping else { return arm(queue) }
        let isHeld = queue.holdReason != nil
        for at in queue.sessions.indices
        where queue.sessions[at].wants > 0 && !queue.sessions[at].isStale && queue.readyCount > 0
            && (!isHeld || queue.sessions[at].isTurned && queue.mayBeTaken)
        {
            give(queue, at)
        }
        guard !isHeld else { return arm(queue) }
        if queue.readyCount == 0 {
            if queue.isFlushing, queue.leased == 0 { queue.isFlushing = false }
            return arm(queue)
        }
        if !queue.isFlushing, queue.health.waitsUntil(reactor.now) != nil { return arm(queue) }
        if queue.pausedUntil > reactor.now { return arm(queue, at: queue.pausedUntil) }
        let limit = min(queue.health.window, queue.route.gateway.forward.concurrency)
        // A session for each eight that wait: opening one costs more than sending a message.
        let wanted = min(limit, (queue.readyCount + 7) / 8)
        while queue.sessions.count(where: { !$0.isStale && !$0.isTurned }) + queue.opening - queue.staleOpening < wanted
        {
            if queue.health.isDown, !mayProbe() { return arm(queue, at: reactor.now + Limits.nanosecondsPerSecond / 4) }
            queue.opening += 1
            // The first one stays at home, where no mailbox is between; the others go round.
            if queue.sessions.count + queue.opening == 1 { queue.nextCore = core }
            owner.send(.open(queue.key, queue.contactRoute ?? queue.route, home: core), to: queue.nextCore)
            queue.nextCore = (queue.nextCore + 1) % cores
            if queue.health.isDown { break }
        }
        arm(queue)
    }

    func mayProbe() -> Bool {
        let second = reactor.now / Limits.nanosecondsPerSecond
        if second != probeSecond {
            probeSecond = second
            probesLeft = max(1, Limits.probesPerSecond / cores)
        }
        guard probesLeft > 0 else { return false }
        probesLeft -= 1
        return true
    }

    func give(_ queue: GatewayQueue, _ at: Int) {
        var leases: [Lease] = []
        while leases.count < queue.sessions[at].wants, let reference = queue.takeReady(index) {
            leases.append(lease(reference, queue))
        }
        guard !leases.isEmpty else { return }
        queue.sessions[at].wants = 0
        owner.send(.leases(queue.sessions[at].address.token, queue.key, leases), to: queue.sessions[at].address.core)
    }

    func lease(_ reference: ParcelReference, _ queue: GatewayQueue) -> Lease {
        if index[reference].state == .ready { queue.readyCount -= 1 }
        index[reference].state = .leased
        queue.leased += 1
        let entry = index[reference]
        return Lease(
            slot: reference.slot, generation: reference.generation, id: entry.id, bytes: entry.bytes, hot: entry.hot,
            hasState: entry.hasState, place: entry.place)
    }

    func sessionUp(_ key: QueueKey, _ address: SessionAddress) {
        guard let queue = find(key) else { return }
        queue.opening -= 1
        let isStale = queue.staleOpening > 0
        if isStale { queue.staleOpening -= 1 }
        queue.sessions.append(GatewayQueue.Session(address: address, isStale: isStale))
        if queue.health.answered() {
            // After an outage all that waits may go, slowly at first (design §6).
            queue.releaseAll()
            queue.release(until: seconds, &index)
            log.health(queue.route.gateway.domain, queue.health.state.word, "answers again")
        }
    }

    /// A customer's turned connection: all that waits may go.
    func turnedUp(_ key: QueueKey, _ address: SessionAddress, _ routes: Routes) {
        guard let queue = queue(key, routes) else { return }
        queue.sessions.append(GatewayQueue.Session(address: address, isTurned: true))
        queue.releaseAll()
        queue.release(until: seconds, &index)
    }

    func turnedEnded(_ key: QueueKey, _ address: SessionAddress) {
        guard let queue = find(key) else { return }
        queue.sessions.removeAll { $0.address == address }
        pump(queue)
    }

    func wants(_ key: QueueKey, _ address: SessionAddress, _ count: Int) {
        guard let queue = find(key), let at = queue.sessions.firstIndex(where: { $0.address == address }) else {
            return
        }
        queue.sessions[at].wants = count
        pump(queue)
        // Nothing for it now: an empty answer, so that it knows that it may rest.
        if let at = queue.sessions.firstIndex(where: { $0.address == address }), queue.sessions[at].wants > 0 {
            owner.send(.leases(address.token, key, []), to: address.core)
        }
    }

    func sessionEnded(_ key: QueueKey, _ address: SessionAddress, _ end: SessionEnd) {
        guard let queue = find(key) else { return }
        if let at = queue.sessions.firstIndex(where: { $0.address == address }) {
            queue.sessions.remove(at: at)
        } else {
            queue.opening -= 1
            queue.staleOpening = min(queue.staleOpening, queue.opening)
        }
        switch end {
        case .done: break
        case .notNow: queue.pausedUntil = reactor.now + Limits.nanosecondsPerSecond
        case .lost(let reply):
            queue.lastReply = reply.description
            queue.health.brokeOff(reply.description)
        case .unreachable(let reply):
            queue.isFlushing = false
            queue.lastReply = reply.description
            if queue.health.failed(reply.description, now: reactor.now, jitter: reactor.backend.random()) {
                log.health(queue.route.gateway.domain, queue.health.state.word, reply.description)
            }
            expireOldest(queue, reply)
        case .noNextHop(let why):
            queue.isFlushing = false
            queue.lastReply = why
            if queue.health.foundNoNextHop(why, now: reactor.now) {
                log.health(queue.route.gateway.domain, queue.health.state.word, why)
            }
        case .refused(let reply):
            queue.isFlushing = false
            queue.lastReply = reply.description
            // As if it were down, so that a long queue bounces in portions.
            _ = queue.health.failed(reply.description, now: reactor.now, jitter: reactor.backend.random())
            bounceAll(queue, reply)
        }
        pump(queue)
    }
}
