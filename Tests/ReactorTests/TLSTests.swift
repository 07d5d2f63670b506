import CReactor
import Glibc
import Testing

@testable import Reactor

/// Two sessions joined in memory.
private struct Pair {
    let server: TLSSession
    let client: TLSSession
    var serverResult = TLSSession.ReadResult.wantsMore
    var clientResult = TLSSession.ReadResult.wantsMore
    var atServer: [UInt8] = []
    var atClient: [UInt8] = []
    /// How many bytes the wire carries at a time.
    var chunk = 16_384

    init(
        _ serverContext: TLSContext, _ clientContext: TLSContext, name: String? = "mx.example.test", verify: Bool = true
    ) throws {
        server = try TLSSession(server: serverContext)
        client = try TLSSession(client: clientContext, serverName: name, verify: verify)
    }

    /// Carries bytes until both sides are silent.
    mutating func run() {
        var moved = true
        while moved {
            moved = false
            if carry(from: client, to: server, &serverResult, &atServer, chunk) { moved = true }
            if carry(from: server, to: client, &clientResult, &atClient, chunk) { moved = true }
        }
    }

    mutating func readServer() { serverResult = readAll(server, &atServer) }
    mutating func readClient() { clientResult = readAll(client, &atClient) }
}

private func carry(
    from: TLSSession, to: TLSSession, _ result: inout TLSSession.ReadResult, _ into: inout [UInt8], _ chunk: Int
) -> Bool {
    var moved = false
    var buffer = [UInt8](repeating: 0, count: chunk)
    while from.pendingCiphertext > 0 {
        let count = buffer.withUnsafeMutableBytes { from.takeCiphertext(into: $0) }
        buffer.withUnsafeBytes { try? to.receive(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        result = readAll(to, &into)
        moved = true
    }
    return moved
}

private func readAll(_ session: TLSSession, _ into: inout [UInt8]) -> TLSSession.ReadResult {
    var buffer = [UInt8](repeating: 0, count: 4_096)
    while true {
        let result = buffer.withUnsafeMutableBytes { session.read(into: $0) }
        guard case .bytes(let count) = result else { return result }
        into += buffer[..<count]
    }
}

private func write(_ session: TLSSession, _ bytes: [UInt8]) -> Int {
    bytes.withUnsafeBytes { session.write($0) }
}

private func info(_ session: TLSSession) -> TLSInfo? {
    if case .established(let info) = session.handshake { info } else { nil }
}

private func fault(_ result: TLSSession.ReadResult) -> TLSFault? {
    if case .failed(let fault) = result { fault } else { nil }
}

/// Gives `body` the path of a file with these bytes, which is gone afterwards.
private func withFile<R>(_ bytes: [UInt8], _ body: (String) throws -> R) throws -> R {
    var template = Array("/tmp/postern-tls-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    try #require(descriptor >= 0)
    let path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    defer { unlink(path) }
    #expect(Glibc.write(descriptor, bytes, bytes.count) == bytes.count)
    close(descriptor)
    return try body(path)
}

/// A client that trusts `authority`.
private func trust(
    _ authority: SelfSignedCertificate, showing certificate: TLSCertificate? = nil, _ version: TLSVersion? = nil
) throws -> TLSContext {
    try withFile(authority.certificatePEM) {
        try TLSContext(
            client: .file($0), certificate: certificate, minimum: version ?? .tls12, maximum: version ?? .tls13)
    }
}

/// A server that asks its clients for certificates of `authority`.
private func asking(_ authority: SelfSignedCertificate) throws -> TLSContext {
    try withFile(authority.certificatePEM) {
        try TLSContext(server: [certificate.certificate], clientCA: $0, sessionContext: "test")
    }
}

private let certificate = try! SelfSignedCertificate.make(hostname: "mx.example.test")
private let serverContext = try! TLSContext(server: [certificate.certificate], sessionContext: "test")
private let trusting = try! trust(certificate)
private let indifferent = try! TLSContext(client: .nothing)

@Suite struct TLSHandshake {
    @Test(arguments: [(TLSVersion.tls12, "TLSv1.2"), (.tls13, "TLSv1.3")])
    func bothVersionsCarryDataBothWays(version: TLSVersion, name: String) throws {
        let context = try trust(certificate, version)
        var pair = try Pair(serverContext, context)
        #expect(pair.server.handshake == .inProgress)
        #expect(write(pair.client, [1]) == 0)
        pair.run()
        let client = try #require(info(pair.client))
        let server = try #require(info(pair.server))
        #expect(client.version == name && server.version == name)
        #expect(client.cipher == server.cipher && client.cipherBits >= 128)
        #expect(client.peerVerification == .verified && server.peerVerification == .noCertificate)
        #expect(client.peerCertificateSHA256?.count == 32 && server.peerCertificateSHA256 == nil)
        #expect(client.serverName == "mx.example.test" && server.serverName == "mx.example.test")
        #expect(!client.resumed && !server.resumed)

        let question = (0..<40_000).map { UInt8(truncatingIfNeeded: $0) }
        #expect(write(pair.client, question) == question.count)
        #expect(write(pair.server, Array(question.reversed())) == question.count)
        pair.run()
        #expect(pair.atServer == question)
        #expect(pair.atClient == question.reversed())
        #expect(pair.serverResult == .wantsMore && pair.clientResult == .wantsMore)
    }

    @Test func oneByteAtATime() throws {
        var pair = try Pair(serverContext, trusting)
        pair.chunk = 1
        pair.run()
        #expect(info(pair.client) != nil && info(pair.server) != nil)
        for byte in Array("EHLO client.example\r\n".utf8) {  // and records of one byte
            #expect(write(pair.client, [byte]) == 1)
        }
        pair.run()
        #expect(pair.atServer == Array("EHLO client.example\r\n".utf8))
    }

    @Test func oldVersionsAndCiphersAreRefused() throws {
        let server = try TLSSession(server: serverContext)
        let client = RawClient { context in
            SSL_CTX_set_security_level(context, 0)
            _ = cr_SSL_CTX_set_min_proto_version(context, TLS1_VERSION)
            _ = cr_SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION)
        }
        #expect(fault(client.run(with: server))?.kind == .protocolViolation)

        let other = try TLSSession(server: serverContext)
        let cbc = RawClient { context in
            _ = cr_SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION)
            SSL_CTX_set_cipher_list(context, "AES128-SHA:ECDHE-ECDSA-AES128-SHA256:AES128-GCM-SHA256")
        }
        #expect(fault(cbc.run(with: other))?.kind == .protocolViolation)
    }

    @Test func minimumIsKept() throws {
        let server = try TLSContext(server: [certificate.certificate], sessionContext: "test", minimum: .tls13)
        var pair = try Pair(server, try TLSContext(client: .nothing, maximum: .tls12), verify: false)
        pair.run()
        #expect(fault(pair.serverResult)?.kind == .protocolViolation)
        #expect(fault(pair.clientResult)?.kind == .peerAlert)
        #expect(pair.client.handshake == .failed(try #require(fault(pair.clientResult))))
    }
}

@Suite struct TLSVerification {
    @Test func unknownAuthority() throws {
        let other = try SelfSignedCertificate.make(hostname: "mx.example.test")
        var pair = try Pair(serverContext, try trust(other))
        pair.run()
        #expect(fault(pair.clientResult)?.kind == .verification)
        #expect(fault(pair.clientResult)?.description.contains("self-signed") == true)
        #expect(fault(pair.serverResult)?.kind == .peerAlert)
        #expect(write(pair.client, [1]) == 0)
    }

    @Test func systemTrustDoesNotKnowUs() throws {
        var pair = try Pair(serverContext, try TLSContext(client: .system))
        pair.run()
        #expect(fault(pair.clientResult)?.kind == .verification)
    }

    @Test func withoutVerifyTheVerdictIsToldAndHasNoConsequence() throws {
        var pair = try Pair(serverContext, indifferent, name: "other.example.test", verify: false)
        pair.run()
        guard case .failed(let why) = info(pair.client)?.peerVerification else {
            Issue.record("expected a verdict")
            return
        }
        #expect(why.contains("self-signed"))
        var named = try Pair(serverContext, trusting, name: "other.example.test", verify: false)
        named.run()
        #expect(info(named.client)?.peerVerification == .failed("hostname mismatch"))
    }

    @Test func wrongName() throws {
        var pair = try Pair(serverContext, trusting, name: "other.example.test")
        pair.run()
        #expect(fault(pair.clientResult) == TLSFault(.verification, "certificate not trusted: hostname mismatch"))
    }

    @Test func addressIsLookedForAndNotAskedFor() throws {
        var pair = try Pair(serverContext, trusting, name: "192.0.2.1")
        pair.run()
        #expect(fault(pair.clientResult)?.description.contains("IP address mismatch") == true)
        var indifferentPair = try Pair(serverContext, indifferent, name: "2001:db8::1", verify: false)
        indifferentPair.run()
        #expect(info(indifferentPair.server) != nil && info(indifferentPair.server)?.serverName == nil)
    }

    @Test func trailingDotAndCase() throws {
        var pair = try Pair(serverContext, trusting, name: "MX.Example.Test.")
        pair.run()
        #expect(info(pair.client)?.peerVerification == .verified)
    }

    @Test(arguments: ["", ".", "a\0b", String(repeating: "a", count: 300)])
    func whatIsNoHostNameIsRefused(name: String) {
        #expect(throws: TLSFault.self) { try TLSSession(client: indifferent, serverName: name, verify: false) }
    }

    @Test func expiredAndNotYetValid() throws {
        let now = Int64(time(nil))
        for (from, to, words) in [(-20, -10, "expired"), (10, 20, "not yet valid")] {
            let day: Int64 = 86_400
            let bad = try SelfSignedCertificate.make(
                hostname: "mx.example.test", notBefore: now + Int64(from) * day, notAfter: now + Int64(to) * day)
            let context = try TLSContext(server: [bad.certificate], sessionContext: "test")
            #expect(context.warnings.count == 1)
            var pair = try Pair(context, try trust(bad))
            pair.run()
            #expect(fault(pair.clientResult)?.description.contains(words) == true)
        }
        #expect(serverContext.warnings.isEmpty)
    }

    @Test func clientCertificate() throws {
        let client = try SelfSignedCertificate.make(hostname: "client.example.test")
        let context = try asking(client)
        var known = try Pair(context, try trust(certificate, showing: client.certificate))
        known.run()
        #expect(info(known.server)?.peerVerification == .verified)
        #expect(info(known.server)?.peerCertificateSHA256?.count == 32)

        let stranger = try SelfSignedCertificate.make(hostname: "client.example.test")
        var unknown = try Pair(
            context, try trust(certificate, showing: stranger.certificate))
        unknown.run()
        guard case .failed = info(unknown.server)?.peerVerification else {
            Issue.record("a stranger's certificate was believed")
            return
        }
        var none = try Pair(context, trusting)
        none.run()
        #expect(info(none.server)?.peerVerification == .noCertificate)
    }
}

@Suite struct TLSServerName {
    static let names = ["mx.example.test", "*.wild.test", "third.test"]
    static let certificates = names.map { try! SelfSignedCertificate.make(hostname: $0) }
    static let context = try! TLSContext(server: certificates.map(\.certificate), sessionContext: "test")

    @Test(arguments: [
        ("mx.example.test", 0), ("MX.EXAMPLE.TEST", 0), ("a.wild.test", 1), ("a.b.wild.test", 0), ("wild.test", 0),
        ("third.test", 2), ("unknown.test", 0),
    ])
    func choosesTheCertificate(name: String, index: Int) throws {
        var pair = try Pair(Self.context, indifferent, name: name, verify: false)
        pair.run()
        #expect(info(pair.client)?.peerCertificateSHA256 == fingerprint(Self.certificates[index]))
        #expect(info(pair.server)?.serverName?.lowercased() == name.lowercased())
    }

    @Test func noNameGetsTheFirst() throws {
        var pair = try Pair(Self.context, indifferent, name: nil, verify: false)
        pair.run()
        #expect(info(pair.client)?.peerCertificateSHA256 == fingerprint(Self.certificates[0]))
        #expect(info(pair.server)?.serverName == nil)
    }

    private func fingerprint(_ certificate: SelfSignedCertificate) -> [UInt8] {
        certificate.certificatePEM.withUnsafeBytes { bytes in
            let bio = BIO_new_mem_buf(bytes.baseAddress, Int32(bytes.count))
            defer { BIO_free(bio) }
            let parsed = PEM_read_bio_X509(bio, nil, nil, nil)
            defer { X509_free(parsed) }
            return certificateFingerprint(parsed!)
        }
    }
}

@Suite struct TLSEnds {
    @Test func closeNotifyIsTheEndAndMissingOneIsTruncation_T_B7() throws {
        var pair = try Pair(serverContext, trusting)
        pair.run()
        #expect(write(pair.client, Array("QUIT\r\n".utf8)) == 6)
        pair.client.close()
        pair.client.close()
        pair.run()
        pair.server.receivedEnd()
        pair.readServer()
        #expect(pair.atServer == Array("QUIT\r\n".utf8))
        #expect(pair.serverResult == .closed)
        pair.readServer()
        #expect(pair.serverResult == .closed)
        // Half closed: the other direction lives.
        #expect(write(pair.client, [1]) == 0)
        #expect(write(pair.server, Array("221\r\n".utf8)) == 5)
        pair.run()
        #expect(pair.atClient == Array("221\r\n".utf8))

        var cut = try Pair(serverContext, trusting)
        cut.run()
        #expect(write(cut.client, Array("QUIT\r\n".utf8)) == 6)
        cut.run()
        cut.server.receivedEnd()
        cut.readServer()
        #expect(cut.atServer == Array("QUIT\r\n".utf8))
        #expect(fault(cut.serverResult)?.kind == .truncated)
        #expect(write(cut.server, [1]) == 0)
    }

    @Test func closeNotifyInTheMiddleThenPlaintext_T_A3() throws {
        var pair = try Pair(serverContext, trusting)
        pair.run()
        #expect(write(pair.client, Array("BDAT 10\r\n1234".utf8)) == 13)
        pair.client.close()
        pair.run()
        try [UInt8(ascii: "\n")].withUnsafeBytes { try pair.server.receive($0) }
        pair.readServer()
        #expect(pair.atServer == Array("BDAT 10\r\n1234".utf8))
        #expect(pair.serverResult == .closed)
    }

    @Test func halfAHandshake() throws {
        let pair = try Pair(serverContext, trusting)
        try withExtendedLifetime(pair.client) {
            try pair.server.receive(UnsafeRawBufferPointer(rebasing: pair.client.ciphertext[..<100]))
        }
        var text: [UInt8] = []
        #expect(readAll(pair.server, &text) == .wantsMore)
        #expect(pair.server.handshake == .inProgress)
        pair.server.receivedEnd()
        #expect(fault(readAll(pair.server, &text))?.kind == .truncated)
        pair.server.close()
    }

    @Test(arguments: [
        "EHLO client.example\r\n", "\u{16}\u{3}\u{1}\u{0}\u{5}hello", "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}",
        "\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}\u{28}",
    ])
    func garbageInsteadOfAHandshake(text: String) throws {
        let server = try TLSSession(server: serverContext)
        try Array(text.utf8).withUnsafeBytes { try server.receive($0) }
        var read: [UInt8] = []
        let result = readAll(server, &read)
        let kind = try #require(fault(result)?.kind)
        #expect(kind == .protocolViolation || kind == .peerAlert)
        #expect(readAll(server, &read) == result)
        #expect(throws: TLSFault.self) { try Array(text.utf8).withUnsafeBytes { try server.receive($0) } }
    }

    @Test func everyDamagedByteOfAClientHelloIsSurvived() throws {
        let client = try TLSSession(client: trusting, serverName: "mx.example.test", verify: true)
        let hello = withExtendedLifetime(client) { Array(client.ciphertext) }
        for at in hello.indices {
            var damaged = hello
            damaged[at] ^= 0xFF
            let server = try TLSSession(server: TLSServerName.context)
            try damaged.withUnsafeBytes { try server.receive($0) }
            server.receivedEnd()
            var read: [UInt8] = []
            #expect(fault(readAll(server, &read)) != nil, "byte \(at)")
        }
    }

    @Test func everyDamagedByteOfARecordIsSeen() throws {
        for at in 0..<5 + 6 + 17 {
            var pair = try Pair(serverContext, trusting)
            pair.run()
            #expect(write(pair.client, Array("QUIT\r\n".utf8)) == 6)
            var record = withExtendedLifetime(pair.client) { Array(pair.client.ciphertext) }
            record[at] ^= 0x40
            try record.withUnsafeBytes { try pair.server.receive($0) }
            pair.server.receivedEnd()
            pair.readServer()
            #expect(fault(pair.serverResult) != nil, "byte \(at)")
            #expect(pair.atServer.isEmpty)
        }
    }

    @Test func renegotiationIsRefused_T_B7() throws {
        let server = try TLSSession(server: serverContext)
        let client = RawClient { _ = cr_SSL_CTX_set_max_proto_version($0, TLS1_2_VERSION) }
        #expect(client.run(with: server) == .wantsMore)
        #expect(SSL_is_init_finished(client.ssl) == 1)
        #expect(SSL_renegotiate(client.ssl) == 1)
        _ = client.run(with: server)
        #expect(client.error == SSL_R_NO_RENEGOTIATION)
    }

    @Test func unreadInputIsBounded() throws {
        let server = try TLSSession(server: serverContext)
        let half = [UInt8](repeating: 0, count: TLSSession.inputMaxBytes / 2)
        try half.withUnsafeBytes { try server.receive($0) }
        try half.withUnsafeBytes { try server.receive($0) }
        #expect(throws: TLSFault(.overflow, "more than 1048576 bytes received and not read")) {
            try [0].withUnsafeBytes { try server.receive($0) }
        }
    }

    @Test func unsentOutputIsBounded() throws {
        var pair = try Pair(serverContext, trusting)
        pair.run()
        let megabyte = [UInt8](repeating: 7, count: 1 << 20)
        let taken = write(pair.server, megabyte)
        #expect(taken >= TLSSession.outputMaxBytes - 32_768 && taken < TLSSession.outputMaxBytes + 32_768)
        #expect(write(pair.server, megabyte) == 0)
        pair.run()
        #expect(pair.atClient.count == taken)
        #expect(write(pair.server, megabyte) > 0)
    }

    /// A peer that asks for key updates (RFC 8446 §4.6.3) and never reads our answers.
    @Test func keyUpdateFloodIsBounded() throws {
        let server = try TLSSession(server: serverContext)
        let client = RawClient { _ in }
        #expect(client.run(with: server) == .wantsMore)
        var result = TLSSession.ReadResult.wantsMore
        for _ in 0..<40_000 where result == .wantsMore {
            SSL_key_update(client.ssl, SSL_KEY_UPDATE_REQUESTED)
            SSL_do_handshake(client.ssl)
            result = client.send(to: server)
        }
        #expect(server.pendingCiphertext < TLSSession.outputMaxBytes + 65_537)
    }
}

