import CReactor
import Protocols
import Reactor

/// Writes a message to its `.part` files while it arrives, so that its size does not count against memory.
///
/// The session gives it pieces and stops receiving while `isFull`. The final names come with the commit, as for every message;
/// the data is synced here before, so that a commit never waits for megabytes.
final class LargeMessageWriter {
    private enum Phase { case creating, writing, closing, closed }

    let id: QueueID
    let parcels: [IncomingParcel]
    /// What arrived so far and is not yet given to the lane.
    private var waiting: [MessageContent] = []
    private(set) var waitingBytes = 0
    private var handles: [FileHandle] = []
    private var phase = Phase.creating
    private var isBusy = false
    private var end: MessageContent?
    private var isAbandoned = false
    private let token: Token
    /// Where all parcels lie; 0: on more than one file system.
    private let device: Int
    private let reactor: Reactor
    private(set) var fault: CommitFault?

    /// Bytes given but not yet written, above which the sender is not read.
    private static let fullBytes = 256 << 10

    /// - Parameter token: comes back with its file tasks, for `finished`.
    init(id: QueueID, parcels: [IncomingParcel], reactor: Reactor, token: Token) {
        (self.id, self.parcels, self.reactor, self.token) = (id, parcels, reactor, token)
        let first = parcels[0].store.device
        device = parcels.allSatisfy { $0.store.device === first } ? first.id : 0
        isBusy = true
        // The size is not known yet; nor is it part of the working name.
        let task = FileTask(token: token, device: device)
        for parcel in parcels {
            task.steps.append(.createPart(in: parcel.store.directory, name: id.description))
        }
        reactor.backend.run(task, on: .bulk)
    }

    var isFull: Bool { waitingBytes >= Self.fullBytes }
    /// All is written, synced and closed (or has failed), and nothing is under way.
    var isDone: Bool { !isBusy && (phase == .closed || (fault != nil && handles.isEmpty)) }

    func append(_ piece: MessageContent, bytes: Int) {
        waiting.append(piece)
        waitingBytes += bytes
        proceed()
    }

    /// No more pieces; `content` has the final count and checksum.
    func finish(_ content: MessageContent) {
        end = content
        proceed()
    }

    /// The sender has gone, or the message is refused: the files go.
    func abandon() {
        isAbandoned = true
        waiting = []
        if phase == .closed, !isBusy, !isUnlinked, fault == nil { return unlinkFinished() }
        proceed()
    }

    /// It was abandoned after its last byte, or that failed: the files go too.
    private func unlinkFinished() {
        isUnlinked = true
        let task = FileTask(token: token, device: device)
        task.stopsAtFailure = false
        for handle in handles { task.steps.append(.close(handle)) }
        handles = []
        for parcel in parcels {
            for name in [id.description, MailFile.name(id, contentBytes: end?.count ?? 0)] {
                task.steps.append(.unlink(in: parcel.store.directory, name: name + ".part"))
            }
        }
        start(task, closes: false)
    }

    private var isUnlinked = false

    /// A task of this writer is done.
    func finished(_ task: FileTask) {
        isBusy = false
        let failure = isUnlinked ? nil : task.outcomes.firstIndex { !$0.isDone }
        if fault == nil, let failure {
            let store = parcels[failure % parcels.count].store
            fault = CommitFault(store: store, fault: task.outcomes[failure].fault, wasSync: false, commit: nil)
            waiting = []
        }
        if phase == .creating {
            handles = task.outcomes.compactMap { $0.isDone ? FileHandle($0.value) : nil }
            phase = .writing
        }
        if phase == .closing {
            phase = .closed
            // Files whose turn to be closed never came.
            handles = task.steps.enumerated().compactMap { at, step in
                if case .close(let handle) = step, let failure, at > failure { handle } else { nil }
            }
            if isAbandoned || failure != nil, !isUnlinked { return unlinkFinished() }
        }
        waitingBytes = waiting.reduce(0) { $0 + $1.allocatedBytes }
        proceed()
    }

    private func proceed() {
        guard !isBusy, phase == .writing else { return }
        if isAbandoned || fault != nil {
            guard !handles.isEmpty else {
                phase = .closed
                return
            }
            let task = FileTask(token: token, device: device)
            task.stopsAtFailure = false
            for handle in handles { task.steps.append(.close(handle)) }
            for parcel in parcels {
                task.steps.append(.unlink(in: parcel.store.directory, name: id.description + ".part"))
            }
            isUnlinked = true
            start(task, closes: true)
        } else if !waiting.isEmpty || end != nil {
            write()
        }
    }

    private func write() {
        let task = FileTask(token: token, device: device)
        let pieces = waiting
        waiting = []
        let isFirst = !hasWritten
        hasWritten = true
        var keep: [AnyObject] = pieces
        for (handle, parcel) in zip(handles, parcels) {
            var vectors: [IOVector] = []
            if isFirst {
                let blank = Bytes(count: MailFile.firstLineBytes, then: parcel.head)
                keep.append(blank)
                vectors.append(blank.vector)
            }
            for piece in pieces { vectors += piece.vectors }
            task.steps.append(.append(to: handle, vectors))
        }
        if let end {
            for (handle, parcel) in zip(handles, parcels) {
                task.steps.append(
                    .overwrite(
                        handle, at: 0,
                        MailFile.firstLine(
                            id.description, head: parcel.head, contentBytes: end.count,
                            linesBeginningWithDot: end.linesBeginningWithDot, contentCRC: end.crc)))
            }
            let name = MailFile.name(id, contentBytes: end.count)
            for handle in handles { task.steps.append(.syncData(handle)) }
            for handle in handles { task.steps.append(.close(handle)) }
            for parcel in parcels {
                task.steps.append(
                    .rename(
                        in: parcel.store.directory, from: id.description + ".part", to: parcel.store.directory,
                        name: name + ".part"))
            }
        }
        task.context = Keep(keep)
        start(task, closes: end != nil)
    }

    private var hasWritten = false

    private func start(_ task: FileTask, closes: Bool) {
        isBusy = true
        if closes { phase = .closing }
        reactor.backend.run(task, on: .bulk)
    }

    private final class Keep {
        let objects: [AnyObject]
        init(_ objects: [AnyObject]) { self.objects = objects }
    }

    /// Bytes with a fixed address.
    private final class Bytes {
        private let buffer: UnsafeMutableRawBufferPointer
        init(count: Int, then tail: [UInt8]) {
            buffer = .allocate(byteCount: count + tail.count, alignment: 8)
            buffer.initializeMemory(as: UInt8.self, repeating: 0)
            UnsafeMutableRawBufferPointer(rebasing: buffer[count...]).copyBytes(from: tail)
        }
        deinit { buffer.deallocate() }
        var vector: IOVector { IOVector(UnsafeRawBufferPointer(buffer)) }
    }
}
