import Testing

@testable import Protocols

@Suite struct AddressTests {
    /// What `parsePath` makes of `text`: the path and how much of it was read, or the fault.
    private func path(_ text: String) -> Result<ReversePath, AddressFault> { path([UInt8](text.utf8)) }

    private func path(_ bytes: [UInt8]) -> Result<ReversePath, AddressFault> {
        bytes.withUnsafeBytes { bytes in
            var at = 0
            do throws(AddressFault) {
                let path = try AddressParser.parsePath(bytes, at: &at)
                #expect(at == bytes.count)
                return .success(path)
            } catch {
                #expect(at == 0)
                return .failure(error)
            }
        }
    }

    private func mailbox(_ localPart: String, _ domain: String) -> Result<ReversePath, AddressFault> {
        .success(.mailbox(MailAddress(localPart: localPart, domain: .name(domain), domainText: domain)))
    }

    @Test func paths() {
        #expect(path("<>") == .success(.null))
        #expect(path("<a@b.example>") == mailbox("a", "b.example"))
        #expect(path("<Jones@xyz.com>") == mailbox("Jones", "xyz.com"))
        #expect(path("<o'brien+tag=1/x!#$%&*?^_`{|}~-@b>") == mailbox("o'brien+tag=1/x!#$%&*?^_`{|}~-", "b"))
        #expect(path("<\"a b\\\"c@d\"@b.example>") == mailbox("\"a b\\\"c@d\"", "b.example"))
        #expect(path("<a@my_host.b.example>") == mailbox("a", "my_host.b.example"))
        // Addresses that Japanese mobile carriers gave out.
        #expect(path("<a..b.@b.example>") == mailbox("a..b.", "b.example"))
    }

    @Test func domainsAreLowerCaseAndTheirTextIsKept() {
        let address = MailAddress(localPart: "A", domain: .name("b.example"), domainText: "B.Example")
        #expect(path("<A@B.Example>") == .success(.mailbox(address)))
        #expect(address.description == "A@B.Example")
    }

    @Test func postmasterAlone() {
        for text in ["Postmaster", "postmaster", "POSTMASTER"] {
            let address = MailAddress(localPart: text, domain: nil, domainText: "")
            #expect(path("<\(text)>") == .success(.mailbox(address)))
        }
        #expect(path("<postmasters>") == .failure(.noDomain))
        #expect(path("<\"postmaster\">") == .failure(.noDomain))
    }

    /// RFC 5321 §4.1.3.
    @Test func literals() {
        func literal(_ text: String, _ address: String) {
            let domain = MailDomain.literal(IPAddress(address)!)
            let expected = MailAddress(localPart: "a", domain: domain, domainText: text)
            #expect(path("<a@\(text)>") == .success(.mailbox(expected)))
        }
        literal("[127.0.0.1]", "127.0.0.1")
        literal("[IPv6:2001:db8::1]", "2001:db8::1")
        literal("[ipv6:::1]", "::1")
        for text in [
            "[]", "[1.2.3]", "[1.2.3.4", "[::1]", "[IPv6:1.2.3.4]", "[IPv6:]", "[x:y]", "[1.2.3.4]x", "[1.2.3.4].",
            "[IPv6\u{1a}::1]",
            "[\(String(repeating: "1", count: 80))]",
        ] {
            #expect(path("<a@\(text)>") == .failure(.domain), "\(text)")
        }
    }

    @Test("T-C1: only the domain after the last unquoted @ counts")
    func relayTricks() {
        #expect(path("<user%victim@d.example>") == mailbox("user%victim", "d.example"))
        #expect(path("<victim!user@d.example>") == mailbox("victim!user", "d.example"))
        #expect(path("<@a.example,@b.example:user@c.example>") == mailbox("user", "c.example"))
        #expect(path("<@a:user@c>") == mailbox("user", "c"))
        #expect(path("<\"user@victim\"@d.example>") == mailbox("\"user@victim\"", "d.example"))
        #expect(path("<user@victim@d.example>") == .failure(.domain))
        #expect(path("user@d.example") == .failure(.brackets))
        #expect(path("<user@d.example") == .failure(.brackets))
        #expect(path("<user@d.example.>") == .failure(.domain))
        #expect(path("<user@>") == .failure(.domain))
        #expect(path("<user>") == .failure(.noDomain))
        #expect(path("<@d.example>") == .failure(.domain))
        #expect(path("<@a,b:user@c>") == .failure(.domain))
        #expect(path("<@a:>") == .failure(.localPart))
        #expect(path("<@a,@b") == .failure(.brackets))
        #expect(path("<user@.example>") == .failure(.domain))
        #expect(path("<user@a..example>") == .failure(.domain))
        #expect(path("<user@-a.example>") == .failure(.domain))
        #expect(path("<user@a-.example>") == .failure(.domain))
    }

