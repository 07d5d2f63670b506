import CReactor
import Protocols
import Reactor

/// One reactor's way to stable storage.
///
/// The rules of the mail directory that are kept here:
///
/// - M1. A commit is a batch: its files are written, then one `syncfs` per file system, then all its 250s, in order. While it is
///   synced the next batch is written, and the one after gathers. A message's file has its final name from the start (large
///   ones and files that replace others are `.part` first): a rename cost a sixth of all CPU and proved nothing that the
///   length in the file's first line doesn't. A file shorter than that was never promised.
/// - M2. Files never change, they are only unlinked.
/// - M3. A message for several gateways is one parcel (file) each; one commit covers all, over all their file systems.
/// - M4. A settle is an unlink by the home, synced with the next commit. A settle with a consequence commits the consequence
///   first. Recipients that are done while others wait are named in a state file beside (written anew, renamed, synced).
/// - M5. After a failed write or sync the batch is refused and its files are unlinked, with no second sync of those files. The
///   next batch uses new files; if that fails too, the mail directory is failed until a trial file gets through.
/// - M6. Names are made from ids, never from outside text.
///
/// What is in which state after a crash:
///
/// ```text
/// name     lengths   CRC    condition    what recovery does
/// .part      any     any    unpromised   no 250 was sent: unlink
/// final    too short any    unpromised   cut off by a kill, of the last start and the same boot: unlink
/// final     wrong    any    torn         power loss in mid-commit: seen when read: set aside, alarm, never sent
/// final     right    bad    damaged      seen when read: set aside, alarm, never sent
/// final     right    good   queued       a 250 may have been sent: keep
/// ```
final class Spool {
    private let reactor: Reactor
    private let token: Token
    private var gathering = Batch()
    /// On the lane, oldest first: one is being synced while the next is being written.
    private var running: [Batch] = []
    /// Messages and removals whose fate is known, for the owner to take once a turn.
    private(set) var committed: [IncomingMessage] = []
    private(set) var removed: [Removal] = []
    private(set) var stated: [StateFile] = []
    /// Removals that failed, tried again at `retryAt`.
    private var stubborn: [Removal] = []
    private var stubbornStates: [StateFile] = []
    private var retryAt: UInt64 = 0

    private(set) var commits: UInt64 = 0
    private(set) var committedMessages: UInt64 = 0

    /// - Parameter token: comes back with the spool's own file tasks.
    init(reactor: Reactor, token: Token) {
        self.reactor = reactor
        self.token = token
    }

    // MARK: What the owner asks

    /// Adds a whole message to the batch that gathers. Its quota must have been charged.
    func commit(_ message: IncomingMessage) {
        gathering.messages.append(message)
        gathering.bytes += message.content.allocatedBytes
    }

    /// Adds the end of a parcel to the batch that gathers.
    func remove(_ removal: Removal) { gathering.removals.append(removal) }

    /// Writes a state file with the batch that gathers; its parcel goes nowhere before that is durable.
    func writeState(_ state: StateFile) { gathering.states.append(state) }

    /// Bytes that wait for a commit or are in one.
    var pendingBytes: Int { running.reduce(gathering.bytes) { $0 + $1.bytes } }

    /// Ends that one commit takes: more would keep the 250s of everybody waiting.
    private static let removalsPerCommit = 1_000
    var isIdle: Bool { running.isEmpty && gathering.isEmpty }

    /// Batches on the lane at a time. Those written while one is synced share the next sync, so many cost nothing; above, the
    /// next gathers.
    private static let runningMax = 16

    /// Once a turn, after everything else: starts the next commit, if the lane has room for one.
    func flush() {
        if !stubborn.isEmpty || !stubbornStates.isEmpty, reactor.now >= retryAt {
            gathering.removals += stubborn
            gathering.states += stubbornStates
            stubborn = []
            stubbornStates = []
        }
        guard running.count < Self.runningMax, !gathering.isEmpty else { return }
        let batch = gathering
        gathering = Batch()
        if batch.removals.count > Self.removalsPerCommit {
            gathering.removals = Array(batch.removals[Self.removalsPerCommit...])
            batch.removals.removeLast(gathering.removals.count)
        }
        running.append(batch)
        reactor.backend.run(batch.makeTask(token), on: .commit)
    }

