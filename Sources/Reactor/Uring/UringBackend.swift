import CReactor
import Glibc

/// Socket operations and their completions by io_uring; files on lanes, as with `EpollBackend`.
///
/// It belongs to the thread that made it.
public final class UringBackend: SystemBackend, Backend {
    public let name = "uring"
    private let sockets: UringSockets

    /// - Parameters:
    ///   - doorbell: rung by whoever sends to this reactor's mailboxes.
    ///   - commitLanes: shared with other reactors; nil: one of its own.
    public init(
        index: Int, pool: WorkerPool, dns: DNSTransport, doorbell: Doorbell = Doorbell(), commitLanes: FileLanes? = nil
    ) throws(UringUnavailable) {
        sockets = try UringSockets()
        super.init(reactor: index, pool: pool, dns: dns, doorbell: doorbell, commitLanes: commitLanes)
        sockets.watch(doorbell)
    }

    public func turn(
        _ operations: inout [Operation], until deadline: UInt64?, completions: inout [Completion],
        finished: inout [Finished]
    ) {
        sockets.begin(operations, &completions)
        operations.removeAll(keepingCapacity: true)
        if !completions.isEmpty || deadline == 0 || !doorbell.beginSleep() {
            sockets.exchange()
        } else {
            let now = deadline == nil ? 0 : monotonicNow()
            sockets.exchangeAndWait(deadline.map { $0 > now ? $0 - now : 0 })
            doorbell.endSleep()
        }
        sockets.collect(&completions)
        returns.take(into: &finished)
    }

    public func connect(to address: SocketAddress, from source: SocketAddress?, token: Token) -> SocketHandle {
        let socket = Self.makeSocket(to: address, from: source)
        if socket >= 0 { sockets.connect(socket, to: address, token: token) }
        return socket
    }

    /// nil: io_uring does here all that this backend needs, tried on loopback; else why not. Takes milliseconds.
    public static func probe() -> String? {
        do throws(UringUnavailable) {
            let probe = try UringProbe()
            try probe.run()
            return nil
        } catch {
            return error.description
        }
    }
}