@Suite struct TLSResumption {
    @Test(arguments: [TLS1_2_VERSION, TLS1_3_VERSION])
    func ticketsAreBoundToServiceAndName_T_B5(version: Int32) throws {
        let certificates = TLSServerName.certificates.map(\.certificate)
        let smtp = try TLSContext(server: certificates, sessionContext: "smtp")
        let imap = try TLSContext(server: certificates, sessionContext: "imap")

        let first = try TLSSession(server: smtp)
        let client = RawClient(name: "mx.example.test") { _ = cr_SSL_CTX_set_max_proto_version($0, version) }
        #expect(client.run(with: first) == .wantsMore)
        #expect(info(first)?.resumed == false)
        let session = try #require(SSL_get1_session(client.ssl))
        defer { SSL_SESSION_free(session) }
        #expect(SSL_SESSION_is_resumable(session) == 1)

        for (context, name, resumed) in [
            (smtp, "mx.example.test", true), (smtp, "third.test", false), (imap, "mx.example.test", false),
        ] {
            let server = try TLSSession(server: context)
            let again = RawClient(name: name, session: session) { _ = cr_SSL_CTX_set_max_proto_version($0, version) }
            #expect(again.run(with: server) == .wantsMore)
            #expect(info(server)?.resumed == resumed, "\(name)")
        }
    }

