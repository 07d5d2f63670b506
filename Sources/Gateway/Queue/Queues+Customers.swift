import Protocols
import Reactor

/// What a customer's session asks of his gateway's home.
enum FromCustomerSession: Sendable {
    /// A POP3 session wants the maildrop for itself (RFC 1939 §4).
    case openMailbox
    /// A parcel for taking away.
    case take(ParcelReference)
    /// A parcel to look at.
    case look(ParcelReference)
    /// How much waits, for an ATRN.
    case count
    /// An ETRN that was granted: all that waits is to go, to `hop` where the gateway says so.
    case summon(Route?)
    /// The session has ended; its settlements came before.
    case ended
}

/// What it hears from there.
enum ToCustomerSession: Sendable {
    case mailbox([MailboxItem])
    case refused(CustomerRefusal)
    case parcel(Lease)
    /// To look at: it is not on loan.
    case shown(Lease)
    case parcelRefused(CustomerRefusal)
    /// Messages that wait.
    case waiting(Int)
    /// That many of its settlements are synced.
    case credit(Int)
}

enum CustomerRefusal: Sendable {
    /// Another session has it, or another way out.
    case inUse
    /// It has left meanwhile, or there is no such mailbox any more.
    case gone
    /// Recovery is listing, the gateway is on hold, or being deleted.
    case notNow
}

/// A message as a mailbox shows it.
struct MailboxItem: Sendable {
    let reference: ParcelReference
    let id: QueueID
    /// As it is presented: the envelope before the content (`MailboxPrefix`), and the content.
    let size: Int
    /// Recipients that have it by another way. What is shown of a message depends on them, and so does its unique id.
    let settled: Int
}

/// The mailbox of a gateway (POP3): listing and leases, at its home.
extension Queues {
    /// Messages of one maildrop, oldest first; the rest comes when these have gone.
    private static let mailboxMax = 100_000
    private static let loadedAtOnce = 64

    func customer(_ key: QueueKey, _ address: SessionAddress, _ what: FromCustomerSession, _ routes: Routes) {
        switch what {
        case .openMailbox: openMailbox(key, address, routes)
        case .take(let reference): answer(key, address, take(key, address, reference, leases: true))
        case .look(let reference): answer(key, address, take(key, address, reference, leases: false))
        case .count:
            guard let queue = queue(key, routes), !queue.isListing else {
                // What is being listed may be mail.
                return answer(key, address, .refused(.notNow))
            }
            guard !queue.sessions.contains(where: \.isTurned) else {
                return answer(key, address, .refused(.inUse))
            }
            answer(key, address, .waiting(queue.mayBeTaken ? queue.queued : 0))
        case .summon(let route): summon(key, address, route, routes)
        case .ended:
            guard let queue = find(key), queue.mailboxHolder == address else { return }
            queue.mailboxHolder = nil
            pump(queue)
        }
    }

    /// One run at a time: while one is under way the answer is the same, and nothing is begun again.
    private func summon(_ key: QueueKey, _ address: SessionAddress, _ route: Route?, _ routes: Routes) {
        guard let queue = queue(key, routes), queue.mayBeTaken || queue.isListing else {
            return answer(key, address, .refused(.notNow))
        }
        answer(key, address, .waiting(queue.queued))
        guard !queue.isFlushing else { return }
        queue.contactRoute = route
        queue.releaseAll()
        queue.health.tryNow()
        queue.isFlushing = queue.queued > 0 || queue.isListing
        pump(queue)
    }

    private func answer(_ key: QueueKey, _ address: SessionAddress, _ answer: ToCustomerSession) {
        owner.send(.toCustomer(address.token, key, answer), to: address.core)
    }

    /// nil: it may be opened now.
    private func refusal(of queue: GatewayQueue) -> CustomerRefusal? {
        guard queue.route.gateway.dequeue.mailbox != nil else { return .gone }
        if queue.isListing || queue.route.gateway.isHeld || queue.route.store.isClosing || isStopping { return .notNow }
        return nil
    }

