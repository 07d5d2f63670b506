import Glibc
import Protocols
import Reactor
import Synchronization

@testable import Gateway

/// A gateway of several reactors on a simulated machine, in the calling thread, with its directory in memory.
///
/// ```text
/// ScriptedClient ▶ listener at 192.0.2.1:25 ▶ cores, stores on world.disk ▶ ScriptedPrimary
/// ```
///
/// `kill`, `losePower` and `restart` end one run and begin the next over the same disk, as a real start does: superblock,
/// stores, recovery.
final class SimulatedGateway {
    let world: SimulatedWorld
    let directory: SQLiteDirectory
    /// Of the next start.
    var coreCount: Int
    /// Of the next start: slots of the mailboxes between reactors.
    var mailboxCapacity = 1024
    /// Of the next start.
    var journal = JournalSettings.none
    private(set) var journals: [JournalStart]?
    /// File handles of a gateway at rest: the data folder's, one a store, and the journals' segments.
    var handlesAtRest: Int { otherHandles + (journals?[0].shelf.openFiles ?? 0) }
    private var otherHandles = 0
    private let change: (inout CoreSettings) -> Void
    private(set) var keeper: StoreKeeper
    private(set) var cores: [Core] = []
    private(set) var counters: [Counters] = []
    /// The wall clock when the last run ended; a real one knows it to a minute.
    private var lastSeen: Int64
    /// Why stores could not be opened at the last start.
    private(set) var complaints: [String] = []
    private var control: [Mailbox<CoreMessage>] = []

    static let address = IPAddress("192.0.2.1")!
    static let port = SocketAddress(address, port: 25)
    static let hostname = "mx.gateway.test"
    static let dataPath = "data"
    /// For looking into a day that failed: all gateways' log lines go to this file.
    static let log = getenv("POSTERN_SIMULATE_LOG").flatMap { try? LogWriter(path: String(cString: $0)) }
    /// Many contexts would cost more than the tests.
    /// Beside SMTP: opened by the next start.
    var listens: [ListenerKind: UInt16] = [:]
    private static let clientTLS = Result { try TLSContext(client: .nothing) }

    /// - Parameters:
    ///   - gateways: `domain key=value …`, one each.
    ///   - change: what the reactors' settings have else than usual.
    init(
        seed: UInt64 = 1, cores coreCount: Int = 2, world settings: SimulatedSettings = .quiet,
        journal: JournalSettings = .none, _ gateways: String...,
        change: @escaping (inout CoreSettings) -> Void = { _ in }
    ) throws {
        world = SimulatedWorld(seed: seed, settings: settings)
        directory = try SQLiteDirectory(inMemoryWith: { 1_767_225_600_000 })
        (self.coreCount, self.change, self.journal) = (coreCount, change, journal)
        lastSeen = world.wallNow
        keeper = StoreKeeper(
            dataPath: Self.dataPath, files: world.disk, directory: directory, random: { 0 }, close: { _ in })
        for gateway in gateways { try store(gateway) }
        try start()
    }

    private func store(_ gateway: String) throws {
        let words = gateway.split(separator: " ").map(String.init)
        var document = try GatewayDocument(domain: words[0])
        try document.apply(Array(words.dropFirst()))
        _ = try directory.create(document)
    }

    // MARK: Start and end

    /// File steps of a start that is cut off; afterwards nothing works any more.
    private final class FailingFiles: FileExecutor {
        private let disk: SimulatedDisk
        private(set) var left: Int
        init(_ disk: SimulatedDisk, steps: Int) { (self.disk, left) = (disk, steps) }

        func carryOut(_ step: FileStep) -> FileOutcome {
            guard left > 0 else { return FileOutcome(-Int(EIO)) }
            left -= 1
            return disk.carryOut(step)
        }
    }

    /// A start that ends before its reactors run, after so many file steps. False: it would have come further.
    func startAndFail(afterSteps steps: Int) throws -> Bool {
        let files = FailingFiles(world.disk, steps: steps)
        do { _ = try openStores(files) } catch is SpoolFault {}
        leave()
        return files.left == 0
    }

    /// What a start does before there are threads.
    private func openStores(_ files: any FileExecutor) throws -> Superblock {
        journals = nil
        let folder = FileHandle(world.disk.carryOut(.openDirectory(path: Self.dataPath, create: true)).value)
        let superblock = try Superblock.open(
            folder, path: Self.dataPath, files: files, wall: world.wallNow,
            boot: "after-\(world.counters.powerLosses)")
        let world = world
        let closer = Closer(world)
        keeper = StoreKeeper(
            dataPath: Self.dataPath, files: files, directory: directory,
            random: { [world] in UInt64(world.draw(Int.max)) },
            close: { closer.close($0) })
        complaints = []
        for gateway in [directory.snapshot.system] + directory.snapshot.gateways {
            if let why = try keeper.open(gateway) { complaints.append(why) }
        }
        let keeper = keeper
        journals = try JournalOpener(
            dataPath: Self.dataPath, files: files, random: { [world] in UInt64(world.draw(Int.max)) },
            store: { keeper.stores[$0] },
            note: { [weak self] isAlarm, event, sentence in
                if isAlarm { self?.openingAlarms.append(event) }
                Self.log?.note("event=\(event) detail=\"\(sentence)\"")
            }
        ).open(journal, reactors: coreCount)
        return superblock
    }

