import Protocols
import Reactor

/// What administrators ask of the queues.
extension Queues {
    func answer(_ request: CoreRequest) {
        let answer = request.answer
        switch request.what {
        case .list(let gatewayID, let limit): list(gatewayID, limit, answer)
        case .flush(let gatewayID): flush(gatewayID, answer)
        case .find(let id): find(id) { [self] in describe($0, answer) }
        case .delete(let id): find(id) { [self] in answer(end($0, id, bounces: false)) }
        case .bounce(let id): find(id) { [self] in answer(end($0, id, bounces: true)) }
        case .export(let id): find(id) { [self] in export($0.first, answer) }
        case .drop(let gatewayID, let only): drop(gatewayID, only, bounces: false, answer)
        case .bounceAll(let gatewayID): drop(gatewayID, nil, bounces: true, answer)
        case .resume(let gatewayID): resume(gatewayID, answer)
        case .health: health(answer)
        }
    }

    typealias Answer = @Sendable (CoreAnswer) -> Void

    // MARK: Looking

    private func health(_ answer: @escaping Answer) {
        var all: [QueueHealth] = []
        walkQueues { [self] queue in
            all.append(health(queue))
            return true
        } then: {
            answer(.health(all))
        }
    }

    private func health(_ queue: GatewayQueue) -> QueueHealth {
        QueueHealth(
            domain: queue.route.gateway.domain, destination: queue.key.destination,
            state: queue.holdReason == "held" ? "held" : queue.health.state.word,
            detail: queue.holdReason ?? (queue.health.detail.isEmpty ? queue.lastReply ?? "" : queue.health.detail),
            queued: queue.queued, bytes: queue.queuedBytes, sessions: queue.sessions.count + queue.opening,
            oldest: oldest(queue))
    }

    /// Of the ready ones, which keep their order of arrival.
    private func oldest(_ queue: GatewayQueue) -> Double? {
        queue.peekReady(index).map { Double(index[$0].id.milliseconds) / 1_000 }
    }

    private func list(_ gatewayID: UInt64?, _ limit: Int, _ answer: @escaping Answer) {
        var references: [ParcelReference] = []
        walkParcels { [self] reference in
            if gatewayID == nil || queue(of: reference).key.gatewayID == gatewayID {
                references.append(reference)
            }
            return references.count < limit
        } then: { [self] in
            describe(references, answer)
        }
    }

    /// A message's parcels.
    private func find(_ id: QueueID, then: @escaping ([ParcelReference]) -> Void) {
        var found: [ParcelReference] = []
        walkParcels { [self] reference in
            if index[reference].id == id { found.append(reference) }
            return true
        } then: { [self] in
            then(found.filter { index.holds($0) && index[$0].id == id })
        }
    }

    /// Envelopes are read from the files, a few at a time and some in one callback.
    private func describe(_ references: [ParcelReference], _ answer: @escaping Answer) {
        describe(references[...], []) { answer(.queued($0)) }
    }

    private static let describedAtOnce = 64

    private func describe(
        _ references: ArraySlice<ParcelReference>, _ before: [QueuedMessage], then: @escaping ([QueuedMessage]) -> Void
    ) {
        // One may have left before its turn, or while its file is read.
        let now = references.prefix(Self.describedAtOnce).filter { index.holds($0) }
        let rest = references.dropFirst(Self.describedAtOnce)
        var described = before
        var left = now.count
        let proceed = { [self] in
            if rest.isEmpty { return then(described) }
            // Hot parcels answer at once: never from within, so that the stack does not grow with the list.
            owner.nextTurn { [self] in describe(rest, described, then: then) }
        }
        if left == 0 { return proceed() }
        for reference in now {
            let queue = queue(of: reference)
            owner.load(queue.route.store, view(reference), contentMaxBytes: 0) { [self] loaded in
                if index.holds(reference) { described.append(message(index[reference], queue, try? loaded.get())) }
                left -= 1
                if left == 0 { proceed() }
            }
        }
    }

    /// To look at a parcel without taking it.
    func view(_ reference: ParcelReference) -> Lease {
        let entry = index[reference]
        return Lease(
            slot: reference.slot, generation: reference.generation, id: entry.id, bytes: entry.bytes, hot: entry.hot,
            hasState: entry.hasState, place: entry.place)
    }

