import DequeModule
import Glibc
import Reactor

/// One reactor's journal: mail that is expected to leave soon is written here, in one vectored write and one `fdatasync` a batch,
/// and leaves without ever having touched a mail directory.
///
/// A parcel's record is where it lives until its end is durable in the same journal; from then on its file is, if it was moved
/// to one. Segments are used again oldest first, and only when each of their parcels has ended.
final class Journal {
    private let reactor: Reactor
    private let token: Token
    private let core: Int
    let shelf: JournalShelf
    private let own: JournalShelf.Journal
    /// By slot.
    private var segments: [JournalSegment] = []
    private let segmentsMax: Int
    /// Slots that hold something, oldest first; the active one is the last.
    private var used: Deque<Int> = []
    /// Slots to begin a life in, oldest first: what ended a parcel outlives its record.
    private var free: Deque<Int> = []
    private var active: JournalSegment?
    /// Where the log of the last life ended, and its number.
    private var lastEnd = 0
    private var generation: UInt64 = 0
    private var messages: Deque<IncomingMessage> = []
    private var gatheredBytes = 0
    private var ends: Deque<JournalEnd> = []
    /// On the lane, in order.
    private var running: Deque<JournalBatch> = []
    private var nextNumber: Int
    private let numberStep: Int
    private var creating: Creation?
    private var retryAt: UInt64 = 0
    private(set) var isHanging = false
    /// Its file system has room for another segment.
    var mayGrow: () -> Bool = { true }
    private(set) var batches: UInt64 = 0
    /// Segments that were begun.
    private(set) var begun = 0

    /// Batches on the lane at a time: one is synced while the next is written.
    private static let runningMax = 2
    /// Segments that only ends may begin (design rule J9).
    private static let spares = 2

    /// - Parameter token: comes back with its file tasks.
    init(_ start: JournalStart, core: Int, reactor: Reactor, token: Token) {
        (self.core, self.reactor, self.token, shelf) = (core, reactor, token, start.shelf)
        own = shelf.journals[core]
        (segmentsMax, nextNumber, numberStep) = (start.segmentsMax, start.nextNumber, start.numberStep)
        for handle in start.free { add(handle) }
    }

    private func add(_ handle: FileHandle) {
        let segment = JournalSegment(
            slot: segments.count, handle: handle, bytes: shelf.segmentBytes, journal: own.id)
        own.slots[segment.slot].handle.store(handle, ordering: .sequentiallyConsistent)
        segments.append(segment)
        free.append(segment.slot)
    }

    // MARK: What is asked of it

    /// Takes a message that is to be stored; false: it doesn't now, or never takes such a one.
    func take(_ message: IncomingMessage) -> Bool {
        guard let active, !active.hasFailed, !isHanging, !message.isLarge else { return false }
        var bytes = 0
        // From half of the limit on, what would only have to be moved goes to its mail directory at once.
        let isHalfFull = used.count > max(1, segmentsMax / 2)
        for parcel in message.parcels {
            guard !isHalfFull || parcel.store.isFlowing else { return false }
            bytes += parcel.recordBytes(message.content.count)
        }
        guard bytes <= shelf.segmentBytes / 4 else { return false }
        if active.bytes - active.end - gatheredBytes < bytes + JournalFormat.blockBytes {
            guard hasRoomForMail else { return false }
        }
        gatheredBytes += bytes
        messages.append(message)
        return true
    }

    func end(_ end: JournalEnd) { ends.append(end) }

    private var hasRoomForMail: Bool { free.count > Self.spares }

    var isIdle: Bool { running.isEmpty && messages.isEmpty && ends.isEmpty }
    /// Of message memory.
    var pendingBytes: Int {
        running.reduce(messages.reduce(0) { $0 + $1.content.allocatedBytes }) { $0 + $1.memoryBytes }
    }

