import CReactor
import Glibc

/// Serves the control socket on the thread that calls `run`: everything asked is done there, one request after another.
///
/// ```text
/// reading ─a line is whole▶ service ▶ writing ─all taken▶ reading
/// ```
///
/// A client that stops in the middle of a request or of an answer is dropped; when all places are taken, the client that has
/// asked nothing for longest makes room.
final class ControlServer: Sendable {
    private let path: String
    private let service: ControlService
    private let listener: Int32
    /// An eventfd that ends `run`.
    private let bell: Int32

    /// How often stalled clients are looked for, and how long a full table of descriptors is left alone.
    private static let tickMilliseconds = 1_000
    private static let lookMilliseconds = 5_000
    private static let readBytes = 64 << 10
    /// Connections that may wait to be accepted.
    private static let backlog: Int32 = 64

    /// Opens the socket with mode 0600: whoever makes it, and root, may use it. From here on clients can connect.
    ///
    /// What a dead server left behind is removed; a socket on which somebody answers is not.
    init(path: String, service: ControlService) throws(ControlFault) {
        (self.path, self.service) = (path, service)
        listener = try Self.bindSocket(path)
        bell = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        precondition(bell >= 0, "no descriptor left for an eventfd")
    }

    deinit {
        close(listener)
        close(bell)
    }

    private static func bindSocket(_ path: String) throws(ControlFault) -> Int32 {
        let descriptor = try ControlSocket.make()
        do throws(ControlFault) {
            // Before the name exists, so that nobody else can connect even for a moment.
            guard fchmod(descriptor, 0o600) == 0 else { throw ControlSocket.fault(path, errno) }
            var bound = try ControlSocket.withAddress(path) { bind(descriptor, $0, $1) }
            if bound.fault == EADDRINUSE {
                try removeStale(path)
                bound = try ControlSocket.withAddress(path) { bind(descriptor, $0, $1) }
            }
            guard bound.status == 0 else { throw ControlSocket.fault("\(path): no control socket", bound.fault) }
            guard listen(descriptor, backlog) == 0 else { throw ControlSocket.fault(path, errno) }
            return descriptor
        } catch {
            close(descriptor)
            throw error
        }
    }

