import Testing

@testable import Protocols

/// An owner of a provider's session, and of the client's session behind the turn, which hands over one message.
final class ODMRServerOwner {
    var session: ODMRServerSession
    /// In use once `isTurned`.
    var client = SMTPClientSession(settings: SMTPClientSettings(helloName: "", tls: .never))
    private(set) var isTurned = false
    var output = ByteOutput()
    var directory = SASLDirectory()
    /// One word for each event, without "need more".
    var events: [String] = []
    /// By user; nil: what he may have can't be looked up. The empty user is nobody known by his address.
    var granted: [String: [String]]? = [
        "altn.test": ["altn.test", "altn2.test"], "tim": ["example.org", "example.com"], "": ["altn.test"],
    ]
    var domainsWithMail: Set = ["altn.test", "example.com"]
    var turnsWithoutMail = false
    var isTooOften = false
    var envelope: SMTPClientEnvelope? = SMTPClientEnvelope(
        reversePath: "Lester.Tester@dot.foo.bar", recipients: [.init(path: "l.eva.msg@example.com")],
        size: ODMRServerOwner.content.count)
    static let content = Array("Subject: x\r\n\r\nx\r\n".utf8)
    var outcomes: [SMTPHandoverOutcome] = []
    var isClosed = false
    var awaitsTLS = false
    private var pending: [UInt8] = []

    static let settings: ODMRServerSettings = {
        var settings = ODMRServerSettings(hostname: "EXAMPLE.NET")
        settings.offersStartTLS = true
        return settings
    }()

    init(_ settings: ODMRServerSettings = settings, isTLS: Bool = false) {
        session = ODMRServerSession(settings: settings, offer: SASLOffer(context: directory.context), isTLS: isTLS)
        session.greet(into: &output)
    }

    var phase: ODMRServerSession.Phase { session.phase }
    var clientPhase: SMTPClientSession.Phase? { isTurned ? client.phase : nil }

    func take() -> String {
        defer { output.removeAll() }
        return String(decoding: output.bytes, as: UTF8.self)
    }

    func send(_ text: String) { send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) {
        if awaitsTLS || isClosed { return }
        pending += bytes
        while !isClosed, !awaitsTLS {
            let input = pending
            var consumed = 0
            if isTurned {
                let event = input.withUnsafeBytes { client.next($0, consumed: &consumed, into: &output) }
                pending.removeFirst(consumed)
                if case .needMore = event, !handOver() { return }
                take(event)
            } else {
                let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
                pending.removeFirst(consumed)
                if event == .needMore { return }
                take(event)
            }
        }
    }

    func startTLS() {
        awaitsTLS = false
        session.tlsStarted()
    }

    private func handOver() -> Bool {
        guard client.canSend else { return false }
        if let envelope {
            self.envelope = nil
            _ = client.send(envelope, into: &output)
        } else {
            client.quit(into: &output)
        }
        return true
    }

    private func take(_ event: ODMRServerSession.Event) {
        switch event {
        case .needMore: break
        case .hello(let name, _): events.append("hello \(name)")
        case .startTLS:
            pending = []
            awaitsTLS = true
        case .ask(let question): session.answer(directory.answer(question), into: &output)
        case .authenticated(let user): events.append("authenticated \(user)")
        case .turn(let user, let domains):
            let granted = self.granted?[user ?? ""]?.compactMap { QualifiedDomain($0) }
            let decision: ATRNDecision =
                isTooOften
                ? .tooOften
                : .decide(requested: domains, granted: granted, turnsWithoutMail: turnsWithoutMail) {
                    domainsWithMail.contains($0.description)
                }
            session.answerTurn(decision, earlyBytes: 0, into: &output)
        case .turned(let domains):
            events.append("turned \(domains.map(\.description).joined(separator: ","))")
            client = SMTPClientSession(settings: session.turnedSettings)
            isTurned = true
        case .quit, .hangUp: isClosed = true
        }
    }

    private func take(_ event: SMTPClientSession.Event) {
        switch event {
        case .needMore, .ready, .recipientAnswered: break
        case .startTLS: events.append("client's STARTTLS")
        case .sendContent(let id, let framing):
            output.append(Self.content)
            if case .dots = framing { DotStuffer.appendTerminator(contentEndsWithCRLF: true, into: &output) }
            client.contentSent(id, into: &output)
        case .answered(let outcome):
            outcomes.append(outcome)
            events.append("answered \(outcome.recipients.map(\.reply.code))")
        case .closed: isClosed = true
        case .failed(let failure):
            events.append("failed \(failure.asReply)")
            isClosed = true
        }
    }
}
