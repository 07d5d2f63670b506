import Glibc

/// A trouble with a simulated device: the `countdown`-th matching action from now fails, and `times` - 1 after it.
public struct SimulatedDiskFault: Sendable {
    public enum Action: UInt8, Sendable { case create, write, close, rename, unlink, sync, read }
    public var action: Action
    public var countdown: Int
    public var times: Int
    /// An `errno`; `EIO` unless said otherwise.
    public var fault: Int32
    /// nil: any device.
    public var device: Int?

    public init(_ action: Action, countdown: Int = 1, times: Int = 1, fault: Int32? = nil, device: Int? = nil) {
        (self.action, self.countdown, self.times) = (action, countdown, times)
        (self.fault, self.device) = (fault ?? EIO, device)
    }
}

/// The disk of a simulated machine: devices with directories and files, of which a power loss leaves what was synced and
/// any part of the rest.
///
/// As a `FileExecutor` it does a step at once, for code that runs before the reactors; lanes take the same steps in parts
/// (`SimulatedFileWork`), between which other things happen.
///
/// - Data: a sector (512 bytes) that is not synced survives or shows what was there before, be it the file's older bytes,
///   zeros, or bytes of a file deleted earlier. The size may be ahead of the data.
/// - Names: a change without a sync survives or doesn't, each for itself; a rename is never half done.
/// - A sync covers what was done before it began. One that fails leaves its sectors clean, written or not, and names as they were.
///   Of a device's failed sync every task hears that had begun before it, as the lanes of the real backends have it; of a file's loss
///   its own next sync.
public final class SimulatedDisk: FileExecutor {
    struct Opened {
        enum Mode { case directory, reading, writing, both }
        let inode: SimulatedInode
        let volume: SimulatedVolume
        let mode: Mode
        /// Where the next append writes; an overwrite doesn't move it.
        var position = 0
    }

    private static let handlesMax = 65_536
    private static let nameMaxBytes = 255
    static let fileMaxBytes = 1 << 30
    private static let faultsMax = 1_000

    let fate: SimulatedFate
    private var volumes: [SimulatedVolume] = []
    private var opened: [Opened?] = [nil, nil, nil]
    private var freeHandles: [FileHandle] = []
    private var faults: [SimulatedDiskFault] = []

    init(fate: SimulatedFate) {
        self.fate = fate
        volumes = [
            SimulatedVolume(fate: fate, id: 1, mountPath: [], capacityBytes: 1 << 40, capacityInodes: 1 << 30)
        ]
    }

    // MARK: For the test

    /// Another device, mounted at `path`; returns its number. The first, 1, holds all that lies elsewhere.
    public func addDevice(mountedAt path: String, capacityBytes: Int = 1 << 40, capacityInodes: Int = 1 << 30) -> Int {
        let place = carryOut(.openDirectory(path: path, create: true))
        _ = carryOut(.close(FileHandle(place.value)))
        volumes.append(
            SimulatedVolume(
                fate: fate, id: volumes.count + 1, mountPath: parts(of: path), capacityBytes: capacityBytes,
                capacityInodes: capacityInodes))
        return volumes.count
    }

    public func setCapacity(of device: Int, bytes: Int? = nil, inodes: Int? = nil) {
        if let bytes { volumes[device - 1].capacityBytes = bytes }
        if let inodes { volumes[device - 1].capacityInodes = inodes }
    }

    public func usedBytes(of device: Int) -> Int {
        volumes[device - 1].capacityBytes - volumes[device - 1].freeBytes
    }

    public func usedInodes(of device: Int) -> Int { volumes[device - 1].usedInodes }

    /// A device that isn't mounted shows the empty directory beneath.
    public func setMounted(_ isMounted: Bool, device: Int) { volumes[device - 1].isMounted = isMounted }

    public func inject(_ fault: SimulatedDiskFault) {
        precondition(faults.count < Self.faultsMax)
        faults.append(fault)
    }

