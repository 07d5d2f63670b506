import CReactor
import Glibc
import Synchronization
import Testing

@testable import Reactor

/// What the server in the test does with a query: the answer's bytes behind the id, or nothing.
private typealias Behaviour = @Sendable (_ query: [UInt8], _ isTCP: Bool) -> [UInt8]?

/// A DNS server on loopback, UDP and TCP on one port.
private final class Server: Sendable {
    let port: UInt16
    let seen = Mutex<[(query: [UInt8], isTCP: Bool)]>([])
    private let udp: Int32
    private let tcp: Int32
    private let stop: Int32
    private let thread = Mutex<pthread_t?>(nil)
    private let behaviour: Behaviour

    var address: String { "127.0.0.1:\(port)" }

    init(_ behaviour: @escaping Behaviour) throws {
        self.behaviour = behaviour
        (udp, tcp, port) = try Self.bound()
        stop = eventfd(0, 0)
        listen(tcp, 16)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<Server>.fromOpaque(argument!).takeUnretainedValue().run()
                return nil
            }, Unmanaged.passUnretained(self).toOpaque())
        self.thread.withLock { $0 = thread }
    }

    /// Before the last reference goes.
    func end() {
        var one: UInt64 = 1
        _ = write(stop, &one, 8)
        if let thread = thread.withLock({ $0.take() }) { pthread_join(thread, nil) }
        for descriptor in [udp, tcp, stop] { close(descriptor) }
    }

    /// Two sockets with one port that the kernel chose.
    private static func bound() throws -> (udp: Int32, tcp: Int32, port: UInt16) {
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        func withAddress<R>(_ body: (UnsafeMutablePointer<sockaddr>) -> R) -> R {
            withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0) }
            }
        }
        for _ in 0..<20 {
            let udp = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            let tcp = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            if withAddress({ Glibc.bind(udp, $0, size) }) == 0, withAddress({ getsockname(udp, $0, &size) }) == 0,
                withAddress({ Glibc.bind(tcp, $0, size) }) == 0
            {
                return (udp, tcp, UInt16(bigEndian: address.sin_port))
            }
            close(udp)
            close(tcp)
        }
        throw NoPort()
    }

    private struct NoPort: Error {}

    private func run() {
        var peers: [Int32] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            var list = ([stop, udp, tcp] + peers).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            poll(&list, nfds_t(list.count), -1)
            if list[0].revents != 0 { break }
            if list[1].revents != 0 {
                var from = sockaddr_in()
                var size = socklen_t(MemoryLayout<sockaddr_in>.size)
                withUnsafeMutablePointer(to: &from) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { from in
                        let count = recvfrom(udp, &buffer, buffer.count, 0, from, &size)
                        if let answer = answer(Array(buffer[..<max(count, 0)]), isTCP: false) {
                            sendto(udp, answer, answer.count, 0, from, size)
                        }
                    }
                }
            }
            if list[2].revents != 0 { peers.append(accept(tcp, nil, nil)) }
            for ready in list.dropFirst(3) where ready.revents != 0 {
                let count = read(ready.fd, &buffer, buffer.count)
                guard count > 2 else {
                    close(ready.fd)
                    peers.removeAll { $0 == ready.fd }
                    continue
                }
                if let answer = answer(Array(buffer[2..<count]), isTCP: true) {
                    let framed = [UInt8(answer.count >> 8), UInt8(answer.count & 0xFF)] + answer
                    _ = write(ready.fd, framed, framed.count)
                }
            }
        }
        for peer in peers { close(peer) }
    }

    private func answer(_ query: [UInt8], isTCP: Bool) -> [UInt8]? {
        seen.withLock { $0.append((query, isTCP)) }
        return behaviour(query, isTCP).map { Array(query[..<2]) + $0 }
    }
}

