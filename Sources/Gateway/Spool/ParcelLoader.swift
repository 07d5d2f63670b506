import CReactor
import Glibc
import Protocols
import Reactor

/// Why a parcel can't be read.
enum LoadFault: Error {
    /// It is not what was written: set it aside.
    case damaged(String)
    /// An `errno`: try again later.
    case unreadable(Int32)
    /// It is not in the journal any more, but in its mail directory: ask again (design rule J7).
    case moved
}

/// A parcel read back from its file (or taken from memory).
struct LoadedParcel {
    var envelope: Envelope
    var state: ParcelState
    var sizes: MailFile.Sizes
    /// The whole content, when it is in memory.
    var content: MessageContent?
    /// Of a large one: the open file, its content checked; the taker closes it.
    var file: FileHandle?
    /// The first bytes of the content, for a notice.
    var prefix: [UInt8]
    var isWhole: Bool { prefix.count == sizes.contentBytes }
}

/// Reads mail files on the bulk lane. The content's checksum is compared before the first byte of it is sent (design rule M2, P4).
struct ParcelLoader {
    let files: FileCalls

    /// - Parameter contentMaxBytes: content up to here is read into memory. Larger: opened, checked and handed over as a file if
    ///   `opensLarge`, else only the first `prefixBytes` are read.
    func load(
        _ store: Store, _ lease: Lease, contentMaxBytes: Int, opensLarge: Bool, prefixBytes: Int,
        then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        if let hot = lease.hot, !lease.hasState {
            let sizes = MailFile.Sizes(
                id: lease.id, headBytes: 0, contentBytes: hot.content.count,
                linesBeginningWithDot: hot.content.linesBeginningWithDot,
                contentCRC: hot.content.crc)
            return then(
                .success(
                    LoadedParcel(
                        envelope: hot.envelope, state: ParcelState(), sizes: sizes, content: hot.content, file: nil,
                        prefix: prefixBytes > 0 ? hot.content.prefix(prefixBytes) : [])))
        }
        if !lease.place.isNone {
            return fromJournal(lease, prefixBytes: prefixBytes, length: Self.recordReadBytes + lease.bytes, then)
        }
        let name = MailFile.name(lease.id, contentBytes: lease.bytes)
        var steps: [FileStep] = []
        if lease.hasState {
            steps.append(
                .readWhole(in: store.directory, name: MailFile.stateName(lease.id), maxBytes: ParcelState.maxBytes))
        }
        let isSmall = lease.bytes <= contentMaxBytes
        if isSmall {
            steps.append(
                .readWhole(
                    in: store.directory, name: name,
                    maxBytes: MailFile.firstLineBytes + MailFile.headMaxBytes + contentMaxBytes))
        } else if opensLarge {
            steps.append(.open(in: store.directory, name: name))
        } else {
            steps.append(.readStart(in: store.directory, name: name, length: Self.headReadBytes + prefixBytes))
        }
        files.run(steps, on: .bulk, of: store, stopsAtFailure: false) { outcomes in
            var state = ParcelState()
            let failWithoutState = { (fault: LoadFault) in
                // The mail file was opened beside it.
                if opensLarge, !isSmall, let main = outcomes.last, main.isDone {
                    files.run([.close(FileHandle(main.value))], on: .bulk, of: store) { _ in }
                }
                then(.failure(fault))
            }
            if lease.hasState {
                // A state file that can't be read would send again to those that have it: not before it can.
                if outcomes[0].isDone {
                    guard let read = ParcelState(outcomes[0].data) else {
                        return failWithoutState(.damaged("its state file is damaged"))
                    }
                    state = read
                } else {
                    return failWithoutState(.unreadable(outcomes[0].fault))
                }
            }
            let main = outcomes[outcomes.count - 1]
            guard main.isDone else {
                switch main.fault {
                case ENOENT: return then(.failure(.damaged("its file has vanished")))
                case EFBIG: return then(.failure(.damaged("its file is longer than its name says")))
                default: return then(.failure(.unreadable(main.fault)))
                }
            }
            if isSmall {
                then(whole(main.data, lease, state, prefixBytes))
            } else if opensLarge {
                large(FileHandle(main.value), store, lease, state, then)
            } else {
                start(main.data, store, name, lease, state, prefixBytes, then)
            }
        }
    }

