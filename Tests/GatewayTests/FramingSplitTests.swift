import CReactor
import Foundation
import Glibc
import Reactor
import Testing

@testable import Gateway

/// Waits until the other side of a socket has read all that was sent: only then is the next piece a read of its own.
private func waitUntilRead(_ descriptor: Int32) {
    for _ in 0..<600_000 {
        var unread: Int32 = 0
        // SIOCOUTQ: of a UNIX socket what the reader has not taken yet.
        guard ioctl(descriptor, 0x5411, &unread) == 0, unread > 0 else { return }
        usleep(100)
    }
    Issue.record("not read in time")
}

private func send(_ bytes: some Collection<UInt8>, _ descriptor: Int32) {
    let bytes = Array(bytes)
    #expect(
        bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) } == bytes.count)
}

/// The messages of the control socket and of DNS over TCP, cut at every byte.
struct FramingSplitTests {
    /// What comes until `lines` line feeds or the end, within a minute.
    private func read(_ lines: Int, _ descriptor: Int32) -> String {
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        var wanted = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        while text.count(where: { $0 == 10 }) < lines, poll(&wanted, 1, 60_000) == 1 {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            guard count > 0 else { break }
            text += buffer[..<count]
        }
        return String(decoding: text, as: UTF8.self)
    }

    private func folder() throws -> String {
        let folder = NSTemporaryDirectory() + "split-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        return folder
    }

    @Test("requests on the control socket are the same however they are cut") func controlRequests() throws {
        let folder = try folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let path = ControlClient.path(dataFolder: folder)
        let server = try ControlServer(path: path, service: ControlService(try IdleMailProcess()))
        let ended = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            server.run()
            ended.signal()
        }
        defer {
            server.stop()
            ended.wait()
        }
        let request =
            Array(
                #"{"v":1,"command":"ready"}"#.utf8) + [10]
            + Array(
                #"{"v":1,"command":"gateway.show","arguments":{"domain":"größe.test"}}"#.utf8) + [10]
            + Array("x\n".utf8)
        func answers(_ cuts: Cuts) throws -> String {
            let descriptor = try rawClient(path)
            defer { close(descriptor) }
            for piece in cuts.pieces(of: request, from: 0) {
                send(piece, descriptor)
                waitUntilRead(descriptor)
            }
            return read(3, descriptor)
        }
        let whole = try answers(Cuts(places: []))
        #expect(whole.split(separator: "\n").count == 3 && whole.contains("there is no gateway"), "\(whole)")
        for cuts in Cuts.all(request.count, pairsUpTo: 0) {
            let cut = try answers(cuts)
            #expect(cut == whole, "\(cuts)")
        }
    }

    @Test("answers on the control socket are the same however they are cut") func controlAnswers() throws {
        let folder = try folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let path = ControlClient.path(dataFolder: folder)
        let listener = try ControlSocket.make()
        defer { close(listener) }
        #expect(try ControlSocket.withAddress(path) { bind(listener, $0, $1) }.status == 0)
        #expect(listen(listener, 16) == 0)
        let answer = Array("{\"ok\":true,\"result\":{\"ready\":true},\"warnings\":[\"é\"]}\n".utf8)
        let all = Cuts.all(answer.count, pairsUpTo: 0)
        let pieces = all.map { $0.pieces(of: answer, from: 0) }
        let served = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            for pieces in pieces {
                var wanted = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
                guard poll(&wanted, 1, 60_000) == 1 else { break }
                let peer = accept(listener, nil, nil)
                var byte: UInt8 = 0
                while recv(peer, &byte, 1, 0) == 1, byte != 10 {}
                for piece in pieces {
                    send(piece, peer)
                    waitUntilRead(peer)
                }
                close(peer)
            }
            served.signal()
        }
        for cuts in all {
            let client = try ControlClient(path: path, timeoutSeconds: 60)
            let said = try client.ask("ready", as: ControlReadiness.self)
            #expect(said.result.ready && said.warnings == ["é"], "\(cuts)")
        }
        served.wait()
    }

    // MARK: DNS

    /// TCP's queue empties when the peer's kernel has the bytes; that its program has them says only the kernel's table.
    private static func waitUntilPeerHasRead(_ descriptor: Int32) {
        for _ in 0..<60_000 {
            guard let count = unreadBytes(descriptor) else { break }
            if count == 0 { return }
            usleep(1_000)
        }
        Issue.record("not read in time")
    }