    private func message(_ entry: ParcelIndex.Entry, _ queue: GatewayQueue, _ parcel: LoadedParcel?) -> QueuedMessage {
        let recipients = parcel?.envelope.recipients.enumerated()
            .filter { !(parcel?.state.settled.contains($0.offset) ?? false) }.map(\.element.path)
        let state: QueuedMessage.State
        if queue.isKeptHeld || queue.route.gateway.isHeld {
            state = .held
        } else {
            switch entry.state {
            case .leased, .free: state = .active
            case .deferred: state = .deferred
            case .ready: state = queue.health.waitsUntil(reactor.now) == nil ? .queued : .deferred
            }
        }
        var next: Double?
        if state == .deferred {
            let instant =
                entry.state == .deferred
                ? UInt64(entry.nextTrySeconds) * Limits.nanosecondsPerSecond
                : queue.health.waitsUntil(reactor.now) ?? reactor.now
            next = Double(reactor.wall + Int64(instant) - Int64(reactor.now)) / 1e9
        }
        return QueuedMessage(
            id: entry.id.description, domain: queue.route.gateway.domain, from: parcel?.envelope.reversePath ?? "",
            recipients: recipients ?? [], bytes: entry.bytes, receivedAt: Double(entry.id.milliseconds) / 1_000,
            state: state, attempts: Int(entry.attempts), nextAttempt: next,
            lastReply: entry.attempts > 0 || queue.health.isDown || queue.health.hasNoNextHop ? queue.lastReply : nil)
    }

    private func export(_ reference: ParcelReference?, _ answer: @escaping Answer) {
        guard let reference else { return answer(.notFound) }
        let entry = index[reference]
        owner.load(queue(of: reference).route.store, view(reference), contentMaxBytes: entry.bytes) { loaded in
            switch loaded {
            case .success(let parcel): answer(.content(parcel.prefix))
            case .failure(.damaged(let why)): answer(.busy("the message can't be exported: \(why)"))
            case .failure(.unreadable(let fault)): answer(.busy("the message can't be read now (error \(fault))"))
            case .failure(.moved): answer(.busy("the message is being moved just now; try again in a moment"))
            }
        }
    }

    // MARK: Changing

    /// Everything that waits may go now, whatever retry, health or `onContact` say; never against a hold.
    private func flush(_ gatewayID: UInt64?, _ answer: @escaping Answer) {
        var count = 0
        walkQueues { [self] queue in
            guard gatewayID == nil || queue.key.gatewayID == gatewayID else { return true }
            queue.releaseAll()
            queue.health.tryNow()
            queue.isFlushing = true
            count += queue.queued
            pump(queue)
            return true
        } then: {
            answer(.done(count))
        }
    }

    private func end(_ references: [ParcelReference], _ id: QueueID, bounces: Bool) -> CoreAnswer {
        guard !references.isEmpty else { return .notFound }
        for reference in references where index[reference].state == .leased {
            return .busy("\(id) is being handed over just now; try again in a moment")
        }
        for reference in references where index.holds(reference) && index[reference].state != .leased {
            end(reference, bounces: bounces)
        }
        return .done(references.count)
    }

    private func end(_ reference: ParcelReference, bounces: Bool) {
        let queue = queue(of: reference)
        if bounces {
            bounce(
                reference, queue, Reply(550, EnhancedStatus(5, 7, 1), "Returned by the administrator"), isFinal: true,
                "bounced")
        } else {
            log.removed(index[reference].id, domain: queue.route.gateway.domain, why: "deleted by the administrator")
            leave(reference, queue, credit: nil)
        }
    }

    /// Ends that one callback takes.
    private static let endsAtOnce = 500

    /// All mail of a gateway that is being deleted.
    private func drop(_ gatewayID: UInt64, _ only: Set<QueueID>?, bounces: Bool, _ answer: @escaping Answer) {
        var count = 0
        walkParcels(atOnce: Self.endsAtOnce) { [self] reference in
            if index[reference].state != .leased, queue(of: reference).key.gatewayID == gatewayID,
                only?.contains(index[reference].id) ?? true
            {
                end(reference, bounces: bounces)
                count += 1
            }
            // Each bounce reads a file and writes a notice: the rest when it is asked for again.
            return !bounces || count < Self.endsAtOnce
        } then: {
            answer(.done(count))
        }
    }

    private func resume(_ gatewayID: UInt64, _ answer: @escaping Answer) {
        walkQueues { [self] queue in
            if queue.key.gatewayID == gatewayID { pump(queue) }
            return true
        } then: {
            answer(.done(0))
        }
    }
}
