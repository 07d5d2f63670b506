import Foundation
import Protocols
import Testing

@testable import Gateway

/// The sentence of the fault that `body` throws.
private func sentence(_ body: () throws -> Void) -> String {
    do {
        try body()
        return "no fault"
    } catch {
        return "\(error)"
    }
}

private func changed(_ assignments: String...) throws -> GatewayDocument {
    var document = try GatewayDocument(domain: "altn.test")
    try document.apply(assignments)
    return document
}

// MARK: The document

@Test func gatewayDocumentPrintsEveryKeyOfTheContractWithItsDefault() throws {
    let printed = try GatewayDocument(domain: "altn.test").yaml
    #expect(
        printed == """
            domain: altn.test
            enabled: true
            hold: false
            mailDirectory: stores/altn.test
            extractAttachments: false
            attachmentRetention: 30d
            delivery:
              when: immediately
              windows: []
              timeZone: UTC
              interval: null
              count: null
              age: null
            forward:
              server: null
              port: 25
              account: null
              envelopeFrom: null
              keepCopies: false
              copyRetention: 30d
              tls: may
              source: null
              concurrency: 20
            dequeue:
              method: none
              user: altn.test
              secret: null
              atrn:
                requireAuthentication: true
                requireAddress: []
                holdOpen: false
              etrn:
                server: null
                port: 25
                sendToRequester: false
                allow: []
                deny: []
                requireAuthentication: true
              mailbox:
                user: altn.test
                password: null
                pop3: true
                imap: true
                readOnly: false
            quota:
              enabled: false
              messages: 0
              bytes: 0
              code: null
              notify: false
              notifyTo: null
              notifyFrom: null
            retry:
              schedule: [1m, 5m, 15m, 30m, 1h]
              lifetime: 5d
            mode: store
            recipients:
              sources: []
              whenUp: reject
              whenDown: learned

            """)
}

@Test func gatewayDocumentReadsBackWhatItPrints() throws {
    let documents = [
        try GatewayDocument(domain: "altn.test"),
        try changed(
            "enabled=false", "hold=true", "mailDirectory=big/altn", "delivery.when=onContact",
            "forward.server=[mx.altn.test]",
            "forward.port=2525", "forward.envelopeFrom=bounce@altn.test", "forward.tls=verify",
            "forward.source=192.0.2.9",
            "forward.concurrency=3", "quota.enabled=true", "quota.messages=10", "quota.bytes=1G", "quota.code=552",
            "retry.schedule=[90s,2h]", "retry.lifetime=36h"),
        try changed("retry.lifetime=never", "forward.server=2001:db8::1"),
    ]
    for document in documents {
        #expect(try GatewayDocument(json: document.json) == document.readBack)
        #expect(try GatewayDocument(json: document.changes.json) == document)
        #expect(try GatewayDocument.list(yaml: document.yaml) == [document.readBack])
        let decoded = try JSONDecoder().decode(GatewayDocument.self, from: JSONEncoder().encode(document))
        #expect(decoded == document.readBack)
    }
    #expect(try GatewayDocument.list(yaml: GatewayDocument.yaml(documents)) == documents)
}

extension GatewayDocument {
    /// A printed document says its defaults, so that reading it makes them settings of its own.
    fileprivate var readBack: GatewayDocument {
        var document = self
        document.mailDirectory = effectiveMailDirectory
        document.dequeue.user = effectiveUser
        document.dequeue.mailbox.user = effectiveMailboxUser
        document.retry.lifetime = effectiveLifetimeSeconds.map { .seconds($0) } ?? .never
        return document
    }
}

