import CReactor

/// The form of a journal's segments: bytes only, no I/O. All numbers are little-endian.
///
/// ```text
/// segment   header block │ batch │ batch │ …                       4096 bytes; batches begin at multiples of 4096
/// batch     header 64 │ record │ record │ … │ zeros                what one sync covers
/// record    header 64 │ head │ content │ zeros                     a parcel; begins at a multiple of 64
///           header 64                                              a settle: it names the parcel's record
/// ```
///
/// Every checksum of a batch or record header begins with the journal's id (random, one a start and reactor), the segment's generation
/// and the offset: what an earlier life of the file left, or what a sender put into a message, is never read as alive.
enum JournalFormat {
    /// What a commit is padded to. A synced block is not written again in the same life of its segment.
    static let blockBytes = 4096
    /// Headers' size, and what records are padded to.
    static let unitBytes = 64
    static let segmentMaxBytes = 1 << 26
    static let segmentMinBytes = 1 << 16
    /// Segments of one journal.
    static let slotsMax = 1 << 12

    static func padded(_ count: Int, to unit: Int) -> Int { (count + unit - 1) / unit * unit }

    /// Which life of which journal some bytes belong to.
    struct Life: Equatable, Sendable {
        var journal: UInt64
        var generation: UInt64

        /// The checksum of a header, without its first eight bytes.
        fileprivate func checksum(_ header: UnsafeRawBufferPointer, at offset: Int) -> UInt32 {
            let seed = (journal.littleEndian, generation.littleEndian, UInt64(offset).littleEndian)
            let crc = withUnsafeBytes(of: seed) { cr_crc32c(0, $0.baseAddress, $0.count) }
            return cr_crc32c(crc, header.baseAddress! + 8, unitBytes - 8)
        }
    }
}

/// Where a parcel's record stands, in eight bytes. Good for one start of the server.
struct JournalPlace: Hashable, Sendable {
    /// 0: in no journal.
    let raw: UInt64

    static let none = JournalPlace(raw: 0)
    var isNone: Bool { raw == 0 }

    init(raw: UInt64) { self.raw = raw }

    /// - Parameters:
    ///   - generation: 1 or more; its lower 24 bits count.
    ///   - offset: of the record's header in the segment.
    init(core: Int, slot: Int, generation: UInt64, offset: Int) {
        raw =
            UInt64(core) << 56 | UInt64(slot) << 44 | (generation & 0xff_ffff) << 20
            | UInt64(offset / JournalFormat.unitBytes)
    }

    /// The reactor whose journal it is.
    var core: Int { Int(raw >> 56) }
    var slot: Int { Int(raw >> 44 & 0xfff) }
    var generation: UInt64 { raw >> 20 & 0xff_ffff }
    var offset: Int { Int(raw & 0xf_ffff) * JournalFormat.unitBytes }
}

/// The first block of a segment; what counts of it fits one sector, so it is there as it was or as it is.
struct JournalSegmentHeader: Equatable, Sendable {
    var life: JournalFormat.Life
    var segmentBytes: Int
    /// Where the log ended in the life with the generation before; 0: this is the first.
    var predecessorEnd: Int

    private static let magic: UInt64 = 0x314e_524a_4e54_5350

    /// A file that holds nothing: it may be written over.
    static func free(segmentBytes: Int) -> JournalSegmentHeader {
        JournalSegmentHeader(
            life: JournalFormat.Life(journal: 0, generation: 0), segmentBytes: segmentBytes, predecessorEnd: 0)
    }

    var isFree: Bool { life.generation == 0 }

