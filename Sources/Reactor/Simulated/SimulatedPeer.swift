/// One side of a connection, played by a test: a client of the gateway, or a server that it talks to. It is on another
/// machine: it outlives a kill and a power loss.
public final class SimulatedPeer: SimulatedEndUser {
    /// The connection is made (a client's only).
    public var onConnect: ((SimulatedPeer) -> Void)?
    public var onReceive: ((SimulatedPeer, [UInt8]) -> Void)?
    /// 0: the other side has finished sending; else the `errno` of a refused or broken connection.
    public var onEnd: ((SimulatedPeer, Int32) -> Void)?
    /// Takes nothing that arrives until it is set to false again: a slow reader, or for ever a machine that has vanished.
    public var isPaused = false {
        didSet { if oldValue, !isPaused { becameReadable() } }
    }

    private let network: SimulatedNetwork
    private(set) var end: SimulatedEnd?
    /// Given to `send`, from `sent` on not yet in the window.
    private var outbox: [UInt8] = []
    private var sent = 0
    private var isFinishing = false
    private var isConnecting = true
    private var hasReportedEnd = false
    public private(set) var isClosed = false
    /// All that ever came.
    public private(set) var receivedBytes = 0

    init(network: SimulatedNetwork) {
        self.network = network
        network.keep(self)
    }

    func connected(_ end: SimulatedEnd) {
        guard !isClosed else { return }
        isConnecting = false
        self.end = end
        end.user = self
        onConnect?(self)
        flush()
    }

    func failed(_ fault: Int32) {
        guard !isClosed else { return }
        reportEnd(fault)
        close()
    }

    // MARK: For the script

    /// The address of the other side, once connected.
    public var remote: SocketAddress? { end?.remote }

    /// Goes out as the window lets it.
    public func send(_ bytes: [UInt8]) {
        guard !isFinishing, !isClosed else { return }
        outbox.append(contentsOf: bytes)
        flush()
    }

    public func send(_ text: String) { send(Array(text.utf8)) }

    /// No more sending, after what was given.
    public func finish() {
        isFinishing = true
        flush()
    }

    /// Closes; what was given and is not yet in the window is dropped.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        if let end { network.close(end) }
        forget()
        network.drop(self)
    }

    /// Breaks the connection for both sides.
    public func cut() {
        if let end { network.cut(end) }
    }

    // MARK: The connection

    func becameReadable() {
        guard let end, !isPaused else { return }
        while !isPaused, !isClosed, end.waiting > 0 {
            let bytes = Array(network.receive(end.waiting, at: end))
            receivedBytes += bytes.count
            onReceive?(self, bytes)
        }
        guard !isPaused, !isClosed, end.hasEnded || end.fault != 0 else { return }
        let fault = end.fault
        reportEnd(fault)
        if fault != 0 { close() }
    }

    func becameWritable() { flush() }

    private func reportEnd(_ fault: Int32) {
        guard !hasReportedEnd else { return }
        hasReportedEnd = true
        onEnd?(self, fault)
    }

    private func flush() {
        guard let end, !isClosed else { return }
        if sent < outbox.count {
            let accepted = outbox.withUnsafeBytes {
                network.send(UnsafeRawBufferPointer(rebasing: $0[sent...]), from: end)
            }
            guard accepted >= 0 else { return }
            sent += accepted
            if sent == outbox.count { (outbox, sent) = ([], 0) }
        }
        if outbox.isEmpty, isFinishing { network.finish(end) }
    }

    /// Lets go of the script, whose closures may hold this peer.
    func forget() {
        (onConnect, onReceive, onEnd, end) = (nil, nil, nil, nil)
    }
}
