import CReactor
import Glibc
import Reactor

/// TLS on a nonblocking socket, straight by OpenSSL: a generator has no use for the buffers between.
///
/// - Threads: belongs to one.
final class TLSStream {
    enum Result: Equatable {
        case bytes(Int)
        case wantsMore
        case ended
        case failed(String)
    }

    private let ssl: OpaquePointer

    fileprivate init?(_ context: OpaquePointer, socket: Int32, isClient: Bool, resume session: OpaquePointer?) {
        guard let ssl = SSL_new(context), SSL_set_fd(ssl, socket) == 1 else { return nil }
        self.ssl = ssl
        if isClient { SSL_set_connect_state(ssl) } else { SSL_set_accept_state(ssl) }
        if let session { SSL_set_session(ssl, session) }
    }

    deinit { SSL_free(ssl) }

    /// Whether the handshake is over.
    func handshake() -> Result {
        ERR_clear_error()
        let status = SSL_do_handshake(ssl)
        return status == 1 ? .bytes(0) : outcome(status)
    }

    func read(_ buffer: UnsafeMutableRawBufferPointer) -> Result {
        ERR_clear_error()
        var count = 0
        let status = SSL_read_ex(ssl, buffer.baseAddress, buffer.count, &count)
        return status == 1 ? .bytes(count) : outcome(status)
    }

    /// At most one record. After `.wantsMore` the same bytes must be offered again.
    func write(_ bytes: UnsafeRawBufferPointer) -> Result {
        ERR_clear_error()
        var count = 0
        let status = SSL_write_ex(ssl, bytes.baseAddress, bytes.count, &count)
        return status == 1 ? .bytes(count) : outcome(status)
    }

    /// Says close_notify; nothing is waited for.
    func close() {
        ERR_clear_error()
        SSL_shutdown(ssl)
        ERR_clear_error()
    }

    /// What a later connection can resume. The caller frees it.
    var session: OpaquePointer? { SSL_get1_session(ssl) }
    var isResumed: Bool { SSL_session_reused(ssl) == 1 }

    private func outcome(_ status: Int32) -> Result {
        switch SSL_get_error(ssl, status) {
        case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return .wantsMore
        case SSL_ERROR_ZERO_RETURN: return .ended
        default:
            let code = ERR_get_error()
            if code == 0 { return .failed("connection lost") }
            return .failed(ERR_reason_error_string(code).map { String(cString: $0) } ?? "TLS error \(code)")
        }
    }
}

/// What makes TLS streams; everything is set before `init` returns.
final class TLSMaker: @unchecked Sendable {
    private let context: OpaquePointer
    private let isClient: Bool

    /// A client that looks at no certificate: a measurement is not a judgement.
    init() throws(BenchFault) {
        guard let context = SSL_CTX_new(TLS_client_method()) else { throw BenchFault("OpenSSL gives no context") }
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nil)
        SSL_CTX_set_security_level(context, 0)
        Self.setModes(context)
        self.context = context
        isClient = true
    }

    /// A server with a certificate of its own making.
    init(serverName: String) throws(BenchFault) {
        let made: SelfSignedCertificate
        do { made = try SelfSignedCertificate.make(hostname: serverName) } catch { throw BenchFault("\(error)") }
        guard let context = SSL_CTX_new(TLS_server_method()) else { throw BenchFault("OpenSSL gives no context") }
        Self.setModes(context)
        let isLoaded = made.certificatePEM.withUnsafeBytes { certificate in
            made.keyPEM.withUnsafeBytes { key in
                let certificateBIO = BIO_new_mem_buf(certificate.baseAddress, Int32(certificate.count))
                let keyBIO = BIO_new_mem_buf(key.baseAddress, Int32(key.count))
                let x509 = PEM_read_bio_X509(certificateBIO, nil, nil, nil)
                let privateKey = PEM_read_bio_PrivateKey(keyBIO, nil, nil, nil)
                defer {
                    BIO_free(certificateBIO)
                    BIO_free(keyBIO)
                    X509_free(x509)
                    EVP_PKEY_free(privateKey)
                }
                return SSL_CTX_use_certificate(context, x509) == 1 && SSL_CTX_use_PrivateKey(context, privateKey) == 1
            }
        }
        guard isLoaded else {
            SSL_CTX_free(context)
            throw BenchFault("OpenSSL does not take the certificate that was made for \(serverName)")
        }
        self.context = context
        isClient = false
    }

    deinit { SSL_CTX_free(context) }

    func stream(on socket: Int32, resume session: OpaquePointer? = nil) -> TLSStream? {
        TLSStream(context, socket: socket, isClient: isClient, resume: session)
    }

    private static func setModes(_ context: OpaquePointer) {
        _ = cr_SSL_CTX_set_mode(
            context,
            cr_SSL_MODE_RELEASE_BUFFERS | cr_SSL_MODE_ENABLE_PARTIAL_WRITE | cr_SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    }
}
