import CReactor
import Glibc
import Reactor

/// Certificates and policies, read from the files that the configuration names.
struct TLSMaterial {
    let server: TLSContext
    let client: CoreSettings.ClientTLS

    init(_ configuration: Configuration) throws {
        var certificates: [TLSCertificate] = []
        if let given = configuration.tls.certificates {
            certificates = given.map { TLSCertificate(certificate: .file($0.certificate), key: .file($0.key)) }
        } else {
            certificates = [try Self.selfSigned(configuration)]
        }
        server = try TLSContext(server: certificates, sessionContext: "smtp")
        client = CoreSettings.ClientTLS(
            unverified: try TLSContext(client: .nothing), verified: try TLSContext(client: .system))
    }

    /// Made at the first start, kept in the data folder.
    private static func selfSigned(_ configuration: Configuration) throws -> TLSCertificate {
        let folder = configuration.data + "/tls"
        let (certificate, key) = (folder + "/self-signed.pem", folder + "/self-signed.key")
        if access(certificate, R_OK) != 0 || access(key, R_OK) != 0 {
            let made = try SelfSignedCertificate.make(hostname: configuration.hostname)
            mkdir(folder, 0o700)
            try write(made.keyPEM, key)
            try write(made.certificatePEM, certificate)
        }
        return TLSCertificate(certificate: .file(certificate), key: .file(key))
    }

    private static func write(_ bytes: [UInt8], _ path: String) throws(SpoolFault) {
        let file = cr_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw SpoolFault(description: "`\(path)`: \(String(cString: strerror(-file)))") }
        let written = bytes.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
        let fault = errno
        close(file)
        guard written == bytes.count else {
            throw SpoolFault(description: "`\(path)`: \(String(cString: strerror(fault)))")
        }
    }
}
