import Protocols
import Reactor
import Testing

@testable import Gateway

/// next hop ▶ MX, AAAA, A ▶ addresses in order, or why there are none.
struct NextHopTests {
    /// A resolver in a world of its own.
    private final class Finder {
        let world: SimulatedWorld
        let zone = ScriptedResolver()
        private let reactor: Reactor
        private let calls: FileCalls
        private let resolver: NextHopResolver

        init(seed: UInt64 = 1) {
            world = SimulatedWorld(seed: seed, settings: .quiet)
            let zone = zone
            world.resolver = { zone.answer($0) }
            reactor = Reactor(backend: world.makeBackend(index: 0))
            calls = FileCalls(reactor: reactor, kind: 1)
            resolver = NextHopResolver(calls: calls, reactor: reactor)
        }

        func find(
            _ nextHop: Gateway.NextHop = .mxOfOwnDomain, port: UInt16 = 25, domain: String = "demo.test",
            identity: Identity = Identity(names: ["mx.gateway.test"], addresses: [IPAddress("192.0.2.1")!], ports: [25])
        ) -> String {
            var text: String?
            resolver.find(nextHop, port: port, domain: domain, identity: identity) { found in
                switch found {
                case .addresses(let list): text = list.map { "\($0.host ?? "-")=\($0.address)" }.joined(separator: " ")
                case .none(let why): text = "none: \(why)"
                case .refused(let reply): text = "refused: \(reply)"
                case .later(let why): text = "later: \(why)"
                }
            }
            world.run(
                for: 60_000_000_000,
                turn: { _ in
                    reactor.turn(mayWait: true)
                    for case .lookup(let token, let answer) in reactor.finished { calls.finished(token, answer) }
                }, until: { text != nil })
            return text ?? "nothing came"
        }

        func pass(seconds: UInt64) {
            let end = world.now + seconds * 1_000_000_000
            world.after(seconds * 1_000_000_000) {}
            world.run(turn: { _ in reactor.turn(mayWait: true) }, until: { world.now >= end })
            reactor.turn(mayWait: false)
        }
    }

    // MARK: RFC 5321 §5.1

    @Test func exchangersByPreferenceThenAddresses() {
        let finder = Finder()
        finder.zone.records = [
            "demo.test": [.mx(20, "b.test"), .mx(10, "a.test"), .mx(30, "gone.test")],
            "a.test": [.a("198.51.100.1"), .aaaa("2001:db8::1")], "b.test": [.a("198.51.100.2")],
        ]
        #expect(finder.find() == "a.test=2001:db8::1 a.test=198.51.100.1 b.test=198.51.100.2")
    }

    @Test func equalPreferencesAreShuffled() {
        var orders = Set<String>()
        for seed in 1...20 as ClosedRange<UInt64> {
            let finder = Finder(seed: seed)
            finder.zone.records = [
                "demo.test": [.mx(10, "a.test"), .mx(10, "b.test")], "a.test": [.a("198.51.100.1")],
                "b.test": [.a("198.51.100.2")],
            ]
            orders.insert(finder.find())
        }
        #expect(orders.count == 2)
    }

    @Test func withoutMXTheDomainIsItsOwnExchanger() {
        let finder = Finder()
        finder.zone.records = ["demo.test": [.a("198.51.100.1")]]
        #expect(finder.find() == "demo.test=198.51.100.1")
        finder.zone.records["server.test"] = [.mx(1, "a.test"), .a("198.51.100.3")]
        finder.zone.records["a.test"] = [.a("198.51.100.1")]
        #expect(finder.find(.host("server.test", skipMX: false)) == "a.test=198.51.100.1")
        #expect(finder.find(.host("server.test", skipMX: true)) == "server.test=198.51.100.3")
        #expect(finder.find(.address(IPAddress("198.51.100.9")!)) == "-=198.51.100.9")
        #expect(finder.find(domain: "[198.51.100.8]") == "-=198.51.100.8")
        #expect(finder.find(domain: "[IPv6:2001:db8::8]") == "-=2001:db8::8")
    }

