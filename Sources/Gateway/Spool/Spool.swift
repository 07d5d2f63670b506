import CReactor
import DequeModule
import Protocols
import Reactor

/// One reactor's way to stable storage.
///
/// The rules of the mail directory that are kept here:
///
/// - M1. A commit is a batch of one file system: its files are written, then one `syncfs`, then all its 250s, in order. While it
///   is synced the next batch is written, and the one after gathers. A message's file has its final name from the start (large
///   ones and files that replace others are `.part` first): a rename cost a sixth of all CPU and proved nothing that the
///   length in the file's first line doesn't. A file shorter than that was never promised.
/// - M2. Files never change, they are only unlinked.
/// - M3. A message for several gateways is one parcel (file) each. It is in a batch of each file system that these are on, and
///   durable when the last of those batches is. So a disk that hangs holds back the mail that it concerns and no other.
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
/// final    too short any    unpromised   cut off by a kill, of an earlier start of this boot: unlink
/// final     wrong    any    torn         power loss in mid-commit: seen when read: set aside, alarm, never sent
/// final     right    bad    damaged      seen when read: set aside, alarm, never sent
/// final     right    good   queued       a 250 may have been sent: keep
/// ```
final class Spool {
    private let reactor: Reactor
    private let token: Token
    /// One a file system, in the order of their first use.
    private var streams: [CommitStream] = []
    /// Messages and removals whose fate is known, for the owner to take once a turn.
    private(set) var committed: [IncomingMessage] = []
    private(set) var removed: [Removal] = []
    private(set) var stated: [StateFile] = []
    /// Ends and states that a commit could not make durable, one a commit; they are tried again.
    private(set) var setbacks: [(store: Store, fault: Int32)] = []
    /// Removals that failed, tried again at `retryAt`.
    private var stubborn: [Removal] = []
    private var stubbornStates: [StateFile] = []
    private var retryAt: UInt64 = 0

    /// What a journal made durable the end of.
    private(set) var ended: [JournalEnd] = []
    /// A journal's write or sync failed; its ends are written again elsewhere.
    private(set) var journalFault: Int32?
    /// Mail that is expected to leave soon goes here; nil: everything goes to the mail directories.
    let journal: Journal?

    private(set) var commits: UInt64 = 0
    private(set) var committedMessages: UInt64 = 0

    /// - Parameter token: comes back with the spool's own file tasks.
    init(reactor: Reactor, token: Token, journal: Journal? = nil) {
        self.reactor = reactor
        self.token = token
        self.journal = journal
    }

    // MARK: What the owner asks

    /// Adds a whole message to the batches that gather. Its quota must have been charged.
    func commit(_ message: IncomingMessage) {
        if message.then == nil, let journal, journal.take(message) { return }
        for parcel in message.parcels {
            let gathering = stream(parcel.store.device).gathering
            guard gathering.messages.last !== message else { continue }
            gathering.messages.append(message)
            gathering.bytes += message.content.allocatedBytes
            message.batchesLeft += 1
        }
    }

    /// Adds the end of a parcel to the batch that gathers.
    func remove(_ removal: Removal) { stream(removal.store.device).remove(removal) }

    /// Writes a state file with the batch that gathers; its parcel goes nowhere before that is durable.
    func writeState(_ state: StateFile) { stream(state.store.device).gathering.states.append(state) }

    private func stream(_ device: Device) -> CommitStream {
        for stream in streams where stream.device === device { return stream }
        let stream = CommitStream(device)
        streams.append(stream)
        return stream
    }

    /// Bytes that wait for a commit of this file system or are in one.
    func pendingBytes(on device: Device) -> Int { streams.first { $0.device === device }?.bytes ?? 0 }
    var isIdle: Bool { streams.allSatisfy(\.isIdle) && journal?.isIdle ?? true }

    /// Once a turn, after everything else: starts the next commits, where a lane has room for one.
    func flush() {
        if !stubborn.isEmpty || !stubbornStates.isEmpty, reactor.now >= retryAt {
            for removal in stubborn { remove(removal) }
            for state in stubbornStates { writeState(state) }
            stubborn = []
            stubbornStates = []
        }
        for stream in streams {
            if let batch = stream.next(now: reactor.now) { reactor.backend.run(batch.makeTask(token), on: .commit) }
        }
        journal?.flush()
    }

    /// Once a second: the file systems whose oldest commit began to take too long, or ended after that.
    func hangs() -> [(device: Device, isHanging: Bool)] {
        streams.filter { $0.look(now: reactor.now) }.map { ($0.device, $0.isHanging) }
    }

    /// The owner has taken `committed` and `removed`.
    func taken() {
        committed.removeAll(keepingCapacity: true)
        removed.removeAll(keepingCapacity: true)
        stated.removeAll(keepingCapacity: true)
        ended.removeAll(keepingCapacity: true)
        setbacks.removeAll()
        journalFault = nil
    }

    // MARK: What the lane brings

    /// A task of the journal is done.
    func journalFinished(_ task: FileTask) {
        guard let outcome = journal?.finished(task) else { preconditionFailure("a task of no journal") }
        for message in outcome.messages where message.fault == nil { committedMessages += 1 }
        committed += outcome.messages
        ended += outcome.ends
        if let fault = outcome.fault { journalFault = fault }
    }

