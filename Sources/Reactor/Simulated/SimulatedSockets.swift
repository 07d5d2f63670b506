import Glibc

/// A socket of a simulated reactor: a listener, or one end of a connection with what is under way on it.
final class SimulatedSocket: SimulatedEndUser {
    let handle: SocketHandle
    /// Whoever opened it; a listener's is known once it accepts.
    fileprivate(set) weak var owner: SimulatedBackend?
    fileprivate(set) var end: SimulatedEnd?
    /// A listener's, or that of a socket not yet connected.
    let address: SocketAddress?
    let isListener: Bool
    let number: Int
    var backlog: [SimulatedEnd] = []
    /// Of the receive, or of the accept, that is under way.
    var receiveToken: Token?
    var isReceivePosted = false
    fileprivate var connectToken: Token?
    fileprivate var sending: Operation?
    fileprivate var sentBytes = 0
    /// The send has been asked for and looks at its bytes a little later.
    fileprivate var isSendDelayed = false
    /// A shutdown was asked for while a send was under way: it follows it.
    fileprivate var shutsDownAfterSend = false
    fileprivate(set) var isClosing = false
    private unowned let sockets: SimulatedSockets

    fileprivate init(
        handle: SocketHandle, number: Int, owner: SimulatedBackend?, address: SocketAddress?, isListener: Bool,
        sockets: SimulatedSockets
    ) {
        (self.handle, self.number, self.owner, self.address) = (handle, number, owner, address)
        (self.isListener, self.sockets) = (isListener, sockets)
    }

    func use(_ end: SimulatedEnd) {
        self.end = end
        end.user = self
    }

    func becameReadable() {
        guard receiveToken != nil else { return }
        owner?.postReceive(self)
    }

    func becameWritable() { sockets.continueSend(self) }
}

/// The sockets of a simulated machine. Their numbers are used again, the latest first, as a kernel may.
final class SimulatedSockets {
    private static let backlogMax = 4096

    let network: SimulatedNetwork
    private let fate: SimulatedFate
    private let disk: SimulatedDisk
    private var table: [SimulatedSocket?] = []
    private var freeHandles: [SocketHandle] = []

    init(network: SimulatedNetwork, disk: SimulatedDisk) {
        (self.network, fate, self.disk) = (network, network.fate, disk)
    }

    subscript(_ handle: SocketHandle) -> SimulatedSocket? {
        table.indices.contains(Int(handle)) ? table[Int(handle)] : nil
    }

    var openCount: Int { table.count - freeHandles.count }

    // MARK: Opening

    /// nil: as many as may be open are.
    func make(
        for owner: SimulatedBackend?, address: SocketAddress? = nil, isListener: Bool = false
    ) -> SimulatedSocket? {
        let handle: SocketHandle
        if let free = freeHandles.popLast() {
            handle = free
        } else {
            guard table.count < fate.settings.socketsMax else { return nil }
            handle = SocketHandle(table.count)
            table.append(nil)
        }
        let socket = SimulatedSocket(
            handle: handle, number: network.newNumber(), owner: owner, address: address, isListener: isListener,
            sockets: self)
        table[Int(handle)] = socket
        return socket
    }

    func free(_ socket: SimulatedSocket) {
        table[Int(socket.handle)] = nil
        freeHandles.append(socket.handle)
    }

    func listen(_ address: SocketAddress) -> SocketHandle {
        guard let socket = make(for: nil, address: address, isListener: true) else { return -EMFILE }
        network.listen(address, number: socket.number) { [unowned socket] end in
            guard socket.backlog.count < Self.backlogMax else { return false }
            socket.backlog.append(end)
            if socket.receiveToken != nil { socket.owner?.postReceive(socket) }
            return true
        }
        return socket.handle
    }

    func connect(
        to address: SocketAddress, from source: SocketAddress?, token: Token, for owner: SimulatedBackend
    ) -> SocketHandle {
        // Nobody there may show at once or later.
        if network.isRefused(address), fate.random.coin() { return -ECONNREFUSED }
        let local = network.ephemeral(source, to: address)
        guard let socket = make(for: owner, address: local) else { return -EMFILE }
        socket.connectToken = token
        network.connect(to: address, from: local) { [weak socket] end, fault in
            guard let socket, let token = socket.connectToken else { return }
            socket.connectToken = nil
            if let end { socket.use(end) }
            socket.owner?.post(Completion(.connect, token, -Int(fault)))
        }
        return socket.handle
    }

    // MARK: Operations

