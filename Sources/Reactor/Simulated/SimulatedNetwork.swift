import Glibc

/// What uses one end of a simulated connection: a socket of a reactor, or a scripted peer.
protocol SimulatedEndUser: AnyObject {
    /// Bytes, the end of the stream, or a reset may be there to take.
    func becameReadable()
    /// The other side has made room.
    func becameWritable()
}

/// One end of a simulated connection.
final class SimulatedEnd {
    let number: Int
    let local: SocketAddress
    let remote: SocketAddress
    /// How much slower than others this connection is.
    let slowness: UInt64
    weak var other: SimulatedEnd?
    weak var user: (any SimulatedEndUser)?
    /// Arrived and not yet taken, from `taken` on.
    private var inbox: [UInt8] = []
    private var taken = 0
    /// Sent by the other side, not yet arrived.
    var underWay = 0
    /// The other side has finished sending.
    var hasEnded = false
    /// This side has.
    var isFinished = false
    var isClosed = false
    /// An `errno` once the connection is broken.
    var fault: Int32 = 0
    /// What is sent to this end arrives in order.
    var lastArrival: UInt64 = 0
    var isRoomAnnounced = false

    init(number: Int, local: SocketAddress, remote: SocketAddress, slowness: UInt64) {
        (self.number, self.local, self.remote, self.slowness) = (number, local, remote, slowness)
    }

    var waiting: Int { inbox.count - taken }
    var isReadable: Bool { waiting > 0 || hasEnded || fault != 0 }

    func arrive(_ bytes: [UInt8]) {
        if taken == inbox.count {
            inbox = bytes
            taken = 0
        } else {
            inbox.append(contentsOf: bytes)
        }
    }

    func discard() { (inbox, taken) = ([], 0) }

    func take(_ count: Int) -> ArraySlice<UInt8> {
        taken += count
        return inbox[taken - count..<taken]
    }
}

/// Connections between addresses in memory: streams cut into segments that take their time, with windows, ends and resets.
final class SimulatedNetwork {
    /// Somebody who waits for connections at an address.
    private struct Listening {
        let address: SocketAddress
        let number: Int
        /// Takes the server's end. False: its backlog is full.
        let take: (SimulatedEnd) -> Bool
    }

    private static let peersMax = 100_000
    /// In a world of tiny segments a long send is cut at its beginning only: each segment is an event.
    private static let smallSegmentsPerSend = 64
    private static let furtherSegmentMaxBytes = 8192

    let fate: SimulatedFate
    private var listening: [Listening] = []
    private var blackholes: [SocketAddress] = []
    private var nextNumber = 0
    private var nextPort: UInt16 = 32_768
    /// Scripted peers live until their connections are closed.
    private var peers: [SimulatedPeer] = []

    init(fate: SimulatedFate) { self.fate = fate }

    // MARK: Addresses

    func listen(_ address: SocketAddress, number: Int, _ take: @escaping (SimulatedEnd) -> Bool) {
        listening.append(Listening(address: address, number: number, take: take))
    }

    func stopListening(_ number: Int) { listening.removeAll { $0.number == number } }

    /// A number that names an end, a listener or a peer in the trace.
    func newNumber() -> Int {
        nextNumber += 1
        return nextNumber
    }

    func setBlackholed(_ address: SocketAddress, _ isBlackholed: Bool) {
        blackholes.removeAll { $0 == address }
        if isBlackholed { blackholes.append(address) }
    }

    private func listeners(at address: SocketAddress) -> [Listening] {
        listening.filter { one in
            one.address == address
                || (one.address.port == address.port && one.address.isV4 == address.isV4 && one.address.high == 0
                    && one.address.low == 0)
        }
    }

    func isRefused(_ address: SocketAddress) -> Bool { !blackholes.contains(address) && listeners(at: address).isEmpty }

    /// The address that a connection comes from, with a port of its own.
    func ephemeral(_ source: SocketAddress?, to address: SocketAddress) -> SocketAddress {
        let standard =
            address.isV4
            ? SocketAddress(v4: 0x7f00_0001, port: 0) : SocketAddress(v6High: 0, low: 1, port: 0)
        let source = source ?? standard
        guard source.port == 0 else { return source }
        nextPort = nextPort == 60_999 ? 32_768 : nextPort + 1
        return source.withPort(nextPort)
    }

    /// Connects after a while: the client's end, or `-errno`. A blackholed address never answers.
    func connect(to address: SocketAddress, from local: SocketAddress, _ done: @escaping (SimulatedEnd?, Int32) -> Void)
    {
        let number = newNumber()
        fate.after(fate.settings.networkDelay, .connect, number) { [unowned self] in
            guard !blackholes.contains(address) else { return }
            let choices = listeners(at: address)
            guard !choices.isEmpty else {
                fate.counters.refusedConnections += 1
                return done(nil, ECONNREFUSED)
            }
            let slowness = fate.random.happens(fate.settings.slowChance) ? fate.settings.slowFactor : 1
            let client = SimulatedEnd(number: newNumber(), local: local, remote: address, slowness: slowness)
            let server = SimulatedEnd(number: newNumber(), local: address, remote: local, slowness: slowness)
            (client.other, server.other) = (server, client)
            guard fate.random.pick(choices).take(server) else {
                fate.counters.refusedConnections += 1
                return done(nil, ECONNREFUSED)
            }
            fate.counters.connections += 1
            done(client, 0)
            if client.user == nil { close(client) }
        }
    }

