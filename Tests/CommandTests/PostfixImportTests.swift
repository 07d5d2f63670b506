import Gateway
import Testing

@testable import postern

/// A Postfix whose files are a dictionary.
private func relays(_ main: String, _ files: [String: String] = [:]) throws -> PostfixImport {
    try PostfixImport(
        try PostfixConfiguration(main, folder: "/etc/postfix") { path in
            guard let text = files[path] else { throw PostfixConfiguration.Fault(description: "\(path) is missing") }
            return text
        })
}

@Suite("What a Postfix relays, as gateways")
struct PostfixImportTests {
    @Test(
        "The route of a domain: its own entry, one above it, the one for all, relay_transport, relayhost",
        arguments: [
            ("own.test smtp:[192.0.2.1]:26", "own.test", "192.0.2.1", 26),
            ("own.test :[mail.test]", "own.test", "[mail.test]", 25),
            (".test relay:mail.test", "a.own.test", "mail.test", 25),
            ("own.test smtp:[h.test]:submission", "own.test", "[h.test]", 587),
            ("* smtp:[2001:db8::1]:26", "own.test", "2001:db8::1", 26),
            ("other.test smtp:[h.test]", "own.test", "[smart.test]", 2525),
            ("own.test :", "own.test", "[smart.test]", 2525),
        ])
    func routes(_ entry: String, _ domain: String, _ server: String, _ port: UInt16) throws {
        let found = try relays(
            "relay_domains = \(domain)\nrelayhost = [smart.test]:2525\ntransport_maps = hash:/t\n", ["/t": entry])
        let forward = try #require(found.gateways.first).forward
        #expect(forward.server?.description == server)
        #expect(forward.port == port)
    }

    @Test("A transport without a next hop is the domain's own MX set, whatever relayhost says (transport(5))")
    func transportAlone() throws {
        let found = try relays(
            "relay_domains = a.test\nrelayhost = [smart.test]\ntransport_maps = hash:/t\n", ["/t": "a.test smtp:"])
        #expect(found.gateways.map(\.domain) == ["a.test"])
        #expect(found.gateways.first?.forward.server == nil)
    }

    @Test("Lists: commas, white space, continued lines, comments, $names, files, tables; each domain once")
    func lists() throws {
        let found = try relays(
            """
            more = Three.test ${last}
            last=$(real)
            real = six.test
            # a comment
            relay_domains = one.test,two.test
              # another
               $more /list
               proxy:hash:$config_directory/table
            """,
            ["/list": "four.test, one.test\n", "/etc/postfix/table": "# x\nfive.test OK\n  and more\n\nTWO.test x\n"])
        #expect(
            found.gateways.map(\.domain)
                == ["one.test", "two.test", "three.test", "six.test", "four.test", "five.test"])
    }

    @Test(
        "What has no counterpart is told, one sentence each",
        arguments: [
            ("relay_domains = !a.test\n", "relay_domains: “!a.test” is a pattern, and a gateway is one domain"),
            (
                "relay_domains = a.test\nrelay_recipient_maps = hash:/r\n",
                "relay_recipient_maps is not in this version: every recipient of the domains is accepted"
            ),
            (
                "relay_domains = a.test\nrelay_transport = error:no\n", nil
            ),
        ])
    func remarks(_ main: String, _ remark: String?) throws {
        guard let remark else {
            #expect(throws: PostfixConfiguration.Fault.self) { try relays(main) }
            return
        }
        #expect(try relays(main).remarks.contains(remark))
    }

    @Test("A discarded domain gets no gateway; one with a bad next hop neither; the others do")
    func leftOut() throws {
        let found = try relays(
            "relay_domains = a.test b.test c.test\ntransport_maps = hash:/t\n",
            ["/t": "a.test discard:\nb.test smtp:[x.test]:nosuch\n"])
        #expect(found.gateways.map(\.domain) == ["c.test"])
        #expect(found.remarks.contains { $0.hasPrefix("a.test: its transport is “discard:”") })
        #expect(found.remarks.contains { $0.hasPrefix("b.test: the next hop “[x.test]:nosuch”") })
    }

    @Test(
        "What cannot be read is a fault that names it, never an empty list",
        arguments: [
            ("mydestination = x\n", "main.cf sets no relay_domains: there is nothing to import"),
            ("relay_domains\n", "main.cf: “relay_domains” is no NAME = VALUE"),
            ("relay_domains = $a\na = $b\nb = $a\n", "main.cf: relay_domains names itself, over 20 others"),
            ("relay_domains = ${a\n", "main.cf: relay_domains has a “${” without its end"),
            ("relay_domains = ${a?b}\n", "main.cf: relay_domains has “${a?b}”, which is beyond this import"),
            (
                "relay_domains = mysql:/x\n",
                "“mysql:/x” is not a table whose text is in a file; write its entries into one, and name that as "
                    + "texthash:FILE in a copy of main.cf"
            ),
            ("relay_domains = hash:/none\n", "/none is missing"),
            ("relay_domains = a.test\ntransport_maps = a.test\n", "transport_maps: “a.test” is no TYPE:TABLE"),
        ])
    func faults(_ main: String, _ sentence: String) {
        let fault = #expect(throws: PostfixConfiguration.Fault.self) { try relays(main) }
        #expect(fault?.description == sentence)
    }

    @Test("A value that grows by naming others twice is cut off at a bound")
    func growth() {
        let names = (0..<11).map { "a\($0) = $a\($0 + 1) $a\($0 + 1) $a\($0 + 1) $a\($0 + 1)\n" }.joined()
        let fault = #expect(throws: PostfixConfiguration.Fault.self) {
            try relays("relay_domains = $a0\n\(names)a11 = x.test\n")
        }
        #expect(fault?.description.hasSuffix("is longer than 1048576 bytes") == true)
    }
}

@Suite("Differences of a dry run")
struct DocumentDifferenceTests {
    @Test("Each key with what it was and would be")
    func keys() throws {
        var old = try GatewayDocument(domain: "a.test")
        try old.apply(["forward.port=26"])
        var new = old
        try new.apply(["forward.server=[b.test]", "forward.port=null", "retry.schedule=[1m,5m]"])
        #expect(
            DocumentDifference.between(old, new) == [
                DocumentDifference(key: "forward.server", from: "null", to: "[b.test]"),
                DocumentDifference(key: "forward.port", from: "26", to: "25"),
                DocumentDifference(key: "retry.schedule", from: "[1m, 5m, 15m, 30m, 1h]", to: "[1m, 5m]"),
            ])
        #expect(DocumentDifference.between(new, new) == [])
    }
}
