import CReactor
import Glibc
import Protocols
import Reactor
import Synchronization

/// Start and end of the mail process (design §7).
///
/// ```text
/// main thread, unpinned: lock ▶ ports probed and opened ▶ user changed ▶ superblock ▶ directory, stores ▶ threads ▶ signals
/// ```
public enum ServeMain {
    /// Runs until SIGTERM or SIGINT. The exit status; a failure's sentence is on standard error.
    public static func run(_ configuration: Configuration) -> Int32 {
        do {
            try Serve(configuration).run()
            return 0
        } catch {
            var sentence = "postern: \(error)\n"
            sentence.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
            return 1
        }
    }
}

/// One run of the mail process.
final class Serve {
    let configuration: Configuration
    private let files = PosixFiles()
    private var lock: SpoolLock?

    init(_ configuration: Configuration) { self.configuration = configuration }

    func run() throws {
        // Before the first thread, so that all inherit it: signals are waited for, here.
        var signals = sigset_t()
        sigemptyset(&signals)
        for signal in [SIGTERM, SIGINT, SIGHUP] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        signal(SIGPIPE, SIG_IGN)
        raiseDescriptorLimit()

        let owner = try findUser()
        let data = try openDataFolder(owner)
        let lock = try SpoolLock(folder: configuration.data, owner: owner)
        self.lock = lock
        let listeners = try openListeners()
        let log = try LogWriter(path: configuration.log.file)
        let admin = try openAdmin(log)
        try changeUser(owner)
        let superblock = try Superblock.open(
            data, path: configuration.data, files: files, wall: Self.wall(), boot: bootID())
        let tls = try TLSMaterial(configuration)
        let directory = try SQLiteDirectory(dataFolder: configuration.data) { Self.wall() / 1_000_000 }
        let keeper = StoreKeeper(
            dataPath: configuration.data, files: files, directory: directory,
            random: { UInt64.random(in: .min ... .max) }, close: { close($0) })
        var complaints: [(String, String)] = []
        let snapshot = directory.snapshot
        for gateway in [snapshot.system] + snapshot.gateways {
            if let why = try keeper.open(gateway) { complaints.append((gateway.domain, why)) }
        }
        let journals = try JournalOpener(
            dataPath: configuration.data, files: files, random: { UInt64.random(in: .min ... .max) },
            store: { keeper.stores[$0] },
            note: { isAlarm, event, sentence in
                log.note("\(isAlarm ? "level=error " : "")event=\(event) detail=\"\(sentence)\"")
            }
        ).open(journalSettings(reactorCount), reactors: reactorCount)
        for stored in try directory.list() {
            if let fault = stored.fault { complaints.append((stored.document.domain, fault)) }
            if stored.isLocked {
                complaints.append(
                    (
                        stored.document.domain,
                        "its secrets were sealed with another `secrets.key`: put that one back, or set them anew"
                    ))
            }
        }
        try start(
            listeners, admin, superblock, lock, journals, tls, directory, log, keeper, complaints, signals)
    }

    /// Nanoseconds since 1970.
    private static func wall() -> Int64 {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
    }

