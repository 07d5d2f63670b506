import Foundation
import Glibc
import Synchronization
import Testing

@testable import Gateway

/// A mail process that carries no mail: it keeps what it was told, and a queue that a test puts there.
private final class IdleMailProcess: MailProcess {
    struct State {
        var events: [String] = []
        var messages: [QueuedMessage] = []
        /// What `created`, `updated` and `deleting` throw next.
        var fault: ControlFault?
        var isReady = true
        var content: [UInt8] = []
    }

    let directory: any Directory
    let state = Mutex(State())

    init() throws { directory = try SQLiteDirectory(inMemoryWith: { 1_700_000_000_000 }) }

    var events: [String] { state.withLock { $0.events } }
    var isReady: Bool { state.withLock { $0.isReady } }

    private func note(_ event: String) throws(ControlFault) {
        let fault = state.withLock { state in
            state.events.append(event)
            defer { state.fault = nil }
            return state.fault
        }
        if let fault { throw fault }
    }

    func status() -> ServerStatus {
        let ready = isReady
        return ServerStatus(
            version: "1.2.3", io: "epoll", hostname: "mx.test",
            reactors: [
                ServerStatus.Reactor(
                    cpu: nil, sessions: 1, forwardSessions: 2, queued: 3, longestTurnMicroseconds: 450, busy: 0.25)
            ], accepted: 7, delivered: 4, deferred: 0, bounced: 0, queued: 3, held: 1, gateways: 2, startedAt: 1_700_000_000,
            ready: ready, notReady: ready ? nil : "stores are being listed", alarms: [])
    }

    func created(_ gateway: StoredGateway) throws(ControlFault) -> [String] {
        try note("created \(gateway.document.domain)")
        return gateway.document.forward.server == nil ? ["no next hop"] : []
    }

    func updated(_ gateway: StoredGateway) throws(ControlFault) -> [String] {
        try note("updated \(gateway.document.domain)")
        return []
    }

    func deleting(_ gateway: StoredGateway, mail: MailDisposal) throws(ControlFault) {
        try note("deleting \(gateway.document.domain) \(mail)")
    }

    func deleted(_ gateway: StoredGateway) { try? note("deleted \(gateway.document.domain)") }
    func settingsChanged() { try? note("settings") }

    func queue(domain: String?, limit: Int) throws(ControlFault) -> [QueuedMessage] {
        let all = state.withLock { $0.messages }
        return Array(all.filter { domain == nil || $0.domain == domain }.prefix(limit))
    }

    func flush(domain: String?) throws(ControlFault) -> Int { try queue(domain: domain, limit: .max).count }

    func message(_ id: QueueID) throws(ControlFault) -> QueuedMessage {
        guard let message = state.withLock({ $0.messages.first { $0.id == id.description } }) else {
            throw ControlFault(.notFound, "no message \(id) waits here")
        }
        return message
    }

    func delete(_ id: QueueID) throws(ControlFault) {
        _ = try message(id)
        state.withLock { $0.messages.removeAll { $0.id == id.description } }
    }

    func bounce(_ id: QueueID) throws(ControlFault) { try delete(id) }
    func export(_ id: QueueID) throws(ControlFault) -> [UInt8] { state.withLock { $0.content } }

    func health(domain: String?) -> [QueueHealth] {
        let domains = Set(state.withLock { $0.messages }.map(\.domain)).filter { domain == nil || $0 == domain }
        return domains.sorted().map { domain in
            let waiting = state.withLock { $0.messages }.filter { $0.domain == domain }
            return QueueHealth(
                domain: domain, destination: "", state: "down", detail: "connection refused", queued: waiting.count,
                bytes: waiting.reduce(0) { $0 + $1.bytes }, sessions: 0, oldest: waiting.map(\.receivedAt).min())
        }
    }

    func metrics() -> [Metric] { Metric.all([Counters()], status: status(), health: health(domain: nil)) }
}

