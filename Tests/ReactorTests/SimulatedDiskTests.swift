import Glibc
import Reactor
import Testing

/// A disk with the directory `d`, and steps on it.
private struct DiskBench {
    let world: SimulatedWorld
    var directory: FileHandle
    var disk: SimulatedDisk { world.disk }

    init(seed: UInt64, settings: SimulatedSettings = SimulatedSettings()) {
        world = SimulatedWorld(seed: seed, settings: settings)
        directory = FileHandle(world.disk.carryOut(.openDirectory(path: "/d", create: true)).value)
    }

    mutating func reopen() {
        directory = FileHandle(disk.carryOut(.openDirectory(path: "/d", create: false)).value)
    }

    @discardableResult
    func place(_ name: String, _ bytes: [UInt8]) -> Int {
        let held = HeldBytes(bytes)
        return withExtendedLifetime(held) { disk.carryOut(.place(in: directory, name: name, [held.vector])).value }
    }

    @discardableResult
    func create(_ name: String, _ bytes: [UInt8]) -> Int {
        let held = HeldBytes(bytes)
        return withExtendedLifetime(held) { disk.carryOut(.create(in: directory, name: name, [held.vector])).value }
    }

    @discardableResult
    func run(_ step: FileStep) -> Int { disk.carryOut(step).value }
}

@Suite struct SimulatedDiskTests {
    @Test func syncedFilesSurviveEveryPowerLoss() {
        for seed in 0..<1_000 {
            var bench = DiskBench(seed: UInt64(seed))
            // Something deleted, whose bytes may show.
            bench.place("old", simulatedPattern(5_000, 99))
            bench.run(.unlink(in: bench.directory, name: "old"))
            let bytes = simulatedPattern(1 + seed % 7 * 500 + seed, seed)
            #expect(bench.place("a", bytes) == 0)
            #expect(bench.run(.syncFileSystem(bench.directory)) == 0)
            bench.place("b", bytes)
            bench.world.powerLoss()
            bench.reopen()
            #expect(bench.disk.contents(of: "/d/a") == bytes, "seed \(seed)")
        }
    }

    @Test func unsyncedFilesVanishOrTearOrStay() {
        var (gone, torn, whole, stale) = (0, 0, 0, 0)
        for seed in 0..<1_000 {
            let bench = DiskBench(seed: UInt64(seed))
            bench.place("old", simulatedPattern(5_000, 99))
            bench.run(.syncFileSystem(bench.directory))
            bench.run(.unlink(in: bench.directory, name: "old"))
            let bytes = simulatedPattern(3_000, seed)
            bench.create("a", bytes)
            bench.world.powerLoss()
            switch bench.disk.contents(of: "/d/a") {
            case nil: gone += 1
            case bytes?: whole += 1
            default: torn += 1
            }
            if bench.world.counters.staleSectors > 0 { stale += 1 }
        }
        #expect(gone > 0 && torn > 0 && whole > 0 && stale > 0)
    }

    /// Its data is synced before the rename, so that a power loss leaves the old file or the new one.
    @Test func whatReplacesAFileIsNeverTorn() {
        var (old, new, part) = (0, 0, 0)
        for seed in 0..<1_000 {
            let bench = DiskBench(seed: UInt64(seed))
            bench.place("a", simulatedPattern(5_000, 99))
            bench.run(.syncFileSystem(bench.directory))
            bench.place("a", simulatedPattern(3_000, seed))
            bench.world.powerLoss()
            let found = bench.disk.contents(of: "/d/a")
            if found == simulatedPattern(5_000, 99) { old += 1 }
            if found == simulatedPattern(3_000, seed) { new += 1 }
            if bench.disk.contents(of: "/d/a.part") != nil { part += 1 }
        }
        #expect(old + new == 1_000 && old > 0 && new > 0 && part > 0)
    }

    /// As on a real disk: seed 1440.
    @Test func aPartThatAFailedAttemptLeftBehindIsNotInTheWay() {
        let bench = DiskBench(seed: 1)
        let made = bench.disk.carryOut(.createPart(in: bench.directory, name: "b"))
        #expect(made.isDone)
        #expect(bench.place("b", [1]) == 0)
        #expect(bench.disk.contents(of: "/d/b") == [1])
        #expect(bench.disk.contents(of: "/d/b.part") == nil)
    }

