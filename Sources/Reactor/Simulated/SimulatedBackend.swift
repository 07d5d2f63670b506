import Glibc

/// One reactor's contact with a simulated world. `turn` never waits: it brings what is due now.
///
/// Sockets keep the rules of the real backends: one receive and one send at a time, a close that completes after what was
/// under way, numbers that are used again. Lent bytes are overwritten at the next turn, so that a late reader is noticed.
public final class SimulatedBackend: Backend {
    public let name = "simulated"
    public let index: Int
    public let doorbell: Doorbell

    /// What the next turn brings.
    private enum Posted {
        case completion(Completion)
        case receive(SimulatedSocket)
        case accept(SimulatedSocket)
        case closed(SimulatedSocket, Token)
        case finished(Finished)
    }

    private final class SimulatedLane {
        let number: Int
        let kind: Lane
        let device: Int
        var waiting: [FileTask] = []
        var task: FileTask?
        var work: SimulatedFileWork?
        var hasFailed = false
        /// By device, when the task began.
        var failedSyncs: [Int] = []
        init(number: Int, kind: Lane, device: Int) { (self.number, self.kind, self.device) = (number, kind, device) }
    }

    private static let arenaBytes = 1 << 20
    private static let receiveMaxBytes = 64 << 10
    private static let acceptsPerTurn = 64
    private static let tasksMax = 100_000

    private let fate: SimulatedFate
    private let disk: SimulatedDisk
    private let sockets: SimulatedSockets
    private var randomness: SimulatedRandom
    private let arena = UnsafeMutableRawPointer.allocate(byteCount: arenaBytes, alignment: 4096)
    private var arenaUsed = 0
    private var posted: [Posted] = []
    /// As the real ones: two a file system, made when the first task comes.
    private var lanes: [SimulatedLane] = []

    /// False after a kill or a power loss.
    public private(set) var isAlive = true
    /// The owner may have something to do although nothing is due here.
    private var mustRun = true
    private var hasRung = false
    private var wakeAt: UInt64?
    /// Stands still until then.
    var stalledUntil: UInt64 = 0

    init(index: Int, fate: SimulatedFate, disk: SimulatedDisk, sockets: SimulatedSockets, doorbell: Doorbell) {
        (self.index, self.fate, self.disk, self.sockets) = (index, fate, disk, sockets)
        self.doorbell = doorbell
        randomness = SimulatedRandom(seed: fate.random.next())
    }

    deinit { arena.deallocate() }

    // MARK: When to run

    private func hearDoorbell() {
        if !doorbell.beginSleep() { hasRung = true }
        doorbell.endSleep()
    }

    /// The instant from which this reactor may take its turn; nil: it sleeps until something happens.
    var readyAt: UInt64? {
        guard isAlive else { return nil }
        hearDoorbell()
        let wanted = mustRun || hasRung || !posted.isEmpty ? fate.now : wakeAt
        return wanted.map { max($0, stalledUntil) }
    }

    // MARK: A turn

    public func turn(
        _ operations: inout [Operation], until deadline: UInt64?, completions: inout [Completion],
        finished: inout [Finished]
    ) {
        defer { operations.removeAll(keepingCapacity: true) }
        guard isAlive else { return }
        arena.initializeMemory(as: UInt8.self, repeating: 0xdd, count: arenaUsed)
        arenaUsed = 0
        hearDoorbell()
        let rang = hasRung
        hasRung = false
        for operation in operations { sockets.begin(operation, for: self) }
        let brought = completions.count + finished.count
        deliver(&completions, &finished)
        let isDue = deadline.map { $0 <= fate.now } ?? false
        mustRun = rang || isDue || completions.count + finished.count > brought
        wakeAt = deadline
    }