    /// The owner has taken `committed` and `removed`.
    func taken() {
        committed.removeAll(keepingCapacity: true)
        removed.removeAll(keepingCapacity: true)
        stated.removeAll(keepingCapacity: true)
    }

    // MARK: What the lane brings

    /// The running batch is done: judges each message, removal and state.
    func finished(_ task: FileTask) {
        guard let batch = task.context as? Batch, let at = running.firstIndex(where: { $0 === batch }) else {
            preconditionFailure("a commit finished that was never started")
        }
        running.remove(at: at)
        commits += 1
        for message in batch.messages {
            judge(message, task, batch)
            if message.fault == nil { committedMessages += 1 }
            committed.append(message)
        }
        for removal in batch.removals {
            let outcome = task.outcomes[removal.step]
            let synced = task.outcomes[batch.syncStep(of: removal.store.device)]
            if (outcome.isDone || outcome.fault == ENOENT) && synced.isDone {
                removed.append(removal)
            } else {
                removal.fault = outcome.isDone ? synced.fault : outcome.fault
                stubborn.append(removal)
                retryAt = reactor.now + Limits.stubbornRetryNanoseconds
            }
        }
        for state in batch.states {
            if task.outcomes[state.step].isDone, task.outcomes[batch.syncStep(of: state.store.device)].isDone {
                stated.append(state)
            } else {
                stubbornStates.append(state)
                retryAt = reactor.now + Limits.stubbornRetryNanoseconds
            }
        }
    }

    private func judge(_ message: IncomingMessage, _ task: FileTask, _ batch: Batch) {
        for (offset, parcel) in message.parcels.enumerated() where message.fault == nil {
            let placed = task.outcomes[message.firstStep + offset]
            let synced = task.outcomes[batch.syncStep(of: parcel.store.device)]
            if !placed.isDone {
                message.fault = CommitFault(store: parcel.store, fault: placed.fault, wasSync: false)
            } else if !synced.isDone {
                message.fault = CommitFault(store: parcel.store, fault: synced.fault, wasSync: true)
            }
        }
        guard message.fault != nil else { return }
        // No 250 for it: what did get its name goes again, and no second sync tries to save it.
        for (offset, parcel) in message.parcels.enumerated() {
            let name = MailFile.name(message.idText, contentBytes: message.content.count)
            let placed = task.outcomes[message.firstStep + offset].isDone
            guard placed || message.isLarge else { continue }
            gathering.removals.append(
                Removal(store: parcel.store, name: placed ? name : name + ".part", bytes: 0, purpose: .undo))
        }
    }
}

/// What one commit covers.
final class Batch {
    var messages: [IncomingMessage] = []
    var removals: [Removal] = []
    var states: [StateFile] = []
    private var syncs: [(device: Device, step: Int)] = []

    var isEmpty: Bool { messages.isEmpty && removals.isEmpty && states.isEmpty }
    /// Of message memory.
    var bytes = 0

    func syncStep(of device: Device) -> Int {
        for sync in syncs where sync.device === device { return sync.step }
        preconditionFailure("a commit without the sync of one of its file systems")
    }

    /// Files first, names next, then one sync per file system.
    func makeTask(_ token: Token) -> FileTask {
        let task = FileTask(token: token)
        task.stopsAtFailure = false
        task.context = self
        task.steps.reserveCapacity(messages.count + removals.count + states.count + 2)
        var directories: [(Device, FileHandle)] = []
        func note(_ store: Store) {
            for (device, _) in directories where device === store.device { return }
            directories.append((store.device, store.directory))
        }
        for message in messages {
            message.firstStep = task.steps.count
            let name = MailFile.name(message.idText, contentBytes: message.content.count)
            for parcel in message.parcels {
                note(parcel.store)
                if message.isLarge {
                    task.steps.append(.renamePart(in: parcel.store.directory, name: name))
                } else {
                    task.steps.append(
                        .create(in: parcel.store.directory, name: name, parcel.vectors(of: message.content)))
                }
            }
        }
        for state in states {
            note(state.store)
            state.step = task.steps.count
            task.steps.append(
                .place(in: state.store.directory, name: MailFile.stateName(state.id), state.vectors))
        }
        for removal in removals {
            note(removal.store)
            removal.step = task.steps.count
            task.steps.append(.unlink(in: removal.store.directory, name: removal.name))
            if removal.hasState {
                task.steps.append(
                    .unlink(
                        in: removal.store.directory, name: String(removal.name.prefix(QueueID.textLength)) + ".state"))
            }
        }
        for (device, directory) in directories {
            syncs.append((device, task.steps.count))
            task.steps.append(.syncFileSystem(directory))
        }
        return task
    }
}