    private static func removeStale(_ path: String) throws(ControlFault) {
        var status = stat()
        guard lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw ControlFault(.failed, "\(path) is no socket: move it away, the control socket takes its place")
        }
        let probe = try ControlSocket.make()
        defer { close(probe) }
        let answer = try ControlSocket.withAddress(path) { connect(probe, $0, $1) }
        guard answer.fault == ECONNREFUSED else {
            throw ControlFault(.failed, "another server answers on \(path)")
        }
        unlink(path)
    }

    /// Ends `run`; from any thread.
    func stop() {
        var one: UInt64 = 1
        _ = write(bell, &one, 8)
    }

    /// Serves until `stop`, then closes all connections and removes the socket.
    func run() {
        var clients: [Client] = []
        var acceptsAt = 0
        var looksAt = ControlSocket.now() + Self.lookMilliseconds
        var chunk = [UInt8](repeating: 0, count: Self.readBytes)
        while true {
            let now = ControlSocket.now()
            let hasRoom = clients.count < ControlProtocol.Limits.clients || clients.contains { $0.isIdle }
            let accepts = hasRoom && now >= acceptsAt
            var polls = [
                pollfd(fd: bell, events: Int16(POLLIN), revents: 0),
                pollfd(fd: accepts ? listener : -1, events: Int16(POLLIN), revents: 0),
            ]
            for client in clients {
                polls.append(
                    pollfd(
                        fd: client.descriptor, events: Int16(client.output.isEmpty ? POLLIN : POLLOUT), revents: 0))
            }
            let mustLookAgain = !accepts || clients.contains { !$0.isIdle }
            let count = poll(
                &polls, nfds_t(polls.count), mustLookAgain ? Int32(Self.tickMilliseconds) : Int32(max(1, looksAt - now))
            )
            if polls[0].revents != 0 { break }
            if now >= looksAt {
                looksAt = now + Self.lookMilliseconds
                service.process.lookAgain()
            }

            for (index, client) in clients.enumerated() {
                if count > 0, polls[index + 2].revents != 0 {
                    serve(client, &chunk)
                } else if client.isStalled(now) {
                    client.isOver = true
                }
            }
            clients.removeAll { client in
                if client.isOver { close(client.descriptor) }
                return client.isOver
            }
            if count > 0, polls[1].revents != 0, !accept(into: &clients) {
                acceptsAt = ControlSocket.now() + Self.tickMilliseconds
            }
        }
        unlink(path)
        for client in clients { close(client.descriptor) }
        // Who waits to be let in would wait for as long as the listener is open.
        while case let waiting = cr_accept(listener, Int32(SOCK_CLOEXEC.rawValue)), waiting >= 0 { close(waiting) }
    }

    /// - Returns: false when there is no descriptor left.
    private func accept(into clients: inout [Client]) -> Bool {
        let descriptor = cr_accept(listener, Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue))
        guard descriptor >= 0 else { return descriptor == -EAGAIN || descriptor == -ECONNABORTED }
        if clients.count >= ControlProtocol.Limits.clients {
            guard
                let silent = clients.indices.filter({ clients[$0].isIdle }).min(by: {
                    clients[$0].lastProgress < clients[$1].lastProgress
                })
            else {
                close(descriptor)
                return true
            }
            close(clients.remove(at: silent).descriptor)
        }
        clients.append(Client(descriptor))
        return true
    }

    private func serve(_ client: Client, _ chunk: inout [UInt8]) {
        if client.output.isEmpty { client.read(&chunk) } else { client.write() }
        while client.output.isEmpty, !client.isOver, let line = client.nextLine() {
            client.output = service.answer(line)
            client.write()
        }
        if client.output.isEmpty, client.isTooLong {
            client.output = service.tooLong()
            client.hasEnded = true
            client.write()
        }
        if client.hasEnded, client.output.isEmpty { client.isOver = true }
    }
}

extension ControlServer {
    /// One connection. Lives on the control thread.
    private final class Client {
        let descriptor: Int32
        var output: [UInt8] = []
        /// The other side sends no more.
        var hasEnded = false
        /// To be closed.
        var isOver = false
        private(set) var lastProgress = ControlSocket.now()
        private var input: [UInt8] = []
        /// Bytes of `input` without a line feed.
        private var scanned = 0
        private var written = 0

        init(_ descriptor: Int32) { self.descriptor = descriptor }

        var isIdle: Bool { input.isEmpty && output.isEmpty }
        var isTooLong: Bool { scanned > ControlProtocol.Limits.requestBytes }

        func isStalled(_ now: Int) -> Bool {
            !isIdle && now - lastProgress > ControlProtocol.Limits.stalledSeconds * 1_000
        }

        /// - Parameter chunk: any bytes; its length is what is read at most.
        func read(_ chunk: inout [UInt8]) {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            if count > 0 {
                input += chunk[..<count]
                lastProgress = ControlSocket.now()
            } else if count == 0 {
                hasEnded = true
            } else if errno != EAGAIN, errno != EINTR {
                isOver = true
            }
        }

        /// The next whole line, without its line feed.
        func nextLine() -> [UInt8]? {
            guard !isTooLong, let end = ControlSocket.lineEnd(input, from: scanned) else {
                scanned = input.count
                return nil
            }
            let line = Array(input[..<end])
            input.removeFirst(end + 1)
            scanned = 0
            return line
        }

        func write() {
            while written < output.count {
                let sent = output.withUnsafeBytes {
                    send(descriptor, $0.baseAddress! + written, $0.count - written, Int32(MSG_NOSIGNAL))
                }
                guard sent > 0 else {
                    if errno == EINTR { continue }
                    if errno != EAGAIN { isOver = true }
                    return
                }
                written += sent
                lastProgress = ControlSocket.now()
            }
            output = []
            written = 0
        }
    }
}