@Test func gatewayDocumentOfTheContractIsAccepted() throws {
    let text = """
        domain: Altn.test
        enabled: true
        mailDirectory: stores/altn.test
        extractAttachments: false
        attachmentRetention: 720h
        delivery: { when: immediately, windows: [], timeZone: UTC, interval: null, count: null, age: null }   # a comment
        forward: { server: null, port: 25, account: null, envelopeFrom: null, keepCopies: false, copyRetention: 30d, tls: may, source: null, concurrency: 20 }
        dequeue:
          method: none
          user: altn.test
          atrn: { requireAuthentication: true, requireAddress: [], holdOpen: false }
        quota: { enabled: false, messages: 0, bytes: 0, code: null, notify: false, notifyTo: null, notifyFrom: null }
        retry: { schedule: [1m, 5m, 15m, 30m, 1h], lifetime: 5d }
        mode: store
        recipients: { sources: [], whenUp: reject, whenDown: learned }
        """
    let documents = try GatewayDocument.list(yaml: text)
    #expect(documents.count == 1)
    #expect(documents[0].domain == "altn.test")
    #expect(Gateway(id: 1, documents[0]).retry == .standard)
}

@Test func gatewayYAMLHoldsOneDocumentOrAListOrSeveral() throws {
    let several = try GatewayDocument.list(yaml: "domain: a.test\n---\ndomain: b.test\nhold: true\n---\n")
    #expect(several.map(\.domain) == ["a.test", "b.test"])
    #expect(several[1].isHeld)
    let list = try GatewayDocument.list(yaml: "- domain: a.test\n- { domain: b.test }\n")
    #expect(list.map(\.domain) == ["a.test", "b.test"])
    #expect(try GatewayDocument.list(yaml: "").isEmpty)
}

