internal import Protocols

extension Configuration {
    /// The keys of `postern.yaml`, in the order of the sample file.
    static let keys: SettingTable<Configuration> = {
        let standard = Configuration(hostname: "")
        let listener = {
            (key: String, path: any WritableKeyPath<Configuration, [Endpoint]> & Sendable, text: String, isBuilt: Bool)
            in
            Setting(
                "listen.\(key)", path, ValueForm.listener.list(maxCount: 64), in: standard, text, isBuilt: isBuilt,
                null: [])
        }
        let networks = ValueForm.network.list(maxCount: 1_024)
        return SettingTable([
            Setting(
                "hostname", \.hostname, .hostName, in: standard,
                "Our name in greetings and trace fields; null is the machine's.", standardText: "null"),
            Setting("data", \.data, .path, in: standard, "The folder of stores, database and control socket."),
            Setting(
                "reactors", \.reactors, ValueForm.integer(1...256).orNull, in: standard,
                "Threads that carry mail; null is one per allowed core."),
            Setting("pin", \.pin, .flag, in: standard, "Whether each reactor stays on a core of its own."),
            Setting(
                "cpus", \.cpus, ValueForm.integer(0...1_023).list(maxCount: 256, minCount: 1).orNull, in: standard,
                "The cores to use; null is all that the process is allowed."),
            Setting(
                "io", \.io, .oneOf, in: standard, "How sockets and files are driven; auto takes what measures better."),
            Setting(
                "user", \.user, ValueForm.userName.orNull, in: standard,
                "Whom to become once the ports are open; null is no change."),
            Setting("log.file", \.log.file, ValueForm.path.orNull, in: standard, "The log; null is standard error."),
            Setting("log.level", \.log.level, .oneOf, in: standard, "The least severe lines that are logged."),
            listener("smtp", \.listen.smtp, "SMTP with STARTTLS; 25 in production.", true),
            listener("smtps", \.listen.smtps, "SMTP in TLS from the first byte.", true),
            listener("odmr", \.listen.odmr, "ATRN; 366 in production.", true),
            listener("odmrs", \.listen.odmrs, "ATRN in TLS from the first byte.", true),
            listener("pop3", \.listen.pop3, "POP3 with STLS; 110 in production.", true),
            listener("pop3s", \.listen.pop3s, "POP3 in TLS from the first byte.", true),
            listener("imap", \.listen.imap, "IMAP with STARTTLS; 143 in production.", false),
            listener("imaps", \.listen.imaps, "IMAP in TLS from the first byte.", false),
            listener("admin", \.listen.admin, "The API and the web page; HTTPS only unless loopback.", true),
            Setting(
                "tls.certificates", \.tls.certificates, ValueForm.certificate.list(maxCount: 256, minCount: 1).orNull,
                in: standard,
                "PEM files, chosen by SNI; null is a self-signed certificate, made at the first start."),
            Setting(
                "tls.clientCA", \.tls.clientCA, ValueForm.path.orNull, in: standard,
                "A PEM file of the authorities whose client certificates are believed.", isBuilt: false),
            Setting(
                "dns.servers", \.dns.servers, ValueForm.nameServer.list(maxCount: 8, minCount: 1).orNull, in: standard,
                "Resolvers to ask; null is the system's."),
            Setting(
                "limits.messageSize", \.limits.messageSize, .size(1_024...1 << 31 - 1), in: standard,
                "The largest message that is accepted, in bytes; RFC 5321 wants at least 64K."),
            Setting(
                "limits.connections", \.limits.connections, .integer(1...1_000_000), in: standard,
                "Connections of clients at a time."),
            Setting(
                "limits.connectionsPerNetwork", \.limits.connectionsPerNetwork, .integer(1...1_000_000), in: standard,
                "Of these, from one network: an IPv4 /24 or an IPv6 /56."),
            Setting(
                "limits.recipients", \.limits.recipients, .integer(1...100_000), in: standard,
                "Recipients of one message; RFC 5321 wants at least 100."),
            Setting(
                "limits.messageMemory", \.limits.messageMemory, .size(1 << 20...1 << 40), in: standard,
                "Bytes of messages being received that are kept in memory; beyond, the largest go to files."),
            Setting(
                "journal.segment", \.journal.segment, .size(1_048_576...67_108_864), in: standard,
                "Bytes of one file of the journal, in which mail that leaves soon is stored."),
            Setting(
                "journal.size", \.journal.size, .size(0...1 << 40), in: standard,
                "Bytes of all of them; 0 is no journal: every message gets a file in its mail directory."),
            Setting("trust.proxy", \.trust.proxy, networks, in: standard, "Networks whose PROXY header is believed."),
            Setting("trust.xclient", \.trust.xclient, networks, in: standard, "Networks whose XCLIENT is believed."),
            Setting(
                "trust.unlimited", \.trust.unlimited, networks, in: standard,
                "Networks without limits of rate and connections."),
            Setting(
                "identity.names", \.identity.names, ValueForm.hostName.list(maxCount: 256), in: standard,
                "Host names that are us in MX sets, beside hostname."),
            Setting(
                "identity.addresses", \.identity.addresses, ValueForm.address.list(maxCount: 256), in: standard,
                "Addresses that are us, beside those of the interfaces."),
        ])
    }()