    @Test(arguments: [TLS1_2_VERSION, TLS1_3_VERSION])
    func noTicketsWhereClientCertificatesCount_T_B5(version: Int32) throws {
        let context = try asking(certificate)
        let server = try TLSSession(server: context)
        let client = RawClient { _ = cr_SSL_CTX_set_max_proto_version($0, version) }
        #expect(client.run(with: server) == .wantsMore)
        let session = try #require(SSL_get1_session(client.ssl))
        defer { SSL_SESSION_free(session) }
        #expect(SSL_SESSION_has_ticket(session) == 0)
    }
}

@Suite struct TLSCertificates {
    @Test func faultsNameTheFile() throws {
        let other = try SelfSignedCertificate.make(hostname: "other.test")
        func message(_ certificate: PEMSource, _ key: PEMSource) -> String {
            do {
                _ = try TLSContext(server: [TLSCertificate(certificate: certificate, key: key)], sessionContext: "t")
                return ""
            } catch { return "\(error)" }
        }
        let pem = PEMSource.bytes(certificate.certificatePEM)
        let key = PEMSource.bytes(certificate.keyPEM)
        #expect(
            message(.file("/nowhere/cert.pem"), key)
                == "/nowhere/cert.pem: cannot read the certificate: No such file or directory")
        #expect(message(.file("/"), key) == "/: cannot read the certificate: Is a directory")
        try withFile(Array("hello\n".utf8)) { garbage in
            #expect(message(.file(garbage), key).hasPrefix("\(garbage): no PEM certificate in it"))
            #expect(message(pem, .file(garbage)).hasPrefix("\(garbage): no usable private key"))
            #expect(throws: TLSConfigurationFault.self) { try TLSContext(client: .file(garbage)) }
            #expect(throws: TLSConfigurationFault.self) {
                try TLSContext(server: [certificate.certificate], clientCA: garbage, sessionContext: "t")
            }
        }
        #expect(message(pem, .bytes([])).contains("no usable private key"))
        try withFile(certificate.certificatePEM) { good in
            #expect(
                message(.file(good), .bytes(other.keyPEM))
                    == "the given PEM text: the key does not belong to the certificate in \(good)")
            #expect(message(.file(good), key).isEmpty)
        }
        #expect(throws: TLSConfigurationFault.self) { try TLSContext(server: [], sessionContext: "t") }
        #expect(throws: TLSConfigurationFault.self) { try TLSContext(client: .file("/nowhere")) }
    }

    @Test func chains() throws {
        func server(_ pem: [UInt8]) throws -> TLSContext {
            let pair = TLSCertificate(certificate: .bytes(pem), key: .bytes(certificate.keyPEM))
            return try TLSContext(server: [pair], sessionContext: "t")
        }
        let one = certificate.certificatePEM
        let most = [[UInt8]](repeating: one, count: 16).flatMap { $0 }
        _ = try server(most)
        #expect(throws: TLSConfigurationFault("the given PEM text: more than 16 certificates")) {
            try server(most + one)
        }
        let damaged = #expect(throws: TLSConfigurationFault.self) { try server(one + one.dropLast(40)) }
        #expect(damaged?.description.hasPrefix("the given PEM text: certificate 2 cannot be read (") == true)
    }

    @Test func encryptedKeyIsRefusedWithoutAQuestion() throws {
        let bio = BIO_new(BIO_s_mem())
        defer { BIO_free(bio) }
        let key = cr_EVP_EC_gen("P-256")
        defer { EVP_PKEY_free(key) }
        #expect(PEM_write_bio_PrivateKey(bio, key, EVP_aes_128_cbc(), Array("secret".utf8), 6, nil, nil) == 1)
        var bytes: UnsafeMutablePointer<CChar>?
        let count = cr_BIO_get_mem_data(bio, &bytes)
        let pem = [UInt8](UnsafeRawBufferPointer(start: bytes, count: count))
        #expect(throws: TLSConfigurationFault.self) {
            try TLSContext(
                server: [TLSCertificate(certificate: .bytes(certificate.certificatePEM), key: .bytes(pem))],
                sessionContext: "t")
        }
    }

    @Test func expiry() throws {
        let made = try SelfSignedCertificate.make(hostname: "a.test", notBefore: 1_000_000, notAfter: 4_000_000_000)
        #expect(try certificateExpiry(of: .bytes(made.certificatePEM)) == 4_000_000_000)
        let tenYears = try certificateExpiry(of: .bytes(certificate.certificatePEM)) - Int64(time(nil))
        #expect(tenYears > 3_649 * 86_400 && tenYears <= 3_650 * 86_400)
        #expect(throws: TLSConfigurationFault.self) { try certificateExpiry(of: .bytes([0x2D])) }
    }

    @Test(arguments: ["", "a,DNS:b.test", "a b", "ä.test", "a\n", String(repeating: "a", count: 254)])
    func whatIsNoHostNameIsRefused(name: String) {
        #expect(throws: TLSConfigurationFault.self) { try SelfSignedCertificate.make(hostname: name) }
    }

    @Test func longHostName() throws {
        let name = (0..<4).map { _ in String(repeating: "a", count: 50) }.joined(separator: ".")
        let made = try SelfSignedCertificate.make(hostname: name)
        var pair = try Pair(
            try TLSContext(server: [made.certificate], sessionContext: "t"), try trust(made),
            name: name)
        pair.run()
        #expect(info(pair.client)?.peerVerification == .verified)
    }

    @Test func rsaAndECDSAServeTogether() throws {
        let rsa = try makeRSA(hostname: "mx.example.test")
        let context = try TLSContext(server: [certificate.certificate, rsa], sessionContext: "t")
        for (ciphers, name) in [("ECDHE-RSA-AES128-GCM-SHA256", "RSA"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDSA")] {
            let server = try TLSSession(server: context)
            let client = RawClient(name: "mx.example.test") {
                _ = cr_SSL_CTX_set_max_proto_version($0, TLS1_2_VERSION)
                SSL_CTX_set_cipher_list($0, ciphers)
            }
            #expect(client.run(with: server) == .wantsMore)
            #expect(info(server)?.cipher == ciphers, "\(name)")
        }
    }

    private func makeRSA(hostname: String) throws -> TLSCertificate {
        let generator = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA, nil)
        defer { EVP_PKEY_CTX_free(generator) }
        var key: OpaquePointer?
        EVP_PKEY_keygen_init(generator)
        EVP_PKEY_CTX_set_rsa_keygen_bits(generator, 2_048)
        EVP_PKEY_keygen(generator, &key)
        let made = try #require(X509_new())
        defer {
            EVP_PKEY_free(key)
            X509_free(made)
        }
        X509_set_version(made, 2)
        X509_gmtime_adj(X509_getm_notBefore(made), 0)
        X509_gmtime_adj(X509_getm_notAfter(made), 3_600)
        X509_set_pubkey(made, key)
        let names = cr_X509V3_extension(made, NID_subject_alt_name, "DNS:\(hostname)")
        X509_add_ext(made, names, -1)
        X509_EXTENSION_free(names)
        X509_sign(made, key, EVP_sha256())
        func pem(_ write: (OpaquePointer?) -> Int32) -> [UInt8] {
            let bio = BIO_new(BIO_s_mem())
            defer { BIO_free(bio) }
            _ = write(bio)
            var bytes: UnsafeMutablePointer<CChar>?
            let count = cr_BIO_get_mem_data(bio, &bytes)
            return [UInt8](UnsafeRawBufferPointer(start: bytes, count: count))
        }
        return TLSCertificate(
            certificate: .bytes(pem { PEM_write_bio_X509($0, made) }),
            key: .bytes(pem { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) }))
    }
}

