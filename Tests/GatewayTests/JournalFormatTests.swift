import CReactor
import Reactor
import Testing

@testable import Gateway

/// The bytes of a segment, without a disk.
struct JournalFormatTests {
    private static let life = JournalFormat.Life(journal: 0x1234_5678_9abc_def1, generation: 7)
    private static let segmentBytes = JournalFormat.segmentMinBytes

    /// A segment that is being filled.
    private struct Segment {
        var bytes = [UInt8](repeating: 0, count: segmentBytes)
        var life = JournalFormatTests.life
        var end = JournalFormat.blockBytes
        var syncedEnd = JournalFormat.blockBytes
        private(set) var batches: [Range<Int>] = []

        static func id(_ number: UInt32) -> QueueID {
            QueueID(milliseconds: 1_767_225_600_000, start: 3, reactor: 1, counter: number)
        }

        /// One batch of a parcel for each text, then a settle for each place. Returns where the parcels' records begin.
        @discardableResult
        mutating func add(_ texts: [(UInt32, String)], settles: [Int] = []) -> [Int] {
            var places: [Int] = []
            let start = end
            var at = start + JournalFormat.unitBytes
            bytes.withUnsafeMutableBytes { raw in
                for (number, text) in texts {
                    let (head, content) = (Array("head \(number)".utf8), Array(text.utf8))
                    var header = JournalRecordHeader(kind: .parcel, id: Self.id(number), gatewayID: 5)
                    (header.headBytes, header.contentBytes) = (head.count, content.count)
                    header.headCRC = head.withUnsafeBytes { cr_crc32c(0, $0.baseAddress, $0.count) }
                    header.contentCRC = content.withUnsafeBytes { cr_crc32c(0, $0.baseAddress, $0.count) }
                    header.linesBeginningWithDot = 2
                    header.write(raw.baseAddress! + at, at: at, life)
                    UnsafeMutableRawBufferPointer(rebasing: raw[(at + 64)...]).copyBytes(from: head + content)
                    places.append(at)
                    at += header.recordBytes
                }
                for place in settles {
                    var header = JournalRecordHeader(kind: .settle, id: Self.id(9), gatewayID: 5)
                    (header.settledGeneration, header.settledOffset) = (life.generation, place)
                    header.write(raw.baseAddress! + at, at: at, life)
                    at += header.recordBytes
                }
                JournalBatchHeader(bytes: at - start, records: texts.count + settles.count, syncedEnd: syncedEnd)
                    .write(raw.baseAddress! + start, at: start, life)
            }
            end = start + JournalFormat.padded(at - start, to: JournalFormat.blockBytes)
            batches.append(start..<end)
            return places
        }

        mutating func sync() { syncedEnd = end }

        func scan(knownEnd: Int? = nil, as life: JournalFormat.Life? = nil) -> JournalScan {
            bytes.withUnsafeBytes { JournalScan($0, life ?? self.life, knownEnd: knownEnd) }
        }
    }

    @Test("headers are written and read the same") func headers() {
        let header = JournalSegmentHeader(life: Self.life, segmentBytes: Self.segmentBytes, predecessorEnd: 8192)
        #expect(header.encoded().withUnsafeBytes { JournalSegmentHeader($0) } == header)
        let free = JournalSegmentHeader.free(segmentBytes: Self.segmentBytes)
        #expect(free.encoded().withUnsafeBytes { JournalSegmentHeader($0) }?.isFree == true)
        for at in 0..<44 {
            var bytes = header.encoded()
            bytes[at] ^= 0x10
            #expect(bytes.withUnsafeBytes { JournalSegmentHeader($0) } == nil, "byte \(at)")
        }
        let place = JournalPlace(
            core: 255, slot: 4095, generation: 0xff_fffe, offset: JournalFormat.segmentMaxBytes - 64)
        #expect(place.core == 255 && place.slot == 4095 && place.generation == 0xff_fffe)
        #expect(place.offset == JournalFormat.segmentMaxBytes - 64 && !place.isNone)
    }

    @Test("parcels and settles are written and read the same") func records() {
        var segment = Segment()
        let places = segment.add([(1, "one\r\n"), (2, ""), (3, String(repeating: "three ", count: 2_000))])
        segment.sync()
        segment.add([], settles: [places[1]])
        let scan = segment.scan()
        #expect(scan.parcels.map(\.offset) == places && scan.parcels.map(\.header.id) == (1...3).map { Segment.id($0) })
        #expect(scan.parcels[2].header.contentBytes == 12_000 && scan.parcels[0].header.linesBeginningWithDot == 2)
        #expect(scan.settles.map(\.offset) == [places[1]] && scan.settles[0].generation == 7)
        #expect(scan.damages.isEmpty && scan.end == segment.end)
    }