    /// Most heads fit.
    static let recordReadBytes = 4 << 10

    /// The whole record, into memory.
    private func fromJournal(
        _ lease: Lease, prefixBytes: Int, length: Int, _ then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        guard let shelf = files.shelf else { preconditionFailure("a parcel of a journal, without one") }
        let place = lease.place
        let handle = shelf.slot(place).handle.load(ordering: .relaxed)
        files.run([.read(handle, at: Int64(place.offset), length: length)], on: .bulk, of: shelf) { outcomes in
            let outcome = outcomes[0]
            guard outcome.isDone else { return then(.failure(.unreadable(outcome.fault))) }
            let header = outcome.data.withUnsafeBytes {
                JournalRecordHeader($0, at: place.offset, shelf.life(place))
            }
            // Looked at after the read: had its segment begun another life before, this shows it.
            guard shelf.holds(place) else { return then(.failure(.moved)) }
            guard let header, header.kind == .parcel, header.id == lease.id, header.contentBytes == lease.bytes else {
                return then(.failure(.damaged("its record in the journal can't be read")))
            }
            if header.recordBytes > length, outcome.data.count == length {
                return fromJournal(lease, prefixBytes: prefixBytes, length: header.recordBytes, then)
            }
            then(Self.parcel(header, outcome.data, prefixBytes))
        }
    }

    private static func parcel(
        _ header: JournalRecordHeader, _ data: [UInt8], _ prefixBytes: Int
    ) -> Result<LoadedParcel, LoadFault> {
        let contentStart = JournalFormat.unitBytes + header.headBytes
        guard data.count >= contentStart + header.contentBytes,
            let head = try? MailFile.readHead(
                record: data[JournalFormat.unitBytes..<contentStart], of: header.id, contentBytes: header.contentBytes,
                linesBeginningWithDot: header.linesBeginningWithDot, contentCRC: header.contentCRC)
        else { return .failure(.damaged("its record in the journal is cut off")) }
        guard data.withUnsafeBytes({ header.isIntact($0) }) else {
            return .failure(.damaged(MailFile.Damage.contentChecksum.description))
        }
        let content = MessageContent()
        data.withUnsafeBytes { content.append(header.content($0)) }
        content.linesBeginningWithDot = header.linesBeginningWithDot
        return .success(
            LoadedParcel(
                envelope: head.envelope, state: ParcelState(), sizes: head.sizes, content: content, file: nil,
                prefix: prefixBytes > 0 ? content.prefix(prefixBytes) : []))
    }

    private func whole(
        _ data: [UInt8], _ lease: Lease, _ state: ParcelState, _ prefixBytes: Int
    ) -> Result<LoadedParcel, LoadFault> {
        do throws(MailFile.Damage) {
            let head = try MailFile.readHead(data[...], of: lease.id)
            let expected = head.sizes.contentOffset + head.sizes.contentBytes
            guard data.count == expected, head.sizes.contentBytes == lease.bytes else {
                throw .length(expected: expected, found: data.count)
            }
            let content = MessageContent()
            data.withUnsafeBytes { content.append(UnsafeRawBufferPointer(rebasing: $0[head.sizes.contentOffset...])) }
            guard content.crc == head.sizes.contentCRC else { throw .contentChecksum }
            content.linesBeginningWithDot = head.sizes.linesBeginningWithDot
            return .success(
                LoadedParcel(
                    envelope: head.envelope, state: state, sizes: head.sizes, content: content, file: nil,
                    prefix: prefixBytes > 0 ? content.prefix(prefixBytes) : []))
        } catch {
            return .failure(.damaged(error.description))
        }
    }