    /// The kernel's name for this boot; empty where there is none.
    private func bootID() -> String {
        let folder = cr_open("/proc/sys/kernel/random", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
        guard folder >= 0 else { return "" }
        defer { close(folder) }
        let read = files.carryOut(.readStart(in: folder, name: "boot_id", length: 64))
        return String(decoding: read.data, as: UTF8.self).filter { $0.isHexDigit || $0 == "-" }
    }

    private func raiseDescriptorLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    var descriptorLimit: Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1_024 }
        return Int(clamping: limit.rlim_cur)
    }

    // MARK: User, folder, ports

    private func findUser() throws(SpoolFault) -> (user: uid_t, group: gid_t)? {
        guard let name = configuration.user else { return nil }
        guard geteuid() == 0 else {
            throw SpoolFault(description: "`user: \(name)` needs a start as root; leave it out otherwise")
        }
        guard let entry = getpwnam(name) else {
            throw SpoolFault(description: "`user: \(name)`: there is no such user")
        }
        return (entry.pointee.pw_uid, entry.pointee.pw_gid)
    }

    private func openDataFolder(_ owner: (user: uid_t, group: gid_t)?) throws(SpoolFault) -> FileHandle {
        let path = configuration.data
        let isNew = access(path, F_OK) != 0
        let opened = files.carryOut(.openDirectory(path: path, create: true))
        guard opened.isDone else {
            throw SpoolFault(
                description: "the data folder `\(path)` can't be opened: \(String(cString: strerror(opened.fault)))")
        }
        if isNew, let owner { chown(path, owner.user, owner.group) }
        guard owner != nil || access(path, W_OK) == 0 else {
            throw SpoolFault(
                description:
                    "the data folder `\(path)` is not writable for this user: \(String(cString: strerror(errno)))")
        }
        return FileHandle(opened.value)
    }

    private func openListeners() throws -> [[CoreListener]] {
        let wanted =
            configuration.listen.smtp.map { ($0, ListenerKind.smtp) }
            + configuration.listen.smtps.map { ($0, ListenerKind.smtps) }
            + configuration.listen.odmr.map { ($0, ListenerKind.odmr) }
            + configuration.listen.odmrs.map { ($0, ListenerKind.odmrs) }
            + configuration.listen.pop3.map { ($0, ListenerKind.pop3) }
            + configuration.listen.pop3s.map { ($0, ListenerKind.pop3s) }
        for (endpoint, _) in wanted {
            try patiently { () throws(ListenFault) in
                try Listener.probe(SocketAddress(endpoint.address, port: endpoint.port))
            }
        }
        var all: [[CoreListener]] = []
        for _ in 0..<reactorCount {
            var own: [CoreListener] = []
            for (endpoint, kind) in wanted {
                let socket = try Listener.open(SocketAddress(endpoint.address, port: endpoint.port))
                own.append(CoreListener(socket: socket, kind: kind, address: endpoint.description))
            }
            all.append(own)
        }
        return all
    }

    /// A server that was just killed may need a moment to let go of its ports: tried again for 2 s.
    private func patiently<Value>(_ open: () throws(ListenFault) -> Value) throws(ListenFault) -> Value {
        for _ in 0..<20 {
            do throws(ListenFault) { return try open() } catch { guard error.fault == EADDRINUSE else { throw error } }
            usleep(100_000)
        }
        return try open()
    }

    private func openAdmin(_ log: LogWriter) throws(ListenFault) -> AdminProcess {
        let control = configuration.data + "/control.sock"
        let endpoints = configuration.listen.admin
        return try patiently { () throws(ListenFault) in
            try AdminProcess(listen: endpoints, controlPath: control) { sentence in
                log.note("level=warning event=admin detail=\"\(sentence)\"")
            }
        }
    }

    private func changeUser(_ owner: (user: uid_t, group: gid_t)?) throws(SpoolFault) {
        guard let owner, let name = configuration.user else { return }
        guard initgroups(name, owner.group) == 0, setgid(owner.group) == 0, setuid(owner.user) == 0 else {
            throw SpoolFault(description: "the change to user `\(name)` failed: \(String(cString: strerror(errno)))")
        }
    }

    // MARK: Threads

    private var allowedCPUs: [Int] { configuration.allowedCPUs }
    private var reactorCount: Int { configuration.reactorCount }

    private func start(
        _ listeners: [[CoreListener]], _ admin: AdminProcess, _ superblock: Superblock, _ lock: SpoolLock,
        _ journals: [JournalStart]?,
        _ tls: TLSMaterial,
        _ directory: SQLiteDirectory, _ log: LogWriter, _ keeper: StoreKeeper, _ complaints: [(String, String)],
        _ signals: sigset_t
    ) throws {
        let count = reactorCount
        let io = try IOChoice.choose(configuration.io)
        let doorbells = (0..<count).map { _ in Doorbell() }
        // One mailbox an ordered pair; then one from the control thread and one from this thread.
        let boxes = (0..<count).map { _ in (0..<count).map { Mailbox<CoreMessage>(to: doorbells[$0]) } }
        let fromControl = (0..<count).map { Mailbox<CoreMessage>(to: doorbells[$0]) }
        let fromMain = (0..<count).map { Mailbox<CoreMessage>(to: doorbells[$0]) }
        let counters = (0..<count).map { _ in Counters() }
        let cpus: [Int?] = (0..<count).map { configuration.pin && count <= allowedCPUs.count ? allowedCPUs[$0] : nil }
        let routes = Routes(snapshot: directory.snapshot, stores: keeper.stores, devices: keeper.devices)
        // Two reactors share their commit lanes: larger batches, and no contention for the directories they both write to.
        let lanes = (0..<(count + 1) / 2).map { FileLanes(name: "commit-\($0)") }
        let pool = WorkerPool(threads: 2)
        let dns = try DNSTransport(servers: (configuration.dns.servers ?? []).map(\.description))
        let settings = try coreSettings(tls, count, nobodySecret: directory.nobodySecret)
        let server = RunningProcess(
            configuration: configuration, directory: directory, ioName: io.rawValue, keeper: keeper, counters: counters,
            cpus: cpus, outboxes: fromControl, log: log, routes: routes)

        // The socket answers before the first 220 is sent.
        let control = try ControlServer(
            path: configuration.data + "/control.sock", service: ControlService(server))
        let controlThread = Thread.start("control") { control.run() }

        announce(log, io.rawValue, admin, complaints)
        let quietCores = RelaxedCounter()
        let threads = (0..<count).map { index in
            let parts = Core.Parts(
                index: index, count: count, start: superblock.start,
                firstStartOfThisBoot: superblock.firstStartOfThisBoot, lastSeen: lock.lastSeen, settings: settings,
                routes: routes,
                listeners: listeners[index], outboxes: (0..<count).map { $0 == index ? nil : boxes[index][$0] },
                inboxes: (0..<count).filter { $0 != index }.map { boxes[$0][index] } + [
                    fromControl[index], fromMain[index],
                ],
                counters: counters[index], logWriter: log, logLevel: configuration.log.level,
                quietCores: quietCores, journal: journals?[index])
            let doorbell = doorbells[index]
            let lane = lanes[index % lanes.count]
            return Thread.start("reactor-\(index)", cpu: cpus[index]) { io.runCore(parts, pool, dns, doorbell, lane) }
        }
        admin.start()

        wait(for: signals, lock) { self.reload(fromMain, log, count, directory.nobodySecret) }

        announceStop(log)
        alarmAfterHardLimit()
        // First: without the control socket it would be taken for one that died.
        admin.stop()
        control.stop()
        controlThread.join()
        for mailbox in fromMain { mailbox.send(.shutDown) }
        for thread in threads { thread.join() }
        for lane in lanes { lane.shutDown() }
        pool.shutDown()
        dns.shutDown()
        try? directory.close()
        log.shutDown()
    }

    private func wait(for signals: sigset_t, _ lock: SpoolLock, hangUp: () -> Void) {
        var signals = signals
        var minute = timespec(tv_sec: 60, tv_nsec: 0)
        while true {
            lock.touch()
            switch sigtimedwait(&signals, nil, &minute) {
            case SIGHUP: hangUp()
            case SIGTERM, SIGINT: return lock.touch()
            default: continue  // a minute has passed, or somebody looked with a debugger
            }
        }
    }

    /// A reactor that can't finish must not keep the process for ever.
    private func alarmAfterHardLimit() {
        _ = Thread.start("hard-limit") {
            sleep(60)
            _exit(1)
        }
    }

    /// SIGHUP: certificates and log file anew; the rest of the file says what needs a restart.
    private func reload(
        _ mailboxes: [Mailbox<CoreMessage>], _ log: LogWriter, _ count: Int, _ nobodySecret: [UInt8]
    ) {
        log.reopen()
        do {
            let fresh = try coreSettings(TLSMaterial(configuration), count, nobodySecret: nobodySecret)
            for mailbox in mailboxes { mailbox.send(.settings(fresh)) }
            log.note("event=reloaded detail=\"certificates and log file; other keys of postern.yaml need a restart\"")
        } catch {
            log.note("level=error event=reload-failed detail=\"\(error)\"")
        }
    }

    private func announce(_ log: LogWriter, _ io: String, _ admin: AdminProcess, _ complaints: [(String, String)]) {
        let smtp = configuration.listen.smtp.map(\.description).joined(separator: ",")
        log.note(
            "event=started version=\(Version.current) hostname=\(configuration.hostname) io=\(io) reactors=\(reactorCount) smtp=\(smtp)"
        )
        for warning in admin.warnings { log.note("level=warning event=admin detail=\"\(warning)\"") }
        for key in configuration.notInThisVersion {
            log.note("level=warning event=not-in-this-version key=\(key)")
        }
        for variable in configuration.unknownVariables {
            log.note("level=warning event=unknown-variable name=\(variable)")
        }
        if configuration.user == nil, geteuid() == 0 {
            log.note("level=warning event=runs-as-root detail=\"set `user` in postern.yaml\"")
        }
        for (domain, why) in complaints {
            log.note("level=error event=store-unavailable gateway=\(domain) detail=\"\(why)\"")
        }
    }

    private func announceStop(_ log: LogWriter) { log.note("event=stopping") }

}
