import Glibc
import Reactor

/// A world that costs nothing: its peers are ready at once, its disk takes everything and keeps nothing, its clock goes on by a
/// little each turn. What is counted over it is the product's own work, without kernel, threads and weather.
final class StillBackend: Backend {
    let name = "still"
    let doorbell = Doorbell(simulated: true)
    let listener: SocketHandle = 1

    /// Makes the peer of a connection that the gateway begins.
    var makePrimary: () -> any StillPeer = { fatalError("nothing to connect to") }

    private final class Socket {
        let peer: any StillPeer
        /// A receive that waits for the peer's next bytes.
        var receiving: Token?
        init(_ peer: any StillPeer) { self.peer = peer }
    }

    private var sockets: [Socket?] = [nil, nil]
    private var listening: Token?
    /// Clients that have connected and were not accepted yet.
    private var arrivals: [any StillPeer] = []
    private var brought: [Completion] = []
    private var done: [Finished] = []
    private let files = StillFiles()
    private var now: UInt64 = 1_000_000_000
    private var drawn: UInt64 = 0

    private static let turnNanoseconds: UInt64 = 20_000

    /// A client connects.
    func arrive(_ client: any StillPeer) { arrivals.append(client) }

    func turn(
        _ operations: inout [Operation], until deadline: UInt64?, completions: inout [Completion],
        finished: inout [Finished]
    ) {
        for operation in operations { begin(operation) }
        operations.removeAll(keepingCapacity: true)
        if let listening {
            for client in arrivals { brought.append(Completion(.accept, listening, Int(add(client)))) }
            arrivals.removeAll(keepingCapacity: true)
        }
        for socket in sockets {
            guard let socket, let token = socket.receiving, let bytes = socket.peer.speak() else { continue }
            socket.receiving = nil
            brought.append(Completion(.receive, token, bytes.count, bytes: bytes))
        }
        completions.append(contentsOf: brought)
        finished.append(contentsOf: done)
        // Nothing else will happen before the deadline.
        if brought.isEmpty, done.isEmpty, let deadline { now = max(now, deadline) }
        brought.removeAll(keepingCapacity: true)
        done.removeAll(keepingCapacity: true)
        now += Self.turnNanoseconds
    }

    private func begin(_ operation: Operation) {
        let socket = sockets[Int(operation.socket)]
        switch operation.kind {
        case .accept: listening = operation.token
        case .receive: socket?.receiving = operation.token
        case .send:
            var sent = 0
            for at in 0..<Int(operation.count) {
                let vector = operation.vectors![at]
                sent += vector.iov_len
                socket?.peer.hear(UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len))
            }
            brought.append(Completion(.send, operation.token, sent))
        case .close:
            if let token = socket?.receiving { brought.append(Completion(.receive, token, -Int(ECANCELED))) }
            sockets[Int(operation.socket)] = nil
            brought.append(Completion(.close, operation.token, 0))
        case .shutdown: break
        case .sendFile: fatalError("no message here is large")
        }
    }

    private func add(_ peer: any StillPeer) -> SocketHandle {
        sockets.append(Socket(peer))
        return SocketHandle(sockets.count - 1)
    }

    func connect(to address: SocketAddress, from source: SocketAddress?, token: Token) -> SocketHandle {
        brought.append(Completion(.connect, token, 0))
        return add(makePrimary())
    }

    func peerAddress(of socket: SocketHandle) -> SocketAddress? { SocketAddress(v4: 0xc000_024d, port: 40_000) }
    func localAddress(of socket: SocketHandle) -> SocketAddress? { SocketAddress(v4: 0xc000_0201, port: 25) }

    func run(_ task: FileTask, on lane: Lane) {
        task.carryOut(with: files)
        done.append(.files(task))
    }

    func lookUp(_ query: [UInt8], token: Token) { done.append(.lookup(token, .failure(.unreachable))) }
    func work(_ token: Token, _ job: @escaping @Sendable () -> any Sendable) { done.append(.work(token, job())) }
    func monotonicNow() -> UInt64 { now }
    func wallNow() -> Int64 { Fixture.wall + Int64(now) }

    func random() -> UInt64 {
        drawn &+= 0x9e37_79b9_7f4a_7c15
        return drawn
    }
}

/// The other end of a connection.
protocol StillPeer: AnyObject {
    /// What it says now; nil: it waits. The bytes stay valid for ever.
    func speak() -> UnsafeRawBufferPointer?
    /// What the gateway said.
    func hear(_ bytes: UnsafeRawBufferPointer)
}

/// Steps of file work that all succeed.
private final class StillFiles: FileExecutor {
    private var handles = 1_000

    func carryOut(_ step: FileStep) -> FileOutcome {
        switch step {
        case .write(_, _, let vectors): return FileOutcome(vectors.reduce(0) { $0 + $1.iov_len })
        case .openLog, .open, .createPart, .openDirectory:
            handles += 1
            return FileOutcome(handles)
        case .space: return FileOutcome(1 << 40, second: 1 << 30)
        case .read, .readWhole, .readStart: return FileOutcome(-Int(ENOENT))
        default: return FileOutcome(0)
        }
    }
}
