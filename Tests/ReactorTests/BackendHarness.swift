import Glibc
import Testing

@testable import Reactor

/// The backends that this machine can run.
enum BackendKind: String, Sendable, CaseIterable, CustomTestStringConvertible {
    case epoll, uring

    static let usable = allCases.filter { $0 != .uring || UringBackend.probe() == nil }
    var testDescription: String { rawValue }
}

private let pool = WorkerPool(threads: 1)
private let dns = try! DNSTransport(servers: ["127.0.0.1:1"])

/// One backend and everything that it has told, on the test's thread.
final class BackendHarness {
    struct Event {
        let kind: Completion.Kind
        let token: Token
        let result: Int
        let bytes: [UInt8]
    }

    let backend: any Backend
    private let system: SystemBackend
    var operations: [Operation] = []
    var events: [Event] = []
    var finished: [Finished] = []
    private var completions: [Completion] = []
    private var nextIndex: UInt32 = 0

    init(_ kind: BackendKind) throws {
        switch kind {
        case .epoll:
            let made = EpollBackend(index: 0, pool: pool, dns: dns)
            (backend, system) = (made, made)
        case .uring:
            let made = try UringBackend(index: 0, pool: pool, dns: dns)
            (backend, system) = (made, made)
        }
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    deinit { system.shutDown() }

    func token() -> Token {
        nextIndex += 1
        return Token(kind: 7, generation: nextIndex, index: nextIndex)
    }

    @discardableResult
    func ask(
        _ kind: Operation.Kind, _ socket: SocketHandle, vectors: UnsafeMutablePointer<IOVector>? = nil, count: Int = 0,
        file: Int32 = -1, offset: Int64 = 0, length: Int = 0
    ) -> Token {
        let token = token()
        operations.append(
            Operation(
                kind, socket, token, vectors: vectors, count: Int32(count), file: file, offset: offset, length: length))
        return token
    }

    func turn(milliseconds: UInt64 = 0) {
        let deadline = milliseconds == 0 ? 0 : backend.monotonicNow() + milliseconds * 1_000_000
        completions.removeAll(keepingCapacity: true)
        backend.turn(&operations, until: deadline, completions: &completions, finished: &finished)
        for completion in completions {
            events.append(
                Event(
                    kind: completion.kind, token: completion.token, result: completion.result,
                    bytes: [UInt8](completion.bytes)))
        }
    }

    /// Turns until the condition holds; false after 10 seconds.
    func turns(until holds: () -> Bool) -> Bool {
        let end = backend.monotonicNow() + 10_000_000_000
        while !holds() {
            if backend.monotonicNow() > end { return false }
            turn(milliseconds: 5)
        }
        return true
    }

    /// Takes the next completion of an operation, which must come.
    @discardableResult
    func completion(_ token: Token, _ place: SourceLocation = #_sourceLocation) -> Event {
        guard turns(until: { events.contains { $0.token == token } }) else {
            Issue.record("no completion", sourceLocation: place)
            return Event(kind: .close, token: token, result: Int.min, bytes: [])
        }
        return events.remove(at: events.firstIndex { $0.token == token }!)
    }

    /// A listening socket with `accept` asked for.
    func listen() throws -> (socket: SocketHandle, address: SocketAddress, token: Token) {
        let socket = try Listener.open(SocketAddress(v4: UInt32(INADDR_LOOPBACK), port: 0))
        let address = try #require(backend.localAddress(of: socket))
        return (socket, address, ask(.accept, socket))
    }

    /// A connection: the backend has one end, the test a blocking socket at the other.
    func pair() throws -> (socket: SocketHandle, peer: Peer) {
        let listener = try listen()
        let peer = try Peer(to: listener.address)
        let socket = SocketHandle(completion(listener.token).result)
        completion(ask(.close, listener.socket))
        return (socket, peer)
    }

    func close(_ socket: SocketHandle) { completion(ask(.close, socket)) }

    /// Sends and waits for the completion.
    func send(_ bytes: [UInt8], _ socket: SocketHandle) -> Int {
        var bytes = bytes
        return bytes.withUnsafeMutableBytes { buffer -> Int in
            var vector = IOVector(UnsafeRawBufferPointer(buffer))
            return withUnsafeMutablePointer(to: &vector) {
                completion(ask(.send, socket, vectors: $0, count: 1)).result
            }
        }
    }
}

/// The other end of a connection, by plain system calls.
final class Peer {
    let socket: Int32
    private var isOpen = true

    init(to address: SocketAddress, receiveBuffer: Int32? = nil) throws {
        socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if var size = receiveBuffer { setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &size, 4) }
        let status = address.withSockaddr { Glibc.connect(socket, $0, $1) }
        try #require(status == 0)
        var time = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close() }

    func close() {
        if isOpen { Glibc.close(socket) }
        isOpen = false
    }

    func finish() { Glibc.shutdown(socket, Int32(SHUT_WR)) }

    func send(_ bytes: [UInt8]) { #expect(Glibc.send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count) }

    /// Waits for something, at most `limit` bytes of it; empty: the end; nil: an error.
    func receive(_ limit: Int = 65536) -> [UInt8]? {
        var got = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
            got = recv(socket, buffer.baseAddress, limit, 0)
            count = max(0, got)
        }
        return got < 0 ? nil : bytes
    }
}

/// Bytes that differ from place to place.
func pattern(_ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        var state: UInt32 = 1
        for at in 0..<count {
            state = state &* 1_664_525 &+ 1_013_904_223
            buffer[at] = UInt8(truncatingIfNeeded: state >> 24)
        }
        initialized = count
    }
}
