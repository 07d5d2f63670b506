import Reactor

/// Bytes with a fixed address, for a file task: good as long as this object.
final class KeptBytes {
    private let buffer: UnsafeMutableRawBufferPointer

    init(_ bytes: [UInt8]) {
        buffer = .allocate(byteCount: bytes.count, alignment: 8)
        buffer.copyBytes(from: bytes)
    }

    deinit { buffer.deallocate() }

    var vector: IOVector { IOVector(UnsafeRawBufferPointer(buffer)) }
}
