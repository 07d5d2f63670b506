/// A file or directory of a simulated disk.
class SimulatedInode {
    let number: Int
    /// Names and handles that lead here, as a running system sees it.
    var links = 0
    var handles = 0
    init(number: Int) { self.number = number }
}

/// A directory with what it holds now and what a power loss would leave of it.
final class SimulatedDirectory: SimulatedInode {
    var entries = SimulatedEntries()
    var durableEntries = SimulatedEntries()
}

/// Names in order, so that nothing depends on a hash.
struct SimulatedEntries {
    private(set) var all: [(name: String, inode: SimulatedInode)] = []

    private func position(_ name: String) -> Int {
        var (low, high) = (0, all.count)
        while low < high {
            let middle = (low + high) / 2
            if all[middle].name < name { low = middle + 1 } else { high = middle }
        }
        return low
    }

    subscript(name: String) -> SimulatedInode? {
        get {
            let at = position(name)
            return at < all.count && all[at].name == name ? all[at].inode : nil
        }
        set {
            let at = position(name)
            let isThere = at < all.count && all[at].name == name
            switch (newValue, isThere) {
            case (let inode?, true): all[at].inode = inode
            case (let inode?, false): all.insert((name, inode), at: at)
            case (nil, true): all.remove(at: at)
            case (nil, false): break
            }
        }
    }
}

/// A file's bytes as a running system sees them, and sector by sector what a power loss may leave of them.
final class SimulatedFile: SimulatedInode {
    static let sectorBytes = 512

    private(set) var data: [UInt8] = []
    private(set) var durable: [UInt8] = []
    /// One a sector: `clean`, `lost`, or when it was last written. Empty: all clean.
    private var stamps: [UInt64] = []
    private static let clean: UInt64 = 0
    /// Thought clean after a failed sync, but never written: readable until a power loss, and no later sync helps.
    private static let lost = UInt64.max
    /// It is in its volume's list of files to sync.
    var isListed = false

    var blocks: Int { (data.count + SimulatedVolume.blockBytes - 1) / SimulatedVolume.blockBytes }
    var hasUnsynced: Bool { stamps.contains { $0 != Self.clean && $0 != Self.lost } }