private let firstID = QueueID(milliseconds: 1_700_000_000_000, start: 1, reactor: 0, counter: 1).description

private func message(_ domain: String, id: String = firstID, bytes: Int = 100) -> QueuedMessage {
    QueuedMessage(
        id: id, domain: domain, from: "", recipients: ["a@\(domain)"], bytes: bytes, receivedAt: 1_700_000_000.25,
        state: .deferred, attempts: 2, nextAttempt: nil, lastReply: "451 4.3.0 later")
}

/// One question without a socket: the whole answer as text.
private func answer(_ process: IdleMailProcess, _ request: String) -> String {
    String(decoding: ControlService(process).answer(Array(request.utf8)), as: UTF8.self)
}

private func ask(_ process: IdleMailProcess, _ command: String, _ arguments: String = "{}") -> String {
    answer(process, #"{"v":1,"command":"\#(command)","arguments":\#(arguments)}"#)
}

// MARK: Service

@Test func controlRefusesWhatIsNoRequest() throws {
    let process = try IdleMailProcess()
    for request in ["", "{", "[]", "null", "7", #"{"command":"status"}"#, "\u{0}", #"{"v":1}"#] {
        #expect(answer(process, request).hasPrefix(#"{"error":{"code":"refused","#), "\(request)")
        #expect(answer(process, request).hasSuffix("\n"))
    }
    #expect(ask(process, "gateway.fly").contains("unknown command `gateway.fly`"))
    #expect(answer(process, #"{"v":2,"command":"status"}"#).contains("protocol version 2 is unknown"))
    #expect(ask(process, "status", "[1]").contains("`arguments` is no map"))
    #expect(ask(process, "gateway.show").contains("`domain` is missing"))
    #expect(ask(process, "gateway.show", #"{"domain":{"a":1}}"#).contains("`domain` takes text"))
    #expect(answer(process, String(repeating: "[", count: 100_000)).contains("refused"))
}

@Test func controlStatusHasTheContractsKeys() throws {
    let process = try IdleMailProcess()
    // Without `arguments`, too.
    let text = answer(process, #"{"v":1,"command":"status"}"#)
    for key in ["version", "io", "reactors", "cpu", "accepted", "delivered", "queued", "held"] {
        #expect(text.contains("\"\(key)\":"), "\(key)")
    }
    process.state.withLock { $0.isReady = false }
    #expect(ask(process, "ready").contains(#""result":{"ready":false,"reason":"stores are being listed"}"#))
}

@Test func controlCreatesAGatewayInOneLine() throws {
    let process = try IdleMailProcess()
    let text = ask(
        process, "gateway.create", #"{"domain":"Altn.TEST","server":"mail.altn.test:2525","set":["quota.bytes=1G"]}"#)
    #expect(text.contains(#""ok":true"#) && text.contains(#""domain":"altn.test""#) && text.contains(#""id":1"#))
    let stored = try process.directory.get("altn.test")
    #expect(stored.document.forward.server == MailServer("mail.altn.test") && stored.document.forward.port == 2525)
    #expect(stored.document.quota.maxBytes == 1 << 30)
    #expect(process.events == ["created altn.test"])

    #expect(ask(process, "gateway.create", #"{"domain":"b.test"}"#).contains(#""warnings":["no next hop"]"#))
    #expect(ask(process, "gateway.create", #"{"domain":"b.test"}"#).contains("exists already"))
    #expect(
        ask(process, "gateway.create", #"{"document":{"domain":"c.test","forward":{"port":26}}}"#).contains(#""ok":true"#))
    #expect(try process.directory.get("c.test").document.forward.port == 26)
}

@Test func controlRefusesWhatAGatewayDoesNotTake() throws {
    let process = try IdleMailProcess()
    #expect(
        ask(process, "gateway.create", #"{"domain":"a.test","account":"me@b.test"}"#)
            .contains("`forward.account`: not in this version"))
    for arguments in [
        #"{"domain":"../x"}"#, #"{"domain":"a.test","server":"a b"}"#, #"{"domain":"a.test","server":"h:0"}"#,
        #"{"domain":"a.test","set":["nokey=1"]}"#, #"{"domain":"a.test","set":"x"}"#, #"{"domain":"a.test","set":[{}]}"#,
        #"{"domain":7}"#, "{}",
    ] {
        #expect(ask(process, "gateway.create", arguments).contains(#""code":"refused""#), "\(arguments)")
    }
    #expect(try process.directory.list().isEmpty && process.events.isEmpty)
}

@Test func controlTakesAGatewayBackWhoseStoreCannotBeUsed() throws {
    let process = try IdleMailProcess()
    process.state.withLock { $0.fault = ControlFault(.failed, "stores/a.test: no space left") }
    #expect(ask(process, "gateway.create", #"{"domain":"a.test"}"#).contains("no space left"))
    #expect(try process.directory.list().isEmpty)
    #expect(process.events == ["created a.test", "deleted a.test"])

    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    process.state.withLock { $0.fault = ControlFault(.refused, "`mailDirectory`: in use") }
    #expect(ask(process, "gateway.set", #"{"domain":"a.test","set":["mailDirectory=/b"]}"#).contains("in use"))
    #expect(try process.directory.get("a.test").document.mailDirectory == nil)
}

@Test func controlChangesAGatewayWholeOrNotAtAll() throws {
    let process = try IdleMailProcess()
    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    let changed = ask(
        process, "gateway.set",
        #"{"domain":"a.test","etag":"1-1","document":{"forward":{"port":26}},"set":["retry.schedule=[2m,4m]","enabled=false"]}"#)
    #expect(changed.contains(#""etag":"1-2""#) && changed.contains(#""schedule":["2m","4m"]"#), "\(changed)")
    #expect(
        ask(process, "gateway.set", #"{"domain":"a.test","etag":"1-1","set":["hold=true"]}"#).contains(
            #""code":"conflict""#))
    #expect(ask(process, "gateway.set", #"{"domain":"a.test","set":["hold=true","nokey=1"]}"#).contains("refused"))
    #expect(try process.directory.get("a.test").version == 2)
    #expect(ask(process, "gateway.set", #"{"domain":"x.test","set":[]}"#).contains(#""code":"notFound""#))
}

@Test func controlShowsAGatewayWithItsQueue() throws {
    let process = try IdleMailProcess()
    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    process.state.withLock { $0.messages = [message("a.test", bytes: 300)] }
    let line = ControlService(process).answer(
        Array(#"{"v":1,"command":"gateway.show","arguments":{"domain":"a.test"}}"#.utf8))
    let report = try ControlProtocol.decode(ControlAnswer<GatewayReport>.self, line).result
    #expect(report.document.json == (try process.directory.get("a.test").document.json))
    #expect(report.status.queued == 1 && report.status.bytes == 300 && report.status.state == "down")
    #expect(report.status.createdAt == 1_700_000_000)
    #expect(ask(process, "gateway.list").contains(#""forward":{"port":25},"hold":false"#))
    #expect(ask(process, "gateway.usage").contains(#"{"bytes":300,"domain":"a.test","messages":1}"#))
}

@Test func controlDeletesAGatewayAfterItsMail() throws {
    let process = try IdleMailProcess()
    for domain in ["a.test", "b.test", "c.test", "d.test"] {
        _ = ask(process, "gateway.create", #"{"domain":"\#(domain)"}"#)
    }
    process.state.withLock { state in
        state.events = []
        state.fault = ControlFault(.refused, "3 messages wait")
    }
    #expect(ask(process, "gateway.delete", #"{"domain":"a.test"}"#).contains("3 messages wait"))
    #expect(ask(process, "gateway.delete", #"{"domain":"a.test","mail":"burn"}"#).contains("`mail`: `burn`"))
    #expect(ask(process, "gateway.delete", #"{"domain":"a.test","mail":"export","directory":"x"}"#).contains("absolute"))
    #expect(ask(process, "gateway.delete", #"{"domain":"a.test","etag":"9-9"}"#).contains("conflict"))
    #expect(try process.directory.list().count == 4)
    process.state.withLock { $0.events = [] }
    _ = ask(process, "gateway.delete", #"{"domain":"a.test"}"#)
    _ = ask(process, "gateway.delete", #"{"domain":"b.test","mail":"drop"}"#)
    _ = ask(process, "gateway.delete", #"{"domain":"c.test","mail":"bounce"}"#)
    _ = ask(process, "gateway.delete", #"{"domain":"d.test","mail":"export","directory":"/tmp/x"}"#)
    #expect(try process.directory.list().isEmpty)
    #expect(
        process.events == [
            "deleting a.test refuse", "deleted a.test", "deleting b.test drop", "deleted b.test",
            "deleting c.test bounce", "deleted c.test", #"deleting d.test export(directory: "/tmp/x")"#,
            "deleted d.test",
        ])
}

@Test func controlImportsAllOrNothing() throws {
    let process = try IdleMailProcess()
    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    _ = ask(process, "gateway.create", #"{"domain":"b.test"}"#)
    process.state.withLock { $0.events = [] }
    let yaml = #"[{domain: a.test}, {domain: b.test, hold: true}, {domain: c.test}]"#
    let dry = ask(process, "gateway.import", #"{"yaml":"\#(yaml)","dryRun":true}"#)
    #expect(dry.contains(#""result":{"created":["c.test"],"updated":["b.test"]}"#), "\(dry)")
    #expect(try process.directory.list().count == 2 && process.events.isEmpty)
    let bad = ask(process, "gateway.import", #"{"yaml":"[{domain: d.test}, {domain: c.test, hold: 7}]"}"#)
    #expect(bad.contains("`hold`") && bad.contains("refused"))
    #expect(ask(process, "gateway.import", #"{"yaml":"\#(yaml)"}"#).contains(#""created":["c.test"]"#))
    #expect(process.events == ["updated b.test", "created c.test"])

    let exported = ControlService(process).answer(Array(#"{"v":1,"command":"gateway.export"}"#.utf8))
    let text = try ControlProtocol.decode(ControlAnswer<ControlText>.self, exported).result.text
    #expect(try GatewayDocument.list(yaml: text) == process.directory.list().map(\.document))
}

@Test func controlListsTheQueueWithTheContractsKeys() throws {
    let process = try IdleMailProcess()
    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    process.state.withLock { $0.messages = [message("a.test"), message("@system", id: "x")] }
    let text = ask(process, "queue.list", #"{"domain":"a.test"}"#)
    #expect(
        text.contains(
            #"[{"attempts":2,"bytes":100,"domain":"a.test","from":"","id":"\#(firstID)","lastReply":"451 4.3.0 later","#
                + #""nextAttempt":null,"receivedAt":1700000000.25,"recipients":["a@a.test"],"state":"deferred"}]"#),
        "\(text)")
    #expect(ask(process, "queue.list", #"{"domain":"@system"}"#).contains(#""id":"x""#))
    #expect(ask(process, "queue.list", #"{"limit":1}"#).contains("there may be more"))
    #expect(ask(process, "queue.list", #"{"limit":0}"#).contains("`limit` takes 1 to"))
    #expect(ask(process, "queue.list", #"{"domain":"nobody.test"}"#).contains("notFound"))
    #expect(ask(process, "queue.flush", #"{"domain":"A.test"}"#).contains(#""result":{"count":1}"#))
    #expect(ask(process, "queue.flush", #"{"all":true}"#).contains(#""result":{"count":2}"#))
    #expect(ask(process, "queue.flush").contains("`domain` is missing"))
}

@Test func controlHoldsAndReleases() throws {
    let process = try IdleMailProcess()
    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    _ = ask(process, "gateway.create", #"{"domain":"b.test"}"#)
    process.state.withLock { $0.events = [] }
    #expect(ask(process, "queue.hold", #"{"domain":"a.test"}"#).contains(#""count":1"#))
    #expect(try process.directory.get("a.test").document.isHeld)
    #expect(ask(process, "queue.hold", #"{"all":true}"#).contains(#""count":1"#))
    #expect(ask(process, "queue.release", #"{"all":true}"#).contains(#""count":2"#))
    #expect(process.events == ["updated a.test", "updated b.test", "updated a.test", "updated b.test"])
}

@Test func controlActsOnMessages() throws {
    let process = try IdleMailProcess()
    process.state.withLock { state in
        state.messages = [message("a.test")]
        state.content = [0, 255, 13, 10]
    }
    #expect(ask(process, "queue.show", #"{"id":"\#(firstID)"}"#).contains(#""state":"deferred""#))
    let line = ControlService(process).answer(
        Array(#"{"v":1,"command":"queue.export","arguments":{"id":"\#(firstID)"}}"#.utf8))
    #expect(try Array(ControlProtocol.decode(ControlAnswer<ControlContent>.self, line).result.content) == [0, 255, 13, 10])
    for id in ["", "../../etc/passwd", firstID + "0", "🦜"] {
        #expect(ask(process, "queue.delete", #"{"id":"\#(id)"}"#).contains("is no message's id"), "\(id)")
    }
    #expect(ask(process, "queue.delete", #"{"id":"\#(firstID)"}"#).contains(#""count":1"#))
    #expect(ask(process, "queue.bounce", #"{"id":"\#(firstID)"}"#).contains("notFound"))
}

@Test func controlKeepsTheServersSettings() throws {
    let process = try IdleMailProcess()
    #expect(ask(process, "settings.show").contains("`postmaster` is not set"))
    let text = ask(process, "settings.set", #"{"set":["postmaster=me@provider.test","smarthost=relay.test:587"]}"#)
    #expect(text.contains(#""smarthost":"relay.test:587""#) && text.contains(#""warnings":[]"#), "\(text)")
    #expect(process.events == ["settings"])
    #expect(ask(process, "settings.set", #"{"set":["quotaCode=500"]}"#).contains("452 or 552"))
    #expect(ask(process, "settings.set", #"{"set":["automatic.enabled=true"]}"#).contains("not in this version"))
}

// MARK: Metrics

@Test func metricsAreThereFromTheStart() throws {
    let process = try IdleMailProcess()
    let counters = Counters()
    counters.accepted.add(3, ordering: .relaxed)
    counters.replied(250)
    counters.replied(299)
    process.state.withLock { state in
        state.messages = (0..<30).map { message("d\($0).test", id: "\($0)") } + [message("full.test"), message("full.test")]
    }
    let metrics = Metric.all([counters, Counters()], status: process.status(), health: process.health(domain: nil))
    let text = Metric.text(metrics)
    #expect(text.contains("# TYPE postern_accepted_total counter\npostern_accepted_total 3\n"))
    #expect(text.contains("postern_delivered_total 0\n") && text.contains("postern_queued 3\n"))
    #expect(text.contains("postern_replies_total{code=\"250\"} 1\n") && text.contains("{code=\"550\"} 0\n"))
    #expect(text.contains("postern_replies_total{code=\"other\"} 1\n"))
    #expect(text.contains("postern_gateway_queued{domain=\"full.test\"} 2\n"))
    #expect(text.split(separator: "\n").filter { $0.hasPrefix("postern_gateway_queued{") }.count == Metric.gatewaysMax)
    #expect(text.contains("postern_build_info{version=\"1.2.3\",io=\"epoll\"} 1\n"))
    #expect(Set(metrics.map(\.declaration.name)).count == metrics.count)
    let odd = Metric(.build, samples: [Metric.Sample(labels: [("version", "a\"\\\n")], value: 0.5)])
    #expect(Metric.text([odd]).contains(#"{version="a\"\\\n"} 0.5"#))
}

// MARK: Socket

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
private func rawClient(_ path: String) throws -> Int32 {
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
                "gateway.show", [DocumentValue.Member("domain", DocumentValue(.text("b.test")))], as: GatewayReport.self)
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
        state.messages = [message("a.test")]
        state.content = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    }
    try withServer(process) { path in
        let client = try ControlClient(path: path, timeoutSeconds: 30)
        let content = try client.ask(
            "queue.export", [DocumentValue.Member("id", DocumentValue(.text(firstID)))], as: ControlContent.self
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

// MARK: Admin process, host

@Test func adminProcessStartsAgainAndEnds() throws {
    let told = Mutex<[String]>([])
    let endpoint = try #require(Endpoint("127.0.0.1:\(UInt16.random(in: 20_000...29_999))"))
    let remote = try #require(Endpoint("192.0.2.1:8025"))
    let admin = try AdminProcess(
        listen: [endpoint, remote], controlPath: "/nowhere", executable: "/bin/false",
        report: { sentence in told.withLock { $0.append(sentence) } })
    #expect(admin.warnings.count == 1 && admin.warnings[0].contains("192.0.2.1:8025 stays closed"))
    admin.start()
    for _ in 0..<500 where told.withLock({ $0.isEmpty }) { usleep(10_000) }
    #expect(told.withLock { $0.first } == "`postern admin` ended after 0 s: exit status 1; it is started again in 1 s")
    admin.stop()
}

@Test func adminProcessThatHangsIsEnded() throws {
    let folder = NSTemporaryDirectory() + "admin-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // Tells how it was started, then ends at nothing but a kill.
    let script = """
        #!/bin/sh
        trap '' TERM INT HUP
        ls -l /proc/$$/fd/3 >>\(folder)/told.part
        echo "$@" >>\(folder)/told.part
        mv \(folder)/told.part \(folder)/told
        while :; do sleep 1; done
        """
    try Data(script.utf8).write(to: URL(filePath: "\(folder)/hangs"))
    chmod("\(folder)/hangs", 0o700)
    let endpoint = try #require(Endpoint("127.0.0.1:\(UInt16.random(in: 30_000...32_000))"))
    let admin = try AdminProcess(listen: [endpoint], controlPath: "/nowhere", executable: "\(folder)/hangs")
    admin.start()
    for _ in 0..<500 where !FileManager.default.fileExists(atPath: "\(folder)/told") { usleep(10_000) }
    let told = try String(contentsOfFile: "\(folder)/told", encoding: .utf8)
    #expect(told.contains("fd/3 -> socket:") && told.contains("admin --control /nowhere --listen-fd 3"), "\(told)")
    admin.stop()
}

@Test func hostCheckTellsWhatStandsInTheWay() throws {
    let folder = NSTemporaryDirectory() + "check-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let port = UInt16.random(in: 20_000...29_999)
    let yaml = """
        hostname: mx.test
        data: \(folder)/var
        listen: { smtp: ["127.0.0.1:\(port)"], admin: ["192.0.2.1:8025"] }
        tls: { certificates: [{ certificate: \(folder)/none.pem, key: \(folder)/none.key }] }
        """
    let configuration = try Configuration(yaml: yaml, file: nil, environment: [:])
    let findings = HostCheck.run(configuration)
    #expect(findings.contains { $0.level == .good && $0.text.hasSuffix("127.0.0.1:\(port) is free") })
    #expect(findings.contains { $0.level == .warning && $0.text.contains("192.0.2.1:8025 stays closed") })
    #expect(findings.contains { $0.level == .error && $0.text.contains("none.pem") })
    #expect(findings.contains { $0.text == "`data`: \(folder)/var will be made" })

    try Data().write(to: URL(filePath: "\(folder)/var"))
    let broken = try Configuration(
        yaml: "{ hostname: mx.test, data: \(folder)/var, listen: {} }", file: nil, environment: [:])
    #expect(HostCheck.run(broken).contains { $0.level == .error && $0.text.contains("is no folder") })
}