    @Test func aRenameWithoutASyncShowsTheOldOrTheNewFile() {
        var (old, new) = (0, 0)
        for seed in 0..<300 {
            let bench = DiskBench(seed: UInt64(seed))
            bench.place("s", [1])
            bench.place("s2", [2])
            bench.run(.syncFileSystem(bench.directory))
            bench.run(.rename(in: bench.directory, from: "s2", to: bench.directory, name: "s"))
            bench.world.powerLoss()
            switch bench.disk.contents(of: "/d/s") {
            case [1]:
                old += 1
                #expect(bench.disk.contents(of: "/d/s2") == [2])
            case [2]:
                new += 1
                #expect(bench.disk.names(in: "/d") == ["s"])
            default: Issue.record("seed \(seed): neither the old nor the new file")
            }
        }
        #expect(old > 0 && new > 0)
    }

    @Test func anUnlinkWithoutASyncMayComeBack() {
        var (gone, back) = (0, 0)
        for seed in 0..<200 {
            let bench = DiskBench(seed: UInt64(seed))
            bench.place("a", [7])
            bench.run(.syncFileSystem(bench.directory))
            bench.run(.unlink(in: bench.directory, name: "a"))
            if seed % 2 == 0 {
                bench.run(.syncDirectory(bench.directory))
                bench.world.powerLoss()
                #expect(bench.disk.contents(of: "/d/a") == nil)
            } else {
                bench.world.powerLoss()
                if bench.disk.contents(of: "/d/a") == nil { gone += 1 } else { back += 1 }
            }
        }
        #expect(gone > 0 && back > 0)
    }

