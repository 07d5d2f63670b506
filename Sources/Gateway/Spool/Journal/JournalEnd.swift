import Reactor

/// The end of a parcel's life in the journal that accepted it, as its home asks for it (design rule J5).
struct JournalEnd: Sendable {
    enum Purpose: Sendable {
        /// It left.
        case settled(credit: Removal.Credit?)
        /// Its mail directory has it, synced; the home is told.
        case moved(home: Int, ParcelReference)
    }

    let place: JournalPlace
    let id: QueueID
    let store: Store
    /// Discharged from the quota when it is durable.
    let bytes: Int
    let purpose: Purpose
}
