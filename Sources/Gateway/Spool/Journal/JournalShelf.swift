import Reactor
import Synchronization

/// The segments of all journals of this start, as every reactor knows them: which file is open where, and which life it is in.
///
/// A journal's own reactor fills its part; others only read, and read records themselves.
final class JournalShelf: Sendable {
    /// A segment's file. It stays open until the process ends.
    final class Slot: Sendable {
        let handle = Atomic<FileHandle>(-1)
        /// Set before the first byte of a new life is written.
        let generation = Atomic<UInt64>(0)
    }

    /// One reactor's journal.
    final class Journal: Sendable {
        /// Random: part of every checksum.
        let id: UInt64
        let slots: [Slot]
        init(id: UInt64, slots count: Int) {
            self.id = id
            slots = (0..<count).map { _ in Slot() }
        }
    }

    let path: String
    /// The folder of the segments.
    let directory: FileHandle
    /// The file system that it is on.
    let device: Int
    let segmentBytes: Int
    /// One a reactor.
    let journals: [Journal]

    init(path: String, directory: FileHandle, device: Int, segmentBytes: Int, journals: [Journal]) {
        self.path = path
        (self.directory, self.device, self.segmentBytes) = (directory, device, segmentBytes)
        self.journals = journals
    }

    /// Where mail waits that a mail directory could not take.
    func strandedPath(_ gatewayID: UInt64) -> String { "\(path)/\(JournalOpener.strandedFolder)/\(gatewayID)" }

    func slot(_ place: JournalPlace) -> Slot { journals[place.core].slots[place.slot] }

    func life(_ place: JournalPlace) -> JournalFormat.Life {
        JournalFormat.Life(journal: journals[place.core].id, generation: place.generation)
    }

    /// The segment has not begun another life.
    func holds(_ place: JournalPlace) -> Bool {
        slot(place).generation.load(ordering: .sequentiallyConsistent) == place.generation
    }

    /// Files that are open.
    var openFiles: Int {
        journals.reduce(0) { $0 + $1.slots.count { $0.handle.load(ordering: .relaxed) >= 0 } }
    }
}

/// What one reactor's journal begins with.
struct JournalStart: Sendable {
    let shelf: JournalShelf
    /// Segments of earlier starts that hold nothing any more: their files, open.
    var free: [FileHandle] = []
    /// Names of new files: numbers from here on, in steps of the number of reactors.
    var nextNumber: Int
    var numberStep: Int
    /// Segments at most.
    var segmentsMax: Int
}
