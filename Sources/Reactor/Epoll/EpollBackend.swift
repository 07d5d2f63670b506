import CReactor
import Glibc

/// What the real backends share: lanes, look-ups, worker pool, clocks, and the box by which other threads return results.
public class SystemBackend {
    /// Where other threads put what they have finished.
    final class Returns: Sendable {
        private let box = Locked<[Finished]>([])
        let doorbell: Doorbell
        init(doorbell: Doorbell) { self.doorbell = doorbell }
        func put(_ finished: Finished) {
            box.withLock { $0.append(finished) }
            doorbell.ring()
        }
        func take(into finished: inout [Finished]) {
            box.withLock {
                guard !$0.isEmpty else { return }
                finished.append(contentsOf: $0)
                $0.removeAll(keepingCapacity: true)
            }
        }
    }

    let returns: Returns
    private let commitLanes: FileLanes
    private let ownsCommitLanes: Bool
    private let logLanes: FileLanes
    private let bulkLanes: FileLanes
    private let pool: WorkerPool
    private let dns: DNSTransport

    /// - Parameter index: the reactor's number, for the threads' names.
    init(reactor index: Int, pool: WorkerPool, dns: DNSTransport, doorbell: Doorbell, commitLanes: FileLanes?) {
        returns = Returns(doorbell: doorbell)
        self.pool = pool
        self.dns = dns
        ownsCommitLanes = commitLanes == nil
        self.commitLanes = commitLanes ?? FileLanes(name: "commit-\(index)")
        logLanes = FileLanes(name: "log-\(index)")
        bulkLanes = FileLanes(name: "bulk-\(index)")
    }

    public var doorbell: Doorbell { returns.doorbell }

    public func run(_ task: FileTask, on lane: Lane) {
        let returns = self.returns
        let target =
            switch lane {
            case .commit: commitLanes
            case .log: logLanes
            case .bulk: bulkLanes
            }
        target.run(task) { returns.put(.files($0)) }
    }

    public func lookUp(_ query: [UInt8], token: Token) {
        let returns = self.returns
        do throws(DNSTransportFault) {
            try dns.send(query: query) { answer in
                returns.put(.lookup(token, answer.mapError { $0 == .timedOut ? .timedOut : .unreachable }))
            }
        } catch {
            returns.put(.lookup(token, .failure(.overloaded)))
        }
    }

    public func work(_ token: Token, _ job: @escaping @Sendable () -> any Sendable) {
        let returns = self.returns
        if !pool.submit({ returns.put(.work(token, job())) }) { returns.put(.work(token, WorkRefused())) }
    }

    public func monotonicNow() -> UInt64 { Self.monotonicNow() }

    static func monotonicNow() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    public func wallNow() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    public func random() -> UInt64 {
        var value: UInt64 = 0
        _ = getentropy(&value, 8)
        return value
    }

    public func peerAddress(of socket: SocketHandle) -> SocketAddress? { Self.address(socket, getpeername) }
    public func localAddress(of socket: SocketHandle) -> SocketAddress? { Self.address(socket, getsockname) }

    static func address(
        _ socket: SocketHandle,
        _ call: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call(socket, $0, &length) }
        }
        return status == 0 ? SocketAddress(storage) : nil
    }

    /// A nonblocking TCP socket bound to `source`, or `-errno`.
    static func makeSocket(to address: SocketAddress, from source: SocketAddress?) -> SocketHandle {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let handle = socket(address.isV4 ? AF_INET : AF_INET6, type, 0)
        guard handle >= 0 else { return -errno }
        var one: Int32 = 1
        setsockopt(handle, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        if let source, source.withSockaddr({ bind(handle, $0, $1) }) != 0 {
            let fault = errno
            close(handle)
            return -fault
        }
        return handle
    }

    /// Ends the lanes after the tasks that wait.
    public func shutDown() {
        if ownsCommitLanes { commitLanes.shutDown() }
        logLanes.shutDown()
        bulkLanes.shutDown()
    }
}

/// The worker pool is full.
public struct WorkRefused: Error {}

