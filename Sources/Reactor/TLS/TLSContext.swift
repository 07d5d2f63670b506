import CReactor
import Glibc

/// Why a TLS context or certificate could not be made: the operator's files or settings, in one sentence that names the
/// file.
public struct TLSConfigurationFault: Error, Equatable, Sendable, CustomStringConvertible {
    /// The sentence.
    public let description: String

    init(_ description: String) { self.description = description }
}

/// Where PEM text (RFC 7468) comes from.
public enum PEMSource: Sendable, Equatable {
    /// A path.
    case file(String)
    /// The text itself.
    case bytes([UInt8])
}

/// A certificate with its intermediate certificates behind it, and its private key (not encrypted).
public struct TLSCertificate: Sendable, Equatable {
    /// The server's or client's own certificate first, at most 16.
    public var certificate: PEMSource
    /// The key of the first of them.
    public var key: PEMSource

    /// A pair that a context will check.
    public init(certificate: PEMSource, key: PEMSource) {
        self.certificate = certificate
        self.key = key
    }
}

/// The versions that are spoken; older ones never are (RFC 8996).
public enum TLSVersion: Int32, Sendable {
    case tls12 = 0x0303
    case tls13 = 0x0304
}

/// What a client trusts when it judges its peer's certificate.
public enum TLSTrust: Sendable, Equatable {
    /// The machine's store of certificate authorities.
    case system
    /// The certificates in a PEM file.
    case file(String)
    /// Nothing: for opportunistic TLS (RFC 7435), which looks at no certificate. Saves the megabytes of a store.
    case nothing
}

/// The settings of all TLS sessions of one service, or of one client policy.
///
/// Sendable although OpenSSL's types are not: everything is set before `init` returns, and from then on OpenSSL only
/// makes sessions from it, which is documented as safe from any thread.
///
/// A server offers ECDHE with AEAD ciphers only, so that there is no CBC padding and no RSA decryption to attack.
/// Session tickets are bound to this object, to `sessionContext` and to the certificate that SNI chose: a ticket of
/// another service or name is not taken, and a full handshake follows (threat T-B5). With `clientCA` there are no
/// tickets at all, so that a client's certificate is judged each time.
public final class TLSContext: @unchecked Sendable {
    /// What the operator should know though it works: certificates that have expired or are not valid yet.
    public let warnings: [String]

    let context: OpaquePointer
    private let table: CertificateTable?

    /// The context of a server.
    ///
    /// - Parameters:
    ///   - certificates: at least one. Server Name Indication (RFC 6066 §3) chooses by the DNS names in the
    ///     certificates, `*.` included; the first is for all other names. Two that have the same names and keys of
    ///     different kinds (RSA, ECDSA) serve together.
    ///   - clientCA: a PEM file. Clients are asked for a certificate that it signed; none or a wrong one does not end
    ///     the handshake, see `TLSInfo.peerVerification`.
    ///   - sessionContext: the service's name, such as `smtp`.
    public init(
        server certificates: [TLSCertificate], clientCA: String? = nil, sessionContext: String,
        minimum: TLSVersion = .tls12, maximum: TLSVersion = .tls13
    ) throws(TLSConfigurationFault) {
        guard !certificates.isEmpty else { throw TLSConfigurationFault("TLS: a server needs a certificate") }
        var warnings: [String] = []
        let table = CertificateTable()
        for certificate in certificates {
            let loaded = try LoadedCertificate(certificate)
            if let warning = loaded.warning { warnings.append(warning) }
            if let partner = table.partner(of: loaded) {
                try loaded.install(in: partner)
                continue
            }
            let context = try Self.makeContext(server: true, minimum, maximum)
            table.add(loaded, context: context)  // from here on the table frees it
            try Self.configureServer(context, loaded, sessionContext, clientCA)
            try loaded.install(in: context)
        }
        let first = table.first
        SSL_CTX_set_client_hello_cb(
            first, { ssl, _, argument in CertificateTable.choose(ssl, argument) },
            Unmanaged.passUnretained(table).toOpaque())
        SSL_CTX_up_ref(first)
        self.context = first
        self.table = table
        self.warnings = warnings
    }