    /// Once a turn, after everything else.
    func flush() {
        // Ends may go over the limit rather than wait.
        if creating == nil, free.count <= Self.spares, reactor.now >= retryAt,
            (segments.count < segmentsMax && mayGrow())
                || (free.isEmpty && !ends.isEmpty && segments.count < own.slots.count)
        {
            create()
        }
        guard running.count < Self.runningMax else { return }
        guard let active, !active.hasFailed else {
            if running.isEmpty, reactor.now >= retryAt { open() }
            return
        }
        guard !messages.isEmpty || !ends.isEmpty else { return }
        guard
            let batch = JournalBatch(
                of: active, core: core, messages: &messages, ends: &ends, now: reactor.now)
        else {
            if running.isEmpty { open() }
            return
        }
        for message in batch.messages {
            for parcel in message.parcels { gatheredBytes -= parcel.recordBytes(message.content.count) }
        }
        active.end = batch.end
        run(batch)
    }

    private func run(_ batch: JournalBatch) {
        running.append(batch)
        reactor.backend.run(batch.makeTask(token, device: shelf.device), on: .log)
    }

    /// Begins a new life in the oldest free segment; it takes records when its header is synced (design rule J1).
    private func open() {
        if let active {
            active.sealedAt = reactor.now
            lastEnd = active.syncedEnd
            self.active = nil
            recycle()
        }
        guard let slot = free.first else { return }
        let segment = segments[slot]
        // After a header that could not be written the same one is tried again: no number is left out.
        if segment.generation != generation + 1 {
            segment.begin(generation: generation + 1)
            own.slots[slot].generation.store(segment.generation & 0xff_ffff, ordering: .sequentiallyConsistent)
        }
        run(
            JournalBatch(
                header: JournalSegmentHeader(
                    life: segment.life, segmentBytes: shelf.segmentBytes, predecessorEnd: lastEnd), of: segment,
                now: reactor.now))
    }

    // MARK: What the lane brings

    /// What became durable, or can't.
    struct Outcome {
        var messages: [IncomingMessage] = []
        var ends: [JournalEnd] = []
        /// A write or sync failed with this.
        var fault: Int32?
    }

    func finished(_ task: FileTask) -> Outcome {
        var outcome = Outcome()
        if let creation = task.context as? Creation {
            created(creation, task)
            return outcome
        }
        guard let batch = task.context as? JournalBatch else { preconditionFailure("not a task of the journal") }
        batch.judge(task)
        // One whose write failed comes back before the sync of the one in front of it.
        while let first = running.first, first.fault != nil {
            running.removeFirst()
            batches += 1
            conclude(first, &outcome)
        }
        return outcome
    }

    private func conclude(_ batch: JournalBatch, _ outcome: inout Outcome) {
        let segment = batch.segment
        let fault = batch.fault!
        if batch.kind == .header {
            guard fault == 0 else {
                outcome.fault = fault
                retryAt = reactor.now + Limits.stubbornRetryNanoseconds
                return
            }
            generation = segment.generation
            free.removeFirst()
            used.append(segment.slot)
            active = segment
            begun += 1
            looksForMoves = true
            return
        }
        // What was written before a failed sync returned may be gone, whatever its own sync says.
        guard fault == 0, !segment.hasFailed else {
            segment.hasFailed = true
            if fault != 0 { outcome.fault = fault }
            for message in batch.messages {
                message.fault = CommitFault(
                    store: message.parcels[0].store, fault: fault == 0 ? EIO : fault, wasSync: batch.wasSync,
                    commit: batches, isJournal: true)
                for parcel in message.parcels { parcel.place = .none }
            }
            outcome.messages += batch.messages
            ends.insert(contentsOf: batch.ends, at: 0)
            return
        }
        segment.syncedEnd = batch.end
        for message in batch.messages {
            for parcel in message.parcels { segment.add(parcel.place) }
        }
        outcome.messages += batch.messages
        for end in batch.ends { segments[end.place.slot].remove(end.place) }
        outcome.ends += batch.ends
        recycle()
    }

