import Glibc
import HashTreeCollections
import Reactor

/// Opens, makes and puts aside mail directories, on the control thread (design rules M7 and M8).
///
/// Each has a head file, `store.head`, that names store and gateway. A gateway whose store the database knows and the disk doesn't (not
/// mounted, another gateway's, damaged) is unavailable: its mail gets 451, and nothing is made anew in its place.
final class StoreKeeper {
    private let dataPath: String
    private let files: any FileExecutor
    private let directory: any Directory
    private let random: () -> UInt64
    private let close: @Sendable (FileHandle) -> Void
    private(set) var stores: TreeDictionary<UInt64, Store> = [:]
    private(set) var devices: [Device] = []

    /// - Parameter close: on any thread.
    init(
        dataPath: String, files: any FileExecutor, directory: any Directory, random: @escaping () -> UInt64,
        close: @escaping @Sendable (FileHandle) -> Void
    ) {
        (self.dataPath, self.files, self.directory, self.random) = (dataPath, files, directory, random)
        self.close = close
    }

    /// Where a gateway's mail lies.
    func path(of gateway: Gateway) -> String {
        PathText.isAbsolute(gateway.mailDirectory) ? gateway.mailDirectory : dataPath + "/" + gateway.mailDirectory
    }

    /// Opens the store, or makes it when none was made yet. A sentence when it can't be used; it is then unavailable.
    func open(_ gateway: Gateway) throws(DirectoryFault) -> String? {
        let path = path(of: gateway)
        let known = try directory.storeID(ofGateway: gateway.id)
        var why: String?
        var handle: FileHandle = -1
        let opened = files.carryOut(.openDirectory(path: path, create: known == nil))
        if !opened.isDone {
            why = "its mail directory `\(path)` can't be opened: \(Self.words(opened.fault))"
        } else {
            handle = FileHandle(opened.value)
            why = try check(handle, path, gateway, known)
        }
        var device: Device?
        if handle >= 0 {
            let identity = files.carryOut(.identity(handle))
            if identity.isDone {
                device = self.device(identity.value, handle)
                let place = Place(device: identity.value, inode: identity.second)
                if let other = users[place], other != gateway.id {
                    why = "its mail directory `\(path)` is also that of \(stores[other]?.domain ?? "another gateway")"
                } else if why == nil {
                    users[place] = gateway.id
                    places[gateway.id] = place
                }
            } else {
                why = "its mail directory `\(path)` can't be examined: \(Self.words(identity.fault))"
            }
        }
        let store = Store(
            gatewayID: gateway.id, domain: gateway.domain, path: path, directory: why == nil ? handle : -1,
            device: device ?? Device(id: -1), state: why == nil ? .listing : .unavailable, close: close)
        if handle >= 0, why != nil { close(handle) }
        stores[gateway.id] = store
        return why
    }

    private struct Place: Hashable {
        let device: Int
        let inode: Int
    }
    private var places: [UInt64: Place] = [:]
    private var users: [Place: UInt64] = [:]

    private func device(_ id: Int, _ handle: FileHandle) -> Device {
        if let known = devices.first(where: { $0.id == id }) { return known }
        let device = Device(id: id)
        let space = files.carryOut(.space(handle))
        if space.isDone {
            device.freeBytes.store(space.value, ordering: .relaxed)
            device.freeInodes.store(space.second, ordering: .relaxed)
        }
        devices.append(device)
        return device
    }

    /// nil: the directory is this gateway's.
    private func check(
        _ handle: FileHandle, _ path: String, _ gateway: Gateway, _ known: String?
    ) throws(DirectoryFault) -> String? {
        let read = files.carryOut(.readWhole(in: handle, name: MailFile.headName, maxBytes: 4096))
        if read.isDone {
            guard let head = StoreHead(read.data) else { return "`\(path)/\(MailFile.headName)` is damaged" }
            guard head.gatewayID == gateway.id else {
                return
                    "the mail directory `\(path)` belongs to another gateway (\(head.domain)); move it aside, or choose another mailDirectory"
            }
            if let known, known != head.storeID {
                return "the mail directory `\(path)` is not the one that the database knows"
            }
            // Made, but the start was cut off before the database knew.
            if known == nil { try directory.rememberStore(head.storeID, ofGateway: gateway.id) }
            return nil
        }
        guard read.fault == ENOENT else {
            return "`\(path)/\(MailFile.headName)` can't be read: \(Self.words(read.fault))"
        }
        guard known == nil else {
            return "the mail directory `\(path)` has no head file: is its disk mounted?"
        }
        let storeID = String(random(), radix: 16)
        let text = StoreHead(storeID: storeID, gatewayID: gateway.id, domain: gateway.domain).encoded()
        _ = files.carryOut(.unlink(in: handle, name: MailFile.headName + ".part"))
        let placed = text.withUnsafeBytes {
            files.carryOut(.place(in: handle, name: MailFile.headName, [IOVector($0)]))
        }
        let synced = placed.isDone ? files.carryOut(.syncFileSystem(handle)) : placed
        guard synced.isDone else { return "the mail directory `\(path)` can't be written: \(Self.words(synced.fault))" }
        try directory.rememberStore(storeID, ofGateway: gateway.id)
        return nil
    }

    /// A deleted gateway's directory is renamed aside; mail that is left in it stays there.
    func putAside(_ gateway: Gateway) -> String? {
        guard let store = forget(gateway), store.directory >= 0 else { return nil }
        var aside = store.path + ".deleted-\(gateway.id)"
        if rename(store.path, aside) != 0 {
            aside = store.path
            return "the mail directory `\(aside)` could not be renamed: \(Self.words(errno))"
        }
        return nil
    }

    @discardableResult
    func forget(_ gateway: Gateway) -> Store? {
        if let place = places.removeValue(forKey: gateway.id) { users[place] = nil }
        return stores.removeValue(forKey: gateway.id)
    }

    private static func words(_ fault: Int32) -> String { String(cString: strerror(fault)) }
}

/// `store.head`: which store this is, and whose.
struct StoreHead: Equatable {
    let storeID: String
    let gatewayID: UInt64
    let domain: String

    init(storeID: String, gatewayID: UInt64, domain: String) {
        (self.storeID, self.gatewayID, self.domain) = (storeID, gatewayID, domain)
    }

    func encoded() -> [UInt8] {
        SignedLine.encode("postern-store 1 store=\(storeID) gateway=\(gatewayID) domain=\(domain)")
    }

    init?(_ bytes: [UInt8]) {
        guard let words = SignedLine.decode(bytes), words.count == 5, words[0] == "postern-store", words[1] == "1",
            words[2].hasPrefix("store="), words[3].hasPrefix("gateway="), let id = UInt64(words[3].dropFirst(8)),
            words[4].hasPrefix("domain=")
        else { return nil }
        self.init(storeID: String(words[2].dropFirst(6)), gatewayID: id, domain: String(words[4].dropFirst(7)))
    }
}