    /// - Parameter isSyncing: a sync is under way, so a sector that it may have begun with is written before it changes.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, stamp: UInt64, isSyncing: Bool, volume: SimulatedVolume)
    {
        guard !bytes.isEmpty else { return }
        let end = offset + bytes.count
        let first = min(offset, data.count) / Self.sectorBytes
        let last = (end - 1) / Self.sectorBytes
        if stamps.isEmpty { stamps = [UInt64](repeating: Self.clean, count: sectors(data.count)) }
        if isSyncing { persist(dirtyIn: first...last, volume) }
        if offset > data.count { data += [UInt8](repeating: 0, count: offset - data.count) }
        let inside = min(bytes.count, data.count - offset)
        if inside > 0 {
            data.withUnsafeMutableBytes {
                ($0.baseAddress! + offset).copyMemory(from: bytes.baseAddress!, byteCount: inside)
            }
        }
        data.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[inside...]))
        stamps += [UInt64](repeating: stamp, count: sectors(data.count) - stamps.count)
        var sector = first
        while sector <= last {
            stamps[sector] = stamp
            sector += 1
        }
    }

    private func persist(dirtyIn sectors: ClosedRange<Int>, _ volume: SimulatedVolume) {
        for sector in sectors where sector < stamps.count && stamps[sector] != Self.clean && stamps[sector] != Self.lost
        {
            persist(sector, volume)
        }
    }

    private func sectors(_ bytes: Int) -> Int { (bytes + Self.sectorBytes - 1) / Self.sectorBytes }

    private func range(_ sector: Int) -> Range<Int> {
        sector * Self.sectorBytes..<min(data.count, (sector + 1) * Self.sectorBytes)
    }

    /// Puts one sector on stable storage; what lies between it and the durable end holds what was on those blocks before.
    private func persist(_ sector: Int, _ volume: SimulatedVolume) {
        let range = range(sector)
        extendDurable(to: range.upperBound, volume)
        durable.replaceSubrange(range, with: data[range])
        stamps[sector] = Self.clean
    }

    private func extendDurable(to count: Int, _ volume: SimulatedVolume) {
        while durable.count < count {
            let sector = durable.count / Self.sectorBytes
            let end = min(count, (sector + 1) * Self.sectorBytes)
            volume.appendStale(sector: sector, upTo: end, &durable)
        }
    }

    /// All that was written up to `mark` becomes durable.
    func sync(upTo mark: UInt64, _ volume: SimulatedVolume) {
        if stamps.allSatisfy({ $0 <= mark }) {
            // The common case: nothing lost, nothing newer.
            durable = data
            stamps = []
            return
        }
        for sector in stamps.indices where stamps[sector] != Self.clean && stamps[sector] <= mark {
            persist(sector, volume)
        }
    }

    /// The kernel tells the file's next sync of its own, once.
    var hasFailed = false

    /// Each unsynced sector is written or lost, and none is dirty any more.
    func failSync(upTo mark: UInt64, _ volume: SimulatedVolume) {
        for sector in stamps.indices where stamps[sector] != Self.clean && stamps[sector] <= mark {
            hasFailed = true
            if volume.fate.random.coin() { persist(sector, volume) } else { stamps[sector] = Self.lost }
        }
    }

    /// The page cache drops pages that it takes for clean: lost ones show what the disk holds.
    func evict(_ volume: SimulatedVolume) {
        for sector in stamps.indices where stamps[sector] == Self.lost {
            let range = range(sector)
            extendDurable(to: range.upperBound, volume)
            data.replaceSubrange(range, with: durable[range])
            stamps[sector] = Self.clean
        }
    }

    /// What a power loss leaves: each unsynced sector with the given chance (in a million).
    func losePower(survival: Int, _ volume: SimulatedVolume) {
        guard !stamps.isEmpty else { return }
        let written = data
        for sector in stamps.indices where stamps[sector] != Self.clean && stamps[sector] != Self.lost {
            if volume.fate.random.happens(survival) { persist(sector, volume) }
        }
        // The size is metadata: it may be ahead of the data.
        let size = volume.fate.random.below(3)
        if size > 0, durable.count < data.count {
            let count =
                size == 1 ? data.count : durable.count + volume.fate.random.below(data.count - durable.count + 1)
            extendDurable(to: count, volume)
        }
        data = durable
        stamps = []
        if data != written { volume.fate.counters.tornFiles += 1 }
    }

    /// A bit of stable storage turns over.
    func rot(at offset: Int) {
        guard data.indices.contains(offset) else { return }
        data[offset] ^= 1
        if durable.indices.contains(offset) { durable[offset] ^= 1 }
    }
}

/// One device of a simulated disk with its file system.
final class SimulatedVolume {
    static let blockBytes = 4096
    /// Contents of deleted files that may show through in new ones.
    private static let recycledMax = 16
    private static let recycledMaxBytes = 64 << 10

    enum Change {
        case link(SimulatedDirectory, String, SimulatedInode)
        case unlink(SimulatedDirectory, String, SimulatedInode)
        case rename(SimulatedDirectory, String, to: SimulatedDirectory, String, SimulatedInode)

        var inode: SimulatedInode {
            switch self {
            case .link(_, _, let inode), .unlink(_, _, let inode), .rename(_, _, _, _, let inode): inode
            }
        }

        func touches(_ directory: SimulatedDirectory) -> Bool {
            switch self {
            case .link(let place, _, _), .unlink(let place, _, _): place === directory
            case .rename(let from, _, let to, _, _): from === directory || to === directory
            }
        }
    }

    let fate: SimulatedFate
    /// `st_dev`.
    let id: Int
    let mountPath: [Substring]
    var isMounted = true
    let root: SimulatedDirectory
    var capacityBytes: Int
    var capacityInodes: Int
    private(set) var usedBlocks = 0
    private(set) var usedInodes = 1
    /// Steps on this device stand still until then.
    var hungUntil: UInt64 = 0
    var syncsUnderWay = 0
    /// Syncs of the whole device that have failed.
    var failedSyncs = 0
    private var nextInode = 3
    private var nextStamp: UInt64 = 1
    /// Changes of directories that are not durable, oldest first.
    private var changes: [(stamp: UInt64, change: Change)] = []
    /// Files with sectors that are not clean.
    private var listed: [SimulatedFile] = []
    private var recycled: [[UInt8]] = []