    func begin(_ operation: Operation, for backend: SimulatedBackend) {
        guard let socket = self[operation.socket], !socket.isClosing else {
            preconditionFailure("\(operation.kind) on socket \(operation.socket), which is not open")
        }
        switch operation.kind {
        case .accept:
            precondition(socket.isListener && socket.receiveToken == nil, "one accept on a listener")
            socket.owner = backend
            socket.receiveToken = operation.token
            if !socket.backlog.isEmpty { backend.postReceive(socket) }
        case .receive:
            precondition(socket.owner === backend && socket.receiveToken == nil, "one receive at a time")
            guard let end = socket.end else {
                return backend.post(Completion(.receive, operation.token, -Int(ENOTCONN)))
            }
            socket.receiveToken = operation.token
            if end.isReadable { backend.postReceive(socket) }
        case .send, .sendFile:
            precondition(socket.owner === backend && socket.sending == nil, "one send at a time")
            socket.sending = operation
            socket.sentBytes = 0
            // A ring may look at the bytes later than at the submission.
            if fate.random.coin() { return continueSend(socket) }
            socket.isSendDelayed = true
            fate.after(0...100_000, .send, socket.number) { [weak socket, weak self] in
                // A socket outlives its machine's process while its file is being read.
                guard let self, let socket else { return }
                socket.isSendDelayed = false
                continueSend(socket)
            }
        case .shutdown:
            if socket.sending != nil {
                socket.shutsDownAfterSend = true
            } else if let end = socket.end {
                network.finish(end)
            }
        case .close: close(socket, operation.token, backend)
        }
    }

    private func close(_ socket: SimulatedSocket, _ token: Token, _ backend: SimulatedBackend) {
        socket.isClosing = true
        if socket.isListener {
            network.stopListening(socket.number)
            for end in socket.backlog { network.close(end) }
            (socket.backlog, socket.receiveToken) = ([], nil)
            return backend.postClose(socket, token)
        }
        if let receive = socket.receiveToken {
            // It may have been done before the close was seen.
            let hasResult = socket.isReceivePosted && fate.random.coin()
            if !hasResult {
                socket.receiveToken = nil
                backend.post(Completion(.receive, receive, -Int(ECANCELED)))
            }
        }
        if let connect = socket.connectToken {
            socket.connectToken = nil
            backend.post(Completion(.connect, connect, -Int(ECANCELED)))
        }
        // A reply and the close in one turn: what the window lets in leaves.
        socket.isSendDelayed = false
        continueSend(socket)
        if let send = socket.sending {
            socket.sending = nil
            backend.post(Completion(.send, send.token, -Int(ECANCELED)))
        }
        if let end = socket.end { network.close(end) }
        if fate.random.coin() { return backend.postClose(socket, token) }
        fate.after(0...1_000_000, .close, socket.number) { [weak backend] in
            guard let backend, backend.isAlive else { return }
            backend.postClose(socket, token)
        }
    }

    // MARK: Sending

    /// As much as the window lets in; completes when all is in it.
    func continueSend(_ socket: SimulatedSocket) {
        guard var operation = socket.sending, !socket.isSendDelayed, let owner = socket.owner, owner.isAlive else {
            return
        }
        var fault = ENOTCONN
        if let end = socket.end {
            let step = operation.kind == .sendFile ? sendFile : sendVectors
            guard let ended = step(&operation, socket, end) else {
                fate.counters.sendsThatWaited += 1
                socket.sending = operation
                return
            }
            fault = ended
            if socket.shutsDownAfterSend { network.finish(end) }
        }
        socket.sending = nil
        socket.shutsDownAfterSend = false
        owner.post(Completion(.send, operation.token, fault == 0 ? socket.sentBytes : -Int(fault)))
    }

    /// nil: the window is full; 0: all is sent; else an `errno`.
    private func sendVectors(_ operation: inout Operation, _ socket: SimulatedSocket, _ end: SimulatedEnd) -> Int32? {
        while operation.count > 0, let vector = operation.vectors {
            let bytes = UnsafeRawBufferPointer(start: vector.pointee.iov_base, count: vector.pointee.iov_len)
            let sent = network.send(bytes, from: end)
            guard sent >= 0 else { return Int32(-sent) }
            socket.sentBytes += sent
            guard sent == bytes.count else {
                vector.pointee.iov_base += sent
                vector.pointee.iov_len -= sent
                return nil
            }
            operation.vectors = vector + 1
            operation.count -= 1
        }
        return 0
    }

    private func sendFile(_ operation: inout Operation, _ socket: SimulatedSocket, _ end: SimulatedEnd) -> Int32? {
        guard let file = disk[operation.file]?.inode as? SimulatedFile else { return EBADF }
        let start = min(Int(clamping: max(0, operation.offset)), file.data.count)
        let count = min(operation.length, file.data.count - start)
        let sent = file.data.withUnsafeBytes {
            network.send(UnsafeRawBufferPointer(rebasing: $0[start..<start + count]), from: end)
        }
        guard sent >= 0 else { return Int32(-sent) }
        socket.sentBytes += sent
        operation.offset += Int64(sent)
        operation.length -= sent
        if operation.length == 0 { return 0 }
        return sent == count ? ENODATA : nil
    }

    // MARK: The end of the process

    /// The kernel closes all sockets (a kill), or nobody does (a power loss).
    func endProcess(vanishes: Bool) {
        for socket in table {
            guard let socket else { continue }
            if socket.isListener { network.stopListening(socket.number) }
            for end in socket.backlog + [socket.end].compactMap({ $0 }) {
                if vanishes { network.vanish(end) } else { network.close(end) }
            }
        }
        (table, freeHandles) = ([], [])
    }
}
