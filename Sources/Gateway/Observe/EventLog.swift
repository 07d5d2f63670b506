import Protocols
import Reactor

/// The mail log of one reactor: an interface for people's scripts, one method per event.
///
/// Each line is `time key=value …`, the id first where there is one, and one line per recipient per attempt. Values with other
/// than printable ASCII, spaces or quotes are quoted and escaped, and cut at 512 bytes. Secrets and content never appear.
///
/// ```text
/// 2026-11-24T14:20:00.123Z id=0Rk… to=<a@b.example> relay=192.0.2.1:25 delay=0.34 dsn=2.0.0 outcome=sent reply="250 ok"
/// ```
final class EventLog {
    private let writer: LogWriter?
    private let level: Configuration.LogLevel
    private let reactor: Reactor
    private let counters: Counters
    private var lines = ByteOutput()
    private static let valueMaxBytes = 512

    /// - Parameter writer: nil: events are dropped (simulation).
    init(writer: LogWriter?, level: Configuration.LogLevel, reactor: Reactor, counters: Counters) {
        (self.writer, self.level, self.reactor, self.counters) = (writer, level, reactor, counters)
    }

    /// Gives the lines of this turn to the writer.
    func flush() {
        guard !lines.isEmpty else { return }
        writer?.write(lines.array)
        lines.removeAll()
    }

    // MARK: Events

    func sessionBegan(_ session: String, client: String, listener: String) {
        guard begin(.info) else { return }
        field("event", "connect")
        field("session", session)
        field("client", client)
        field("listener", listener)
        end()
    }

    func sessionEnded(_ session: String, client: String, how: String, messages: Int) {
        guard begin(.info) else { return }
        field("event", "disconnect")
        field("session", session)
        field("client", client)
        field("messages", number: messages)
        field("how", how)
        end()
    }

    func accepted(
        _ id: String, from: String, recipients: Int, gateways: Int, bytes: Int, client: String, session: String
    ) {
        guard begin(.info) else { return }
        field("id", id)
        field("event", "accepted")
        field("from", path: from)
        field("recipients", number: recipients)
        field("gateways", number: gateways)
        field("bytes", number: bytes)
        field("client", client)
        field("session", session)
        end()
    }

    /// A command or a message that was refused.
    func refused(_ what: String, client: String, session: String, reply: Reply) {
        guard begin(.info) else { return }
        field("event", "refused")
        field("what", what)
        field("client", client)
        field("session", session)
        field("reply", reply.description)
        end()
    }

    /// One recipient, one attempt.
    func attempt(
        _ id: QueueID, to: String, domain: String, relay: String, delayMilliseconds: Int64, outcome: StaticString,
        reply: Reply
    ) {
        guard begin(.info) else { return }
        field("id", id.description)
        field("to", path: to)
        field("gateway", domain)
        field("relay", relay)
        field("delay", milliseconds: delayMilliseconds)
        if let status = reply.status { field("dsn", status.description) }
        field("outcome", outcome.description)
        field("reply", reply.description)
        end()
    }

    /// A customer logged in.
    func loggedIn(_ user: String, gateways: String, client: String, session: String, listener: String) {
        guard begin(.info) else { return }
        field("event", "login")
        field("user", user)
        field("gateway", gateways)
        field("client", client)
        field("listener", listener)
        field("session", session)
        end()
    }

    func loginFailed(_ user: String, client: String, session: String, listener: String) {
        guard begin(.warning) else { return }
        field("event", "login-failed")
        field("user", user)
        field("client", client)
        field("listener", listener)
        field("session", session)
        end()
    }

    /// A customer fetched a message and deleted it: it is his.
    func collected(
        _ id: QueueID, domain: String, listener: String, delayMilliseconds: Int64, client: String, session: String
    ) {
        guard begin(.info) else { return }
        field("id", id.description)
        field("event", "collected")
        field("gateway", domain)
        field("listener", listener)
        field("delay", milliseconds: delayMilliseconds)
        field("client", client)
        field("session", session)
        end()
    }

    /// A notice of ours was queued for the sender.
    func notified(_ id: QueueID, kind: String, notice: QueueID) {
        guard begin(.info) else { return }
        field("id", id.description)
        field("event", "notified")
        field("kind", kind)
        field("notice", notice.description)
        end()
    }

    func removed(_ id: QueueID, domain: String, why: String) {
        guard begin(.info) else { return }
        field("id", id.description)
        field("event", "removed")
        field("gateway", domain)
        field("why", why)
        end()
    }

    func health(_ domain: String, _ state: String, _ detail: String) {
        guard begin(.notice) else { return }
        field("event", "primary")
        field("gateway", domain)
        field("state", state)
        field("detail", detail)
        end()
    }

    /// Look now: mail is delayed or set aside.
    func alarm(_ event: String, gateway: String, id: QueueID? = nil, _ detail: String) {
        counters.alarms.add(1, ordering: .relaxed)
        guard begin(.error) else { return }
        if let id { field("id", id.description) }
        field("event", event)
        if !gateway.isEmpty { field("gateway", gateway) }
        field("detail", detail)
        end()
    }

    func note(_ level: Configuration.LogLevel = .info, _ event: String, _ detail: String) {
        guard begin(level) else { return }
        field("event", event)
        field("detail", detail)
        end()
    }

    // MARK: Lines

    private func begin(_ of: Configuration.LogLevel) -> Bool {
        guard writer != nil, of.severity >= level.severity else { return false }
        MailDate.writeISO8601(unixMilliseconds: reactor.wall / 1_000_000, into: &lines)
        if of.severity > Configuration.LogLevel.info.severity { field("level", of.rawValue) }
        return true
    }

    private func end() { lines.append(UInt8(ascii: "\n")) }

    private func key(_ key: StaticString) {
        lines.append(UInt8(ascii: " "))
        lines.append(key)
        lines.append(UInt8(ascii: "="))
    }

    private func field(_ name: StaticString, number: Int) {
        key(name)
        lines.append(number: number)
    }

    private func field(_ name: StaticString, milliseconds: Int64) {
        key(name)
        lines.append(number: Int(milliseconds / 1000))
        lines.append(UInt8(ascii: "."))
        let hundredths = Int(milliseconds % 1000) / 10
        if hundredths < 10 { lines.append(UInt8(ascii: "0")) }
        lines.append(number: hundredths)
    }

    private func field(_ name: StaticString, path: String) {
        key(name)
        lines.append(UInt8(ascii: "<"))
        value(path, quotes: false)
        lines.append(UInt8(ascii: ">"))
    }

    private func field(_ name: StaticString, _ text: String) {
        key(name)
        value(text, quotes: true)
    }

    private func value(_ text: String, quotes: Bool) {
        let isPlain = text.utf8.allSatisfy {
            $0 > 32 && $0 < 127 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\")
        }
        if isPlain, !text.isEmpty, text.utf8.count <= Self.valueMaxBytes {
            lines.append(text: text)
            return
        }
        if quotes { lines.append(UInt8(ascii: "\"")) }
        for byte in text.utf8.prefix(Self.valueMaxBytes) {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                lines.append(UInt8(ascii: "\\"))
                lines.append(byte)
            case 32 where quotes, 33..<127: lines.append(byte)
            default:
                lines.append("\\x")
                for digit in [byte >> 4, byte & 15] {
                    lines.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
                }
            }
        }
        if text.utf8.count > Self.valueMaxBytes { lines.append("...") }
        if quotes { lines.append(UInt8(ascii: "\"")) }
    }
}

extension Configuration.LogLevel {
    var severity: Int { Self.allCases.firstIndex(of: self)! }
}
