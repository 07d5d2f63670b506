/// The server's side of SCRAM-SHA-256 (RFC 5802 §5, RFC 7677), within a `SASLServerExchange`.
///
/// ```abnf
/// client-first = gs2-flag "," [ "a=" saslname ] "," "n=" saslname "," "r=" nonce [ "," extensions ]
/// client-final = "c=" base64 "," "r=" nonce [ "," extensions ] "," "p=" base64       ; RFC 5802 §7
/// ```
struct SCRAMServer {
    enum Step {
        case challenge([UInt8])
        case findKeys
        /// The proof was right; this is the server's own.
        case verified([UInt8])
        case failed(SASLFailure)
    }

    private struct Final {
        let authMessageStart: [UInt8]
        let nonce: [UInt8]
        let keys: SCRAMKeys
        let isNobody: Bool
    }

    /// It is SCRAM-SHA-256-PLUS.
    let isBound: Bool
    /// As the client said it, `=2C` and `=3D` undone.
    private(set) var user = ""
    /// With both its commas: comes again within the client's last message.
    private var gs2Header: [UInt8] = []
    private var clientFirstBare: [UInt8] = []
    private var clientNonce: [UInt8] = []
    private var final: Final?

    init(isBound: Bool) { self.isBound = isBound }

    mutating func received(_ message: [UInt8], context: SASLServerContext) -> Step {
        guard let final else { return first(message, context) }
        return self.final(message, final, context)
    }

    private mutating func first(_ message: [UInt8], _ context: SASLServerContext) -> Step {
        let parts = message.split(separator: UInt8(ascii: ","), maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, !message.contains(0) else { return .failed(.malformed) }
        switch parts[0].first {
        case UInt8(ascii: "n") where parts[0].count == 1: guard !isBound else { return .failed(.malformed) }
        case UInt8(ascii: "y") where parts[0].count == 1:
            guard !isBound else { return .failed(.malformed) }
            // The client could, and believes that we can't: somebody took it out of our list (RFC 5802 §6).
            guard context.channelBinding == nil else { return .failed(.credentials) }
        case UInt8(ascii: "p"):
            guard isBound, let binding = context.channelBinding else { return .failed(.credentials) }
            guard parts[0].elementsEqual("p=\(binding.name)".utf8) else { return .failed(.credentials) }
        default: return .failed(.malformed)
        }
        let attributes = parts[2].split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard attributes.count >= 2, let name = Self.value("n", attributes[0]),
            let nonce = Self.value("r", attributes[1]), (1...SASLLimits.nonceMaxBytes).contains(nonce.count),
            nonce.allSatisfy({ $0 > 32 && $0 < 127 }), attributes.dropFirst(2).allSatisfy(Self.isExtension)
        else { return .failed(.malformed) }
        guard let user = Self.name(name).flatMap({ SASLName.user($0) }) else { return .failed(.credentials) }
        if !parts[1].isEmpty {
            guard let authorization = Self.value("a", parts[1]) else { return .failed(.malformed) }
            guard let other = Self.name(authorization), other.elementsEqual(user.utf8) else {
                return .failed(.credentials)
            }
        }
        self.user = user
        gs2Header = Array(message[..<parts[2].startIndex])
        clientFirstBare = Array(parts[2])
        clientNonce = Array(nonce)
        return .findKeys
    }

    /// `serverNonce`: printable, without commas.
    mutating func found(_ keys: SCRAMKeys, isNobody: Bool, serverNonce: [UInt8]) -> Step {
        let nonce = clientNonce + serverNonce
        let serverFirst =
            Array("r=".utf8) + nonce + Array(",s=".utf8) + Base64.encode(keys.salt)
            + Array(",i=\(keys.iterations)".utf8)
        final = Final(
            authMessageStart: clientFirstBare + [UInt8(ascii: ",")] + serverFirst, nonce: nonce, keys: keys,
            isNobody: isNobody)
        return .challenge(serverFirst)
    }

    private func final(_ message: [UInt8], _ final: Final, _ context: SASLServerContext) -> Step {
        let functions = context.functions
        let attributes = message.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard attributes.count >= 3, !message.contains(0), let binding = Self.value("c", attributes[0]),
            let nonce = Self.value("r", attributes[1]), let last = attributes.last, let text = Self.value("p", last),
            attributes.dropFirst(2).dropLast().allSatisfy(Self.isExtension),
            let proof = Array(text).withUnsafeBytes({ Base64.decode($0) }), proof.count == 32
        else { return .failed(.malformed) }
        let isBoundRight =
            binding.elementsEqual(Base64.encode(gs2Header + (isBound ? context.channelBinding?.data ?? [] : [])))
        guard isBoundRight, nonce.elementsEqual(final.nonce) else { return .failed(.credentials) }
        let authMessage = final.authMessageStart + [UInt8(ascii: ",")] + message[..<(last.startIndex - 1)]
        let signature = functions.hmacSHA256(final.keys.storedKey, authMessage)
        let clientKey = zip(proof, signature).map { $0 ^ $1 }
        guard functions.areEqual(functions.sha256(clientKey), final.keys.storedKey), !final.isNobody else {
            return .failed(.credentials)
        }
        return .verified(Array("v=".utf8) + Base64.encode(functions.hmacSHA256(final.keys.serverKey, authMessage)))
    }

    /// What stands behind `name=`, at least one byte.
    static func value(_ name: Character, _ attribute: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        guard attribute.count > 2, attribute.first == name.asciiValue, attribute.dropFirst().first == UInt8(ascii: "=")
        else { return nil }
        return attribute.dropFirst(2)
    }

    /// One to be ignored; `m` stands for those that must not be (RFC 5802 §5.1).
    private static func isExtension(_ attribute: ArraySlice<UInt8>) -> Bool {
        guard attribute.count > 2, let name = attribute.first, name != UInt8(ascii: "m"),
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(name | 0x20)
        else { return false }
        return attribute[attribute.startIndex + 1] == UInt8(ascii: "=")
    }

    /// `saslname` with its `=2C` and `=3D` undone; nil if there is another `=`.
    private static func name(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        var name: [UInt8] = []
        var rest = text
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "=") else {
                name.append(byte)
                continue
            }
            if rest.starts(with: "2C".utf8) {
                name.append(UInt8(ascii: ","))
            } else if rest.starts(with: "3D".utf8) {
                name.append(UInt8(ascii: "="))
            } else {
                return nil
            }
            rest = rest.dropFirst(2)
        }
        return name
    }
}