    /// A batch is done: judges each message, removal and state.
    func finished(_ task: FileTask) {
        guard let batch = task.context as? Batch, stream(batch.device).finished(batch, writing: task.writing) else {
            preconditionFailure("a commit finished that was never started")
        }
        commits += 1
        let synced = task.outcomes[batch.syncStep]
        var setback: (store: Store, fault: Int32)?
        for message in batch.messages {
            judge(message, task, batch, synced)
            message.batchesLeft -= 1
            if message.batchesLeft == 0 { conclude(message) }
        }
        for removal in batch.removals {
            let outcome = task.outcomes[removal.step]
            if (outcome.isDone || outcome.fault == ENOENT) && synced.isDone {
                removed.append(removal)
                if let state = removal.stateRemoval { remove(state) }
            } else {
                stubborn.append(removal)
                setback = (removal.store, synced.isDone ? outcome.fault : synced.fault)
                retryAt = reactor.now + Limits.stubbornRetryNanoseconds
            }
        }
        for state in batch.states {
            let outcome = task.outcomes[state.step]
            if outcome.isDone, synced.isDone {
                stated.append(state)
            } else {
                stubbornStates.append(state)
                setback = (state.store, synced.isDone ? outcome.fault : synced.fault)
                retryAt = reactor.now + Limits.stubbornRetryNanoseconds
            }
        }
        if let setback { setbacks.append(setback) }
    }

    /// The parcels that are on the batch's file system.
    private func judge(_ message: IncomingMessage, _ task: FileTask, _ batch: Batch, _ synced: FileOutcome) {
        for parcel in message.parcels where parcel.store.device === batch.device {
            let placed = task.outcomes[parcel.step]
            parcel.isPlaced = placed.isDone
            guard message.fault == nil, !placed.isDone || !synced.isDone else { continue }
            message.fault = CommitFault(
                store: parcel.store, fault: placed.isDone ? synced.fault : placed.fault, wasSync: placed.isDone,
                commit: commits)
        }
    }

    /// All file systems have answered.
    private func conclude(_ message: IncomingMessage) {
        committed.append(message)
        // What comes out of a journal is still there; whoever moves it clears the file away before anything else becomes of it.
        guard message.then == nil else { return }
        guard message.fault != nil else {
            committedMessages += 1
            return
        }
        // No 250 for it: what did get its name goes again, and no second sync tries to save it.
        let name = MailFile.name(message.idText, contentBytes: message.content.count)
        for parcel in message.parcels {
            // A step that failed has tried to unlink its file, on a disk that fails.
            let isPart = message.isLarge && !parcel.isPlaced
            remove(Removal(store: parcel.store, name: isPart ? name + ".part" : name, bytes: 0, purpose: .undo))
        }
    }
}

/// The commits of one file system, in order.
private final class CommitStream {
    let device: Device
    private(set) var gathering: Batch
    /// On the lane, oldest first: one is being synced while the next is being written.
    private var running: [Batch] = []

    /// Batches on the lane at a time. Those written while one is synced share the next sync, so many cost nothing; above, the
    /// next gathers.
    private static let runningMax = 16
    /// Ends that wait for a batch.
    private var removals: Deque<Removal> = []
    /// Ends in the running batches.
    private var removing = 0
    private var pace = RemovalPace()

    init(_ device: Device) {
        self.device = device
        gathering = Batch(device)
    }

    var isIdle: Bool { running.isEmpty && gathering.isEmpty && removals.isEmpty }
    var bytes: Int { running.reduce(gathering.bytes) { $0 + $1.bytes } }

    private(set) var isHanging = false

    /// True: `isHanging` changed.
    func look(now: UInt64) -> Bool {
        let hangs = running.first.map { now - $0.startedAt >= Limits.hangNanoseconds } ?? false
        guard hangs != isHanging else { return false }
        isHanging = hangs
        device.hanging.add(hangs ? 1 : -1, ordering: .relaxed)
        return true
    }

    func remove(_ removal: Removal) { removals.append(removal) }

    /// The batch to start now.
    func next(now: UInt64) -> Batch? {
        let ends = max(0, min(removals.count, pace.perCommit, 2 * pace.perCommit - removing))
        guard running.count < Self.runningMax, !gathering.isEmpty || ends > 0 else { return nil }
        let batch = gathering
        gathering = Batch(device)
        removing += ends
        for _ in 0..<ends { batch.removals.append(removals.removeFirst()) }
        batch.startedAt = now
        running.append(batch)
        return batch
    }

    /// False: it was never started.
    ///
    /// - Parameter writing: nanoseconds that its steps took, without its sync.
    func finished(_ batch: Batch, writing: UInt64) -> Bool {
        guard let at = running.firstIndex(where: { $0 === batch }) else { return false }
        running.remove(at: at)
        removing -= batch.removals.count
        if !batch.removals.isEmpty { pace.took(writing) }
        return true
    }
}