/// A message on its way to stable storage, with its parcels.
final class IncomingMessage {
    let id: QueueID
    /// The id as it is printed, made once.
    let idText: String
    let content: MessageContent
    var parcels: [IncomingParcel]
    /// Who waits for the outcome.
    let owner: Token
    /// Its bytes are already in `.part` files.
    var isLarge = false
    /// What the parcels' stores were charged.
    var chargedBytes = 0
    var fault: CommitFault?
    fileprivate(set) var firstStep = 0

    init(id: QueueID, idText: String? = nil, content: MessageContent, parcels: [IncomingParcel], owner: Token) {
        (self.id, self.content, self.parcels, self.owner) = (id, content, parcels, owner)
        self.idText = idText ?? id.description
    }
}

/// One gateway's part of an incoming message.
final class IncomingParcel {
    let store: Store
    let envelope: Envelope
    /// Of mail of our own, see `QueueKey`.
    let destination: String
    let head: [UInt8]
    private var prefix: UnsafeMutableRawBufferPointer?

    init(store: Store, envelope: Envelope, destination: String = "") {
        self.store = store
        self.envelope = envelope
        self.destination = destination
        head = MailFile.head(gatewayID: store.gatewayID, domain: store.domain, envelope: envelope)
    }

    deinit { prefix?.deallocate() }

    /// First line, head and content; valid as long as this parcel and the content.
    fileprivate func vectors(of content: MessageContent) -> [IOVector] {
        let line = MailFile.firstLine(
            head: head, contentBytes: content.count, linesBeginningWithDot: content.linesBeginningWithDot,
            contentCRC: content.crc)
        let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: line.count + head.count, alignment: 8)
        prefix.copyBytes(from: line)
        UnsafeMutableRawBufferPointer(rebasing: prefix[line.count...]).copyBytes(from: head)
        self.prefix?.deallocate()
        self.prefix = prefix
        return [IOVector(UnsafeRawBufferPointer(prefix))] + content.vectors
    }
}

/// Why a message is not durable.
struct CommitFault: Sendable {
    let store: Store
    /// An `errno`.
    let fault: Int32
    let wasSync: Bool
    var isFull: Bool { fault == ENOSPC || fault == EDQUOT }
}

/// The end of a parcel's file.
final class Removal {
    enum Purpose {
        /// Nobody was told: the batch was refused, or a large message broken off.
        case undo
        /// Settled; `credit` is the session that waits for the sync (design §6: at most 16 unsynced settles a connection).
        case settled(credit: Credit?)
    }
    struct Credit: Sendable {
        let core: Int
        let session: Token
    }
    let store: Store
    let name: String
    /// Discharged from the quota when it is done.
    let bytes: Int
    let purpose: Purpose
    var hasState = false
    fileprivate(set) var step = 0
    fileprivate(set) var fault: Int32 = 0

    init(store: Store, name: String, bytes: Int, purpose: Purpose) {
        (self.store, self.name, self.bytes, self.purpose) = (store, name, bytes, purpose)
    }
}

/// What is known of a parcel whose recipients are not all settled, or that had its delay notice.
final class StateFile {
    let store: Store
    let id: QueueID
    let state: ParcelState
    /// When it is durable.
    let then: () -> Void
    fileprivate(set) var step = 0
    private let bytes: UnsafeMutableRawBufferPointer

    init(store: Store, id: QueueID, state: ParcelState, then: @escaping () -> Void) {
        (self.store, self.id, self.state, self.then) = (store, id, state, then)
        let text = state.encoded()
        bytes = .allocate(byteCount: text.count, alignment: 8)
        bytes.copyBytes(from: text)
    }

    deinit { bytes.deallocate() }

    fileprivate var vectors: [IOVector] { [IOVector(UnsafeRawBufferPointer(bytes))] }
}
