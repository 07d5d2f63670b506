import CReactor
import Glibc
import Protocols
import Reactor

/// The mail process: what its reactors and its control thread share, and the control thread's side of it.
///
/// Every member is set before the threads start; afterwards `keeper` and the mailboxes belong to the control thread alone.
final class RunningProcess: MailProcess, @unchecked Sendable {
    let configuration: Configuration
    let directory: any Directory
    let ioName: String
    let startedAt: Double
    private let keeper: StoreKeeper
    private let counters: [Counters]
    private let cpus: [Int?]
    private let outboxes: [Mailbox<CoreMessage>]
    private let log: LogWriter
    private let current: Locked<Routes>
    private let alarms = Locked<[String]>([])

    init(
        configuration: Configuration, directory: any Directory, ioName: String, keeper: StoreKeeper,
        counters: [Counters],
        cpus: [Int?], outboxes: [Mailbox<CoreMessage>], log: LogWriter, routes: Routes
    ) {
        (self.configuration, self.directory, self.ioName) = (configuration, directory, ioName)
        (self.keeper, self.counters, self.cpus, self.outboxes) = (keeper, counters, cpus, outboxes)
        self.log = log
        current = Locked(routes)
        startedAt = Double(time(nil))
    }

    // MARK: Asking the reactors

    /// How long the control thread waits for a reactor.
    private static let answerSeconds = 20

    private final class Answers: Sendable {
        let list = Locked<[(Int, CoreAnswer)]>([])
        let signal = Semaphore()
    }

    /// One answer a reactor, in their order.
    private func ask(_ what: CoreRequest.What) throws(ControlFault) -> [CoreAnswer] {
        let answers = Answers()
        for (core, outbox) in outboxes.enumerated() {
            outbox.send(
                .request(
                    CoreRequest(what: what) { answer in
                        answers.list.withLock { $0.append((core, answer)) }
                        answers.signal.post()
                    }))
        }
        push()
        for _ in outboxes where !answers.signal.wait(seconds: Self.answerSeconds) {
            throw ControlFault(.failed, "the mail process does not answer within \(Self.answerSeconds) s")
        }
        return answers.list.withLock { $0.sorted { $0.0 < $1.0 }.map(\.1) }
    }

    /// What found no room in a reactor's box goes there as soon as there is some.
    private func push() {
        for _ in 0..<Self.answerSeconds * 1_000 {
            for outbox in outboxes { outbox.flush() }
            if outboxes.allSatisfy({ $0.spilled == 0 }) { return }
            usleep(1_000)
        }
    }

    private func gatewayID(_ domain: String?) throws(ControlFault) -> UInt64? {
        guard let domain else { return nil }
        if domain == Gateway.systemDomain { return Gateway.systemID }
        guard let gateway = directory.snapshot.gateway(forDomain: domain) else {
            throw ControlFault(DirectoryFault.noSuchGateway(domain: domain))
        }
        return gateway.id
    }

    // MARK: Status

    var isReady: Bool { notReady == nil }

    private var notReady: String? {
        let routes = current.withLock { $0 }
        for id in routes.ids {
            guard let store = routes.route(forID: id)?.store else { continue }
            switch store.state.load(ordering: .relaxed) {
            case .ready: continue
            case .listing: return "the mail directory of \(store.domain) is being listed"
            case .failed: return "the mail directory of \(store.domain) does not take mail"
            case .unavailable: return "the mail directory of \(store.domain) is unavailable"
            }
        }
        return nil
    }

    func status() -> ServerStatus {
        let sum = { (value: (Counters) -> Int) in self.counters.reduce(0) { $0 + value($1) } }
        let uptime = max(1, Double(time(nil)) - startedAt)
        let held = health(domain: nil).reduce(0) { $0 + ($1.state == "held" ? $1.queued : 0) }
        let reason = notReady
        return ServerStatus(
            version: Version.current, io: ioName, hostname: configuration.hostname,
            reactors: zip(cpus, counters).map { cpu, counters in
                ServerStatus.Reactor(
                    cpu: cpu, sessions: counters.sessions.load(ordering: .relaxed),
                    forwardSessions: counters.forwardSessions.load(ordering: .relaxed),
                    queued: counters.queued.load(ordering: .relaxed),
                    longestTurnMicroseconds: counters.longestCallbackNanoseconds.load(ordering: .relaxed) / 1_000,
                    busy: min(1, Double(counters.busyNanoseconds.load(ordering: .relaxed)) / 1e9 / uptime))
            }, accepted: sum { $0.accepted.load(ordering: .relaxed) },
            delivered: sum { $0.delivered.load(ordering: .relaxed) },
            deferred: sum { $0.deferred.load(ordering: .relaxed) },
            bounced: sum { $0.bounced.load(ordering: .relaxed) }, queued: sum { $0.queued.load(ordering: .relaxed) },
            held: held, gateways: directory.snapshot.gatewayCount, startedAt: startedAt, ready: reason == nil,
            notReady: reason, alarms: alarms.withLock { $0 } + diskTroubles)
    }