    init(fate: SimulatedFate, id: Int, mountPath: [Substring], capacityBytes: Int, capacityInodes: Int) {
        (self.fate, self.id, self.mountPath) = (fate, id, mountPath)
        (self.capacityBytes, self.capacityInodes) = (capacityBytes, capacityInodes)
        root = SimulatedDirectory(number: 2)
        root.links = 1
    }

    var freeBytes: Int { max(0, capacityBytes - usedBlocks * Self.blockBytes) }
    var freeInodes: Int { max(0, capacityInodes - usedInodes) }

    /// What was done before now is at most this.
    var mark: UInt64 { nextStamp - 1 }

    private func stamp() -> UInt64 {
        nextStamp += 1
        return nextStamp - 1
    }

    // MARK: Changes

    /// A new inode's number, or nil when there is none left.
    func takeInode() -> Int? {
        guard usedInodes < capacityInodes else { return nil }
        usedInodes += 1
        nextInode += 1
        return nextInode - 1
    }

    func link(_ inode: SimulatedInode, in directory: SimulatedDirectory, _ name: String) {
        directory.entries[name] = inode
        inode.links += 1
        changes.append((stamp(), .link(directory, name, inode)))
    }

    /// A directory that is durable at once, as its maker syncs the parent.
    func linkDurably(_ inode: SimulatedInode, in directory: SimulatedDirectory, _ name: String) {
        directory.entries[name] = inode
        directory.durableEntries[name] = inode
        inode.links += 1
    }

    func unlink(_ inode: SimulatedInode, in directory: SimulatedDirectory, _ name: String) {
        directory.entries[name] = nil
        changes.append((stamp(), .unlink(directory, name, inode)))
        inode.links -= 1
        release(inode)
    }

    func rename(
        _ inode: SimulatedInode, in source: SimulatedDirectory, _ old: String, to target: SimulatedDirectory,
        _ name: String
    ) {
        let replaced = target.entries[name]
        guard replaced !== inode else { return }
        source.entries[old] = nil
        target.entries[name] = inode
        changes.append((stamp(), .rename(source, old, to: target, name, inode)))
        if let replaced {
            replaced.links -= 1
            release(replaced)
        }
    }

    /// Writes as much as there is room for; returns how much that was.
    func write(_ bytes: UnsafeRawBufferPointer, to file: SimulatedFile, at offset: Int) -> Int {
        let room = (file.blocks + (capacityBytes / Self.blockBytes - usedBlocks)) * Self.blockBytes
        let count = max(0, min(bytes.count, room - offset))
        let before = file.blocks
        file.write(
            UnsafeRawBufferPointer(rebasing: bytes[..<count]), at: offset, stamp: stamp(), isSyncing: syncsUnderWay > 0,
            volume: self)
        usedBlocks += file.blocks - before
        if !file.isListed, count > 0 {
            file.isListed = true
            listed.append(file)
        }
        return count
    }

    /// Gives back the space of what has neither a name nor a handle.
    func release(_ inode: SimulatedInode) {
        guard inode.links == 0, inode.handles == 0 else { return }
        usedInodes -= 1
        guard let file = inode as? SimulatedFile else { return }
        usedBlocks -= file.blocks
        guard !file.data.isEmpty else { return }
        if recycled.count == Self.recycledMax { recycled.removeFirst() }
        recycled.append(Array(file.data.prefix(Self.recycledMaxBytes)))
    }

    /// Appends what an unwritten sector shows, up to the file's offset `end`: zeros, or the content of an earlier file.
    func appendStale(sector: Int, upTo end: Int, _ bytes: inout [UInt8]) {
        if !recycled.isEmpty, fate.random.coin() {
            let old = fate.random.pick(recycled)
            // Mostly the same place of the old file, where its head looks like a head.
            let shift = fate.random.below(4) == 0 ? fate.random.below(8) * SimulatedFile.sectorBytes : 0
            if bytes.count + shift < old.count {
                fate.counters.staleSectors += 1
                bytes.append(contentsOf: old[bytes.count + shift..<min(old.count, end + shift)])
            }
        }
        if bytes.count < end { bytes += [UInt8](repeating: 0, count: end - bytes.count) }
    }