    /// The context of a client policy.
    ///
    /// - Parameters:
    ///   - trust: `.nothing` allows old ciphers, short keys and servers without secure renegotiation (RFC 5746) too,
    ///     because the alternative would be plaintext.
    ///   - certificate: shown when the server asks for one.
    public init(
        client trust: TLSTrust, certificate: TLSCertificate? = nil,
        minimum: TLSVersion = .tls12, maximum: TLSVersion = .tls13
    ) throws(TLSConfigurationFault) {
        let context = try Self.makeContext(server: false, minimum, maximum)
        var warnings: [String] = []
        do throws(TLSConfigurationFault) {
            SSL_CTX_set_security_level(context, trust == .nothing ? 0 : 2)
            if trust == .nothing { SSL_CTX_set_options(context, cr_SSL_OP_LEGACY_SERVER_CONNECT) }
            try Self.require(SSL_CTX_set_cipher_list(context, "HIGH:!aNULL:!eNULL:!PSK:!SRP"), "cipher list")
            switch trust {
            case .system: try Self.require(SSL_CTX_set_default_verify_paths(context), "system trust store")
            case .file(let path): try Self.loadTrust(path, into: context)
            case .nothing: break
            }
            if let certificate {
                let loaded = try LoadedCertificate(certificate)
                try loaded.install(in: context)
                if let warning = loaded.warning { warnings.append(warning) }
            }
        } catch {
            SSL_CTX_free(context)
            throw error
        }
        self.context = context
        self.table = nil
        self.warnings = warnings
    }

    deinit { SSL_CTX_free(context) }
}

extension TLSContext {
    private static let serverCiphers = "ECDHE+AESGCM:ECDHE+CHACHA20"
    private static let groups = "X25519:P-256:P-384"

    private static func makeContext(
        server: Bool, _ minimum: TLSVersion, _ maximum: TLSVersion
    ) throws(TLSConfigurationFault) -> OpaquePointer {
        ERR_clear_error()
        guard let context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()) else {
            throw TLSConfigurationFault("TLS: out of memory (\(TLSError.drain().text))")
        }
        _ = cr_SSL_CTX_set_min_proto_version(context, minimum.rawValue)
        _ = cr_SSL_CTX_set_max_proto_version(context, maximum.rawValue)
        SSL_CTX_set_options(context, cr_SSL_OP_NO_COMPRESSION | cr_SSL_OP_NO_RENEGOTIATION)
        _ = cr_SSL_CTX_set_mode(
            context,
            cr_SSL_MODE_RELEASE_BUFFERS | cr_SSL_MODE_ENABLE_PARTIAL_WRITE | cr_SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
        cr_SSL_CTX_set_session_cache_off(context)
        return context
    }

    private static func configureServer(
        _ context: OpaquePointer, _ certificate: borrowing LoadedCertificate, _ sessionContext: String,
        _ clientCA: String?
    ) throws(TLSConfigurationFault) {
        SSL_CTX_set_security_level(context, 2)
        SSL_CTX_set_options(context, cr_SSL_OP_CIPHER_SERVER_PREFERENCE | cr_SSL_OP_PRIORITIZE_CHACHA)
        try require(SSL_CTX_set_cipher_list(context, serverCiphers), "cipher list")
        try require(cr_SSL_CTX_set1_groups_list(context, groups), "groups")
        var binding = Array(sessionContext.utf8)
        binding.append(0)
        binding += certificate.fingerprint
        var digest = [UInt8](repeating: 0, count: 32)  // SSL_MAX_SID_CTX_LENGTH
        EVP_Digest(binding, binding.count, &digest, nil, EVP_sha256(), nil)
        try require(SSL_CTX_set_session_id_context(context, digest, UInt32(digest.count)), "session context")
        SSL_CTX_set_num_tickets(context, clientCA == nil ? 1 : 0)
        // Acknowledges a server name (RFC 6066 §3); the certificate was chosen by then.
        cr_SSL_CTX_set_servername_callback(context) { ssl, _, _ in
            SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) == nil ? SSL_TLSEXT_ERR_NOACK : SSL_TLSEXT_ERR_OK
        }
        guard let clientCA else { return }
        SSL_CTX_set_options(context, cr_SSL_OP_NO_TICKET)
        try loadTrust(clientCA, into: context)
        SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(clientCA))
        // Whatever the verdict, the handshake goes on: it is in the result, and what it is worth is policy.
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER) { _, _ in 1 }
    }

    private static func loadTrust(_ path: String, into context: OpaquePointer) throws(TLSConfigurationFault) {
        _ = try PEMSource.file(path).load("certificates of authorities")  // for its clear sentence
        ERR_clear_error()
        guard SSL_CTX_load_verify_file(context, path) == 1 else {
            throw TLSConfigurationFault("\(path): no certificates of authorities in it (\(TLSError.drain().text))")
        }
    }

    private static func require(_ result: Int32, _ what: String) throws(TLSConfigurationFault) {
        if result != 1 { throw TLSConfigurationFault("TLS: \(what): \(TLSError.drain().text)") }
    }
}