    /// What opening the journal alarmed of, since the beginning.
    private(set) var openingAlarms: [String] = []

    func start() throws {
        let superblock = try openStores(world.disk)
        otherHandles = world.disk.openHandles - (journals?.reduce(0) { $0 + $1.free.count } ?? 0)
        let doorbells = (0..<coreCount).map { _ in Doorbell(simulated: true) }
        let boxes = (0..<coreCount).map { _ in
            (0..<coreCount).map { Mailbox<CoreMessage>(to: doorbells[$0], capacity: mailboxCapacity) }
        }
        control = doorbells.map { Mailbox<CoreMessage>(to: $0) }
        counters = doorbells.map { _ in Counters() }
        let settings = try coreSettings()
        cores = (0..<coreCount).map { index in
            let parts = Core.Parts(
                index: index, count: coreCount, start: superblock.start,
                firstStartOfThisBoot: superblock.firstStartOfThisBoot, lastSeen: lastSeen, settings: settings,
                routes: routes,
                listeners: ([(ListenerKind.smtp, Self.port.port)] + listens.sorted { $0.value < $1.value }).map {
                    let port = SocketAddress(Self.address, port: $1)
                    return CoreListener(socket: world.listen(port), kind: $0, address: "\(port)")
                },
                outboxes: (0..<coreCount).map { $0 == index ? nil : boxes[index][$0] },
                inboxes: (0..<coreCount).filter { $0 != index }.map { boxes[$0][index] } + [control[index]],
                counters: counters[index], logWriter: Self.log, logLevel: .info, journal: journals?[index])
            return Core(parts, backend: world.makeBackend(index: index, doorbell: doorbells[index]))
        }
        for core in cores { core.start() }
    }

    /// Closes the stores' directories, unless their process has ended.
    private final class Closer: @unchecked Sendable {
        private let world: SimulatedWorld
        private let ends: Int
        init(_ world: SimulatedWorld) {
            self.world = world
            ends = world.counters.kills + world.counters.powerLosses
        }
        func close(_ handle: FileHandle) {
            guard world.counters.kills + world.counters.powerLosses == ends else { return }
            _ = world.disk.carryOut(.close(handle))
        }
    }

    private func coreSettings() throws -> CoreSettings {
        let tls = try Self.clientTLS.get()
        var settings = CoreSettings(
            hostname: Self.hostname, messageSizeMax: 8 << 20, recipientsMax: 1_000, connectionsMax: 1_000,
            connectionsPerNetworkMax: 1_000, messageMemoryBytes: 16 << 20, trust: Configuration.Trust(),
            identity: Identity(names: [Self.hostname], addresses: [Self.address], ports: [25]), serverTLS: nil,
            clientTLS: CoreSettings.ClientTLS(unverified: tls, verified: tls),
            logins: LoginMeans(nobodySecret: directory.nobodySecret))
        settings.trust.unlimited = []
        change(&settings)
        return settings
    }

    private var routes: Routes {
        Routes(snapshot: directory.snapshot, stores: keeper.stores, devices: keeper.devices)
    }

    private func leave() {
        lastSeen = world.wallNow
        cores = []
        control = []
    }

    /// The process is killed.
    func kill() {
        leave()
        world.kill()
    }

    func losePower() {
        leave()
        world.powerLoss()
    }

    /// What SIGTERM does; run on until `Core.isStopped`.
    func stop() { for mailbox in control { mailbox.send(.shutDown) } }

    /// The process is killed and starts again.
    func restart() throws {
        kill()
        try start()
    }

    // MARK: Gateways

    func store(of domain: String) -> Store { keeper.stores[directory.snapshot.gateway(forDomain: domain)!.id]! }

    func create(_ gateway: String) throws {
        try store(gateway)
        let domain = String(gateway.prefix { $0 != " " })
        if let why = try keeper.open(directory.snapshot.gateway(forDomain: domain)!) { complaints.append(why) }
        otherHandles += 1
        publish()
    }

    /// The end of a gateway whose mail was dropped, bounced or delivered: its mail directory goes aside.
    func delete(_ domain: String) throws {
        let gateway = directory.snapshot.gateway(forDomain: domain)!
        _ = try directory.delete(domain, expectedETag: nil)
        // Its own rename is one of the real disk, where there is nothing.
        _ = keeper.putAside(gateway)
        let disk = world.disk
        let stores = FileHandle(disk.carryOut(.openDirectory(path: "\(Self.dataPath)/stores", create: false)).value)
        _ = disk.carryOut(.rename(in: stores, from: domain, to: stores, name: "\(domain).deleted-\(gateway.id)"))
        _ = disk.carryOut(.close(stores))
        // When the last user of the store has gone.
        otherHandles -= 1
        publish()
    }

