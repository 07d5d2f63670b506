/// The parameters of a `MAIL` command, as far as they outlive it.
public struct MailParameters: Hashable, Sendable {
    /// BODY (RFC 6152 §2). BINARYMIME is not offered.
    public enum Body: Hashable, Sendable { case sevenBit, eightBitMIME }
    /// RET (RFC 3461 §4.3): how much of the message a DSN brings back.
    public enum Return: Hashable, Sendable { case full, headers }

    /// SIZE (RFC 1870 §5), bytes, as declared. Beyond `Int` it is `Int.max`.
    public var size: Int?
    public var body: Body?
    /// SMTPUTF8 (RFC 6531 §3.4): addresses and header fields may be UTF-8.
    public var smtpUTF8 = false
    public var ret: Return?
    /// ENVID (RFC 3461 §4.4), exactly as it came: xtext, at most 100 bytes.
    public var envid: String?

    public init() {}
}

/// When the sender wants a DSN about a recipient (NOTIFY, RFC 3461 §4.1). Empty is NEVER.
public struct NotifyConditions: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let never: NotifyConditions = []
    public static let success = NotifyConditions(rawValue: 1)
    public static let failure = NotifyConditions(rawValue: 2)
    public static let delay = NotifyConditions(rawValue: 4)
}

/// The parameters of a `RCPT` command.
public struct RecipientParameters: Hashable, Sendable {
    /// NOTIFY; nil if absent, which leaves the choice to the server.
    public var notify: NotifyConditions?
    /// ORCPT (RFC 3461 §4.2), exactly as it came: `addr-type;xtext`, at most 500 bytes. With the type `utf-8` the
    /// address is one of the forms of RFC 6533 §3.
    public var orcpt: String?

    public init() {}
}

/// Parameters of MAIL and RCPT.
///
/// ```abnf
/// esmtp-params = *( SP keyword [ "=" value ] )         ; RFC 5321 §4.1.2
/// ```
extension SMTPLineCursor {
    private static let envidMaxBytes = 100
    private static let orcptMaxBytes = 500

    /// Calls `take` for every parameter, with the keyword as `packed` makes it.
    ///
    /// - `take` returns false for an unknown keyword (555 5.5.4, RFC 5321 §4.1.1.11) and throws for a bad value.
    private mutating func forEachParameter(
        _ take: (UInt64, UnsafeRawBufferPointer?) throws(SMTPRefusal) -> Bool
    ) throws(SMTPRefusal) {
        while !isAtEnd {
            guard skip(UInt8(ascii: " ")) else { throw .badParameter }
            skipSpaces()
            if isAtEnd { return }
            let keyword = word(endingAt: UInt8(ascii: "="))
            guard !keyword.isEmpty else { throw .badParameter }
            let value = skip(UInt8(ascii: "=")) ? word() : nil
            guard value?.isEmpty != true else { throw .badParameter }
            guard try take(Self.packed(keyword), value) else {
                throw SMTPRefusal(555, EnhancedStatus(5, 5, 4), "Parameter not recognized")
            }
        }
    }

    mutating func mailParameters() throws(SMTPRefusal) -> MailParameters {
        var parameters = MailParameters()
        try forEachParameter { keyword, value throws(SMTPRefusal) in
            switch Keyword(rawValue: keyword) {
            case .size:
                guard let value, parameters.size == nil, let size = Self.number(value) else { throw .badParameter }
                parameters.size = size
            case .body:
                guard let value, parameters.body == nil else { throw .badParameter }
                if Self.matches(value, "7bit") {
                    parameters.body = .sevenBit
                } else if Self.matches(value, "8bitmime") {
                    parameters.body = .eightBitMIME
                } else if Self.matches(value, "binarymime") {
                    throw SMTPRefusal(555, EnhancedStatus(5, 5, 4), "BINARYMIME is not offered")
                } else {
                    throw .badParameter
                }
            case .smtputf8:
                guard value == nil else { throw .badParameter }
                parameters.smtpUTF8 = true
            case .ret:
                guard let value, parameters.ret == nil else { throw .badParameter }
                if Self.matches(value, "full") {
                    parameters.ret = .full
                } else if Self.matches(value, "hdrs") {
                    parameters.ret = .headers
                } else {
                    throw .badParameter
                }
            case .envid:
                guard let value, parameters.envid == nil, value.count <= Self.envidMaxBytes,
                    let envid = Self.xtext(value)
                else { throw .badParameter }
                parameters.envid = envid
            default: return false
            }
            return true
        }
        return parameters
    }

