import DequeModule

/// Hot parcels in order of arrival, so that the oldest are forgotten first when memory is short.
struct HotList {
    private var order: Deque<ParcelReference> = []
    private var live = 0
    /// Of message memory, of those that are still hot.
    private(set) var bytes = 0

    /// Places of parcels that have left meanwhile, which may stand in the list beside those that are hot.
    private static let staleMax = 4_096

    mutating func append(_ reference: ParcelReference, _ bytes: Int) {
        order.append(reference)
        live += 1
        self.bytes += bytes
    }

    /// Clears the places of parcels that are hot no more, when they have become many.
    mutating func sweep(isHot: (ParcelReference) -> Bool) {
        guard order.count > 2 * live + Self.staleMax else { return }
        order.removeAll { !isHot($0) }
    }

    /// A parcel is hot no more.
    mutating func forget(_ bytes: Int) {
        self.bytes -= bytes
        live -= 1
    }

    mutating func takeOldest() -> ParcelReference? { order.popFirst() }
}