    /// What of the disks stops mail, in words.
    private var diskTroubles: [String] {
        let routes = current.withLock { $0 }
        return routes.devices.compactMap { device in
            guard let domain = routes.store(on: device)?.domain else { return nil }
            if device.isHanging { return "the file system of \(domain)'s mail directory does not answer: 451" }
            if !device.hasRoom(for: 0) { return "the file system of \(domain)'s mail directory is nearly full: 452" }
            return nil
        }
    }

    func health(domain: String?) -> [QueueHealth] {
        guard let answers = try? ask(.health) else { return [] }
        let all: [QueueHealth] = answers.flatMap { answer -> [QueueHealth] in
            if case .health(let list) = answer { list } else { [] }
        }
        return all.filter { domain == nil || $0.domain == domain }
            .sorted { ($0.domain, $0.destination) < ($1.domain, $1.destination) }
    }

    func metrics() -> [Metric] { Metric.all(counters, status: status(), health: health(domain: nil)) }

    // MARK: Gateways

    /// Sends the directory's snapshot with its stores to every reactor.
    func publish() {
        let routes = Routes(snapshot: directory.snapshot, stores: keeper.stores, devices: keeper.devices)
        current.withLock { $0 = routes }
        for outbox in outboxes { outbox.send(.routes(routes)) }
        push()
    }

    func created(_ gateway: StoredGateway) throws(ControlFault) -> [String] {
        let compiled = Gateway(gateway)
        do throws(DirectoryFault) {
            if let why = try keeper.open(compiled) {
                _ = keeper.putAside(compiled)
                throw DirectoryFault.invalid(why)
            }
        } catch {
            throw ControlFault(error)
        }
        return warnings(compiled)
    }

    /// Stores that one look tries.
    private static let triedAtOnce = 100

    func lookAgain() {
        let unavailable = keeper.stores.filter { $0.value.state.load(ordering: .relaxed) == .unavailable }
        var hasChanged = false
        for (id, _) in unavailable.shuffled().prefix(Self.triedAtOnce) {
            guard let gateway = directory.snapshot.gateway(forID: id) else { continue }
            do throws(DirectoryFault) {
                guard try keeper.open(gateway) == nil else { continue }
            } catch {
                continue
            }
            hasChanged = true
            log.note("event=store-available gateway=\(gateway.domain)")
        }
        if hasChanged { publish() }
    }

    private func warnings(_ gateway: Gateway) -> [String] {
        var list: [String] = []
        if gateway.forward.nextHop == .mxOfOwnDomain {
            list.append(
                "no `forward.server`: mail goes to the MX hosts of \(gateway.domain) that are better than this server, and waits while there are none"
            )
        }
        if gateway.delivery == .onContact {
            list.append("delivery is `onContact`: mail waits until it is asked for or flushed")
        }
        let customer = directory.snapshot.gateways(ofCustomer: gateway.dequeue.user)
        list += gateway.dequeue.obstacles(hasSecret: customer.contains { $0.dequeue.secret != nil })
        return list
    }

    func updated(_ gateway: StoredGateway) throws(ControlFault) -> [String] {
        let compiled = Gateway(gateway)
        if let store = keeper.stores[gateway.id], store.path != keeper.path(of: compiled) {
            throw ControlFault(.refused, "`mailDirectory`: moving an existing mail directory is not in this version")
        }
        return warnings(compiled)
    }

    /// How long mail may take that is on its way in or out while its gateway is being deleted.
    private static let disposalSeconds = 60
    private static let exportedAtOnce = 1_000

    func deleting(_ gateway: StoredGateway, mail: MailDisposal) throws(ControlFault) {
        guard let store = keeper.stores[gateway.id], store.directory >= 0 else { return }
        guard store.state.load(ordering: .relaxed) != .listing else {
            throw ControlFault(
                .conflict, "the mail directory of \(store.domain) is being listed; try again in a moment")
        }
        // From here on nothing more is charged to it, so that its count says when nothing is left.
        store.setClosing(true)
        do throws(ControlFault) {
            try dispose(of: store, mail)
        } catch {
            store.setClosing(false)
            _ = try? ask(.resume(gatewayID: gateway.id))
            throw error
        }
    }

