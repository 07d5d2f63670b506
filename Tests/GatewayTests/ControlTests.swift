import Foundation
import Synchronization
import Testing

@testable import Gateway

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
    #expect(process.events == ["created altn.test", "publish"])

    #expect(ask(process, "gateway.create", #"{"domain":"b.test"}"#).contains(#""warnings":["no next hop"]"#))
    #expect(ask(process, "gateway.create", #"{"domain":"b.test"}"#).contains("exists already"))
    #expect(
        ask(process, "gateway.create", #"{"document":{"domain":"c.test","forward":{"port":26}}}"#).contains(
            #""ok":true"#))
    #expect(try process.directory.get("c.test").document.forward.port == 26)
}

@Test func controlRefusesWhatAGatewayDoesNotTake() throws {
    let process = try IdleMailProcess()
    #expect(
        ask(process, "gateway.create", #"{"domain":"a.test","account":"me@b.test"}"#)
            .contains("`forward.account`: not in this version"))
    for arguments in [
        #"{"domain":"../x"}"#, #"{"domain":"a.test","server":"a b"}"#, #"{"domain":"a.test","server":"h:0"}"#,
        #"{"domain":"a.test","set":["nokey=1"]}"#, #"{"domain":"a.test","set":"x"}"#,
        #"{"domain":"a.test","set":[{}]}"#,
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
        #"{"domain":"a.test","etag":"1-1","document":{"forward":{"port":26}},"set":["retry.schedule=[2m,4m]","enabled=false"]}"#
    )
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
    process.state.withLock { $0.messages = [waitingMessage("a.test", bytes: 300)] }
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
    #expect(
        ask(process, "gateway.delete", #"{"domain":"a.test","mail":"export","directory":"x"}"#).contains("absolute"))
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

@Test func controlImportsAllOrNothing_T_G6() throws {
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
    #expect(process.events == ["updated b.test", "created c.test", "publish"])

    let exported = ControlService(process).answer(Array(#"{"v":1,"command":"gateway.export"}"#.utf8))
    let text = try ControlProtocol.decode(ControlAnswer<ControlText>.self, exported).result.text
    #expect(try GatewayDocument.list(yaml: text) == process.directory.list().map(\.document))
}

@Test func controlListsTheQueueWithTheContractsKeys() throws {
    let process = try IdleMailProcess()
    _ = ask(process, "gateway.create", #"{"domain":"a.test"}"#)
    process.state.withLock { $0.messages = [waitingMessage("a.test"), waitingMessage("@system", id: "x")] }
    let text = ask(process, "queue.list", #"{"domain":"a.test"}"#)
    #expect(
        text.contains(
            #"[{"attempts":2,"bytes":100,"domain":"a.test","from":"","id":"\#(firstMessageID)","lastReply":"451 4.3.0 later","#
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
    #expect(
        process.events == [
            "updated a.test", "publish", "updated b.test", "publish", "updated a.test", "updated b.test", "publish",
        ])
}

@Test func controlActsOnMessages() throws {
    let process = try IdleMailProcess()
    process.state.withLock { state in
        state.messages = [waitingMessage("a.test")]
        state.content = [0, 255, 13, 10]
    }
    #expect(ask(process, "queue.show", #"{"id":"\#(firstMessageID)"}"#).contains(#""state":"deferred""#))
    let line = ControlService(process).answer(
        Array(#"{"v":1,"command":"queue.export","arguments":{"id":"\#(firstMessageID)"}}"#.utf8))
    #expect(
        try Array(ControlProtocol.decode(ControlAnswer<ControlContent>.self, line).result.content) == [0, 255, 13, 10])
    for id in ["", "../../etc/passwd", firstMessageID + "0", "🦜"] {
        #expect(ask(process, "queue.delete", #"{"id":"\#(id)"}"#).contains("is no message's id"), "\(id)")
    }
    #expect(ask(process, "queue.delete", #"{"id":"\#(firstMessageID)"}"#).contains(#""count":1"#))
    #expect(ask(process, "queue.bounce", #"{"id":"\#(firstMessageID)"}"#).contains("notFound"))
}

@Test func controlKeepsTheServersSettings() throws {
    let process = try IdleMailProcess()
    #expect(ask(process, "settings.show").contains("`postmaster` is not set"))
    let text = ask(process, "settings.set", #"{"set":["postmaster=me@provider.test","smarthost=relay.test:587"]}"#)
    #expect(text.contains(#""smarthost":"relay.test:587""#) && text.contains(#""warnings":[]"#), "\(text)")
    #expect(process.events == ["publish"])
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
        state.messages =
            (0..<30).map { waitingMessage("d\($0).test", id: "\($0)") } + [
                waitingMessage("full.test"), waitingMessage("full.test"),
            ]
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