    func update(_ domain: String, _ assignments: String...) throws {
        var document = try directory.get(domain).document
        try document.apply(assignments)
        _ = try directory.update(document, expectedETag: nil)
        publish()
    }

    func set(_ assignments: String...) throws {
        var settings = try directory.settings()
        try settings.apply(assignments)
        _ = try directory.setSettings(settings)
        publish()
    }

    private func publish() { for mailbox in control { mailbox.send(.routes(routes)) } }

    // MARK: Time

    private static let stepsMax = 2_000_000

    /// Lets the world go on until `isDone`, for at most so many virtual seconds. False: it did not come to that.
    @discardableResult
    func run(seconds: Double = 60, until isDone: () -> Bool) -> Bool {
        world.run(
            stepsMax: Self.stepsMax, for: UInt64(seconds * 1e9), turn: { [self] in cores[$0].step() }, until: isDone)
    }

    /// So many virtual seconds go by.
    func pass(seconds: Double) {
        let end = world.now + UInt64(seconds * 1e9)
        run(seconds: seconds) { world.now >= end }
    }

    // MARK: Requests

    /// Touched by one thread only: the world has no other.
    private final class Answers: @unchecked Sendable {
        var list: [CoreAnswer?]
        init(count: Int) { list = Array(repeating: nil, count: count) }
    }

    /// What the control thread would ask of all reactors; those that answered, in their order.
    func ask(_ what: CoreRequest.What) -> [CoreAnswer] { askEach(what).compactMap { $0 } }

    /// One answer a reactor; nil: it did not answer in time.
    func askEach(_ what: CoreRequest.What, seconds: Double = 600) -> [CoreAnswer?] {
        let answers = Answers(count: control.count)
        for (core, mailbox) in control.enumerated() {
            mailbox.send(.request(CoreRequest(what: what) { answers.list[core] = $0 }))
        }
        run(seconds: seconds) { !answers.list.contains { $0 == nil } }
        return answers.list
    }

    var queue: [QueuedMessage] {
        ask(.list(gatewayID: nil, limit: .max)).flatMap { answer -> [QueuedMessage] in
            if case .queued(let list) = answer { list } else { [] }
        }.sorted { $0.id < $1.id }
    }

    func flush(_ domain: String? = nil) {
        _ = ask(.flush(gatewayID: domain.map { directory.snapshot.gateway(forDomain: $0)!.id }))
    }

    func health(_ domain: String) -> QueueHealth? {
        ask(.health).flatMap { answer -> [QueueHealth] in if case .health(let list) = answer { list } else { [] } }
            .first { $0.domain == domain }
    }

    // MARK: What can be seen

    private func sum(_ value: (Counters) -> Int) -> Int { counters.reduce(0) { $0 + value($1) } }
    var accepted: Int { sum { $0.accepted.load(ordering: .relaxed) } }
    var delivered: Int { sum { $0.delivered.load(ordering: .relaxed) } }
    var deferred: Int { sum { $0.deferred.load(ordering: .relaxed) } }
    var bounced: Int { sum { $0.bounced.load(ordering: .relaxed) } }
    var queued: Int { sum { $0.queued.load(ordering: .relaxed) } }
    var possibleDuplicates: Int { sum { $0.possibleDuplicates.load(ordering: .relaxed) } }
    var damaged: Int { sum { $0.damaged.load(ordering: .relaxed) } }
    var alarms: Int { sum { $0.alarms.load(ordering: .relaxed) } }
    var sessions: Int { sum { $0.sessions.load(ordering: .relaxed) } }
    var forwardSessions: Int { sum { $0.forwardSessions.load(ordering: .relaxed) } }
    func replies(_ code: Int) -> Int { sum { $0.replies(code) } }
    var memoryBytes: Int { cores.reduce(0) { $0 + $1.memoryBytes } }
    var isRecovering: Bool { cores.contains { $0.recovering > 0 } }

    /// Nothing waits, nothing is being written.
    var isIdle: Bool { queued == 0 && cores.allSatisfy { $0.spool.isIdle && $0.calls.isIdle } }

    static func path(of domain: String) -> String { "\(dataPath)/stores/\(domain)" }

    /// The names in a mail directory but for its head file.
    func files(_ domain: String) -> [String] {
        (world.disk.names(in: Self.path(of: domain)) ?? []).filter { $0 != MailFile.headName }
    }

    /// Waits until every store is counted.
    @discardableResult
    func ready() -> Bool {
        run { keeper.stores.values.allSatisfy { $0.state.load(ordering: .relaxed) != .listing } && !isRecovering }
    }
}

extension SimulatedSettings {
    /// A world without trouble and with short delays, for tests that bring their own.
    static var quiet: SimulatedSettings {
        var settings = SimulatedSettings()
        (settings.slowChance, settings.stallChance) = (0, 0)
        settings.networkDelay = 20_000...200_000
        settings.syncDelay = 100_000...2_000_000
        settings.lookupDelay = 100_000...1_000_000
        return settings
    }
}