    // MARK: Trouble

    /// The defence: each kind of answer has its own `Found`, and only null MX is final.
    @Test("T-G2: SERVFAIL, timeouts, garbage: later; NXDOMAIN and no address: nowhere; null MX: refused") func trouble()
    {
        for (trouble, word) in [
            (ScriptedResolver.Trouble.serverFailure, "later"), (.timeout, "later"), (.garbage, "later"),
            (.refused, "later"),
        ] {
            let finder = Finder()
            finder.zone.records = ["demo.test": [.mx(10, "a.test")], "a.test": [.a("198.51.100.1")]]
            finder.zone.trouble = ["demo.test": trouble]
            #expect(finder.find().hasPrefix(word), "\(trouble) of the MX")
            let other = Finder()
            other.zone.records = finder.zone.records
            other.zone.trouble = ["a.test": trouble]
            #expect(other.find().hasPrefix(word), "\(trouble) of the address")
        }
        let finder = Finder()
        #expect(finder.find(domain: "nowhere.test").hasPrefix("none"))
        finder.zone.records = [
            "null.test": [.mx(0, ""), .a("198.51.100.1")], "empty.test": [], "dangling.test": [.mx(1, "gone.test")],
        ]
        #expect(
            finder.find(domain: "null.test") == "refused: 556 5.1.10 The domain null.test accepts no mail (null MX)")
        #expect(finder.find(domain: "empty.test").hasPrefix("none"))
        #expect(finder.find(domain: "dangling.test").hasPrefix("none"))
    }

    @Test("T-G2: aliases are followed, circles are not") func aliases() {
        let finder = Finder()
        finder.zone.records = [
            "demo.test": [.cname("real.test")], "real.test": [.mx(10, "a.test")], "a.test": [.cname("b.test")],
            "b.test": [.a("198.51.100.1")], "x.test": [.cname("y.test")], "y.test": [.cname("x.test")],
        ]
        #expect(finder.find() == "a.test=198.51.100.1")
        #expect(finder.find(domain: "x.test").hasPrefix("later"))
    }

    @Test func answersAreKeptForTheirTime() {
        let finder = Finder()
        finder.zone.records = ["demo.test": [.a("198.51.100.1")]]
        _ = finder.find()
        let asked = finder.zone.questions.count
        #expect(finder.find() == "demo.test=198.51.100.1" && finder.zone.questions.count == asked)
        finder.pass(seconds: 61)
        finder.zone.records = ["demo.test": [.a("198.51.100.2")]]
        #expect(finder.find() == "demo.test=198.51.100.2")
    }

    // MARK: Ourselves

    /// The defence: `identity` in `choose` and `finish`.
    @Test("T-E2: our own preference and worse ones are dropped, by name and by address") func ourselves() {
        let finder = Finder()
        finder.zone.records = [
            "demo.test": [.mx(10, "a.test"), .mx(20, "mx.gateway.test"), .mx(30, "worse.test")],
            "a.test": [.a("198.51.100.1")], "mx.gateway.test": [.a("192.0.2.1")], "worse.test": [.a("198.51.100.3")],
            "only.test": [.mx(10, "mx.gateway.test")], "hidden.test": [.mx(10, "other-name.test")],
            "other-name.test": [.a("192.0.2.1")], "equal.test": [.mx(10, "mx.gateway.test"), .mx(10, "a.test")],
        ]
        #expect(finder.find() == "a.test=198.51.100.1")
        for domain in ["only.test", "hidden.test", "equal.test"] {
            #expect(finder.find(domain: domain).hasPrefix("none"), "\(domain)")
        }
        // Behind a translated address only the name tells.
        finder.zone.records["nat.test"] = [.a("198.51.100.50")]
        finder.zone.records["translated.test"] = [.mx(10, "nat.test"), .mx(20, "worse.test")]
        let translated = Identity(names: ["nat.test"], addresses: [IPAddress("192.0.2.1")!], ports: [25])
        #expect(finder.find(domain: "translated.test", identity: translated).hasPrefix("none"))
        // A primary on another port of the same machine is not us.
        #expect(finder.find(.host("other-name.test", skipMX: true), port: 2525) == "other-name.test=192.0.2.1")
        #expect(finder.find(.host("other-name.test", skipMX: true), port: 25).hasPrefix("none"))
    }

    // MARK: Through the engine

    @Test("T-E2: a domain whose best MX we are waits, and goes when its MX comes") func mxToOurselves() throws {
        let gateway = try SimulatedGateway("demo.test")
        let zone = ScriptedResolver()
        gateway.world.resolver = { zone.answer($0) }
        zone.records = [
            "demo.test": [.mx(10, SimulatedGateway.hostname), .mx(20, "b.test")], "b.test": [.a("198.51.100.7")],
            SimulatedGateway.hostname: [.a("192.0.2.1")],
        ]
        let primary = ScriptedPrimary(gateway)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
        gateway.pass(seconds: 60)
        #expect(
            primary.connections == 0 && gateway.accepted == 1 && gateway.health("demo.test")?.state == "no-next-hop")
        zone.records["demo.test"] = [.mx(5, "b.test"), .mx(10, SimulatedGateway.hostname)]
        #expect(gateway.run(seconds: 600) { gateway.isIdle && primary.accepted.count == 1 })
    }

    @Test("T-G2: null MX bounces, DNS trouble and NXDOMAIN wait") func engineAndDNS() throws {
        let gateway = try SimulatedGateway("null.test", "broken.test", "gone.test", "sender.test hold=true")
        let zone = ScriptedResolver()
        gateway.world.resolver = { zone.answer($0) }
        zone.records = ["null.test": [.mx(0, "")]]
        zone.trouble = ["broken.test": .serverFailure]
        gateway.ready()
        for domain in ["null.test", "broken.test", "gone.test"] {
            #expect(queueID(ScriptedClient.send(gateway, to: ["x@\(domain)"])) != nil)
        }
        gateway.pass(seconds: 30)
        #expect(gateway.bounced == 1 && gateway.files("null.test").isEmpty && gateway.files("sender.test").count == 1)
        #expect(gateway.health("broken.test")?.state == "down" && gateway.health("gone.test")?.state == "no-next-hop")
        #expect(gateway.files("broken.test").count == 1 && gateway.files("gone.test").count == 1)
        zone.trouble = [:]
        zone.records["broken.test"] = [.a("198.51.100.7")]
        let primary = ScriptedPrimary(gateway)
        #expect(gateway.run(seconds: 30) { primary.accepted.count == 1 })
    }

    /// RFC 5321 §5.1: the next address when one does not answer.
    @Test func theNextAddressIsTried() throws {
        let gateway = try SimulatedGateway("demo.test")
        let zone = ScriptedResolver()
        gateway.world.resolver = { zone.answer($0) }
        zone.records = [
            "demo.test": [.mx(10, "a.test"), .mx(20, "b.test")], "a.test": [.a("198.51.100.1"), .a("198.51.100.2")],
            "b.test": [.a("198.51.100.7")],
        ]
        gateway.world.setBlackholed(SocketAddress(IPAddress("198.51.100.2")!, port: 25), true)
        let primary = ScriptedPrimary(gateway)
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
        #expect(gateway.run(seconds: 45) { primary.accepted.count == 1 })
        let busy = ScriptedPrimary(gateway, at: "198.51.100.1")
        busy.act = { if case .connected = $0 { .replyAndClose("421 4.3.2 busy") } else { nil } }
        gateway.run { gateway.forwardSessions == 0 }
        #expect(queueID(ScriptedClient.send(gateway, to: ["x@demo.test"])) != nil)
        #expect(gateway.run(seconds: 45) { primary.accepted.count == 2 })
        #expect(busy.connections >= 1)
    }
}
