import Glibc
import Reactor

/// What becomes of mail directories whose disk fails, hangs or fills up (design rules M5 and M10).
extension Core {
    /// Design rule M5: after a second failed commit in a row the mail directory is failed, until a trial gets through.
    ///
    /// - Parameter consequence: what becomes of the message.
    func noteFailure(
        _ fault: CommitFault, _ id: QueueID, _ consequence: String = "the sender was told to try again"
    ) {
        let store = fault.store
        if fault.isJournal {
            return log.note(
                .warning, "refused", "\(id): the journal could not be written; \(consequence)")
        }
        if let commit = fault.commit.map({ $0 << 16 | UInt64(index) }),
            store.lastFailedCommit.exchange(commit, ordering: .relaxed) == commit
        {
            return
        }
        log.alarm(
            fault.wasSync ? "sync-failed" : "write-failed", gateway: store.domain, id: id,
            "\(String(cString: strerror(fault.fault))); \(consequence)")
        guard !fault.isFull else { return }
        if store.failuresInARow.add(1, ordering: .relaxed).newValue >= 2, store.state.load(ordering: .relaxed) == .ready
        {
            store.state.store(.failed, ordering: .relaxed)
            log.alarm(
                "store-failed", gateway: store.domain,
                "two commits in a row failed: no mail is accepted for it until a trial file gets through")
        }
    }

    /// Failed mail directories are tried every few seconds.
    func tryFailedStores() {
        for id in routes.ids where Routes.home(of: id, reactors: count) == index {
            guard let store = routes.route(forID: id)?.store, store.state.load(ordering: .relaxed) == .failed,
                trying.insert(id).inserted
            else { continue }
            // One that a crash leaves goes with the next start, as every `.part`.
            let name = "\(ids.next(wall: reactor.wall)).part"
            calls.run(
                [
                    .create(in: store.directory, name: name, []), .syncFileSystem(store.directory),
                    .unlink(in: store.directory, name: name), .syncFileSystem(store.directory),
                ], on: .bulk, of: store
            ) { [self] outcomes in
                trying.remove(id)
                guard outcomes.allSatisfy(\.isDone) else { return }
                store.failuresInARow.store(0, ordering: .relaxed)
                store.state.store(.ready, ordering: .relaxed)
                log.note(.notice, "store-works-again", store.domain)
            }
        }
    }

    func noteHangs() {
        for (device, isHanging) in spool.hangs() {
            let domain = routes.store(on: device)?.domain ?? ""
            guard isHanging else {
                log.note(.notice, "disk-works-again", "the file system of \(domain) answers again")
                continue
            }
            log.alarm(
                "disk-hangs", gateway: domain,
                "a commit on its file system takes longer than \(Limits.hangNanoseconds / Limits.nanosecondsPerSecond) s: its gateways' mail gets 451 until the disk answers"
            )
        }
    }

    func measureSpace() {
        for device in routes.devices {
            guard let store = routes.store(on: device), measuring.insert(device.id).inserted else { continue }
            calls.run([.space(store.directory)], on: .bulk, of: store) { [self] outcomes in
                measuring.remove(device.id)
                guard outcomes[0].isDone else { return }
                device.freeBytes.store(outcomes[0].value, ordering: .relaxed)
                device.freeInodes.store(outcomes[0].second, ordering: .relaxed)
            }
        }
    }
}