/// Readiness by edge-triggered epoll, then the system calls themselves; files on lanes.
///
/// A socket is registered once. `readable` remembers an edge until a short read has used it up; a send is tried at once and
/// waits for `EPOLLOUT` only after it met a full buffer.
public final class EpollBackend: SystemBackend, Backend {
    public let name = "epoll"

    private struct Entry {
        var generation: UInt32 = 0
        var isOpen = false
        var isListener = false
        var isReadable = false
        /// The peer has finished or the connection failed: there is always an end to receive, and no edge will tell of it.
        var isEnding = false
        var isConnecting = false
        var isReceiving = false
        var isSending = false
        /// `shutdown` was asked while a send was under way.
        var shutsDown = false
        var isQueued = false
        var receiveToken = Token(kind: 0, generation: 0, index: 0)
        var sendToken = Token(kind: 0, generation: 0, index: 0)
        var send = Operation(.send, -1, Token(kind: 0, generation: 0, index: 0))
        var sent = 0
    }

    /// Bytes lent to the owner in one turn; what doesn't fit waits for the next.
    private static let arenaBytes = 2 << 20
    /// The most that one receive brings.
    private static let receiveMaxBytes = 64 << 10
    /// Connections taken from one listener in one turn, so that a flood doesn't starve the sessions.
    private static let acceptsPerTurn = 64
    private static let eventsPerTurn = 512