/// How many ends one commit takes: so many that they keep the 250s behind them waiting for no more than a moment. An unlink costs
/// from 20 microseconds to some milliseconds (a file system that discards at once), so the number follows the disk.
struct RemovalPace {
    private(set) var perCommit = 128
    private static let most = 1_000
    private static let least = 16
    private static let patienceNanoseconds: UInt64 = 100_000_000

    mutating func took(_ nanoseconds: UInt64) {
        perCommit =
            nanoseconds > Self.patienceNanoseconds
            ? max(Self.least, perCommit / 2) : min(Self.most, perCommit + 64)
    }
}

/// What one commit of a file system covers.
private final class Batch {
    let device: Device
    var messages: [IncomingMessage] = []
    var removals: [Removal] = []
    var states: [StateFile] = []
    /// Of message memory.
    var bytes = 0
    var startedAt: UInt64 = 0
    private(set) var syncStep = 0

    init(_ device: Device) { self.device = device }

    var isEmpty: Bool { messages.isEmpty && removals.isEmpty && states.isEmpty }

    /// Files and names first, then one sync.
    func makeTask(_ token: Token) -> FileTask {
        let task = FileTask(token: token, device: device.id)
        task.stopsAtFailure = false
        task.context = self
        task.steps.reserveCapacity(messages.count + removals.count + states.count + 2)
        var directory: FileHandle = -1
        for message in messages {
            let name = MailFile.name(message.idText, contentBytes: message.content.count)
            for parcel in message.parcels where parcel.store.device === device {
                directory = parcel.store.directory
                if message.then != nil { task.steps.append(.unlink(in: directory, name: name)) }
                parcel.step = task.steps.count
                task.steps.append(
                    message.isLarge
                        ? .renamePart(in: directory, name: name)
                        : .create(in: directory, name: name, parcel.vectors(message.idText, message.content)))
            }
        }
        for state in states {
            directory = state.store.directory
            state.step = task.steps.count
            task.steps.append(.place(in: directory, name: MailFile.stateName(state.id), state.vectors))
        }
        for removal in removals {
            directory = removal.store.directory
            removal.step = task.steps.count
            task.steps.append(.unlink(in: directory, name: removal.name))
        }
        syncStep = task.steps.count
        task.steps.append(.syncFileSystem(directory))
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
    /// Of a parcel that comes from a journal: it goes to its mail directory in any case, in the place of what an attempt that failed may
    /// have left there.
    var then: ((CommitFault?) -> Void)?
    /// Those that it is in and that are not done.
    fileprivate var batchesLeft = 0

    init(id: QueueID, idText: String? = nil, content: MessageContent, parcels: [IncomingParcel], owner: Token) {
        (self.id, self.content, self.parcels, self.owner) = (id, content, parcels, owner)
        self.idText = idText ?? id.description
    }
}

/// One gateway's part of an incoming message.
final class IncomingParcel {
    let route: Route
    var store: Store { route.store }
    let envelope: Envelope
    /// Of mail of our own, see `QueueKey`.
    let destination: String
    let head: [UInt8]
    fileprivate var step = 0
    /// It has its name in the mail directory.
    fileprivate var isPlaced = false
    /// Its record, when it is in a journal.
    var place = JournalPlace.none
    private var prefix: UnsafeMutableRawBufferPointer?

    init(route: Route, envelope: Envelope, destination: String = "") {
        self.route = route
        self.envelope = envelope
        self.destination = destination
        head = MailFile.head(gatewayID: route.store.gatewayID, domain: route.store.domain, envelope: envelope)
    }

    deinit { prefix?.deallocate() }

    /// Of its record in a journal.
    func recordBytes(_ contentBytes: Int) -> Int {
        JournalFormat.padded(JournalFormat.unitBytes + head.count + contentBytes, to: JournalFormat.unitBytes)
    }

    /// First line, head and content; valid as long as this parcel and the content.
    fileprivate func vectors(_ idText: String, _ content: MessageContent) -> [IOVector] {
        let line = MailFile.firstLine(
            idText, head: head, contentBytes: content.count, linesBeginningWithDot: content.linesBeginningWithDot,
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
    /// Which of its reactor's commits failed: one is one failure, however many messages it had; nil: a large message that failed
    /// before its commit.
    var commit: UInt64?
    /// It was the journal's: the mail directory is not to blame.
    var isJournal = false
    var isFull: Bool { fault == ENOSPC || fault == EDQUOT }
}

/// The end of a parcel's file.
final class Removal {
    enum Purpose {
        /// Nobody was told: the batch was refused, or a large message broken off.
        case undo
        /// Settled; `credit` is the session that waits for the sync (design §6: at most 16 unsynced settles a connection).
        case settled(credit: Credit?)
        /// What a failed move out of a journal may have left behind; `then` runs when it is gone for good.
        case clear(then: () -> Void)
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

    /// The state file goes only when its message has gone for good: else those who have the message would get it again.
    fileprivate var stateRemoval: Removal? {
        guard hasState else { return nil }
        return Removal(
            store: store, name: String(name.prefix(QueueID.textLength)) + ".state", bytes: 0, purpose: .undo)
    }

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
