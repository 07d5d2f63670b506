import Glibc
import Reactor

/// Brings one mail directory's files back into the queue at start (design rule M11): lists, drops `.part` files of earlier starts,
/// counts the quota, syncs what it will rely on, and only then lets anything be leased. SMTP is open meanwhile.
///
/// It is idempotent, and a crash during itself changes nothing that the next one relies on.
final class Recovery {
    private unowned let core: Core
    private let store: Store
    private var names: [String] = []
    private var at = 0
    /// The name before `at`.
    private var before = ""
    private var found = 0
    private var bytes = 0

    /// Names taken in one go, so that a directory of a million files doesn't hold the reactor.
    private static let namesPerSlice = 500

    init(core: Core, store: Store) { (self.core, self.store) = (core, store) }

    private var key: QueueKey { QueueKey(gatewayID: store.gatewayID) }

    func start() { StrandedMail(core: core, store: store).bringBack { [self] in list() } }

    private func list() {
        core.calls.run([.list(store.directory)], on: .bulk, of: store) { [self] outcomes in
            guard outcomes[0].isDone else {
                core.log.alarm(
                    "recovery-failed", gateway: store.domain,
                    "its mail directory can't be listed (\(String(cString: strerror(outcomes[0].fault)))); tried again")
                return core.recoverLater(self)
            }
            // Sorted by the lane: ids sort by age, and a message's state (`.`) stands behind its file (`-`).
            names = outcomes[0].names
            sync()
        }
    }

    /// What was written before a crash of the process alone may not be on disk yet, nor gone from it what was unlinked.
    ///
    /// A message whose unlink was not synced would come back with the next power loss; its state file, which by then is seen
    /// without a message and unlinked, might not: those who had it long ago would get it again.
    private func sync() {
        core.calls.run([.syncFileSystem(store.directory)], on: .bulk, of: store) { [self] outcomes in
            if !outcomes[0].isDone {
                core.log.alarm(
                    "recovery-failed", gateway: store.domain,
                    "its file system can't be synced (\(String(cString: strerror(outcomes[0].fault)))); tried again")
                return core.recoverLater(self)
            }
            slice()
        }
    }

    private func slice() {
        var doomed: [FileStep] = []
        var suspects: [(id: QueueID, contentBytes: Int, hasState: Bool)] = []
        let end = min(at + Self.namesPerSlice, names.count)
        while at < end {
            let name = names[at]
            // A million names go one by one, not all in one callback.
            names[at] = ""
            at += 1
            defer { before = name }
            switch MailFile.entry(name) {
            case .message(let id, let contentBytes):
                // This run's own files were announced when they were committed.
                guard id.start != core.startNumber else { continue }
                if id.start >= core.firstStartOfThisBoot, id.start < core.startNumber {
                    suspects.append((id, contentBytes, hasState(id)))
                } else {
                    take(id, contentBytes, hasState: hasState(id))
                }
            case .part(let id):
                guard id?.start != core.startNumber else { continue }
                doomed.append(.unlink(in: store.directory, name: name))
            case .state(let id):
                // Its message has left; a power loss kept only this.
                if id.start != core.startNumber, !followsItsMessage(id) {
                    doomed.append(.unlink(in: store.directory, name: name))
                }
            case .damaged, .head, .foreign: break
            }
        }
        examine(suspects, doomed)
    }

    /// What an earlier start of this boot wrote before it was killed may be cut off: then it was never promised.
    private func examine(_ suspects: [(id: QueueID, contentBytes: Int, hasState: Bool)], _ doomed: [FileStep]) {
        let looks = suspects.map { suspect in
            FileStep.readStart(
                in: store.directory, name: MailFile.name(suspect.id, contentBytes: suspect.contentBytes),
                length: MailFile.firstLineBytes)
        }
        core.calls.run(looks, on: .bulk, of: store, stopsAtFailure: false) { [self] outcomes in
            var doomed = doomed
            for (suspect, outcome) in zip(suspects, outcomes) {
                if outcome.isDone, MailFile.isCutOff(outcome.data, fileBytes: outcome.second) {
                    core.log.note(
                        .notice, "unpromised", "\(suspect.id) in \(store.domain) was cut off before its 250; dropped")
                    doomed.append(
                        .unlink(
                            in: store.directory, name: MailFile.name(suspect.id, contentBytes: suspect.contentBytes)))
                } else {
                    take(suspect.id, suspect.contentBytes, hasState: suspect.hasState)
                }
            }
            core.calls.run(doomed, on: .bulk, of: store, stopsAtFailure: false) { [self] _ in
                if at < names.count { slice() } else { finish() }
            }
        }
    }

    /// `at` stands behind the message's own name.
    private func hasState(_ id: QueueID) -> Bool {
        at < names.count && names[at] == MailFile.stateName(id)
    }

    private func followsItsMessage(_ id: QueueID) -> Bool {
        guard case .message(id, _) = MailFile.entry(before) else { return false }
        return true
    }

    private func take(_ id: QueueID, _ contentBytes: Int, hasState: Bool) {
        found += 1
        bytes += contentBytes
        _ = store.charge(contentBytes, nil)
        enqueue(id, contentBytes, hasState: hasState)
    }

    private func enqueue(_ id: QueueID, _ contentBytes: Int, hasState: Bool) {
        // A gateway that is deleted while it is being listed keeps its files: they are renamed aside.
        guard let route = core.routes.route(forID: store.gatewayID) else { return store.discharge(contentBytes) }
        let announcement = Announcement(key: key, route: route, id: id, bytes: contentBytes, hot: nil)
        guard store.gatewayID == Gateway.systemID else {
            return core.queues.enqueue(announcement, hasState: hasState, isRecovered: true, core.routes)
        }
        // Mail of our own waits by destination, which only its envelope knows.
        let lease = Lease(slot: -1, generation: 0, id: id, bytes: contentBytes, hot: nil, hasState: false)
        core.load(store, lease, contentMaxBytes: 0) { [self] loaded in
            var destination = Queues.keptDestination
            switch loaded {
            case .success(let parcel):
                if parcel.envelope.recipients[0].domain != nil {
                    destination = core.systemDestination(parcel.envelope.recipients[0].path)
                }
            case .failure(.unreadable), .failure(.moved):
                // Not now; it must not be taken for mail that is only kept.
                return core.later { [self] in enqueue(id, contentBytes, hasState: hasState) }
            case .failure(.damaged(let why)):
                // Torn by a power loss before it was promised: nobody could ever tell whom it is for.
                return core.queues.setAside(id, contentBytes, in: store, why)
            }
            core.queues.enqueue(
                Announcement(
                    key: QueueKey(gatewayID: Gateway.systemID, destination: destination), route: route, id: id,
                    bytes: contentBytes, hot: nil), hasState: hasState, isRecovered: true, core.routes)
        }
    }

    private func finish() {
        store.state.store(.ready, ordering: .relaxed)
        if found > 0 {
            core.log.note(.info, "recovered", "\(store.domain): \(found) messages, \(bytes) bytes")
        }
        core.recovered(store)
        core.queues.setListing(key, false, core.routes)
    }
}
