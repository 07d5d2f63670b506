import CReactor
import Glibc

/// A file step under way on a simulated disk: done in parts, so that a kill or a power loss can come between any two.
struct SimulatedFileWork {
    /// Where `place` and `append` are.
    private enum Phase {
        case begin
        case writing
        case flushing
        case closing
        case renaming
        /// After an error of `place`: the `.part` goes.
        case undoing(FileOutcome)
        /// Between a sync's begin and its end.
        case syncing(SimulatedDisk.Opened, upTo: UInt64)
    }

    /// The most that one part writes.
    private static let partMaxBytes = 64 << 10

    let step: FileStep
    private let byChance: Bool
    private var phase = Phase.begin
    private var file: FileHandle = -1
    /// What is written: whole vectors, and bytes of the next one.
    private var vector = 0
    private var offset = 0
    private var total = 0
    private var hasBegunWriting = false
    private let failedSyncs: [Int]
    /// The device whose failed sync this step has told of: it is told once.
    private(set) var toldDevice: Int?

    /// - Parameters:
    ///   - mayFailByChance: not for start-up code, whose end would be all that a test sees.
    ///   - failedSyncs: how many syncs of each device had failed when the step's task began.
    init(_ step: FileStep, mayFailByChance: Bool, failedSyncs: [Int] = []) {
        self.step = step
        byChance = mayFailByChance
        self.failedSyncs = failedSyncs
    }

    var isSync: Bool {
        switch step {
        case .syncData, .syncLog, .syncFileSystem, .syncDirectory: true
        default: false
        }
    }