    /// All that was posted, or the first part of it.
    private func deliver(_ completions: inout [Completion], _ finished: inout [Finished]) {
        guard !posted.isEmpty else { return }
        var due = posted
        posted = []
        if fate.random.below(4) == 0 {
            let count = 1 + fate.random.below(due.count)
            posted = Array(due[count...])
            due.removeSubrange(count...)
        }
        var later: [Posted] = []
        for entry in due {
            switch entry {
            case .completion(let completion): complete(completion, &completions)
            case .receive(let socket):
                if arenaUsed + Self.receiveMaxBytes > Self.arenaBytes {
                    later.append(entry)
                } else {
                    receive(socket, &completions)
                }
            case .accept(let listener): accept(listener, &completions)
            case .closed(let socket, let token):
                // A receive that found no room comes first.
                if later.contains(where: { if case .receive(let other) = $0 { other === socket } else { false } }) {
                    later.append(entry)
                } else {
                    sockets.free(socket)
                    complete(Completion(.close, token, 0), &completions)
                }
            case .finished(let one):
                fate.note(.finished, index)
                finished.append(one)
            }
        }
        posted = later + posted
    }

    private func complete(_ completion: Completion, _ completions: inout [Completion]) {
        fate.note(.completion, index, Int(truncatingIfNeeded: completion.token.raw) ^ completion.result)
        completions.append(completion)
    }