    private let epoll: Int32
    private let entries = SocketTable(blank: Entry())
    private let arena = UnsafeMutableRawPointer.allocate(byteCount: arenaBytes, alignment: 4096)
    private var arenaUsed = 0
    private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: eventsPerTurn)
    /// Sockets that may receive now (armed and readable), or listeners with more to accept.
    private var ready: [Int32] = []
    private var readyBefore: [Int32] = []

    /// - Parameter index: the reactor's number, for the threads' names.
    /// - Parameters:
    ///   - doorbell: rung by whoever sends to this reactor's mailboxes.
    ///   - commitLanes: shared with other reactors; nil: one of its own.
    public init(
        index: Int, pool: WorkerPool, dns: DNSTransport, doorbell: Doorbell = Doorbell(), commitLanes: FileLanes? = nil
    ) {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        precondition(epoll >= 0, "no descriptor left for epoll")
        super.init(reactor: index, pool: pool, dns: dns, doorbell: doorbell, commitLanes: commitLanes)
        var event = epoll_event()
        event.events = EPOLLIN.rawValue
        event.data.u64 = UInt64.max
        epoll_ctl(epoll, EPOLL_CTL_ADD, doorbell.descriptor, &event)
    }

    deinit {
        close(epoll)
        arena.deallocate()
        events.deallocate()
    }

    private func register(_ socket: SocketHandle, connecting: Bool = false, listener: Bool = false) {
        let entry = entries[socket]
        let generation = entry.pointee.generation &+ 1
        entry.pointee = Entry()
        entry.pointee.generation = generation
        entry.pointee.isOpen = true
        entry.pointee.isConnecting = connecting
        entry.pointee.isListener = listener
        var event = epoll_event()
        event.events = EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue
        if listener { event.events = EPOLLIN.rawValue | EPOLLET.rawValue }
        event.data.u64 = UInt64(generation) << 32 | UInt64(UInt32(socket))
        epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event)
    }

    // MARK: A turn

    public func turn(
        _ operations: inout [Operation], until deadline: UInt64?, completions: inout [Completion],
        finished: inout [Finished]
    ) {
        arenaUsed = 0
        for operation in operations { begin(operation, &completions) }
        operations.removeAll(keepingCapacity: true)
        wait(deadline, isBusy: !completions.isEmpty || !ready.isEmpty, &completions)
        returns.take(into: &finished)
        receiveReady(&completions)
    }

    private func wait(_ deadline: UInt64?, isBusy: Bool, _ completions: inout [Completion]) {
        var timeout: Int32 = -1
        var sleeps = false
        if isBusy || deadline == 0 {
            timeout = 0
        } else {
            sleeps = doorbell.beginSleep()
            if !sleeps {
                timeout = 0
            } else if let deadline {
                let now = monotonicNow()
                // Rounded up: waking early would only spin.
                timeout = deadline <= now ? 0 : Int32(clamping: (deadline - now + 999_999) / 1_000_000)
            }
        }
        let count = epoll_wait(epoll, events, Int32(Self.eventsPerTurn), timeout)
        if sleeps { doorbell.endSleep() }
        guard count > 0 else { return }
        for at in 0..<Int(count) {
            let data = events[at].data.u64
            guard data != UInt64.max else {
                doorbell.drain()
                continue
            }
            let socket = Int32(truncatingIfNeeded: data)
            let entry = entries[socket]
            guard entry.pointee.isOpen, entry.pointee.generation == UInt32(data >> 32) else { continue }
            happened(socket, entry, events[at].events, &completions)
        }
    }

    private func happened(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ flags: UInt32, _ completions: inout [Completion]
    ) {
        let writable = EPOLLOUT.rawValue | EPOLLERR.rawValue | EPOLLHUP.rawValue
        let ending = EPOLLRDHUP.rawValue | EPOLLERR.rawValue | EPOLLHUP.rawValue
        if entry.pointee.isConnecting, flags & writable != 0 {
            entry.pointee.isConnecting = false
            var fault: Int32 = 0
            var size = socklen_t(4)
            getsockopt(socket, SOL_SOCKET, SO_ERROR, &fault, &size)
            completions.append(Completion(.connect, entry.pointee.sendToken, -Int(fault)))
        }
        if flags & ~EPOLLOUT.rawValue != 0 {
            entry.pointee.isReadable = true
            if flags & ending != 0 { entry.pointee.isEnding = true }
            enqueue(socket, entry)
        }
        if entry.pointee.isSending, flags & writable != 0 { continueSend(socket, entry, &completions) }
    }

    private func enqueue(_ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>) {
        guard entry.pointee.isReceiving, entry.pointee.isReadable, !entry.pointee.isQueued else { return }
        entry.pointee.isQueued = true
        ready.append(socket)
    }

    private func begin(_ operation: Operation, _ completions: inout [Completion]) {
        let socket = operation.socket
        switch operation.kind {
        case .accept:
            // After an error the listener is registered already.
            if !entries[socket].pointee.isOpen { register(socket, listener: true) }
            let entry = entries[socket]
            precondition(!entry.pointee.isReceiving, "accepting already")
            entry.pointee.receiveToken = operation.token
            entry.pointee.isReceiving = true
            entry.pointee.isReadable = true
            enqueue(socket, entry)
        case .receive:
            let entry = entries[socket]
            precondition(entry.pointee.isOpen && !entry.pointee.isReceiving, "one receive at a time")
            entry.pointee.isReceiving = true
            entry.pointee.receiveToken = operation.token
            enqueue(socket, entry)
        case .send, .sendFile:
            let entry = entries[socket]
            precondition(entry.pointee.isOpen && !entry.pointee.isSending, "one send at a time")
            entry.pointee.isSending = true
            entry.pointee.sendToken = operation.token
            entry.pointee.send = operation
            entry.pointee.sent = 0
            continueSend(socket, entry, &completions)
        case .shutdown:
            let entry = entries[socket]
            if entry.pointee.isSending {
                entry.pointee.shutsDown = true
            } else {
                Glibc.shutdown(socket, Int32(SHUT_WR))
            }
        case .close:
            let entry = entries[socket]
            precondition(entry.pointee.isOpen, "closed twice")
            if entry.pointee.isReceiving, !entry.pointee.isListener {
                completions.append(Completion(.receive, entry.pointee.receiveToken, -Int(ECANCELED)))
            }
            if entry.pointee.isSending || entry.pointee.isConnecting {
                let kind: Completion.Kind = entry.pointee.isConnecting ? .connect : .send
                completions.append(Completion(kind, entry.pointee.sendToken, -Int(ECANCELED)))
            }
            let generation = entry.pointee.generation
            entry.pointee = Entry()
            entry.pointee.generation = generation
            Glibc.close(socket)
            completions.append(Completion(.close, operation.token, 0))
        }
    }

    private func receiveReady(_ completions: inout [Completion]) {
        guard !ready.isEmpty else { return }
        swap(&ready, &readyBefore)
        for socket in readyBefore {
            let entry = entries[socket]
            entry.pointee.isQueued = false
            guard entry.pointee.isOpen, entry.pointee.isReceiving, entry.pointee.isReadable else { continue }
            if entry.pointee.isListener {
                accept(socket, entry, &completions)
            } else if arenaUsed + Self.receiveMaxBytes <= Self.arenaBytes {
                receive(socket, entry, &completions)
            } else {
                enqueue(socket, entry)
            }
        }
        readyBefore.removeAll(keepingCapacity: true)
    }

    private func receive(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ completions: inout [Completion]
    ) {
        let target = arena + arenaUsed
        var got = recv(socket, target, Self.receiveMaxBytes, 0)
        while got < 0, errno == EINTR { got = recv(socket, target, Self.receiveMaxBytes, 0) }
        if got < 0 {
            got = -Int(errno)
            if got == -Int(EAGAIN) {
                entry.pointee.isReadable = false
                return
            }
        }
        // A full buffer means more may wait; end of stream and errors stay readable, so that the owner sees them again.
        if got > 0, got < Self.receiveMaxBytes, !entry.pointee.isEnding { entry.pointee.isReadable = false }
        entry.pointee.isReceiving = false
        arenaUsed += max(0, (got + 63) & ~63)
        completions.append(
            Completion(
                .receive, entry.pointee.receiveToken, got,
                bytes: UnsafeRawBufferPointer(start: target, count: max(0, got))))
    }

    private func accept(
        _ listener: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ completions: inout [Completion]
    ) {
        let token = entry.pointee.receiveToken
        for _ in 0..<Self.acceptsPerTurn {
            let flags = Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
            let socket = cr_accept(listener, flags)
            if socket < 0 {
                switch -socket {
                case EINTR, ECONNABORTED: continue
                case EAGAIN: entries[listener].pointee.isReadable = false
                default:
                    // Out of descriptors or memory: told to the owner, who asks again later.
                    entries[listener].pointee.isReceiving = false
                    completions.append(Completion(.accept, token, Int(socket)))
                }
                return
            }
            register(socket)
            completions.append(Completion(.accept, token, Int(socket)))
        }
        enqueue(listener, entries[listener])
    }

    private func continueSend(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ completions: inout [Completion]
    ) {
        var result = 0
        while true {
            let written: Int
            if entry.pointee.send.kind == .sendFile {
                var offset = off_t(entry.pointee.send.offset)
                written = sendfile(socket, entry.pointee.send.file, &offset, entry.pointee.send.length)
            } else {
                var header = msghdr()
                header.msg_iov = entry.pointee.send.vectors
                header.msg_iovlen = Int(min(entry.pointee.send.count, 1024))
                written = sendmsg(socket, &header, Int32(MSG_NOSIGNAL))
            }
            if written < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN { return }
                result = -Int(errno)
                break
            }
            entry.pointee.sent += written
            result = entry.pointee.sent
            if entry.pointee.send.kind == .sendFile {
                entry.pointee.send.offset += Int64(written)
                entry.pointee.send.length -= written
                if entry.pointee.send.length == 0 { break }
                if written == 0 {
                    result = -Int(ENODATA)
                    break
                }
            } else {
                let used = IOVector.advance(
                    entry.pointee.send.vectors!, count: Int(entry.pointee.send.count), by: written)
                entry.pointee.send.vectors! += used
                entry.pointee.send.count -= Int32(used)
                if entry.pointee.send.count == 0 { break }
            }
        }
        entry.pointee.isSending = false
        completions.append(Completion(.send, entry.pointee.sendToken, result))
        if entry.pointee.shutsDown {
            entry.pointee.shutsDown = false
            Glibc.shutdown(socket, Int32(SHUT_WR))
        }
    }

    // MARK: Connections

    public func connect(to address: SocketAddress, from source: SocketAddress?, token: Token) -> SocketHandle {
        let socket = Self.makeSocket(to: address, from: source)
        guard socket >= 0 else { return socket }
        let status = address.withSockaddr { Glibc.connect(socket, $0, $1) }
        if status != 0, errno != EINPROGRESS {
            let fault = errno
            Glibc.close(socket)
            return -fault
        }
        register(socket, connecting: true)
        entries[socket].pointee.sendToken = token
        return socket
    }
}
