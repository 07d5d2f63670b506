import Glibc
import Protocols
import Reactor

/// What homes and journals ask of one another, and of the disk.
extension Core {
    /// Home: a parcel's end goes to the journal that has it.
    func end(_ end: JournalEnd) {
        if end.place.core == index { spool.journal?.end(end) } else { send(.end(end), to: end.place.core) }
    }

    /// A parcel's end in this journal is durable.
    func ended(_ end: JournalEnd) {
        end.store.device.unreserve(end.bytes)
        switch end.purpose {
        case .settled(let credit):
            end.store.discharge(end.bytes)
            if let credit { send(.credit(credit.session, 1), to: credit.core) }
        case .moved(let home, let reference):
            end.store.device.took(end.bytes)
            counters.journalMoved.add(1, ordering: .relaxed)
            send(.moved(reference), to: home)
        }
    }

    /// This reactor's journal wants room.
    func askToMoveOut() {
        guard let generation = spool.journal?.moveOut() else { return }
        for core in 0..<count { send(.moveOut(core: index, through: generation), to: core) }
    }

    /// Once a second.
    func lookAtJournal() {
        guard let journal = spool.journal else { return }
        counters.journalSegments.store(journal.begun, ordering: .relaxed)
        counters.journalParcels.store(journal.live, ordering: .relaxed)
        counters.journalBytes.store(journal.usedBytes, ordering: .relaxed)
        guard journal.look() else { return }
        if journal.isHanging {
            log.alarm(
                "journal-hangs", gateway: "",
                "a commit of the journal takes longer than \(Limits.hangNanoseconds / Limits.nanosecondsPerSecond) s: new mail goes to the mail directories until it answers"
            )
        } else {
            log.note(.notice, "journal-works-again", "the journal answers again")
        }
    }

    /// Of what is free on its file system the journal takes a small part: the mail directories may need it, and others make segments
    /// in the same moment.
    private static let journalShare = 8

    /// The room on the journal's file system lets it have one more segment (design rule M10).
    var journalMayGrow: Bool {
        guard let shelf = calls.shelf, let device = routes.devices.first(where: { $0.id == shelf.device }) else {
            return true
        }
        return device.hasRoom(for: Self.journalShare * count * shelf.segmentBytes)
    }

    func noteJournalFault() {
        guard let fault = spool.journalFault else { return }
        log.alarm(
            "journal-failed", gateway: "",
            "the journal can't be written (\(String(cString: strerror(fault)))): the senders of this commit were told to try again, another segment is begun"
        )
    }

    /// Home: the file of a parcel that comes from a journal.
    func store(
        _ id: QueueID, _ content: MessageContent, _ route: Route, _ envelope: Envelope, _ destination: String,
        then: @escaping (Bool) -> Void
    ) {
        guard route.store.directory >= 0 else { return then(false) }
        let message = IncomingMessage(
            id: id, content: content,
            parcels: [IncomingParcel(route: route, envelope: envelope, destination: destination)],
            owner: Token(kind: TokenKind.ignored, generation: 0, index: 0))
        message.then = { [self] fault in
            if let fault {
                noteFailure(fault, id, "the message stays in the journal")
            } else {
                route.store.failuresInARow.store(0, ordering: .relaxed)
            }
            then(fault == nil)
        }
        spool.commit(message)
    }

    /// Home: what a failed `store` may have left in the mail directory.
    func clear(_ store: Store, _ id: QueueID, _ bytes: Int, then: @escaping () -> Void) {
        let name = MailFile.name(id, contentBytes: bytes)
        spool.remove(Removal(store: store, name: name, bytes: 0, purpose: .clear(then: then)))
    }

    /// Home: the bytes of a record that is not what was written.
    func keepDamaged(
        _ store: Store, _ id: QueueID, _ bytes: Int, _ place: JournalPlace, then: @escaping (Bool) -> Void
    ) {
        guard let shelf = calls.shelf, store.directory >= 0 else { return then(false) }
        let handle = shelf.slot(place).handle.load(ordering: .relaxed)
        let length = min(ParcelLoader.recordReadBytes + bytes, shelf.segmentBytes - place.offset)
        calls.run([.read(handle, at: Int64(place.offset), length: length)], on: .bulk, of: shelf) { [self] outcomes in
            guard outcomes[0].isDone else { return then(false) }
            let name = MailFile.name(id, contentBytes: bytes) + MailFile.damagedSuffix
            let kept = KeptBytes(outcomes[0].data)
            calls.run(
                [
                    .unlink(in: store.directory, name: name), .create(in: store.directory, name: name, [kept.vector]),
                    .syncFileSystem(store.directory),
                ], on: .bulk, of: store, stopsAtFailure: false
            ) { outcomes in
                withExtendedLifetime(kept) {}
                then(outcomes[1].isDone && outcomes[2].isDone)
            }
        }
    }
}
