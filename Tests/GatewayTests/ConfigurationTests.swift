import Foundation
import Protocols
import Testing

@testable import Gateway

private func configuration(
    _ yaml: String, file: String? = "/etc/postern/postern.yaml", _ environment: [String: String] = [:]
)
    throws(ConfigurationFault) -> Configuration
{
    try Configuration(yaml: yaml, file: file, environment: environment)
}

private func sentence(_ yaml: String, _ environment: [String: String] = [:]) -> String {
    do throws(ConfigurationFault) {
        _ = try configuration(yaml, environment)
        return "no fault"
    } catch {
        return error.sentence.replacing("`/etc/postern/postern.yaml`: ", with: "")
    }
}

@Test(arguments: ["", "\n", "# only a comment\n", "---\n", "null\n", "listen:\nlimits:\n"])
func configurationWorksEmpty(_ yaml: String) throws {
    let read = try configuration(yaml)
    #expect(!read.hostname.isEmpty)
    #expect(read.data == "/etc/postern/var")
    #expect(read.reactors == nil && read.cpus == nil && read.pin && read.io == .auto && read.user == nil)
    #expect(read.log.file == nil && read.log.level == .info)
    #expect(read.listen.smtp.map(\.description) == ["127.0.0.1:2525"])
    #expect(read.listen.admin.map(\.description) == ["127.0.0.1:8025"])
    #expect(read.listen.smtps.isEmpty)
    #expect(read.tls.certificates == nil && read.dns.servers == nil)
    #expect(read.limits.messageSize == 52_428_800 && read.limits.recipients == 1_000)
    #expect(read.trust.unlimited.map(\.description) == ["127.0.0.0/8", "::1/128"])
    #expect(read.notInThisVersion.isEmpty && read.unknownVariables.isEmpty)
}

@Test func configurationOfTheContractIsRead() throws {
    let read = try configuration(
        """
        hostname: MX1.provider.test
        data: ./var                       # journals, stores, database, control socket
        reactors: 2                       # default: one per allowed core
        pin: true
        cpus: [0, 1]                      # default: all allowed to the process
        io: auto                          # auto | epoll | uring
        user: null                        # null: no change of user (a warning when that is root)
        log: { file: null, level: info }  # null: standard error
        listen:                           # each a list; leave out what is not wanted
          smtp:  ["127.0.0.1:2525"]       # also smtps
          odmr:  ["127.0.0.1:3660"]       # 366 in production; also odmrs
          pop3:  ["127.0.0.1:1110"]       # also pop3s
          imap:  ["127.0.0.1:1143"]       # also imaps
          admin: ["127.0.0.1:8025"]       # not loopback: HTTPS only
        tls: { certificates: [{ certificate: cert.pem, key: /srv/key.pem }], clientCA: null }
        dns: { servers: ["127.0.0.1:5353"] }             # absent: the system's
        limits: { messageSize: 52428800 }
        trust: { proxy: [], xclient: [], unlimited: ["127.0.0.0/8", "::1"] }
        identity: { names: [], addresses: [] }
        """)
    #expect(read.hostname == "mx1.provider.test")
    #expect(read.reactors == 2 && read.cpus == [0, 1])
    #expect(read.dns.servers?.map(\.description) == ["127.0.0.1:5353"])
    #expect(read.tls.certificates?.first?.certificate == "/etc/postern/cert.pem")
    #expect(read.tls.certificates?.first?.key == "/srv/key.pem")
    #expect(read.notInThisVersion == ["listen.imap", "tls.clientCA"])
    #expect(read.listen == .standard)
}

@Test func configurationOpensOnlyWhatListenNames() throws {
    let read = try configuration("listen:\n  smtp: ['[::]:25', '0.0.0.0:25']\n  admin: null\n")
    #expect(read.listen.smtp.map(\.description) == ["[::]:25", "0.0.0.0:25"])
    #expect(read.listen.all.filter { !$0.endpoints.isEmpty }.map(\.key) == ["listen.smtp"])
    #expect(try configuration("listen: {}").listen.all.allSatisfy { $0.endpoints.isEmpty })
}

