import CReactor

/// What ended a TLS session, or keeps it from beginning: the peer's doing, but for `.outOfMemory`.
public struct TLSFault: Error, Equatable, Sendable, CustomStringConvertible {
    /// What to tell apart; the rest is in the description.
    public enum Kind: Equatable, Sendable {
        /// What arrived is not TLS, or breaks it: garbage, a bad record, no version or cipher in common.
        case protocolViolation
        /// The peer sent a fatal alert.
        case peerAlert
        /// The peer's certificate was refused, by the session's `verify`.
        case verification
        /// The stream ended without a close_notify (RFC 8446 §6.1): what was read may not be all that was sent.
        case truncated
        /// More unread input or unsent output than the session's limits.
        case overflow
        case outOfMemory
    }

    /// Which of them it is.
    public let kind: Kind
    /// One line for a log; only from OpenSSL's own words, never the peer's.
    public let description: String

    init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }
}

/// What is known of a session once its handshake is over.
public struct TLSInfo: Equatable, Sendable {
    /// What the peer's certificate was found to be worth.
    public enum PeerVerification: Equatable, Sendable {
        /// The peer showed none.
        case noCertificate
        /// Signed by a trusted authority, in its time, and of the name that a client asked for.
        case verified
        /// Why not, for a log.
        case failed(String)
    }

    /// `TLSv1.3` or `TLSv1.2`.
    public let version: String
    /// OpenSSL's name of the cipher, such as `TLS_AES_256_GCM_SHA384`.
    public let cipher: String
    /// The length of its key.
    public let cipherBits: Int
    /// A client session judges chain and name even if `verify` is off; then the result has no consequence.
    public let peerVerification: PeerVerification
    /// SHA-256 over the DER form of the peer's certificate.
    public let peerCertificateSHA256: [UInt8]?
    /// The name of the server that the client asked for (RFC 6066 §3).
    public let serverName: String?
    /// From a session ticket, without a new exchange of certificates.
    public let resumed: Bool
}

/// One TLS 1.2 or 1.3 session (RFC 5246, RFC 8446), either role, without the socket.
///
/// ```text
///  wire ──receive()──▶ ┌─────────┐ ──read()──▶ plaintext
///       ◀─ciphertext── │ session │ ◀─write()──
///                      └─────────┘
/// ```
///
/// After each `receive`, call `read` until it says `.wantsMore`, then send `ciphertext`: reading drives the handshake,
/// and may produce output at any time. A client's first flight is in `ciphertext` from the beginning.
///
/// - Threads: belongs to one thread at a time.
/// - Limits: unread input `inputMaxBytes`, unsent output `outputMaxBytes`; both buffers are freed when empty. An idle
///   session holds about 14 KiB as a server and 19 KiB as a client, nearly all of it OpenSSL's.
public final class TLSSession {
    /// Unread ciphertext that one session may hold, in bytes. `receive` beyond it is a fault: an owner reads before it
    /// receives more.
    public static let inputMaxBytes = 1 << 20
    /// Unsent ciphertext up to which `write` takes more plaintext, in bytes.
    public static let outputMaxBytes = 256 << 10

    /// How far the handshake has come.
    public enum Handshake: Equatable, Sendable {
        case inProgress
        case established(TLSInfo)
        case failed(TLSFault)
    }

    /// What `read` found.
    public enum ReadResult: Equatable, Sendable {
        /// So many bytes of plaintext, at least 1.
        case bytes(Int)
        /// Nothing until more is received.
        case wantsMore
        /// The peer's close_notify: no more will come, and nothing is missing. We may still write.
        case closed
        /// The session is over. Its last `ciphertext` is an alert, worth one try to send.
        case failed(TLSFault)
    }

    /// Stays `.established` when the session later ends or fails: that is what `read` tells.
    public private(set) var handshake: Handshake = .inProgress

    let ssl: OpaquePointer
    private let wire: UnsafeMutablePointer<TLSWire>
    private let context: TLSContext  // owns the table of certificates that OpenSSL calls back into
    private var fault: TLSFault?
    private var isShutDown = false

