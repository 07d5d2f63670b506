@testable import Protocols

/// Whom the targets know, and a cryptography that an input can guess: each digest is one byte, again and again, of the
/// key's or message's first. So inputs get through a login, and what must not get through is seen to be kept out.
enum FuzzDirectory {
    static let user = "altn.test"
    static let password = Array("secret".utf8)
    static let nobodySecret = [UInt8](repeating: 0x5e, count: 16)

    static var context: SASLServerContext {
        func first(_ bytes: [UInt8], _ count: Int) -> [UInt8] { [UInt8](repeating: bytes.first ?? 0, count: count) }
        let functions = SASLFunctions(
            md5: { first($0, 16) }, sha256: { first($0, 32) }, hmacMD5: { key, _ in first(key, 16) },
            hmacSHA256: { key, _ in first(key, 32) }, pbkdf2SHA256: { password, _, _ in first(password, 32) },
            areEqual: { $0 == $1 }, random: { [UInt8](repeating: 0, count: $0) }, now: { 0 })
        return SASLServerContext(functions: functions, hostname: "mx.example", nobodySecret: nobodySecret)
    }

    static func answer(_ question: SASLQuestion) -> SASLAnswer {
        switch question {
        case .password(let name, let said):
            checkName(name)
            require((1...SASLLimits.passwordMaxBytes).contains(said.count) && !said.contains(0), "password")
            return name == user ? .verdict(said == password) : .nobody
        case .secret(let name):
            checkName(name)
            return name == user ? .secret(password) : .nobody
        case .scramKeys(let name):
            checkName(name)
            guard name == user else { return .nobody }
            return .scram(SCRAMKeys(password: password, salt: Array(1...16), functions: context.functions))
        }
    }

    private static func checkName(_ name: String) {
        require((1...SASLLimits.userMaxBytes).contains(name.utf8.count), "a name of \(name.utf8.count) bytes")
        require(name.utf8.allSatisfy { $0 >= 32 && $0 < 127 }, "a name's bytes")
    }
}

/// Base64, the mechanisms of a server and of a client: only a known user with his secret gets in.
///
/// Input: mechanism and options, then responses (not in base64), between them ASCII's unit separator.
enum SASLTarget {
    static func run(_ bytes: [UInt8]) {
        checkBase64(bytes)
        var input = FuzzInput(bytes)
        let choice = input.byte()
        let mechanism = SASLMechanism.allCases[Int(choice & 7) % SASLMechanism.allCases.count]
        let responses = input.parts(FuzzInput.unit)
        var context = FuzzDirectory.context
        if choice & 8 != 0 { context.externalUser = FuzzDirectory.user }
        if choice & 16 != 0 { context.channelBinding = ("tls-exporter", [UInt8](repeating: 7, count: 32)) }
        serve(mechanism, responses, context, hasInitialResponse: choice & 32 != 0)
        log(in: mechanism, responses)
    }

    private static func checkBase64(_ bytes: [UInt8]) {
        if let decoded = withExact(bytes, { Base64.decode($0) }) {
            requireSame(Base64.encode(decoded), bytes, "one text for one value")
        }
        let again: [UInt8]? = withExact(Base64.encode(bytes)) { Base64.decode($0) }
        requireSame(again, .some(bytes), "base64 and back")
    }

    private static func serve(
        _ mechanism: SASLMechanism, _ responses: [[UInt8]], _ context: SASLServerContext, hasInitialResponse: Bool
    ) {
        var rest = responses[...]
        let initial = hasInitialResponse ? rest.popFirst() : nil
        var exchange: SASLServerExchange
        var step: SASLServerExchange.Step
        if let initial {
            (exchange, step) = withExact(initial.isEmpty ? [UInt8(ascii: "=")] : Base64.encode(initial)) {
                SASLServerExchange.start(mechanism, initialResponse: $0, context: context)
            }
        } else {
            (exchange, step) = SASLServerExchange.start(mechanism, initialResponse: nil, context: context)
        }
        var said = initial.map { [$0] } ?? []
        var challenges: [[UInt8]] = []
        var asked = false
        while true {
            switch step {
            case .challenge(let challenge):
                require(challenge.count <= 1_024, "a challenge of \(challenge.count) bytes")
                challenges.append(challenge)
                require(challenges.count <= 4, "no end")
                guard let response = rest.popFirst() else { return }
                said.append(response)
                step = withExact(Base64.encode(response)) { exchange.respond($0) }
            case .ask(let question):
                require(!asked, "asked twice")
                asked = true
                step = exchange.answer(FuzzDirectory.answer(question))
            case .failed: return
            case .authenticated(let user):
                requireSame(user, FuzzDirectory.user, "the user")
                return checkLogin(mechanism, said, challenges, context)
            }
        }
    }

    /// What must have been said, by a plainer reading.
    private static func checkLogin(
        _ mechanism: SASLMechanism, _ said: [[UInt8]], _ challenges: [[UInt8]], _ context: SASLServerContext
    ) {
        let user = Array(FuzzDirectory.user.utf8)
        switch mechanism {
        case .plain:
            let tail = [0] + user + [0] + FuzzDirectory.password
            require(said == [tail] || said == [user + tail], "PLAIN")
        case .login: require(said == [user, FuzzDirectory.password], "LOGIN")
        case .external: require(context.externalUser != nil && (said == [[]] || said == [user]), "EXTERNAL")
        case .cramMD5:
            require(said == [user + Array(" 73737373737373737373737373737373".utf8)], "CRAM-MD5")
        case .scramSHA256, .scramSHA256Plus:
            require(said.count == 3 && said[2].isEmpty, "SCRAM's messages")
            let serverFirst = text(challenges[challenges.count - 2])
            let nonce = serverFirst.split(separator: ",")[0]
            require(text(said[1]).contains(",\(nonce),"), "SCRAM's nonce")
            require(text(challenges[challenges.count - 1]).hasPrefix("v="), "SCRAM's verifier")
            let isBound = mechanism == .scramSHA256Plus
            require(
                text(said[0]).hasPrefix(isBound ? "p=tls-exporter," : "n,")
                    || !isBound && text(said[0]).hasPrefix("y,"), "flag")
            require(!isBound || context.channelBinding != nil, "bound to nothing")
        }
    }

    /// Our client before a server that says anything.
    private static func log(in mechanism: SASLMechanism, _ challenges: [[UInt8]]) {
        guard [.plain, .cramMD5, .scramSHA256].contains(mechanism) else { return }
        var client = SASLClientExchange(
            mechanism, user: FuzzDirectory.user, password: "secret", functions: FuzzDirectory.context.functions)
        for challenge in challenges {
            guard let response = try? withExact(Base64.encode(challenge), { try client.respond(to: $0) }) else { break }
            require(response.count <= 2_048, "a response of \(response.count) bytes")
        }
        guard mechanism == .scramSHA256, client.isComplete else { return }
        let verifier = Array("v=".utf8) + Base64.encode([UInt8](repeating: 0x73, count: 32))
        require(challenges.contains { $0.starts(with: verifier) }, "a server that proved nothing")
    }
}