@Test(arguments: [
    (
        "hostname: mx.test\nlimit:\n  messageSize: 5\n",
        "unknown key `limit` (line 2): did you mean `limits`?"
    ),
    (
        "limits:\n  # a comment\n  mesageSize: 5000\n",
        "unknown key `limits.mesageSize` (line 3): did you mean `limits.messageSize`?"
    ),
    ("limit.messageSize: 5000\n", "unknown key `limit.messageSize` (line 1): did you mean `limits.messageSize`?"),
    ("messageSize: 5000\n", "unknown key `messageSize` (line 1): did you mean `limits.messageSize`?"),
    ("zebra: 1\n", "unknown key `zebra` (line 1)"),
    (
        "limits: { messageSize: lots }\n",
        "`limits.messageSize` (line 1): `lots` is not allowed; it takes bytes from 1K to 2147483647, as a number or with "
            + "K, M, G or T"
    ),
    ("limits: 5\n", "`limits` (line 1) holds other keys; give one of them, such as `limits.messageSize`"),
    ("limits: { connections: 0 }\n", "`limits.connections` (line 1): `0` is not allowed; it takes 1 to 1000000"),
    ("reactors: 2.5\n", "`reactors` (line 1): `2.5` is not allowed; it takes 1 to 256, or null"),
    ("reactors: \"2\"\n", "`reactors` (line 1): `\"2\"` is not allowed; it takes 1 to 256, or null"),
    ("reactors:\n  a: 1\n", "`reactors` (line 1): a group of keys is not allowed; it takes 1 to 256, or null"),
    ("pin: yes\n", "`pin` (line 1): `yes` is not allowed; it takes true or false"),
    ("io: kqueue\n", "`io` (line 1): `kqueue` is not allowed; it takes auto, epoll, uring"),
    ("user: ro/ot\n", "`user` (line 1): `ro/ot` is not allowed; it takes the name of a user of this machine, or null"),
    ("hostname: my_host\n", "`hostname` (line 1): `my_host` is not allowed; it takes a host name"),
    ("hostname: [a]\n", "`hostname` (line 1): `[\"a\"]` is not allowed; it takes a host name"),
    (
        "listen: { smtp: [\"localhost:25\"] }\n",
        "`listen.smtp` (line 1): `[\"localhost:25\"]` is not allowed; it takes a list of at most 64, each an address with "
            + "a port such as 127.0.0.1:2525 or [::]:25"
    ),
    (
        "listen: { smtp: \"127.0.0.1:25\" }\n",
        "`listen.smtp` (line 1): `\"127.0.0.1:25\"` is not allowed; it takes a list of at most 64, each an address with a "
            + "port such as 127.0.0.1:2525 or [::]:25"
    ),
    (
        "listen: { smtp: [\"127.0.0.1:25\"], admin: [\"127.0.0.1:25\"] }\n",
        "`listen.smtp` and `listen.admin` both open 127.0.0.1:25"
    ),
    ("listen: { smtp: [\"[::1]:25\", \"[::1]:25\"] }\n", "`listen.smtp` names [::1]:25 twice"),
    (
        "tls: { certificates: [{ certificate: a.pem }] }\n",
        "`tls.certificates` (line 1): `[{\"certificate\":\"a.pem\"}]` is not allowed; it takes a list of 1 to 256, each "
            + "{ certificate: FILE, key: FILE }, or null"
    ),
    (
        "trust: { proxy: [10.0.0.0/33] }\n",
        "`trust.proxy` (line 1): `[\"10.0.0.0/33\"]` is not allowed; it takes a list of at most 1024, each an IP address "
            + "or a network such as 10.0.0.0/8"
    ),
    ("reactors: 4\ncpus: [0, 1]\n", "`reactors`: 4 is more than the 2 cores of `cpus`; they are pinned"),
    ("cpus: [1, 1]\n", "`cpus` names a core twice"),
    (
        "reactors: 2\njournal: { size: 100M }\n",
        "`journal.size`: 104857600 is too little for 2 reactors, each with 4 segments of 67108864 bytes: give at least "
            + "536870912, a smaller `journal.segment`, or 0 for no journal"
    ),
    ("pin: true\npin: false\n", "`pin` stands twice in the group that begins at line 1"),
    ("- a\n", "the document (line 1) is no map of keys and values"),
    ("a: 1\n---\nb: 2\n", "it holds more than one YAML document"),
    (
        "log: { level: loud }\n",
        "`log.level` (line 1): `loud` is not allowed; it takes trace, debug, info, notice, warning, error, critical"
    ),
])
func configurationSaysWhatIsWrong(_ yaml: String, _ expected: String) {
    #expect(sentence(yaml) == expected)
}

