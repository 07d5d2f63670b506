import CReactor
import Glibc
import Reactor

/// Keeps `postern admin` running: the process of the web server, a client of the control socket like the command, so that no
/// fault of it touches mail (design §7).
///
/// ```text
/// init: ports opened ─start▶ thread admin-watch: spawn ─it ended▶ wait 1 s … 60 s ─▶ spawn …   ─stop▶ killed
/// ```
///
/// The ports stay open between two lives; who connects then is answered by the next.
final class AdminProcess: Sendable {
    /// Listeners that were not opened, and why: for the log.
    let warnings: [String]

    private let listeners: [Int32]
    private let controlPath: String
    private let executable: String
    private let report: @Sendable (String) -> Void
    private let life = Locked(Life())
    private let bell: Int32

    private struct Life {
        /// Not reaped yet, so that its number can't be another process's.
        var process: pid_t?
        var isStopping = false
        var watch: Thread.Handle?
    }

    private enum Limits {
        static let delaySeconds = 1...60
        /// A life as long as this was no failed start: the next delay is the shortest again.
        static let goodLifeSeconds = 60
        /// Where the ports are while we have them: above all numbers that the child is given.
        static let keptDescriptor: Int32 = 200
    }

    /// Opens the ports.
    ///
    /// - Parameters:
    ///   - listen: those that are not loopback want HTTPS, which is not in this version, and are left closed.
    ///   - report: told in one sentence when the process ends, on the thread `admin-watch`.
    /// - Throws: `ListenFault` for a port that can't be had.
    init(
        listen endpoints: [Endpoint], controlPath: String, executable: String = "/proc/self/exe",
        report: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(ListenFault) {
        (self.controlPath, self.executable, self.report) = (controlPath, executable, report)
        var listeners: [Int32] = []
        var warnings: [String] = []
        do throws(ListenFault) {
            for endpoint in endpoints {
                guard endpoint.address.isLoopback else {
                    warnings.append(
                        "`listen.admin`: \(endpoint) stays closed: HTTPS, without which only loopback is opened, is not in "
                            + "this version")
                    continue
                }
                let address = SocketAddress(endpoint.address, port: endpoint.port)
                try Listener.probe(address)
                let opened = try Listener.open(address)
                let kept = fcntl(opened, F_DUPFD_CLOEXEC, Limits.keptDescriptor)
                precondition(kept >= 0, "no descriptor left for a listener")
                close(opened)
                listeners.append(kept)
            }
        } catch {
            for listener in listeners { close(listener) }
            throw error
        }
        (self.listeners, self.warnings) = (listeners, warnings)
        bell = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        precondition(bell >= 0, "no descriptor left for an eventfd")
    }

    deinit {
        for listener in listeners { close(listener) }
        close(bell)
    }

    /// Starts the process, unless there is no port for it. Once.
    func start() {
        guard !listeners.isEmpty else { return }
        let watch = Thread.start("admin-watch") { self.watch() }
        life.withLock { $0.watch = watch }
    }

    /// Ends the process and waits for it.
    func stop() {
        let watch = life.withLock { life in
            life.isStopping = true
            // It holds nothing that a gentler signal could save, and this one also ends a hanging process.
            if let process = life.process { kill(process, SIGKILL) }
            return life.watch
        }
        var one: UInt64 = 1
        _ = write(bell, &one, 8)
        watch?.join()
    }

    // MARK: On the thread admin-watch

    private func watch() {
        var delay = Limits.delaySeconds.lowerBound
        while true {
            let began = ControlSocket.now()
            let end = live()
            guard !life.withLock({ $0.isStopping }) else { return }
            let lived = (ControlSocket.now() - began) / 1_000
            if lived >= Limits.goodLifeSeconds { delay = Limits.delaySeconds.lowerBound }
            report("`postern admin` ended after \(lived) s: \(end); it is started again in \(delay) s")
            var bellRings = pollfd(fd: bell, events: Int16(POLLIN), revents: 0)
            if poll(&bellRings, 1, Int32(delay) * 1_000) > 0 { return }
            delay = min(2 * delay, Limits.delaySeconds.upperBound)
        }
    }

    /// One life of the process, from its start to its end: how it ended.
    private func live() -> String {
        var process: pid_t = 0
        // Under the lock, so that `stop` either sees the process or prevents it.
        let fault = life.withLock { life -> Int32 in
            guard !life.isStopping else { return ECANCELED }
            let fault = spawn(&process)
            if fault == 0 { life.process = process }
            return fault
        }
        guard fault == 0 else { return "it could not be started: \(String(cString: strerror(fault)))" }
        var ending = siginfo_t()
        while waitid(P_PID, id_t(process), &ending, WEXITED | WNOWAIT) < 0, errno == EINTR {}
        life.withLock { $0.process = nil }
        var status: Int32 = 0
        while waitpid(process, &status, 0) < 0, errno == EINTR {}
        return status & 0x7f == 0 ? "exit status \(status >> 8 & 0xff)" : "signal \(status & 0x7f)"
    }

    private func spawn(_ process: inout pid_t) -> Int32 {
        var files = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&files)
        defer { posix_spawn_file_actions_destroy(&files) }
        var words = ["postern", "admin", "--control", controlPath]
        for (index, listener) in listeners.enumerated() {
            let given = 3 + index
            posix_spawn_file_actions_adddup2(&files, listener, Int32(given))
            words += ["--listen-fd", String(given)]
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // This thread blocks all signals, and the child would, too.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        // Nothing of the environment but what finds libraries and says how the machine speaks: no secrets of ours.
        let names = ["LD_LIBRARY_PATH", "PATH", "TZ", "LANG", "SWIFT_BACKTRACE"]
        let environment = names.compactMap { name in getenv(name).map { "\(name)=\(String(cString: $0))" } }
        return withStrings(words) { words in
            withStrings(environment) { posix_spawn(&process, executable, &files, &attributes, words, $0) }
        }
    }

    /// Runs `body` with the texts as C wants them, nil at the end.
    private func withStrings<Result>(
        _ texts: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        var pointers = texts.map { strdup($0) } + [nil]
        defer { for pointer in pointers { free(pointer) } }
        return body(&pointers)
    }
}

/// What the admin process does about its own life, first of all.
public enum AdminLife {
    /// It ends with the mail process, however that ends, so that its ports are free; and a Ctrl-C in the terminal is the mail
    /// process's to answer.
    public static func belongsToServer() {
        cr_die_with_parent()
        signal(SIGINT, SIG_IGN)
    }
}
