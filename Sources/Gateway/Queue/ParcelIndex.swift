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
        /// Settled; its file is being removed.
        case leaving
    }

    struct Entry {
        var id = QueueID(high: 0, low: 0)
        var hot: HotParcel?
        var bytes = 0
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
        /// An administrator wants it gone; done when its lease ends.
        var isDoomed = false
    }

    private var entries: [Entry] = []
    private var free: Int32 = -1
    private(set) var count = 0

    init() { assert(MemoryLayout<Entry>.stride <= 64) }

    mutating func insert(_ id: QueueID, bytes: Int, queue: Int32, hot: HotParcel?) -> ParcelReference {
        let slot: Int32
        if free >= 0 {
            slot = free
            free = entries[Int(slot)].nextFree
        } else {
            slot = Int32(entries.count)
            entries.append(Entry())
        }
        let generation = entries[Int(slot)].generation &+ 1
        entries[Int(slot)] = Entry(id: id, hot: hot, bytes: bytes, queue: queue, generation: generation, state: .ready)
        count += 1
        return ParcelReference(slot: slot, generation: generation)
    }

    func holds(_ reference: ParcelReference) -> Bool {
        reference.slot >= 0 && Int(reference.slot) < entries.count
            && entries[Int(reference.slot)].generation == reference.generation
            && entries[Int(reference.slot)].state != .free
    }

    subscript(_ reference: ParcelReference) -> Entry {
        get {
            precondition(holds(reference), "a parcel that has gone")
            return entries[Int(reference.slot)]
        }
        _modify { yield &entries[Int(reference.slot)] }
    }

    mutating func remove(_ reference: ParcelReference) {
        precondition(holds(reference))
        let generation = entries[Int(reference.slot)].generation
        entries[Int(reference.slot)] = Entry(nextFree: free, generation: generation)
        free = reference.slot
        count -= 1
    }

    /// Slots in use or free; for walks in slices.
    var slots: Int { entries.count }

    func reference(at slot: Int) -> ParcelReference? {
        guard entries[slot].state != .free else { return nil }
        return ParcelReference(slot: Int32(slot), generation: entries[slot].generation)
    }

    func find(_ id: QueueID) -> [ParcelReference] {
        entries.indices.compactMap { slot in
            entries[slot].state != .free && entries[slot].id == id
                ? ParcelReference(slot: Int32(slot), generation: entries[slot].generation) : nil
        }
    }
}

/// Names an entry of one `ParcelIndex`; stale ones are recognised.
struct ParcelReference: Hashable, Sendable {
    let slot: Int32
    let generation: UInt32
}