@Test func gatewayDocumentMergesAPatchAndNullSetsTheDefault() throws {
    var document = try changed("forward.port=2525", "forward.server=mx.altn.test", "hold=true")
    try document.merge(DocumentValue(json: #"{"forward": {"server": null, "tls": "encrypt"}, "hold": null}"#))
    #expect(document.forward.server == nil)
    #expect(document.forward.port == 2525)
    #expect(document.forward.tls == .encrypt)
    #expect(!document.isHeld)
}

@Test func gatewayDocumentChangesAllOrNothing() throws {
    var document = try GatewayDocument(domain: "altn.test")
    #expect(throws: InvalidSetting.self) { try document.apply(["forward.port=2525", "forward.port=0"]) }
    #expect(throws: InvalidSetting.self) {
        try document.merge(DocumentValue(json: #"{"hold": true, "forward": {"port": 0}}"#))
    }
    #expect(try document == GatewayDocument(domain: "altn.test"))
}

// MARK: What a person can get wrong

@Test(arguments: [
    ("forward.port=99999", "`forward.port`: `99999` is not allowed; it takes 1 to 65535"),
    ("forward.port=", "`forward.port`: `` is not allowed; it takes 1 to 65535"),
    ("forward.prot=25", "unknown key `forward.prot`: did you mean `forward.port`?"),
    ("port=25", "unknown key `port`: did you mean `forward.port`?"),
    ("forwad.port=25", "unknown key `forwad.port`: did you mean `forward.port`?"),
    ("xyzzy=1", "unknown key `xyzzy`"),
    ("forward=25", "`forward` holds other keys; give one of them, such as `forward.server`"),
    ("hold", "`hold` is not of the form key=value"),
    ("hold=yes", "`hold`: `yes` is not allowed; it takes true or false"),
    ("domain=other.test", "`domain`: `other.test` is not allowed; the gateway `altn.test` keeps its name"),
    (
        "forward.server=mx.altn.test:2525",
        "`forward.server`: `mx.altn.test:2525` is not allowed; it takes a host name (looked up as MX, then A and AAAA), "
            + "a name in brackets or an IP address (both without MX), and no port, or null"
    ),
    ("forward.tls=dane", "`forward.tls`: `dane` is not allowed; it takes none, may, encrypt, verify"),
    ("forward.source=eth0", "`forward.source`: `eth0` is not allowed; it takes an IP address, or null"),
    ("forward.concurrency=0", "`forward.concurrency`: `0` is not allowed; it takes 1 to 1000"),
    (
        "forward.envelopeFrom=<>",
        "`forward.envelopeFrom`: `<>` is not allowed; it takes a mail address such as postmaster@example.net, in ASCII, "
            + "or null"
    ),
    (
        "quota.bytes=-1",
        "`quota.bytes`: `-1` is not allowed; it takes bytes from 0 to 1024T, as a number or with K, M, G or T"
    ),
    ("quota.code=450", "`quota.code`: `450` is not allowed; it takes 452 or 552, or null"),
    (
        "retry.schedule=[]",
        "`retry.schedule`: `[]` is not allowed; it takes a list of 1 to 64, each a time from 1s to 7d, such as 90s, 5m, "
            + "24h or 5d"
    ),
    (
        "retry.lifetime=forever",
        "`retry.lifetime`: `forever` is not allowed; it takes a time from 1m to 365d, such as 90s, 5m, 24h or 5d, or "
            + "never, or null"
    ),
    ("delivery.when=schedule", "`delivery.when`: not in this version"),
    ("delivery.when=later", "`delivery.when`: `later` is not allowed; it takes immediately, onContact"),
    ("delivery.interval=1h", "`delivery.interval`: not in this version"),
    ("dequeue.method=pop3", "`dequeue.method`: `pop3` is not allowed; it takes none, atrn, etrn, mailbox"),
    (
        "dequeue.etrn.allow=here",
        "`dequeue.etrn.allow`: `here` is not allowed; it takes a list of at most 100, each an IP address or a network such "
            + "as 10.0.0.0/8"
    ),
    (
        "dequeue.user=a b",
        "`dequeue.user`: `a b` is not allowed; it takes 1 to 255 printable ASCII characters without spaces; capitals count "
            + "as small letters, or null"
    ),
    (
        "dequeue.secret=gehe\u{fc}m",
        "`dequeue.secret`: what was given is not allowed; it takes 1 to 255 printable ASCII characters; it is shown as "
            + "`********`, which leaves it as it is, or null"
    ),
    ("dequeue.mailbox.imap=false", "`dequeue.mailbox.imap`: not in this version"),
    ("extractAttachments=true", "`extractAttachments`: not in this version"),
    ("attachmentRetention=31d", "`attachmentRetention`: not in this version"),
    ("forward.account=a@b.test", "`forward.account`: not in this version"),
    ("forward.keepCopies=true", "`forward.keepCopies`: not in this version"),
    ("quota.notify=true", "`quota.notify`: not in this version"),
    ("mode=cutThrough", "`mode`: not in this version"),
    ("recipients.sources=[list]", "`recipients.sources`: not in this version"),
])
func gatewayDocumentSaysWhatIsWrong(_ assignment: String, _ expected: String) {
    #expect(sentence { _ = try changed(assignment) } == expected)
}

@Test func gatewayDocumentNamesTheLine() {
    #expect(
        sentence { _ = try GatewayDocument.list(yaml: "domain: altn.test\nforward:\n  tls: may\n  prot: 25\n") }
            == "unknown key `forward.prot` (line 4): did you mean `forward.port`?")
    #expect(
        sentence { _ = try GatewayDocument(json: "{\"domain\": \"altn.test\",\n \"forward\": {\"port\": \"25\"}}") }
            == "`forward.port` (line 2): `\"25\"` is not allowed; it takes 1 to 65535")
    #expect(sentence { _ = try GatewayDocument(json: "{\"hold\": true}") } == "`domain` is missing")
    #expect(sentence { _ = try GatewayDocument(json: "[]") } == "the document is no map of keys and values")
}

@Test func gatewayDocumentRefusesASourceOfTheOtherFamily() {
    #expect(
        sentence { _ = try changed("forward.server=192.0.2.1", "forward.source=2001:db8::1") }
            == "`forward.source`: `2001:db8::1` cannot reach `forward.server` `192.0.2.1`; both must be IPv4 or both IPv6"
    )
}

@Test(
    "T-C6: no domain leads out of its place",
    arguments: [
        "../x", "a/b", ".", "..", "", "a\0b.test", "a.test\0", ".a.test", "a.test.", "a..test", "-a.test", "a-.test",
        "a_b.test",
        "a b.test", "localhost", "@system", "[192.0.2.1]", "192.0.2.1", "1.2.3", "a.test\r\n", "stores\\x.test",
        String(repeating: "a", count: 64) + ".test", String(repeating: "a.", count: 126) + "test",
        String(repeating: "ä", count: 2_000) + ".test", "xn--a.test", "xn--.test", "☃️.a b.test", "a\u{2F}b.test",
    ])
