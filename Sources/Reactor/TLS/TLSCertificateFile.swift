import CReactor
import Glibc

extension PEMSource {
    /// A file larger than this is no certificate file.
    private static let fileMaxBytes = 4 << 20

    var name: String {
        switch self {
        case .file(let path): path
        case .bytes: "the given PEM text"
        }
    }

    /// The text. `what` is for the error's sentence.
    func load(_ what: String) throws(TLSConfigurationFault) -> [UInt8] {
        guard case .file(let path) = self else {
            if case .bytes(let bytes) = self { return bytes }
            return []
        }
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw TLSConfigurationFault("\(path): cannot read the \(what): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            if count == 0 { return text }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw TLSConfigurationFault("\(path): cannot read the \(what): \(String(cString: strerror(errno)))")
            }
            text += chunk[..<count]
            guard text.count <= Self.fileMaxBytes else {
                throw TLSConfigurationFault("\(path): larger than \(Self.fileMaxBytes) bytes, not a PEM file")
            }
        }
    }
}

/// A certificate chain and its key in OpenSSL's form, checked to belong together.
struct LoadedCertificate: ~Copyable {
    /// The DNS names in lower case, sorted.
    let names: [String]
    /// Of the leaf: SHA-256 over its DER form.
    let fingerprint: [UInt8]
    let keyType: Int32
    let warning: String?

    private let chain: [OpaquePointer]
    private let key: OpaquePointer
    private let name: String

    init(_ source: TLSCertificate) throws(TLSConfigurationFault) {
        let chain = try Self.readChain(source.certificate)
        let key: OpaquePointer
        do throws(TLSConfigurationFault) {
            key = try Self.readKey(source.key)
            if X509_check_private_key(chain[0], key) != 1 {
                EVP_PKEY_free(key)
                ERR_clear_error()
                throw TLSConfigurationFault(
                    "\(source.key.name): the key does not belong to the certificate in \(source.certificate.name)")
            }
        } catch {
            for certificate in chain { X509_free(certificate) }
            throw error
        }
        self.chain = chain
        self.key = key
        name = source.certificate.name
        names = dnsNames(of: chain[0])
        fingerprint = certificateFingerprint(chain[0])
        keyType = EVP_PKEY_get_base_id(key)
        if X509_cmp_current_time(X509_get0_notAfter(chain[0])) < 0 {
            warning = "\(name): the certificate has expired"
        } else if X509_cmp_current_time(X509_get0_notBefore(chain[0])) > 0 {
            warning = "\(name): the certificate is not valid yet"
        } else {
            warning = nil
        }
    }

    deinit {
        for certificate in chain { X509_free(certificate) }
        EVP_PKEY_free(key)
    }

    func install(in context: OpaquePointer) throws(TLSConfigurationFault) {
        ERR_clear_error()
        guard SSL_CTX_use_certificate(context, chain[0]) == 1, SSL_CTX_use_PrivateKey(context, key) == 1,
            chain.dropFirst().allSatisfy({ cr_SSL_CTX_add1_chain_cert(context, $0) == 1 })
        else {
            throw TLSConfigurationFault("\(name): OpenSSL does not take the certificate: \(TLSError.drain().text)")
        }
    }

    private static let chainMaxCertificates = 16

    /// At least one certificate, each owned by the caller.
    fileprivate static func readChain(_ source: PEMSource) throws(TLSConfigurationFault) -> [OpaquePointer] {
        let text = try source.load("certificate")
        var chain: [OpaquePointer] = []
        let end = readPEM(text) { bio in
            while chain.count <= chainMaxCertificates, let next = PEM_read_bio_X509(bio, nil, refusePassword, nil) {
                chain.append(next)
            }
        }
        if chain.isEmpty { throw TLSConfigurationFault("\(source.name): no PEM certificate in it (\(end.text))") }
        let why: String
        if chain.count > chainMaxCertificates {
            why = "more than \(chainMaxCertificates) certificates"
        } else if end.reason != PEM_R_NO_START_LINE {
            why = "certificate \(chain.count + 1) cannot be read (\(end.text))"
        } else {
            return chain
        }
        for certificate in chain { X509_free(certificate) }
        throw TLSConfigurationFault("\(source.name): \(why)")
    }

    private static func readKey(_ source: PEMSource) throws(TLSConfigurationFault) -> OpaquePointer {
        let text = try source.load("private key")
        var key: OpaquePointer?
        let error = readPEM(text) { key = PEM_read_bio_PrivateKey($0, nil, refusePassword, nil) }
        guard let key else {
            throw TLSConfigurationFault(
                "\(source.name): no usable private key in it; it must be PEM, not encrypted (\(error.text))")
        }
        return key
    }

    /// Lets OpenSSL read `text`; the error that it stopped at.
    private static func readPEM(_ text: [UInt8], _ read: (OpaquePointer?) -> Void) -> TLSError {
        ERR_clear_error()
        return text.withUnsafeBytes { bytes in
            let bio = BIO_new_mem_buf(bytes.baseAddress, Int32(clamping: bytes.count))
            defer { BIO_free(bio) }
            read(bio)
            return TLSError.drain()
        }
    }
}

/// When the first certificate in `source` expires, in seconds since 1970.
public func certificateExpiry(of source: PEMSource) throws(TLSConfigurationFault) -> Int64 {
    let chain = try LoadedCertificate.readChain(source)
    defer { for certificate in chain { X509_free(certificate) } }
    var time = tm()
    guard ASN1_TIME_to_tm(X509_get0_notAfter(chain[0]), &time) == 1 else {
        throw TLSConfigurationFault("\(source.name): the certificate's end of validity is not a time")
    }
    return Int64(timegm(&time))
}

/// Without this, OpenSSL asks for the password of an encrypted key on the terminal.
private func refusePassword(
    _: UnsafeMutablePointer<CChar>?, _: Int32, _: Int32, _: UnsafeMutableRawPointer?
) -> Int32 { -1 }

/// SHA-256 over the DER form.
func certificateFingerprint(_ certificate: OpaquePointer) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: 32)
    X509_digest(certificate, EVP_sha256(), &digest, nil)
    return digest
}

/// The DNS names among the subject's alternative names (RFC 5280 §4.2.1.6), in lower case, sorted.
private func dnsNames(of certificate: OpaquePointer) -> [String] {
    guard let list = X509_get_ext_d2i(certificate, NID_subject_alt_name, nil, nil) else { return [] }
    let general = OpaquePointer(list)
    defer { GENERAL_NAMES_free(general) }
    var names: [String] = []
    for index in 0..<OPENSSL_sk_num(general) {
        let entry = OPENSSL_sk_value(general, index)?.assumingMemoryBound(to: GENERAL_NAME.self)
        var type: Int32 = -1
        guard let value = GENERAL_NAME_get0_value(entry, &type), type == GEN_DNS else { continue }
        let text = UnsafePointer(value.assumingMemoryBound(to: ASN1_STRING.self))
        let bytes = UnsafeBufferPointer(start: ASN1_STRING_get0_data(text), count: Int(ASN1_STRING_length(text)))
        names.append(String(decoding: bytes, as: UTF8.self).lowercased())
    }
    return names.sorted()
}