    private func receive(_ socket: SimulatedSocket, _ completions: inout [Completion]) {
        socket.isReceivePosted = false
        guard let token = socket.receiveToken, let end = socket.end, end.isReadable else { return }
        socket.receiveToken = nil
        guard end.waiting > 0 else {
            return complete(Completion(.receive, token, -Int(end.fault)), &completions)
        }
        let limit = fate.random.coin() ? Self.receiveMaxBytes : fate.random.size(upTo: Self.receiveMaxBytes)
        let bytes = sockets.network.receive(limit, at: end)
        let target = arena + arenaUsed
        bytes.withUnsafeBytes { target.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        arenaUsed += (bytes.count + 63) & ~63
        complete(
            Completion(
                .receive, token, bytes.count, bytes: UnsafeRawBufferPointer(start: target, count: bytes.count)),
            &completions)
    }

    private func accept(_ listener: SimulatedSocket, _ completions: inout [Completion]) {
        listener.isReceivePosted = false
        for _ in 0..<Self.acceptsPerTurn {
            guard let token = listener.receiveToken, !listener.backlog.isEmpty else { return }
            guard let socket = sockets.make(for: self) else {
                // Told to the owner, who asks again later.
                listener.receiveToken = nil
                return complete(Completion(.accept, token, -Int(EMFILE)), &completions)
            }
            let end = listener.backlog.removeFirst()
            socket.use(end)
            complete(Completion(.accept, token, Int(socket.handle)), &completions)
        }
        if !listener.backlog.isEmpty { postReceive(listener) }
    }

    // MARK: What sockets report

    func post(_ completion: Completion) {
        guard isAlive else { return }
        posted.append(.completion(completion))
    }

    func postReceive(_ socket: SimulatedSocket) {
        guard isAlive, !socket.isReceivePosted else { return }
        socket.isReceivePosted = true
        posted.append(socket.isListener ? .accept(socket) : .receive(socket))
    }

    func postClose(_ socket: SimulatedSocket, _ token: Token) { posted.append(.closed(socket, token)) }

    // MARK: Connections

    public func connect(to address: SocketAddress, from source: SocketAddress?, token: Token) -> SocketHandle {
        guard isAlive else { return -ENETDOWN }
        return sockets.connect(to: address, from: source, token: token, for: self)
    }

    public func peerAddress(of socket: SocketHandle) -> SocketAddress? { sockets[socket]?.end?.remote }
    public func localAddress(of socket: SocketHandle) -> SocketAddress? {
        sockets[socket]?.end?.local ?? sockets[socket]?.address
    }

    // MARK: Files

    public func run(_ task: FileTask, on lane: Lane) {
        guard isAlive else { return }
        let lane = self.lane(lane, task.device)
        precondition(lane.waiting.count < Self.tasksMax, "a hundred thousand file tasks wait: nothing bounds them")
        lane.waiting.append(task)
        if lane.task == nil { startNext(lane) }
    }

    private func lane(_ kind: Lane, _ device: Int) -> SimulatedLane {
        if let known = lanes.first(where: { $0.kind == kind && $0.device == device }) { return known }
        let lane = SimulatedLane(number: lanes.count, kind: kind, device: device)
        lanes.append(lane)
        return lane
    }

    private func startNext(_ lane: SimulatedLane) {
        guard !lane.waiting.isEmpty else {
            lane.task = nil
            return
        }
        lane.task = lane.waiting.removeFirst()
        lane.hasFailed = false
        lane.failedSyncs = disk.failedSyncs
        var delay = fate.random.within(fate.settings.fileDelay)
        if fate.random.happens(fate.settings.hangChance) {
            delay += fate.random.within(fate.settings.hangDelay)
            fate.counters.hangs += 1
        }
        fate.at(fate.now + delay, .lane, subject(lane)) { [weak self] in self?.proceed(lane) }
    }

    private func subject(_ lane: SimulatedLane) -> Int { index * 64 + lane.number }

    /// The next part of the lane's task.
    private func proceed(_ lane: SimulatedLane) {
        guard isAlive, let task = lane.task else { return }
        while lane.hasFailed, task.stopsAtFailure, task.outcomes.count < task.steps.count {
            task.outcomes.append(FileOutcome(-Int(ECANCELED)))
        }
        guard task.outcomes.count < task.steps.count else {
            posted.append(.finished(.files(task)))
            return startNext(lane)
        }
        var work =
            lane.work
            ?? SimulatedFileWork(
                task.steps[task.outcomes.count], mayFailByChance: true, failedSyncs: lane.failedSyncs)
        let hungUntil = disk.hungUntil(work.step)
        if hungUntil > fate.now {
            fate.at(hungUntil, .lane, subject(lane)) { [weak self] in self?.proceed(lane) }
            return
        }
        fate.counters.fileParts += 1
        let outcome = work.proceed(on: disk)
        lane.work = outcome == nil ? work : nil
        if let outcome {
            fate.note(.fileStep, subject(lane), outcome.value)
            if !outcome.isDone { lane.hasFailed = true }
            if let device = work.toldDevice { lane.failedSyncs[device - 1] = disk.failedSyncs[device - 1] }
            task.outcomes.append(outcome)
        }
        let delay = work.isSync && outcome == nil ? fate.settings.syncDelay : fate.settings.fileDelay
        fate.after(delay, .lane, subject(lane)) { [weak self] in self?.proceed(lane) }
    }

    // MARK: Look-ups and work

    public func lookUp(_ query: [UInt8], token: Token) {
        guard isAlive else { return }
        let fails = fate.random.happens(fate.settings.lookupFaultChance)
        if fails { fate.counters.failedLookups += 1 }
        let fault = fate.random.pick([LookupFault.timedOut, .unreachable, .overloaded])
        fate.after(fate.settings.lookupDelay, .lookup, index) { [weak self] in
            guard let self, isAlive else { return }
            posted.append(.finished(.lookup(token, fails ? .failure(fault) : fate.resolver(query))))
        }
    }

    public func work(_ token: Token, _ job: @escaping @Sendable () -> any Sendable) {
        guard isAlive else { return }
        fate.after(fate.settings.workDelay, .work, index) { [weak self] in
            guard let self, isAlive else { return }
            posted.append(.finished(.work(token, job())))
        }
    }

    // MARK: Clocks and randomness

    public func monotonicNow() -> UInt64 { fate.now }
    public func wallNow() -> Int64 { fate.wallNow }
    public func random() -> UInt64 { randomness.next() }

    // MARK: End

    /// The process is gone. Tasks stay cut where they are.
    func end() {
        guard isAlive else { return }
        isAlive = false
        posted = []
        for lane in lanes {
            fate.counters.tasksCut += lane.waiting.count + (lane.task == nil ? 0 : 1)
            (lane.waiting, lane.task, lane.work) = ([], nil, nil)
        }
    }
}
