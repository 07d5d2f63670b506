/// The client's side of one SASL exchange: PLAIN, CRAM-MD5 and SCRAM-SHA-256, for logging in at the next server.
///
/// The owner picks the mechanism (`choose`), sends `initialResponse` with or behind its command, answers each challenge
/// with what `respond` says, and upon the server's success asks `isComplete`: SCRAM must have proved the server, too.
///
/// - User and password are sent as octets. Those beyond ASCII would want SASLprep (RFC 4013), which is not here: SCRAM
///   refuses them, and `choose` does not offer it then.
public struct SASLClientExchange {
    /// Why the exchange must end: send `*`.
    public enum Fault: Error, Hashable, Sendable {
        /// A challenge that is no base64, or not one of this mechanism.
        case malformedChallenge
        /// More iterations than `iterationsMax`: it would hold the processor for the server's pleasure.
        case tooManyIterations
        /// Fewer than 4096: the server, or who stands before it, wants a proof that is easy to guess from (RFC 7677 §4).
        case tooFewIterations
        /// The server does not know the secret.
        case serverNotProved
    }

    public static let iterationsMax = 600_000

    private enum State {
        case plain, cram, scramFirst
        case scramFinal(serverSignature: [UInt8])
        case done
    }

    public let mechanism: SASLMechanism
    private let user: [UInt8]
    private let password: [UInt8]
    private let functions: SASLFunctions
    private var state: State
    private let nonce: [UInt8]

    /// The best of the mechanisms that the server offers; nil if there is none to be used. `isTLS`: PLAIN may be.
    public static func choose(
        from offered: [SASLMechanism], isTLS: Bool, user: String, password: String
    ) -> SASLMechanism? {
        let isASCII = (user + password).utf8.allSatisfy { $0 >= 32 && $0 < 127 }
        let mine: [SASLMechanism] = (isASCII ? [.scramSHA256] : []) + (isTLS ? [.plain, .cramMD5] : [.cramMD5])
        return mine.first { offered.contains($0) }
    }

    /// - `mechanism`: PLAIN, CRAM-MD5 or SCRAM-SHA-256.
    public init(_ mechanism: SASLMechanism, user: String, password: String, functions: SASLFunctions) {
        let nonce = mechanism == .scramSHA256 ? Base64.encode(functions.random(18)) : []
        self.init(mechanism, user: user, password: password, functions: functions, nonce: nonce)
    }

    init(_ mechanism: SASLMechanism, user: String, password: String, functions: SASLFunctions, nonce: [UInt8]) {
        (self.mechanism, self.functions, self.nonce) = (mechanism, functions, nonce)
        (self.user, self.password) = (Array(user.utf8), Array(password.utf8))
        switch mechanism {
        case .plain: state = .plain
        case .cramMD5: state = .cram
        case .scramSHA256: state = .scramFirst
        case .scramSHA256Plus, .external, .login: preconditionFailure("\(mechanism) has no client here")
        }
    }

    /// Goes with the command, in base64, or answers an empty first challenge. Nil where the server begins.
    public var initialResponse: [UInt8]? {
        switch mechanism {
        case .plain: [0] + user + [0] + password
        case .scramSHA256: Array("n,,".utf8) + clientFirstBare
        default: nil
        }
    }

    private var clientFirstBare: [UInt8] {
        let name = user.flatMap { byte in
            switch byte {
            case UInt8(ascii: ","): Array("=2C".utf8)
            case UInt8(ascii: "="): Array("=3D".utf8)
            default: [byte]
            }
        }
        return Array("n=".utf8) + name + Array(",r=".utf8) + nonce
    }

    /// The response to a challenge, whose base64 stands in `text`; to be sent in base64.
    public mutating func respond(to text: UnsafeRawBufferPointer) throws(Fault) -> [UInt8] {
        guard let challenge = Base64.decode(text) else { throw .malformedChallenge }
        switch state {
        case .plain, .done: throw .malformedChallenge
        case .cram:
            guard !challenge.isEmpty else { throw .malformedChallenge }
            state = .done
            let digest = SASLFunctions.hexadecimal(functions.hmacMD5(password, challenge))
            return user + Array(" \(digest)".utf8)
        case .scramFirst: return try scramFinal(challenge)
        case .scramFinal(let signature):
            guard let value = SCRAMServer.value("v", challenge.prefix { $0 != UInt8(ascii: ",") }),
                let claimed = Array(value).withUnsafeBytes({ Base64.decode($0) }),
                functions.areEqual(claimed, signature)
            else { throw .serverNotProved }
            state = .done
            return []
        }
    }

    /// The server's success may be believed.
    public var isComplete: Bool {
        switch state {
        case .plain, .done: true
        case .cram, .scramFirst, .scramFinal: false
        }
    }

    private mutating func scramFinal(_ challenge: [UInt8]) throws(Fault) -> [UInt8] {
        let attributes = challenge.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard attributes.count >= 3, let nonce = SCRAMServer.value("r", attributes[0]), nonce.starts(with: self.nonce),
            nonce.count > self.nonce.count, nonce.count <= 2 * SASLLimits.nonceMaxBytes,
            let saltText = SCRAMServer.value("s", attributes[1]),
            let salt = Array(saltText).withUnsafeBytes({ Base64.decode($0) }),
            let digits = SCRAMServer.value("i", attributes[2]),
            let iterations = Array(digits).withUnsafeBytes({ SMTPLineCursor.number($0) })
        else { throw .malformedChallenge }
        guard iterations >= SCRAMKeys.standardIterations else { throw .tooFewIterations }
        guard iterations <= Self.iterationsMax else { throw .tooManyIterations }
        let withoutProof = Array("c=biws,r=".utf8) + nonce
        let comma = [UInt8(ascii: ",")]
        let authMessage = clientFirstBare + comma + challenge + comma + withoutProof
        let salted = functions.pbkdf2SHA256(password, salt, iterations)
        let clientKey = functions.hmacSHA256(salted, Array("Client Key".utf8))
        let signature = functions.hmacSHA256(functions.sha256(clientKey), authMessage)
        let proof = zip(clientKey, signature).map { $0 ^ $1 }
        state = .scramFinal(
            serverSignature: functions.hmacSHA256(functions.hmacSHA256(salted, Array("Server Key".utf8)), authMessage))
        return withoutProof + Array(",p=".utf8) + Base64.encode(proof)
    }
}