    /// The environment variable of a key: `POSTERN_LIMITS_MESSAGE_SIZE` for `limits.messageSize`.
    static func variable(_ key: String) -> String {
        var name = "POSTERN_"
        var wasLowerCase = false
        for character in key {
            if character.isUppercase, wasLowerCase { name += "_" }
            wasLowerCase = character.isLowercase
            name += character == "." ? "_" : character.uppercased()
        }
        return name
    }

    /// The reference of `postern.yaml` as a table in Markdown.
    public static func referenceMarkdown() -> String { keys.markdown(variable: variable) }

    /// A file in which every key stands at its default, commented out: `##` explains, `#` can be taken away.
    public static func sampleYAML() -> String {
        var text = """
            ## Postern's configuration: the facts of this host. Every value shown is the default; an empty file works.
            ## Relative paths start at this file's folder. `postern check` tells what is wrong with a changed file.

            """
        var group = ""
        for setting in keys.settings {
            let parts = setting.key.split(separator: ".")
            let isNested = parts.count == 2
            if isNested, parts[0] != group {
                text += "\n# \(parts[0]):\n"
                if parts[0] == "listen" { text += "##  A listen that is given opens only what it names.\n" }
                group = String(parts[0])
            } else if !isNested {
                text += "\n"
            }
            let note = setting.isBuilt ? "" : " Not in this version."
            text += "\(isNested ? "##  " : "## ")\(setting.text)\(note)\n"
            text += "\(isNested ? "#   " : "# ")\(parts[parts.count - 1]): \(setting.standardText)\n"
        }
        return text
    }
}

extension ValueForm where Value == String {
    fileprivate static let userName = ValueForm(
        "the name of a user of this machine",
        parse: { value in
            guard let name = value.string, (1...32).contains(name.utf8.count), name.utf8.first != UInt8(ascii: "-"),
                name.unicodeScalars.allSatisfy({
                    $0.isASCII
                        && ($0.properties.isAlphabetic || ("0"..."9").contains($0) || "_-.".unicodeScalars.contains($0))
                })
            else { return nil }
            return name
        }, print: { DocumentValue(.text($0)) })
}

extension ValueForm where Value == Configuration.CertificateFiles {
    fileprivate static let certificate = ValueForm(
        "{ certificate: FILE, key: FILE }",
        parse: { value in
            switch value.content {
            case .map(let members):
                guard members.count == 2, let certificate = value["certificate"].flatMap(path),
                    let key = value["key"].flatMap(path)
                else { return nil }
                return Configuration.CertificateFiles(certificate: certificate, key: key)
            case .word(let word):  // the environment's list
                let files = word.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
                guard files.count == 2, files.allSatisfy(PathText.isPlain) else { return nil }
                return Configuration.CertificateFiles(certificate: files[0], key: files[1])
            default: return nil
            }
        },
        print: { files in
            DocumentValue(
                .map([
                    DocumentValue.Member("certificate", DocumentValue(.text(files.certificate))),
                    DocumentValue.Member("key", DocumentValue(.text(files.key))),
                ]))
        })

    private static func path(_ value: DocumentValue) -> String? { ValueForm<String>.path.parse(value) }
}
