import CReactor
import Protocols
import Reactor

/// A message's bytes in memory: the trace header and the raw content behind it, in few pieces.
///
/// Filled by one session, then immutable and shared by its parcels, on any reactor. Raw: never dot-stuffed.
final class MessageContent: @unchecked Sendable {
    // Safe to share: only the receiving session changes it, and it gives it away before others see it.
    private struct Piece {
        var base: UnsafeMutableRawPointer
        var capacity: Int
        var count: Int
    }
    private var pieces: [Piece] = []
    private(set) var count = 0
    private(set) var crc: UInt32 = 0
    /// Over the trace header too, which has none.
    var linesBeginningWithDot = 0
    /// Bytes that it takes from the message-memory budget.
    private(set) var allocatedBytes = 0

    /// Most messages fit the first piece.
    static let firstPieceBytes = 16 << 10
    static let furtherPieceBytes = 64 << 10

    init() {}

    deinit { for piece in pieces { pool(piece.capacity).give(piece.base) } }

    private func pool(_ bytes: Int) -> PiecePool { bytes == Self.firstPieceBytes ? .first : .further }

    /// Copies `bytes` to the end.
    func append(_ bytes: UnsafeRawBufferPointer) {
        guard var source = bytes.baseAddress else { return }
        var left = bytes.count
        crc = cr_crc32c(crc, source, left)
        count += left
        while left > 0 {
            if pieces.isEmpty || pieces[pieces.count - 1].count == pieces[pieces.count - 1].capacity {
                let size = pieces.isEmpty ? Self.firstPieceBytes : Self.furtherPieceBytes
                pieces.append(Piece(base: pool(size).take(), capacity: size, count: 0))
                allocatedBytes += size
            }
            let last = pieces.count - 1
            let room = min(left, pieces[last].capacity - pieces[last].count)
            (pieces[last].base + pieces[last].count).copyMemory(from: source, byteCount: room)
            pieces[last].count += room
            source += room
            left -= room
        }
    }

    func append(_ bytes: [UInt8]) { bytes.withUnsafeBytes { append($0) } }

    /// The pieces in order; valid as long as this object.
    var vectors: [IOVector] {
        pieces.map { IOVector(iov_base: $0.base, iov_len: $0.count) }
    }

    func forEachPiece(_ body: (UnsafeRawBufferPointer) -> Void) {
        for piece in pieces { body(UnsafeRawBufferPointer(start: piece.base, count: piece.count)) }
    }

    /// The first bytes, at most `limit` (for a DSN's third part).
    func prefix(_ limit: Int) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(min(limit, count))
        forEachPiece { piece in
            if result.count < limit { result.append(contentsOf: piece.prefix(limit - result.count)) }
        }
        return result
    }

    /// Gives its pieces away and starts anew with the same running checksum (a message that is written as it arrives).
    func takePieces() -> MessageContent {
        let taken = MessageContent()
        swap(&taken.pieces, &pieces)
        swap(&taken.allocatedBytes, &allocatedBytes)
        return taken
    }
}

/// A parcel whose bytes are in memory: it needs no file to be sent.
final class HotParcel: Sendable {
    let envelope: Envelope
    let content: MessageContent
    init(envelope: Envelope, content: MessageContent) { (self.envelope, self.content) = (envelope, content) }
}
