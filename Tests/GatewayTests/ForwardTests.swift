import Protocols
import Reactor
import Testing

@testable import Gateway

private let demo = "demo.test forward.server=198.51.100.7"

struct ForwardTests {
    /// sender ▶ spool ▶ 250 ▶ queue ▶ primary: the bytes arrive as they came, behind one Received field, and nothing stays.
    @Test(arguments: 1...8) func messageGoesThrough(_ seed: UInt64) throws {
        let gateway = try SimulatedGateway(seed: seed, cores: 3, demo)
        let primary = ScriptedPrimary(gateway)
        let content = ScriptedClient.message("through", bytes: 20_000)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"], content)) != nil)
        #expect(gateway.run { gateway.isIdle && primary.accepted.count == 1 })
        let message = try #require(primary.accepted.first)
        #expect(message.reversePath == "a@sender.test" && message.paths == ["x@demo.test"])
        #expect(message.text.hasPrefix("Received: from client.test ([203.0.113.9])"))
        #expect(Array(message.content.suffix(content.count)) == content)
        #expect(gateway.files("demo.test").isEmpty)
        #expect(gateway.store(of: "demo.test").used == (0, 0))
    }
}
