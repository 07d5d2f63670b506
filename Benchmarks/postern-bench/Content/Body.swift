import CReactor

/// The bodies of all messages: slices of one block of text that is made once, so that sending one copies nothing and
/// checking one needs only its number and size.
///
/// The body of message n with size s is: the block's bytes from line `n mod 1024` on, going round, then CRLF. Its
/// checksum is worked out at the first use and kept.
///
/// - Threads: belongs to one; each has its own table of checksums, and the block itself never changes.
final class Bodies {
    /// Largest body, in bytes: a number in the header field has nine digits.
    static let sizeMax = 999_999_999

    /// What is known of the bodies of one size.
    private final class Size {
        let bytes: Int
        let join: CRCJoin
        /// By first line; 0 is "not yet": the one checksum in four thousand million that is 0 is worked out each time.
        var checksums = [UInt32](repeating: 0, count: Block.lineCount)

        init(_ bytes: Int) {
            self.bytes = bytes
            join = CRCJoin(length: bytes)
        }
    }

    private var sizes: [Size] = []

    /// CRC32C of message `number`'s body.
    func checksum(number: Int, size bytes: Int) -> UInt32 {
        let size = entry(bytes)
        let line = Block.line(number)
        if size.checksums[line] == 0 { size.checksums[line] = Self.calculate(line: line, bytes: bytes) }
        return size.checksums[line]
    }

    /// CRC32C of a header section with the checksum `header`, and message `number`'s body behind it.
    func checksum(header: UInt32, number: Int, size bytes: Int) -> UInt32 {
        let body = checksum(number: number, size: bytes)
        return entry(bytes).join.join(header, body)
    }

    private func entry(_ bytes: Int) -> Size {
        // A few sizes, the commonest first after a moment: a search is quicker than a dictionary.
        if let index = sizes.firstIndex(where: { $0.bytes == bytes }) {
            if index > 0 { sizes.swapAt(index, index - 1) }
            return sizes[max(index - 1, 0)]
        }
        // Sizes come from a plan of a few; a stranger's field must not make this grow.
        if sizes.count == 64 { sizes.removeLast() }
        sizes.append(Size(bytes))
        return sizes[sizes.count - 1]
    }

    private static func calculate(line: Int, bytes: Int) -> UInt32 {
        var cursor = BodyCursor(line: line, bytes: bytes)
        var checksum: UInt32 = 0
        while let piece = cursor.next(atMost: .max) {
            checksum = cr_crc32c(checksum, piece.baseAddress, piece.count)
            cursor.advance(piece.count)
        }
        return checksum
    }
}

/// The text that bodies are cut from: lines of 76 letters and CRLF, none beginning with a dot.
enum Block {
    static let lineBytes = 78
    static let lineCount = 1024
    /// One round, in bytes: small enough to stay in a core's cache.
    static let round = lineBytes * lineCount
    /// Bytes behind the round that repeat its beginning, so that a body of usual size is one piece.
    static let overlap = 256 << 10

    /// Never freed, never changed after it was made.
    nonisolated(unsafe) static let bytes: UnsafeMutablePointer<UInt8> = {
        let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: round + overlap)
        let letters = Array("abcdefghijklmnopqrstuvwxyz0123456789 ,;ABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8)
        var state: UInt64 = 0x5851_F42D_4C95_7F2D
        for at in 0..<round {
            switch at % lineBytes {
            case lineBytes - 2: bytes[at] = UInt8(ascii: "\r")
            case lineBytes - 1: bytes[at] = UInt8(ascii: "\n")
            default:
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                bytes[at] = letters[Int(state >> 33) % letters.count]
            }
        }
        for at in 0..<overlap { bytes[round + at] = bytes[at % round] }
        return bytes
    }()

    static func line(_ number: Int) -> Int { number & (lineCount - 1) }
}

/// Where one message's body is being read.
struct BodyCursor {
    private var at: Int
    private var fromBlock: Int
    private var ending: Int
    private let endingBytes: Int

    /// Nothing left to read.
    static let empty = BodyCursor(line: 0, bytes: 0)

    init(number: Int, bytes: Int) { self.init(line: Block.line(number), bytes: bytes) }

    init(line: Int, bytes: Int) {
        at = line * Block.lineBytes
        // No CR without its LF: where the slice would end in one, a letter takes its place.
        let isBehindCR = bytes > 2 && (bytes - 2) % Block.lineBytes == Block.lineBytes - 1
        endingBytes = min(bytes, isBehindCR ? 3 : 2)
        ending = endingBytes
        fromBlock = bytes - endingBytes
    }

    var left: Int { fromBlock + ending }

    /// The next bytes in one piece; nil at the end.
    func next(atMost limit: Int) -> UnsafeRawBufferPointer? {
        if fromBlock > 0 {
            let piece = min(fromBlock, Block.round + Block.overlap - at, limit)
            return UnsafeRawBufferPointer(start: Block.bytes + at, count: piece)
        }
        guard ending > 0 else { return nil }
        // `z`, CR, LF, and of these the last.
        return UnsafeRawBufferPointer(start: Self.endings + 3 - ending, count: min(ending, limit))
    }

    mutating func advance(_ count: Int) {
        guard fromBlock > 0 else {
            ending -= count
            return
        }
        fromBlock -= count
        at += count
        if at >= Block.round { at = (at - Block.round) % Block.round }
    }

    nonisolated(unsafe) private static let endings: UnsafeMutablePointer<UInt8> = {
        let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: 3)
        (bytes[0], bytes[1], bytes[2]) = (UInt8(ascii: "z"), UInt8(ascii: "\r"), UInt8(ascii: "\n"))
        return bytes
    }()
}