    /// The server's side of a session.
    public convenience init(server context: TLSContext) throws(TLSFault) {
        try self.init(context)
        SSL_set_accept_state(ssl)
    }

    /// The client's side of a session.
    ///
    /// - Parameters:
    ///   - serverName: the name to ask for and to find in the certificate (RFC 6125 §6.4), or an IP address, which is
    ///     only looked for. nil: any name is right.
    ///   - verify: whether a certificate that is not trusted, or of another name, ends the handshake.
    public convenience init(client context: TLSContext, serverName: String?, verify: Bool) throws(TLSFault) {
        try self.init(context)
        SSL_set_connect_state(ssl)
        SSL_set_verify(ssl, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nil)
        if let serverName { try expect(serverName) }
        advanceHandshake()
        if let fault { throw fault }
    }

    private init(_ context: TLSContext) throws(TLSFault) {
        ERR_clear_error()
        guard let ssl = SSL_new(context.context) else { throw TLSFault(.outOfMemory, TLSError.drain().text) }
        guard let bio = TLSWire.makeBIO() else {
            SSL_free(ssl)
            throw TLSFault(.outOfMemory, TLSError.drain().text)
        }
        wire = .allocate(capacity: 1)
        wire.initialize(to: TLSWire())
        BIO_set_data(bio, wire)
        SSL_set_bio(ssl, bio, bio)
        self.ssl = ssl
        self.context = context
    }

    deinit {
        SSL_free(ssl)
        wire.deinitialize(count: 1)
        wire.deallocate()
    }

    private func expect(_ serverName: String) throws(TLSFault) {
        let parameters = SSL_get0_param(ssl)
        if X509_VERIFY_PARAM_set1_ip_asc(parameters, serverName) == 1 { return }
        ERR_clear_error()
        let name = serverName.hasSuffix(".") ? String(serverName.dropLast()) : serverName
        X509_VERIFY_PARAM_set_hostflags(parameters, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
        guard !name.isEmpty, !name.utf8.contains(0),
            X509_VERIFY_PARAM_set1_host(parameters, name, name.utf8.count) == 1,
            cr_SSL_set_tlsext_host_name(ssl, name) == 1
        else {
            ERR_clear_error()
            throw TLSFault(.verification, "not a host name that TLS can ask for")
        }
    }
}

extension TLSSession {
    /// Takes over ciphertext from the wire. `read` makes use of it.
    public func receive(_ ciphertext: UnsafeRawBufferPointer) throws(TLSFault) {
        if let fault { throw fault }
        guard wire.pointee.input.count + ciphertext.count <= Self.inputMaxBytes else {
            throw fail(TLSFault(.overflow, "more than \(Self.inputMaxBytes) bytes received and not read"))
        }
        wire.pointee.input.append(ciphertext)
    }

    /// The wire has ended: after what is left, `read` says `.closed` if a close_notify came, and else fails with
    /// `.truncated`.
    public func receivedEnd() { wire.pointee.isEnded = true }

    /// Drives the handshake, then gives plaintext.
    ///
    /// - Parameter buffer: not empty; one record holds at most 16,384 bytes.
    public func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        precondition(buffer.count > 0)
        if let fault { return .failed(fault) }
        if case .inProgress = handshake {
            advanceHandshake()
            if let fault { return .failed(fault) }
            if case .inProgress = handshake { return .wantsMore }
        }
        ERR_clear_error()
        var count = 0
        let result = SSL_read_ex(ssl, buffer.baseAddress, buffer.count, &count)
        if result == 1 { return .bytes(count) }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return .wantsMore
        case SSL_ERROR_ZERO_RETURN: return .closed
        default: return .failed(fail(faultFromOpenSSL()))
        }
    }

    /// Encrypts as much as there is room for.
    ///
    /// - Returns: the bytes taken; 0 before the handshake is over, after `close`, after a fault (which `read` tells),
    ///   and while `outputMaxBytes` of ciphertext wait to be sent.
    public func write(_ plaintext: UnsafeRawBufferPointer) -> Int {
        guard fault == nil, !isShutDown, case .established = handshake else { return 0 }
        var taken = 0
        while taken < plaintext.count, wire.pointee.output.count < Self.outputMaxBytes {
            ERR_clear_error()
            let rest = UnsafeRawBufferPointer(rebasing: plaintext[taken...])
            var count = 0
            guard SSL_write_ex(ssl, rest.baseAddress, rest.count, &count) == 1 else {
                _ = fail(faultFromOpenSSL())
                break
            }
            taken += count
        }
        return taken
    }

    /// Says close_notify (RFC 8446 §6.1), once; the peer may still send.
    public func close() {
        guard fault == nil, !isShutDown, case .established = handshake else { return }
        isShutDown = true
        ERR_clear_error()
        SSL_shutdown(ssl)
        ERR_clear_error()
    }
}

