import CReactor
import DequeModule
import Reactor

/// What one write and one sync of a journal cover.
final class JournalBatch {
    enum Kind {
        /// Records.
        case log
        /// A new life of the segment begins (design rule J1).
        case header
    }

    let kind: Kind
    let segment: JournalSegment
    let start: Int
    /// In the segment, a multiple of the block.
    private(set) var end: Int
    private(set) var messages: [IncomingMessage] = []
    private(set) var ends: [JournalEnd] = []
    /// Of message memory.
    private(set) var memoryBytes = 0
    let startedAt: UInt64
    /// nil: it is on the lane. 0: written and synced; else the `errno`.
    var fault: Int32?
    var wasSync = false
    private let buffer: UnsafeMutableRawPointer
    private var vectors: [IOVector] = []

    /// Records of one batch at most: what one callback prepares.
    private static let recordsMax = 2_000

    /// The first block of `segment`.
    init(header: JournalSegmentHeader, of segment: JournalSegment, now: UInt64) {
        (kind, self.segment, startedAt) = (.header, segment, now)
        (start, end) = (0, JournalFormat.blockBytes)
        buffer = .allocate(byteCount: JournalFormat.blockBytes, alignment: JournalFormat.blockBytes)
        header.encoded().withUnsafeBytes { buffer.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        vectors = [IOVector(UnsafeRawBufferPointer(start: buffer, count: JournalFormat.blockBytes))]
    }

    /// Takes from the front of what waits as much as the segment has room for; nil: not even the first fits.
    init?(
        of segment: JournalSegment, core: Int, messages waiting: inout Deque<IncomingMessage>,
        ends waitingEnds: inout Deque<JournalEnd>, now: UInt64
    ) {
        let room = segment.bytes - segment.end
        var bytes = JournalFormat.unitBytes
        var metaBytes = JournalFormat.unitBytes
        var count = 0
        var parcels = 0
        while count < waiting.count, parcels < Self.recordsMax {
            var next = bytes
            for parcel in waiting[count].parcels { next += parcel.recordBytes(waiting[count].content.count) }
            guard next <= room else { break }
            for parcel in waiting[count].parcels { metaBytes += 2 * JournalFormat.unitBytes + parcel.head.count }
            parcels += waiting[count].parcels.count
            bytes = next
            count += 1
        }
        let endCount = min(
            waitingEnds.count, Self.recordsMax, (room - bytes) / JournalFormat.unitBytes)
        guard count + max(0, endCount) > 0 else { return nil }
        bytes += endCount * JournalFormat.unitBytes
        metaBytes += endCount * JournalFormat.unitBytes
        (kind, self.segment, startedAt, start) = (.log, segment, now, segment.end)
        end = segment.end + JournalFormat.padded(bytes, to: JournalFormat.blockBytes)
        buffer = .allocate(byteCount: metaBytes, alignment: JournalFormat.unitBytes)
        messages.reserveCapacity(count)
        for _ in 0..<count { messages.append(waiting.removeFirst()) }
        ends = Array(waitingEnds.prefix(endCount))
        waitingEnds.removeFirst(endCount)
        JournalBatchHeader(bytes: bytes, records: parcels + endCount, syncedEnd: segment.syncedEnd)
            .write(buffer, at: start, segment.life)
        fill(core, parcels: parcels)
        let zeros = end - start - bytes
        if zeros > 0 { vectors.append(JournalZeros.vector(zeros)) }
    }

    deinit { buffer.deallocate() }

    private func fill(_ core: Int, parcels: Int) {
        let life = segment.life
        vectors.reserveCapacity(3 * parcels + 2)
        var meta = buffer + JournalFormat.unitBytes
        var run = buffer
        var offset = start + JournalFormat.unitBytes
        for message in messages {
            let content = message.content
            memoryBytes += content.allocatedBytes
            for parcel in message.parcels {
                var header = JournalRecordHeader(kind: .parcel, id: message.id, gatewayID: parcel.store.gatewayID)
                header.headBytes = parcel.head.count
                header.contentBytes = content.count
                header.linesBeginningWithDot = content.linesBeginningWithDot
                header.contentCRC = content.crc
                parcel.head.withUnsafeBytes {
                    header.headCRC = cr_crc32c(0, $0.baseAddress, $0.count)
                    (meta + JournalFormat.unitBytes).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
                }
                header.write(meta, at: offset, life)
                parcel.place = JournalPlace(
                    core: core, slot: segment.slot, generation: segment.generation, offset: offset)
                meta += JournalFormat.unitBytes + header.headBytes
                vectors.append(IOVector(iov_base: run, iov_len: meta - run))
                content.forEachPiece { vectors.append(IOVector($0)) }
                run = meta
                let zeros = header.recordBytes - JournalFormat.unitBytes - header.headBytes - header.contentBytes
                meta.initializeMemory(as: UInt8.self, repeating: 0, count: zeros)
                meta += zeros
                offset += header.recordBytes
            }
        }
        for end in ends {
            var header = JournalRecordHeader(kind: .settle, id: end.id, gatewayID: end.store.gatewayID)
            header.settledGeneration = end.place.generation
            header.settledOffset = end.place.offset
            header.write(meta, at: offset, life)
            meta += JournalFormat.unitBytes
            offset += JournalFormat.unitBytes
        }
        if meta > run { vectors.append(IOVector(iov_base: run, iov_len: meta - run)) }
    }

    /// One vectored write and one sync.
    func makeTask(_ token: Token, device: Int) -> FileTask {
        let task = FileTask(token: token, device: device)
        task.steps = [.write(segment.handle, at: Int64(start), vectors), .syncLog(segment.handle)]
        task.context = self
        return task
    }

    /// The lane has answered.
    func judge(_ task: FileTask) {
        let (write, sync) = (task.outcomes[0], task.outcomes[1])
        wasSync = write.isDone
        if !write.isDone {
            fault = write.fault
        } else if write.value != end - start {
            fault = EIO
        } else {
            fault = sync.isDone ? 0 : sync.fault
        }
    }
}

/// Zeros with a fixed address, for what is padded.
enum JournalZeros {
    static let bytes = JournalFormat.blockBytes
    private struct Memory: @unchecked Sendable {
        let base = UnsafeMutableRawPointer.allocate(byteCount: JournalZeros.bytes, alignment: JournalFormat.blockBytes)
        init() { base.initializeMemory(as: UInt8.self, repeating: 0, count: JournalZeros.bytes) }
    }
    private static let memory = Memory()