    // MARK: Syncs

    /// All of the device up to `mark`, or a failure of that.
    func syncAll(upTo mark: UInt64, fails: Bool) {
        for file in listed {
            if fails { file.failSync(upTo: mark, self) } else { file.sync(upTo: mark, self) }
        }
        forgetClean()
        guard !fails else { return }
        let count = changes.firstIndex { $0.stamp > mark } ?? changes.count
        for entry in changes[..<count] { apply(entry.change) }
        changes.removeFirst(count)
    }

    func sync(_ file: SimulatedFile, upTo mark: UInt64, fails: Bool) {
        if fails { file.failSync(upTo: mark, self) } else { file.sync(upTo: mark, self) }
        forgetClean()
    }

    /// The names of one directory. A change takes the earlier ones of the same file with it.
    func sync(_ directory: SimulatedDirectory, upTo mark: UInt64) {
        var inodes = Set<ObjectIdentifier>()
        var isTaken = [Bool](repeating: false, count: changes.count)
        for at in changes.indices.reversed() where changes[at].stamp <= mark {
            let inode = ObjectIdentifier(changes[at].change.inode)
            guard changes[at].change.touches(directory) || inodes.contains(inode) else { continue }
            inodes.insert(inode)
            isTaken[at] = true
        }
        for at in changes.indices where isTaken[at] { apply(changes[at].change) }
        changes = changes.indices.filter { !isTaken[$0] }.map { changes[$0] }
    }

    private func forgetClean() {
        listed.removeAll { file in
            file.isListed = file.hasUnsynced
            return !file.isListed
        }
    }

    private func apply(_ change: Change) {
        switch change {
        case .link(let directory, let name, let inode): directory.durableEntries[name] = inode
        case .unlink(let directory, let name, let inode):
            if directory.durableEntries[name] === inode { directory.durableEntries[name] = nil }
        case .rename(let source, let old, let target, let name, let inode):
            if source.durableEntries[old] === inode { source.durableEntries[old] = nil }
            target.durableEntries[name] = inode
        }
    }

    // MARK: Ends

    /// The process is gone: what only its handles kept goes, and pages that passed for clean may be dropped.
    func endProcess() {
        syncsUnderWay = 0
        if fate.random.coin() { walk(root) { ($0 as? SimulatedFile)?.evict(self) } }
    }

    /// Each change of a directory survives or not, each unsynced sector likewise, with chances drawn for this loss.
    func losePower() {
        let survival = [0, 100_000, 500_000, 900_000, 1_000_000]
        let (names, sectors) = (fate.random.pick(survival), fate.random.pick(survival))
        for entry in changes {
            if fate.random.happens(names) {
                apply(entry.change)
                fate.counters.keptEntryChanges += 1
            } else {
                fate.counters.lostEntryChanges += 1
            }
        }
        changes = []
        listed = []
        syncsUnderWay = 0
        hungUntil = 0
        (usedBlocks, usedInodes) = (0, 1)
        restore(root)
        walk(root) { inode in
            inode.handles = 0
            guard inode !== self.root else { return }
            inode.links += 1
            guard inode.links == 1 else { return }
            self.usedInodes += 1
            guard let file = inode as? SimulatedFile else { return }
            file.isListed = false
            file.losePower(survival: sectors, self)
            self.usedBlocks += file.blocks
        }
    }

    private func restore(_ directory: SimulatedDirectory) {
        directory.entries = directory.durableEntries
        for (_, inode) in directory.entries.all {
            inode.links = 0
            if let inner = inode as? SimulatedDirectory { restore(inner) }
        }
    }

    /// The inode of each name, in order.
    private func walk(_ directory: SimulatedDirectory, _ body: (SimulatedInode) -> Void) {
        body(directory)
        for (_, inode) in directory.entries.all {
            if let inner = inode as? SimulatedDirectory { walk(inner, body) } else { body(inode) }
        }
    }
}