    @Test func dataAndNamesAreSyncedEachForItself() {
        var (nameless, empty) = (0, 0)
        for seed in 0..<300 {
            let bench = DiskBench(seed: UInt64(seed))
            let bytes = HeldBytes(simulatedPattern(2_000, seed))
            let file = FileHandle(bench.run(.createPart(in: bench.directory, name: "x")))
            #expect(bench.run(.append(to: file, [bytes.vector])) == 2_000)
            if seed % 2 == 0 { bench.run(.syncData(file)) } else { bench.run(.syncDirectory(bench.directory)) }
            bench.run(.close(file))
            bench.world.powerLoss()
            let found = bench.disk.contents(of: "/d/x.part")
            if seed % 2 == 0 {
                if found == nil { nameless += 1 } else { #expect(found == simulatedPattern(2_000, seed)) }
            } else {
                #expect(found != nil)
                if found != simulatedPattern(2_000, seed) { empty += 1 }
            }
        }
        #expect(nameless > 0 && empty > 0)
    }

    @Test func aFailedSyncLosesWhatALaterOneSeemsToSave() {
        var lost = 0
        for seed in 0..<100 {
            let bench = DiskBench(seed: UInt64(seed))
            bench.create("a", simulatedPattern(8_000, 1))
            bench.disk.inject(SimulatedDiskFault(.sync))
            #expect(bench.run(.syncFileSystem(bench.directory)) == -Int(EIO))
            #expect(bench.run(.syncFileSystem(bench.directory)) == 0)
            // Readable all the while.
            #expect(bench.disk.contents(of: "/d/a") == simulatedPattern(8_000, 1))
            bench.place("b", simulatedPattern(8_000, 2))
            bench.run(.syncFileSystem(bench.directory))
            bench.world.powerLoss()
            if bench.disk.contents(of: "/d/a") != simulatedPattern(8_000, 1) { lost += 1 }
            #expect(bench.disk.contents(of: "/d/b") == simulatedPattern(8_000, 2))
            #expect(bench.world.counters.failedSyncs == 1)
        }
        #expect(lost > 90)
    }

    @Test func aFullDeviceRefusesAndOthersGoOn() {
        let bench = DiskBench(seed: 4)
        let device = bench.disk.addDevice(mountedAt: "/small", capacityBytes: 40_960, capacityInodes: 4)
        let small = FileHandle(bench.run(.openDirectory(path: "/small/box", create: true)))
        #expect(bench.disk.carryOut(.identity(small)).value == device)
        #expect(bench.disk.carryOut(.space(small)).value == 40_960)
        let large = HeldBytes(simulatedPattern(50_000, 0))
        #expect(bench.run(.place(in: small, name: "a", [large.vector])) == -Int(ENOSPC))
        #expect(bench.disk.names(in: "/small/box") == [])
        #expect(bench.disk.carryOut(.space(small)).value == 40_960)
        let little = HeldBytes([1])
        #expect(bench.run(.place(in: small, name: "a", [little.vector])) == 0)
        #expect(bench.run(.place(in: small, name: "b", [little.vector])) == 0)
        #expect(bench.run(.place(in: small, name: "c", [little.vector])) == -Int(ENOSPC))
        #expect(bench.run(.unlink(in: small, name: "a")) == 0)
        #expect(bench.run(.place(in: small, name: "c", [little.vector])) == 0)
        #expect(bench.place("large", simulatedPattern(50_000, 0)) == 0)
        #expect(bench.run(.rename(in: small, from: "c", to: bench.directory, name: "c")) == -Int(EXDEV))
        #expect(bench.world.counters.fullDisks == 2)
        // A sync of one file system is none of the other.
        bench.run(.syncFileSystem(small))
        bench.disk.setMounted(false, device: device)
        #expect(bench.disk.names(in: "/small") == [])
        #expect(bench.run(.openDirectory(path: "/small/box", create: false)) == -Int(ENOENT))
    }

    @Test func oneOfTwoFileSystemsSyncedSavesOnlyThatOne() {
        var lost = 0
        for seed in 0..<100 {
            let bench = DiskBench(seed: UInt64(seed))
            _ = bench.disk.addDevice(mountedAt: "/other")
            let other = FileHandle(bench.run(.openDirectory(path: "/other", create: false)))
            let bytes = HeldBytes(simulatedPattern(600, 0))
            bench.place("a", simulatedPattern(600, 0))
            bench.run(.place(in: other, name: "a", [bytes.vector]))
            bench.run(.syncFileSystem(bench.directory))
            bench.world.powerLoss()
            #expect(bench.disk.contents(of: "/d/a") == simulatedPattern(600, 0))
            if bench.disk.contents(of: "/other/a") != simulatedPattern(600, 0) { lost += 1 }
        }
        #expect(lost > 0)
    }

    @Test func aKillKeepsThePageCache() {
        for seed in 0..<100 {
            var bench = DiskBench(seed: UInt64(seed))
            bench.place("a", simulatedPattern(3_000, seed))
            let handle = bench.directory
            bench.world.kill()
            #expect(bench.run(.list(handle)) == -Int(EBADF))
            bench.reopen()
            #expect(bench.disk.carryOut(.list(bench.directory)).names == ["a"])
            #expect(
                bench.disk.carryOut(.readWhole(in: bench.directory, name: "a", maxBytes: 3_000)).data
                    == simulatedPattern(3_000, seed))
        }
    }

    @Test func injectedFaultsHitTheNthAction() {
        let bench = DiskBench(seed: 2)
        bench.disk.inject(SimulatedDiskFault(.write, countdown: 3))
        bench.disk.inject(SimulatedDiskFault(.rename, countdown: 4))
        #expect(bench.place("a", [1]) == 0)
        #expect(bench.place("b", [1]) == 0)
        #expect(bench.place("c", simulatedPattern(9_000, 0)) == -Int(EIO))
        #expect(bench.disk.names(in: "/d") == ["a", "b"])
        #expect(bench.place("c", [1]) == 0)
        #expect(bench.place("e", [1]) == -Int(EIO))
        #expect(bench.place("e", [1]) == 0)
        #expect(bench.disk.names(in: "/d") == ["a", "b", "c", "e"])
        bench.disk.inject(SimulatedDiskFault(.unlink, fault: EROFS))
        #expect(bench.run(.unlink(in: bench.directory, name: "a")) == -Int(EROFS))
        #expect(bench.run(.unlink(in: bench.directory, name: "a")) == 0)
    }

