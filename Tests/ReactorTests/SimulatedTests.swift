import Glibc
import Reactor
import Testing

/// Keeps bytes at a fixed address as long as it lives.
final class HeldBytes {
    let buffer: UnsafeMutableRawBufferPointer
    init(_ bytes: [UInt8]) {
        buffer = .allocate(byteCount: max(1, bytes.count), alignment: 8)
        buffer.copyBytes(from: bytes)
        count = bytes.count
    }
    private let count: Int
    deinit { buffer.deallocate() }
    var vector: IOVector { IOVector(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
}

private let patterns: [UInt8] = (0..<66_000).map { UInt8(truncatingIfNeeded: 1 + $0 &* 7 % 250) }

func simulatedPattern(_ count: Int, _ salt: Int) -> [UInt8] {
    Array(patterns[salt % 250..<salt % 250 + count])
}

private let port = SocketAddress(v4: 0x7f00_0001, port: 2525)

/// A reactor that returns what it receives, and after each message places a file in `directory` if it has one.
final class SimulatedEchoCore {
    private final class Session {
        let socket: SocketHandle
        var vectors = UnsafeMutablePointer<IOVector>.allocate(capacity: 1)
        var bytes: HeldBytes?
        init(_ socket: SocketHandle) { self.socket = socket }
        deinit { vectors.deallocate() }
    }
    let reactor: Reactor
    private var sessions: [Session?] = []
    private(set) var closed = 0
    private(set) var filesDone: [FileTask] = []
    private(set) var lookups: [Result<[UInt8], LookupFault>] = []
    private(set) var works: [Int] = []
    private(set) var timers = 0
    var directory: FileHandle?
    var inbox: Mailbox<Int>?
    private(set) var received: [Int] = []

    init(_ backend: SimulatedBackend, listener: SocketHandle?) {
        reactor = Reactor(backend: backend)
        if let listener {
            reactor.operations.append(Operation(.accept, listener, Token(kind: 1, generation: 0, index: 0)))
        }
    }

    private func token(_ at: Int) -> Token { Token(kind: 2, generation: 0, index: UInt32(at)) }

    func step() {
        while let number = inbox?.receive() { received.append(number) }
        reactor.turn(mayWait: true)
        timers += reactor.expired.count
        for one in reactor.finished {
            switch one {
            case .files(let task): filesDone.append(task)
            case .lookup(_, let answer): lookups.append(answer)
            case .work(_, let value): works.append(value as? Int ?? -1)
            }
        }
        for completion in reactor.completions { handle(completion) }
    }

    private func handle(_ completion: Completion) {
        let at = Int(completion.token.index)
        switch completion.kind {
        case .accept:
            guard completion.result >= 0 else { return }
            sessions.append(Session(SocketHandle(completion.result)))
            reactor.operations.append(Operation(.receive, SocketHandle(completion.result), token(sessions.count - 1)))
        case .receive:
            guard let session = sessions[at], completion.result != -Int(ECANCELED) else { return }
            guard completion.result > 0 else { return close(at) }
            session.bytes = HeldBytes(Array(completion.bytes))
            session.vectors.pointee = session.bytes!.vector
            reactor.operations.append(
                Operation(.send, session.socket, token(at), vectors: session.vectors, count: 1))
            if let directory {
                let task = FileTask(token: token(at), device: 1)
                task.context = session.bytes
                task.steps = [
                    .place(in: directory, name: "\(filesDone.count).\(at).\(reactor.turns)", [session.bytes!.vector]),
                    .syncFileSystem(directory),
                ]
                reactor.backend.run(task, on: .commit)
            }
        case .send:
            guard completion.result >= 0 else { return close(at) }
            guard let session = sessions[at] else { return }
            reactor.operations.append(Operation(.receive, session.socket, token(at)))
        case .close: closed += 1
        case .connect: break
        }
    }

    private func close(_ at: Int) {
        guard let session = sessions[at] else { return }
        sessions[at] = nil
        reactor.operations.append(Operation(.close, session.socket, token(at)))
    }
}

/// Two echo reactors and ten clients; returns the world and how many clients had all their bytes back.
private func echo(seed: UInt64, settings: SimulatedSettings, withDisk: Bool = false) -> (SimulatedWorld, whole: Int) {
    let world = SimulatedWorld(seed: seed, settings: settings)
    let cores = (0..<2).map { SimulatedEchoCore(world.makeBackend(index: $0), listener: world.listen(port)) }
    if withDisk {
        for core in cores {
            core.directory = FileHandle(world.disk.carryOut(.openDirectory(path: "var/echo", create: true)).value)
        }
    }
    var (whole, ended) = (0, 0)
    for client in 0..<10 {
        let message = simulatedPattern(1 + world.draw(1_000), client)
        var back: [UInt8] = []
        world.client(to: port) { peer in
            peer.onConnect = { $0.send(message) }
            peer.onReceive = { peer, bytes in
                back += bytes
                if back.count == message.count { peer.finish() }
            }
            peer.onEnd = { peer, fault in
                ended += 1
                if fault == 0 {
                    #expect(back == message)
                    whole += 1
                }
                peer.close()
            }
        }
    }
    #expect(world.run(turn: { cores[$0].step() }, until: { ended == 10 }), "seed \(seed)")
    // Only the listeners stay.
    #expect(world.run(turn: { cores[$0].step() }, until: { world.openSockets == 2 }), "seed \(seed)")
    return (world, whole)
}

@Suite struct SimulatedNetworkTests {
    @Test func echoComesBackWholeHoweverItIsSplit() {
        for seed in 0..<20 {
            var settings = SimulatedSettings.drawn(from: UInt64(seed))
            settings.cutChance = 0
            let (world, whole) = echo(seed: UInt64(seed), settings: settings)
            #expect(whole == 10, "seed \(seed)")
            #expect(world.counters.cutConnections == 0)
        }
    }

    @Test func cutConnectionsEndWithAFault() {
        var settings = SimulatedSettings()
        (settings.cutChance, settings.segmentMaxBytes) = (20_000, 512)
        var whole = 0
        var cut = 0
        for seed in 0..<20 {
            let (world, complete) = echo(seed: UInt64(seed), settings: settings)
            whole += complete
            cut += world.counters.cutConnections
        }
        #expect(whole > 0 && whole < 200 && cut > 0)
    }

    @Test func smallWindowsMakeSendsWait() {
        var settings = SimulatedSettings()
        settings.windowBytes = 300
        let (world, whole) = echo(seed: 5, settings: settings)
        #expect(whole == 10)
        #expect(world.counters.sendsThatWaited > 0)
    }

    @Test func nobodyRefusesAndABlackholeIsSilent() {
        let world = SimulatedWorld(seed: 1)
        let hole = SocketAddress(v4: 0x0a00_0001, port: 25)
        world.serve(hole) { _ in }
        world.setBlackholed(hole, true)
        var faults: [Int32] = []
        world.client(to: port) { $0.onEnd = { faults.append($1) } }
        world.client(to: hole) { $0.onEnd = { faults.append($1) } }
        while world.advance() {}
        #expect(faults == [ECONNREFUSED])
    }

    @Test func reactorConnectsOutAndCloseCancels() {
        for seed in 0..<50 {
            let world = SimulatedWorld(seed: UInt64(seed))
            var greeted: SimulatedPeer?
            var ended: Int32?
            world.serve(port) { peer in
                greeted = peer
                peer.onEnd = { ended = $1 }
            }
            let reactor = Reactor(backend: world.makeBackend(index: 0))
            let token = Token(kind: 3, generation: 7, index: 9)
            let socket = reactor.backend.connect(to: port, from: nil, token: token)
            #expect(socket >= 0)
            var seen: [Completion.Kind] = []
            var results: [Int] = []
            world.run(
                turn: { _ in
                    reactor.turn(mayWait: true)
                    for completion in reactor.completions {
                        #expect(completion.token == token)
                        seen.append(completion.kind)
                        results.append(completion.result)
                        if completion.kind == .connect {
                            #expect(reactor.backend.peerAddress(of: socket) == port)
                            reactor.operations.append(Operation(.receive, socket, token))
                            reactor.operations.append(Operation(.close, socket, token))
                        }
                    }
                }, until: { ended != nil && seen.count == 3 })
            #expect(seen == [.connect, .receive, .close], "seed \(seed)")
            #expect(results == [0, -Int(ECANCELED), 0])
            #expect(ended == 0)
            #expect(greeted != nil)
            #expect(world.openSockets == 0)
        }
    }

    /// A reply with the close or the shutdown in the same turn: the reply leaves (the 221 after QUIT).
    @Test(arguments: [Operation.Kind.close, .shutdown]) func aReplyLeavesBeforeTheEnd(_ kind: Operation.Kind) {
        for seed in 0..<50 {
            var settings = SimulatedSettings()
            // A shutdown waits for all of a send, however small the window.
            if kind == .shutdown { settings.windowBytes = 2 }
            let world = SimulatedWorld(seed: UInt64(seed), settings: settings)
            let reactor = Reactor(backend: world.makeBackend(index: 0))
            let (accept, other) = (Token(kind: 1, generation: 0, index: 0), Token(kind: 2, generation: 0, index: 0))
            reactor.operations.append(Operation(.accept, world.listen(port), accept))
            var (got, ended, sent): ([UInt8], Int32?, Int) = ([], nil, 0)
            world.client(to: port) { peer in
                peer.onReceive = { got += $1 }
                peer.onEnd = { ended = $1 }
            }
            let bye = HeldBytes(Array("221 bye\r\n".utf8))
            var vector = bye.vector
            withUnsafeMutablePointer(to: &vector) { vector in
                _ = world.run(
                    turn: { _ in
                        reactor.turn(mayWait: true)
                        for completion in reactor.completions {
                            if completion.kind == .send { sent = completion.result }
                            guard completion.kind == .accept else { continue }
                            let socket = SocketHandle(completion.result)
                            reactor.operations.append(Operation(.send, socket, other, vectors: vector, count: 1))
                            reactor.operations.append(Operation(kind, socket, other))
                        }
                    }, until: { ended != nil && sent != 0 })
            }
            #expect(sent == 9 && ended == 0 && got == Array("221 bye\r\n".utf8), "seed \(seed)")
        }
    }

    @Test func nobodyThereShowsAtOnceOrLater() {
        var (atOnce, later) = (0, 0)
        for seed in 0..<40 {
            let world = SimulatedWorld(seed: UInt64(seed))
            let reactor = Reactor(backend: world.makeBackend(index: 0))
            let socket = reactor.backend.connect(to: port, from: nil, token: Token(kind: 1, generation: 0, index: 0))
            if socket == -ECONNREFUSED {
                atOnce += 1
            } else {
                var results: [Int] = []
                world.run(
                    turn: { _ in
                        reactor.turn(mayWait: true)
                        results += reactor.completions.map(\.result)
                    }, until: { !results.isEmpty })
                #expect(results == [-Int(ECONNREFUSED)])
                later += 1
            }
        }
        #expect(atOnce > 0 && later > 0)
    }

    @Test func aFileIsSentFromTheDisk() {
        let world = SimulatedWorld(seed: 3)
        let text = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 / 7) }
        let bytes = HeldBytes(text)
        let directory = FileHandle(world.disk.carryOut(.openDirectory(path: "a", create: true)).value)
        #expect(world.disk.carryOut(.place(in: directory, name: "m", [bytes.vector])).isDone)
        let file = FileHandle(world.disk.carryOut(.open(in: directory, name: "m")).value)
        var got: [UInt8] = []
        world.serve(port) { $0.onReceive = { got += $1 } }
        let reactor = Reactor(backend: world.makeBackend(index: 0))
        let token = Token(kind: 1, generation: 0, index: 0)
        let socket = reactor.backend.connect(to: port, from: nil, token: token)
        var sent = 0
        world.run(
            turn: { _ in
                reactor.turn(mayWait: true)
                for completion in reactor.completions {
                    if completion.kind == .connect {
                        reactor.operations.append(
                            Operation(.sendFile, socket, token, file: file, offset: 100, length: 150_000))
                    } else {
                        sent = completion.result
                    }
                }
            }, until: { got.count == 150_000 && sent != 0 })
        #expect(sent == 150_000)
        #expect(got == Array(text[100..<150_100]))
    }
}

