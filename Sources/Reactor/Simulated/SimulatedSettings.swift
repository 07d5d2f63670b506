/// How rough a simulated world is: delays in virtual nanoseconds, chances in a million.
public struct SimulatedSettings: Sendable {
    /// From one end of a connection to the other, and for its making.
    public var networkDelay: ClosedRange<UInt64> = 20_000...2_000_000
    /// The most bytes of one segment; most are much smaller.
    public var segmentMaxBytes = 8192
    /// Bytes sent and not yet read by the other side, above which a send waits.
    public var windowBytes = 64 << 10
    /// That a segment's arrival cuts its connection.
    public var cutChance = 0
    /// That a connection is `slowFactor` times slower than others.
    public var slowChance = 20_000
    public var slowFactor: UInt64 = 50
    /// Sockets that may be open at a time; beyond, `EMFILE`.
    public var socketsMax = 10_000

    /// For a file step that is no sync, or a part of it.
    public var fileDelay: ClosedRange<UInt64> = 2_000...200_000
    public var syncDelay: ClosedRange<UInt64> = 100_000...20_000_000
    /// That a write, sync, rename … of a lane fails with `EIO`.
    public var diskFaultChance = 0
    /// That a task stands still for `hangDelay`.
    public var hangChance = 0
    public var hangDelay: ClosedRange<UInt64> = 1_000_000_000...60_000_000_000

    public var lookupDelay: ClosedRange<UInt64> = 100_000...200_000_000
    /// That a look-up brings no answer.
    public var lookupFaultChance = 0
    public var workDelay: ClosedRange<UInt64> = 10_000...50_000_000

    /// What a turn of a reactor costs.
    public var turnDelay: ClosedRange<UInt64> = 1_000...30_000
    /// That a reactor stands still for `stallDelay` after a turn, as when the machine gives its processor to others.
    public var stallChance = 2_000
    public var stallDelay: ClosedRange<UInt64> = 100_000...500_000_000

    /// Wall clock at the start, nanoseconds since 1970.
    public var wallStart: Int64 = 1_767_225_600_000_000_000

    public init() {}

    /// A mixture drawn from the seed: each kind of trouble is absent in some worlds and frequent in others, because what is
    /// always a little bad hides the faults that need one thing to be very bad.
    public static func drawn(from seed: UInt64) -> SimulatedSettings {
        var random = SimulatedRandom(seed: seed ^ 0x5377_6172_6d21)
        var settings = SimulatedSettings()
        settings.segmentMaxBytes = random.pick([1, 16, 512, 1460, 8192, 65_536])
        settings.windowBytes = random.pick([512, 4096, 65_536, 1 << 20])
        settings.networkDelay = random.pick([1_000...10_000, 20_000...2_000_000, 1_000_000...200_000_000])
        settings.cutChance = random.pick([0, 0, 100, 5_000])
        settings.slowChance = random.pick([0, 20_000, 300_000])
        settings.fileDelay = random.pick([1_000...5_000, 2_000...200_000, 100_000...20_000_000])
        settings.syncDelay = random.pick([50_000...200_000, 100_000...20_000_000, 5_000_000...2_000_000_000])
        settings.diskFaultChance = random.pick([0, 0, 0, 500, 20_000])
        settings.hangChance = random.pick([0, 0, 1_000])
        settings.lookupFaultChance = random.pick([0, 0, 50_000, 500_000])
        settings.stallChance = random.pick([0, 2_000, 50_000])
        return settings
    }
}

/// What has really happened in a world, so that a campaign can show that it met each kind of trouble.
public struct SimulatedCounters: Sendable, Equatable {
    public var turns = 0
    public var stalls = 0
    public var segments = 0
    public var sendsThatWaited = 0
    public var connections = 0
    public var refusedConnections = 0
    public var cutConnections = 0
    public var resetConnections = 0
    /// Parts of the lanes' file steps that were done: running until a number of them and ending the machine there, for each
    /// number, visits every moment at which the disk changes.
    public var fileParts = 0
    public var filesPlaced = 0
    /// Writes in place that were done to their last byte.
    public var logWrites = 0
    /// Writes that the kernel took only a part of, and the rest later.
    public var shortWrites = 0
    public var unlinks = 0
    /// Lanes' renames of a name that was not there: somebody took a file away from its owner.
    public var missingNames = 0
    public var syncs = 0
    public var failedSyncs = 0
    /// Failed file steps that were no syncs and had room.
    public var failedFileSteps = 0
    /// Steps refused for want of space or inodes.
    public var fullDisks = 0
    public var hangs = 0
    /// Uses of a file handle that was not open.
    public var badHandles = 0
    public var kills = 0
    public var powerLosses = 0
    /// Lane tasks that a kill or a power loss cut off.
    public var tasksCut = 0
    /// Files that came out of a power loss with other bytes than were written.
    public var tornFiles = 0
    /// Sectors in which the content of an earlier file was seen.
    public var staleSectors = 0
    /// Changes of directories that a power loss undid.
    public var lostEntryChanges = 0
    public var keptEntryChanges = 0
    public var failedLookups = 0
    public var wallJumps = 0
}

/// xoshiro256**, seeded by splitmix64: the same numbers everywhere, for ever.
public struct SimulatedRandom: Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    public init(seed: UInt64) {
        var seed = seed
        func mixed() -> UInt64 {
            seed &+= 0x9e37_79b9_7f4a_7c15
            var z = seed
            z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
            return z ^ z >> 31
        }
        state = (mixed(), mixed(), mixed(), mixed())
    }

    public mutating func next() -> UInt64 {
        let product = state.1 &* 5
        let result = (product << 7 | product >> 57) &* 9
        let shifted = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= shifted
        state.3 = state.3 << 45 | state.3 >> 19
        return result
    }

    /// 0 to `bound` - 1; `bound` is at least 1.
    public mutating func below(_ bound: Int) -> Int {
        precondition(bound > 0)
        return Int(next().multipliedFullWidth(by: UInt64(bound)).high)
    }

    public mutating func within(_ range: ClosedRange<UInt64>) -> UInt64 {
        let span = range.upperBound - range.lowerBound
        guard span < UInt64.max else { return next() }
        return range.lowerBound + next().multipliedFullWidth(by: span + 1).high
    }

    /// True `chance` times in a million.
    public mutating func happens(_ chance: Int) -> Bool { chance > 0 && below(1_000_000) < chance }
    public mutating func coin() -> Bool { next() >> 63 == 1 }
    public mutating func pick<T>(_ choices: [T]) -> T { choices[below(choices.count)] }

    /// 1 to `limit`, small and large ones alike: the number of binary digits is drawn first.
    public mutating func size(upTo limit: Int) -> Int {
        guard limit > 1 else { return 1 }
        let digits = Int.bitWidth - limit.leadingZeroBitCount
        return min(limit, 1 + below(1 << (1 + below(digits))))
    }
}