    @Test("T-C2: quotes, spaces, controls and 8-bit in the local part")
    func localParts() {
        for text in [
            "<a b@c>", "<a,b@c>", "<(a)@c>", "<a\u{0}b@c>", "<a\nb@c>", "<\"a@c>", "<\"a\nb\"@c>", "<\"a\u{0}\"@c>",
            "<\"a\\\u{7f}\"@c>", "<\"a\"b@c>", "<\"a\\", "<\"", "< a@c>",
        ] {
            #expect(path(text) == .failure(.localPart), "\(text)")
        }
        #expect(path("<-oSomething@c>") == mailbox("-oSomething", "c"))
        #expect(path("<\"\"@c>") == mailbox("\"\"", "c"))
        #expect(path("<a@c d>") == .failure(.domain))
    }

    /// RFC 6531 §3.3, RFC 3629 §4.
    @Test func utf8() {
        #expect(path("<δοκιμή@παράδειγμα.δοκιμή>") == mailbox("δοκιμή", "παράδειγμα.δοκιμή"))
        #expect(path("<\"д х\"@例え.example>") == mailbox("\"д х\"", "例え.example"))
        #expect(path("<😀@b>") == mailbox("😀", "b"))
        for bad: [UInt8] in [
            [0x80], [0xc0, 0xaf], [0xc2], [0xc2, 0x85], [0xe0, 0x80, 0x80], [0xed, 0xa0, 0x80],
            [0xf0, 0x80, 0x80, 0x80],
            [0xf4, 0x90, 0x80, 0x80], [0xff], [0xe2, 0x82], [0xe2, 0x82, 0x41], [0xf0, 0x9f, 0x98],
        ] {
            #expect(path([UInt8]("<".utf8) + bad + [UInt8]("@b>".utf8)) == .failure(.localPart))
            #expect(path([UInt8]("<\"".utf8) + bad + [UInt8]("\"@b>".utf8)) == .failure(.localPart))
            #expect(path([UInt8]("<a@b".utf8) + bad + [UInt8](">".utf8)) == .failure(.domain))
        }
    }

    /// RFC 5321 §4.5.3.1.
    @Test func limits() {
        func repeated(_ text: String, _ count: Int) -> String { String(repeating: text, count: count) }
        #expect(path("<\(repeated("a", 255))@b>") == mailbox(repeated("a", 255), "b"))
        #expect(path("<\(repeated("a", 256))@b>") == .failure(.length))
        #expect(path("<a@\(repeated("b", 63))>") == mailbox("a", repeated("b", 63)))
        #expect(path("<a@\(repeated("b", 64))>") == .failure(.length))
        let long = repeated("abc.", 63) + "abc"
        #expect(path("<a@\(long)>") == mailbox("a", long))
        #expect(path("<a@a\(long)>") == .failure(.length))
        // The A-label is shorter than the UTF-8.
        #expect(path("<a@\(repeated("例", 30))>") == mailbox("a", repeated("例", 30)))
    }

    /// Whatever stands before the end, a cut-off path is malformed and reading it does not trap.
    @Test func everyCut() {
        for text in ["<@a,@b:\"x y\\z\"@c.example>", "<α@[IPv6:2001:db8::1]>", "<a@β.example>"] {
            let bytes = [UInt8](text.utf8)
            guard case .success = path(bytes) else {
                Issue.record("\(text)")
                continue
            }
            for end in 0..<bytes.count {
                guard case .failure = path(Array(bytes[..<end])) else {
                    Issue.record("\(text) cut at \(end)")
                    continue
                }
            }
        }
    }

    @Test func printedPathsParseToThemselves() throws {
        for text in ["<a@B.example>", "<\"a b\"@c>", "<ü@[192.0.2.1]>", "<x@[IPv6:2001:db8::1]>", "<postmaster>", "<>"]
        {
            let parsed = try path(text).get()
            #expect("<\(parsed)>" == text)
        }
    }

    @Test func validatingText() throws {
        #expect(try MailAddress(validating: "a@B.example").domain == .name("b.example"))
        #expect(throws: AddressFault.noDomain) { try MailAddress(validating: "Postmaster") }
        #expect(throws: AddressFault.localPart) { try MailAddress(validating: "<a@b>") }
        #expect(throws: AddressFault.localPart) { try MailAddress(validating: "") }
        #expect(throws: AddressFault.domain) { try MailAddress(validating: "a@b ") }
        #expect(try MailDomain(validating: "Example.ORG") == .name("example.org"))
        #expect(try MailDomain(validating: "[192.0.2.1]") == .literal(IPAddress(v4: 0xc000_0201)))
        #expect(throws: AddressFault.domain) { try MailDomain(validating: "example.org.") }
        #expect(throws: AddressFault.domain) { try MailDomain(validating: "../x") }
        #expect(throws: AddressFault.domain) { try MailDomain(validating: "") }
    }
}