    /// One block.
    func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: JournalFormat.blockBytes)
        bytes.withUnsafeMutableBytes { raw in
            raw.storeBytes(of: Self.magic.littleEndian, toByteOffset: 0, as: UInt64.self)
            raw.storeBytes(of: life.journal.littleEndian, toByteOffset: 8, as: UInt64.self)
            raw.storeBytes(of: life.generation.littleEndian, toByteOffset: 16, as: UInt64.self)
            raw.storeBytes(of: UInt64(segmentBytes).littleEndian, toByteOffset: 24, as: UInt64.self)
            raw.storeBytes(of: UInt64(predecessorEnd).littleEndian, toByteOffset: 32, as: UInt64.self)
            let crc = cr_crc32c(0, raw.baseAddress, 40)
            raw.storeBytes(of: crc.littleEndian, toByteOffset: 40, as: UInt32.self)
        }
        return bytes
    }

    /// nil: not a header that we wrote.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= JournalFormat.unitBytes, bytes.word(0) == Self.magic,
            bytes.half(40) == cr_crc32c(0, bytes.baseAddress, 40)
        else { return nil }
        life = JournalFormat.Life(journal: bytes.word(8), generation: bytes.word(16))
        guard bytes.word(24) <= UInt64(JournalFormat.segmentMaxBytes), bytes.word(32) <= bytes.word(24) else {
            return nil
        }
        (segmentBytes, predecessorEnd) = (Int(bytes.word(24)), Int(bytes.word(32)))
        guard segmentBytes >= JournalFormat.segmentMinBytes, segmentBytes % JournalFormat.blockBytes == 0,
            predecessorEnd % JournalFormat.blockBytes == 0, isFree || life.generation > 0
        else { return nil }
    }

    init(life: JournalFormat.Life, segmentBytes: Int, predecessorEnd: Int) {
        (self.life, self.segmentBytes, self.predecessorEnd) = (life, segmentBytes, predecessorEnd)
    }
}

/// The start of a batch.
struct JournalBatchHeader: Equatable, Sendable {
    /// Of header and records, a multiple of 64, without the zeros up to the next block.
    var bytes: Int
    var records: Int
    /// The log was known to be synced up to here when this batch was made.
    var syncedEnd: Int

    private static let magic: UInt32 = 0x3142_4a50

    func write(_ target: UnsafeMutableRawPointer, at offset: Int, _ life: JournalFormat.Life) {
        target.initializeMemory(as: UInt8.self, repeating: 0, count: JournalFormat.unitBytes)
        target.storeBytes(of: Self.magic.littleEndian, as: UInt32.self)
        target.storeBytes(of: UInt64(bytes).littleEndian, toByteOffset: 8, as: UInt64.self)
        target.storeBytes(of: UInt64(syncedEnd).littleEndian, toByteOffset: 16, as: UInt64.self)
        target.storeBytes(of: UInt32(records).littleEndian, toByteOffset: 24, as: UInt32.self)
        let crc = life.checksum(UnsafeRawBufferPointer(start: target, count: JournalFormat.unitBytes), at: offset)
        target.storeBytes(of: crc.littleEndian, toByteOffset: 4, as: UInt32.self)
    }

    /// nil: no batch of this life begins there.
    init?(_ segment: UnsafeRawBufferPointer, at offset: Int, _ life: JournalFormat.Life) {
        guard let header = segment.unit(offset), header.half(0) == Self.magic,
            header.half(4) == life.checksum(header, at: offset)
        else { return nil }
        guard header.word(8) <= UInt64(segment.count - offset), header.word(16) <= UInt64(offset) else { return nil }
        (bytes, syncedEnd, records) = (Int(header.word(8)), Int(header.word(16)), Int(header.half(24)))
        guard bytes >= JournalFormat.unitBytes, bytes % JournalFormat.unitBytes == 0 else { return nil }
    }

    init(bytes: Int, records: Int, syncedEnd: Int) {
        (self.bytes, self.records, self.syncedEnd) = (bytes, records, syncedEnd)
    }
}

/// The start of a record.
struct JournalRecordHeader: Equatable, Sendable {
    enum Kind: UInt8 {
        /// A parcel, with head and content as in its mail file.
        case parcel = 1
        /// The end of a parcel in this journal: it left, or its mail directory has it.
        case settle = 2
    }

    var kind: Kind
    var id: QueueID
    var gatewayID: UInt64
    var headBytes = 0
    var contentBytes = 0
    var linesBeginningWithDot = 0
    var contentCRC: UInt32 = 0
    var headCRC: UInt32 = 0
    /// Of a settle: where the parcel's record begins, and in which generation of this journal.
    var settledGeneration: UInt64 = 0
    var settledOffset = 0

