import Glibc
import Synchronization
import Testing

@testable import Reactor

/// A directory of its own for one test.
private final class Directory {
    let path: String
    let handle: FileHandle
    let files = PosixFiles()

    init() throws {
        var template = Array("/tmp/postern-files-XXXXXX".utf8CString)
        let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!).map { String(cString: $0) } }
        path = try #require(made)
        handle = open(path, O_RDONLY | O_DIRECTORY)
    }

    deinit {
        for name in names { unlinkat(handle, name, 0) }
        close(handle)
        rmdir(path)
    }

    var names: [String] { files.carryOut(.list(handle)).names.sorted() }

    func place(_ name: String, _ parts: [[UInt8]]) -> FileOutcome {
        let all = parts.flatMap { $0 }
        return all.withUnsafeBytes { buffer in
            var at = 0
            let vectors = parts.map { part -> IOVector in
                defer { at += part.count }
                return IOVector(UnsafeRawBufferPointer(rebasing: buffer[at..<at + part.count]))
            }
            return files.carryOut(.place(in: handle, name: name, vectors))
        }
    }

    func append(_ bytes: [UInt8], to file: FileHandle) -> FileOutcome {
        bytes.withUnsafeBytes { files.carryOut(.append(to: file, [IOVector($0)])) }
    }

    func content(_ name: String) -> [UInt8] {
        files.carryOut(.readWhole(in: handle, name: name, maxBytes: 1 << 24)).data
    }
}

@Suite struct FilesTests {
    @Test func placesAWholeFile() throws {
        let directory = try Directory()
        let bytes = pattern(300_000)
        // More vectors than one system call takes, some of them empty.
        var parts = (0..<1_500).map { at in Array(bytes[at * 200..<at * 200 + (at % 7 == 0 ? 0 : 200)]) }
        #expect(directory.place("a", parts).value == 0)
        #expect(directory.names == ["a"])
        #expect(directory.content("a") == parts.flatMap { $0 })
        // Nothing but empty vectors in the first call.
        parts = Array(repeating: [], count: 1_100) + [[1, 2, 3]]
        #expect(directory.place("b", parts).value == 0)
        #expect(directory.content("b") == [1, 2, 3])
        #expect(directory.place("c", []).value == 0)
        #expect(directory.content("c") == [])
        var status = stat()
        fstatat(directory.handle, "a", &status, 0)
        #expect(status.st_mode & 0o777 == 0o600)
    }

    @Test func leavesNoPartOfAFailedFile() throws {
        let directory = try Directory()
        // A directory in the way of the rename.
        mkdirat(directory.handle, "taken", 0o700)
        #expect(directory.place("taken", [[1]]).value == -Int(EISDIR))
        #expect(directory.names == ["taken"])
        unlinkat(directory.handle, "taken", AT_REMOVEDIR)
        #expect(directory.place(String(repeating: "n", count: 300), [[1]]).value == -Int(ENAMETOOLONG))
    }

    /// Seed 1440: the undo of a failed state file failed too, and each further attempt found its part in the way, for ever.
    @Test func aPartThatAFailedAttemptLeftBehindIsNotInTheWay() throws {
        let directory = try Directory()
        let part = directory.files.carryOut(.createPart(in: directory.handle, name: "b"))
        #expect(directory.append([9, 9, 9], to: FileHandle(part.value)).isDone)
        #expect(directory.place("b", [[1]]).value == 0)
        #expect(directory.names == ["b"])
        #expect(directory.content("b") == [1])
        // What is written to it now goes nowhere: it is another file.
        #expect(directory.append([9, 9, 9], to: FileHandle(part.value)).isDone)
        #expect(directory.content("b") == [1])
        #expect(directory.files.carryOut(.close(FileHandle(part.value))).isDone)
        mkdirat(directory.handle, "c.part", 0o700)
        #expect(directory.place("c", [[1]]).value == -Int(EISDIR))
        unlinkat(directory.handle, "c.part", AT_REMOVEDIR)
    }

