import Foundation
import Testing

@testable import postern

@Suite("The story of a message in the log")
struct TraceTests {
    private static func line(_ text: String) -> LogLine? { LogLine(Array(text.utf8)) }

    @Test("Fields with their values: bare, quoted, paths, escapes")
    func fields() throws {
        let line = try #require(
            Self.line(
                #"2026-11-24T14:20:00.157Z id=ID to=<b\x20c@example.net> relay=192.0.2.7:25 reply="250 \"ok\" \\ b\xc3\xbcr" how="#
            ))
        #expect(line.time == "2026-11-24T14:20:00.157Z")
        #expect(
            line.fields.map(\.name) == ["id", "to", "relay", "reply", "how"])
        #expect(
            line.fields.map(\.value) == ["ID", "b c@example.net", "192.0.2.7:25", "250 \"ok\" \\ bür", ""])
    }

    @Test(
        "What is no line of ours is none",
        arguments: [
            "", "2026-11-24T14:20:00.157Z", "Nov 24 14:20:00 host other[1]: x=y", "2026-11-24T14:20:00.157Z id=",
            "2026-11-24T14:20:00.157Z word", #"2026-11-24T14:20:00.157Z id="open"#, #"2026-11-24T14:20:00.157Z id=\x4"#,
            #"2026-11-24T14:20:00.157Z id=\"#, "2026-11-24T14:20:00.157Z  id=x", "2026-11-24T14:20:00.157Z =x",
        ])
    func foreign(_ text: String) {
        // An empty value is one, and nothing else here is a line.
        #expect((Self.line(text) == nil) == !text.hasSuffix("id="))
    }

    private static let log = """
        2026-11-24T14:20:00.100Z id=one event=accepted from=<A@sender.test> recipients=1 gateways=1 bytes=3 client=192.0.2.1 session=0-0-1
        2026-11-24T14:20:00.110Z event=refused what="RCPT TO:<x@No.test>" client=192.0.2.1 session=0-0-1 reply="550 no"
        another program's line
        2026-11-24T14:20:00.200Z id=two event=accepted from=<> recipients=1 gateways=1 bytes=3 client=192.0.2.1 session=0-0-1
        2026-11-24T14:20:01.100Z id=one to=<x@example.test> gateway=example.test outcome=deferred reply="451 later"
        2026-11-24T14:20:02.100Z id=one to=<x@example.test> gateway=example.test outcome=sent reply="250 ok"
        2026-11-24T14:20:03.100Z id=two to=<X@example.test> gateway=example.test outcome=sent reply="250 ok"
        2026-11-24T14:20:04.100Z id=two to=<cut off
        """

    private func withLog<Result>(_ body: (LogSource) throws -> Result) throws -> Result {
        let path = FileManager.default.temporaryDirectory.appending(path: "trace-\(UUID().uuidString).log").path()
        try Self.log.write(toFile: path, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: path) }
        return try body(.files([path]))
    }

    @Test("An address: each message that names it, whatever its case, and what was refused")
    func address() throws {
        try withLog { source in
            let (ids, refusals) = try MessageTrace.ids(of: "x@example.test", in: source)
            #expect(ids == ["one", "two"])
            #expect(refusals.isEmpty)
            #expect(try MessageTrace.ids(of: "a@SENDER.test", in: source).ids == ["one"])
            let refused = try MessageTrace.ids(of: "x@no.test", in: source)
            #expect(refused.ids.isEmpty && refused.refusals.count == 1)
        }
    }

    @Test("A message: all its lines, in the log's order; a line that is cut off is left out")
    func message() throws {
        try withLog { source in
            let traces = try MessageTrace.all(["two", "one", "none"], in: source)
            #expect(traces.map(\.id) == ["two", "one", "none"])
            #expect(
                traces.map { $0.lines.map { $0["outcome"] ?? $0["event"] ?? "" } } == [
                    ["accepted", "sent"], ["accepted", "deferred", "sent"], [],
                ])
            let all = try MessageTrace.all((0..<9).map { "no\($0)" } + ["one"], in: source)
            #expect(all.last?.lines.count == 3)
        }
    }

    @Test("A log that cannot be read is said, with its name")
    func missing() {
        let fault = #expect(throws: TraceFault.self) { try MessageTrace.all(["x"], in: .files(["/none/log"])) }
        #expect(fault?.sentence == "/none/log: it cannot be read: No such file or directory")
    }
}