func domainThatIsNone(_ text: String) {
    let message = sentence { _ = try GatewayDocument(domain: text) }
    #expect(message.hasPrefix("`domain`: `"))
    #expect(message.hasSuffix("(others as IDNA2008 maps them)"))
    #expect(message.unicodeScalars.allSatisfy { $0.isASCII && $0.value >= 32 || $0 == "…" })
    #expect(message.utf8.count < 1_200)
}

@Test(
    "T-C6: no directory steps aside",
    arguments: [
        "../x", "a/../b", "a//b", "./a", "a/.", "a/", "/", "/srv/../etc", "a\0b", "a\nb", "a\u{9f}b",
        // Seen by the fuzzer: a slash with a combining mark behind it divides, too.
        "a/../\u{301}b", "../\u{301}b", "a/./\u{301}b", "a//\u{301}b", "\(String(repeating: "a", count: 256))/\u{301}",
        String(repeating: "a", count: 256),
        String(repeating: "a/", count: 600) + "a",
    ])
func mailDirectoryThatStepsAside(_ path: String) throws {
    var document = try GatewayDocument(domain: "altn.test")
    #expect(throws: InvalidSetting.self) {
        try document.merge(
            DocumentValue(.map([DocumentValue.Member("mailDirectory", DocumentValue(.text(path)))])))
    }
    #expect(Gateway(id: 1, document).mailDirectory == "stores/altn.test")
}

@Test func mailDirectoryMayBeElsewhere() throws {
    #expect(try Gateway(id: 1, changed("mailDirectory=/srv/mail/altn")).mailDirectory == "/srv/mail/altn")
    #expect(try Gateway(id: 1, changed("mailDirectory=big/altn")).mailDirectory == "big/altn")
    #expect(try changed("mailDirectory=null").effectiveMailDirectory == "stores/altn.test")
}

// MARK: Domain names

@Test("T-C5: one form for every way to write a name") func domainNamesHaveOneForm() {
    let equal = [
        ("altn.test", "altn.test"), ("ALTN.Test", "altn.test"), ("bücher.test", "xn--bcher-kva.test"),
        ("BÜCHER.TEST", "xn--bcher-kva.test"), ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"), ("bu\u{308}cher.test", "xn--bcher-kva.test"),
        ("faß.test", "xn--fa-hia.test"), ("bücher。test", "xn--bcher-kva.test"), ("ｆｕｌｌ.test", "full.test"),
        ("xn--bcher-kva.bücher.test", "xn--bcher-kva.xn--bcher-kva.test"), ("r3---sn.test", "r3---sn.test"),
        ("123.test", "123.test"), ("localhost", "localhost"), ("4.3.2.1.test", "4.3.2.1.test"),
    ]
    for (text, expected) in equal { #expect(DomainNameNormaliser.aLabel(text) == expected) }
    // The Cyrillic look-alike is another name.
    #expect(DomainNameNormaliser.aLabel("аltn.test") == "xn--ltn-5cd.test")
    // What says it is an A-label and decodes to nothing allowed, or to a name that is written otherwise.
    for text in [
        "xn--zzzzzzzz99999.test", "xn--altn-.test", "xn--Bcher-KVa-.test", "a\u{200D}b.test", "\u{202E}a.test",
    ] {
        #expect(DomainNameNormaliser.aLabel(text) == nil, "\(text)")
    }
    // Seen by the fuzzer: libidn2 took out what becomes no letter, and left another name, or none.
    for text in [
        "\u{2db}", "a\u{2db}ltn.test", "a\u{2100}b.test", "a\u{ff3f}b.test", "\u{226e}a.test", "\u{2260}.test",
    ] {
        #expect(DomainNameNormaliser.aLabel(text) == nil, "\(text)")
    }
    #expect(DomainNameNormaliser.aLabel(String(repeating: "a", count: 63) + ".test") != nil)
    let longest = String(repeating: "a.", count: 126) + "b"
    #expect(longest.utf8.count == 253)
    #expect(DomainNameNormaliser.aLabel(longest) == longest)
    #expect(DomainNameNormaliser.aLabel("a" + longest) == nil)
}

// MARK: The compiled gateway

@Test func gatewayOfDefaults() throws {
    let gateway = Gateway(id: 7, try GatewayDocument(domain: "altn.test"))
    #expect(gateway.id == 7)
    #expect(gateway.isEnabled && !gateway.isHeld)
    #expect(gateway.delivery == .immediately)
    #expect(gateway.forward.nextHop == .mxOfOwnDomain)
    #expect(gateway.forward.port == 25 && gateway.forward.tls == .may && gateway.forward.concurrency == 20)
    #expect(gateway.quota == nil)
    #expect(gateway.retry.stepsSeconds == [60, 300, 900, 1_800, 3_600])
    #expect(gateway.retry.lifetimeSeconds == 432_000)
}

@Test func gatewayLifetimeIsNeverOnContactUnlessSet() throws {
    let lifetime = { (document: GatewayDocument) in Gateway(id: 1, document).retry.lifetimeSeconds }
    #expect(try lifetime(changed("delivery.when=onContact")) == nil)
    #expect(try lifetime(changed("delivery.when=onContact", "retry.lifetime=2d")) == 172_800)
    #expect(try lifetime(changed("retry.lifetime=never")) == nil)
    #expect(try lifetime(changed("retry.lifetime=never", "retry.lifetime=null")) == 432_000)
    #expect(try changed("delivery.when=onContact").value["retry"]?["lifetime"]?.string == "never")
}

@Test func gatewayQuotaHoldsOnlyWhenEnabled() throws {
    #expect(try Gateway(id: 1, changed("quota.bytes=1G")).quota == nil)
    #expect(try Gateway(id: 1, changed("quota.enabled=true")).quota == nil)
    let quota = try #require(
        try Gateway(id: 1, changed("quota.enabled=true", "quota.bytes=1G", "quota.code=552")).quota)
    #expect(quota.maxBytes == 1 << 30 && quota.maxMessages == nil && quota.code == .bounce)
}

