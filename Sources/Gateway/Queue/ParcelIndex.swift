/// The parcels that one reactor is home to: a slab, so that each costs 64 bytes whatever happens to it (design rule M10).
/// Envelopes are not here; they are in the hot parcel or in the file.
struct ParcelIndex: ~Copyable {
    enum State: UInt8 {
        case free
        /// Waits for a session.
        case ready
        /// Waits for its time.
        case deferred
        /// A session or a notice has it.
        case leased
    }

    struct Entry {
        var id = QueueID(high: 0, low: 0)
        var hot: HotParcel?
        var bytes = 0
        /// Of its record in a journal; none: its file is in the mail directory.
        var place = JournalPlace.none
        var queue: Int32 = -1
        /// Of a free entry: the next free one.
        var nextFree: Int32 = -1
        var generation: UInt32 = 0
        /// Seconds of the monotonic clock.
        var nextTrySeconds: UInt32 = 0
        var attempts: UInt16 = 0
        var state = State.free
        var hasState = false
        var delayNoticeSent = false
        /// On its way from a journal to its mail directory.
        var isMoving = false
    }

    /// So that growing never copies what is there.
    private var chunks: [UnsafeMutablePointer<Entry>] = []
    private static let chunkBits = 12
    private static let chunkEntries = 1 << chunkBits
    /// In use or free; for walks in slices.
    private(set) var slots = 0
    private var free: Int32 = -1
    private(set) var count = 0

    init() { assert(MemoryLayout<Entry>.stride <= 64) }

    deinit {
        for (at, chunk) in chunks.enumerated() {
            chunk.deinitialize(count: min(Self.chunkEntries, slots - at * Self.chunkEntries))
            chunk.deallocate()
        }
    }

    private func entry(_ slot: Int) -> UnsafeMutablePointer<Entry> {
        chunks[slot >> Self.chunkBits] + (slot & (Self.chunkEntries - 1))
    }

    mutating func insert(
        _ id: QueueID, bytes: Int, queue: Int32, hot: HotParcel?, place: JournalPlace = .none
    ) -> ParcelReference {
        let slot: Int
        if free >= 0 {
            slot = Int(free)
            free = entry(slot).pointee.nextFree
        } else {
            slot = slots
            if slot & (Self.chunkEntries - 1) == 0 { chunks.append(.allocate(capacity: Self.chunkEntries)) }
            entry(slot).initialize(to: Entry())
            slots += 1
        }
        let generation = entry(slot).pointee.generation &+ 1
        entry(slot).pointee = Entry(
            id: id, hot: hot, bytes: bytes, place: place, queue: queue, generation: generation, state: .ready)
        count += 1
        return ParcelReference(slot: Int32(slot), generation: generation)
    }

    func holds(_ reference: ParcelReference) -> Bool {
        guard reference.slot >= 0, Int(reference.slot) < slots else { return false }
        let entry = entry(Int(reference.slot))
        return entry.pointee.generation == reference.generation && entry.pointee.state != .free
    }

    subscript(_ reference: ParcelReference) -> Entry {
        get {
            precondition(holds(reference), "a parcel that has gone")
            return entry(Int(reference.slot)).pointee
        }
        _modify {
            precondition(holds(reference), "a parcel that has gone")
            yield &entry(Int(reference.slot)).pointee
        }
    }

    mutating func remove(_ reference: ParcelReference) {
        precondition(holds(reference))
        entry(Int(reference.slot)).pointee = Entry(nextFree: free, generation: reference.generation)
        free = reference.slot
        count -= 1
    }

    func reference(at slot: Int) -> ParcelReference? {
        let entry = entry(slot)
        guard entry.pointee.state != .free else { return nil }
        return ParcelReference(slot: Int32(slot), generation: entry.pointee.generation)
    }
}

/// Names an entry of one `ParcelIndex`; stale ones are recognised.
struct ParcelReference: Hashable, Sendable {
    let slot: Int32
    let generation: UInt32
}
