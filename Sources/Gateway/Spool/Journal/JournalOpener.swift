import Glibc
import Reactor

/// What is wanted of the journals, for each reactor.
struct JournalSettings: Equatable, Sendable {
    /// 0: no journal.
    var segmentBytes: Int
    var limitBytes: Int

    static let none = JournalSettings(segmentBytes: 0, limitBytes: 0)
    var segmentsMax: Int { segmentBytes == 0 ? 0 : max(Self.segmentsMin, limitBytes / segmentBytes) }

    /// One that is written, one that mail may begin next, two for ends.
    static let segmentsMin = 4
}

/// Opens the journals at a start, before there are reactors (design rule J8): what earlier starts left in them goes to the mail
/// directories, whatever number of reactors they had, and then their segments hold nothing and are used again.
///
/// Cut off at any step it is begun again by the next start: a record counts until its segment's header says that it is free, so
/// a file of its key is from an earlier attempt, and nobody was given it yet.
///
/// ```text
/// sync what will be read ▶ scan all ▶ a file for each parcel that has no end ▶ sync ▶ headers free, oldest first, each synced
/// ```
struct JournalOpener {
    let dataPath: String
    let files: any FileExecutor
    let random: () -> UInt64
    /// An open mail directory of the gateway; nil: it has none now.
    let store: (UInt64) -> Store?
    /// What an administrator should know: an event's name and a sentence.
    let note: (_ isAlarm: Bool, _ event: String, _ sentence: String) -> Void

    static let folder = "journal"
    /// Mail of gateways whose mail directory could not take it, one folder a gateway, until it can.
    static let strandedFolder = "stranded"

    private var path: String { dataPath + "/" + Self.folder }

    /// One a reactor; nil: no journal is wanted.
    func open(_ settings: JournalSettings, reactors: Int) throws(SpoolFault) -> [JournalStart]? {
        let opened = files.carryOut(.openDirectory(path: path, create: settings.segmentBytes > 0))
        if settings.segmentBytes == 0, opened.fault == ENOENT { return nil }
        let directory = FileHandle(try done(opened, "opened").value)
        // After a kill alone, what is read here may not be on disk yet.
        _ = try done(files.carryOut(.syncFileSystem(directory)), "synced")
        let numbers = try names(directory)
        var found = try segments(directory, numbers)
        try drain(&found, directory)
        let starts = try distribute(found, directory, settings, reactors, nextNumber: (numbers.max() ?? 0) + 1)
        if starts == nil { _ = files.carryOut(.close(directory)) }
        return starts
    }

    private func done(_ outcome: FileOutcome, _ what: String) throws(SpoolFault) -> FileOutcome {
        guard outcome.isDone else {
            throw SpoolFault(
                description:
                    "the journal `\(path)` can't be \(what): \(String(cString: strerror(outcome.fault))); it may hold mail, so the server does not start without it"
            )
        }
        return outcome
    }

    // MARK: What is there

    /// A segment's file.
    private struct Found {
        let number: Int
        let handle: FileHandle
        let header: JournalSegmentHeader
        var parcels: [JournalScan.Parcel] = []
    }

    private func names(_ directory: FileHandle) throws(SpoolFault) -> [Int] {
        var numbers: [Int] = []
        for name in try done(files.carryOut(.list(directory)), "listed").names {
            if name.hasSuffix(Journal.suffix), let number = Int(name.dropLast(Journal.suffix.count)) {
                numbers.append(number)
            } else if name.hasSuffix(Journal.suffix + ".part") {
                // One that was being made.
                _ = files.carryOut(.unlink(in: directory, name: name))
            }
        }
        return numbers.sorted()
    }

    private func segments(_ directory: FileHandle, _ numbers: [Int]) throws(SpoolFault) -> [Found] {
        var found: [Found] = []
        for number in numbers {
            let name = Journal.name(number)
            let handle = FileHandle(
                try done(files.carryOut(.openLog(in: directory, name: name, create: false)), "opened").value)
            let read = try done(
                files.carryOut(.read(handle, at: 0, length: JournalFormat.blockBytes)), "read")
            if let header = read.data.withUnsafeBytes({ JournalSegmentHeader($0) }) {
                found.append(Found(number: number, handle: handle, header: header))
                continue
            }
            _ = files.carryOut(.close(handle))
            note(
                true, "journal-damaged",
                "the header of `\(path)/\(name)` is damaged; set aside as \(name)\(MailFile.damagedSuffix), with all mail that it holds"
            )
            _ = try done(
                files.carryOut(
                    .rename(in: directory, from: name, to: directory, name: name + MailFile.damagedSuffix)),
                "changed")
        }
        return found.sorted {
            ($0.header.life.journal, $0.header.life.generation) < ($1.header.life.journal, $1.header.life.generation)
        }
    }