    /// Segments in which nothing lives any more are free, oldest first.
    private func recycle() {
        while let slot = used.first, segments[slot] !== active, segments[slot].live == 0 {
            used.removeFirst()
            free.append(slot)
        }
    }

    /// Parcels that live here.
    var live: Int { used.reduce(0) { $0 + segments[$1].live } }
    /// Of segments that are not free.
    var usedBytes: Int { used.count * shelf.segmentBytes }

    // MARK: New segments

    /// A file on its way to be a segment: made, filled with zeros, synced with its name.
    private final class Creation {
        let name: String
        var handle: FileHandle = -1
        init(name: String) { self.name = name }
    }

    static let suffix = ".segment"
    static func name(_ number: Int) -> String { "\(number)\(suffix)" }

    private func create() {
        let creation = Creation(name: Self.name(nextNumber))
        nextNumber += numberStep
        creating = creation
        run(creation, [.openLog(in: shelf.directory, name: creation.name + ".part", create: true)])
    }

    private func run(_ creation: Creation, _ steps: [FileStep]) {
        let task = FileTask(token: token, device: shelf.device)
        task.steps = steps
        task.context = creation
        reactor.backend.run(task, on: .bulk)
    }

    private func created(_ creation: Creation, _ task: FileTask) {
        let isDone = task.outcomes.allSatisfy(\.isDone)
        if creation.handle < 0 {
            guard isDone else { return giveUp(creation) }
            creation.handle = FileHandle(task.outcomes[0].value)
            var steps: [FileStep] = []
            let header = JournalSegmentHeader.free(segmentBytes: shelf.segmentBytes)
            steps.append(.zero(creation.handle, length: shelf.segmentBytes))
            steps.append(.overwrite(creation.handle, at: 0, header.encoded()))
            steps.append(.syncData(creation.handle))
            steps.append(.renamePart(in: shelf.directory, name: creation.name))
            steps.append(.syncDirectory(shelf.directory))
            return run(creation, steps)
        }
        guard creating === creation else { return }
        guard isDone else { return giveUp(creation) }
        creating = nil
        add(creation.handle)
    }

    /// It goes again, and another is tried later.
    private func giveUp(_ creation: Creation) {
        creating = nil
        retryAt = reactor.now + Limits.stubbornRetryNanoseconds
        guard creation.handle >= 0 else { return }
        run(creation, [.close(creation.handle), .unlink(in: shelf.directory, name: creation.name + ".part")])
    }

    // MARK: Moving out

    private var looksForMoves = false
    private var askedAt: UInt64 = 0
    /// How often the same is asked for.
    private static let askNanoseconds: UInt64 = 5_000_000_000

    /// What still lives in a segment so long after its last record does not pass through: it goes to its mail directory, so that a
    /// start finds little to do.
    private static let staleNanoseconds: UInt64 = 30_000_000_000

    /// The generation up to which parcels should go to their mail directories: the stale ones, and from half of the limit on the
    /// oldest (design rule J9). nil: none need.
    func moveOut() -> UInt64? {
        guard looksForMoves else { return nil }
        looksForMoves = false
        let isShort = free.count <= Self.spares && segments.count >= segmentsMax
        let isStale = { [segments, active, now = reactor.now] (slot: Int) in
            segments[slot] !== active && now >= segments[slot].sealedAt + Self.staleNanoseconds
        }
        let stale = used.firstIndex { !isStale($0) } ?? used.count
        let tooMany = max(used.count - max(1, segmentsMax / 2), isShort ? 1 : 0)
        let count = min(max(tooMany, stale), used.count - 1)
        guard count > 0 else { return nil }
        askedAt = reactor.now
        return segments[used[count - 1]].generation
    }

    // MARK: Time

    /// Once a second; true: `isHanging` changed.
    func look() -> Bool {
        if reactor.now >= askedAt + Self.askNanoseconds { looksForMoves = true }
        let hangs = running.first.map { reactor.now - $0.startedAt >= Limits.hangNanoseconds } ?? false
        guard hangs != isHanging else { return false }
        isHanging = hangs
        return true
    }
}
