import Glibc
import Synchronization
import Testing

@testable import Reactor

/// What every backend promises, on each of them.
@Suite(.serialized) struct BackendTests {
    @Test(arguments: BackendKind.usable) func echoesOneConnection(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let listener = try harness.listen()
        let peer = try Peer(to: listener.address)
        let socket = SocketHandle(harness.completion(listener.token).result)
        #expect(harness.backend.localAddress(of: socket) == listener.address)
        #expect(harness.backend.peerAddress(of: socket)?.withPort(0) == listener.address.withPort(0))
        let receive = harness.ask(.receive, socket)
        harness.turn()
        peer.send(Array("EHLO a\r\n".utf8))
        let event = harness.completion(receive)
        #expect(event.kind == .receive && event.result == 8 && event.bytes == Array("EHLO a\r\n".utf8))
        #expect(harness.send(event.bytes, socket) == 8)
        #expect(peer.receive() == event.bytes)
        harness.close(socket)
        #expect(peer.receive() == [])
        harness.close(listener.socket)
    }

    @Test(arguments: BackendKind.usable) func carriesSingleBytes(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        for value in 0..<200 {
            let receive = harness.ask(.receive, socket)
            peer.send([UInt8(value)])
            let event = harness.completion(receive)
            #expect(event.bytes == [UInt8(value)])
            #expect(harness.send(event.bytes, socket) == 1)
            #expect(peer.receive() == event.bytes)
        }
        harness.close(socket)
    }

