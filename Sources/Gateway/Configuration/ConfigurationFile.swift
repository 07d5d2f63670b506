import Glibc
import Reactor

extension Configuration {
    /// Where a configuration is looked for, when nobody names one.
    private static let standardFiles = ["./postern.yaml", "/etc/postern/postern.yaml"]

    /// Reads the configuration: the file, then the environment over it, then all checks.
    ///
    /// - Parameters:
    ///   - path: From `--config`; else `$POSTERN_CONFIG`, `./postern.yaml`, `/etc/postern/postern.yaml`; else defaults.
    ///   - environment: Variables such as `POSTERN_LIMITS_MESSAGE_SIZE`; lists with commas.
    public static func load(path: String?, environment: [String: String]) throws(ConfigurationFault) -> Configuration {
        try load(path: path, environment: environment, standardFiles: standardFiles)
    }

    static func load(path: String?, environment: [String: String], standardFiles: [String])
        throws(ConfigurationFault) -> Configuration
    {
        if let named = path ?? environment["POSTERN_CONFIG"] {
            guard let text = try read(named) else {
                throw ConfigurationFault(sentence: "\(InvalidSetting.quote(named)): there is no such file")
            }
            return try Configuration(yaml: text, file: named, environment: environment)
        }
        for file in standardFiles {
            if let text = try read(file) { return try Configuration(yaml: text, file: file, environment: environment) }
        }
        return try Configuration(yaml: "", file: nil, environment: environment)
    }

    /// A configuration from a file's text.
    ///
    /// - Parameter file: Its name, for messages and for relative paths; nil: there is no file, and these start at the
    ///   working directory.
    init(yaml text: String, file: String?, environment: [String: String]) throws(ConfigurationFault) {
        self.init(hostname: "")
        self.file = file
        do throws(InvalidSetting) {
            let documents = try DocumentValue.documents(yaml: text, limitBytes: DocumentValue.Limits.documentBytes)
            guard documents.count <= 1 else { throw InvalidSetting("it holds more than one YAML document") }
            if let document = documents.first, !document.isNull {
                if case .map = document["listen"]?.content { listen = Listen() }
                var notBuilt: [String] = []
                try Self.keys.merge(document, into: &self) { if !$0.isBuilt { notBuilt.append($0.key) } }
                notInThisVersion = notBuilt
            }
        } catch {
            throw ConfigurationFault(sentence: "\(file.map { "\(InvalidSetting.quote($0)): " } ?? "")\(error.sentence)")
        }
        do throws(InvalidSetting) {
            try override(by: environment)
            try check()
        } catch {
            throw ConfigurationFault(sentence: error.sentence)
        }
        if hostname.isEmpty { hostname = try Self.machineName() }
        resolvePaths()
    }

    private mutating func override(by environment: [String: String]) throws(InvalidSetting) {
        var known: Set<String> = ["POSTERN_CONFIG"]
        for setting in Self.keys.settings {
            let variable = Self.variable(setting.key)
            known.insert(variable)
            guard let text = environment[variable] else { continue }
            do throws(InvalidSetting) {
                try setting.write(&self, DocumentValue(text == "null" ? .null : .word(text)))
            } catch {
                throw InvalidSetting("`$\(variable)`: \(error.sentence)")
            }
            if !setting.isBuilt, !notInThisVersion.contains(setting.key) { notInThisVersion.append(setting.key) }
        }
        unknownVariables = environment.keys.filter { $0.hasPrefix("POSTERN_") && !known.contains($0) }.sorted()
    }

    var allowedCPUs: [Int] { cpus ?? Thread.allowedCPUs() }
    var reactorCount: Int { reactors ?? max(1, allowedCPUs.count) }

    /// What single keys can't tell.
    private func check() throws(InvalidSetting) {
        if let reactors, let cpus, pin, reactors > cpus.count {
            throw InvalidSetting(
                "`reactors`: \(reactors) is more than the \(cpus.count) cores of `cpus`; they are pinned")
        }
        if let cpus, Set(cpus).count != cpus.count { throw InvalidSetting("`cpus` names a core twice") }
        let least = reactorCount * JournalSettings.segmentsMin * journal.segment
        if journal.size > 0, journal.size < least {
            throw InvalidSetting(
                "`journal.size`: \(journal.size) is too little for \(reactorCount) reactors, each with "
                    + "\(JournalSettings.segmentsMin) segments of \(journal.segment) bytes: give at least \(least), a "
                    + "smaller `journal.segment`, or 0 for no journal")
        }
        var owners: [Endpoint: String] = [:]
        for (key, endpoints) in listen.all where Self.keys[key]?.isBuilt == true {
            for endpoint in endpoints {
                if let other = owners.updateValue(key, forKey: endpoint) {
                    throw InvalidSetting(
                        key == other
                            ? "`\(key)` names \(endpoint) twice" : "`\(other)` and `\(key)` both open \(endpoint)")
                }
            }
        }
    }

    private mutating func resolvePaths() {
        var folder = "."
        if let file, let slash = file.lastIndex(of: "/") {
            folder = slash == file.startIndex ? "/" : String(file[..<slash])
        }
        if !folder.hasPrefix("/"), let current = getcwd(nil, 0) {
            defer { free(current) }
            folder = folder == "." ? String(cString: current) : PathText.resolve(folder, from: String(cString: current))
        }
        let resolve = { (path: String) in PathText.resolve(path, from: folder) }
        data = resolve(data)
        log.file = log.file.map(resolve)
        tls.clientCA = tls.clientCA.map(resolve)
        tls.certificates = tls.certificates?.map {
            CertificateFiles(certificate: resolve($0.certificate), key: resolve($0.key))
        }
    }

    private static func machineName() throws(ConfigurationFault) -> String {
        let nameMaxBytes = 256
        var bytes = [UInt8](repeating: 0, count: nameMaxBytes + 1)
        let status = bytes.withUnsafeMutableBytes {
            gethostname($0.baseAddress!.assumingMemoryBound(to: CChar.self), nameMaxBytes)
        }
        let text = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        guard status == 0, let name = DomainNameNormaliser.aLabel(text) else {
            throw ConfigurationFault(
                sentence:
                    "`hostname` is not set, and the machine's own name \(InvalidSetting.quote(text)) is no host name")
        }
        return name
    }

    /// The text of a file; nil when there is none.
    private static func read(_ path: String) throws(ConfigurationFault) -> String? {
        func fault(_ what: String) -> ConfigurationFault {
            ConfigurationFault(sentence: "\(InvalidSetting.quote(path)): \(what)")
        }
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw fault("it cannot be read: \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw fault("it cannot be read: \(String(cString: strerror(errno)))") }
            if count == 0 { break }
            text += chunk[..<count]
            guard text.count <= DocumentValue.Limits.documentBytes else {
                throw fault("it is longer than \(DocumentValue.Limits.documentBytes) bytes")
            }
        }
        guard let valid = String(validating: text, as: UTF8.self) else { throw fault("it is not UTF-8") }
        return valid
    }
}

extension Configuration.Listen {
    /// Each listener's key and addresses, in the order of the file.
    var all: [(key: String, endpoints: [Endpoint])] {
        [
            ("listen.smtp", smtp), ("listen.smtps", smtps), ("listen.odmr", odmr), ("listen.odmrs", odmrs),
            ("listen.pop3", pop3), ("listen.pop3s", pop3s), ("listen.imap", imap), ("listen.imaps", imaps),
            ("listen.admin", admin),
        ]
    }
}
