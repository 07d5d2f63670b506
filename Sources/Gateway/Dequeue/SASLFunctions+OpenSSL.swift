import CReactor
import Glibc
import Protocols

extension SASLFunctions {
    /// OpenSSL's, the system's clock, and chance that nobody can guess.
    static var openSSL: SASLFunctions {
        SASLFunctions(
            md5: { digest($0, EVP_md5()) }, sha256: { digest($0, EVP_sha256()) },
            hmacMD5: { hmac("MD5", $0, $1) }, hmacSHA256: { hmac("SHA256", $0, $1) },
            pbkdf2SHA256: { password, salt, iterations in
                var key = [UInt8](repeating: 0, count: 32)
                let done = password.withUnsafeBufferPointer { password in
                    password.withMemoryRebound(to: CChar.self) {
                        PKCS5_PBKDF2_HMAC(
                            $0.baseAddress, Int32($0.count), salt, Int32(salt.count), Int32(iterations), EVP_sha256(),
                            32, &key)
                    }
                }
                precondition(done == 1)
                return key
            },
            areEqual: { $0.count == $1.count && CRYPTO_memcmp($0, $1, $0.count) == 0 },
            random: { count in
                var bytes = [UInt8](repeating: 0, count: count)
                precondition(RAND_bytes(&bytes, Int32(count)) == 1)
                return bytes
            }, now: { time(nil) })
    }

    private static func digest(_ bytes: [UInt8], _ kind: OpaquePointer?) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 64)
        var count: UInt32 = 0
        precondition(EVP_Digest(bytes, bytes.count, &result, &count, kind, nil) == 1)
        return Array(result.prefix(Int(count)))
    }

    private static func hmac(_ kind: String, _ key: [UInt8], _ message: [UInt8]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 64)
        var count = 0
        // An empty key must still be one: nil stands for none.
        let done = (key + [0]).withUnsafeBufferPointer {
            EVP_Q_mac(
                nil, "HMAC", nil, kind, nil, $0.baseAddress, key.count, message, message.count, &result, result.count,
                &count)
        }
        precondition(done != nil)
        return Array(result.prefix(count))
    }
}