    @Test("J1: what another life or another journal left is not read, wherever it lies") func otherLife() {
        var old = Segment()
        old.life.generation = 6
        for number in 1...6 { old.add([(UInt32(number), "old \(number)")]) }
        #expect(old.scan(as: Self.life).parcels.isEmpty)
        var other = Self.life
        other.journal ^= 1
        #expect(old.scan(as: JournalFormat.Life(journal: other.journal, generation: 6)).parcels.isEmpty)
        // The next life over it, shorter.
        var next = Segment(bytes: old.bytes)
        next.add([(11, "new")])
        let scan = next.scan()
        #expect(scan.parcels.map(\.header.id) == [Segment.id(11)] && scan.damages.isEmpty && scan.end == next.end)
        // The same bytes elsewhere in the segment are none either.
        var moved = next.bytes
        moved.replaceSubrange(16_384..<20_480, with: next.bytes[4096..<8192])
        #expect(moved.withUnsafeBytes { JournalBatchHeader($0, at: 16_384, Self.life) } == nil)
    }

    @Test("J2: the log ends at the first batch that is not whole and was never known to be synced") func tornEnd() {
        var segment = Segment()
        segment.add([(1, "one")])
        segment.sync()
        segment.add([(2, "two"), (3, "three")])
        segment.add([(4, "four")])
        for sector in stride(from: segment.batches[1].lowerBound, to: segment.batches[1].lowerBound + 512, by: 512) {
            var torn = segment
            for at in sector..<sector + 512 { torn.bytes[at] = 0xee }
            let scan = torn.scan()
            #expect(scan.parcels.map(\.header.id) == [Segment.id(1)] && scan.damages.isEmpty)
            #expect(scan.end == segment.batches[0].upperBound)
        }
    }

    @Test("J2: a bad batch below what was known to be synced is damage, and the log goes on behind it") func damage() {
        var segment = Segment()
        segment.add([(1, "one")])
        segment.add([(2, "two"), (3, "three")])
        segment.sync()
        segment.add([(4, "four")])
        var rotten = segment
        rotten.bytes[segment.batches[1].lowerBound + 20] ^= 1
        var scan = rotten.scan()
        #expect(scan.parcels.map(\.header.id) == [Segment.id(1), Segment.id(4)] && scan.end == segment.end)
        #expect(scan.damages == [JournalScan.Damage(range: segment.batches[1], id: nil)])
        // One content: the others of its batch stand.
        rotten = segment
        rotten.bytes[segment.batches[1].lowerBound + 64 + 64 + 7] ^= 1
        scan = rotten.scan()
        #expect(scan.parcels.map(\.header.id) == [1, 3, 4].map { Segment.id($0) })
        #expect(scan.damages.map(\.id) == [Segment.id(2)])
    }

    @Test("J3, J4: a successor says where the log ended: behind that nothing counts, before it all must be whole")
    func knownEnd() {
        var segment = Segment()
        segment.add([(1, "one")])
        segment.sync()
        segment.add([(2, "refused")])
        #expect(segment.scan().parcels.count == 2)
        let scan = segment.scan(knownEnd: segment.batches[0].upperBound)
        #expect(scan.parcels.map(\.header.id) == [Segment.id(1)] && scan.damages.isEmpty)
        var rotten = segment
        rotten.bytes[segment.batches[1].lowerBound] ^= 1
        #expect(rotten.scan(knownEnd: segment.end).damages.count == 1)
        #expect(rotten.scan().damages.isEmpty)
    }

    @Test("J10: any bytes have a scan, and what it says lies within them") func anyBytes() {
        var random = SimulatedRandom(seed: 3)
        var segment = Segment()
        for number in 1...5 { segment.add([(UInt32(number), String(repeating: "x", count: number * 900))]) }
        for _ in 0..<300 {
            var bytes = segment.bytes
            for _ in 0...random.below(6) { bytes[random.below(segment.end)] = UInt8(random.below(256)) }
            let count = random.below(2) == 0 ? bytes.count : random.below(bytes.count)
            let scan = bytes[..<count].withUnsafeBytes {
                JournalScan($0, Self.life, knownEnd: random.below(2) == 0 ? nil : random.below(Self.segmentBytes))
            }
            for parcel in scan.parcels { #expect(parcel.offset + parcel.header.recordBytes <= count) }
            for damage in scan.damages { #expect(damage.range.upperBound <= count) }
        }
    }
}
