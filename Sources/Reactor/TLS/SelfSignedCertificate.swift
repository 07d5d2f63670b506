import CReactor
import Glibc

/// A certificate that vouches for itself (ECDSA P-256), so that a server can offer STARTTLS before it has a real one.
public struct SelfSignedCertificate: Sendable {
    /// For everyone.
    public let certificatePEM: [UInt8]
    /// Secret: for a file that only the server may read.
    public let keyPEM: [UInt8]

    /// As a context takes it.
    public var certificate: TLSCertificate {
        TLSCertificate(certificate: .bytes(certificatePEM), key: .bytes(keyPEM))
    }

    /// A certificate for 10 years from now.
    ///
    /// - Parameter hostname: letters, digits, hyphens, dots, and `*` as its first label; up to 253 octets.
    public static func make(hostname: String) throws(TLSConfigurationFault) -> SelfSignedCertificate {
        let now = Int64(time(nil))
        let day: Int64 = 86_400
        // From yesterday: the peer's clock may be behind ours.
        return try make(hostname: hostname, notBefore: now - day, notAfter: now + 3_650 * day)
    }

    /// A certificate with given validity, in seconds since 1970.
    static func make(
        hostname: String, notBefore: Int64, notAfter: Int64
    ) throws(TLSConfigurationFault) -> SelfSignedCertificate {
        // Only these, because OpenSSL's extension syntax has commas and colons of its own.
        guard !hostname.isEmpty, hostname.utf8.count <= 253, hostname.utf8.allSatisfy(isNameOctet) else {
            throw TLSConfigurationFault("cannot make a certificate for a host name that is not one")
        }
        ERR_clear_error()
        guard let key = cr_EVP_EC_gen("P-256"), let certificate = X509_new() else { throw cannotMake() }
        defer {
            EVP_PKEY_free(key)
            X509_free(certificate)
        }
        let serial = BN_new()
        defer { BN_free(serial) }
        // 127 random bits: positive, as RFC 5280 §4.1.2.2 wants.
        guard BN_rand(serial, 127, 0, 0) == 1,
            BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(certificate)) != nil,
            X509_set_version(certificate, 2) == 1,
            ASN1_TIME_set(X509_getm_notBefore(certificate), Int(notBefore)) != nil,
            ASN1_TIME_set(X509_getm_notAfter(certificate), Int(notAfter)) != nil,
            X509_set_pubkey(certificate, key) == 1,
            setName(hostname, of: certificate),
            add(NID_subject_alt_name, "DNS:" + hostname, to: certificate),
            add(NID_basic_constraints, "critical,CA:FALSE", to: certificate),
            add(NID_key_usage, "critical,digitalSignature", to: certificate),
            add(NID_ext_key_usage, "serverAuth,clientAuth", to: certificate),
            X509_sign(certificate, key, EVP_sha256()) > 0,
            let certificatePEM = pem({ PEM_write_bio_X509($0, certificate) }),
            let keyPEM = pem({ PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) })
        else { throw cannotMake() }
        return SelfSignedCertificate(certificatePEM: certificatePEM, keyPEM: keyPEM)
    }
}

extension SelfSignedCertificate {
    private static func cannotMake() -> TLSConfigurationFault {
        TLSConfigurationFault("cannot make a certificate: \(TLSError.drain().text)")
    }

    private static func isNameOctet(_ octet: UInt8) -> Bool {
        switch octet {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "*"):
            true
        default: false
        }
    }

    /// Subject and issuer. A common name has at most 64 characters (RFC 5280, ub-common-name); longer ones are only in
    /// the alternative name.
    private static func setName(_ hostname: String, of certificate: OpaquePointer) -> Bool {
        let name = X509_get_subject_name(certificate)
        let text = hostname.utf8.count <= 64 ? hostname : "self-signed"
        return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, Array(text.utf8), Int32(text.utf8.count), -1, 0)
            == 1
            && X509_set_issuer_name(certificate, name) == 1
    }

    private static func add(_ nid: Int32, _ value: String, to certificate: OpaquePointer) -> Bool {
        guard let entry = cr_X509V3_extension(certificate, nid, value) else { return false }
        defer { X509_EXTENSION_free(entry) }
        return X509_add_ext(certificate, entry, -1) == 1
    }

    private static func pem(_ write: (OpaquePointer?) -> Int32) -> [UInt8]? {
        let bio = BIO_new(BIO_s_mem())
        defer { BIO_free(bio) }
        guard write(bio) == 1 else { return nil }
        var bytes: UnsafeMutablePointer<CChar>?
        let count = cr_BIO_get_mem_data(bio, &bytes)
        return [UInt8](UnsafeRawBufferPointer(start: bytes, count: count))
    }
}
