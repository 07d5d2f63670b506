import Synchronization

/// One direction between two reactors: a bounded ring with one producer and one consumer.
///
/// The producer never waits: what doesn't fit stays in its spill list, which `flush` empties in order. What bounds the spill
/// list is the sender's credit (it stops producing when too much is not yet taken), not this type.
public final class Mailbox<Message: Sendable>: @unchecked Sendable {
    // Safe to share because `tail` and `spill` are touched by the producer alone, `head` by the consumer alone, and a slot
    // passes from one to the other through the atomics.
    private let slots: UnsafeMutablePointer<Message>
    private let mask: Int
    private let head = Atomic<Int>(0)
    private let tail = Atomic<Int>(0)
    private var spill: [Message] = []
    private let doorbell: Doorbell

    /// - Parameter capacity: slots, a power of two.
    public init(to doorbell: Doorbell, capacity: Int = 1024) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0)
        slots = .allocate(capacity: capacity)
        mask = capacity - 1
        self.doorbell = doorbell
    }

    deinit {
        let first = head.load(ordering: .acquiring)
        for at in first..<tail.load(ordering: .acquiring) { (slots + (at & mask)).deinitialize(count: 1) }
        slots.deallocate()
    }

    // MARK: Producer

    public func send(_ message: consuming Message) {
        if spill.isEmpty, push(message) {
            doorbell.ring()
        } else {
            spill.append(message)
            flush()
        }
    }

    /// Messages that found no slot yet.
    public var spilled: Int { spill.count }

    /// Moves what was spilled into the ring as far as it goes. Call once a turn.
    public func flush() {
        guard !spill.isEmpty else { return }
        var moved = 0
        while moved < spill.count, push(spill[moved]) { moved += 1 }
        if moved > 0 {
            spill.removeFirst(moved)
            doorbell.ring()
        }
    }

    private func push(_ message: Message) -> Bool {
        let at = tail.load(ordering: .relaxed)
        guard at - head.load(ordering: .acquiring) <= mask else { return false }
        (slots + (at & mask)).initialize(to: message)
        tail.store(at + 1, ordering: .releasing)
        return true
    }

    // MARK: Consumer

    public var isEmpty: Bool { head.load(ordering: .relaxed) == tail.load(ordering: .acquiring) }

    public func receive() -> Message? {
        let at = head.load(ordering: .relaxed)
        guard at != tail.load(ordering: .acquiring) else { return nil }
        let message = (slots + (at & mask)).move()
        head.store(at + 1, ordering: .releasing)
        return message
    }
}
