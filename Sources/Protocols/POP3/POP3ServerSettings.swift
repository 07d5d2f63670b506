/// What a POP3 listener offers, and the limits of each of its sessions.
public struct POP3ServerSettings: Sendable {
    /// Follows `+OK` in the greeting. Without a version: whom it concerns knows it.
    public var greetingText = "Postern POP3 ready"
    /// STLS is offered (RFC 2595 §4), while there is no TLS.
    public var offersStartTLS = false
    /// USER and PASS are offered, where the offer lets passwords be shown.
    public var offersUser = true
    /// Announced as EXPIRE (RFC 2449 §6.7): the shortest of all maildrops'. Nil: nothing is said.
    public var retention: POP3Retention?
    /// Announced as LOGIN-DELAY (RFC 2449 §6.5), the longest of all users'. It is the owner who keeps it, by
    /// `POP3Refusal.loginDelay`. Nil: there is none.
    public var loginDelaySeconds: Int?

    /// A command line with its CRLF. RFC 2449 §4 allows 255; a first response of SCRAM with a long name is longer.
    public var lineMaxBytes = 512
    /// Commands before login; one more ends the session.
    public var commandsBeforeLoginMax = 50
    /// Attempts to log in that failed, at which the session ends.
    public var failedLoginsMax = 3
    /// Commands that were malformed, out of order or for no message, at which the session ends.
    public var errorsMax = 50
    /// Bytes of unsent replies at which commands and lists wait: a peer that only asks and never reads costs no more.
    public var outputPauseBytes = 64 << 10

    public init() {}
}

/// A `-ERR` of the owner's.
public struct POP3Refusal: Hashable, Sendable, Error {
    /// What a client may tell apart (RFC 2449 §8, RFC 3206 §4).
    public enum Code: String, Sendable, CaseIterable {
        /// Somebody else holds the maildrop; the credentials were right.
        case inUse = "IN-USE"
        case loginDelay = "LOGIN-DELAY"
        case temporary = "SYS/TEMP"
        case permanent = "SYS/PERM"
        case credentials = "AUTH"
    }

    public let code: Code?
    /// Printable ASCII that does not begin with `[`; at most 200 bytes, so that a reply is within 512 (RFC 1939 §3).
    public let text: String

    public init(_ code: Code?, _ text: String) {
        precondition(text.utf8.count <= 200 && text.first != "[" && text.utf8.allSatisfy { $0 >= 32 && $0 < 127 })
        (self.code, self.text) = (code, text)
    }

    public static var inUse: POP3Refusal { POP3Refusal(.inUse, "The maildrop is open in another session") }
    public static var loginDelay: POP3Refusal { POP3Refusal(.loginDelay, "Wait before you log in again") }
    /// A message that is being handed over another way just now.
    public static var messageInUse: POP3Refusal { POP3Refusal(.temporary, "The message is being delivered, try later") }
    public static var unreadable: POP3Refusal { POP3Refusal(.temporary, "The message can't be read now, try later") }
    /// It was delivered or deleted elsewhere since login.
    public static var gone: POP3Refusal { POP3Refusal(nil, "The message is gone") }
    public static var tooManySessions: POP3Refusal { POP3Refusal(.temporary, "Too many sessions, try later") }

    func write(into output: inout ByteOutput) {
        output.append("-ERR ")
        if let code { output.append(text: "[\(code.rawValue)] ") }
        output.append(text: text)
        output.append("\r\n")
    }
}