/// The server's certificates by DNS name; unchanging once the context is made.
private final class CertificateTable {
    private struct Entry {
        let context: OpaquePointer
        let names: [String]
        var keyTypes: [Int32]
    }

    private var entries: [Entry] = []
    private var byName: [String: Int] = [:]

    var first: OpaquePointer { entries[0].context }

    deinit {
        for entry in entries { SSL_CTX_free(entry.context) }
    }

    /// Takes over `context`.
    func add(_ certificate: borrowing LoadedCertificate, context: OpaquePointer) {
        for name in certificate.names where byName[name] == nil { byName[name] = entries.count }
        entries.append(Entry(context: context, names: certificate.names, keyTypes: [certificate.keyType]))
    }

    /// The context that has the same names with other kinds of key.
    func partner(of certificate: borrowing LoadedCertificate) -> OpaquePointer? {
        let names = certificate.names
        let type = certificate.keyType
        guard !names.isEmpty,
            let at = entries.firstIndex(where: { $0.names == names && !$0.keyTypes.contains(type) })
        else { return nil }
        entries[at].keyTypes.append(type)
        return entries[at].context
    }

    private func context(for name: String) -> OpaquePointer? {
        if let exact = byName[name] { return entries[exact].context }
        guard let dot = name.firstIndex(of: ".") else { return nil }
        return byName["*" + name[dot...]].map { entries[$0].context }
    }

    /// The client hello callback. It is asked before a session ticket is looked at, so that the ticket is judged by the
    /// session context of the certificate that the name chose.
    static func choose(_ ssl: OpaquePointer?, _ table: UnsafeMutableRawPointer?) -> Int32 {
        var bytes: UnsafePointer<UInt8>?
        var count = 0
        guard let table, SSL_client_hello_get0_ext(ssl, UInt32(TLSEXT_TYPE_server_name), &bytes, &count) == 1,
            let name = serverName(UnsafeBufferPointer(start: bytes, count: count)),
            let context = Unmanaged<CertificateTable>.fromOpaque(table).takeUnretainedValue().context(for: name)
        else { return SSL_CLIENT_HELLO_SUCCESS }
        SSL_set_SSL_CTX(ssl, context)
        return SSL_CLIENT_HELLO_SUCCESS
    }

    /// The host name in a `server_name` extension (RFC 6066 §3), in lower case: list length (2 octets), type 0, name
    /// length (2), name.
    private static func serverName(_ bytes: UnsafeBufferPointer<UInt8>) -> String? {
        guard bytes.count > 5, bytes[2] == 0 else { return nil }
        let count = Int(bytes[3]) << 8 | Int(bytes[4])
        guard count > 0, count <= 255, bytes.count >= 5 + count else { return nil }
        let name = UnsafeBufferPointer(rebasing: bytes[5..<(5 + count)])
        guard name.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        return String(decoding: name, as: UTF8.self).lowercased()
    }
}
