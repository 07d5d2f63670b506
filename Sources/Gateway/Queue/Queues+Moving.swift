import DequeModule
import Protocols
import Reactor

/// A parcel's way out of a journal into its mail directory: because its segment is to be used again, or because there is
/// something to remember of it (who has it already).
///
/// ```text
/// [state file, synced ▶] file, synced ▶ its end in the journal, synced ▶ the file is where it lives
/// ```
///
/// Whoever may have it on loan keeps it. Its own end, when that comes meanwhile, waits until the move is over: else a start after a
/// crash would find the file of a parcel that has gone, or the record of one whose file has. A move that failed is over when what it
/// may have left in the mail directory is gone for good.
extension Queues {
    /// What waits for the end of a move, in order.
    final class Move {
        var waiting: [() -> Void] = []
    }

    /// Moves at a time, of those that a journal asks for.
    private static let movesMax = 128

    // MARK: A journal asks

    /// All parcels in the journal of reactor `core` up to a generation are to be moved.
    func moveOut(core: Int, through generation: UInt64) {
        guard walking.insert(core).inserted else { return }
        walkParcels { [self] reference in
            let entry = index[reference]
            if !entry.place.isNone, entry.place.core == core, entry.place.generation <= generation, !entry.isMoving {
                toMove.append(reference)
            }
            return true
        } then: { [self] in
            walking.remove(core)
            moveNext()
        }
    }

    private func moveNext() {
        while moves.count - clearing < Self.movesMax, let reference = toMove.popFirst() {
            guard index.holds(reference), !index[reference].place.isNone, !index[reference].isMoving else { continue }
            move(reference) { _ in }
        }
    }

    // MARK: One parcel

    /// - Parameter then: with whether it is in its mail directory now; the parcel may have gone then.
    func move(_ reference: ParcelReference, then: @escaping (Bool) -> Void) {
        let queue = queue(of: reference)
        index[reference].isMoving = true
        moves[reference.slot] = Move()
        owner.load(queue.route.store, view(reference), contentMaxBytes: Limits.memoryMessageBytes) { [self] loaded in
            switch loaded {
            case .success(let parcel):
                guard let content = parcel.content else { preconditionFailure("a journal's parcel is read whole") }
                owner.store(
                    index[reference].id, content, queue.route, parcel.envelope, queue.key.destination
                ) { [self] isStored in
                    isStored ? leaveJournal(reference, then) : clearAway(reference, then)
                }
            case .failure(.damaged(let why)):
                moveEnded(reference, false, then)
                if index.holds(reference), index[reference].state != .leased {
                    _ = lease(reference, queue)
                    settle(
                        queue.key, nil,
                        [
                            Settlement(
                                slot: reference.slot, generation: reference.generation, result: .damaged(why))
                        ])
                }
            case .failure: moveEnded(reference, false, then)
            }
        }
    }

    /// A file that is there all the same would outlive the record, and the next start would send it again.
    private func clearAway(_ reference: ParcelReference, _ then: @escaping (Bool) -> Void) {
        clearing += 1
        owner.clear(queue(of: reference).route.store, index[reference].id, index[reference].bytes) { [self] in
            clearing -= 1
            moveEnded(reference, false, then)
        }
        moveNext()
    }

    /// The file is durable: now its record ends.
    private func leaveJournal(_ reference: ParcelReference, _ then: @escaping (Bool) -> Void) {
        let entry = index[reference]
        departures[reference.slot] = then
        owner.end(
            JournalEnd(
                place: entry.place, id: entry.id, store: queue(of: reference).route.store, bytes: entry.bytes,
                purpose: .moved(home: core, reference)))
    }

    /// The record's end is durable.
    func moved(_ reference: ParcelReference) {
        guard let then = departures.removeValue(forKey: reference.slot) else {
            preconditionFailure("a parcel was moved that did not move")
        }
        index[reference].place = .none
        moveEnded(reference, true, then)
    }

    private func moveEnded(_ reference: ParcelReference, _ isMoved: Bool, _ then: (Bool) -> Void) {
        index[reference].isMoving = false
        let waiting = moves.removeValue(forKey: reference.slot)?.waiting ?? []
        then(isMoved)
        for body in waiting { body() }
        moveNext()
    }

    /// Runs `body` when the parcel is not on its way between journal and mail directory; false: that is now.
    func waitsForMove(_ reference: ParcelReference, _ body: @escaping () -> Void) -> Bool {
        guard index[reference].isMoving, let move = moves[reference.slot] else { return false }
        if index[reference].state != .leased { _ = lease(reference, queue(of: reference)) }
        move.waiting.append(body)
        return true
    }
}
