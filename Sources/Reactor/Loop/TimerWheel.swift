/// Timers of one reactor: a hierarchical wheel, so that setting and cancelling cost the same however many there are.
///
/// - Resolution: 8 ms, rounded up: a timer is never early. The farthest instant is about 19 hours ahead; what lies beyond is
///   kept in the last level and set again when it comes round.
public struct TimerWheel: ~Copyable {
    /// Names a timer; stale ones are recognised.
    public struct ID: Hashable, Sendable {
        fileprivate let index: Int32
        fileprivate let generation: UInt32
        /// Names no timer.
        public static let none = ID(index: -1, generation: 0)
    }

    private struct Entry {
        var token = Token(kind: 0, generation: 0, index: 0)
        var tick: UInt64 = 0
        var previous: Int32 = -1
        var next: Int32 = -1
        /// Index into `heads`, or -1 when the entry is free.
        var slot: Int32 = -1
        var generation: UInt32 = 0
    }

    private static let tickShift: UInt64 = 23  // 8.39 ms
    private static let levelBits: UInt64 = 6
    private static let slotsPerLevel = 64
    private static let levels = 4

    private var entries: [Entry] = []
    private var free: Int32 = -1
    private var heads = [Int32](repeating: -1, count: slotsPerLevel * levels)
    /// One bit a slot that holds timers.
    private var occupied = [UInt64](repeating: 0, count: levels)
    private var current: UInt64
    public private(set) var count = 0

    public init(now: UInt64) { current = now >> Self.tickShift }

    /// - Parameter deadline: monotonic nanoseconds; one in the past fires at the next tick.
    public mutating func set(_ deadline: UInt64, _ token: Token) -> ID {
        let index: Int32
        if free >= 0 {
            index = free
            free = entries[Int(index)].next
        } else {
            index = Int32(entries.count)
            entries.append(Entry())
        }
        let tick = deadline >> Self.tickShift + (deadline & (1 << Self.tickShift - 1) == 0 ? 0 : 1)
        entries[Int(index)].token = token
        entries[Int(index)].tick = max(tick, current + 1)
        entries[Int(index)].generation &+= 1
        link(index)
        count += 1
        return ID(index: index, generation: entries[Int(index)].generation)
    }

    /// A timer that has fired or was cancelled is ignored.
    public mutating func cancel(_ id: ID) {
        guard id.index >= 0, entries[Int(id.index)].generation == id.generation, entries[Int(id.index)].slot >= 0
        else { return }
        unlink(id.index)
        release(id.index)
    }

    /// The instant at which `advance` has something to do; nil: no timers.
    public var nextDeadline: UInt64? {
        guard count > 0 else { return nil }
        var best = UInt64.max
        for level in 0..<Self.levels where occupied[level] != 0 {
            let shift = UInt64(level) * Self.levelBits
            let base = current >> shift
            // Slots behind the hand belong to the next round; rotate so that the hand's successor is bit 0.
            let offset = (base + 1) & 63
            let rotated = occupied[level] >> offset | (offset == 0 ? 0 : occupied[level] << (64 - offset))
            let distance = UInt64(rotated.trailingZeroBitCount) + 1
            best = min(best, (base + distance) << shift)
        }
        return best << Self.tickShift
    }

    /// Appends the tokens of all timers that are due.
    public mutating func advance(to now: UInt64, expired: inout [Token]) {
        let target = now >> Self.tickShift
        guard target > current else { return }
        if count == 0 {
            current = target
            return
        }
        while current < target {
            // Jump over ticks at which nothing can happen.
            if occupied[0] == 0, target - current > 1 {
                let boundary = (current | 63)
                current = min(boundary, target - 1)
            }
            current += 1
            for level in 1..<Self.levels {
                guard current & (1 << (UInt64(level) * Self.levelBits) - 1) == 0 else { break }
                cascade(level)
            }
            expire(Int(current & 63), &expired)
            if count == 0 { current = target }
        }
    }

    private mutating func expire(_ slot: Int, _ expired: inout [Token]) {
        while heads[slot] >= 0 {
            let index = heads[slot]
            unlink(index)
            expired.append(entries[Int(index)].token)
            release(index)
        }
    }

    private mutating func cascade(_ level: Int) {
        let slot = level * Self.slotsPerLevel + Int(current >> (UInt64(level) * Self.levelBits) & 63)
        var index = heads[slot]
        heads[slot] = -1
        occupied[level] &= ~(1 << UInt64(slot % Self.slotsPerLevel))
        while index >= 0 {
            let next = entries[Int(index)].next
            if entries[Int(index)].tick <= current { entries[Int(index)].tick = current }
            link(index)
            index = next
        }
    }

    private mutating func link(_ index: Int32) {
        let tick = entries[Int(index)].tick
        let distance = tick - current
        var level = 0
        while level < Self.levels - 1, distance >> (UInt64(level + 1) * Self.levelBits) != 0 { level += 1 }
        // Beyond the last level's reach: as far as it goes.
        let shift = UInt64(level) * Self.levelBits
        let reach = (current >> shift) + 63
        let position = min(tick >> shift, reach)
        let slot = level * Self.slotsPerLevel + Int(position & 63)
        entries[Int(index)].slot = Int32(slot)
        entries[Int(index)].previous = -1
        entries[Int(index)].next = heads[slot]
        if heads[slot] >= 0 { entries[Int(heads[slot])].previous = index }
        heads[slot] = index
        occupied[level] |= 1 << UInt64(slot % Self.slotsPerLevel)
    }

    private mutating func unlink(_ index: Int32) {
        let entry = entries[Int(index)]
        let slot = Int(entry.slot)
        if entry.previous >= 0 { entries[Int(entry.previous)].next = entry.next } else { heads[slot] = entry.next }
        if entry.next >= 0 { entries[Int(entry.next)].previous = entry.previous }
        if heads[slot] < 0 { occupied[slot / Self.slotsPerLevel] &= ~(1 << UInt64(slot % Self.slotsPerLevel)) }
        entries[Int(index)].slot = -1
    }

    private mutating func release(_ index: Int32) {
        entries[Int(index)].slot = -1
        entries[Int(index)].next = free
        free = index
        count -= 1
    }
}
