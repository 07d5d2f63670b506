import Synchronization

/// Memory of message contents that has been given back, ready for the next ones, whatever reactor they are on: fresh memory costs
/// page faults, which a message would pay for each of its pages.
final class PiecePool: Sendable {
    /// Pieces of the size that nearly all messages begin with.
    static let first = PiecePool(pieceBytes: MessageContent.firstPieceBytes, keptMax: 4_096)
    static let further = PiecePool(pieceBytes: MessageContent.furtherPieceBytes, keptMax: 256)

    let pieceBytes: Int
    private let keptMax: Int
    private struct Kept: @unchecked Sendable {
        var pieces: [UnsafeMutableRawPointer] = []
    }
    private let kept = Mutex(Kept())

    private init(pieceBytes: Int, keptMax: Int) { (self.pieceBytes, self.keptMax) = (pieceBytes, keptMax) }

    func take() -> UnsafeMutableRawPointer {
        kept.withLock { $0.pieces.popLast() } ?? .allocate(byteCount: pieceBytes, alignment: 64)
    }

    func give(_ piece: UnsafeMutableRawPointer) {
        let isKept = kept.withLock { kept in
            guard kept.pieces.count < keptMax else { return false }
            kept.pieces.append(piece)
            return true
        }
        if !isKept { piece.deallocate() }
    }
}
