import CReactor

/// The wire as OpenSSL sees it: the two buffers of a session behind a BIO.
///
/// Not `BIO_s_mem`, because that one keeps its largest size for as long as the session lives.
struct TLSWire: ~Copyable {
    /// What may wait to be sent, in bytes: what `TLSSession.write` allows, a record in progress, and answers to the
    /// handshake and key update messages of a peer that sends and does not read.
    private static let outputHardMaxBytes = TLSSession.outputMaxBytes + (64 << 10)

    var input = TLSWireBuffer()
    var output = TLSWireBuffer()
    var isEnded = false
    var isOverflowed = false

    /// A BIO whose data is still to be set to a `TLSWire`, which must outlive it.
    static func makeBIO() -> OpaquePointer? {
        guard let method, let bio = BIO_new(method) else { return nil }
        BIO_set_init(bio, 1)
        return bio
    }

    /// Set up once, then only read.
    nonisolated(unsafe) private static let method: OpaquePointer? = {
        guard let method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire") else { return nil }
        BIO_meth_set_read_ex(method) { read($0, $1, $2, $3) }
        BIO_meth_set_write_ex(method) { write($0, $1, $2, $3) }
        BIO_meth_set_ctrl(method) { control($0, $1, $2, $3) }
        return method
    }()

    private static let retryRead = BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY

    private static func of(_ bio: OpaquePointer?) -> UnsafeMutablePointer<TLSWire> {
        BIO_get_data(bio).assumingMemoryBound(to: TLSWire.self)
    }

    private static func read(
        _ bio: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ capacity: Int,
        _ count: UnsafeMutablePointer<Int>?
    ) -> Int32 {
        let wire = of(bio)
        BIO_clear_flags(bio, retryRead)
        let taken = wire.pointee.input.take(into: buffer, capacity)
        count?.pointee = taken
        if taken == 0, !wire.pointee.isEnded { BIO_set_flags(bio, retryRead) }
        return taken > 0 ? 1 : 0
    }

    private static func write(
        _ bio: OpaquePointer?, _ bytes: UnsafePointer<CChar>?, _ length: Int, _ count: UnsafeMutablePointer<Int>?
    ) -> Int32 {
        let wire = of(bio)
        guard wire.pointee.output.count + length <= outputHardMaxBytes else {
            wire.pointee.isOverflowed = true
            return 0
        }
        wire.pointee.output.append(UnsafeRawBufferPointer(start: bytes, count: length))
        count?.pointee = length
        return 1
    }

    private static func control(
        _ bio: OpaquePointer?, _ command: Int32, _: Int, _: UnsafeMutableRawPointer?
    ) -> Int {
        switch command {
        case BIO_CTRL_FLUSH: 1
        case BIO_CTRL_EOF: of(bio).pointee.isEnded && of(bio).pointee.input.count == 0 ? 1 : 0
        default: 0
        }
    }
}

/// Bytes on their way in or out; owns no memory while empty.
struct TLSWireBuffer: ~Copyable {
    private var base: UnsafeMutableRawPointer?
    private var start = 0
    private(set) var count = 0
    private var capacity = 0

    deinit { base?.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base.map { $0 + start }, count: count) }

    mutating func append(_ more: UnsafeRawBufferPointer) {
        guard let source = more.baseAddress, more.count > 0 else { return }
        if start + count + more.count > capacity { makeRoom(more.count) }
        (base! + start + count).copyMemory(from: source, byteCount: more.count)
        count += more.count
    }

    private mutating func makeRoom(_ more: Int) {
        if count + more > capacity {
            var size = max(capacity, 512)
            while size < count + more { size *= 2 }
            let larger = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
            if let base {
                larger.copyMemory(from: base + start, byteCount: count)
                base.deallocate()
            }
            base = larger
            capacity = size
        } else {
            base!.copyMemory(from: base! + start, byteCount: count)
        }
        start = 0
    }

    mutating func removeFirst(_ removed: Int) {
        precondition(removed >= 0 && removed <= count)
        start += removed
        count -= removed
        guard count == 0 else { return }
        base?.deallocate()
        base = nil
        start = 0
        capacity = 0
    }

    mutating func take(into target: UnsafeMutableRawPointer?, _ room: Int) -> Int {
        let taken = min(count, room)
        guard let target, let base, taken > 0 else { return 0 }
        target.copyMemory(from: base + start, byteCount: taken)
        removeFirst(taken)
        return taken
    }
}