    /// The head and the first bytes of the content, from the start of the file.
    private func start(
        _ data: [UInt8], _ store: Store, _ name: String, _ lease: Lease, _ state: ParcelState, _ prefixBytes: Int,
        _ then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        do throws(MailFile.Damage) {
            let sizes = try MailFile.sizes(data[...])
            let wanted = min(sizes.contentOffset + prefixBytes, sizes.contentOffset + sizes.contentBytes)
            if data.count < wanted, data.count == Self.headReadBytes + prefixBytes {
                // A head with very many recipients: once more, with its length known.
                return files.run([.readStart(in: store.directory, name: name, length: wanted)], on: .bulk, of: store) {
                    outcomes in
                    guard outcomes[0].isDone else { return then(.failure(.unreadable(outcomes[0].fault))) }
                    start(outcomes[0].data, store, name, lease, state, prefixBytes, then)
                }
            }
            let head = try MailFile.readHead(data[...], of: lease.id)
            guard sizes.contentBytes == lease.bytes else {
                throw .length(expected: lease.bytes, found: sizes.contentBytes)
            }
            let prefix = Array(data[sizes.contentOffset...].prefix(prefixBytes))
            then(
                .success(
                    LoadedParcel(
                        envelope: head.envelope, state: state, sizes: sizes, content: nil, file: nil, prefix: prefix)))
        } catch {
            then(.failure(.damaged(error.description)))
        }
    }

    /// A large one, to be sent from its file: head read, content checked, left open.
    private func large(
        _ file: FileHandle, _ store: Store, _ lease: Lease, _ state: ParcelState,
        _ then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        readHead(file, store, lease, length: Self.headReadBytes) { head in
            let fail = { (fault: LoadFault) in
                files.run([.close(file)], on: .bulk, of: store) { _ in }
                then(.failure(fault))
            }
            guard case .success(let head) = head else {
                if case .failure(let fault) = head { fail(fault) }
                return
            }
            let sizes = head.sizes
            guard sizes.contentBytes == lease.bytes else {
                return fail(
                    .damaged(MailFile.Damage.length(expected: lease.bytes, found: sizes.contentBytes).description))
            }
            files.run(
                [.checksum(file, at: Int64(sizes.contentOffset), length: sizes.contentBytes)], on: .bulk,
                of: store
            ) { outcomes in
                let outcome = outcomes[0]
                if !outcome.isDone {
                    // The file is shorter than it says.
                    let damage = MailFile.Damage.length(expected: lease.bytes, found: 0).description
                    return fail(outcome.fault == ENODATA ? .damaged(damage) : .unreadable(outcome.fault))
                }
                guard UInt32(truncatingIfNeeded: outcome.value) == sizes.contentCRC else {
                    return fail(.damaged(MailFile.Damage.contentChecksum.description))
                }
                then(
                    .success(
                        LoadedParcel(
                            envelope: head.envelope, state: state, sizes: sizes, content: nil, file: file, prefix: [])))
            }
        }
    }

    /// Most heads fit.
    private static let headReadBytes = 16 << 10

    private func readHead(
        _ file: FileHandle, _ store: Store, _ lease: Lease, length: Int,
        _ then: @escaping (Result<MailFile.Head, LoadFault>) -> Void
    ) {
        files.run([.read(file, at: 0, length: length)], on: .bulk, of: store) { outcomes in
            guard outcomes[0].isDone else { return then(.failure(.unreadable(outcomes[0].fault))) }
            do throws(MailFile.Damage) {
                let sizes = try MailFile.sizes(outcomes[0].data[...])
                if sizes.contentOffset > length {
                    return readHead(file, store, lease, length: sizes.contentOffset, then)
                }
                then(.success(try MailFile.readHead(outcomes[0].data[...], of: lease.id)))
            } catch {
                then(.failure(.damaged(error.description)))
            }
        }
    }
}