    /// A short write is continued in the middle of a vector, past empty ones, and past the 1,024 of one system call.
    @Test(arguments: BackendKind.usable, [1, 7, 3000]) func sendsTenMegabytesToASlowReader(
        _ kind: BackendKind, _ count: Int
    ) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        var bytes = pattern(10_000_000)
        var got: [UInt8] = []
        bytes.withUnsafeMutableBytes { buffer in
            var vectors: [IOVector] = []
            var at = 0
            for index in 0..<count {
                let size =
                    index == count - 1 ? buffer.count - at : index % 5 == 4 ? 0 : buffer.count / count + index % 3
                vectors.append(IOVector(UnsafeRawBufferPointer(rebasing: buffer[at..<at + size])))
                at += size
            }
            vectors.withUnsafeMutableBufferPointer { vectors in
                let send = harness.ask(.send, socket, vectors: vectors.baseAddress, count: count)
                harness.turn()
                #expect(!harness.events.contains { $0.token == send })
                while got.count < buffer.count, let piece = peer.receive(200_000), !piece.isEmpty {
                    got += piece
                    harness.turn()
                }
                #expect(harness.completion(send).result == buffer.count)
            }
        }
        #expect(got == bytes)
        harness.close(socket)
    }

    @Test(arguments: BackendKind.usable) func receivesTenMegabytes(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        let bytes = pattern(10_000_000)
        let descriptor = peer.socket
        let writer = Thread.start("writer") {
            var at = 0
            while at < bytes.count {
                let sent = bytes.withUnsafeBytes {
                    Glibc.send(descriptor, $0.baseAddress! + at, bytes.count - at, Int32(MSG_NOSIGNAL))
                }
                if sent <= 0 { return }
                at += sent
            }
        }
        var got: [UInt8] = []
        while got.count < bytes.count {
            let event = harness.completion(harness.ask(.receive, socket))
            guard event.result > 0 else { break }
            got += event.bytes
        }
        writer.join()
        #expect(got == bytes)
        harness.close(socket)
    }

    /// Data and the end arrive together before anybody receives: the end isn't lost, and comes as often as it is asked for.
    @Test(arguments: BackendKind.usable) func receivesTheEndAfterTheData(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        peer.send([1, 2, 3])
        peer.finish()
        harness.turn(milliseconds: 5)
        #expect(harness.completion(harness.ask(.receive, socket)).bytes == [1, 2, 3])
        #expect(harness.completion(harness.ask(.receive, socket)).result == 0)
        #expect(harness.completion(harness.ask(.receive, socket)).result == 0)
        harness.close(socket)
    }

    @Test(arguments: BackendKind.usable) func receivesTheEndWhileWaiting(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        let receive = harness.ask(.receive, socket)
        harness.turn()
        peer.send([1])
        peer.finish()
        #expect(harness.completion(receive).bytes == [1])
        harness.turn(milliseconds: 5)
        #expect(harness.completion(harness.ask(.receive, socket)).result == 0)
        harness.close(socket)
    }

    @Test(arguments: BackendKind.usable) func goesOnReceivingAfterShutdown(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        harness.ask(.shutdown, socket)
        harness.turn()
        #expect(peer.receive() == [])
        peer.send([9])
        #expect(harness.completion(harness.ask(.receive, socket)).bytes == [9])
        harness.close(socket)
    }

    /// A shutdown in the same turn waits for the send, however long it takes.
    @Test(arguments: BackendKind.usable) func shutsDownAfterTheSend(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        var bytes = pattern(6_000_000)
        var got = 0
        bytes.withUnsafeMutableBytes { buffer in
            var vector = IOVector(UnsafeRawBufferPointer(buffer))
            withUnsafeMutablePointer(to: &vector) { vector in
                let send = harness.ask(.send, socket, vectors: vector, count: 1)
                harness.ask(.shutdown, socket)
                harness.turn()
                while let piece = peer.receive(400_000), !piece.isEmpty {
                    got += piece.count
                    harness.turn()
                }
                #expect(harness.completion(send).result == buffer.count)
            }
        }
        #expect(got == bytes.count)
        harness.close(socket)
    }

    /// A reply and the close in one turn: the reply leaves (the 221 after QUIT).
    @Test(arguments: BackendKind.usable) func sendsBeforeItCloses(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        harness.ask(.receive, socket)
        harness.turn()
        var bytes = Array("221 bye\r\n".utf8)
        bytes.withUnsafeMutableBytes { buffer in
            var vector = IOVector(UnsafeRawBufferPointer(buffer))
            withUnsafeMutablePointer(to: &vector) {
                let send = harness.ask(.send, socket, vectors: $0, count: 1)
                harness.close(socket)
                #expect(harness.completion(send).result == 9)
            }
        }
        #expect(peer.receive() == bytes)
        #expect(peer.receive() == [])
    }

    @Test(arguments: BackendKind.usable) func reportsABrokenConnection(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        peer.close()
        var result = 0
        for _ in 0..<3 where result >= 0 { result = harness.send([1, 2, 3], socket) }
        #expect(result == -Int(EPIPE) || result == -Int(ECONNRESET))
        harness.close(socket)
    }

    // MARK: Connections

    @Test(arguments: BackendKind.usable) func connectsFromASource(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let listener = try harness.listen()
        let source = SocketAddress(v4: 0x7F00_0002, port: 0)
        let token = harness.token()
        let socket = harness.backend.connect(to: listener.address, from: source, token: token)
        let event = harness.completion(token)
        #expect(event.kind == .connect && event.result == 0)
        let accepted = SocketHandle(harness.completion(listener.token).result)
        #expect(harness.backend.peerAddress(of: accepted)?.withPort(0) == source)
        let receive = harness.ask(.receive, accepted)
        #expect(harness.send([1], socket) == 1)
        #expect(harness.completion(receive).bytes == [1])
        for open in [socket, accepted, listener.socket] { harness.close(open) }
    }

    @Test(arguments: BackendKind.usable) func connectsOverIPv6(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        guard let listener = try? Listener.open(SocketAddress(v6High: 0, low: 1, port: 0)) else { return }
        let address = try #require(harness.backend.localAddress(of: listener))
        let accept = harness.ask(.accept, listener)
        let token = harness.token()
        let socket = harness.backend.connect(to: address, from: nil, token: token)
        #expect(harness.completion(token).result == 0)
        let accepted = SocketHandle(harness.completion(accept).result)
        for open in [socket, accepted, listener] { harness.close(open) }
    }

    @Test(arguments: BackendKind.usable) func reportsARefusedConnection(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let unused = try Listener.open(SocketAddress(v4: UInt32(INADDR_LOOPBACK), port: 0))
        let address = try #require(harness.backend.localAddress(of: unused))
        close(unused)
        let token = harness.token()
        let socket = harness.backend.connect(to: address, from: nil, token: token)
        if socket >= 0 {
            #expect(harness.completion(token).result == -Int(ECONNREFUSED))
            harness.close(socket)
        } else {
            #expect(socket == -ECONNREFUSED)
        }
    }

    /// The SYN finds a full queue and no answer, as with a host that drops it.
    @Test(arguments: BackendKind.usable) func closesAConnectionThatIsStillBeingMade(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let full = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(full) }
        SocketAddress(v4: UInt32(INADDR_LOOPBACK), port: 0).withSockaddr { _ = bind(full, $0, $1) }
        listen(full, 0)
        let address = try #require(harness.backend.localAddress(of: full))
        let filler = try Peer(to: address)
        let token = harness.token()
        let socket = harness.backend.connect(to: address, from: nil, token: token)
        harness.turn(milliseconds: 20)
        #expect(harness.events.isEmpty)
        let ended = harness.ask(.close, socket)
        #expect(harness.turns { harness.events.count == 2 })
        #expect(harness.events.map(\.token) == [token, ended])
        #expect(harness.events[0].kind == .connect && harness.events[0].result == -Int(ECANCELED))
        filler.close()
    }

    // MARK: Close

    @Test(arguments: BackendKind.usable) func completesWhatIsUnderWayBeforeTheClose(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        let receive = harness.ask(.receive, socket)
        var bytes = pattern(10_000_000)
        bytes.withUnsafeMutableBytes { buffer in
            var vector = IOVector(UnsafeRawBufferPointer(buffer))
            withUnsafeMutablePointer(to: &vector) {
                let send = harness.ask(.send, socket, vectors: $0, count: 1)
                harness.turn(milliseconds: 5)
                #expect(harness.events.isEmpty)
                let ended = harness.ask(.close, socket)
                #expect(harness.turns { harness.events.contains { $0.token == ended } })
                #expect(Set(harness.events.map(\.token)) == [receive, send, ended])
                #expect(harness.events.count == 3 && harness.events[2].kind == .close)
                for event in harness.events.prefix(2) { #expect(event.result == -Int(ECANCELED)) }
            }
        }
        peer.close()
        for _ in 0..<3 { harness.turn(milliseconds: 2) }
        #expect(harness.events.count == 3)
    }

    @Test(arguments: BackendKind.usable) func closesAListenerQuietly(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let listener = try harness.listen()
        harness.turn()
        harness.close(listener.socket)
        #expect(harness.events.isEmpty)
        let other = try BackendHarness(kind)
        let token = other.token()
        let socket = other.backend.connect(to: listener.address, from: nil, token: token)
        if socket >= 0 {
            #expect(other.completion(token).result == -Int(ECONNREFUSED))
            other.close(socket)
        }
    }

    /// An error comes once and ends the accepting, until the owner asks again.
    @Test(arguments: BackendKind.usable) func acceptsAgainAfterAnError(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0)
        SocketAddress(v4: UInt32(INADDR_LOOPBACK), port: 0).withSockaddr { _ = bind(socket, $0, $1) }
        let address = try #require(harness.backend.localAddress(of: socket))
        #expect(harness.completion(harness.ask(.accept, socket)).result == -Int(EINVAL))
        for _ in 0..<3 { harness.turn(milliseconds: 2) }
        #expect(harness.events.isEmpty)
        listen(socket, 10)
        let again = harness.ask(.accept, socket)
        harness.turn(milliseconds: 5)
        for _ in 0..<3 {
            let peer = try Peer(to: address)
            let event = harness.completion(again)
            #expect(event.result >= 0)
            harness.close(SocketHandle(event.result))
            peer.close()
        }
        harness.close(socket)
    }

    /// A backend that goes while its sockets have operations under way takes them back from the kernel first.
    @Test(arguments: BackendKind.usable) func endsWithOperationsUnderWay(_ kind: BackendKind) throws {
        var harness: BackendHarness? = try BackendHarness(kind)
        let (socket, peer) = try harness!.pair()
        let listener = try harness!.listen()
        harness!.ask(.receive, socket)
        harness!.turn()
        harness = nil
        peer.send([1])
        close(socket)
        close(listener.socket)
    }

    // MARK: Many

    /// More sockets ready at once, and more operations in one turn, than any queue or set of buffers holds.
    @Test(arguments: BackendKind.usable) func servesManySocketsAtOnce(_ kind: BackendKind) throws {
        let count = 600
        let harness = try BackendHarness(kind)
        let listener = try harness.listen()
        harness.turn()
        var peers: [Peer] = []
        for _ in 0..<count { peers.append(try Peer(to: listener.address)) }
        #expect(harness.turns { harness.events.count == count })
        let sockets = harness.events.map { SocketHandle($0.result) }
        harness.events = []
        let byPort = Dictionary(
            uniqueKeysWithValues: sockets.map { (harness.backend.peerAddress(of: $0)!.port, $0) })
        var greeting = Array("220 hello\r\n".utf8)
        greeting.withUnsafeMutableBytes { buffer in
            var vectors = [IOVector](repeating: IOVector(UnsafeRawBufferPointer(buffer)), count: count)
            vectors.withUnsafeMutableBufferPointer { vectors in
                for round in 0..<3 {
                    for at in 0..<count {
                        vectors[at] = IOVector(UnsafeRawBufferPointer(buffer))
                        harness.ask(.send, sockets[at], vectors: vectors.baseAddress! + at, count: 1)
                    }
                    var receives: [Token: SocketHandle] = [:]
                    for socket in sockets { receives[harness.ask(.receive, socket)] = socket }
                    harness.turn()
                    for (at, peer) in peers.enumerated() { peer.send([UInt8(round), UInt8(at & 255), UInt8(at >> 8)]) }
                    #expect(harness.turns { harness.events.count == 2 * count })
                    let sent = harness.events.filter { $0.kind == .send }
                    #expect(sent.count == count && sent.allSatisfy { $0.result == 11 })
                    for event in harness.events where event.kind == .receive {
                        guard event.bytes.count == 3 else {
                            Issue.record("received \(event.result)")
                            continue
                        }
                        let at = Int(event.bytes[1]) | Int(event.bytes[2]) << 8
                        var name = sockaddr_storage()
                        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
                        withUnsafeMutablePointer(to: &name) {
                            _ = $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                                getsockname(peers[at].socket, $0, &size)
                            }
                        }
                        #expect(receives[event.token] == byPort[SocketAddress(name)!.port])
                    }
                    harness.events = []
                }
            }
        }
        for peer in peers { #expect(peer.receive()?.count == 33) }
        for socket in sockets { harness.ask(.receive, socket) }
        harness.turn()
        for socket in sockets { harness.ask(.close, socket) }
        #expect(harness.turns { harness.events.count == 2 * count })
        harness.close(listener.socket)
    }

    /// Connections come and go, each descriptor is used again at once: no completion reaches a token after its close.
    @Test(arguments: BackendKind.usable) func keepsCompletionsOfReusedDescriptorsApart(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let listener = try harness.listen()
        let total = 5_000
        var byteOut: UInt8 = 7
        // What has to come for each token that is under way.
        var expected: [Token: Completion.Kind] = [:]
        var closing: Set<SocketHandle> = []
        var clients: [Token: SocketHandle] = [:]
        var bySocket: [Token: SocketHandle] = [:]
        var begun = 0
        var closed = 0
        var faults = 0
        withUnsafeMutablePointer(to: &byteOut) { byte in
            let vectors = UnsafeMutablePointer<IOVector>.allocate(capacity: 4 * total)
            defer { vectors.deallocate() }
            func end(_ socket: SocketHandle) {
                if !closing.insert(socket).inserted { faults += 1 }
                let close = harness.ask(.close, socket)
                expected[close] = .close
                bySocket[close] = socket
            }
            func begin() {
                let token = harness.token()
                let socket = harness.backend.connect(to: listener.address, from: nil, token: token)
                if closing.contains(socket) { faults += 1 }
                expected[token] = .connect
                clients[token] = socket
                begun += 1
            }
            for _ in 0..<40 { begin() }
            _ = harness.turns {
                // A descriptor is free from the turn on that brought the completion of its close.
                for event in harness.events where event.kind == .close {
                    closing.remove(bySocket.removeValue(forKey: event.token)!)
                }
                for event in harness.events {
                    if event.kind == .accept {
                        guard event.result >= 0 else {
                            faults += 1
                            continue
                        }
                        // Both ends are closed with operations under way.
                        expected[harness.ask(.receive, SocketHandle(event.result))] = .receive
                        end(SocketHandle(event.result))
                        continue
                    }
                    guard expected.removeValue(forKey: event.token) == event.kind else {
                        faults += 1
                        continue
                    }
                    switch event.kind {
                    case .connect:
                        let socket = clients.removeValue(forKey: event.token)!
                        expected[harness.ask(.receive, socket)] = .receive
                        vectors[begun] = IOVector(UnsafeRawBufferPointer(start: byte, count: 1))
                        expected[harness.ask(.send, socket, vectors: vectors + begun, count: 1)] = .send
                        end(socket)
                    case .close:
                        closed += 1
                        if closed % 2 == 0, begun < total { begin() }
                    default: break
                    }
                }
                harness.events = []
                return closed == 2 * total && expected.isEmpty
            }
        }
        #expect(faults == 0)
        #expect(closed == 2 * total)
        harness.close(listener.socket)
    }

    // MARK: Files

    @Test(arguments: BackendKind.usable) func sendsAFileToASlowReader(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        let bytes = pattern(5_000_000)
        var template = Array("/tmp/postern-sendfile-XXXXXX".utf8CString)
        let file = mkstemp(&template)
        defer { close(file) }
        unlink(template)
        try #require(write(file, bytes, bytes.count) == bytes.count)
        let send = harness.ask(.sendFile, socket, file: file, offset: 1_000, length: bytes.count - 2_000)
        harness.turn()
        var got: [UInt8] = []
        while got.count < bytes.count - 2_000, let piece = peer.receive(100_000), !piece.isEmpty {
            got += piece
            harness.turn()
        }
        #expect(harness.completion(send).result == bytes.count - 2_000)
        #expect(got == Array(bytes[1_000..<bytes.count - 1_000]))
        // A file that is shorter than its owner believes.
        let beyond = harness.ask(.sendFile, socket, file: file, offset: Int64(bytes.count - 10), length: 20)
        #expect(harness.completion(beyond).result == -Int(ENODATA))
        harness.close(socket)
    }

    @Test(arguments: BackendKind.usable) func closesWhileAFileIsSent(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (socket, peer) = try harness.pair()
        var template = Array("/tmp/postern-sendfile-XXXXXX".utf8CString)
        let file = mkstemp(&template)
        defer { close(file) }
        unlink(template)
        ftruncate(file, 64 << 20)
        let send = harness.ask(.sendFile, socket, file: file, length: 64 << 20)
        harness.turn(milliseconds: 2)
        let ended = harness.ask(.close, socket)
        #expect(harness.turns { harness.events.count == 2 })
        #expect(harness.events.map(\.token) == [send, ended])
        #expect(harness.events.first?.result == -Int(ECANCELED))
        peer.close()
    }

    @Test(arguments: BackendKind.usable) func runsFileTasksOnBothLanes(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let tasks = (0..<40).map { _ in FileTask(token: harness.token(), device: 1) }
        for (at, task) in tasks.enumerated() {
            task.steps = [.openDirectory(path: "/tmp", create: false)]
            harness.backend.run(task, on: at % 2 == 0 ? .commit : .bulk)
        }
        #expect(harness.turns { harness.finished.count == 40 })
        var order: [[UInt32]] = [[], []]
        for case .files(let task) in harness.finished {
            #expect(task.outcomes.count == 1 && task.outcomes[0].isDone)
            close(Int32(task.outcomes[0].value))
            order[Int(task.token.index) % 2].append(task.token.index)
        }
        #expect(order.allSatisfy { $0 == $0.sorted() && $0.count == 20 })
    }

    @Test(arguments: BackendKind.usable) func returnsWorkAndLookUps(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let (job, query) = (harness.token(), harness.token())
        harness.backend.work(job) { 42 }
        harness.backend.lookUp([1, 2, 3], token: query)
        #expect(harness.turns { harness.finished.count == 2 })
        for finished in harness.finished {
            switch finished {
            case .work(let token, let value): #expect(token == job && value as? Int == 42)
            case .lookup(let token, let answer):
                #expect(token == query)
                #expect(throws: LookupFault.self) { try answer.get() }
            case .files: Issue.record("no file task")
            }
        }
    }

    // MARK: Waiting

    /// Each ring ends the wait, or prevents it: none of 20,000 is lost.
    @Test(arguments: BackendKind.usable) func wakesForEachRing(_ kind: BackendKind) throws {
        final class Count: Sendable {
            let asked = Atomic<Int>(0)
            let seen = Atomic<Int>(0)
        }
        let harness = try BackendHarness(kind)
        let count = Count()
        let doorbell = harness.backend.doorbell
        let rings = 20_000
        let ringer = Thread.start("ringer") {
            for turn in 1...rings {
                count.asked.store(turn, ordering: .releasing)
                doorbell.ring()
                while count.seen.load(ordering: .acquiring) < turn { sched_yield() }
            }
        }
        var seen = 0
        var lost = 0
        while seen < rings {
            let asked = count.asked.load(ordering: .acquiring)
            if asked > seen {
                seen = asked
                count.seen.store(seen, ordering: .releasing)
                continue
            }
            let begun = harness.backend.monotonicNow()
            harness.turn(milliseconds: 1_000)
            if harness.backend.monotonicNow() - begun >= 1_000_000_000 { lost += 1 }
        }
        ringer.join()
        #expect(lost == 0)
    }

    @Test(arguments: BackendKind.usable) func firesTimersInOrderAndNeverEarly(_ kind: BackendKind) throws {
        let harness = try BackendHarness(kind)
        let reactor = Reactor(backend: harness.backend)
        let begun = reactor.now
        let delays: [UInt64] = [60, 5, 30, 90]
        for (at, delay) in delays.enumerated() {
            _ = reactor.setTimer(begun + delay * 1_000_000, Token(kind: 1, generation: 0, index: UInt32(at)))
        }
        let cancelled = reactor.setTimer(begun + 40_000_000, Token(kind: 1, generation: 0, index: 99))
        reactor.cancelTimer(cancelled)
        var order: [UInt32] = []
        while order.count < delays.count {
            reactor.turn(mayWait: true)
            for token in reactor.expired {
                #expect(reactor.now >= begun + delays[Int(token.index)] * 1_000_000)
                order.append(token.index)
            }
        }
        #expect(order == [1, 2, 0, 3])
        // Slept between them: a few turns, not a spin.
        #expect(reactor.turns < 20)
    }

    /// Other suites open and close descriptors meanwhile, but fewer than one a probe.
    @Test func probeLeavesNothingOpen() {
        let before = openDescriptors()
        for _ in 0..<15 { _ = UringBackend.probe() }
        #expect(openDescriptors() - before < 15)
    }

    private func openDescriptors() -> Int { (0..<2048).count { fcntl(Int32($0), F_GETFD) >= 0 } }
}
