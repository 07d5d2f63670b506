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
                headBytes: 0, contentBytes: hot.content.count, linesBeginningWithDot: hot.content.linesBeginningWithDot,
                contentCRC: hot.content.crc)
            return then(
                .success(
                    LoadedParcel(
                        envelope: hot.envelope, state: ParcelState(), sizes: sizes, content: hot.content, file: nil,
                        prefix: prefixBytes > 0 ? hot.content.prefix(prefixBytes) : [])))
        }
        let name = MailFile.name(lease.id, contentBytes: lease.bytes)
        var steps: [FileStep] = []
        if lease.hasState {
            steps.append(.readWhole(in: store.directory, name: MailFile.stateName(lease.id), maxBytes: 1 << 16))
        }
        let isSmall = lease.bytes <= contentMaxBytes
        if isSmall {
            steps.append(
                .readWhole(
                    in: store.directory, name: name,
                    maxBytes: MailFile.firstLineBytes + MailFile.headMaxBytes + contentMaxBytes))
        } else {
            steps.append(.open(in: store.directory, name: name))
        }
        files.run(steps, on: .bulk, stopsAtFailure: false) { outcomes in
            var state = ParcelState()
            if lease.hasState {
                // A state file that can't be read would send again to those that have it: not before it can.
                if outcomes[0].isDone {
                    guard let read = ParcelState(outcomes[0].data) else {
                        return then(.failure(.damaged("its state file is damaged")))
                    }
                    state = read
                } else {
                    return then(.failure(.unreadable(outcomes[0].fault)))
                }
            }
            let main = outcomes[outcomes.count - 1]
            guard main.isDone else {
                return then(
                    .failure(main.fault == ENOENT ? .damaged("its file has vanished") : .unreadable(main.fault)))
            }
            if isSmall {
                then(whole(main.data, lease, state, prefixBytes))
            } else {
                large(FileHandle(main.value), lease, state, opensLarge, prefixBytes, then)
            }
        }
    }

    private func whole(
        _ data: [UInt8], _ lease: Lease, _ state: ParcelState, _ prefixBytes: Int
    ) -> Result<LoadedParcel, LoadFault> {
        do throws(MailFile.Damage) {
            let head = try MailFile.readHead(data[...])
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

    private func large(
        _ file: FileHandle, _ lease: Lease, _ state: ParcelState, _ opensLarge: Bool, _ prefixBytes: Int,
        _ then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        let close = { files.run([.close(file)], on: .bulk, stopsAtFailure: false) { _ in } }
        files.run([.read(file, at: 0, length: Self.headReadBytes)], on: .bulk) { outcomes in
            guard outcomes[0].isDone else {
                close()
                return then(.failure(.unreadable(outcomes[0].fault)))
            }
            do throws(MailFile.Damage) {
                let sizes = try MailFile.sizes(outcomes[0].data[...])
                if sizes.contentOffset > Self.headReadBytes {
                    return longHead(file, sizes, lease, state, opensLarge, prefixBytes, close, then)
                }
                let head = try MailFile.readHead(outcomes[0].data[...])
                check(file, head, lease, state, opensLarge, prefixBytes, close, then)
            } catch {
                close()
                then(.failure(.damaged(error.description)))
            }
        }
    }

    /// Most heads fit.
    private static let headReadBytes = 16 << 10

    private func longHead(
        _ file: FileHandle, _ sizes: MailFile.Sizes, _ lease: Lease, _ state: ParcelState, _ opensLarge: Bool,
        _ prefixBytes: Int, _ close: @escaping () -> Void, _ then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        files.run([.read(file, at: 0, length: sizes.contentOffset)], on: .bulk) { outcomes in
            do throws(MailFile.Damage) {
                let head = try MailFile.readHead(outcomes[0].data[...])
                check(file, head, lease, state, opensLarge, prefixBytes, close, then)
            } catch {
                close()
                then(.failure(.damaged(error.description)))
            }
        }
    }

    private func check(
        _ file: FileHandle, _ head: MailFile.Head, _ lease: Lease, _ state: ParcelState, _ opensLarge: Bool,
        _ prefixBytes: Int, _ close: @escaping () -> Void, _ then: @escaping (Result<LoadedParcel, LoadFault>) -> Void
    ) {
        let sizes = head.sizes
        guard sizes.contentBytes == lease.bytes else {
            close()
            return then(
                .failure(
                    .damaged(MailFile.Damage.length(expected: lease.bytes, found: sizes.contentBytes).description)))
        }
        var steps: [FileStep] = []
        if opensLarge { steps.append(.checksum(file, at: Int64(sizes.contentOffset), length: sizes.contentBytes)) }
        steps.append(.read(file, at: Int64(sizes.contentOffset), length: min(prefixBytes, sizes.contentBytes)))
        files.run(steps, on: .bulk) { outcomes in
            let last = outcomes[outcomes.count - 1]
            if opensLarge, outcomes[0].isDone, UInt32(truncatingIfNeeded: outcomes[0].value) != sizes.contentCRC {
                close()
                return then(.failure(.damaged(MailFile.Damage.contentChecksum.description)))
            }
            guard last.isDone else {
                close()
                let fault = outcomes.first { !$0.isDone }!.fault
                // The file is shorter than it says.
                return then(
                    .failure(
                        fault == ENODATA
                            ? .damaged(MailFile.Damage.length(expected: lease.bytes, found: 0).description)
                            : .unreadable(fault)))
            }
            if !opensLarge { close() }
            then(
                .success(
                    LoadedParcel(
                        envelope: head.envelope, state: state, sizes: sizes, content: nil,
                        file: opensLarge ? file : nil, prefix: last.data)))
        }
    }
}