/// A client made of OpenSSL alone, for what `TLSSession` refuses to do.
private final class RawClient {
    let ssl: OpaquePointer
    private let context: OpaquePointer
    /// The reason of the last error that OpenSSL had.
    private(set) var error: Int32 = 0

    init(name: String? = nil, session: OpaquePointer? = nil, _ configure: (OpaquePointer) -> Void) {
        context = SSL_CTX_new(TLS_client_method())
        configure(context)
        ssl = SSL_new(context)
        SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()))
        if let name { _ = cr_SSL_set_tlsext_host_name(ssl, name) }
        if let session { SSL_set_session(ssl, session) }
        SSL_set_connect_state(ssl)
    }

    deinit {
        SSL_free(ssl)
        SSL_CTX_free(context)
    }

    /// Carries bytes until nothing moves.
    func run(with server: TLSSession) -> TLSSession.ReadResult {
        var result = TLSSession.ReadResult.wantsMore
        var plaintext = [UInt8](repeating: 0, count: 1_024)
        for _ in 0..<10 {
            ERR_clear_error()
            if SSL_read(ssl, &plaintext, 1_024) <= 0 {
                let code = ERR_get_error()
                if code != 0 { error = ERR_GET_REASON(code) }
            }
            result = send(to: server)
            let ciphertext = server.ciphertext
            if ciphertext.count > 0 {
                BIO_write(SSL_get_rbio(ssl), ciphertext.baseAddress, Int32(ciphertext.count))
                server.dropCiphertext(ciphertext.count)
            }
        }
        return result
    }

    func send(to server: TLSSession) -> TLSSession.ReadResult {
        var bytes = [UInt8](repeating: 0, count: 16_384)
        var plaintext: [UInt8] = []
        var result = TLSSession.ReadResult.wantsMore
        while true {
            let count = BIO_read(SSL_get_wbio(ssl), &bytes, Int32(bytes.count))
            guard count > 0 else { break }
            bytes.withUnsafeBytes { try? server.receive(UnsafeRawBufferPointer(rebasing: $0[..<Int(count)])) }
        }
        result = readAll(server, &plaintext)
        return result
    }
}