    /// Does the next part; the outcome after the last.
    mutating func proceed(on disk: SimulatedDisk) -> FileOutcome? {
        switch step {
        case .create(let directory, let name, let vectors): return place(disk, directory, name, vectors, renames: false)
        case .place(let directory, let name, let vectors): return place(disk, directory, name, vectors, renames: true)
        case .createPart(let directory, let name): return createPart(disk, directory, name)
        case .append(let file, let vectors): return write(disk, file, vectors)
        case .write(let file, let offset, let vectors): return write(disk, file, vectors, at: offset)
        case .zero(let file, let length):
            return overwrite(disk, file, 0, [UInt8](repeating: 0, count: length))
        case .openLog(let directory, let name, let create): return openLog(disk, directory, name, create)
        case .overwrite(let file, let offset, let bytes): return overwrite(disk, file, offset, bytes)
        case .syncData(let file), .syncLog(let file), .syncFileSystem(let file), .syncDirectory(let file):
            return sync(disk, file)
        case .close(let file): return close(disk, file)
        case .renamePart(let directory, let name): return rename(disk, directory, name + ".part", directory, name)
        case .rename(let directory, let old, let target, let name): return rename(disk, directory, old, target, name)
        case .unlink(let directory, let name): return unlink(disk, directory, name)
        case .open(let directory, let name): return open(disk, directory, name)
        case .read(let file, let offset, let length): return read(disk, file, offset, length)
        case .readWhole(let directory, let name, let maxBytes): return readWhole(disk, directory, name, maxBytes)
        case .readStart(let directory, let name, let length): return readStart(disk, directory, name, length)
        case .checksum(let file, let offset, let length): return checksum(disk, file, offset, length)
        case .list(let handle):
            guard let found = disk.directory(handle) else { return disk.wrongHandle(handle) }
            if let fault = disk.fault(.read, found.volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
            let names = found.directory.entries.all.map(\.name).sorted()
            return FileOutcome(names.count, names: names)
        case .openDirectory(let path, let create):
            return FileOutcome(disk.openDirectory(path, create: create, byChance: byChance))
        case .space(let handle):
            guard let entry = disk[handle] else { return disk.wrongHandle(handle) }
            return FileOutcome(entry.volume.freeBytes, second: entry.volume.freeInodes)
        case .identity(let handle):
            guard let entry = disk[handle] else { return disk.wrongHandle(handle) }
            return FileOutcome(entry.volume.id, second: entry.inode.number)
        }
    }

    // MARK: Writing

    private mutating func place(
        _ disk: SimulatedDisk, _ directory: FileHandle, _ name: String, _ vectors: [IOVector], renames: Bool
    ) -> FileOutcome? {
        let working = renames ? name + ".part" : name
        switch phase {
        case .begin:
            var made = createFile(disk, directory, working)
            if renames, made.value == -Int(EEXIST) {
                let gone = unlink(disk, directory, working)
                guard gone.isDone else { return gone }
                made = createFile(disk, directory, working)
            }
            guard made.isDone else { return made }
            file = FileHandle(made.value)
            phase = .writing
        case .writing:
            switch write(disk, file, vectors) {
            case .none: break
            case .some(let outcome) where outcome.isDone: phase = renames ? .flushing : .closing
            case .some(let outcome):
                disk.closeHandle(file)
                phase = .undoing(outcome)
            }
        case .flushing:
            // A rename may reach the disk before the data: what replaces another file is synced first.
            if let entry = disk[file], let inode = entry.inode as? SimulatedFile {
                var fault = disk.fault(.sync, entry.volume, byChance: byChance)
                entry.volume.sync(inode, upTo: entry.volume.mark, fails: fault != nil)
                // A write-back that failed since the file was opened is told here.
                if fault == nil, inode.hasFailed { fault = EIO }
                inode.hasFailed = false
                if let fault {
                    disk.closeHandle(file)
                    phase = .undoing(FileOutcome(-Int(fault)))
                    return nil
                }
            }
            phase = .closing
        case .closing:
            let outcome = close(disk, file)
            if outcome.isDone, !renames {
                disk.fate.counters.filesPlaced += 1
                return FileOutcome(0)
            }
            phase = outcome.isDone ? .renaming : .undoing(outcome)
        case .renaming:
            let outcome = rename(disk, directory, working, directory, name)
            if outcome.isDone {
                disk.fate.counters.filesPlaced += 1
                return outcome
            }
            phase = .undoing(outcome)
        case .undoing(let outcome):
            _ = unlink(disk, directory, working)
            return outcome
        case .syncing: preconditionFailure("a place doesn't sync")
        }
        return nil
    }

    private func createPart(_ disk: SimulatedDisk, _ handle: FileHandle, _ name: String) -> FileOutcome {
        createFile(disk, handle, name + ".part")
    }

    private func createFile(
        _ disk: SimulatedDisk, _ handle: FileHandle, _ part: String, _ mode: SimulatedDisk.Opened.Mode = .writing
    ) -> FileOutcome {
        guard let (directory, volume) = disk.directory(handle) else { return disk.wrongHandle(handle) }
        if let fault = SimulatedDisk.nameFault(part) { return FileOutcome(-Int(fault)) }
        guard directory.entries[part] == nil else { return FileOutcome(-Int(EEXIST)) }
        if let fault = disk.fault(.create, volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
        guard let number = volume.takeInode() else { return full(disk) }
        let file = SimulatedFile(number: number)
        volume.link(file, in: directory, part)
        let opened = disk.open(file, on: volume, mode)
        if opened < 0 { volume.unlink(file, in: directory, part) }
        return FileOutcome(opened)
    }

    private func full(_ disk: SimulatedDisk) -> FileOutcome {
        disk.fate.counters.fullDisks += 1
        return FileOutcome(-Int(ENOSPC))
    }

    /// Some more of the vectors; the outcome when all is written or nothing more can be.
    ///
    /// - Parameter start: nil: where the file stands.
    private mutating func write(
        _ disk: SimulatedDisk, _ handle: FileHandle, _ vectors: [IOVector], at start: Int64? = nil
    ) -> FileOutcome? {
        guard let entry = disk[handle], entry.mode == (start == nil ? .writing : .both),
            let file = entry.inode as? SimulatedFile
        else {
            disk.fate.counters.badHandles += 1
            return FileOutcome(-Int(EBADF))
        }
        var fault: Int32?
        var partBytes = 0
        defer {
            if start == nil { disk.moveOn(handle, by: partBytes) }
            total += partBytes
        }
        if !hasBegunWriting { fault = disk.fault(.write, entry.volume, byChance: byChance) }
        hasBegunWriting = true
        var budget = disk.fate.random.size(upTo: Self.partMaxBytes)
        while budget > 0, vector < vectors.count {
            let rest = vectors[vector].iov_len - offset
            let count = min(rest, budget)
            if count > 0 {
                let position = (start.map { Int($0) + total } ?? entry.position) + partBytes
                guard position + count <= SimulatedDisk.fileMaxBytes else { return FileOutcome(-Int(EFBIG)) }
                let bytes = UnsafeRawBufferPointer(start: vectors[vector].iov_base + offset, count: count)
                let written = entry.volume.write(bytes, to: file, at: position)
                partBytes += written
                if written < count { return full(disk) }
            }
            budget -= count
            offset += count
            if offset == vectors[vector].iov_len {
                vector += 1
                offset = 0
            }
        }
        // A write that fails may have written something.
        if let fault { return FileOutcome(-Int(fault)) }
        guard vector < vectors.count else {
            if start != nil { disk.fate.counters.logWrites += 1 }
            return FileOutcome(total + partBytes)
        }
        disk.fate.counters.shortWrites += 1
        return nil
    }

    private func overwrite(_ disk: SimulatedDisk, _ handle: FileHandle, _ offset: Int64, _ bytes: [UInt8])
        -> FileOutcome
    {
        guard let entry = disk[handle], entry.mode == .writing || entry.mode == .both,
            let file = entry.inode as? SimulatedFile
        else {
            disk.fate.counters.badHandles += 1
            return FileOutcome(-Int(EBADF))
        }
        guard offset >= 0 else { return FileOutcome(-Int(EINVAL)) }
        guard offset <= Int64(SimulatedDisk.fileMaxBytes - bytes.count) else { return FileOutcome(-Int(EFBIG)) }
        if let fault = disk.fault(.write, entry.volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
        let written = bytes.withUnsafeBytes { entry.volume.write($0, to: file, at: Int(offset)) }
        return written == bytes.count ? FileOutcome(written) : full(disk)
    }

    /// The error of a late write; the handle is closed in any case.
    private func close(_ disk: SimulatedDisk, _ handle: FileHandle) -> FileOutcome {
        guard let entry = disk[handle] else { return disk.wrongHandle(handle) }
        let fault = entry.mode == .writing ? disk.fault(.close, entry.volume, byChance: byChance) : nil
        disk.closeHandle(handle)
        return FileOutcome(-Int(fault ?? 0))
    }

    // MARK: Names

    private func rename(
        _ disk: SimulatedDisk, _ handle: FileHandle, _ old: String, _ targetHandle: FileHandle, _ name: String
    ) -> FileOutcome {
        guard let (source, volume) = disk.directory(handle) else { return disk.wrongHandle(handle) }
        guard let (target, targetVolume) = disk.directory(targetHandle) else { return disk.wrongHandle(targetHandle) }
        guard volume === targetVolume else { return FileOutcome(-Int(EXDEV)) }
        if let fault = SimulatedDisk.nameFault(name) { return FileOutcome(-Int(fault)) }
        guard let inode = source.entries[old] else {
            // Not of what a test itself tries.
            if byChance { disk.fate.counters.missingNames += 1 }
            return FileOutcome(-Int(ENOENT))
        }
        if let replaced = target.entries[name], replaced !== inode {
            if let inner = replaced as? SimulatedDirectory {
                guard inode is SimulatedDirectory else { return FileOutcome(-Int(EISDIR)) }
                guard inner.entries.all.isEmpty else { return FileOutcome(-Int(ENOTEMPTY)) }
            } else if inode is SimulatedDirectory {
                return FileOutcome(-Int(ENOTDIR))
            }
        }
        if let fault = disk.fault(.rename, volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
        volume.rename(inode, in: source, old, to: target, name)
        return FileOutcome(0)
    }

    private func unlink(_ disk: SimulatedDisk, _ handle: FileHandle, _ name: String) -> FileOutcome {
        guard let (directory, volume) = disk.directory(handle) else { return disk.wrongHandle(handle) }
        guard let inode = directory.entries[name] else { return FileOutcome(-Int(ENOENT)) }
        guard inode is SimulatedFile else { return FileOutcome(-Int(EISDIR)) }
        if let fault = disk.fault(.unlink, volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
        volume.unlink(inode, in: directory, name)
        disk.fate.counters.unlinks += 1
        return FileOutcome(0)
    }

    // MARK: Syncs

    /// Two parts: what was done between them need not be durable.
    private mutating func sync(_ disk: SimulatedDisk, _ handle: FileHandle) -> FileOutcome? {
        guard case .syncing(let entry, let mark) = phase else {
            guard let entry = disk[handle] else { return disk.wrongHandle(handle) }
            phase = .syncing(entry, upTo: entry.volume.mark)
            entry.volume.syncsUnderWay += 1
            return nil
        }
        let volume = entry.volume
        volume.syncsUnderWay = max(0, volume.syncsUnderWay - 1)
        disk.fate.counters.syncs += 1
        var fault = disk.fault(.sync, volume, byChance: byChance)
        if case .syncFileSystem = step {
            volume.syncAll(upTo: mark, fails: fault != nil)
            if fault != nil {
                volume.failedSyncs += 1
            } else if volume.id <= failedSyncs.count, volume.failedSyncs > failedSyncs[volume.id - 1] {
                // Somebody else's failed since this task began: what it wrote may be gone (T-F1).
                fault = EIO
            }
            if fault != nil { toldDevice = volume.id }
        } else if let file = entry.inode as? SimulatedFile {
            volume.sync(file, upTo: mark, fails: fault != nil)
            if fault == nil, file.hasFailed { fault = EIO }
            file.hasFailed = false
        } else if let directory = entry.inode as? SimulatedDirectory, fault == nil {
            volume.sync(directory, upTo: mark)
        }
        return FileOutcome(-Int(fault ?? 0))
    }

    // MARK: Reading

    private func open(_ disk: SimulatedDisk, _ handle: FileHandle, _ name: String) -> FileOutcome {
        guard let (directory, volume) = disk.directory(handle) else { return disk.wrongHandle(handle) }
        guard let inode = directory.entries[name] else { return FileOutcome(-Int(ENOENT)) }
        if let fault = disk.fault(.read, volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
        return FileOutcome(disk.open(inode, on: volume, inode is SimulatedDirectory ? .directory : .reading))
    }

    private func openLog(
        _ disk: SimulatedDisk, _ handle: FileHandle, _ name: String, _ create: Bool
    ) -> FileOutcome {
        guard let (directory, volume) = disk.directory(handle) else { return disk.wrongHandle(handle) }
        if let fault = SimulatedDisk.nameFault(name) { return FileOutcome(-Int(fault)) }
        if let inode = directory.entries[name] {
            guard inode is SimulatedFile else { return FileOutcome(-Int(EISDIR)) }
            if let fault = disk.fault(.read, volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
            return FileOutcome(disk.open(inode, on: volume, .both))
        }
        guard create else { return FileOutcome(-Int(ENOENT)) }
        return createFile(disk, handle, name, .both)
    }

    /// The file behind a handle that may be read from, unless reading fails.
    private func readable(_ disk: SimulatedDisk, _ handle: FileHandle, _ body: (SimulatedFile) -> FileOutcome)
        -> FileOutcome
    {
        guard let entry = disk[handle] else { return disk.wrongHandle(handle) }
        guard let file = entry.inode as? SimulatedFile else { return FileOutcome(-Int(EISDIR)) }
        guard entry.mode == .reading || entry.mode == .both else { return FileOutcome(-Int(EBADF)) }
        if let fault = disk.fault(.read, entry.volume, byChance: byChance) { return FileOutcome(-Int(fault)) }
        return body(file)
    }

    private func read(_ disk: SimulatedDisk, _ handle: FileHandle, _ offset: Int64, _ length: Int) -> FileOutcome {
        readable(disk, handle) { file in
            guard offset >= 0, length >= 0 else { return FileOutcome(-Int(EINVAL)) }
            let start = min(Int(clamping: offset), file.data.count)
            let data = Array(file.data[start...].prefix(length))
            return FileOutcome(data.count, data: data)
        }
    }

    private func readWhole(_ disk: SimulatedDisk, _ handle: FileHandle, _ name: String, _ maxBytes: Int) -> FileOutcome
    {
        let opened = open(disk, handle, name)
        guard opened.isDone else { return opened }
        defer { disk.closeHandle(FileHandle(opened.value)) }
        return readable(disk, FileHandle(opened.value)) { file in
            guard file.data.count <= maxBytes else { return FileOutcome(-Int(EFBIG)) }
            return FileOutcome(file.data.count, data: file.data)
        }
    }

    private func readStart(_ disk: SimulatedDisk, _ handle: FileHandle, _ name: String, _ length: Int) -> FileOutcome {
        let opened = open(disk, handle, name)
        guard opened.isDone else { return opened }
        defer { disk.closeHandle(FileHandle(opened.value)) }
        return readable(disk, FileHandle(opened.value)) { file in
            let data = Array(file.data.prefix(max(0, length)))
            return FileOutcome(data.count, second: file.data.count, data: data)
        }
    }

    private func checksum(_ disk: SimulatedDisk, _ handle: FileHandle, _ offset: Int64, _ length: Int) -> FileOutcome {
        readable(disk, handle) { file in
            guard offset >= 0, length >= 0 else { return FileOutcome(-Int(EINVAL)) }
            let start = min(Int(clamping: offset), file.data.count)
            guard length <= file.data.count - start else { return FileOutcome(-Int(ENODATA)) }
            let crc = file.data.withUnsafeBytes { bytes in
                length == 0 ? 0 : cr_crc32c(0, bytes.baseAddress! + start, length)
            }
            return FileOutcome(Int(crc))
        }
    }
}