    mutating func recipientParameters(smtpUTF8: Bool) throws(SMTPRefusal) -> RecipientParameters {
        var parameters = RecipientParameters()
        try forEachParameter { keyword, value throws(SMTPRefusal) in
            switch Keyword(rawValue: keyword) {
            case .notify:
                guard let value, parameters.notify == nil, let notify = Self.notify(value) else { throw .badParameter }
                parameters.notify = notify
            case .orcpt:
                guard let value, parameters.orcpt == nil, value.count <= Self.orcptMaxBytes,
                    let orcpt = Self.originalRecipient(value, smtpUTF8: smtpUTF8)
                else { throw .badParameter }
                parameters.orcpt = orcpt
            default: return false
            }
            return true
        }
        return parameters
    }

    /// Raw values as those of `SMTPVerb`.
    private enum Keyword: UInt64 {
        case size = 0x657a_6973
        case body = 0x7964_6f62
        case smtputf8 = 0x3866_7475_7074_6d73
        case ret = 0x74_6572
        case envid = 0x64_6976_6e65
        case notify = 0x7966_6974_6f6e
        case orcpt = 0x74_7063_726f
    }

    private static func notify(_ value: UnsafeRawBufferPointer) -> NotifyConditions? {
        var cursor = SMTPLineCursor(value)
        var conditions: NotifyConditions = []
        if matches(value, "never") { return .never }
        repeat {
            let word = cursor.word(endingAt: UInt8(ascii: ","))
            if matches(word, "success") {
                conditions.insert(.success)
            } else if matches(word, "failure") {
                conditions.insert(.failure)
            } else if matches(word, "delay") {
                conditions.insert(.delay)
            } else {
                return nil
            }
        } while cursor.skip(UInt8(ascii: ","))
        return cursor.isAtEnd ? conditions : nil
    }

    static func matches(_ word: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
        var cursor = SMTPLineCursor(word)
        return cursor.skip(anyCase: text) && cursor.isAtEnd
    }

    private static func xtext(_ value: UnsafeRawBufferPointer) -> String? {
        guard let text = String(validating: value, as: UTF8.self), XText.decode(text) != nil else { return nil }
        return text
    }

    /// `addr-type ";" address`. Only SMTPUTF8 lets it leave ASCII.
    private static func originalRecipient(_ value: UnsafeRawBufferPointer, smtpUTF8: Bool) -> String? {
        guard let semicolon = value.firstIndex(of: UInt8(ascii: ";")), semicolon > 0, semicolon + 1 < value.count,
            smtpUTF8 || value.allSatisfy({ $0 < 128 })
        else { return nil }
        let type = UnsafeRawBufferPointer(rebasing: value[..<semicolon])
        let address = UnsafeRawBufferPointer(rebasing: value[(semicolon + 1)...])
        guard type.allSatisfy(AddressParser.isAtomText), let text = String(validating: address, as: UTF8.self)
        else { return nil }
        let isValid = matches(type, "utf-8") ? UTF8AddressText.decode(text) != nil : XText.decode(text) != nil
        return isValid ? String(decoding: value, as: UTF8.self) : nil
    }
}

extension SMTPRefusal {
    static var badParameter: SMTPRefusal { SMTPRefusal(501, EnhancedStatus(5, 5, 4), "Malformed parameter") }
}