extension TLSSession {
    /// How many bytes wait to be sent.
    public var pendingCiphertext: Int { wire.pointee.output.count }

    /// The bytes that wait to be sent; valid until the next call of this session, and only while its owner holds it.
    public var ciphertext: UnsafeRawBufferPointer { wire.pointee.output.bytes }

    /// Forgets the first `count` bytes of `ciphertext`: they were sent or copied.
    public func dropCiphertext(_ count: Int) { wire.pointee.output.removeFirst(count) }

    /// Moves what waits to be sent into `buffer`, as far as it fits.
    ///
    /// - Returns: the bytes moved.
    public func takeCiphertext(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        wire.pointee.output.take(into: buffer.baseAddress, buffer.count)
    }
}

extension TLSSession {
    private func advanceHandshake() {
        ERR_clear_error()
        let result = SSL_do_handshake(ssl)
        if result == 1 {
            handshake = .established(makeInfo())
        } else if SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ {
            handshake = .failed(fail(faultFromOpenSSL()))
        }
    }

    private func fail(_ fault: TLSFault) -> TLSFault {
        self.fault = fault
        return fault
    }

    private func faultFromOpenSSL() -> TLSFault {
        let error = TLSError.drain()
        if wire.pointee.isOverflowed {
            return TLSFault(.overflow, "the peer does not take what its records make us answer")
        }
        switch error.reason {
        case SSL_R_CERTIFICATE_VERIFY_FAILED:
            let why = String(cString: X509_verify_cert_error_string(SSL_get_verify_result(ssl)))
            return TLSFault(.verification, "certificate not trusted: \(why)")
        case SSL_R_UNEXPECTED_EOF_WHILE_READING:
            return TLSFault(.truncated, "the connection ended without a close_notify")
        case SSL_AD_REASON_OFFSET...: return TLSFault(.peerAlert, error.text)
        default: return TLSFault(.protocolViolation, error.text)
        }
    }

    private func makeInfo() -> TLSInfo {
        let cipher = SSL_get_current_cipher(ssl)
        let certificate = SSL_get1_peer_certificate(ssl)
        defer { X509_free(certificate) }
        let verdict = SSL_get_verify_result(ssl)
        let verification: TLSInfo.PeerVerification =
            if certificate == nil {
                .noCertificate
            } else if verdict == Int(X509_V_OK) {
                .verified
            } else {
                .failed(String(cString: X509_verify_cert_error_string(verdict)))
            }
        return TLSInfo(
            version: String(cString: SSL_get_version(ssl)),
            cipher: String(cString: SSL_CIPHER_get_name(cipher)),
            cipherBits: Int(SSL_CIPHER_get_bits(cipher, nil)),
            peerVerification: verification,
            peerCertificateSHA256: certificate.map(certificateFingerprint),
            serverName: SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name).map { String(cString: $0) },
            resumed: SSL_session_reused(ssl) == 1)
    }
}

/// The oldest entry of OpenSSL's queue of errors, which is one per thread: the cause; the later ones are its callers.
struct TLSError {
    let reason: Int32
    let text: String

    /// Takes the error and empties the queue.
    static func drain() -> TLSError {
        let code = ERR_get_error()
        ERR_clear_error()
        guard code != 0 else { return TLSError(reason: 0, text: "unknown error") }
        let reason = ERR_reason_error_string(code).map { String(cString: $0) }
        return TLSError(reason: ERR_GET_REASON(code), text: reason ?? "error \(String(code, radix: 16))")
    }
}