@Suite struct SimulatedWorldTests {
    @Test func sameSeedSameTrace() {
        var hashes: Set<UInt64> = []
        for seed in 0..<12 {
            let settings = SimulatedSettings.drawn(from: UInt64(seed))
            let (first, _) = echo(seed: UInt64(seed), settings: settings, withDisk: true)
            let (second, _) = echo(seed: UInt64(seed), settings: settings, withDisk: true)
            #expect(first.traceHash == second.traceHash, "seed \(seed)")
            #expect(first.counters == second.counters)
            #expect(first.now == second.now)
            hashes.insert(first.traceHash)
        }
        #expect(hashes.count == 12)
    }

    /// A world with power losses and kills at drawn moments, and what is left on its disk.
    private func crashes(seed: UInt64) -> (UInt64, SimulatedCounters, [[UInt8]]) {
        let world = SimulatedWorld(seed: seed, settings: .drawn(from: seed))
        for life in 0..<4 {
            let core = SimulatedEchoCore(world.makeBackend(index: 0), listener: world.listen(port))
            core.directory = FileHandle(world.disk.carryOut(.openDirectory(path: "/life/\(life)", create: true)).value)
            for _ in 0..<3 { world.client(to: port) { $0.onConnect = { $0.send(simulatedPattern(2_000, life)) } } }
            for _ in 0..<world.draw(300) { world.step { _ in core.step() } }
            if world.draw(3) == 0 { world.kill() } else { world.powerLoss() }
        }
        let left = (0..<4).flatMap { life in
            (world.disk.names(in: "/life/\(life)") ?? []).compactMap { world.disk.contents(of: "/life/\(life)/\($0)") }
        }
        return (world.traceHash, world.counters, left)
    }

