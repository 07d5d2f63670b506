import Protocols

/// What an attempt that was not plain success means for each recipient: who has the message, who failed, who waits, and who is told
/// (RFC 3461 §5.2, RFC 5321 §6.1).
struct Verdict {
    var state: ParcelState
    private(set) var failed: [(Int, RecipientOutcome)] = []
    private(set) var delayed: [(Int, RecipientOutcome)] = []
    private(set) var relayed: [(Int, RecipientOutcome)] = []
    private(set) var waiting = 0
    private(set) var isProgress = false
    var isOver: Bool { waiting == 0 }

    /// - Parameters:
    ///   - isExpired: what waits on has waited long enough.
    ///   - isLate: a sender who asks for it hears that it waits.
    init(_ parcel: SettledParcel, isExpired: Bool, isLate: Bool) {
        state = parcel.state
        for (at, outcome) in parcel.outcomes.enumerated() {
            guard let outcome else { continue }
            let notify = parcel.envelope.recipients[at].notifyConditions
            if outcome.reply.isPositive {
                isProgress = true
                state.settled.append(at)
                if let notify, notify.contains(.success), !outcome.isDSNPassedOn { relayed.append((at, outcome)) }
            } else if outcome.reply.isPermanent || parcel.isFinal || isExpired {
                state.settled.append(at)
                failed.append((at, outcome))
            } else {
                waiting += 1
                if isLate, !parcel.state.delayNoticeSent, notify == nil || notify!.contains(.delay) {
                    delayed.append((at, outcome))
                }
            }
        }
        state.settled.sort()
        if !delayed.isEmpty { state.delayNoticeSent = true }
    }

    /// What the sender is owed. Never about a notice (RFC 5321 §6.1, T-E3).
    func notices(_ id: QueueID, _ parcel: SettledParcel) -> [Notice] {
        guard !parcel.envelope.reversePath.isEmpty else { return [] }
        let wantsFailure = { (at: Int) in
            parcel.envelope.recipients[at].notifyConditions.map { $0.contains(.failure) } ?? true
        }
        let all: [(DeliveryStatusNotification.Kind, [(Int, RecipientOutcome)])] = [
            (.failed, failed.filter { wantsFailure($0.0) }), (.relayed, relayed), (.delayed, delayed),
        ]
        return all.filter { !$0.1.isEmpty }.map { Notice(kind: $0.0, id: id, parcel: parcel, about: $0.1) }
    }
}
