import DequeModule

/// Hot parcels in order of arrival, so that the oldest are forgotten first when memory is short.
struct HotList {
    private var order: Deque<(ParcelReference, Int)> = []
    /// Of message memory; a parcel that has left is taken off at once, its place in the order later.
    private(set) var bytes = 0

    mutating func append(_ reference: ParcelReference, _ bytes: Int) {
        order.append((reference, bytes))
        self.bytes += bytes
        // Places of parcels that have left: the list stays in proportion to what is in memory.
        if order.count > 1_024, self.bytes == bytes { order.removeFirst(order.count - 1) }
    }

    /// A parcel has left the queue.
    mutating func removed(_ bytes: Int) { self.bytes = max(0, self.bytes - bytes) }

    mutating func takeOldest() -> ParcelReference? {
        guard let (reference, bytes) = order.popFirst() else { return nil }
        self.bytes = max(0, self.bytes - bytes)
        return reference
    }
}
