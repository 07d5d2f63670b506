import Glibc
import Reactor

/// Mail of a gateway that a start found in a journal when the mail directory could not take it: it waits beside the journal and
/// goes to the mail directory before that is listed.
///
/// Cut off at any step it is begun again: a file leaves its waiting place only when it is synced in the other.
final class StrandedMail {
    private unowned let core: Core
    private let store: Store
    private var folder: FileHandle = -1
    private var names: [String] = []

    init(core: Core, store: Store) { (self.core, self.store) = (core, store) }

    /// - Parameter then: all that can be is there.
    func bringBack(then: @escaping () -> Void) {
        guard let shelf = core.calls.shelf else { return then() }
        // Nearly always there is no such folder.
        core.calls.run([.openDirectory(path: shelf.strandedPath(store.gatewayID), create: false)], on: .bulk, of: shelf)
        {
            [self] outcomes in
            guard outcomes[0].isDone else { return then() }
            folder = FileHandle(outcomes[0].value)
            core.calls.run([.list(folder)], on: .bulk, of: shelf) { [self] outcomes in
                names = outcomes[0].names.filter {
                    if case .message = MailFile.entry($0) { true } else { false }
                }
                next(shelf, then)
            }
        }
    }

    private func next(_ shelf: JournalShelf, _ then: @escaping () -> Void) {
        guard let name = names.popLast() else {
            return core.calls.run([.close(folder)], on: .bulk, of: shelf) { _ in then() }
        }
        core.calls.run(
            [.readWhole(in: folder, name: name, maxBytes: JournalFormat.segmentMaxBytes)], on: .bulk, of: shelf
        ) {
            [self] outcomes in
            guard outcomes[0].isDone else {
                say(name, outcomes[0].fault)
                return next(shelf, then)
            }
            let kept = KeptBytes(outcomes[0].data)
            // One that is there is from an attempt that was cut off: nobody was given it.
            core.calls.run(
                [
                    .unlink(in: store.directory, name: name), .create(in: store.directory, name: name, [kept.vector]),
                    .syncFileSystem(store.directory),
                ], on: .bulk, of: store, stopsAtFailure: false
            ) { [self] outcomes in
                withExtendedLifetime(kept) {}
                guard outcomes[1].isDone, outcomes[2].isDone else {
                    say(name, outcomes[1].isDone ? outcomes[2].fault : outcomes[1].fault)
                    return core.calls.run([.unlink(in: store.directory, name: name)], on: .bulk, of: store) {
                        [self] _ in next(shelf, then)
                    }
                }
                core.calls.run(
                    [.unlink(in: folder, name: name), .syncFileSystem(folder)], on: .bulk, of: shelf
                ) { [self] _ in next(shelf, then) }
            }
        }
    }

    private func say(_ name: String, _ fault: Int32) {
        core.log.alarm(
            "mail-stranded", gateway: store.domain,
            "\(name) can't be brought back to the mail directory (\(String(cString: strerror(fault)))); the next start tries again"
        )
    }
}
