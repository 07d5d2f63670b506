import Foundation
import Glibc
import Testing

@testable import Gateway

/// A server on a socket of its own, for the time of `body`.
private func withServer(
    folderName: String = "c", _ process: IdleMailProcess, _ body: (String) throws -> Void
) throws {
    let root = NSTemporaryDirectory() + "control-\(UInt32.random(in: 0...UInt32.max))"
    let folder = "\(root)/\(folderName)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: root) }
    let path = ControlClient.path(dataFolder: folder)
    let server = try ControlServer(path: path, service: ControlService(process))
    let ended = DispatchSemaphore(value: 0)
    Thread.detachNewThread {
        server.run()
        ended.signal()
    }
    defer {
        server.stop()
        ended.wait()
        #expect(!FileManager.default.fileExists(atPath: path))
    }
    try body(path)
}

/// A connected socket that says only what it is told to.
func rawClient(_ path: String) throws -> Int32 {
    let descriptor = try ControlSocket.make()
    var (status, fault) = try ControlSocket.withAddress(path) { connect(descriptor, $0, $1) }
    while fault == EAGAIN {
        usleep(1_000)
        (status, fault) = try ControlSocket.withAddress(path) { connect(descriptor, $0, $1) }
    }
    #expect(status == 0)
    return descriptor
}

/// What comes until a line feed or the end, within 5 s.
private func line(from descriptor: Int32) -> String {
    var text: [UInt8] = []
    var byte: UInt8 = 0
    var wanted = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    while text.last != UInt8(ascii: "\n"), poll(&wanted, 1, 5_000) == 1, recv(descriptor, &byte, 1, 0) == 1 {
        text.append(byte)
    }
    return String(decoding: text, as: UTF8.self)
}

@Test func controlSocketAnswers() throws {
    let process = try IdleMailProcess()
    try withServer(process) { path in
        var status = stat()
        #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
        let client = try ControlClient(path: path, timeoutSeconds: 5)
        #expect(try client.ask("status", as: ServerStatus.self).result == process.status())
        let created = try client.ask(
            "gateway.create",
            [
                DocumentValue.Member("domain", DocumentValue(.text("a.test"))),
                DocumentValue.Member("set", DocumentValue(.list([DocumentValue(.text("forward.port=2525"))]))),
            ], as: GatewayReport.self)
        #expect(created.result.document.forward.port == 2525 && created.warnings == ["no next hop"])
        #expect(throws: ControlFault(.notFound, "there is no gateway `b.test`")) {
            try client.ask(
                "gateway.show", [DocumentValue.Member("domain", DocumentValue(.text("b.test")))], as: GatewayReport.self
            )
        }
        // The connection is good for more after a refusal.
        #expect(try client.ask("ready", as: ControlReadiness.self).result.ready)
    }
}

@Test func controlSocketTakesRequestsInAnyPieces() throws {
    try withServer(try IdleMailProcess()) { path in
        let descriptor = try rawClient(path)
        defer { close(descriptor) }
        let request = Array("{\"v\":1,\"command\":\"ready\"}\n".utf8)
        for byte in request { #expect([byte].withUnsafeBytes { send(descriptor, $0.baseAddress, 1, 0) } == 1) }
        #expect(line(from: descriptor) == "{\"ok\":true,\"result\":{\"ready\":true},\"warnings\":[]}\n")
        // Several at once, then no more: all are answered before the end.
        let three = request + Array("nonsense\n".utf8) + request
        #expect(three.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, 0) } == three.count)
        shutdown(descriptor, Int32(SHUT_WR))
        #expect(line(from: descriptor).contains("\"ready\":true"))
        #expect(line(from: descriptor).contains("refused"))
        #expect(line(from: descriptor).contains("\"ready\":true"))
        #expect(line(from: descriptor).isEmpty)
    }
}

@Test func controlSocketCarriesLargeAnswers() throws {
    let process = try IdleMailProcess()
    process.state.withLock { state in
        state.messages = [waitingMessage("a.test")]
        state.content = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    }
    try withServer(process) { path in
        let client = try ControlClient(path: path, timeoutSeconds: 30)
        let content = try client.ask(
            "queue.export", [DocumentValue.Member("id", DocumentValue(.text(firstMessageID)))], as: ControlContent.self
        ).result.content
        #expect(Array(content) == process.state.withLock { $0.content })
    }
}

@Test func controlSocketRefusesEndlessRequests() throws {
    try withServer(try IdleMailProcess()) { path in
        let descriptor = try rawClient(path)
        defer { close(descriptor) }
        let chunk = [UInt8](repeating: UInt8(ascii: "a"), count: 1 << 20)
        var wanted = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        var sent = 0
        while sent <= ControlProtocol.Limits.requestBytes + chunk.count, poll(&wanted, 1, 5_000) == 1 {
            let count = chunk.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0 { break }
            sent += count
        }
        #expect(sent <= ControlProtocol.Limits.requestBytes + 2 * chunk.count)
        #expect(line(from: descriptor).contains("longer than 16M bytes"))
    }
}

@Test func controlSocketMakesRoomForNewClients() throws {
    try withServer(try IdleMailProcess()) { path in
        var silent: [Int32] = []
        defer { for descriptor in silent { close(descriptor) } }
        for _ in 0..<ControlProtocol.Limits.clients + 20 { silent.append(try rawClient(path)) }
        let client = try ControlClient(path: path, timeoutSeconds: 5)
        #expect(try client.ask("ready", as: ControlReadiness.self).result.ready)
        #expect(line(from: silent[0]).isEmpty)
    }
}

@Test func controlSocketWithALongPath() throws {
    let name = String(repeating: "long/", count: 40) + "end"
    try withServer(folderName: name, try IdleMailProcess()) { path in
        #expect(path.utf8.count > 200)
        let client = try ControlClient(path: path, timeoutSeconds: 5)
        #expect(try client.ask("ready", as: ControlReadiness.self).result.ready)
    }
}

@Test func controlSocketOfADeadServerIsReplaced() throws {
    let process = try IdleMailProcess()
    let folder = NSTemporaryDirectory() + "control-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = ControlClient.path(dataFolder: folder)
    #expect(throws: ControlFault(.notRunning, "no server is running on \(path): start one with `postern serve`")) {
        try ControlClient(path: path)
    }
    let stale = try ControlSocket.make()
    #expect(try ControlSocket.withAddress(path) { bind(stale, $0, $1) }.status == 0)
    close(stale)
    #expect(throws: ControlFault.self) { try ControlClient(path: path) }

    let server = try ControlServer(path: path, service: ControlService(process))
    #expect(throws: ControlFault(.failed, "another server answers on \(path)")) {
        try ControlServer(path: path, service: ControlService(process))
    }
    server.stop()
    server.run()

    try Data("mine".utf8).write(to: URL(filePath: path))
    #expect(throws: ControlFault.self) { try ControlServer(path: path, service: ControlService(process)) }
    #expect(try Data(contentsOf: URL(filePath: path)) == Data("mine".utf8))
}

@Test func controlClientDoesNotWaitForEver() throws {
    let folder = NSTemporaryDirectory() + "control-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // Opened, and nobody runs it.
    let path = ControlClient.path(dataFolder: folder)
    let server = try ControlServer(path: path, service: ControlService(try IdleMailProcess()))
    let client = try ControlClient(path: path, timeoutSeconds: 0)
    #expect(throws: ControlFault.self) { try client.ask("ready", as: ControlReadiness.self) }
    server.stop()
    server.run()
    client.waitForEnd()
}
