/// A machine with any number of reactors, its disk, its network and the peers on it, in one thread and all from one seed.
///
/// ```text
/// while !isDone { world.step { cores[$0].step() } }      each core: handler, then reactor.turn(mayWait:)
/// ```
///
/// A step does what is due, then either lets one reactor that has something to do take a turn, or, when none has, advances
/// the virtual clock to the next event. The same seed gives the same `traceHash`; another one another world.
///
/// - Kill: `kill()`; power loss: `powerLoss()`. Both end all backends with their tasks cut where they are; new ones are then
///   made over the same disk. Scripted peers are on other machines and live on.
/// - Code outside `step` that gives a reactor something to do rings its doorbell.
public final class SimulatedWorld {
    public let seed: UInt64
    public private(set) var settings: SimulatedSettings
    public let disk: SimulatedDisk
    /// Answers DNS queries.
    public var resolver: ([UInt8]) -> Result<[UInt8], LookupFault> {
        get { fate.resolver }
        set { fate.resolver = newValue }
    }

    private let fate: SimulatedFate
    private let network: SimulatedNetwork
    private var sockets: SimulatedSockets
    /// Living ones, by index.
    private var backends: [SimulatedBackend] = []

    public init(seed: UInt64, settings: SimulatedSettings = SimulatedSettings()) {
        (self.seed, self.settings) = (seed, settings)
        fate = SimulatedFate(seed: seed, settings: settings)
        disk = SimulatedDisk(fate: fate)
        network = SimulatedNetwork(fate: fate)
        sockets = SimulatedSockets(network: network, disk: disk)
    }

    deinit {
        fate.forgetEvents()
        network.forgetPeers()
    }

    // MARK: Reactors

    /// The contact of the reactor with number `index`, at most one alive for each.
    ///
    /// - Parameter doorbell: a simulated one, rung by whoever sends to this reactor's mailboxes.
    public func makeBackend(index: Int, doorbell: Doorbell = Doorbell(simulated: true)) -> SimulatedBackend {
        let at = backends.firstIndex { $0.index >= index } ?? backends.count
        precondition(at == backends.count || backends[at].index != index, "reactor \(index) is still alive")
        let backend = SimulatedBackend(index: index, fate: fate, disk: disk, sockets: sockets, doorbell: doorbell)
        backends.insert(backend, at: at)
        return backend
    }

    // MARK: Time

    /// Virtual monotonic nanoseconds.
    public var now: UInt64 { fate.now }
    public var wallNow: Int64 { fate.wallNow }

    public func jumpWallClock(by nanoseconds: Int64) {
        fate.wallOffset &+= nanoseconds
        fate.counters.wallJumps += 1
        fate.note(.wallJump, 0, Int(nanoseconds))
    }

    /// From here on nothing fails by chance: for the end of a day, when all that waits must get through.
    public func calm() {
        settings.cutChance = 0
        settings.diskFaultChance = 0
        settings.hangChance = 0
        settings.lookupFaultChance = 0
        fate.settings = settings
    }

    /// When something is due next, be it an event or a reactor's timer; nil: nothing ever will be.
    public var nextEventTime: UInt64? {
        var next = fate.nextEventTime
        for backend in backends {
            if let ready = backend.readyAt { next = min(next ?? ready, ready) }
        }
        return next
    }

    /// Moves the clock to the next event and does it. False: there is none.
    @discardableResult
    public func advance() -> Bool {
        guard let next = nextEventTime else { return false }
        fate.advance(to: next)
        fate.note(.advance, 0)
        fate.fireDue()
        return true
    }

    /// One decision: a turn of one reactor by `run(index)`, or a move of the clock. False: nothing will ever happen again.
    @discardableResult
    public func step(_ run: (Int) -> Void) -> Bool {
        fate.fireDue()
        let able = backends.filter { $0.readyAt.map { $0 <= fate.now } ?? false }
        guard !able.isEmpty else { return advance() }
        let backend = fate.random.pick(able)
        fate.note(.turn, backend.index)
        fate.counters.turns += 1
        run(backend.index)
        fate.pass(fate.random.within(settings.turnDelay))
        if fate.random.happens(settings.stallChance) {
            backend.stalledUntil = fate.now + fate.random.within(settings.stallDelay)
            fate.counters.stalls += 1
            fate.note(.stall, backend.index)
        }
        return true
    }