    @Test func stepsBehaveLikeThoseOfTheKernel() {
        let bench = DiskBench(seed: 6)
        let disk = bench.disk
        let text = simulatedPattern(10_000, 3)
        let bytes = HeldBytes(text)
        let file = FileHandle(bench.run(.createPart(in: bench.directory, name: "m")))
        #expect(bench.run(.createPart(in: bench.directory, name: "m")) == -Int(EEXIST))
        #expect(bench.run(.append(to: file, [bytes.vector, bytes.vector])) == 20_000)
        #expect(bench.run(.overwrite(file, at: 5_000, [9, 9, 9])) == 3)
        #expect(bench.run(.overwrite(file, at: -1, [9])) == -Int(EINVAL))
        #expect(bench.run(.close(file)) == 0)
        #expect(bench.run(.close(file)) == -Int(EBADF))
        #expect(bench.run(.renamePart(in: bench.directory, name: "m")) == 0)
        #expect(bench.run(.renamePart(in: bench.directory, name: "m")) == -Int(ENOENT))
        let reading = FileHandle(bench.run(.open(in: bench.directory, name: "m")))
        #expect(disk.carryOut(.read(reading, at: 4_999, length: 5)).data == [text[4_999], 9, 9, 9, text[5_003]])
        #expect(disk.carryOut(.read(reading, at: 19_999, length: 50)).value == 1)
        #expect(disk.carryOut(.read(reading, at: 90_000, length: 50)).value == 0)
        #expect(bench.run(.checksum(reading, at: 10_000, length: 10_001)) == -Int(ENODATA))
        #expect(bench.run(.checksum(reading, at: 10_000, length: 10_000)) >= 0)
        // A file without a name lives as long as its handle.
        #expect(bench.run(.unlink(in: bench.directory, name: "m")) == 0)
        #expect(disk.carryOut(.read(reading, at: 0, length: 1)).data == [text[0]])
        #expect(bench.run(.readWhole(in: bench.directory, name: "m", maxBytes: 10)) == -Int(ENOENT))
        bench.place("n", text)
        #expect(bench.run(.readWhole(in: bench.directory, name: "n", maxBytes: 9_999)) == -Int(EFBIG))
        #expect(bench.run(.syncData(reading)) == 0)
        #expect(bench.run(.close(reading)) == 0)
        #expect(bench.run(.place(in: bench.directory, name: "../x", [bytes.vector])) == -Int(EINVAL))
        #expect(disk.openHandles == 1)
    }

