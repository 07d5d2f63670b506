import Glibc
import Reactor

/// Which backend the reactors use.
enum IOChoice: String, Sendable {
    case epoll, uring

    /// `auto` takes epoll: on the same work the two are equal within noise, and it works everywhere.
    static func choose(_ wanted: Configuration.IOBackend) throws(SpoolFault) -> IOChoice {
        switch wanted {
        case .epoll, .auto: return .epoll
        case .uring:
            if let why = UringBackend.probe() {
                throw SpoolFault(description: "`io: uring` can't be used here: \(why); take `io: auto` or `io: epoll`")
            }
            return .uring
        }
    }

    /// On the reactor's own thread.
    func runCore(
        _ parts: Core.Parts, _ pool: WorkerPool, _ dns: DNSTransport, _ doorbell: Doorbell, _ commitLanes: FileLanes
    ) {
        switch self {
        case .epoll:
            let backend = EpollBackend(
                index: parts.index, pool: pool, dns: dns, doorbell: doorbell, commitLanes: commitLanes)
            Core(parts, backend: backend).run()
            backend.shutDown()
        case .uring:
            do throws(UringUnavailable) {
                let backend = try UringBackend(
                    index: parts.index, pool: pool, dns: dns, doorbell: doorbell, commitLanes: commitLanes)
                Core(parts, backend: backend).run()
                backend.shutDown()
            } catch {
                fatal("io_uring stopped working between probe and start: \(error)")
            }
        }
    }

    private func fatal(_ sentence: String) -> Never {
        var line = "postern: \(sentence)\n"
        line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
        _exit(1)
    }
}
