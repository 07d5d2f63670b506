/// What a backend keeps of each socket, by descriptor number, which the kernel keeps small.
final class SocketTable<Entry> {
    private var entries: UnsafeMutablePointer<Entry>
    private var count = 0
    private let blank: Entry

    /// - Parameter blank: the entry of a socket that was never seen.
    init(blank: Entry) {
        self.blank = blank
        entries = .allocate(capacity: 0)
    }

    deinit {
        entries.deinitialize(count: count)
        entries.deallocate()
    }

    /// The socket's entry; the pointer is good until the next call.
    @inline(__always)
    subscript(_ socket: SocketHandle) -> UnsafeMutablePointer<Entry> {
        if Int(socket) >= count { grow(to: Int(socket) + 1) }
        return entries + Int(socket)
    }

    private func grow(to least: Int) {
        let larger = UnsafeMutablePointer<Entry>.allocate(capacity: max(64, count * 2, least))
        larger.moveInitialize(from: entries, count: count)
        (larger + count).initialize(repeating: blank, count: max(64, count * 2, least) - count)
        entries.deallocate()
        entries = larger
        count = max(64, count * 2, least)
    }
}