    // MARK: Draining

    private struct Key: Hashable {
        let journal: UInt64
        let generation: UInt64
        let offset: Int
    }

    private func drain(_ found: inout [Found], _ directory: FileHandle) throws(SpoolFault) {
        var ended: Set<Key> = []
        for at in found.indices where !found[at].header.isFree {
            let header = found[at].header
            var knownEnd: Int?
            if at + 1 < found.count, found[at + 1].header.life.journal == header.life.journal {
                let next = found[at + 1].header
                if next.life.generation == header.life.generation + 1 {
                    knownEnd = next.predecessorEnd
                } else {
                    note(
                        true, "journal-damaged",
                        "a segment is missing between \(Journal.name(found[at].number)) and \(Journal.name(found[at + 1].number)) in `\(path)`"
                    )
                }
            }
            let bytes = try whole(found[at])
            let scan = bytes.withUnsafeBytes { JournalScan($0, header.life, knownEnd: knownEnd) }
            found[at].parcels = scan.parcels
            for settle in scan.settles {
                ended.insert(
                    Key(journal: header.life.journal, generation: settle.generation, offset: settle.offset))
            }
            for damage in scan.damages { try setAside(damage, bytes, found[at], directory) }
        }
        var writer = Writer(opener: self, directory: directory)
        for at in found.indices where !found[at].header.isFree {
            let life = found[at].header.life
            found[at].parcels.removeAll {
                ended.contains(Key(journal: life.journal, generation: life.generation, offset: $0.offset))
            }
            guard !found[at].parcels.isEmpty else { continue }
            let bytes = try whole(found[at])
            for parcel in found[at].parcels { try writer.write(parcel, bytes) }
        }
        try writer.finish()
        // Oldest first, and one after the other: an end must not go before the record that it ends.
        var count = 0
        for segment in found where !segment.header.isFree {
            try clear(segment)
            count += 1
        }
        if count > 0 {
            note(
                false, "journal-recovered",
                "\(writer.count) messages of \(count) segments went to their mail directories")
        }
    }

    private func whole(_ segment: Found) throws(SpoolFault) -> [UInt8] {
        let read = try done(
            files.carryOut(.read(segment.handle, at: 0, length: segment.header.segmentBytes)), "read")
        return read.data
    }

    private func clear(_ segment: Found) throws(SpoolFault) {
        let header = JournalSegmentHeader.free(segmentBytes: segment.header.segmentBytes)
        _ = try done(files.carryOut(.overwrite(segment.handle, at: 0, header.encoded())), "written")
        _ = try done(files.carryOut(.syncData(segment.handle)), "synced")
    }

    /// Its bytes are kept, synced before the segment is used again.
    private func setAside(
        _ damage: JournalScan.Damage, _ bytes: [UInt8], _ segment: Found, _ directory: FileHandle
    ) throws(SpoolFault) {
        let name =
            "\(segment.number)-\(segment.header.life.generation)-\(damage.range.lowerBound)\(MailFile.damagedSuffix)"
        note(
            true, "journal-damaged",
            "\(damage.range.count) bytes of \(Journal.name(segment.number)) in `\(path)` are not what was written\(damage.id.map { " (message \($0))" } ?? ""); set aside as \(name), not sent"
        )
        let placed = bytes[damage.range].withUnsafeBytes { raw in
            files.carryOut(.create(in: directory, name: name, [IOVector(raw)]))
        }
        // There already: of a start that was cut off behind this.
        if placed.fault != EEXIST { _ = try done(placed, "written") }
    }

    // MARK: Segments for the reactors

    private func distribute(
        _ found: [Found], _ directory: FileHandle, _ settings: JournalSettings, _ reactors: Int, nextNumber: Int
    ) throws(SpoolFault) -> [JournalStart]? {
        var kept: [Found] = []
        for segment in found {
            if segment.header.segmentBytes == settings.segmentBytes, kept.count < reactors * settings.segmentsMax {
                kept.append(segment)
            } else {
                _ = files.carryOut(.close(segment.handle))
                _ = try done(
                    files.carryOut(.unlink(in: directory, name: Journal.name(segment.number))), "changed")
            }
        }
        _ = try done(files.carryOut(.syncDirectory(directory)), "synced")
        guard settings.segmentBytes > 0 else { return nil }
        let device = try done(files.carryOut(.identity(directory)), "examined").value
        let shelf = JournalShelf(
            path: path, directory: directory, device: device, segmentBytes: settings.segmentBytes,
            journals: (0..<reactors).map { _ in
                JournalShelf.Journal(
                    id: random() | 1, slots: min(JournalFormat.slotsMax, settings.segmentsMax + 8))
            })
        return (0..<reactors).map { core in
            JournalStart(
                shelf: shelf,
                free: kept.indices.filter { $0 % reactors == core }.map { kept[$0].handle },
                nextNumber: nextNumber + core, numberStep: reactors, segmentsMax: settings.segmentsMax)
        }
    }

