import Glibc

/// One connection on loopback, through every kind of operation: some kernels and containers offer io_uring without
/// doing all of it.
final class UringProbe {
    private enum Role: UInt8 { case listener, client, server }

    /// Each way; more than the buffers of one receive and of a socket hold.
    private static let payloadBytes = 4 << 20
    private static let parts = 4
    /// Nanoseconds.
    private static let timeLimit: UInt64 = 5_000_000_000

    private let sockets: UringSockets
    private let payload: UnsafeMutableRawBufferPointer
    private let vectors: UnsafeMutablePointer<IOVector>
    private var listener: SocketHandle = -1
    private var open: [SocketHandle] = []
    private var operations: [Operation] = []
    private var completions: [Completion] = []
    private var received = 0

    init() throws(UringUnavailable) {
        sockets = try UringSockets()
        payload = .allocate(byteCount: Self.payloadBytes, alignment: 8)
        vectors = .allocate(capacity: Self.parts)
        for at in stride(from: 0, to: payload.count, by: 8) {
            payload.storeBytes(of: UInt64(at) &* 0x9E37_79B9_7F4A_7C15, toByteOffset: at, as: UInt64.self)
        }
        vectors.initialize(repeating: IOVector(), count: Self.parts)
    }

    deinit {
        for socket in open { close(socket) }
        payload.deallocate()
        vectors.deallocate()
    }

    /// The client sends the payload and finishes, the server returns it, then all three close.
    func run() throws(UringUnavailable) {
        do throws(ListenFault) {
            listener = try Listener.open(SocketAddress(v4: UInt32(INADDR_LOOPBACK), port: 0))
        } catch {
            throw UringUnavailable("the probe finds no port: \(error)")
        }
        open.append(listener)
        let address = SystemBackend.address(listener, getsockname)
        let client = address.map { SystemBackend.makeSocket(to: $0, from: nil) } ?? -1
        guard let address, client >= 0 else { throw UringUnavailable("the probe gets no socket on loopback") }
        open.append(client)
        sockets.connect(client, to: address, token: token(.client, client))
        ask(.accept, listener, .listener)

        let begun = now()
        while !open.isEmpty {
            let passed = now() - begun
            guard passed < Self.timeLimit else { throw UringUnavailable("io_uring's completions don't come") }
            completions.removeAll(keepingCapacity: true)
            sockets.begin(operations, &completions)
            operations.removeAll(keepingCapacity: true)
            if completions.isEmpty { sockets.exchangeAndWait(Self.timeLimit - passed) } else { sockets.exchange() }
            sockets.collect(&completions)
            for completion in completions { try happened(completion) }
        }
    }

    private func happened(_ completion: Completion) throws(UringUnavailable) {
        guard let role = Role(rawValue: completion.token.kind) else { return }
        let socket = SocketHandle(completion.token.index)
        if completion.result < 0, received < 2 * Self.payloadBytes {
            throw UringUnavailable(fault: Int32(-completion.result), step: "io_uring's \(completion.kind)")
        }
        switch (completion.kind, role) {
        case (.accept, _):
            open.append(SocketHandle(completion.result))
            ask(.receive, SocketHandle(completion.result), .server)
        case (.connect, _): send(socket, .client)
        case (.send, .client):
            ask(.shutdown, socket, .client)
            ask(.receive, socket, .client)
        case (.send, _): ask(.receive, socket, .server)
        case (.receive, _) where completion.result > 0:
            let at = received % Self.payloadBytes
            guard completion.result <= Self.payloadBytes - at,
                memcmp(payload.baseAddress! + at, completion.bytes.baseAddress!, completion.result) == 0
            else { throw UringUnavailable("io_uring receives what was not sent") }
            received += completion.result
            if received < 2 * Self.payloadBytes {
                ask(.receive, socket, role)
            } else {
                ask(.receive, socket, .client)
                ask(.close, socket, .client)
                ask(.close, listener, .listener)
            }
        case (.receive, .server) where completion.result == 0:
            // The client has finished: its payload goes back; after that the second end is the close.
            if received == Self.payloadBytes { send(socket, .server) } else { ask(.close, socket, .server) }
        case (.close, _): open.removeAll { $0 == socket }
        case (.receive, _): break
        }
    }

    private func send(_ socket: SocketHandle, _ role: Role) {
        let part = Self.payloadBytes / Self.parts
        for at in 0..<Self.parts {
            vectors[at] = IOVector(UnsafeRawBufferPointer(rebasing: payload[at * part..<(at + 1) * part]))
        }
        operations.append(Operation(.send, socket, token(role, socket), vectors: vectors, count: Int32(Self.parts)))
    }

    private func ask(_ kind: Operation.Kind, _ socket: SocketHandle, _ role: Role) {
        operations.append(Operation(kind, socket, token(role, socket)))
    }

    private func token(_ role: Role, _ socket: SocketHandle) -> Token {
        Token(kind: role.rawValue, generation: 0, index: UInt32(socket))
    }

    private func now() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
