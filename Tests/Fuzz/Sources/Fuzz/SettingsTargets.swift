@testable import Gateway
@testable import Protocols

/// Values as people write them: what is read is printed and read the same. Input: the text.
enum ValuesTarget {
    static func run(_ bytes: [UInt8]) {
        let given = text(bytes)
        if let seconds = DurationText.seconds(given) {
            require(seconds >= 0, "a time of \(seconds) s")
            requireSame(DurationText.seconds(DurationText.text(seconds)), seconds, "a time")
        }
        if let size = SizeText.bytes(given) {
            require(size >= 0, "a size of \(size)")
            requireSame(SizeText.bytes(SizeText.text(size)), size, "a size")
        }
        if let server = MailServer(given) { requireSame(MailServer(server.description), server, "a server") }
        if let (server, port) = MailServer.withPort(given) {
            require(port != 0, "port 0")
            requireSame(MailServer(server.description), server, "a server with its port")
        }
        if let endpoint = MailServerEndpoint(given) {
            requireSame(MailServerEndpoint(endpoint.description), endpoint, "a server's endpoint")
        }
        for port: UInt16? in [nil, 53] {
            guard let endpoint = Endpoint(given, standardPort: port) else { continue }
            require(endpoint.port != 0, "port 0")
            requireSame(Endpoint(endpoint.description), endpoint, "an endpoint")
        }
        if let network = IPNetwork(given) {
            require((0...128).contains(network.prefixBits), "bits of \(given)")
            require(network.contains(network.address), "\(given) does not hold its own address")
            requireSame(IPNetwork(network.description), network, "a network")
        }
        if let name = DomainNameNormaliser.aLabel(given) {
            requireSame(DomainNameNormaliser.aLabel(name), name, "a name mapped twice")
            require(
                (1...253).contains(name.utf8.count)
                    && name.utf8.allSatisfy {
                        ($0 >= 97 && $0 <= 122) || ($0 >= 48 && $0 <= 57) || $0 == 45 || $0 == 46
                    },
                "name \(name)")
            require(IPAddress(name) == nil, "\(name) is an address and a name")
            // What no name can have is refused wherever it stands, not left out.
            let scalars = given.unicodeScalars
            let middle = scalars.index(scalars.startIndex, offsetBy: scalars.count / 2)
            for forbidden in [" ", "_", "/", "\u{2db}", "\u{2100}", "\u{ff3f}"] {
                require(
                    DomainNameNormaliser.aLabel(String(scalars[..<middle]) + forbidden + String(scalars[middle...]))
                        == nil,
                    "\(given) with \(forbidden.unicodeScalars.map(\.value)) in it is a name")
            }
        }
        if PathText.isDirect(given) {
            // By bytes, as the kernel divides it.
            let parts = PathText.resolve(given, from: "/data").utf8
                .split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).map { Array($0) }
            require(!parts.dropFirst().contains { $0.isEmpty || $0 == [46] || $0 == [46, 46] }, "\(given) steps aside")
            require(given.utf8.first == 47 || parts[1] == Array("data".utf8), "\(given) leaves its folder")
        }
        let quoted = InvalidSetting.quote(given)
        require(quoted.utf8.count <= 80 * 12 + 8, "a quotation of \(quoted.utf8.count) bytes")
        requireSentence(quoted)
    }
}

/// `postern.yaml` with an environment over it: refused in one sentence, or what it prints is read the same.
///
/// Input: the file; with unit separators, `VARIABLE=value` of the environment.
enum ConfigurationTarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let parts = input.parts(FuzzInput.unit)
        guard let yaml = String(validating: parts[0], as: UTF8.self) else { return }
        var environment: [String: String] = [:]
        for part in parts.dropFirst() {
            let variable = text(part)
            guard let equals = variable.firstIndex(of: "=") else { continue }
            environment[String(variable[..<equals])] = String(variable[variable.index(after: equals)...])
        }
        // Not the machine's, so that an input means the same everywhere.
        if environment["POSTERN_HOSTNAME"] == nil, !yaml.contains("hostname") {
            environment["POSTERN_HOSTNAME"] = "mx.example"
        }
        do throws(ConfigurationFault) {
            let configuration = try Configuration(
                yaml: yaml, file: "/etc/postern/postern.yaml", environment: environment)
            check(configuration)
        } catch {
            requireSentence(error.sentence)
        }
    }

    private static func check(_ configuration: Configuration) {
        let printed = configuration.value
        require(!configuration.hostname.isEmpty && configuration.data.hasPrefix("/"), "host name and folder")
        for text in [printed.yaml, printed.json] {
            do throws(ConfigurationFault) {
                let again = try Configuration(yaml: text, file: "/etc/postern/postern.yaml", environment: [:])
                requireSame(again.value.json, printed.json, "a configuration printed and read")
            } catch {
                fail("what was printed is refused: \(error.sentence)\n\(text)")
            }
        }
    }
}