    public func removeFaults() { faults = [] }

    /// The device's steps stand still for so many virtual nanoseconds.
    public func hang(device: Int, for nanoseconds: UInt64) {
        volumes[device - 1].hungUntil = fate.now + nanoseconds
        fate.counters.hangs += 1
    }

    /// A file's bytes as a reader would see them; nil: no such file.
    public func contents(of path: String) -> [UInt8]? { (find(path)?.inode as? SimulatedFile)?.data }

    /// The names in a directory, in order; nil: no such directory.
    public func names(in path: String) -> [String]? {
        (find(path)?.inode as? SimulatedDirectory)?.entries.all.map(\.name)
    }

    /// The names in a directory that are on stable storage with at least these bytes of their files: what a power loss would leave if
    /// it kept nothing that is not synced. nil: no such directory.
    public func durableFiles(in path: String) -> [(name: String, bytes: [UInt8])]? {
        (find(path)?.inode as? SimulatedDirectory)?.durableEntries.all.compactMap { name, inode in
            (inode as? SimulatedFile).map { (name, $0.durable) }
        }
    }

    /// Turns over one bit of a byte on stable storage.
    public func rot(_ path: String, at offset: Int) { (find(path)?.inode as? SimulatedFile)?.rot(at: offset) }

    public var openHandles: Int { opened.count - 3 - freeHandles.count }

    // MARK: Ends

    /// The process is killed: handles close, the page cache stays.
    func endProcess() {
        for handle in opened.indices where opened[handle] != nil { closeHandle(FileHandle(handle)) }
        (opened, freeHandles) = ([nil, nil, nil], [])
        for volume in volumes { volume.endProcess() }
    }

    func losePower() {
        (opened, freeHandles) = ([nil, nil, nil], [])
        for volume in volumes { volume.losePower() }
    }

    // MARK: Steps

    public func carryOut(_ step: FileStep) -> FileOutcome {
        var work = SimulatedFileWork(step, mayFailByChance: false)
        while true {
            if let outcome = work.proceed(on: self) { return outcome }
        }
    }

    /// The instant until which the step's device hangs.
    func hungUntil(_ step: FileStep) -> UInt64 {
        switch step {
        case .create(let handle, _, _), .place(let handle, _, _), .createPart(let handle, _), .append(let handle, _),
            .overwrite(let handle, _, _), .openLog(let handle, _, _), .write(let handle, _, _), .syncLog(let handle),
            .zero(let handle, _),
            .syncData(let handle), .close(let handle), .renamePart(let handle, _), .unlink(let handle, _),
            .rename(let handle, _, _, _), .syncFileSystem(let handle), .syncDirectory(let handle), .open(let handle, _),
            .read(let handle, _, _), .readWhole(let handle, _, _), .readStart(let handle, _, _),
            .checksum(let handle, _, _), .list(let handle),
            .space(let handle), .identity(let handle):
            self[handle]?.volume.hungUntil ?? 0
        case .openDirectory(let path, _): locate(parts(of: path)).volume.hungUntil
        }
    }

    /// The `errno` with which an action fails now, or nil.
    func fault(_ action: SimulatedDiskFault.Action, _ volume: SimulatedVolume, byChance: Bool) -> Int32? {
        var found: Int32?
        for at in faults.indices where faults[at].action == action && found == nil {
            guard faults[at].device == nil || faults[at].device == volume.id else { continue }
            faults[at].countdown -= 1
            guard faults[at].countdown <= 0 else { continue }
            faults[at].times -= 1
            found = faults[at].fault
        }
        faults.removeAll { $0.times <= 0 }
        if found == nil, byChance, fate.random.happens(fate.settings.diskFaultChance) { found = EIO }
        if found != nil {
            if action == .sync { fate.counters.failedSyncs += 1 } else { fate.counters.failedFileSteps += 1 }
        }
        return found
    }

    // MARK: Handles

    subscript(_ handle: FileHandle) -> Opened? {
        opened.indices.contains(Int(handle)) ? opened[Int(handle)] : nil
    }

