import Glibc
import Synchronization

/// One entry per message number: what the sender knows of it, and what has arrived.
///
/// Sender and sink write from different threads, each to its own fields, and a message's bytes travel through a server
/// between the two: `sentAt` is written before the first of them leaves. The sums are made when both have ended.
final class Ledger: @unchecked Sendable {
    enum State: UInt8 { case unsent, inFlight, accepted, refused, unknown }

    struct Entry {
        /// When the last byte of content was handed to the kernel, in monotonic nanoseconds.
        var sentAt: UInt64 = 0
        /// Recipients that the server has taken.
        var expected: UInt16 = 0
        /// Recipients that the sink has answered for.
        var arrived: UInt16 = 0
        var state: UInt8 = 0
        /// The sink's: 1 deferred once, 2 refused on purpose, 4 arrived changed.
        var marks: UInt8 = 0
    }

    /// As many as one run may number.
    static let capacityMax = 100_000_000

    let run: UInt64
    let capacity: Int
    private let entries: UnsafeMutablePointer<Entry>
    private let numbered = Atomic<Int>(0)

    /// Behind the last number that was given.
    var touched: Int { numbered.load(ordering: .acquiring) }

    /// Notes that `number` is under way.
    func begin(_ number: Int) {
        self[number].state = State.inFlight.rawValue
        if number >= numbered.load(ordering: .relaxed) { numbered.max(number + 1, ordering: .acquiringAndReleasing) }
    }

    /// Pages that are never touched cost nothing.
    init(run: UInt64, capacity: Int) throws(BenchFault) {
        guard (1...Self.capacityMax).contains(capacity) else {
            throw BenchFault("a run numbers at most \(Self.capacityMax) messages")
        }
        (self.run, self.capacity) = (run, capacity)
        let bytes = capacity * MemoryLayout<Entry>.stride
        let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let memory, memory != MAP_FAILED else {
            throw BenchFault(
                "no memory for the ledger of \(capacity) messages: use fewer --messages or a shorter --duration")
        }
        entries = memory.bindMemory(to: Entry.self, capacity: capacity)
    }

    deinit { munmap(entries, capacity * MemoryLayout<Entry>.stride) }

    subscript(_ number: Int) -> Entry {
        unsafeAddress { UnsafePointer(entries + number) }
        unsafeMutableAddress { entries + number }
    }

    /// What became of the messages `numbers`.
    struct Sums: Equatable {
        var accepted = 0
        var expected = 0
        var arrived = 0
        /// Recipients taken by the server that have not arrived.
        var lost = 0
        /// Arrivals above what was taken.
        var duplicates = 0
        /// Messages whose fate the sender doesn't know: no reply came.
        var unanswered = 0
        /// Messages that arrived although the server had refused them.
        var unexpected = 0
    }

    func sums(_ numbers: Range<Int>) -> Sums {
        var sums = Sums()
        for number in numbers {
            let entry = self[number]
            let (expected, arrived) = (Int(entry.expected), Int(entry.arrived))
            sums.arrived += arrived
            switch State(rawValue: entry.state) {
            case .accepted:
                sums.accepted += 1
                sums.expected += expected
                if entry.marks & 2 == 0 { sums.lost += max(0, expected - arrived) }
                sums.duplicates += max(0, arrived - expected)
            case .unknown, .inFlight: sums.unanswered += arrived == 0 ? 1 : 0
            default: sums.unexpected += arrived > 0 ? 1 : 0
            }
        }
        return sums
    }
}
