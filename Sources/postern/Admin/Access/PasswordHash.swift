import CAccess
import Foundation

/// A password as it is stored: scrypt (RFC 7914) with its cost and salt beside it, so that a later cost reads earlier hashes.
///
/// ```text
/// scrypt$15$8$3$<salt, base64>$<key, base64>
/// ```
struct PasswordHash: Hashable, Sendable {
    /// What one computation costs: 2^`logN` · `r` · 128 bytes of memory, `p` times.
    struct Cost: Hashable, Sendable {
        let logN: Int
        let r: Int
        let p: Int

        /// 32 MiB and about a quarter of a second on a slow core.
        static let standard = Cost(logN: 15, r: 8, p: 3)

        /// Beyond it a stored hash is not one of ours: it would take the machine's memory.
        var isBearable: Bool { (10...20).contains(logN) && (1...32).contains(r) && (1...16).contains(p) }
        var memoryMaxBytes: UInt64 { UInt64(256 * r) << UInt64(logN) + 1 << 20 }
    }

    enum Limits {
        /// Bytes of a password.
        static let password = 12...1_024
        static let saltBytes = 16
        static let keyBytes = 32
    }

    let cost: Cost
    let salt: [UInt8]
    let key: [UInt8]

    /// Computes the hash of a new password; takes as long as a check does.
    init(_ password: String, cost: Cost = .standard, salt: [UInt8] = RandomText.bytes(Limits.saltBytes)) {
        (self.cost, self.salt) = (cost, salt)
        key = Self.derive(password, cost, salt)
    }

    /// Reads a stored one; nil when it is none.
    init?(stored: String) {
        let parts = stored.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 6, parts[0] == "scrypt", let logN = Int(parts[1]), let r = Int(parts[2]),
            let p = Int(parts[3]), let salt = Data(base64Encoded: String(parts[4])),
            let key = Data(base64Encoded: String(parts[5])), key.count == Limits.keyBytes
        else { return nil }
        let cost = Cost(logN: logN, r: r, p: p)
        guard cost.isBearable else { return nil }
        (self.cost, self.salt, self.key) = (cost, Array(salt), Array(key))
    }

    var stored: String {
        "scrypt$\(cost.logN)$\(cost.r)$\(cost.p)$\(Data(salt).base64EncodedString())$\(Data(key).base64EncodedString())"
    }

    /// Whether `password` is it, in a time that says nothing about how near it was.
    func matches(_ password: String) -> Bool { ConstantTime.isEqual(key, Self.derive(password, cost, salt)) }

    private static func derive(_ password: String, _ cost: Cost, _ salt: [UInt8]) -> [UInt8] {
        var key = [UInt8](repeating: 0, count: Limits.keyBytes)
        let password = Array(password.utf8)
        let status = password.withUnsafeBytes { password in
            EVP_PBE_scrypt(
                password.baseAddress?.assumingMemoryBound(to: CChar.self), password.count, salt, salt.count,
                UInt64(1) << UInt64(cost.logN), UInt64(cost.r), UInt64(cost.p), cost.memoryMaxBytes, &key, key.count)
        }
        precondition(status == 1, "scrypt refuses a cost that was checked")
        return key
    }
}

/// Comparison whose time depends on lengths only.
enum ConstantTime {
    static func isEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.count == b.count && CRYPTO_memcmp(a, b, a.count) == 0 }
}

/// Texts that nobody can guess, and what is stored of them.
enum RandomText {
    static func bytes(_ count: Int) -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    }

    /// 256 bits in base64url without padding (RFC 4648 §5): a session's or a token's secret.
    static func secret() -> String {
        Data(bytes(32)).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing(
            "=", with: "")
    }

    /// A password that can be read out: 24 letters and digits without look-alikes, 118 bits.
    static func password() -> String {
        let letters = Array("abcdefghjkmnpqrstuvwxyz23456789")
        var generator = SystemRandomNumberGenerator()
        let groups = (0..<4).map { _ in String((0..<6).map { _ in letters.randomElement(using: &generator)! }) }
        return groups.joined(separator: "-")
    }

    /// SHA-256 in hexadecimal: enough for a secret of 256 bits, which no dictionary holds.
    static func digest(_ secret: String) -> String {
        var digest = [UInt8](repeating: 0, count: 32)
        let secret = Array(secret.utf8)
        precondition(EVP_Digest(secret, secret.count, &digest, nil, EVP_sha256(), nil) == 1, "SHA-256 fails")
        return digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
