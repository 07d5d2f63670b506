import Testing

@testable import Protocols

/// What the site of these tests knows of its users.
struct SASLDirectory {
    static let user = "altn.test"
    static let password = "s3cret word"
    static let nobodySecret = [UInt8](repeating: 0x5e, count: 32)

    var functions = SASLFunctions.testing()
    var isAvailable = true

    var context: SASLServerContext {
        SASLServerContext(functions: functions, hostname: "mx.example", nobodySecret: Self.nobodySecret)
    }

    private static let secrets = [user: password, "mrose": "tanstaaf", "tim": "tanstaaftanstaaf"]

    func answer(_ question: SASLQuestion) -> SASLAnswer {
        guard isAvailable else { return .unavailable }
        switch question {
        case .password(let user, let password):
            guard let secret = Self.secrets[user] else { return .nobody }
            return .verdict(password == Array(secret.utf8))
        case .secret(let user):
            guard let secret = Self.secrets[user] else { return .nobody }
            return .secret(Array(secret.utf8))
        case .scramKeys(let user):
            guard let secret = Self.secrets[user] else { return .nobody }
            return .scram(SCRAMKeys(password: Array(secret.utf8), salt: Array(1...16), functions: functions))
        }
    }
}

private func base64(_ text: String) -> [UInt8] { Base64.encode(Array(text.utf8)) }
private func string(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

extension SASLServerExchange {
    /// With a response that is to be put into base64.
    fileprivate static func start(
        _ mechanism: SASLMechanism, _ response: String?, _ context: SASLServerContext
    ) -> (SASLServerExchange, Step) {
        guard let response else { return start(mechanism, initialResponse: nil, context: context) }
        return base64(response).withUnsafeBytes { start(mechanism, initialResponse: $0, context: context) }
    }

    fileprivate mutating func respond(_ text: String) -> Step { base64(text).withUnsafeBytes { respond($0) } }
}

@Suite struct SASLTests {
    private let directory = SASLDirectory()

    @Test("RFC 4648 §10: the test vectors, and back") func base64Vectors() {
        for (plain, text) in [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            #expect(string(base64(plain)) == text)
            #expect(Array(text.utf8).withUnsafeBytes { Base64.decode($0) } == Array(plain.utf8))
        }
        for count in 0...64 {
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ count) }
            #expect(Base64.encode(bytes).withUnsafeBytes { Base64.decode($0) } == bytes)
        }
    }

    @Test(
        "T-D6, RFC 4954 §4, RFC 5034 §4: base64 that is none is refused",
        arguments: [
            "=AAA", "AAA=BBB", "AAA=BBBB", "A", "AA", "AAA", "AAAAA", "AA=A", "====", "A===", "AA==AA==", "AB==",
            "AAB=",
            "AA A", "AAA\t", "AAA-", "AAA_", "AA\0A", "AAA*", " AAAA", "AAAA ", "ÄAA",
        ])
    func strictBase64(_ text: String) {
        #expect(Array(text.utf8).withUnsafeBytes { Base64.decode($0) } == nil)
        var (exchange, _) = SASLServerExchange.start(.plain, nil, directory.context)
        #expect(Array(text.utf8).withUnsafeBytes { exchange.respond($0) } == .failed(.encoding))
    }

    @Test("RFC 4616 §4: PLAIN with the examples' identities") func plain() {
        let (_, step) = SASLServerExchange.start(.plain, "\0tim\0tanstaaftanstaaf", directory.context)
        #expect(step == .ask(.password(user: "tim", password: Array("tanstaaftanstaaf".utf8))))
        // Its other example acts for somebody else, which nobody may here.
        #expect(
            SASLServerExchange.start(.plain, "Ursel\0Kurt\0xipj3plmq", directory.context).1 == .failed(.credentials))
        #expect(
            SASLServerExchange.start(.plain, "tim\0tim\0x", directory.context).1
                == .ask(.password(user: "tim", password: Array("x".utf8))))
        var (exchange, first) = SASLServerExchange.start(.plain, nil, directory.context)
        #expect(first == .challenge([]))
        #expect(exchange.respond("\0a\0b") == .ask(.password(user: "a", password: Array("b".utf8))))
        #expect(exchange.answer(.verdict(true)) == .authenticated(user: "a"))
    }

    @Test(
        "T-D6: PLAIN that is none",
        arguments: ["", "\0", "\0\0", "a", "a\0b", "\0a\0", "\0\0b", "\0a\0b\0", "\0a\0b\0c", "\0\0\0"])
    func malformedPlain(_ response: String) {
        var (exchange, _) = SASLServerExchange.start(.plain, nil, directory.context)
        #expect(exchange.respond(response) == .failed(.malformed))
    }

    @Test("RFC 4013 §2.3: names with control bytes or beyond ASCII, and those out of bounds, are nobody's")
    func names() {
        for user in ["a\u{1}", "a\u{7f}", "bücher", String(repeating: "a", count: 256)] {
            #expect(SASLServerExchange.start(.plain, "\0\(user)\0b", directory.context).1 == .failed(.credentials))
            #expect(
                SASLServerExchange.start(.scramSHA256, "n,,n=\(user),r=abc", directory.context).1
                    == .failed(.credentials))
            var (exchange, _) = SASLServerExchange.start(.cramMD5, nil, directory.context)
            #expect(exchange.respond("\(user) b913a602c7eda7a495b4e6e7334d3890") == .failed(.credentials))
        }
        let long = String(repeating: "p", count: 1_025)
        #expect(SASLServerExchange.start(.plain, "\0a\0\(long)", directory.context).1 == .failed(.credentials))
        #expect(
            SASLServerExchange.start(.plain, "\0a\0\(long.dropLast())", directory.context).1 != .failed(.credentials))
    }

    @Test("LOGIN asks for the user, then for the password") func login() {
        var (exchange, step) = SASLServerExchange.start(.login, nil, directory.context)
        #expect(step == .challenge(Array("Username:".utf8)))
        #expect(exchange.respond("tim") == .challenge(Array("Password:".utf8)))
        #expect(exchange.respond("x") == .ask(.password(user: "tim", password: Array("x".utf8))))
        #expect(exchange.answer(.verdict(false)) == .failed(.credentials))
        // With the user along, as .NET sends it.
        (exchange, step) = SASLServerExchange.start(.login, "tim", directory.context)
        #expect(step == .challenge(Array("Password:".utf8)))
    }

    @Test("RFC 2195 §2: the example's digest") func cramExample() {
        let challenge = Array("<1896.697170952@postoffice.reston.mci.net>".utf8)
        let digest = SASLDigest(
            isKeyed: true, challenge: challenge, claimed: Array("b913a602c7eda7a495b4e6e7334d3890".utf8))
        #expect(digest.isRight(secret: Array("tanstaaftanstaaf".utf8), .testing()))
        #expect(!digest.isRight(secret: Array("tanstaaftanstaag".utf8), .testing()))
        var client = SASLClientExchange(.cramMD5, user: "tim", password: "tanstaaftanstaaf", functions: .testing())
        let response = Array("PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+".utf8).withUnsafeBytes {
            try? client.respond(to: $0)
        }
        #expect(string(Base64.encode(response ?? [])) == "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw")
    }

    @Test("RFC 1939 §7: the example's digest of APOP") func apopExample() {
        let timestamp = "<1896.697170952@dbc.mtview.ca.us>"
        func step(_ secret: String) -> SASLServerExchange.Step {
            var (exchange, step) = SASLServerExchange.apop(
                user: Array("mrose".utf8), digest: Array("c4c9334bac560ecc979e58001b3e22fb".utf8), timestamp: timestamp,
                context: directory.context)
            #expect(step == .ask(.secret(user: "mrose")))
            return exchange.answer(.secret(Array(secret.utf8)))
        }
        #expect(step("tanstaaf") == .authenticated(user: "mrose"))
        #expect(step("tanstaag") == .failed(.credentials))
    }

    @Test("CRAM-MD5's challenge is a new message id each time; a first response along is refused (RFC 4954 §4)")
    func cramChallenges() throws {
        var drawn: UInt8 = 0
        var directory = directory
        directory.functions.random = { count in
            drawn += 1
            return [UInt8](repeating: drawn, count: count)
        }
        var seen: Set<[UInt8]> = []
        for _ in 0..<3 {
            guard case .challenge(let challenge) = SASLServerExchange.start(.cramMD5, nil, directory.context).1 else {
                Issue.record("no challenge")
                return
            }
            #expect(challenge.first == UInt8(ascii: "<") && string(challenge).hasSuffix(".1700000000@mx.example>"))
            #expect(seen.insert(challenge).inserted)
        }
        #expect(
            SASLServerExchange.start(.cramMD5, "tim 0", directory.context).1 == .failed(.unexpectedInitialResponse))
    }

    @Test("RFC 7677 §3: the example of SCRAM-SHA-256, both sides") func scramExample() throws {
        let salt = try #require(Array("W22ZaJ0SNY7soEsUEjb6gQ==".utf8).withUnsafeBytes { Base64.decode($0) })
        let functions = SASLFunctions.testing()
        var client = SASLClientExchange(
            .scramSHA256, user: "user", password: "pencil", functions: functions,
            nonce: Array("rOprNGfwEbeRWgbNEkqO".utf8))
        var server = SCRAMServer(isBound: false)
        let first = try #require(client.initialResponse)
        #expect(string(first) == "n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        guard case .findKeys = server.received(first, context: directory.context),
            case .challenge(let challenge) = server.found(
                SCRAMKeys(password: Array("pencil".utf8), salt: salt, functions: functions), isNobody: false,
                serverNonce: Array("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".utf8))
        else {
            Issue.record("no challenge")
            return
        }
        #expect(
            string(challenge)
                == "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
        let final = try Base64.encode(challenge).withUnsafeBytes { try client.respond(to: $0) }
        #expect(
            string(final)
                == "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        )
        guard case .verified(let lastWord) = server.received(final, context: directory.context) else {
            Issue.record("not verified")
            return
        }
        #expect(string(lastWord) == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        #expect(!client.isComplete)
        #expect(try Base64.encode(lastWord).withUnsafeBytes { try client.respond(to: $0) } == [] && client.isComplete)
    }

    /// Our client against our server, through their texts.
    private func scram(
        user: String = SASLDirectory.user, password: String = SASLDirectory.password,
        change: (String) -> String = { $0 }
    ) -> (SASLServerExchange.Step, client: SASLClientExchange) {
        var client = SASLClientExchange(
            .scramSHA256, user: user, password: password, functions: .testing(chance: Array(100..<120)))
        var (server, step) = SASLServerExchange.start(
            .scramSHA256, change(string(client.initialResponse ?? [])), directory.context)
        while true {
            switch step {
            case .ask(let question): step = server.answer(directory.answer(question))
            case .challenge(let challenge):
                do {
                    let response = try Base64.encode(challenge).withUnsafeBytes { try client.respond(to: $0) }
                    step = server.respond(change(string(response)))
                } catch {
                    Issue.record("\(error)")
                    return (.failed(.cancelled), client)
                }
            case .authenticated, .failed: return (step, client)
            }
        }
    }

    @Test("RFC 5802 §5: a client that knows the password, one that doesn't, and nobody") func scramOutcomes() {
        let (step, client) = scram()
        #expect(step == .authenticated(user: SASLDirectory.user) && client.isComplete)
        #expect(scram(password: "wrong").0 == .failed(.credentials))
        #expect(scram(user: "nobody.test").0 == .failed(.credentials))
        #expect(!scram(password: "wrong").client.isComplete)
    }

    @Test("RFC 5802 §5.1: what is changed on the way fails") func scramChanges() {
        for (find, replace) in [
            ("n,,", "y,x,"), ("n,,", "x,,"), ("n,,", "p=tls-unique,,"), ("n,,", "n,a=other,"), ("n,,", "nn,,"),
            ("n,,n=", "n,,m=x,n="), ("n=altn.test", "n=altn=test"), ("n=altn.test", "n="), (",r=", ",r= "),
            (",r=", ",x="),
            ("c=biws", "c=eSws"), ("c=biws", "c=biwsAAAA"), (",p=", ",m=x,p="), (",p=", ",p=A"), (",p=", ",x="),
            (",p=", ",r=a,p"),
        ] {
            let (step, _) = scram { text in
                text.replacing(find, with: replace, maxReplacements: 1)
            }
            guard case .failed = step else {
                Issue.record("\(find) → \(replace): \(step)")
                continue
            }
        }
        // Unknown extensions are ignored, and covered by the proof.
        #expect(scram { $0.hasPrefix("c=") ? $0.replacing(",p=", with: ",x=1,p=") : $0 }.0 == .failed(.credentials))
    }

    @Test("RFC 5802 §5.1: an optional extension is ignored, a mandatory one is not") func scramExtensions() {
        let (_, step) = SASLServerExchange.start(.scramSHA256, "n,,n=a,r=abc,x=1,y=2", directory.context)
        #expect(step == .ask(.scramKeys(user: "a")))
        #expect(
            SASLServerExchange.start(.scramSHA256, "n,,n=a,r=abc,m=1", directory.context).1 == .failed(.malformed))
        #expect(
            SASLServerExchange.start(.scramSHA256, "n,a=a=2Cb,n=a=2Cb,r=abc", directory.context).1
                == .ask(.scramKeys(user: "a,b")))
    }

    @Test("T-D5: users who don't exist are asked for, answered and refused in the same form, always with the same salt")
    func nobody() throws {
        func serverFirst(_ user: String) throws -> String {
            var (exchange, step) = SASLServerExchange.start(.scramSHA256, "n,,n=\(user),r=abc", directory.context)
            guard case .ask(let question) = step else { throw SASLClientExchange.Fault.malformedChallenge }
            step = exchange.answer(directory.answer(question))
            guard case .challenge(let challenge) = step else { throw SASLClientExchange.Fault.malformedChallenge }
            return string(challenge)
        }
        let (known, one, other) = try (
            serverFirst(SASLDirectory.user), serverFirst("one.test"), serverFirst("other.test")
        )
        #expect(known.count == one.count && one != other)
        #expect(try serverFirst("one.test") == one)
        #expect(one.hasSuffix(",i=4096"))
        for user in [SASLDirectory.user, "one.test"] {
            var (exchange, _) = SASLServerExchange.start(.cramMD5, nil, directory.context)
            let step = exchange.respond("\(user) 00000000000000000000000000000000")
            #expect(step == .ask(.secret(user: user)))
            #expect(exchange.answer(directory.answer(.secret(user: user))) == .failed(.credentials))
        }
        // Not even with the secret that stands for nobody's.
        var (exchange, step) = SASLServerExchange.start(.cramMD5, nil, directory.context)
        guard case .challenge(let challenge) = step else { return }
        let digest = SASLFunctions.hexadecimal(directory.functions.hmacMD5(SASLDirectory.nobodySecret, challenge))
        _ = exchange.respond("nobody.test \(digest)")
        #expect(exchange.answer(.nobody) == .failed(.credentials))
    }

    @Test("T-B6: SCRAM-SHA-256-PLUS only where there is something to bind to, and no way around it")
    func channelBinding() {
        var offer = SASLOffer(context: directory.context)
        #expect(!offer.mechanisms(isTLS: true).contains(.scramSHA256Plus))
        offer.context.channelBinding = ("tls-exporter", [UInt8](repeating: 7, count: 32))
        #expect(offer.mechanisms(isTLS: true).first == .scramSHA256Plus)
        #expect(!offer.mechanisms(isTLS: false).contains(.scramSHA256Plus))
        // The client believes that we don't offer it: somebody stands between.
        #expect(SASLServerExchange.start(.scramSHA256, "y,,n=a,r=abc", offer.context).1 == .failed(.credentials))
        #expect(
            SASLServerExchange.start(.scramSHA256Plus, "p=tls-unique,,n=a,r=abc", offer.context).1
                == .failed(.credentials))
        #expect(SASLServerExchange.start(.scramSHA256Plus, "n,,n=a,r=abc", offer.context).1 == .failed(.malformed))
        func bound(_ binding: UInt8) -> SASLServerExchange.Step {
            let functions = directory.functions
            let bare = "n=\(SASLDirectory.user),r=abc"
            var (exchange, _) = SASLServerExchange.start(.scramSHA256Plus, "p=tls-exporter,,\(bare)", offer.context)
            guard
                case .challenge(let serverFirst) = exchange.answer(
                    directory.answer(.scramKeys(user: SASLDirectory.user)))
            else { return .failed(.malformed) }
            let header = Array("p=tls-exporter,,".utf8) + [UInt8](repeating: binding, count: 32)
            let nonce = string(serverFirst).split(separator: ",")[0]
            let withoutProof = "c=\(string(Base64.encode(header))),\(nonce)"
            let authMessage = Array("\(bare),\(string(serverFirst)),\(withoutProof)".utf8)
            let salted = functions.pbkdf2SHA256(Array(SASLDirectory.password.utf8), Array(1...16), 4_096)
            let clientKey = functions.hmacSHA256(salted, Array("Client Key".utf8))
            let signature = functions.hmacSHA256(functions.sha256(clientKey), authMessage)
            let proof = string(Base64.encode(zip(clientKey, signature).map { $0 ^ $1 }))
            guard case .challenge = exchange.respond("\(withoutProof),p=\(proof)") else { return .failed(.credentials) }
            return exchange.respond("")
        }
        #expect(bound(7) == .authenticated(user: SASLDirectory.user))
        #expect(bound(8) == .failed(.credentials))
    }

    @Test("EXTERNAL: the certificate's user, and no other") func external() {
        var context = directory.context
        context.externalUser = "altn.test"
        #expect(SASLServerExchange.start(.external, "altn.test", context).1 == .authenticated(user: "altn.test"))
        #expect(SASLServerExchange.start(.external, "other.test", context).1 == .failed(.credentials))
        let (_, step) = Array("=".utf8).withUnsafeBytes {
            SASLServerExchange.start(.external, initialResponse: $0, context: context)
        }
        #expect(step == .authenticated(user: "altn.test"))
        #expect(!SASLOffer(context: directory.context).mechanisms(isTLS: true).contains(.external))
    }

    @Test("T-D5: nothing that shows a password is on offer without TLS, unless the site wants it") func offers() {
        var offer = SASLOffer(context: directory.context)
        #expect(offer.mechanisms(isTLS: false) == [.scramSHA256, .cramMD5])
        #expect(offer.mechanisms(isTLS: true) == [.scramSHA256, .cramMD5, .plain, .login])
        // D-13: a site may do without CRAM-MD5.
        offer.wanted = [.plain]
        #expect(offer.mechanisms(isTLS: false).isEmpty)
        offer.showsPasswordsInClear = true
        #expect(offer.mechanisms(isTLS: false) == [.plain])
    }

    @Test("A client takes the best that it can, and no password goes in the clear") func clientChooses() {
        let all = SASLMechanism.allCases
        #expect(SASLClientExchange.choose(from: all, isTLS: false, user: "a", password: "b") == .scramSHA256)
        #expect(SASLClientExchange.choose(from: [.plain, .login], isTLS: false, user: "a", password: "b") == nil)
        #expect(SASLClientExchange.choose(from: [.cramMD5, .plain], isTLS: true, user: "a", password: "b") == .plain)
        #expect(SASLClientExchange.choose(from: all, isTLS: false, user: "a", password: "ü") == .cramMD5)
    }

    @Test("A client does not compute for a server's pleasure, nor for one that wants it easy") func clientBounds() {
        for (challenge, fault) in [
            ("r=%,s=QUJD,i=4096", SASLClientExchange.Fault.malformedChallenge),
            ("r=NONCEx,s=QUJD,i=1000000000", .tooManyIterations), ("r=NONCEx,s=QUJD,i=1", .tooFewIterations),
            ("r=NONCE,s=QUJD,i=4096", .malformedChallenge), ("r=NONCEx,s=Q,i=4096", .malformedChallenge),
            ("r=NONCEx,s=QUJD,i=x", .malformedChallenge), ("e=other-error", .malformedChallenge),
            ("", .malformedChallenge),
        ] {
            var client = SASLClientExchange(.scramSHA256, user: "a", password: "b", functions: .testing())
            let nonce = string(client.initialResponse ?? []).split(separator: "r=").last ?? ""
            let text = Base64.encode(Array(challenge.replacing("NONCE", with: nonce).utf8))
            #expect(throws: fault, "\(challenge)") { try text.withUnsafeBytes { _ = try client.respond(to: $0) } }
        }
    }
}
