import CReactor
import Glibc
import Protocols
import Reactor

/// The secrets of one gateway, as the directory keeps them.
struct StoredSecrets: Hashable, Sendable {
    /// Of the customer (ATRN, ETRN).
    var customer: StoredSecret?
    /// Of the mailbox (POP3, IMAP).
    var mailbox: StoredSecret?

    static let none = StoredSecrets()
    /// One at least can't be opened.
    var isLocked: Bool { customer.map { $0.keys == nil } ?? false || mailbox.map { $0.keys == nil } ?? false }
}

struct StoredSecret: Hashable, Sendable {
    /// Base 64.
    let sealed: String
    /// nil: it was sealed with another key.
    let keys: SecretKeys?
}

/// Keeps secrets unreadable in the database and its backups: AES-256-GCM under a key that lies beside it, in `secrets.key`.
///
/// ```text
/// sealed  nonce (12) · ciphertext · tag (16)
/// within  salt (16) · iterations (4, big endian) · stored key (32) · server key (32) · the secret
/// ```
///
/// Each is bound to its gateway's domain and its own name, so that one copied into another row opens nothing.
struct SecretBox: Sendable {
    private static let keyBytes = 32
    private static let nonceBytes = 12
    private static let tagBytes = 16
    private static let fixedBytes = SCRAMKeys.saltBytes + 4 + 32 + 32

    private let key: [UInt8]

    /// - Parameter key: 32 bytes.
    init(key: [UInt8]) {
        precondition(key.count == Self.keyBytes)
        self.key = key
    }

    /// One that is forgotten with the process.
    static func temporary() -> SecretBox { SecretBox(key: SASLFunctions.openSSL.random(keyBytes)) }

    /// Reads `path`, or makes it, durably and for us alone.
    static func open(_ path: String) throws(DirectoryFault) -> SecretBox {
        let fault = { (what: String) in
            DirectoryFault.unavailable("\(InvalidSetting.quote(path)): \(what)")
        }
        let file = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        if file >= 0 {
            defer { close(file) }
            var bytes = [UInt8](repeating: 0, count: keyBytes + 1)
            guard read(file, &bytes, bytes.count) == keyBytes else {
                throw fault("it is not the key that was made; put it back from the backup")
            }
            return SecretBox(key: Array(bytes[..<keyBytes]))
        }
        guard errno == ENOENT else { throw fault(String(cString: strerror(errno))) }
        let box = temporary()
        let part = path + ".part"
        unlink(part)
        let made = Glibc.open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard made >= 0 else { throw fault(String(cString: strerror(errno))) }
        let isWritten = write(made, box.key, keyBytes) == keyBytes && fsync(made) == 0
        guard close(made) == 0, isWritten, rename(part, path) == 0 else {
            throw fault(String(cString: strerror(errno)))
        }
        let folder = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        let handle = Glibc.open(folder.isEmpty ? "/" : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        defer { if handle >= 0 { close(handle) } }
        guard handle >= 0, fsync(handle) == 0 else { throw fault(String(cString: strerror(errno))) }
        return box
    }

    /// Of it salts are made for users who don't exist: the same after a restart.
    var nobodySecret: [UInt8] { SASLFunctions.openSSL.hmacSHA256(key, Array("nobody".utf8)) }

    // MARK: Sealing

    /// Makes the keys for SCRAM, too, which takes milliseconds.
    func seal(_ text: String, _ name: String, of domain: String) -> StoredSecret {
        let functions = SASLFunctions.openSSL
        let bytes = Array(text.utf8)
        let scram = SCRAMKeys(password: bytes, salt: functions.random(SCRAMKeys.saltBytes), functions: functions)
        let count = UInt32(scram.iterations)
        let iterations = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: count >> UInt32($0)) }
        let plain = scram.salt + iterations + scram.storedKey + scram.serverKey + bytes
        let nonce = functions.random(Self.nonceBytes)
        guard let sealed = crypt(plain, nonce: nonce, tag: nil, bound: "\(name) \(domain)") else {
            preconditionFailure("AES-256-GCM failed")
        }
        return StoredSecret(
            sealed: String(decoding: Base64.encode(nonce + sealed), as: UTF8.self),
            keys: SecretKeys(bytes: bytes, scram: scram))
    }

    func open(_ sealed: String, _ name: String, of domain: String) -> StoredSecret {
        let nothing = StoredSecret(sealed: sealed, keys: nil)
        guard let bytes = Base64.decode(Array(sealed.utf8)),
            bytes.count > Self.nonceBytes + Self.tagBytes + Self.fixedBytes
        else { return nothing }
        let ciphertext = Array(bytes[Self.nonceBytes..<bytes.count - Self.tagBytes])
        guard
            let plain = crypt(
                ciphertext, nonce: Array(bytes[..<Self.nonceBytes]), tag: Array(bytes.suffix(Self.tagBytes)),
                bound: "\(name) \(domain)")
        else { return nothing }
        var at = 0
        let take = { (count: Int) -> [UInt8] in
            defer { at += count }
            return Array(plain[at..<at + count])
        }
        let salt = take(SCRAMKeys.saltBytes)
        let iterations = take(4).reduce(0) { $0 << 8 | Int($1) }
        let (storedKey, serverKey) = (take(32), take(32))
        guard iterations > 0 else { return nothing }
        return StoredSecret(
            sealed: sealed,
            keys: SecretKeys(
                bytes: Array(plain[at...]),
                scram: SCRAMKeys(salt: salt, iterations: iterations, storedKey: storedKey, serverKey: serverKey)))
    }

    /// Seals (`tag` nil: it stands behind the result) or opens; nil: what is to be opened is not what was sealed.
    private func crypt(_ input: [UInt8], nonce: [UInt8], tag: [UInt8]?, bound: String) -> [UInt8]? {
        guard let context = EVP_CIPHER_CTX_new() else { return nil }
        defer { EVP_CIPHER_CTX_free(context) }
        let isSealing: Int32 = tag == nil ? 1 : 0
        var output = [UInt8](repeating: 0, count: input.count + Self.tagBytes)
        var count: Int32 = 0
        var last: Int32 = 0
        let additional = Array(bound.utf8)
        guard EVP_CipherInit_ex(context, EVP_aes_256_gcm(), nil, key, nonce, isSealing) == 1,
            EVP_CipherUpdate(context, nil, &count, additional, Int32(additional.count)) == 1,
            EVP_CipherUpdate(context, &output, &count, input, Int32(input.count)) == 1
        else { return nil }
        if var tag, EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, Int32(Self.tagBytes), &tag) != 1 { return nil }
        let isFinished = output.withUnsafeMutableBufferPointer {
            EVP_CipherFinal_ex(context, $0.baseAddress! + Int(count), &last) == 1
        }
        guard isFinished else { return nil }
        output.removeLast(output.count - Int(count + last))
        guard tag == nil else { return output }
        var made = [UInt8](repeating: 0, count: Self.tagBytes)
        guard EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, Int32(Self.tagBytes), &made) == 1 else { return nil }
        return output + made
    }
}
