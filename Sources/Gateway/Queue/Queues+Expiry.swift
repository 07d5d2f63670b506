import Protocols
import Reactor

/// What ends without an attempt of its own.
extension Queues {
    /// The primary is down: what is past its lifetime bounces with the connection's failure, and of what is late the sender hears
    /// once. A parcel bounces only after a failed attempt in this run, so a clock that was wrong at boot expires nothing by
    /// itself (T-G1).
    func expireOldest(_ queue: GatewayQueue, _ reply: Reply) {
        clock.look(now: reactor.now, wall: reactor.wall, log)
        guard clock.isTrusted else { return }
        let gateway = queue.route.gateway
        let now = reactor.wall / 1_000_000
        let expired = gateway.retry.lifetimeSeconds.map { now - Int64($0) * 1_000 } ?? .min
        let late = gateway.delivery == .immediately ? now - Int64(Notice.delayedAfterSeconds) * 1_000 : .min
        for reference in queue.lookAtReady(Self.expiriesPerFailure)
        where index.holds(reference) && index[reference].state == .ready {
            let accepted = index[reference].id.milliseconds
            if accepted <= expired {
                bounce(reference, queue, reply, isFinal: false, "bounced")
            } else if accepted <= late, !index[reference].delayNoticeSent {
                // Told or not (NOTIFY decides), it isn't looked at again.
                index[reference].delayNoticeSent = true
                bounce(reference, queue, reply, isFinal: false, "deferred")
            }
        }
    }

    /// Parcels that one failed attempt looks at, or ends.
    private static let expiriesPerFailure = 256

    func bounceAll(_ queue: GatewayQueue, _ reply: Reply) {
        for _ in 0..<Self.expiriesPerFailure {
            guard let reference = queue.takeReady(index) else { return }
            bounce(reference, queue, reply, isFinal: true, "bounced")
        }
    }

    /// Reads the envelope and settles all that is left of the parcel with `reply`.
    func bounce(
        _ reference: ParcelReference, _ queue: GatewayQueue, _ reply: Reply, isFinal: Bool, _ outcome: StaticString
    ) {
        let lease = lease(reference, queue)
        owner.load(queue.route.store, lease, contentMaxBytes: Notice.originalMaxBytes) { [self] loaded in
            let result: Settlement.Result
            switch loaded {
            case .success(let parcel):
                let outcomes = parcel.envelope.recipients.indices.map { at in
                    parcel.state.settled.contains(at)
                        ? nil : RecipientOutcome(reply: reply, remoteMTA: nil, isDSNPassedOn: false)
                }
                for (at, recipient) in parcel.envelope.recipients.enumerated() where outcomes[at] != nil {
                    log.attempt(
                        lease.id, to: recipient.path, domain: queue.route.gateway.domain, relay: "none",
                        delayMilliseconds: reactor.wall / 1_000_000 - lease.id.milliseconds, outcome: outcome,
                        reply: reply)
                }
                result = .mixed(
                    SettledParcel(
                        envelope: parcel.envelope, state: parcel.state, outcomes: outcomes, original: parcel.prefix,
                        isWhole: parcel.isWhole, isFinal: isFinal))
            case .failure(.damaged(let why)): result = .damaged(why)
            case .failure(.unreadable(let fault)): result = .unreadable(fault)
            case .failure(.moved): result = .released
            }
            settle(queue.key, nil, [Settlement(slot: lease.slot, generation: lease.generation, result: result)])
        }
    }
}