    /// A lane's task is done part by part: a kill or a power loss finds it at any of them.
    @Test(arguments: [false, true]) func anEndCutsATaskAnywhere(isPowerLoss: Bool) {
        var (nothing, part, unsynced, done) = (0, 0, 0, 0)
        for seed in 0..<300 {
            let bench = DiskBench(seed: UInt64(seed))
            let core = SimulatedEchoCore(bench.world.makeBackend(index: 0), listener: nil)
            let bytes = HeldBytes(simulatedPattern(40_000, seed))
            let task = FileTask(token: Token(kind: 9, generation: 0, index: 0), device: 1)
            task.steps = [
                .place(in: bench.directory, name: "m", [bytes.vector]), .syncFileSystem(bench.directory),
            ]
            core.reactor.backend.run(task, on: .commit)
            bench.world.run(
                turn: { _ in core.step() },
                until: { bench.world.counters.fileParts == seed % 20 || core.filesDone.count == 1 })
            let isDone = core.filesDone.count == 1
            if isPowerLoss { bench.world.powerLoss() } else { bench.world.kill() }
            let names = bench.disk.names(in: "/d")
            switch names {
            case []: nothing += 1
            case ["m.part"]: part += 1
            case ["m"]: if isDone { done += 1 } else { unsynced += 1 }
            default: Issue.record("seed \(seed): \(names ?? [])")
            }
            if isDone { #expect(bench.disk.contents(of: "/d/m") == simulatedPattern(40_000, seed)) }
        }
        #expect(nothing > 0 && part > 0 && unsynced > 0 && done > 0)
    }

    @Test func aSyncCoversOnlyWhatWasThereWhenItBegan() {
        var lost = 0
        for seed in 0..<200 {
            let bench = DiskBench(seed: UInt64(seed))
            let core = SimulatedEchoCore(bench.world.makeBackend(index: 0), listener: nil)
            bench.place("early", [1])
            let task = FileTask(token: Token(kind: 9, generation: 0, index: 0), device: 1)
            task.steps = [.syncFileSystem(bench.directory)]
            core.reactor.backend.run(task, on: .commit)
            // Delay, then the first half.
            var placed = false
            bench.world.after(201_000) {
                placed = core.filesDone.isEmpty
                bench.place("late", [2])
            }
            bench.world.run(turn: { _ in core.step() }, until: { core.filesDone.count == 1 })
            bench.world.powerLoss()
            #expect(bench.disk.contents(of: "/d/early") == [1])
            if placed, bench.disk.contents(of: "/d/late") != [2] { lost += 1 }
        }
        #expect(lost > 0)
    }

    @Test func lanesRunBesideEachOtherAndHangAlone() {
        let bench = DiskBench(seed: 11)
        let device = bench.disk.addDevice(mountedAt: "/slow")
        let slow = FileHandle(bench.run(.openDirectory(path: "/slow", create: false)))
        let core = SimulatedEchoCore(bench.world.makeBackend(index: 0), listener: nil)
        bench.disk.hang(device: device, for: 30_000_000_000)
        for (number, directory) in [slow, bench.directory, bench.directory].enumerated() {
            let task = FileTask(token: Token(kind: 9, generation: 0, index: UInt32(number)), device: 1)
            task.steps = [.list(directory), .unlink(in: directory, name: "none"), .list(directory)]
            core.reactor.backend.run(task, on: number == 0 ? .bulk : .commit)
        }
        let started = bench.world.now
        #expect(bench.world.run(turn: { _ in core.step() }, until: { core.filesDone.count == 3 }))
        #expect(core.filesDone.map(\.token.index) == [1, 2, 0])
        #expect(bench.world.now - started >= 30_000_000_000)
        #expect(core.filesDone[0].outcomes.map(\.value) == [0, -Int(ENOENT), -Int(ECANCELED)])
    }

    @Test func rotTurnsOverOneBit() {
        let bench = DiskBench(seed: 1)
        bench.place("a", [2, 4])
        bench.disk.rot("/d/a", at: 1)
        #expect(bench.disk.contents(of: "/d/a") == [2, 5])
    }

    /// Orders of a commit, right and wrong: what was promised must be there after a power loss.
    enum Commit: CaseIterable {
        case placeSyncPromise, promiseBeforeSync, renameAfterSync, otherFileSystemSynced, retriedSync
    }

    /// Files that were promised and are gone or damaged, for one seed.
    private func broken(_ commit: Commit, seed: UInt64) -> Int {
        let bench = DiskBench(seed: seed)
        _ = bench.disk.addDevice(mountedAt: "/other")
        let other = FileHandle(bench.run(.openDirectory(path: "/other", create: false)))
        let core = SimulatedEchoCore(bench.world.makeBackend(index: 0), listener: nil)
        let content = HeldBytes(simulatedPattern(3_000, 0))
        if commit == .retriedSync { bench.disk.inject(SimulatedDiskFault(.sync, countdown: 1 + Int(seed % 8))) }
        for number in 0..<8 {
            let task = FileTask(token: Token(kind: 9, generation: 0, index: UInt32(number)), device: 1)
            task.stopsAtFailure = false
            task.context = content
            let (name, directory) = ("m\(number)", bench.directory)
            let place = FileStep.place(in: directory, name: name, [content.vector])
            task.steps =
                switch commit {
                case .placeSyncPromise: [place, .syncFileSystem(directory)]
                case .promiseBeforeSync: [place]
                case .renameAfterSync:
                    [
                        place, .rename(in: directory, from: name, to: directory, name: name + "x"),
                        .syncFileSystem(directory),
                    ]
                case .otherFileSystemSynced: [place, .syncFileSystem(other)]
                case .retriedSync: [place, .syncFileSystem(directory), .syncFileSystem(directory)]
                }
            if commit == .renameAfterSync { task.steps.swapAt(1, 2) }
            core.reactor.backend.run(task, on: number % 2 == 0 ? .commit : .bulk)
        }
        for _ in 0..<bench.world.draw(200) { bench.world.step { _ in core.step() } }
        let promised = core.filesDone.filter { $0.outcomes.last!.isDone }.map(\.token.index)
        bench.world.powerLoss()
        let suffix = commit == .renameAfterSync ? "x" : ""
        return promised.count { bench.disk.contents(of: "/d/m\($0)\(suffix)") != simulatedPattern(3_000, 0) }
    }

    @Test(arguments: Commit.allCases) func wrongOrdersOfACommitAreCaught(commit: Commit) {
        let caught = (0..<100).count { broken(commit, seed: UInt64($0)) > 0 }
        if commit == .placeSyncPromise { #expect(caught == 0) } else { #expect(caught > 0) }
    }

    /// Drawn steps have the same outcomes on the simulated disk and on the kernel's.
    @Test func drawnStepsMatchTheKernel() {
        var template = Array("/tmp/simulated-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            Issue.record("no temporary directory")
            return
        }
        let path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        let kernel = PosixFiles()
        let names = ["a", "b", "a.part", "b.part"]
        for seed in 0..<40 {
            let world = SimulatedWorld(seed: UInt64(seed))
            func both(_ step: (FileHandle) -> FileStep, _ pair: (FileHandle, FileHandle)) -> (FileOutcome, FileOutcome)
            {
                (kernel.carryOut(step(pair.0)), world.disk.carryOut(step(pair.1)))
            }
            let place = FileStep.openDirectory(path: "\(path)/\(seed)", create: true)
            let directory = (FileHandle(kernel.carryOut(place).value), FileHandle(world.disk.carryOut(place).value))
            var files: [(FileHandle, FileHandle)] = []
            for number in 0..<60 {
                let name = names[world.draw(4)]
                let bytes = HeldBytes(simulatedPattern(world.draw(3_000), number))
                let file = files.isEmpty ? directory : files[world.draw(files.count)]
                let (real, simulated): (FileOutcome, FileOutcome)
                let kind = world.draw(11)
                switch kind {
                case 0:
                    (real, simulated) = both({ .place(in: $0, name: name, [bytes.vector, bytes.vector]) }, directory)
                case 1: (real, simulated) = both({ .createPart(in: $0, name: name) }, directory)
                case 2: (real, simulated) = both({ .open(in: $0, name: name) }, directory)
                case 3: (real, simulated) = both({ .append(to: $0, [bytes.vector]) }, file)
                case 4: (real, simulated) = both({ .overwrite($0, at: Int64(number * 50), [1, 2, 3]) }, file)
                case 5: (real, simulated) = both({ .renamePart(in: $0, name: name) }, directory)
                case 6: (real, simulated) = both({ .unlink(in: $0, name: name) }, directory)
                case 7:
                    real = kernel.carryOut(
                        .rename(in: directory.0, from: name, to: directory.0, name: names[number % 4]))
                    simulated = world.disk.carryOut(
                        .rename(in: directory.1, from: name, to: directory.1, name: names[number % 4]))
                case 8: (real, simulated) = both({ .read($0, at: 700, length: 900) }, file)
                case 9: (real, simulated) = both({ .readWhole(in: $0, name: name, maxBytes: 4_000) }, directory)
                default: (real, simulated) = both({ .checksum($0, at: 100, length: 1_000) }, file)
                }
                if kind == 1 || kind == 2, real.isDone, simulated.isDone {
                    files.append((FileHandle(real.value), FileHandle(simulated.value)))
                } else {
                    #expect(real.value == simulated.value, "seed \(seed), step \(number), kind \(kind)")
                }
                #expect(real.data == simulated.data)
            }
            let listed = both({ .list($0) }, directory)
            #expect(listed.0.names.sorted() == listed.1.names.sorted())
            for name in listed.0.names { _ = kernel.carryOut(.unlink(in: directory.0, name: name)) }
            for file in files + [directory] { _ = both({ .close($0) }, file) }
            rmdir("\(path)/\(seed)")
        }
        rmdir(path)
    }
}