    /// Steps until `isDone`, at most `stepsMax` times and `nanoseconds` of virtual time. False: it did not come to that.
    @discardableResult
    public func run(
        stepsMax: Int = 1_000_000, for nanoseconds: UInt64 = .max / 4, turn: (Int) -> Void, until isDone: () -> Bool
    ) -> Bool {
        let end = fate.now + nanoseconds
        for _ in 0..<stepsMax {
            if isDone() { return true }
            guard fate.now < end, step(turn) else { return isDone() }
        }
        return isDone()
    }

    /// Runs `action` after so many virtual nanoseconds: for scripts of peers and for faults at chosen times.
    public func after(_ nanoseconds: UInt64, _ action: @escaping () -> Void) {
        fate.at(fate.now + nanoseconds, .script, 0, action)
    }

    /// A number from the seed, 0 to `bound` - 1, for a test's own decisions.
    public func draw(_ bound: Int) -> Int { fate.random.below(bound) }

    // MARK: Network

    /// A listener for a backend's `.accept`; several at one address share its connections. `-EMFILE` when there is no room.
    public func listen(_ address: SocketAddress) -> SocketHandle { sockets.listen(address) }

    /// A scripted client. Its closures are set by `script` before anything happens.
    @discardableResult
    public func client(
        to address: SocketAddress, from source: SocketAddress? = nil, _ script: (SimulatedPeer) -> Void
    ) -> SimulatedPeer {
        let peer = SimulatedPeer(network: network)
        script(peer)
        network.connect(to: address, from: network.ephemeral(source, to: address)) { end, fault in
            if let end { peer.connected(end) } else { peer.failed(fault) }
        }
        return peer
    }

    /// A scripted server; `script` sets the closures of each connection's peer. Returns a number for `stopServing`.
    @discardableResult
    public func serve(_ address: SocketAddress, _ script: @escaping (SimulatedPeer) -> Void) -> Int {
        let number = network.newNumber()
        network.listen(address, number: number) { [unowned network] end in
            let peer = SimulatedPeer(network: network)
            script(peer)
            peer.connected(end)
            return true
        }
        return number
    }

    /// New connections are refused; those that are open stay.
    public func stopServing(_ number: Int) { network.stopListening(number) }

    /// Connections to the address are never answered.
    public func setBlackholed(_ address: SocketAddress, _ isBlackholed: Bool) {
        network.setBlackholed(address, isBlackholed)
    }

    /// Breaks the connection of a reactor's socket, for both sides.
    public func cutConnection(_ socket: SocketHandle) {
        if let end = sockets[socket]?.end { network.cut(end) }
    }

    /// Breaks all connections of scripted peers.
    public func cutAllConnections() { for end in network.ends() { network.cut(end) } }

    /// Sockets of the machine that are open.
    public var openSockets: Int { sockets.openCount }

    // MARK: Ends of the machine

    /// The process is killed: file work stops where it is, the kernel closes its sockets, the page cache stays.
    public func kill() {
        fate.counters.kills += 1
        fate.note(.kill, 0)
        end(vanishes: false)
        disk.endProcess()
    }

    /// The power fails: of what is not synced any part may be lost.
    public func powerLoss() {
        fate.counters.powerLosses += 1
        fate.note(.powerLoss, 0)
        end(vanishes: true)
        disk.losePower()
    }

    private func end(vanishes: Bool) {
        for backend in backends { backend.end() }
        backends = []
        sockets.endProcess(vanishes: vanishes)
        sockets = SimulatedSockets(network: network, disk: disk)
    }

    // MARK: Record

    /// A digest of all decisions and completions so far.
    public var traceHash: UInt64 { fate.traceHash }
    public var counters: SimulatedCounters { fate.counters }
}
