import Protocols
import Reactor
import Synchronization

/// A file system under one or more mail directories, shared by all reactors.
final class Device: Sendable {
    /// `st_dev`.
    let id: Int
    /// As last measured, less what was written since.
    let freeBytes = Atomic<Int>(Int.max)
    let freeInodes = Atomic<Int>(Int.max)
    /// Bytes of messages that are arriving, as declared or as they came.
    private let reserved = Atomic<Int>(0)

    /// Reactors whose commits there take longer than `Limits.hangNanoseconds`.
    let hanging = Atomic<Int>(0)

    init(id: Int) { self.id = id }

    /// It neither works nor fails: nothing more is begun there until it does.
    var isHanging: Bool { hanging.load(ordering: .relaxed) > 0 }

    /// Whether `bytes` more may be admitted: a reserve stays for settles, state files and notices (design rule M10).
    func hasRoom(for bytes: Int) -> Bool {
        freeBytes.load(ordering: .relaxed) - reserved.load(ordering: .relaxed) - bytes - bytes / 2
            >= Limits.deviceReserveBytes
            && freeInodes.load(ordering: .relaxed) >= Limits.deviceReserveInodes
    }

    func reserve(_ bytes: Int) { reserved.add(bytes, ordering: .relaxed) }
    func unreserve(_ bytes: Int) { reserved.subtract(bytes, ordering: .relaxed) }

    func took(_ bytes: Int) {
        freeBytes.subtract(min(bytes, Int.max / 4), ordering: .relaxed)
        freeInodes.subtract(1, ordering: .relaxed)
    }
}

/// The mail directory of one gateway, open, with its quota counters: what reactors share of it.
///
/// Any reactor may create files in it; the gateway's home alone lists, unlinks and renames (design rule M6).
final class Store: Sendable {
    enum State: UInt8, AtomicRepresentable {
        /// Its files are still being counted.
        case listing
        case ready
        /// A second commit failed after a failed one (design rule M5): nothing is accepted until a trial succeeds.
        case failed
        /// The database knows it and the disk doesn't (design rule M8).
        case unavailable
    }

    let gatewayID: UInt64
    let domain: String
    let path: String
    /// -1 when unavailable.
    let directory: FileHandle
    let device: Device
    let state: Atomic<State>
    let failuresInARow = Atomic<Int>(0)
    /// Number of the commit that failed last, by its reactor's count: a commit is one failure, however many messages it had.
    let lastFailedCommit = Atomic<UInt64>(0)

    /// Its mail is expected to leave soon: its primary takes mail, as far as its home knows.
    private let flowing = Atomic<Bool>(true)
    var isFlowing: Bool { flowing.load(ordering: .relaxed) }
    func setFlowing(_ isFlowing: Bool) {
        if isFlowing != self.isFlowing { flowing.store(isFlowing, ordering: .relaxed) }
    }

    private let closing = Atomic<Bool>(false)
    private let close: @Sendable (FileHandle) -> Void

    private let usedBytes = Atomic<Int>(0)
    private let usedMessages = Atomic<Int>(0)
    private let reservedBytes = Atomic<Int>(0)

    /// - Parameter close: of the directory, when nobody uses the store any more.
    init(
        gatewayID: UInt64, domain: String, path: String, directory: FileHandle, device: Device, state: State,
        close: @escaping @Sendable (FileHandle) -> Void
    ) {
        (self.gatewayID, self.domain, self.path) = (gatewayID, domain, path)
        (self.directory, self.device, self.close) = (directory, device, close)
        self.state = Atomic(state)
    }

    deinit { if directory >= 0 { close(directory) } }

    // MARK: Quota (design rule M9)

    /// Stored content and messages, charged whole to this gateway.
    var used: (bytes: Int, messages: Int) {
        (usedBytes.load(ordering: .relaxed), usedMessages.load(ordering: .sequentiallyConsistent))
    }

    // MARK: Deletion

    /// The gateway is being deleted: nothing more is accepted and nothing leaves by itself. What was charged before will be stored,
    /// so `used` says exactly what is left to dispose of.
    var isClosing: Bool { closing.load(ordering: .sequentiallyConsistent) }

    func setClosing(_ isClosing: Bool) { closing.store(isClosing, ordering: .sequentiallyConsistent) }

    /// Early answer at RCPT: used, reserved and the declared size together; the exact one is `charge`.
    func mayTake(_ bytes: Int, _ quota: Gateway.Quota) -> Bool {
        let total = usedBytes.load(ordering: .relaxed) + reservedBytes.load(ordering: .relaxed) + bytes
        return total <= quota.maxBytes ?? .max && usedMessages.load(ordering: .relaxed) < quota.maxMessages ?? .max
    }

    /// Room for a message that is arriving, in the quota and on the device.
    func reserve(_ bytes: Int) {
        reservedBytes.add(bytes, ordering: .relaxed)
        device.reserve(bytes)
    }

    func unreserve(_ bytes: Int) {
        reservedBytes.subtract(bytes, ordering: .relaxed)
        device.unreserve(bytes)
    }

    /// Charges one message, exactly: false, and nothing charged, when it would go over.
    func charge(_ bytes: Int, _ quota: Gateway.Quota?) -> Bool {
        let messages = usedMessages.add(1, ordering: .sequentiallyConsistent).newValue
        let total = usedBytes.add(bytes, ordering: .relaxed).newValue
        guard let quota, messages > quota.maxMessages ?? .max || total > quota.maxBytes ?? .max else { return true }
        discharge(bytes)
        return false
    }

    func discharge(_ bytes: Int) {
        usedMessages.subtract(1, ordering: .relaxed)
        usedBytes.subtract(bytes, ordering: .relaxed)
    }
}