    private static func unreadBytes(_ descriptor: Int32) -> Int? {
        func port(_ ask: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32) -> String? {
            var address = sockaddr_in()
            var size = socklen_t(MemoryLayout<sockaddr_in>.size)
            let status = withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { ask($0, &size) }
            }
            let text = String(UInt16(bigEndian: address.sin_port), radix: 16, uppercase: true)
            return status == 0 ? ":" + String(repeating: "0", count: 4 - text.count) + text : nil
        }
        guard let ours = port({ getsockname(descriptor, $0, $1) }),
            let theirs = port({ getpeername(descriptor, $0, $1) }),
            let table = try? FileHandle(forReadingFrom: URL(filePath: "/proc/net/tcp")).readToEnd(),
            // `local remote state tx_queue:rx_queue`, the peer's line.
            let line = table.range(of: Data(" 0100007F\(theirs) 0100007F\(ours) ".utf8))
        else { return nil }
        return Int(String(decoding: table[line.upperBound...].dropFirst(12).prefix(8), as: UTF8.self), radix: 16)
    }

    /// Answers over UDP that they are cut off, and over TCP in pieces.
    private func serve(_ udp: Int32, _ tcp: Int32, _ filler: Int, _ all: [Cuts]) {
        var buffer = [UInt8](repeating: 0, count: 4_096)
        for cuts in all {
            var from = sockaddr_in()
            var size = socklen_t(MemoryLayout<sockaddr_in>.size)
            var wanted = pollfd(fd: udp, events: Int16(POLLIN), revents: 0)
            guard poll(&wanted, 1, 60_000) == 1 else { return }
            withUnsafeMutablePointer(to: &from) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { from in
                    let count = recvfrom(udp, &buffer, buffer.count, 0, from, &size)
                    let answer = Self.reply(Array(buffer[..<count]), truncated: true, filler: 0)
                    sendto(udp, answer, answer.count, 0, from, size)
                }
            }
            wanted.fd = tcp
            guard poll(&wanted, 1, 60_000) == 1 else { return }
            let peer = accept(tcp, nil, nil)
            var one: Int32 = 1
            setsockopt(peer, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
            let count = recv(peer, &buffer, buffer.count, 0)
            let answer = Self.reply(Array(buffer[2..<count]), truncated: false, filler: filler)
            let framed = [UInt8(answer.count >> 8), UInt8(answer.count & 0xff)] + answer
            let pieces = cuts.pieces(of: framed, from: 0)
            for piece in pieces.dropLast() {
                send(piece, peer)
                Self.waitUntilPeerHasRead(peer)
            }
            send(pieces.last!, peer)
            close(peer)
        }
    }

    private static func reply(_ query: [UInt8], truncated: Bool, filler: Int) -> [UInt8] {
        query[..<2] + [truncated ? 0x83 : 0x81, 0xA0, 0, 1, 0, 0, 0, 0, 0, 0] + query[12..<(query.count - 11)]
            + [UInt8](repeating: 0, count: filler)
    }

    private final class Answer: @unchecked Sendable {
        var result = Result<[UInt8], DNSTransportFault>.failure(.timedOut)
    }

    private func ask(_ transport: DNSTransport, _ query: [UInt8]) -> Result<[UInt8], DNSTransportFault> {
        let answer = Answer()
        let done = DispatchSemaphore(value: 0)
        do throws(DNSTransportFault) {
            try transport.send(query: query) {
                answer.result = $0
                done.signal()
            }
        } catch { return .failure(error) }
        done.wait()
        return answer.result
    }

    @Test("answers of DNS over TCP are the same however they are cut") func dnsOverTCP() throws {
        let udp = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        let tcp = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { for descriptor in [udp, tcp] { close(descriptor) } }
        let port = try #require(Self.bindAlike(udp, tcp))
        listen(tcp, 16)
        let filler = 4
        let query: [UInt8] =
            [0x12, 0x34, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1, 1, 97, 4] + Array("test".utf8)
            + [0, 0, 1, 0, 1] + [0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0]
        let expected = Self.reply(query, truncated: false, filler: filler)
        let all =
            Cuts.all(expected.count + 2, pairsUpTo: 0).filter { $0.places.count == 1 }
            + [Cuts(places: Array(1...expected.count))]
        let served = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            serve(udp, tcp, filler, all)
            served.signal()
        }
        defer { served.wait() }
        for cuts in all {
            // A new one each: it would keep its connection.
            let transport = try DNSTransport(servers: ["127.0.0.1:\(port)"], timeoutMilliseconds: 60_000, tries: 1)
            let answer = ask(transport, query)
            #expect(answer == .success(expected), "\(cuts)")
            guard answer == .success(expected) else { break }
        }
    }

    /// Both sockets on one port of 127.0.0.1 that the kernel chose.
    private static func bindAlike(_ udp: Int32, _ tcp: Int32) -> UInt16? {
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        func with(_ body: (UnsafeMutablePointer<sockaddr>) -> Int32) -> Bool {
            withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0) } == 0
            }
        }
        guard with({ bind(tcp, $0, size) }), with({ getsockname(tcp, $0, &size) }), with({ bind(udp, $0, size) }) else {
            return nil
        }
        return UInt16(bigEndian: address.sin_port)
    }
}