@Test func configurationNamesTheFileAndTheLineOfBadYAML() {
    #expect(throws: ConfigurationFault.self) { try configuration("listen: [") }
    #expect(sentence("pin: true\nlog: { level: info\n").hasPrefix("not YAML (line 3): "))
    do throws(ConfigurationFault) {
        _ = try configuration("zebra: 1", file: "conf/p.yaml")
    } catch {
        #expect(error.sentence == "`conf/p.yaml`: unknown key `zebra` (line 1)")
    }
}

@Test func environmentOverridesEveryKey() throws {
    let read = try configuration(
        "limits: { messageSize: 5000 }\ndata: /srv/a\n",
        [
            "POSTERN_LIMITS_MESSAGE_SIZE": "10M", "POSTERN_DATA": "mail", "POSTERN_LISTEN_SMTP": "0.0.0.0:25,[::]:25",
            "POSTERN_LISTEN_ADMIN": "", "POSTERN_TRUST_UNLIMITED": "10.0.0.0/8, ::1", "POSTERN_TLS_CLIENT_CA": "ca.pem",
            "POSTERN_TLS_CERTIFICATES": "a.pem:a.key,b.pem:b.key", "POSTERN_USER": "null", "POSTERN_CPUS": "3",
            "POSTERN_CONFIG": "ignored", "POSTERN_PORT_25_TCP": "tcp://10.0.0.1:25", "PATH": "/bin",
        ])
    #expect(read.limits.messageSize == 10 << 20)
    #expect(read.data == "/etc/postern/mail")
    #expect(read.listen.smtp.count == 2 && read.listen.admin.isEmpty)
    #expect(read.trust.unlimited.map(\.description) == ["10.0.0.0/8", "::1/128"])
    #expect(read.tls.certificates?.map(\.key) == ["/etc/postern/a.key", "/etc/postern/b.key"])
    #expect(read.cpus == [3])
    #expect(read.notInThisVersion == ["tls.clientCA"])
    #expect(read.unknownVariables == ["POSTERN_PORT_25_TCP"])
    #expect(
        sentence("", ["POSTERN_LIMITS_CONNECTIONS": "many"])
            == "`$POSTERN_LIMITS_CONNECTIONS`: `limits.connections`: `many` is not allowed; it takes 1 to 1000000")
    #expect(Configuration.variable("limits.connectionsPerNetwork") == "POSTERN_LIMITS_CONNECTIONS_PER_NETWORK")
    #expect(Configuration.variable("listen.pop3s") == "POSTERN_LISTEN_POP3S")
    #expect(
        Set(Configuration.keys.settings.map { Configuration.variable($0.key) }).count
            == Configuration.keys.settings.count)
}

