/// Sessions of one kind by index and generation, so that a completion for one that has gone finds nobody.
public struct SessionTable<Session: AnyObject>: ~Copyable {
    private struct Entry {
        var session: Unmanaged<Session>?
        var generation: UInt32
        var nextFree: Int32
    }
    private var entries: UnsafeMutablePointer<Entry>
    private var capacity = 0
    private var used = 0
    private var free: Int32 = -1
    private let kind: UInt8
    public private(set) var count = 0

    public init(kind: UInt8) {
        self.kind = kind
        entries = .allocate(capacity: 0)
    }

    deinit {
        for at in 0..<used { entries[at].session?.release() }
        entries.deallocate()
    }

    /// Keeps the session that `make` returns for its token.
    public mutating func insert(_ make: (Token) -> Session) -> Session {
        let index: Int
        if free >= 0 {
            index = Int(free)
            free = entries[index].nextFree
        } else {
            if used == capacity {
                let larger = UnsafeMutablePointer<Entry>.allocate(capacity: max(64, capacity * 2))
                larger.moveInitialize(from: entries, count: used)
                entries.deallocate()
                entries = larger
                capacity = max(64, capacity * 2)
            }
            index = used
            used += 1
            (entries + index).initialize(to: Entry(session: nil, generation: 0, nextFree: -1))
        }
        entries[index].generation = (entries[index].generation &+ 1) & 0xff_ffff
        let session = make(Token(kind: kind, generation: entries[index].generation, index: UInt32(index)))
        entries[index].session = Unmanaged.passRetained(session)
        count += 1
        return session
    }

    @inline(__always)
    public func find(_ token: Token) -> Session? {
        let index = Int(token.index)
        guard index < used, entries[index].generation == token.generation else { return nil }
        return entries[index].session?.takeUnretainedValue()
    }

    public mutating func remove(_ token: Token) {
        let index = Int(token.index)
        guard index < used, entries[index].generation == token.generation, let session = entries[index].session
        else { return }
        entries[index].session = nil
        entries[index].nextFree = free
        free = Int32(index)
        count -= 1
        session.release()
    }

    /// All sessions, in order of index; they may come and go while the list is walked.
    public var all: [Session] { (0..<used).compactMap { entries[$0].session?.takeUnretainedValue() } }
}