    /// - Parameter count: at most `bytes`.
    static func vector(_ count: Int) -> IOVector { IOVector(iov_base: memory.base, iov_len: count) }
}

/// One segment in one of its lives.
final class JournalSegment {
    let slot: Int
    let handle: FileHandle
    let bytes: Int
    let journal: UInt64
    var generation: UInt64 = 0
    /// Behind the last batch that was given to the lane, and behind the last that is synced.
    var end = JournalFormat.blockBytes
    var syncedEnd = JournalFormat.blockBytes
    /// When its last record was written, and more.
    var sealedAt: UInt64 = 0
    /// A write or sync failed: nothing behind `syncedEnd` counts, and nothing more is written (design rule J4).
    var hasFailed = false
    /// Where its parcels' records begin, ascending, in units; the highest bit: it has ended.
    private var records: [UInt32] = []
    private(set) var live = 0
    private static let ended: UInt32 = 1 << 31

    init(slot: Int, handle: FileHandle, bytes: Int, journal: UInt64) {
        (self.slot, self.handle, self.bytes, self.journal) = (slot, handle, bytes, journal)
    }

    var life: JournalFormat.Life { JournalFormat.Life(journal: journal, generation: generation) }

    func begin(generation: UInt64) {
        self.generation = generation
        (end, syncedEnd, hasFailed) = (JournalFormat.blockBytes, JournalFormat.blockBytes, false)
        records.removeAll(keepingCapacity: true)
        live = 0
    }

    /// A parcel's record became durable. In the order of the log.
    func add(_ place: JournalPlace) {
        records.append(UInt32(place.offset / JournalFormat.unitBytes))
        live += 1
    }

    /// A parcel's end became durable.
    func remove(_ place: JournalPlace) {
        precondition(place.generation == generation & 0xff_ffff, "the end of a parcel whose segment has another life")
        let wanted = UInt32(place.offset / JournalFormat.unitBytes)
        var (low, high) = (0, records.count)
        while low < high {
            let middle = (low + high) / 2
            if records[middle] & ~Self.ended < wanted { low = middle + 1 } else { high = middle }
        }
        precondition(low < records.count && records[low] == wanted, "a parcel ended twice")
        records[low] |= Self.ended
        live -= 1
    }
}