/// A query for the addresses of `label`.test with RD and AD set, and an EDNS record (RFC 6891 §6.1.2).
private func query(_ label: String, id: UInt16 = 0x1234) -> [UInt8] {
    [UInt8(id >> 8), UInt8(id & 0xFF), 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1]
        + [UInt8(label.utf8.count)] + Array(label.utf8) + [4] + Array("test".utf8) + [0, 0, 1, 0, 1]
        + [0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0]
}

/// The answer to `query` behind its id: header with `flags` and `rcode`, the question, then `filler`.
private func reply(_ query: [UInt8], rcode: UInt8 = 0, truncated: Bool = false, filler: Int = 0) -> [UInt8] {
    [truncated ? 0x83 : 0x81, 0xA0 | rcode, 0, 1, 0, 0, 0, 0, 0, 0] + query[12..<(query.count - 11)]
        + [UInt8](repeating: 0, count: filler)
}

/// Asks and waits.
private func ask(_ transport: DNSTransport, _ query: [UInt8]) async -> Result<[UInt8], DNSTransportFault> {
    await withCheckedContinuation { continuation in
        do throws(DNSTransportFault) {
            try transport.send(query: query) { continuation.resume(returning: $0) }
        } catch {
            continuation.resume(returning: .failure(error))
        }
    }
}

