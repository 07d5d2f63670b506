import CReactor

/// What one segment holds, read from its bytes: total for any bytes, no I/O.
///
/// The log of a segment that has a successor ends where the successor says. The log of the last one ends at the first batch that is
/// not whole, unless a later batch says that it had been synced: then it is damage, and the log goes on behind it.
struct JournalScan: Sendable {
    struct Parcel: Equatable, Sendable {
        var header: JournalRecordHeader
        var offset: Int
    }

    struct Settle: Equatable, Sendable {
        var generation: UInt64
        var offset: Int
        var id: QueueID
        var gatewayID: UInt64
    }

    /// Synced bytes that are not what was written.
    struct Damage: Equatable, Sendable {
        var range: Range<Int>
        /// Of the record, if its header can be read.
        var id: QueueID?
    }

    private(set) var parcels: [Parcel] = []
    private(set) var settles: [Settle] = []
    private(set) var damages: [Damage] = []
    /// Behind the last whole batch.
    private(set) var end = JournalFormat.blockBytes

    /// - Parameters:
    ///   - segment: the whole file.
    ///   - knownEnd: as the successor says; nil: there is none.
    init(_ segment: UnsafeRawBufferPointer, _ life: JournalFormat.Life, knownEnd: Int?) {
        let limit = min(knownEnd ?? segment.count, segment.count)
        let log = UnsafeRawBufferPointer(rebasing: segment[..<limit])
        var at = JournalFormat.blockBytes
        while at < limit {
            if let header = JournalBatchHeader(log, at: at, life) {
                let batch = Batch(log, at, header, life)
                let next = at + JournalFormat.padded(header.bytes, to: JournalFormat.blockBytes)
                if batch.isWhole || knownEnd != nil || Self.nextBatch(log, after: at, life, synced: at) != nil {
                    parcels += batch.parcels
                    settles += batch.settles
                    damages += batch.damages
                    (at, end) = (next, min(next, limit))
                    continue
                }
            } else if let next = Self.nextBatch(log, after: at, life, synced: knownEnd == nil ? at : nil) {
                damages.append(Damage(range: at..<next, id: nil))
                at = next
                continue
            } else if knownEnd != nil {
                damages.append(Damage(range: at..<limit, id: nil))
                end = limit
            }
            return
        }
    }

    /// The next place where a batch of this life begins.
    ///
    /// - Parameter synced: only if it or one behind it knows that the log was synced beyond this place.
    private static func nextBatch(
        _ log: UnsafeRawBufferPointer, after offset: Int, _ life: JournalFormat.Life, synced place: Int?
    ) -> Int? {
        var first: Int?
        var at = offset + JournalFormat.blockBytes
        while at < log.count {
            if let header = JournalBatchHeader(log, at: at, life) {
                first = first ?? at
                if place == nil || header.syncedEnd > place! { return first }
            }
            at += JournalFormat.blockBytes
        }
        return nil
    }

    /// One batch whose header is right.
    private struct Batch {
        var parcels: [Parcel] = []
        var settles: [Settle] = []
        var damages: [Damage] = []
        var isWhole: Bool { damages.isEmpty }

        init(
            _ log: UnsafeRawBufferPointer, _ start: Int, _ header: JournalBatchHeader, _ life: JournalFormat.Life
        ) {
            let end = start + header.bytes
            var at = start + JournalFormat.unitBytes
            for _ in 0..<header.records {
                let rest = UnsafeRawBufferPointer(rebasing: log[min(at, end)..<end])
                guard let record = JournalRecordHeader(rest, at: at, life), record.recordBytes <= rest.count else {
                    damages.append(Damage(range: min(at, end)..<end, id: nil))
                    return
                }
                switch record.kind {
                case .settle:
                    settles.append(
                        Settle(
                            generation: record.settledGeneration, offset: record.settledOffset, id: record.id,
                            gatewayID: record.gatewayID))
                case .parcel where record.isIntact(rest): parcels.append(Parcel(header: record, offset: at))
                case .parcel: damages.append(Damage(range: at..<at + record.recordBytes, id: record.id))
                }
                at += record.recordBytes
            }
            if at != end { damages.append(Damage(range: at..<end, id: nil)) }
        }
    }
}

extension JournalRecordHeader {
    /// The record's head, in `record`, which begins with its header.
    func head(_ record: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: record[JournalFormat.unitBytes..<JournalFormat.unitBytes + headBytes])
    }

    func content(_ record: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        let start = JournalFormat.unitBytes + headBytes
        return UnsafeRawBufferPointer(rebasing: record[start..<start + contentBytes])
    }

    /// Head and content have their checksums.
    ///
    /// - Parameter record: at least `recordBytes`, from the header on.
    func isIntact(_ record: UnsafeRawBufferPointer) -> Bool {
        let (head, content) = (head(record), content(record))
        return cr_crc32c(0, head.baseAddress, head.count) == headCRC
            && cr_crc32c(0, content.baseAddress, content.count) == contentCRC
    }
}