    // MARK: Bytes

    /// Sends as much as the window lets in; returns how much, or `-errno`.
    func send(_ bytes: UnsafeRawBufferPointer, from end: SimulatedEnd) -> Int {
        if end.fault != 0 || end.isFinished || end.isClosed { return -Int(EPIPE) }
        guard let other = end.other else { return -Int(EPIPE) }
        let room = fate.settings.windowBytes - other.waiting - other.underWay
        let count = max(0, min(room, bytes.count))
        var at = 0
        var segments = 0
        while at < count {
            let limit = segments < Self.smallSegmentsPerSend ? 0 : Self.furtherSegmentMaxBytes
            let size = min(count - at, fate.random.size(upTo: max(fate.settings.segmentMaxBytes, limit)))
            segments += 1
            let segment = [UInt8](bytes[at..<at + size])
            at += size
            other.underWay += size
            deliver(to: other, .segment) { [unowned self] in
                other.underWay -= size
                arrive(segment, at: other)
            }
        }
        return count
    }

    /// After all that was sent to `end` before.
    private func deliver(to end: SimulatedEnd, _ mark: SimulatedFate.Mark, _ action: @escaping () -> Void) {
        let delay = fate.random.within(fate.settings.networkDelay) * end.slowness
        // Now and then segments arrive together.
        let time = fate.random.below(4) == 0 ? end.lastArrival : fate.now + delay
        end.lastArrival = max(time, end.lastArrival, fate.now)
        fate.at(end.lastArrival, mark, end.number, action)
    }

    private func arrive(_ segment: [UInt8], at end: SimulatedEnd) {
        guard end.fault == 0 else { return }
        fate.counters.segments += 1
        if end.isClosed { return reset(end.other) }
        if fate.random.happens(fate.settings.cutChance) { return cut(end) }
        end.arrive(segment)
        end.user?.becameReadable()
    }

    /// Takes up to `limit` bytes that have arrived.
    func receive(_ limit: Int, at end: SimulatedEnd) -> ArraySlice<UInt8> {
        let bytes = end.take(min(limit, end.waiting))
        if let other = end.other, !other.isClosed, !other.isRoomAnnounced {
            other.isRoomAnnounced = true
            deliver(to: other, .window) {
                other.isRoomAnnounced = false
                other.user?.becameWritable()
            }
        }
        return bytes
    }

    /// No more will be sent.
    func finish(_ end: SimulatedEnd) {
        guard !end.isFinished, end.fault == 0 else { return }
        end.isFinished = true
        guard let other = end.other else { return }
        deliver(to: other, .end) {
            guard other.fault == 0, !other.isClosed else { return }
            other.hasEnded = true
            other.user?.becameReadable()
        }
    }

    /// As the kernel does: the end of the stream, or a reset when bytes were left unread.
    func close(_ end: SimulatedEnd) {
        guard !end.isClosed else { return }
        end.isClosed = true
        end.user = nil
        guard end.fault == 0, let other = end.other else { return }
        if end.waiting > 0 {
            deliver(to: other, .reset) { [unowned self] in reset(other) }
        } else {
            finish(end)
        }
    }

    /// The end learns that its connection is gone; bytes that it has not taken may be gone too.
    func reset(_ end: SimulatedEnd?) {
        guard let end, end.fault == 0, !end.isClosed else { return }
        fate.counters.resetConnections += 1
        end.fault = ECONNRESET
        if fate.random.coin() { end.discard() }
        end.user?.becameReadable()
        end.user?.becameWritable()
    }

    /// The connection breaks, for both sides.
    func cut(_ end: SimulatedEnd) {
        guard end.fault == 0, !end.isClosed else { return }
        fate.counters.cutConnections += 1
        fate.note(.reset, end.number)
        let other = end.other
        reset(end)
        reset(other)
    }

    /// The machine of `end` has lost its power: nobody answers until the other side's next packets meet a new start.
    func vanish(_ end: SimulatedEnd) {
        guard !end.isClosed else { return }
        (end.isClosed, end.user) = (true, nil)
        guard let other = end.other else { return }
        fate.after(0...5_000_000_000, .reset, other.number) { [unowned self] in reset(other) }
    }

    // MARK: Peers

    func keep(_ peer: SimulatedPeer) {
        precondition(peers.count < Self.peersMax, "a simulated world with too many peers")
        peers.append(peer)
    }

    func drop(_ peer: SimulatedPeer) { peers.removeAll { $0 === peer } }

    /// Peers and their scripts hold each other and the network.
    func forgetPeers() {
        for peer in peers { peer.forget() }
        peers = []
        listening = []
    }

    /// Open connections of scripted peers, in the order in which they were made.
    func ends() -> [SimulatedEnd] { peers.compactMap(\.end) }
}