    /// Like the real one, with the lowest numbers used again: a handle used after its close meets another file.
    func open(_ inode: SimulatedInode, on volume: SimulatedVolume, _ mode: Opened.Mode) -> Int {
        let handle: FileHandle
        if let free = freeHandles.popLast() {
            handle = free
        } else {
            guard opened.count < Self.handlesMax else { return -Int(EMFILE) }
            handle = FileHandle(opened.count)
            opened.append(nil)
        }
        opened[Int(handle)] = Opened(inode: inode, volume: volume, mode: mode)
        inode.handles += 1
        return Int(handle)
    }

    /// By device.
    var failedSyncs: [Int] { volumes.map(\.failedSyncs) }

    func moveOn(_ handle: FileHandle, by count: Int) { opened[Int(handle)]?.position += count }

    func closeHandle(_ handle: FileHandle) {
        guard let entry = self[handle] else { return }
        opened[Int(handle)] = nil
        freeHandles.append(handle)
        entry.inode.handles -= 1
        entry.volume.release(entry.inode)
    }

    func directory(_ handle: FileHandle) -> (directory: SimulatedDirectory, volume: SimulatedVolume)? {
        guard let entry = self[handle], let directory = entry.inode as? SimulatedDirectory else { return nil }
        return (directory, entry.volume)
    }

    /// What is wrong with a use of `handle` as something that it isn't.
    func wrongHandle(_ handle: FileHandle) -> FileOutcome {
        guard self[handle] == nil else { return FileOutcome(-Int(ENOTDIR)) }
        fate.counters.badHandles += 1
        return FileOutcome(-Int(EBADF))
    }

    static func nameFault(_ name: String) -> Int32? {
        if name.utf8.count > nameMaxBytes { return ENAMETOOLONG }
        return name.isEmpty || name == "." || name == ".." || name.utf8.contains(0x2f) || name.utf8.contains(0)
            ? EINVAL : nil
    }

    // MARK: Paths

    /// The device that a path lies on, and the path's rest on it.
    private func locate(_ parts: [Substring]) -> (volume: SimulatedVolume, rest: ArraySlice<Substring>) {
        var found = volumes[0]
        for volume in volumes where volume.isMounted && volume.mountPath.count > found.mountPath.count {
            if parts.starts(with: volume.mountPath) { found = volume }
        }
        return (found, parts[found.mountPath.count...])
    }

    private func parts(of path: String) -> [Substring] { path.split(separator: "/").filter { $0 != "." } }

    private func find(_ path: String) -> (inode: SimulatedInode, volume: SimulatedVolume)? {
        let (volume, rest) = locate(parts(of: path))
        var at: SimulatedInode = volume.root
        for part in rest {
            guard let inner = (at as? SimulatedDirectory)?.entries[String(part)] else { return nil }
            at = inner
        }
        return (at, volume)
    }

    func openDirectory(_ path: String, create: Bool, byChance: Bool) -> Int {
        let (volume, rest) = locate(parts(of: path))
        var at = volume.root
        for part in rest {
            let name = String(part)
            if let fault = Self.nameFault(name) { return -Int(fault) }
            if let inner = at.entries[name] {
                guard let directory = inner as? SimulatedDirectory else { return -Int(ENOTDIR) }
                at = directory
            } else {
                guard create else { return -Int(ENOENT) }
                if let fault = fault(.create, volume, byChance: byChance) { return -Int(fault) }
                guard let number = volume.takeInode() else {
                    fate.counters.fullDisks += 1
                    return -Int(ENOSPC)
                }
                let directory = SimulatedDirectory(number: number)
                if let fault = fault(.sync, volume, byChance: byChance) {
                    volume.link(directory, in: at, name)
                    return -Int(fault)
                }
                volume.linkDurably(directory, in: at, name)
                at = directory
            }
        }
        return open(at, on: volume, .directory)
    }
}