/// JSON and YAML documents, gateways and settings, and `key=value`.
///
/// Input: a kind, then the text; for assignments one a unit.
enum DocumentTarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let kind = input.byte() & 3
        if kind == 3 { return assignments(input.parts(FuzzInput.unit).map { text($0) }) }
        guard let given = String(validating: input.all(), as: UTF8.self) else { return }
        do throws(InvalidSetting) {
            switch kind {
            case 0: try json(given)
            case 1: try yaml(given)
            default: try settings(given)
            }
        } catch {
            requireSentence(error.sentence)
        }
    }

    private static func json(_ given: String) throws(InvalidSetting) {
        let value = try DocumentValue(json: given)
        let printed = value.json
        require(!printed.utf8.contains(where: isControl), "a control byte in JSON")
        same(printed) { () throws(InvalidSetting) in try DocumentValue(json: printed).json }
        depth(value, 0)
        gateway(try GatewayDocument(value))
    }

    private static func yaml(_ given: String) throws(InvalidSetting) {
        let values = try DocumentValue.documents(yaml: given, limitBytes: 1 << 16)
        for value in values {
            depth(value, 0)
            _ = value.yaml
            require(!value.json.utf8.contains(where: isControl), "a control byte in JSON")
        }
        let gateways = try GatewayDocument.list(yaml: given)
        let printed = GatewayDocument.yaml(gateways)
        let again = same { () throws(InvalidSetting) in try GatewayDocument.list(yaml: printed) }
        requireSame(again, gateways, "gateways printed and read")
        for one in gateways { gateway(one) }
    }

    private static func settings(_ given: String) throws(InvalidSetting) {
        var settings = Settings()
        try settings.merge(try DocumentValue(json: given))
        check(settings)
    }

    private static func assignments(_ texts: [String]) {
        guard var document = try? GatewayDocument(domain: "altn.test") else { fail("altn.test") }
        let before = document
        do throws(InvalidSetting) {
            try document.apply(texts)
            gateway(document)
        } catch {
            requireSentence(error.sentence)
            requireSame(document, before, "a refused change")
        }
        var settings = Settings()
        do throws(InvalidSetting) {
            try settings.apply(texts)
            check(settings)
        } catch {
            requireSentence(error.sentence)
            requireSame(settings, Settings(), "a refused change")
        }
    }

    private static func check(_ settings: Settings) {
        var again = Settings()
        same { () throws(InvalidSetting) in try again.merge(try DocumentValue(json: settings.value.json)) }
        requireSame(again, settings, "settings printed and read")
    }

    private static func gateway(_ document: GatewayDocument) {
        let stored = document.changes.json
        requireSame(
            same { () throws(InvalidSetting) in try GatewayDocument(json: stored) }, document, "stored and read")
        // The values in force, which name what was a default, too.
        let shown = document.json
        requireSame(
            same { () throws(InvalidSetting) in try GatewayDocument(json: shown) }.json, shown, "shown and read")
        let yaml = document.yaml
        let again = same { () throws(InvalidSetting) in try GatewayDocument.list(yaml: yaml) }
        requireSame(again.map(\.json), [document.json], "a gateway as YAML")
        let parts = document.effectiveMailDirectory.utf8.split(separator: UInt8(ascii: "/"))
        require(!parts.contains { $0.elementsEqual("..".utf8) }, "a mail directory steps aside")
    }

    private static func depth(_ value: DocumentValue, _ depth: Int) {
        require(depth <= DocumentValue.Limits.depth, "too deep")
        switch value.content {
        case .list(let items): for item in items { self.depth(item, depth + 1) }
        case .map(let members):
            require(Set(members.map(\.key)).count == members.count, "a key stands twice")
            for member in members { self.depth(member.value, depth + 1) }
        default: break
        }
    }

    @discardableResult
    private static func same<Value>(_ body: () throws(InvalidSetting) -> Value) -> Value {
        do throws(InvalidSetting) { return try body() } catch { fail("what was printed is refused: \(error.sentence)") }
    }

    private static func same(_ expected: String, _ body: () throws(InvalidSetting) -> String) {
        requireSame(same(body), expected, "printed and read")
    }
}
