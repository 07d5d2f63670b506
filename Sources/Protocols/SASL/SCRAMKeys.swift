/// What a server keeps of a password for SCRAM (RFC 5802 §3): enough to check it, not to say it.
public struct SCRAMKeys: Hashable, Sendable {
    /// Of this length for all users: another one would tell them from users that don't exist.
    public static let saltBytes = 16
    /// Likewise for all users. At least 4096 (RFC 7677 §4).
    public static let standardIterations = 4_096

    public let salt: [UInt8]
    public let iterations: Int
    /// 32 bytes each.
    public let storedKey: [UInt8]
    public let serverKey: [UInt8]

    public init(salt: [UInt8], iterations: Int, storedKey: [UInt8], serverKey: [UInt8]) {
        precondition(!salt.isEmpty && iterations > 0 && storedKey.count == 32 && serverKey.count == 32)
        (self.salt, self.iterations, self.storedKey, self.serverKey) = (salt, iterations, storedKey, serverKey)
    }

    /// For a password that is being set. It takes milliseconds.
    public init(password: [UInt8], salt: [UInt8], iterations: Int = standardIterations, functions: SASLFunctions) {
        let salted = functions.pbkdf2SHA256(password, salt, iterations)
        self.init(
            salt: salt, iterations: iterations,
            storedKey: functions.sha256(functions.hmacSHA256(salted, Array("Client Key".utf8))),
            serverKey: functions.hmacSHA256(salted, Array("Server Key".utf8)))
    }

    /// For a user that does not exist: always the same for the same name, and no password fits.
    init(nobody user: String, secret: [UInt8], iterations: Int, functions: SASLFunctions) {
        let name = Array(user.utf8)
        let salt = functions.hmacSHA256(secret, Array("salt ".utf8) + name).prefix(Self.saltBytes)
        self.init(
            salt: Array(salt), iterations: iterations,
            storedKey: functions.hmacSHA256(secret, Array("stored ".utf8) + name),
            serverKey: functions.hmacSHA256(secret, Array("server ".utf8) + name))
    }
}