    // MARK: Files for what lives

    /// Writes parcels to the mail directories, or for those that can't take them to a folder beside the journal.
    private struct Writer {
        let opener: JournalOpener
        let directory: FileHandle
        private(set) var count = 0
        /// Written and not synced, by file system.
        private var written: [(store: Store, record: Record)] = []
        private var stranded: [UInt64: FileHandle] = [:]

        /// A parcel's file.
        private struct Record {
            let gatewayID: UInt64
            let id: QueueID
            let name: String
            let bytes: [UInt8]
        }

        init(opener: JournalOpener, directory: FileHandle) { (self.opener, self.directory) = (opener, directory) }

        mutating func write(_ parcel: JournalScan.Parcel, _ segment: [UInt8]) throws(SpoolFault) {
            let header = parcel.header
            let start = parcel.offset + JournalFormat.unitBytes
            let head = Array(segment[start..<start + header.headBytes])
            let content = segment[(start + header.headBytes)..<(start + header.headBytes + header.contentBytes)]
            let line = MailFile.firstLine(
                header.id.description, head: head, contentBytes: content.count,
                linesBeginningWithDot: header.linesBeginningWithDot,
                contentCRC: header.contentCRC)
            let record = Record(
                gatewayID: header.gatewayID, id: header.id, name: MailFile.name(header.id, contentBytes: content.count),
                bytes: line + head + content)
            count += 1
            if let store = opener.store(header.gatewayID), store.directory >= 0,
                place(record, in: store.directory)
            {
                written.append((store, record))
            } else {
                try strand(record)
            }
        }

        /// False: it can't be there.
        private func place(_ record: Record, in directory: FileHandle) -> Bool {
            for _ in 0..<2 {
                let made = record.bytes.withUnsafeBytes { raw in
                    opener.files.carryOut(.create(in: directory, name: record.name, [IOVector(raw)]))
                }
                if made.isDone { return true }
                guard made.fault == EEXIST, clearWay(record, in: directory) else { return false }
            }
            return false
        }

        /// There is a file of that name: from an attempt that was cut off, whole or not. One with other content is nobody's we know: it
        /// is kept, with an alarm (design rule J10).
        private func clearWay(_ record: Record, in directory: FileHandle) -> Bool {
            let read = opener.files.carryOut(.readWhole(in: directory, name: record.name, maxBytes: 1 << 30))
            guard read.isDone || read.fault == EFBIG else { return false }
            if read.data != record.bytes, MailFile.isWhole(read.data, of: record.id) {
                opener.note(
                    true, "same-id",
                    "\(record.name) in a mail directory has other content than the journal's message of that id; set aside as \(record.name)\(MailFile.damagedSuffix)"
                )
                return opener.files.carryOut(
                    .rename(
                        in: directory, from: record.name, to: directory, name: record.name + MailFile.damagedSuffix)
                ).isDone
            }
            return opener.files.carryOut(.unlink(in: directory, name: record.name)).isDone
        }

        private mutating func strand(_ record: Record) throws(SpoolFault) {
            let id = record.gatewayID
            if stranded[id] == nil {
                let path = "\(opener.path)/\(JournalOpener.strandedFolder)/\(id)"
                stranded[id] = FileHandle(
                    try opener.done(opener.files.carryOut(.openDirectory(path: path, create: true)), "changed").value)
                opener.note(
                    true, "mail-stranded",
                    "the mail directory of gateway \(id) takes no mail now; its mail waits in `\(path)` until it does")
            }
            guard place(record, in: stranded[id]!) else {
                throw SpoolFault(
                    description:
                        "mail of the journal `\(opener.path)` can be written neither to its mail directory nor beside the journal: make room on its disk"
                )
            }
        }

        /// All files are durable, or it throws.
        mutating func finish() throws(SpoolFault) {
            var devices: [(id: Int, isSynced: Bool)] = []
            for (store, record) in written {
                let id = store.device.id
                if !devices.contains(where: { $0.id == id }) {
                    devices.append((id, opener.files.carryOut(.syncFileSystem(store.directory)).isDone))
                }
                guard devices.first(where: { $0.id == id })?.isSynced == false else { continue }
                // Not there for good: it must not be found there either.
                _ = opener.files.carryOut(.unlink(in: store.directory, name: record.name))
                try strand(record)
            }
            if !stranded.isEmpty {
                _ = try opener.done(opener.files.carryOut(.syncFileSystem(directory)), "synced")
            }
            for (_, handle) in stranded.sorted(by: { $0.key < $1.key }) { _ = opener.files.carryOut(.close(handle)) }
            written = []
        }
    }
}
