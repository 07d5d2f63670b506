import Foundation
import Gateway
import Testing

@testable import postern

/// The routes and what describes them, without a server.
struct APIReferenceTests {
    private static let routes: [Route] = {
        let mail = MailAsker(controlPath: "/nonexistent/control.sock")
        return API(mail: mail, access: AccessDesk(path: "/nonexistent/admin.db"), live: Live(mail: mail)).routes
    }()

    @Test func namesAreUnique() {
        #expect(Set(Self.routes.map(\.id)).count == Self.routes.count)
        #expect(Set(Self.routes.map { "\($0.method.rawValue) \($0.path)" }).count == Self.routes.count)
    }

    @Test func everyReferenceLeadsToASchema() {
        let text = String(decoding: JSONBytes.encode(OpenAPI.document(Self.routes)), as: UTF8.self)
        let named = Set(text.matches(of: #/#/components/schemas/(\w+)/#).map { String($0.output.1) })
        #expect(named.subtracting(Schemas.all.keys).isEmpty)
        #expect(Set(Schemas.all.keys).subtracting(named).isEmpty, "schemas that nothing uses")
    }

    @Test func everyRefusalHasItsMeaning() {
        for route in Self.routes {
            for status in route.refusalStatuses { #expect(OpenAPI.meanings[status] != nil, "\(route.id) \(status)") }
            #expect(Set(route.answers.map(\.status)).isDisjoint(with: route.refusalStatuses), "\(route.id)")
        }
    }

    /// `UPDATE_REFERENCE=1 swift test --filter APIReferenceTests` writes it after a change.
    @Test func manualHasTheReference() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "docs/api.md")
        let written = OpenAPI.markdown(Self.routes)
        if ProcessInfo.processInfo.environment["UPDATE_REFERENCE"] != nil {
            try written.write(to: file, atomically: true, encoding: .utf8)
        } else {
            let isSame = try String(contentsOf: file, encoding: .utf8) == written
            #expect(
                isSame, "docs/api.md is older than the routes: UPDATE_REFERENCE=1 swift test --filter APIReferenceTests"
            )
        }
    }
}

struct RequestTests {
    @Test(arguments: [
        ("", [:]), ("a=1&b=2", ["a": "1", "b": "2"]), ("a=x+y%20z", ["a": "x y z"]), ("a", ["a": ""]),
        ("a=%C3%BC", ["a": "ü"]), ("a=b=c", ["a": "b=c"]),
    ])
    func queries(_ text: String, _ wanted: [String: String]) throws { #expect(try QueryString.parse(text) == wanted) }

    @Test(arguments: ["a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2"])
    func wrongQueries(_ text: String) { #expect(throws: Problem.self) { try QueryString.parse(text) } }

    @Test(arguments: [
        ("postern_session=abc", "abc"), ("a=b; postern_session=abc; c=d", "abc"),
        ("postern_session=a; postern_session=b", nil),
        ("postern_sessions=abc", nil), ("", nil), ("postern_session", nil),
    ])
    func cookies(_ field: String, _ wanted: String?) { #expect(SessionCookie.value(in: field) == wanted) }

    @Test(arguments: [
        ("`forward.port`: `0` is not allowed; it takes 1 to 65535", "forward.port"), ("unknown key `holdd`", "holdd"),
        ("`domain` is missing", "domain"), ("3 messages wait", nil), ("`a b` is not allowed", nil), ("`", nil),
        ("", nil),
    ])
    func fieldsInSentences(_ sentence: String, _ field: String?) { #expect(Problem.field(in: sentence) == field) }

    @Test func tokenNames() {
        for name in ["backup", "a.b-c_1", String(repeating: "x", count: 64)] { #expect(AccessStore.isTokenName(name)) }
        for name in ["", "a b", "ü", "a/b", "..", String(repeating: "x", count: 65)] {
            #expect(!AccessStore.isTokenName(name))
        }
    }
}

struct DocumentChangeTests {
    private func document(_ assignments: [String]) throws -> GatewayDocument {
        var document = try GatewayDocument(domain: "a.test")
        try document.apply(assignments)
        return document
    }

    /// What is read and given back changes nothing: also not a default into the same value, said.
    @Test func aDocumentGivenBackIsTheSame() throws {
        let stored = try document(["forward.port=2525", "quota.bytes=1G"])
        let back = try GatewayDocument(json: stored.json)
        #expect(back != stored, "it says what was a default before")
        #expect(try DocumentChange.merging(stored, into: back).isEmpty)
    }

    @Test func aDefaultThatMovesWithAnotherKeyIsHeld() throws {
        let stored = try document([])
        let wanted = try document(["delivery.when=onContact", "retry.lifetime=5d"])
        var reached = stored
        try reached.merge(DocumentValue(.map(DocumentChange.merging(stored, into: wanted))))
        #expect(reached.value.json == wanted.value.json)
    }

    @Test func whatIsLeftOutHasItsDefault() throws {
        let stored = try document(["forward.port=2525", "hold=true"])
        var reached = stored
        try reached.merge(DocumentValue(.map(DocumentChange.merging(stored, into: try document(["hold=true"])))))
        #expect(reached == (try document(["hold=true"])))
    }
}

struct RecordsTests {
    @Test func records() {
        let records = Records(domain: "a.test", hostname: "mx.b.test", addresses: ["192.0.2.7", "2001:db8::7"])
        #expect(
            records.records.map { "\($0.name) \($0.type) \($0.value)" } == [
                "a.test. MX 10 mx.b.test.", "mx.b.test. A 192.0.2.7", "mx.b.test. AAAA 2001:db8::7",
                "7.2.0.192.in-addr.arpa. PTR mx.b.test.",
                "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR mx.b.test.",
            ])
        #expect(records.notes.isEmpty)
        #expect(Records(domain: "a.test", hostname: "mx.b.test", addresses: ["10.0.0.1"]).notes.count == 1)
        #expect(Records(domain: "a.test", hostname: "mx.b.test", addresses: []).records.count == 1)
    }
}

struct HeaderFieldsTests {
    @Test func fieldsAreUnfoldedAndBounded() {
        let fields = HeaderFields(Array("A: 1\r\nB: x\r\n\ty\r\n\r\nbody: 2\r\n".utf8))
        #expect(fields.fields.map { "\($0.name)=\($0.value)" } == ["A=1", "B=x y"])
        #expect(!fields.isCut)
        #expect(HeaderFields(Array(String(repeating: "A: 1\r\n", count: 300).utf8)).isCut)
        #expect(HeaderFields(Array(("A: " + String(repeating: "x", count: 70_000)).utf8)).isCut)
        #expect(HeaderFields([0xff, 0x3a, 0x20, 0xfe, 0x0a]).fields.count == 1)
        #expect(HeaderFields([]).fields.isEmpty)
    }
}