    @Test func crashesReplayIdentically() {
        var torn = 0
        for seed in 0..<10 {
            let (first, second) = (crashes(seed: UInt64(seed)), crashes(seed: UInt64(seed)))
            #expect(first == second, "seed \(seed)")
            torn += first.1.tornFiles
        }
        #expect(torn > 0)
    }

    @Test func lookupsWorkTimersAndMailboxes() {
        let world = SimulatedWorld(seed: 8)
        world.resolver = { .success($0.reversed()) }
        let cores = (0..<3).map { SimulatedEchoCore(world.makeBackend(index: $0), listener: nil) }
        let box = Mailbox<Int>(to: cores[1].reactor.backend.doorbell, capacity: 4)
        cores[1].inbox = box
        let token = Token(kind: 5, generation: 0, index: 0)
        cores[0].reactor.backend.lookUp([1, 2, 3], token: token)
        cores[0].reactor.backend.work(token) { 42 }
        _ = cores[2].reactor.setTimer(world.now + 3_600_000_000_000, token)
        for number in 0..<10 { box.send(number) }
        let started = world.now
        let wall = world.wallNow
        world.jumpWallClock(by: -7_200_000_000_000)
        #expect(
            world.run(
                turn: {
                    cores[$0].step()
                    box.flush()
                },
                until: { cores[2].timers == 1 && cores[1].received.count == 10 }))
        #expect(cores[0].lookups.count == 1 && (try? cores[0].lookups[0].get()) == [3, 2, 1])
        #expect(cores[0].works == [42])
        #expect(cores[1].received == Array(0..<10))
        #expect(world.now - started >= 3_600_000_000_000)
        #expect(world.wallNow < wall)
    }

    @Test func anIdleWorldSaysSo() {
        let world = SimulatedWorld(seed: 1)
        let core = SimulatedEchoCore(world.makeBackend(index: 0), listener: nil)
        var steps = 0
        while world.step({ _ in core.step() }) {
            steps += 1
            #expect(steps < 100)
        }
        #expect(world.nextEventTime == nil)
    }

    @Test func aDeadReactorRunsNoMore() {
        let world = SimulatedWorld(seed: 1)
        let old = world.makeBackend(index: 0)
        world.kill()
        #expect(!old.isAlive)
        let new = world.makeBackend(index: 0)
        #expect(new.isAlive)
        #expect(world.counters.kills == 1)
    }
}