@Test func gatewayNextHops() throws {
    let hop = { (server: String) in try Gateway(id: 1, changed("forward.server=\(server)")).forward.nextHop }
    #expect(try hop("MX.altn.test") == .host("mx.altn.test", skipMX: false))
    #expect(try hop("[mx.altn.test]") == .host("mx.altn.test", skipMX: true))
    #expect(try hop("relay") == .host("relay", skipMX: false))
    for text in ["192.0.2.1", "[192.0.2.1]"] { #expect(try hop(text) == .address(IPAddress("192.0.2.1")!)) }
    for text in ["2001:db8::1", "[2001:db8::1]", "[IPv6:2001:db8::1]"] {
        #expect(try hop(text) == .address(IPAddress("2001:db8::1")!))
    }
    for text in ["0.0.0.0", "::", "[]", "mx_1", "a b", "[a", "mx.altn.test:25"] { #expect(MailServer(text) == nil) }
}

@Test func mailServerWithPort() {
    let expected: [(String, String, UInt16?)] = [
        ("mx.altn.test", "mx.altn.test", nil), ("mx.altn.test:2525", "mx.altn.test", 2525),
        ("[mx.altn.test]:2525", "[mx.altn.test]", 2525), ("192.0.2.1:26", "192.0.2.1", 26),
        ("[2001:db8::1]:26", "2001:db8::1", 26), ("2001:db8::1", "2001:db8::1", nil),
    ]
    for (text, server, port) in expected {
        let read = MailServer.withPort(text)
        #expect(read?.server.description == server && read?.port == port, "\(text)")
    }
    for text in ["", ":25", "mx:0", "mx:65536", "mx:+5", "mx:", "::1:", "a:b:25", "[::1]25"] {
        #expect(MailServer.withPort(text) == nil, "\(text)")
    }
}

@Test func retryScheduleRepeatsItsLastStep() {
    let schedule = RetrySchedule.standard
    #expect((0...7).map { schedule.delaySeconds(afterAttempts: $0) } == [60, 60, 300, 900, 1_800, 3_600, 3_600, 3_600])
    let ages = [-5, 0, 59, 60, 100, 360, 6_659, 6_660, 10_259, 10_260]
    let positions = ages.map { schedule.position(atAgeSeconds: $0) }
    #expect(positions.map(\.attempts) == [1, 1, 1, 2, 2, 3, 5, 6, 6, 7])
    #expect(positions.map(\.waitSeconds) == [60, 60, 1, 300, 260, 900, 1, 3_600, 1, 3_600])
    #expect(schedule.position(atAgeSeconds: .max).waitSeconds > 0)
}

// MARK: Server-wide settings

@Test func settingsReadAndPrint() throws {
    var settings = Settings()
    try settings.apply(["postmaster=admin@provider.test", "smarthost=relay.provider.test:587", "quotaCode=552"])
    #expect(settings.postmaster?.description == "admin@provider.test")
    #expect(settings.smarthost?.description == "relay.provider.test:587")
    #expect(settings.quotaCode == .bounce)
    #expect(
        settings.value.json
            == #"{"postmaster":"admin@provider.test","smarthost":"relay.provider.test:587","quotaCode":552,"#
            + #""automatic":{"enabled":false,"remoteOnly":true,"confirm":true,"confirmTo":null,"confirmWithin":"24h","#
            + #""whileUnconfirmed":"refuse","sendToNextHigher":true,"template":"default"}}"#)
    var copy = Settings()
    try copy.merge(DocumentValue(json: settings.value.json))
    #expect(copy == settings)
    let system = Gateway.system(settings)
    #expect(system.id == 0 && system.domain == "@system")
    #expect(system.forward.nextHop == .host("relay.provider.test", skipMX: true) && system.forward.port == 587)
    #expect(Gateway.system(Settings()).forward.nextHop == .mxOfRecipientDomain)
}

@Test(arguments: [
    (
        "postmaster=admin",
        "`postmaster`: `admin` is not allowed; it takes a mail address such as postmaster@example.net, in ASCII, or null"
    ),
    (
        "postmaster=Postmaster",
        "`postmaster`: `Postmaster` is not allowed; it takes a mail address such as postmaster@example.net, in ASCII, "
            + "or null"
    ),
    ("smarthost=relay", "`smarthost`: `relay` is not allowed; it takes HOST:PORT, or null"),
    ("quotaCode=450", "`quotaCode`: `450` is not allowed; it takes 452 or 552"),
    ("quotacode=452", "unknown key `quotacode`: did you mean `quotaCode`?"),
    ("automatic.enabled=true", "`automatic.enabled`: not in this version"),
    ("automatic=true", "`automatic` holds other keys; give one of them, such as `automatic.enabled`"),
])
func settingsSayWhatIsWrong(_ assignment: String, _ expected: String) {
    var settings = Settings()
    #expect(sentence { try settings.apply([assignment]) } == expected)
    #expect(settings == Settings())
}

// MARK: Texts

@Test func durationsAndSizes() {
    let durations = [
        ("90s", 90), ("5m", 300), ("24h", 86_400), ("5d", 432_000), ("1w", 604_800), ("1h30m", 5_400), ("60", 60),
        ("0", 0),
    ]
    for (text, seconds) in durations { #expect(DurationText.seconds(text) == seconds) }
    for text in [
        "", "m", "5", "1m1h", "1h1h", "-5m", "+5m", "5 m", "1.5h", "5M", "٣m", "99999999999999999999s",
        "9999999999999999w",
    ]
    where text != "5" { #expect(DurationText.seconds(text) == nil, "\(text)") }
    for seconds in [0, 1, 59, 60, 90, 3_600, 5_400, 86_400, 604_800, 86_401] {
        #expect(DurationText.seconds(DurationText.text(seconds)) == seconds)
    }
    #expect(DurationText.text(172_800) == "2d" && DurationText.text(90) == "90s")
    let sizes = [("0", 0), ("512K", 524_288), ("50M", 52_428_800), ("1G", 1 << 30), ("2T", 2 << 40), ("1g", 1 << 30)]
    for (text, bytes) in sizes { #expect(SizeText.bytes(text) == bytes) }
    for text in ["", "K", "-1", "1.5G", "1GB", "1 G", "99999999999999999999", "9999999999999T"] {
        #expect(SizeText.bytes(text) == nil, "\(text)")
    }
}

@Test func jsonKnownAnswers() throws {
    let text = #"{"a":[1,-2,true,false,null,"x\"\\\/\b\f\n\r\té😀"],"b":{},"c":[]}"#
    let value = try DocumentValue(json: text)
    #expect(
        value.json
            == "{\"a\":[1,-2,true,false,null,\"x\\\"\\\\/\\u0008\\u000c\\u000a\\u000d\\u0009é😀\"],\"b\":{},\"c\":[]}")
    #expect(try DocumentValue(json: value.json).json == value.json)
    let bad = [
        "", "{", "}", "[1", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "{\"a\":1,}", "{\"a\":1 \"b\":2}", "\"", "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"", "tru", "nul", "1 2", "1-2", "0x1", "-", "[1]x",
        "'a'", "{\"a\":1,\"a\":2}",
        String(repeating: "[", count: 100_000), String(repeating: "{\"a\":", count: 100_000), "\u{0}", "\u{feff}1",
    ]
    for text in bad { #expect(throws: InvalidSetting.self, "\(text.prefix(20))") { try DocumentValue(json: text) } }
    #expect(
        sentence { _ = try DocumentValue(json: "{\n\"a\": 1,\n\"a\": 2}") } == "not JSON (line 3): `a` stands twice")
    // Cut anywhere, a document is refused and nothing traps.
    let bytes = Array(text.utf8)
    for end in 0..<bytes.count {
        let cut = String(decoding: bytes[..<end], as: UTF8.self)
        #expect(throws: InvalidSetting.self) { try DocumentValue(json: cut) }
    }
}

/// Seen by the fuzzer: an export that no import took, for a control character in a folder's name.
@Test func yamlReadsBackAnyText() throws {
    for scalar in [
        "\u{0}", "\u{1b}", "\u{7f}", "\u{80}", "\u{85}", "\u{9f}", "\u{2028}", "\u{2029}", "\u{feff}", "\u{fffe}",
        "\u{ffff}", "\u{1f600}",
    ] {
        let text = "a\(scalar)b"
        let value = DocumentValue(.map([DocumentValue.Member("key", DocumentValue(.text(text)))]))
        let again = try DocumentValue.documents(yaml: value.yaml, limitBytes: 1_000)
        #expect(again.first?["key"]?.string == text, "\(text.unicodeScalars.map(\.value))")
        #expect(try DocumentValue(json: value.json)["key"]?.string == text)
    }
}

@Test func yamlFromOutsideIsBounded() throws {
    // Aliases that multiply to 10^9 values, as values and as a key.
    var bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in 1...9 {
        bomb +=
            "a\(level): &a\(level) [" + Array(repeating: "*a\(level - 1)", count: 10).joined(separator: ", ") + "]\n"
    }
    for text in [bomb, bomb + "? *a9\n: x\n"] {
        #expect(
            sentence { _ = try GatewayDocument.list(yaml: text) } == "the document holds more than 8 aliases (`*name`)")
    }
    let aliased = try GatewayDocument.list(
        yaml: "- domain: a.test\n  quota: &q { bytes: 1G }\n- { domain: b.test, quota: *q }")
    #expect(aliased.map(\.quota.maxBytes) == [1 << 30, 1 << 30])
    #expect(try GatewayDocument.list(yaml: "# *a* *b* *c* *d* *e* *f* *g* *h* *i*\ndomain: a.test").count == 1)
    #expect(throws: InvalidSetting.self) { try GatewayDocument.list(yaml: String(repeating: "- ", count: 100)) }
    #expect(
        sentence { _ = try GatewayDocument.list(yaml: "domain: a.test\ndomain: b.test\n") }
            == "`domain` stands twice in the group that begins at line 1")
    for text in [String(repeating: "[", count: 1_000), "a: [", "? [a]\n: b", "\t- a", "*a", "%", "a: !!x [", "\u{0}"] {
        #expect(throws: InvalidSetting.self, "\(text.prefix(20))") { try GatewayDocument.list(yaml: text) }
    }
}
