import Glibc
import Reactor

/// Memory of message contents, taken from the system in slabs and kept for the next messages, whatever reactor they are on.
///
/// One by one from the allocator, each piece cost nearly one growth of its heap (0.9 `mprotect` a message, 0.07 now) and each
/// of its pages a fault. What was taken once is kept: the message-memory budget bounds it.
final class PiecePool: Sendable {
    /// Pieces of the size that nearly all messages begin with.
    static let first = PiecePool(pieceBytes: MessageContent.firstPieceBytes)
    static let further = PiecePool(pieceBytes: MessageContent.furtherPieceBytes)

    private static let slabBytes = 2 << 20
    private let pieceBytes: Int
    private struct Kept: @unchecked Sendable {
        var pieces: [UnsafeMutableRawPointer] = []
    }
    private let kept = Locked(Kept())

    private init(pieceBytes: Int) { self.pieceBytes = pieceBytes }

    func take() -> UnsafeMutableRawPointer {
        kept.withLock { kept in
            if kept.pieces.isEmpty { kept.pieces = Self.slab(pieceBytes) }
            return kept.pieces.removeLast()
        }
    }

    func give(_ piece: UnsafeMutableRawPointer) { kept.withLock { $0.pieces.append(piece) } }

    private static func slab(_ pieceBytes: Int) -> [UnsafeMutableRawPointer] {
        let slab = UnsafeMutableRawPointer.allocate(byteCount: slabBytes, alignment: slabBytes)
        // One fault for all of it, where the system has huge pages; elsewhere this does nothing.
        madvise(slab, slabBytes, MADV_HUGEPAGE)
        return stride(from: 0, to: slabBytes, by: pieceBytes).reversed().map { slab + $0 }
    }
}
