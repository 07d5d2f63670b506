/// What the mechanisms need of a cryptographic library, of a clock and of chance, as functions of their owner.
///
/// - Real ones are OpenSSL's `EVP_Digest`, `EVP_MAC`, `PKCS5_PBKDF2_HMAC` and `CRYPTO_memcmp`.
public struct SASLFunctions {
    public var md5: ([UInt8]) -> [UInt8]
    public var sha256: ([UInt8]) -> [UInt8]
    public var hmacMD5: (_ key: [UInt8], _ message: [UInt8]) -> [UInt8]
    public var hmacSHA256: (_ key: [UInt8], _ message: [UInt8]) -> [UInt8]
    /// Of 32 bytes, with HMAC-SHA-256. Called by clients and by `SCRAMKeys.init(password:)` only: it takes
    /// milliseconds, and so is no work for a server's reactor.
    public var pbkdf2SHA256: (_ password: [UInt8], _ salt: [UInt8], _ iterations: Int) -> [UInt8]
    /// Takes the same time wherever the difference is. Different lengths are different, at once.
    public var areEqual: ([UInt8], [UInt8]) -> Bool
    /// That many bytes which nobody can guess.
    public var random: (_ count: Int) -> [UInt8]
    /// Seconds since 1970, for challenges that hold a time.
    public var now: () -> Int

    public init(
        md5: @escaping ([UInt8]) -> [UInt8], sha256: @escaping ([UInt8]) -> [UInt8],
        hmacMD5: @escaping ([UInt8], [UInt8]) -> [UInt8], hmacSHA256: @escaping ([UInt8], [UInt8]) -> [UInt8],
        pbkdf2SHA256: @escaping ([UInt8], [UInt8], Int) -> [UInt8], areEqual: @escaping ([UInt8], [UInt8]) -> Bool,
        random: @escaping (Int) -> [UInt8], now: @escaping () -> Int
    ) {
        (self.md5, self.sha256, self.hmacMD5, self.hmacSHA256) = (md5, sha256, hmacMD5, hmacSHA256)
        (self.pbkdf2SHA256, self.areEqual, self.random, self.now) = (pbkdf2SHA256, areEqual, random, now)
    }

    /// A challenge in the form of a message id that was never given out before (RFC 2195 §2, RFC 1939 §7).
    public func challenge(hostname: String) -> String {
        "<\(Self.hexadecimal(random(12))).\(now())@\(hostname)>"
    }

    /// Two digits for each byte, in lower case.
    static func hexadecimal(_ bytes: [UInt8]) -> String {
        let digits: StaticString = "0123456789abcdef"
        return String(
            decoding: bytes.flatMap { [digits.utf8Start[Int($0 >> 4)], digits.utf8Start[Int($0 & 15)]] }, as: UTF8.self)
    }
}