    private static let magic: UInt32 = 0x524a

    /// With all that belongs to it, a multiple of 64.
    var recordBytes: Int {
        JournalFormat.padded(JournalFormat.unitBytes + headBytes + contentBytes, to: JournalFormat.unitBytes)
    }

    func write(_ target: UnsafeMutableRawPointer, at offset: Int, _ life: JournalFormat.Life) {
        target.initializeMemory(as: UInt8.self, repeating: 0, count: JournalFormat.unitBytes)
        target.storeBytes(of: Self.magic.littleEndian, as: UInt32.self)
        target.storeBytes(of: kind.rawValue, toByteOffset: 8, as: UInt8.self)
        target.storeBytes(of: UInt32(headBytes).littleEndian, toByteOffset: 12, as: UInt32.self)
        target.storeBytes(of: UInt32(contentBytes).littleEndian, toByteOffset: 16, as: UInt32.self)
        target.storeBytes(
            of: UInt32(clamping: linesBeginningWithDot).littleEndian, toByteOffset: 20, as: UInt32.self)
        target.storeBytes(of: contentCRC.littleEndian, toByteOffset: 24, as: UInt32.self)
        target.storeBytes(of: headCRC.littleEndian, toByteOffset: 28, as: UInt32.self)
        target.storeBytes(of: id.high.littleEndian, toByteOffset: 32, as: UInt64.self)
        target.storeBytes(of: id.low.littleEndian, toByteOffset: 40, as: UInt64.self)
        target.storeBytes(of: gatewayID.littleEndian, toByteOffset: 48, as: UInt64.self)
        let settled = settledGeneration << 20 | UInt64(settledOffset / JournalFormat.unitBytes)
        target.storeBytes(of: settled.littleEndian, toByteOffset: 56, as: UInt64.self)
        let crc = life.checksum(UnsafeRawBufferPointer(start: target, count: JournalFormat.unitBytes), at: offset)
        target.storeBytes(of: crc.littleEndian, toByteOffset: 4, as: UInt32.self)
    }

    /// nil: no record of this life begins there.
    ///
    /// - Parameters:
    ///   - bytes: at least the header; the record's other bytes are not looked at.
    ///   - offset: where the record stands in its segment.
    init?(_ bytes: UnsafeRawBufferPointer, at offset: Int, _ life: JournalFormat.Life) {
        guard let header = bytes.unit(0), header.half(0) == Self.magic,
            header.half(4) == life.checksum(header, at: offset), let kind = Kind(rawValue: header[8])
        else { return nil }
        self.kind = kind
        (headBytes, contentBytes) = (Int(header.half(12)), Int(header.half(16)))
        linesBeginningWithDot = Int(header.half(20))
        (contentCRC, headCRC) = (header.half(24), header.half(28))
        id = QueueID(high: header.word(32), low: header.word(40))
        gatewayID = header.word(48)
        settledGeneration = header.word(56) >> 20
        settledOffset = Int(header.word(56) & 0xf_ffff) * JournalFormat.unitBytes
        guard headBytes <= MailFile.headMaxBytes, contentBytes <= JournalFormat.segmentMaxBytes,
            kind == .parcel || (headBytes == 0 && contentBytes == 0)
        else { return nil }
    }

    init(kind: Kind, id: QueueID, gatewayID: UInt64) {
        (self.kind, self.id, self.gatewayID) = (kind, id, gatewayID)
    }
}

extension UnsafeRawBufferPointer {
    fileprivate func word(_ offset: Int) -> UInt64 {
        UInt64(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    fileprivate func half(_ offset: Int) -> UInt32 {
        UInt32(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    /// The 64 bytes at `offset`; nil: they are not there.
    fileprivate func unit(_ offset: Int) -> UnsafeRawBufferPointer? {
        guard offset >= 0, count >= JournalFormat.unitBytes, offset <= count - JournalFormat.unitBytes else {
            return nil
        }
        return UnsafeRawBufferPointer(rebasing: self[offset..<offset + JournalFormat.unitBytes])
    }
}