    private func dispose(of store: Store, _ mail: MailDisposal) throws(ControlFault) {
        let id = store.gatewayID
        var exported: Set<QueueID> = []
        let began = time(nil)
        var left = store.used.messages
        while left > 0 {
            switch mail {
            case .refuse:
                let waiting = health(domain: store.domain).reduce(0) { $0 + $1.queued }
                guard waiting == 0 else {
                    throw ControlFault(
                        .refused,
                        "\(waiting) messages wait for \(store.domain): delete with --mail drop, bounce or export=DIR")
                }
            case .drop: _ = try ask(.drop(gatewayID: id, only: nil))
            case .bounce: _ = try ask(.bounceAll(gatewayID: id))
            case .export(let folder):
                for message in try queue(domain: store.domain, limit: Self.exportedAtOnce) {
                    guard let message = QueueID(message.id), exported.insert(message).inserted else { continue }
                    try write(try export(message), to: "\(folder)/\(message).eml", folder: folder)
                }
                _ = try ask(.drop(gatewayID: id, only: exported))
            }
            guard left > 0 else { return }
            let now = store.used.messages
            guard now < left || time(nil) - began < Self.disposalSeconds else {
                throw ControlFault(
                    .failed,
                    "\(now) messages of \(store.domain) are still on their way in or out; the gateway stays, try again")
            }
            left = now
            if left > 0 { usleep(20_000) }
        }
    }

    private func write(_ bytes: [UInt8], to path: String, folder: String) throws(ControlFault) {
        mkdir(folder, 0o700)
        let file = Glibc.open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw ControlFault(.failed, "`\(path)`: \(String(cString: strerror(errno)))") }
        var done = 0
        while done < bytes.count {
            let written = bytes.withUnsafeBytes { Glibc.write(file, $0.baseAddress! + done, bytes.count - done) }
            guard written > 0 else {
                close(file)
                throw ControlFault(.failed, "`\(path)`: \(String(cString: strerror(errno)))")
            }
            done += written
        }
        guard fsync(file) == 0, close(file) == 0 else {
            throw ControlFault(.failed, "`\(path)`: \(String(cString: strerror(errno)))")
        }
    }

    func deleted(_ gateway: StoredGateway) {
        if let why = keeper.putAside(Gateway(gateway)) {
            alarms.withLock { $0 = Array(($0 + [why]).suffix(20)) }
        }
        publish()
    }

    // MARK: Queue

    func queue(domain: String?, limit: Int) throws(ControlFault) -> [QueuedMessage] {
        let id = try gatewayID(domain)
        var all: [QueuedMessage] = []
        for answer in try ask(.list(gatewayID: id, limit: limit)) {
            if case .queued(let messages) = answer { all += messages }
        }
        return Array(all.sorted { $0.id < $1.id }.prefix(limit))
    }

    func flush(domain: String?) throws(ControlFault) -> Int {
        let id = try gatewayID(domain)
        return try ask(.flush(gatewayID: id)).reduce(0) { if case .done(let count) = $1 { $0 + count } else { $0 } }
    }

    func message(_ id: QueueID) throws(ControlFault) -> QueuedMessage {
        for answer in try ask(.find(id)) {
            if case .queued(let messages) = answer, let message = messages.first { return message }
        }
        throw Self.notFound(id)
    }

    private static func notFound(_ id: QueueID) -> ControlFault {
        ControlFault(.notFound, "no message \(id) waits here: it was handed on, bounced or deleted")
    }

    func delete(_ id: QueueID) throws(ControlFault) { try end(id, .delete(id)) }
    func bounce(_ id: QueueID) throws(ControlFault) { try end(id, .bounce(id)) }

    private func end(_ id: QueueID, _ what: CoreRequest.What) throws(ControlFault) {
        var isDone = false
        for answer in try ask(what) {
            switch answer {
            case .done: isDone = true
            case .busy(let why): throw ControlFault(.conflict, why)
            default: break
            }
        }
        if !isDone { throw Self.notFound(id) }
    }

    func export(_ id: QueueID) throws(ControlFault) -> [UInt8] {
        for answer in try ask(.export(id)) {
            switch answer {
            case .content(let bytes): return bytes
            case .busy(let why): throw ControlFault(.failed, why)
            default: break
            }
        }
        throw Self.notFound(id)
    }
}

/// The version that is shown everywhere.
public enum Version {
    public static let current = "0.1.0"
}