    private func openMailbox(_ key: QueueKey, _ address: SessionAddress, _ routes: Routes) {
        guard let queue = queue(key, routes) else { return answer(key, address, .refused(.gone)) }
        if let refusal = refusal(of: queue) { return answer(key, address, .refused(refusal)) }
        guard queue.mailboxHolder == nil else { return answer(key, address, .refused(.inUse)) }
        queue.mailboxHolder = address
        var found: [(reference: ParcelReference, id: QueueID)] = []
        walkParcels { [self] reference in
            if index[reference].queue == queue.number { found.append((reference, index[reference].id)) }
            return true
        } then: { [self] in
            found.sort { $0.id < $1.id }
            let references = found.prefix(Self.mailboxMax).map(\.reference)
            items(references[...], [], queue) { [self] items in
                queue.mailboxPrefixes = queue.mailboxPrefixes.filter { slot, known in
                    index.holds(ParcelReference(slot: slot, generation: known.generation))
                }
                guard queue.mailboxHolder == address else { return }
                answer(key, address, .mailbox(items))
            }
        }
    }

    /// Envelopes are read from the files once, a few at a time and some in one callback.
    private func items(
        _ references: ArraySlice<ParcelReference>, _ before: [MailboxItem], _ queue: GatewayQueue,
        then: @escaping ([MailboxItem]) -> Void
    ) {
        let now = references.prefix(Self.loadedAtOnce).filter { index.holds($0) }
        let rest = references.dropFirst(Self.loadedAtOnce)
        var loaded: [MailboxItem] = []
        var left = now.count
        let proceed = { [self] in
            loaded.sort { $0.id < $1.id }
            let all = before + loaded
            if rest.isEmpty { return then(all) }
            owner.nextTurn { [self] in items(rest, all, queue, then: then) }
        }
        if left == 0 { return proceed() }
        for reference in now {
            item(reference, queue, triesLeft: 3) { item in
                if let item { loaded.append(item) }
                left -= 1
                if left == 0 { proceed() }
            }
        }
    }

    /// - Parameter then: nil: it has left, or can't be read now.
    private func item(
        _ reference: ParcelReference, _ queue: GatewayQueue, triesLeft: Int, then: @escaping (MailboxItem?) -> Void
    ) {
        let entry = index[reference]
        if !entry.hasState, let known = queue.mailboxPrefixes[reference.slot], known.generation == reference.generation
        {
            return then(
                MailboxItem(reference: reference, id: entry.id, size: known.bytes + entry.bytes, settled: 0))
        }
        owner.load(queue.route.store, view(reference), contentMaxBytes: 0) { [self] loaded in
            guard index.holds(reference) else { return then(nil) }
            switch loaded {
            case .success(let parcel):
                let bytes = parcel.mailboxPrefix.count
                if parcel.state.settled.isEmpty {
                    queue.mailboxPrefixes[reference.slot] = (reference.generation, bytes)
                }
                then(
                    MailboxItem(
                        reference: reference, id: entry.id, size: bytes + entry.bytes,
                        settled: parcel.state.settled.count))
            case .failure(.moved) where triesLeft > 1: item(reference, queue, triesLeft: triesLeft - 1, then: then)
            case .failure(.damaged(let why)):
                if index[reference].state != .leased {
                    _ = lease(reference, queue)
                    let result = Settlement.Result.damaged(why)
                    settle(
                        queue.key, nil,
                        [Settlement(slot: reference.slot, generation: reference.generation, result: result)])
                }
                then(nil)
            case .failure: then(nil)
            }
        }
    }

    private func take(
        _ key: QueueKey, _ address: SessionAddress, _ reference: ParcelReference, leases: Bool
    ) -> ToCustomerSession {
        guard let queue = find(key), queue.mailboxHolder == address, index.holds(reference),
            index[reference].queue == queue.number
        else { return .parcelRefused(.gone) }
        if let refusal = refusal(of: queue) { return .parcelRefused(refusal) }
        guard leases else { return .shown(view(reference)) }
        switch index[reference].state {
        case .ready, .deferred: return .parcel(lease(reference, queue))
        case .leased, .free: return .parcelRefused(.inUse)
        }
    }

    /// A lease that came to nothing: the parcel waits as it did before.
    func giveBack(_ reference: ParcelReference, _ queue: GatewayQueue) {
        queue.leased -= 1
        let due = index[reference].nextTrySeconds
        if due > seconds {
            index[reference].state = .deferred
            queue.defer(reference, until: due)
        } else {
            index[reference].state = .ready
            queue.putBack(reference)
        }
    }
}

extension LoadedParcel {
    /// What a mailbox shows before the content: for those who don't have it yet.
    var mailboxPrefix: MailboxPrefix {
        MailboxPrefix(
            reversePath: envelope.reversePath,
            recipients: envelope.recipients.indices.filter { !state.settled.contains($0) }
                .map { envelope.recipients[$0].path })
    }
}
