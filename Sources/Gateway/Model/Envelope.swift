import Protocols

/// What travels around a message and is kept exactly (RFC 5321 §2.3.1, RFC 3461, RFC 6531), for one gateway's recipients.
///
/// All texts were validated by the SMTP machine: no CR, LF or NUL.
struct Envelope: Sendable, Equatable {
    struct Recipient: Sendable, Equatable {
        /// Without angle brackets.
        var path: String
        /// `SUCCESS,FAILURE,DELAY` or `NEVER`; nil: not given (RFC 3461 §4.1).
        var notify: String?
        /// `rfc822;…` in xtext, exactly as given (RFC 3461 §4.2).
        var orcpt: String?
    }
    /// Without angle brackets; empty: the null reverse-path.
    var reversePath: String
    var is8Bit = false
    var needsSMTPUTF8 = false
    /// `FULL` or `HDRS`.
    var ret: String?
    var envid: String?
    var recipients: [Recipient]
    var client = Client()

    /// Who brought it.
    struct Client: Sendable, Equatable {
        /// Textual address, empty for our own notices.
        var address = ""
        var helo = ""
        /// `TLSv1.3` or empty.
        var tls = ""
    }
}

extension NotifyConditions {
    /// As behind `NOTIFY=` (RFC 3461 §4.1).
    var text: String {
        if isEmpty { return "NEVER" }
        let names: [(NotifyConditions, String)] = [(.success, "SUCCESS"), (.failure, "FAILURE"), (.delay, "DELAY")]
        return names.filter { contains($0.0) }.map(\.1).joined(separator: ",")
    }

    init(text: String) {
        self = []
        for word in text.split(separator: ",") {
            switch word {
            case "SUCCESS": insert(.success)
            case "FAILURE": insert(.failure)
            case "DELAY": insert(.delay)
            default: break
            }
        }
    }
}

extension Envelope.Recipient {
    /// nil: NOTIFY was not given.
    var notifyConditions: NotifyConditions? { notify.map { NotifyConditions(text: $0) } }

    /// Behind the last `@`; nil for the bare Postmaster.
    var domain: String? {
        guard let at = path.lastIndex(of: "@") else { return nil }
        return path[path.index(after: at)...].lowercased()
    }
}
