import Gateway
import Testing

@testable import postern

struct KeyReferenceTests {
    /// A key of the document that the reference has and this doesn't see would be one that the page can't show.
    @Test func everyBuiltKeyIsSeen() {
        let built = GatewayDocument.referenceMarkdown().split(separator: "\n").dropFirst(2)
            .filter { !$0.contains("Not in this version.") }
        #expect(KeyReference.gateway.keys.count == built.count)
        #expect(KeyReference.gateway.keys.count > 10)
        #expect(!KeyReference.settings.keys.isEmpty)
    }

    @Test(arguments: [
        ("enabled", KeyReference.Key.Kind.flag), ("forward.port", .number), ("forward.tls", .choice),
        ("forward.server", .text), ("retry.schedule", .list), ("delivery.when", .choice), ("quota.code", .choice),
        ("quota.bytes", .text), ("retry.lifetime", .text),
    ])
    func kinds(_ name: String, _ kind: KeyReference.Key.Kind) throws {
        let key = try #require(KeyReference.gateway.keys.first { $0.key == name })
        #expect(key.kind == kind)
        #expect(!key.help.isEmpty && !key.takes.isEmpty)
    }

    @Test func choicesHaveTheirWords() throws {
        let keys = KeyReference.gateway.keys
        #expect(keys.first { $0.key == "forward.tls" }?.words == ["none", "may", "encrypt", "verify"])
        #expect(keys.first { $0.key == "quota.code" }?.words == ["452", "552"])
        #expect(keys.first { $0.key == "quota.code" }?.isNullable == true)
    }
}