@Test func configurationFilesAreSearchedInOrder() throws {
    let folder = NSTemporaryDirectory() + "configuration-\(UInt64.random(in: 0...UInt64.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let files = ["one", "two", "three", "four"].map { "\(folder)/\($0).yaml" }
    for (number, file) in files.enumerated() {
        try "reactors: \(number + 1)\n".write(toFile: file, atomically: false, encoding: .utf8)
    }
    let load = { (path: String?, environment: [String: String]) in
        try Configuration.load(path: path, environment: environment, standardFiles: [files[2], files[3]])
    }
    #expect(try load(files[0], ["POSTERN_CONFIG": files[1]]).reactors == 1)
    #expect(try load(nil, ["POSTERN_CONFIG": files[1]]).reactors == 2)
    #expect(try load(nil, [:]).reactors == 3)
    try FileManager.default.removeItem(atPath: files[2])
    #expect(try load(nil, [:]).reactors == 4)
    #expect(try load(nil, [:]).file == files[3])
    #expect(try load(nil, [:]).data == folder + "/var")
    try FileManager.default.removeItem(atPath: files[3])
    let defaults = try load(nil, [:])
    #expect(defaults.file == nil && defaults.reactors == nil)
    #expect(defaults.data == FileManager.default.currentDirectoryPath + "/var")

    #expect(throws: ConfigurationFault(sentence: "`\(files[3])`: there is no such file")) { try load(files[3], [:]) }
    #expect(throws: ConfigurationFault(sentence: "`\(folder)`: it cannot be read: Is a directory")) {
        try load(folder, [:])
    }
    try Data([0x61, 0xff]).write(to: URL(filePath: files[0]))
    #expect(throws: ConfigurationFault(sentence: "`\(files[0])`: it is not UTF-8")) { try load(files[0], [:]) }
    try Data(count: 2 << 20).write(to: URL(filePath: files[0]))
    #expect(throws: ConfigurationFault(sentence: "`\(files[0])`: it is longer than 1048576 bytes")) {
        try load(files[0], [:])
    }
}

@Test func sampleFileIsTheDefaults() throws {
    let sample = Configuration.sampleYAML()
    #expect(sample.split(separator: "\n").allSatisfy { $0.hasPrefix("#") })
    #expect(try configuration(sample).listen == .standard)
    let active = sample.split(separator: "\n").filter { $0.hasPrefix("# ") }.map { $0.dropFirst(2) }.joined(
        separator: "\n")
    let read = try configuration(active)
    let defaults = try configuration("")
    #expect(read.value.json == defaults.value.json)
}

@Test func referenceNamesEveryKeyOnce() {
    let lines = Configuration.referenceMarkdown().split(separator: "\n")
    #expect(lines.count == Configuration.keys.settings.count + 2)
    for setting in Configuration.keys.settings {
        #expect(lines.filter { $0.hasPrefix("| `\(setting.key)` |") }.count == 1)
    }
    #expect(lines.contains { $0.hasPrefix("| `listen.imap` |") && $0.contains("Not in this version.") })
    #expect(GatewayDocument.referenceMarkdown().split(separator: "\n").count == GatewayDocument.keys.settings.count + 2)
    #expect(Settings.referenceMarkdown().split(separator: "\n").count == Settings.keys.settings.count + 2)
}

@Test func endpoints() {
    for text in ["127.0.0.1:25", "[::1]:25", "[::]:65535"] { #expect(Endpoint(text)?.description == text) }
    #expect(Endpoint("[::ffff:192.0.2.1]:25")?.description == "192.0.2.1:25")
    for text in [
        "", ":", "25", ":25", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:25", "[127.0.0.1]:25",
        "[::1]", "[::1:25", "127.0.0.1:025", "127.0.0.1:+5", "127.0.0.1:25 ", "*:25",
    ] {
        #expect(Endpoint(text) == nil, "\(text)")
    }
    #expect(Endpoint("192.0.2.1", standardPort: 53)?.port == 53)
    #expect(Endpoint("::1", standardPort: 53)?.description == "[::1]:53")
    #expect(Endpoint("[::1]:54", standardPort: 53)?.port == 54)
}