@Suite struct DNSTransportTests {
    @Test func answerComesBackWholeWithTheQuerysId() async throws {
        let server = try Server { query, _ in reply(query) }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address])
        let sent = query("mx")
        let answer = try await ask(transport, sent).get()
        #expect(answer == [0x12, 0x34] + reply(sent))
        #expect(answer[3] & 0x20 != 0)  // AD
        for _ in 0..<7 { _ = try await ask(transport, sent).get() }
        let ids = server.seen.withLock { $0.map { [$0.query[0], $0.query[1]] } }
        #expect(Set(ids).count > 6)  // random on the wire
        let first = server.seen.withLock { $0[0].query }
        #expect(first[2...] == sent[2...])  // and nothing else changed
    }

    @Test(arguments: [UInt8(1), 2, 3, 4, 5])
    func errorsAreAnswers(rcode: UInt8) async throws {
        let server = try Server { query, _ in reply(query, rcode: rcode) }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address])
        let sent = query("mx")
        #expect(try await ask(transport, sent).get() == [0x12, 0x34] + reply(sent, rcode: rcode))
        #expect(server.seen.withLock { $0.count } == 1)
        // The next query goes out as it is, too.
        _ = try await ask(transport, sent).get()
        #expect(server.seen.withLock { $0[1].query[2...] } == sent[2...])
    }

    @Test func truncatedAnswerIsAskedForOverTCP() async throws {
        let server = try Server { query, isTCP in reply(query, truncated: !isTCP, filler: isTCP ? 20_000 : 0) }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address])
        for label in ["a", "b"] {
            let sent = query(label)
            #expect(try await ask(transport, sent).get() == [0x12, 0x34] + reply(sent, filler: 20_000))
        }
        #expect(server.seen.withLock { $0.map(\.isTCP) } == [false, true, false, true])
    }

    @Test func largeAnswerOverUDPIsNotCut() async throws {
        let server = try Server { query, _ in reply(query, filler: 1_000) }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address])
        let sent = query("mx")
        #expect(try await ask(transport, sent).get() == [0x12, 0x34] + reply(sent, filler: 1_000))
    }

    @Test func silenceTimesOutAfterTheTries() async throws {
        let server = try Server { _, _ in nil }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address], timeoutMilliseconds: 20, tries: 2)
        #expect(await ask(transport, query("mx")) == .failure(.timedOut))
        #expect(server.seen.withLock { $0.count } == 2)
    }

    @Test func answersToOtherQuestionsAreNotBelieved() async throws {
        let server = try Server { query, _ in
            var other = reply(query)
            other[11] ^= 1
            return other
        }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address], timeoutMilliseconds: 20, tries: 1)
        #expect(await ask(transport, query("mx")) == .failure(.timedOut))
    }

    @Test(arguments: [0, 1, 9, 11])
    func stumpsOfAnswersAreNotBelieved(count: Int) async throws {
        let server = try Server { query, _ in Array(reply(query)[..<count]) }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address], timeoutMilliseconds: 20, tries: 1)
        #expect(await ask(transport, query("mx")) == .failure(.timedOut))
    }

    @Test func noServerThere() async throws {
        let server = try Server { _, _ in nil }
        let address = server.address
        server.end()
        let transport = try DNSTransport(servers: [address], timeoutMilliseconds: 100, tries: 1)
        #expect(await ask(transport, query("mx")) == .failure(.unreachable))
    }

    @Test func secondServerIsAskedWhenTheFirstIsSilent() async throws {
        let silent = try Server { _, _ in nil }
        let server = try Server { query, _ in reply(query) }
        defer {
            silent.end()
            server.end()
        }
        let transport = try DNSTransport(
            servers: [silent.address, server.address], timeoutMilliseconds: 20, tries: 2)
        _ = try await ask(transport, query("mx")).get()
        #expect(server.seen.withLock { $0.count } == 1)
    }

    @Test func manyAtOnce() async throws {
        let server = try Server { query, _ in reply(query) }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address])
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<100 {
                group.addTask {
                    let sent = query("host\(number)", id: UInt16(number))
                    let answer = try await ask(transport, sent).get()
                    #expect(answer == Array(sent[..<2]) + reply(sent))
                }
            }
            try await group.waitForAll()
        }
    }

    @Test func outstandingIsBoundedAndShutDownCompletesThem() throws {
        let server = try Server { _, _ in nil }
        defer { server.end() }
        let transport = try DNSTransport(servers: [server.address], timeoutMilliseconds: 60_000)
        let counter = Counters()
        for _ in 0..<DNSTransport.outstandingMax {
            try transport.send(query: query("mx")) { result in
                counter.completed.add(1, ordering: .relaxed)
                if result != .failure(.shutDown) { counter.wrong.add(1, ordering: .relaxed) }
            }
        }
        #expect(throws: DNSTransportFault.overloaded) { try transport.send(query: query("mx")) { _ in } }
        transport.shutDown()
        transport.shutDown()
        #expect(counter.completed.load(ordering: .relaxed) == DNSTransport.outstandingMax)
        #expect(counter.wrong.load(ordering: .relaxed) == 0)
        #expect(throws: DNSTransportFault.shutDown) { try transport.send(query: query("mx")) { _ in } }
    }

    private final class Counters: Sendable {
        let completed = Atomic(0)
        let wrong = Atomic(0)
    }

    @Test func lastReferenceInACompletion() async throws {
        let server = try Server { query, _ in reply(query) }
        defer { server.end() }
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let box = Box(try? DNSTransport(servers: [server.address]))
            try? box.transport.withLock { $0 }?.send(query: query("mx")) { _ in
                box.transport.withLock { $0 = nil }
                continuation.resume()
            }
        }
    }

    private final class Box: Sendable {
        let transport: Mutex<DNSTransport?>
        init(_ transport: DNSTransport?) { self.transport = Mutex(transport) }
    }

    @Test(arguments: [
        "", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:5a", "[::1", "[::1]53", "1.2.3",
        "127.0.0.1,127.0.0.2", ":53",
    ])
    func wrongServersAreRefused(text: String) {
        #expect(throws: DNSTransportFault.self) { try DNSTransport(servers: [text]) }
    }

    @Test(arguments: [["127.0.0.1"], ["[::1]:5353"], ["::1"], ["[::1]"], ["127.0.0.1:53", "127.0.0.2:53"], []])
    func serversAreTaken(servers: [String]) throws {
        try DNSTransport(servers: servers).shutDown()
    }

    @Test func wrongQueriesAreRefused() throws {
        let transport = try DNSTransport(servers: ["127.0.0.1:9"])
        for bad in [[], Array(query("a")[..<12]), [UInt8](repeating: 0, count: 600)] {
            #expect(throws: DNSTransportFault.badQuery) { try transport.send(query: bad) { _ in } }
        }
    }
}