    @Test func writesAFileStepByStep() throws {
        let directory = try Directory()
        let files = directory.files
        let made = files.carryOut(.createPart(in: directory.handle, name: "m"))
        let file = FileHandle(made.value)
        #expect(files.carryOut(.createPart(in: directory.handle, name: "m")).value == -Int(EEXIST))
        #expect(directory.append(Array("hello ".utf8), to: file).value == 6)
        #expect(directory.append(Array("world".utf8), to: file).value == 5)
        #expect(files.carryOut(.overwrite(file, at: 0, Array("J".utf8))).value == 1)
        #expect(files.carryOut(.overwrite(file, at: 0, [])).value == 0)
        #expect(files.carryOut(.syncData(file)).value == 0)
        #expect(files.carryOut(.close(file)).value == 0)
        #expect(files.carryOut(.renamePart(in: directory.handle, name: "m")).value == 0)
        #expect(files.carryOut(.syncDirectory(directory.handle)).value == 0)
        #expect(files.carryOut(.syncFileSystem(directory.handle)).value == 0)
        #expect(directory.content("m") == Array("Jello world".utf8))
        #expect(
            files.carryOut(.rename(in: directory.handle, from: "m", to: directory.handle, name: "n")).value == 0)
        #expect(directory.names == ["n"])
        #expect(files.carryOut(.unlink(in: directory.handle, name: "n")).value == 0)
        #expect(files.carryOut(.unlink(in: directory.handle, name: "n")).value == -Int(ENOENT))
        #expect(files.carryOut(.renamePart(in: directory.handle, name: "n")).value == -Int(ENOENT))
    }

    @Test func readsAndChecksParts() throws {
        let directory = try Directory()
        let files = directory.files
        let bytes = pattern(700_000)
        #expect(directory.place("a", [bytes]).isDone)
        let file = FileHandle(files.carryOut(.open(in: directory.handle, name: "a")).value)
        #expect(files.carryOut(.read(file, at: 100, length: 50)).data == Array(bytes[100..<150]))
        let atEnd = files.carryOut(.read(file, at: 699_990, length: 50))
        #expect(atEnd.value == 10 && atEnd.data == Array(bytes[699_990...]))
        #expect(files.carryOut(.read(file, at: 800_000, length: 5)).value == 0)
        #expect(files.carryOut(.readWhole(in: directory.handle, name: "a", maxBytes: 699_999)).value == -Int(EFBIG))
        #expect(files.carryOut(.readWhole(in: directory.handle, name: "a", maxBytes: 700_000)).value == 700_000)
        #expect(files.carryOut(.checksum(file, at: 699_999, length: 2)).value == -Int(ENODATA))
        #expect(files.carryOut(.close(file)).isDone)
        // The check value of CRC32C.
        #expect(directory.place("b", [Array("..123456789".utf8)]).isDone)
        let known = FileHandle(files.carryOut(.open(in: directory.handle, name: "b")).value)
        #expect(files.carryOut(.checksum(known, at: 2, length: 9)).value == 0xE306_9283)
        #expect(files.carryOut(.checksum(known, at: 2, length: 0)).value == 0)
        #expect(files.carryOut(.close(known)).isDone)
        // Not `known` again: its number may belong to a test beside this one by now.
        #expect(files.carryOut(.close(-1)).value == -Int(EBADF))
    }

    @Test func refusesLinks() throws {
        let directory = try Directory()
        symlinkat("/etc/passwd", directory.handle, "link")
        #expect(directory.files.carryOut(.open(in: directory.handle, name: "link")).value == -Int(ELOOP))
        let whole = directory.files.carryOut(.readWhole(in: directory.handle, name: "link", maxBytes: 1 << 20))
        #expect(whole.value == -Int(ELOOP))
    }

    @Test func listsNamesOfAllLengths() throws {
        let directory = try Directory()
        let names = (1...255).map { String(repeating: "x", count: $0) }
        for name in names { close(open(directory.path + "/" + name, O_CREAT | O_WRONLY, 0o600)) }
        let listed = directory.files.carryOut(.list(directory.handle))
        #expect(listed.value == 255 && Set(listed.names) == Set(names))
        // Twice: the listing has a place of its own in the directory.
        #expect(directory.files.carryOut(.list(directory.handle)).value == 255)
        #expect(directory.files.carryOut(.list(-1)).value == -Int(EBADF))
    }

    @Test func makesDirectoriesWithTheirParents() throws {
        let directory = try Directory()
        let files = directory.files
        let path = directory.path + "/a/b/c"
        #expect(files.carryOut(.openDirectory(path: path, create: false)).value == -Int(ENOENT))
        for _ in 0..<2 {
            let made = files.carryOut(.openDirectory(path: path, create: true))
            #expect(made.isDone)
            let same = files.carryOut(.identity(FileHandle(made.value)))
            var status = stat()
            stat(path, &status)
            #expect(same.value == Int(status.st_dev) && same.second == Int(status.st_ino))
            close(FileHandle(made.value))
        }
        #expect(directory.place("file", []).isDone)
        #expect(files.carryOut(.openDirectory(path: directory.path + "/file/x", create: true)).value == -Int(ENOTDIR))
        for part in ["/a/b/c", "/a/b", "/a"] { rmdir(directory.path + part) }
    }

    @Test func tellsTheFreeSpace() throws {
        let directory = try Directory()
        let space = directory.files.carryOut(.space(directory.handle))
        #expect(space.value > 0 && space.second > 0)
        #expect(directory.files.carryOut(.space(-1)).value == -Int(EBADF))
        #expect(directory.files.carryOut(.identity(-1)).value == -Int(EBADF))
    }

    @Test func reportsAFullDisk() throws {
        let directory = try Directory()
        let full = open("/dev/full", O_WRONLY)
        defer { close(full) }
        #expect(directory.append([1, 2, 3], to: full).value == -Int(ENOSPC))
        #expect(directory.files.carryOut(.overwrite(full, at: 0, [1])).value == -Int(ENOSPC))
    }

    @Test func stopsAtAFailureOrGoesOn() throws {
        let directory = try Directory()
        for stops in [true, false] {
            let task = FileTask(token: Token(kind: 0, generation: 0, index: 0), device: 1)
            task.stopsAtFailure = stops
            task.steps = [
                .syncDirectory(directory.handle), .unlink(in: directory.handle, name: "none"),
                .syncDirectory(directory.handle),
            ]
            task.carryOut(with: directory.files)
            let last = stops ? -Int(ECANCELED) : 0
            #expect(task.outcomes.map(\.value) == [0, -Int(ENOENT), last])
            #expect(task.outcomes[1].fault == ENOENT)
        }
    }

    /// A lane does what it was given before it ends, in order.
    @Test func laneEndsAfterItsTasks() {
        final class Done: Sendable { let order = Mutex<[UInt32]>([]) }
        let done = Done()
        let lane = FileLane(name: "test")
        for index in UInt32(0)..<100 {
            lane.run(FileTask(token: Token(kind: 0, generation: 0, index: index), device: 1)) { task in
                done.order.withLock { $0.append(task.token.index) }
            }
        }
        lane.shutDown()
        #expect(done.order.withLock { $0 } == Array(0..<100))
    }
}
