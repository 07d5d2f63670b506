/// The mechanisms of SASL (RFC 4422) that are spoken here, strongest first.
public enum SASLMechanism: String, Sendable, CaseIterable {
    /// RFC 7677, bound to the TLS session.
    case scramSHA256Plus = "SCRAM-SHA-256-PLUS"
    /// RFC 7677.
    case scramSHA256 = "SCRAM-SHA-256"
    /// RFC 4422 §A: the client is known already, by its certificate or its address.
    case external = "EXTERNAL"
    /// RFC 2195. On-demand mail relay must have it (RFC 2645 §5.1.2).
    case cramMD5 = "CRAM-MD5"
    /// RFC 4616.
    case plain = "PLAIN"
    /// Not standardised: user and password, one after the other. Of old Microsoft clients.
    case login = "LOGIN"

    /// As it stands in a command, in any case of its letters; nil if there is none of this name.
    public init?(name: UnsafeRawBufferPointer) {
        guard let mechanism = Self.allCases.first(where: { SMTPLineCursor.isSame(name, $0.rawValue) }) else {
            return nil
        }
        self = mechanism
    }

    /// It shows the password to the server, and without TLS to everybody: offered in TLS only.
    public var showsPassword: Bool { self == .plain || self == .login }

    /// A command may bring its first response along (RFC 4422 §5).
    ///
    /// LOGIN's is a leniency for the client of .NET (`System.Net.Mail`, all versions), which sends the user with it.
    public var takesInitialResponse: Bool { self != .cramMD5 }
}

/// Bounds of what a peer says in an exchange.
public enum SASLLimits {
    /// Bytes of a user name.
    public static let userMaxBytes = 255
    /// Bytes of a password; a hash of it costs time for each.
    public static let passwordMaxBytes = 1_024
    /// Characters of a response in its base64, CRLF included: what RFC 4954 §4 finds enough.
    public static let lineMaxBytes = 12_288
    /// Bytes of a client's nonce in SCRAM.
    public static let nonceMaxBytes = 256
}

/// Names of users, and what may stand in them.
///
/// SASLprep (RFC 4013) leaves ASCII as it is and forbids its control characters; that is done. Names beyond ASCII, which
/// it would map and normalise with tables, are refused: here users are named by domains, in A-labels.
enum SASLName {
    static func user(_ bytes: some Collection<UInt8>) -> String? {
        guard (1...SASLLimits.userMaxBytes).contains(bytes.count), bytes.allSatisfy({ $0 >= 32 && $0 < 127 })
        else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}

extension SMTPLineCursor {
    /// The same letters in any case; `text` is ASCII.
    static func isSame(_ bytes: UnsafeRawBufferPointer, _ text: String) -> Bool {
        func lower(_ byte: UInt8) -> UInt8 {
            byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") ? byte | 0x20 : byte
        }
        return bytes.count == text.utf8.count && zip(bytes, text.utf8).allSatisfy { lower($0) == lower($1) }
    }
}
