import CReactor
import Reactor

@testable import Gateway

/// A segment of a journal: what was written whole is read as it was, what is torn or rotten is never taken for a parcel.
///
/// Input: what to write, batch by batch, then what to spoil, as small numbers.
///
/// ```text
/// 0 n size…  a batch of n parcels     1 n  settles of n of them     2  what was written so far is synced
/// 3 at byte  one byte is another      4 at  the file ends there      5 at  a sector of zeros      6  another life
/// 7          any segment and record headers, from the rest
/// ```
enum JournalTarget {
    private static let life = JournalFormat.Life(journal: 0xfeed_face_cafe_f00d, generation: 9)
    private static let segmentBytes = JournalFormat.segmentMinBytes

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        var segment = Segment()
        for _ in 0..<40 {
            switch input.byte() & 7 {
            case 0: segment.add((0...Int(input.byte() & 3)).map { _ in Int(input.number() & 0x1fff) })
            case 1: segment.settle(Int(input.byte() & 7))
            case 2: segment.syncedEnd = segment.end
            case 3: segment.spoil(Int(input.number()) % segmentBytes, input.byte())
            case 4: segment.cut(at: Int(input.number()) % segmentBytes)
            case 5: segment.zero(Int(input.number()) % segmentBytes)
            case 6: segment.nextLife()
            default: return anyHeaders(input.all(), segment)
            }
        }
        segment.judge(knownEnd: nil)
        segment.judge(knownEnd: segment.syncedEnd)
    }

    private static func anyHeaders(_ bytes: [UInt8], _ segment: Segment) {
        bytes.withUnsafeBytes { raw in
            if let header = JournalSegmentHeader(raw) {
                require(header.encoded().withUnsafeBytes { JournalSegmentHeader($0) } == header, "a segment header")
            }
            _ = JournalRecordHeader(raw, at: 64, life)
            _ = JournalBatchHeader(raw, at: 0, life)
            _ = JournalScan(raw, life, knownEnd: bytes.count)
        }
        segment.judge(knownEnd: nil)
    }

    private struct Segment {
        private struct Written {
            let offset: Int
            let id: QueueID
            let batch: Range<Int>
            let recordBytes: Int
        }

        private var bytes = [UInt8](repeating: 0, count: segmentBytes)
        private var life = JournalTarget.life
        private var written: [Written] = []
        private var batches: [Range<Int>] = []
        /// Of each batch, the bytes that say something: its zeros may be anything.
        private var parts: [[Range<Int>]] = []
        private var marks: [Int] = []
        /// Places of bytes that are not what was written.
        private var spoiled: Set<Int> = []
        private var original: [Int: UInt8] = [:]
        private(set) var end = JournalFormat.blockBytes
        var syncedEnd = JournalFormat.blockBytes
        private var count: UInt32 = 0

        mutating func add(_ sizes: [Int]) {
            let sizes = sizes.filter { $0 < segmentBytes }
            let total = sizes.reduce(64) { $0 + JournalFormat.padded(64 + 4 + $1, to: 64) }
            guard end + JournalFormat.padded(total, to: JournalFormat.blockBytes) <= bytes.count, spoiled.isEmpty else {
                return
            }
            let first = count
            write(sizes.count, total) { target, at, life, number in
                let size = sizes[number]
                var header = JournalRecordHeader(kind: .parcel, id: Self.id(first, number), gatewayID: 3)
                (header.headBytes, header.contentBytes) = (4, size)
                let text = [UInt8](repeating: UInt8(truncatingIfNeeded: size), count: 4 + size)
                text.withUnsafeBytes { raw in
                    header.headCRC = cr_crc32c(0, raw.baseAddress, 4)
                    header.contentCRC = cr_crc32c(0, raw.baseAddress! + 4, size)
                    (target + 64).copyMemory(from: raw.baseAddress!, byteCount: raw.count)
                }
                header.write(target, at: at, life)
                return header
            }
        }

        mutating func settle(_ count: Int) {
            let total = 64 + 64 * count
            guard count > 0, end + JournalFormat.blockBytes <= bytes.count, spoiled.isEmpty else { return }
            let first = self.count
            write(count, total) { target, at, life, number in
                var header = JournalRecordHeader(kind: .settle, id: Self.id(first, number), gatewayID: 3)
                (header.settledGeneration, header.settledOffset) = (life.generation, 64 * number)
                header.write(target, at: at, life)
                return header
            }
        }

        private static func id(_ first: UInt32, _ number: Int) -> QueueID {
            QueueID(milliseconds: 1_767_225_600_000, start: 1, reactor: 0, counter: first + UInt32(number))
        }

        private mutating func write(
            _ records: Int, _ total: Int,
            _ fill: (UnsafeMutableRawPointer, Int, JournalFormat.Life, Int) -> JournalRecordHeader
        ) {
            let batch = end..<(end + total)
            let (end, syncedEnd) = (end, syncedEnd)
            original = [:]
            var at = end + 64
            var headers: [(Int, JournalRecordHeader)] = []
            bytes.withUnsafeMutableBytes { raw in
                for number in 0..<records {
                    let header = fill(raw.baseAddress! + at, at, life, number)
                    headers.append((at, header))
                    at += header.recordBytes
                }
                JournalBatchHeader(bytes: total, records: records, syncedEnd: syncedEnd)
                    .write(raw.baseAddress! + end, at: end, life)
            }
            for (offset, header) in headers where header.kind == .parcel {
                written.append(
                    Written(offset: offset, id: header.id, batch: batch, recordBytes: header.recordBytes))
            }
            batches.append(batch)
            parts.append(
                [batch.lowerBound..<batch.lowerBound + 64]
                    + headers.map { offset, header in
                        offset..<offset + 64 + header.headBytes + header.contentBytes
                    })
            marks.append(syncedEnd)
            count += UInt32(records)
            self.end = end + JournalFormat.padded(total, to: JournalFormat.blockBytes)
        }

        mutating func spoil(_ at: Int, _ value: UInt8) {
            guard at < bytes.count, bytes[at] != value else { return }
            let was = original[at] ?? bytes[at]
            original[at] = was
            bytes[at] = value
            if value == was { spoiled.remove(at) } else { spoiled.insert(at) }
        }

        mutating func zero(_ at: Int) {
            let sector = at / 512 * 512
            for at in sector..<sector + 512 { spoil(at, 0) }
        }

        mutating func cut(at offset: Int) {
            guard offset >= JournalFormat.blockBytes, offset < bytes.count else { return }
            for at in offset..<max(offset, min(end, bytes.count)) { spoiled.insert(at) }
            bytes.removeSubrange(offset...)
        }

        /// The file is used again: what was written is of another life.
        mutating func nextLife() {
            guard spoiled.isEmpty else { return }
            original = [:]
            life.generation += 1
            (written, batches, parts, marks) = ([], [], [], [])
            (end, syncedEnd) = (JournalFormat.blockBytes, JournalFormat.blockBytes)
        }

        func judge(knownEnd: Int?) {
            let scan = bytes.withUnsafeBytes { JournalScan($0, life, knownEnd: knownEnd) }
            require(scan.end <= max(bytes.count, JournalFormat.blockBytes), "the log's end")
            for damage in scan.damages { require(damage.range.upperBound <= bytes.count, "damage beyond the file") }
            let limit = min(knownEnd ?? .max, bytes.count)
            // Only what was written, and never what has changed.
            for parcel in scan.parcels {
                guard let match = written.first(where: { $0.offset == parcel.offset }) else {
                    fail("a parcel at \(parcel.offset) that was not written")
                }
                requireSame(parcel.header.id, match.id, "whose record it is")
                let covered = match.offset..<(match.offset + 68 + parcel.header.contentBytes)
                require(!spoiled.contains(where: { covered.contains($0) }), "a spoiled record was taken")
            }
            let isBad = parts.map { $0.contains { range in spoiled.contains { range.contains($0) } } }
            // All whole batches up to the first that isn't, and those that are known to have been synced.
            for (at, batch) in batches.enumerated() where batch.upperBound <= limit && !isBad[at] {
                let firstBad = batches.indices.first { isBad[$0] || batches[$0].upperBound > limit } ?? batches.count
                guard at < firstBad else { continue }
                for record in written where record.batch == batch {
                    require(scan.parcels.contains { $0.offset == record.offset }, "a whole record was not found")
                }
            }
            // Behind what is not whole and was never synced, nothing counts.
            if knownEnd == nil, let bad = isBad.firstIndex(of: true),
                !marks.contains(where: { $0 > batches[bad].lowerBound })
            {
                require(
                    !scan.parcels.contains { $0.offset >= batches[bad].lowerBound } && scan.damages.isEmpty,
                    "the log went on behind its end")
            }
        }
    }
}
