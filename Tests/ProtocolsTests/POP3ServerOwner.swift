import Testing

@testable import Protocols

/// A message of a maildrop, as a store keeps it.
struct POP3Stored {
    var id: String
    var content: [UInt8]
    var prefix = MailboxPrefix(reversePath: "a@b.example", recipients: ["c@altn.test"])

    init(_ id: String, _ content: String) { (self.id, self.content) = (id, Array(content.utf8)) }

    var endsWithCRLF: Bool { content.suffix(2) == [13, 10] }
    var dots: Int { content.split(separator: 10, omittingEmptySubsequences: false).count { $0.first == 46 } }
    var size: Int { prefix.presentedSize(contentSize: content.count, contentEndsWithCRLF: endsWithCRLF) }

    var presented: [UInt8] {
        var output = ByteOutput()
        prefix.write(into: &output)
        return output.array + content + (endsWithCRLF ? [] : [13, 10])
    }
}

/// An owner of a session that notes what happens and answers by simple rules.
final class POP3ServerOwner {
    var session: POP3ServerSession
    var output = ByteOutput()
    var directory = SASLDirectory()
    /// One word for each event, without "need more".
    var events: [String] = []
    var messages: [POP3Stored]
    /// Ids of what was settled by an update.
    var removed: [String] = []
    /// By event's first word: answered so.
    var refusals: [String: POP3Refusal] = [:]
    var failedSettles = 0
    var isReadOnly = false
    var isClosed = false
    /// Behind STLS, until the handshake: what comes is dropped.
    var awaitsTLS = false
    /// Bytes in which TOP's content is shown.
    var chunkBytes = 7
    private var pending: [UInt8] = []

    static let timestamp = "<1896.697170952@dbc.mtview.ca.us>"
    static let maildrop = [
        POP3Stored("3fG7x2", "Subject: one\r\n\r\nBody of the first, one line of it.\r\n\r\n.."),
        POP3Stored(
            "3fG7x9",
            "Subject: two\r\nX-Long: " + String(repeating: "x", count: 50)
                + "\r\n\r\nfirst\r\n.second\r\n..third\r\n.\r\nlast"),
    ]
    static let settings: POP3ServerSettings = {
        var settings = POP3ServerSettings()
        settings.offersStartTLS = true
        return settings
    }()

    init(
        _ settings: POP3ServerSettings = settings, isTLS: Bool = false, timestamp: String? = timestamp,
        messages: [POP3Stored] = maildrop
    ) {
        self.messages = messages
        session = POP3ServerSession(settings: settings, offer: SASLOffer(context: directory.context), isTLS: isTLS)
        session.greet(timestamp: timestamp, into: &output)
    }

    var shouldDelayReplies: Bool { session.shouldDelayReplies }
    var failedLoginCount: Int { session.failedLoginCount }
    var replies: String { String(decoding: output.bytes, as: UTF8.self) }

    /// What was said since the last call.
    func take() -> String {
        defer { output.removeAll() }
        return replies
    }

    func send(_ text: String) { send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) {
        if awaitsTLS || isClosed { return }
        pending += bytes
        while !isClosed, !awaitsTLS {
            let input = pending
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            pending.removeFirst(consumed)
            if event == .needMore {
                #expect(pending.count < SASLLimits.lineMaxBytes)
                return
            }
            take(event)
        }
    }

    func startTLS() {
        awaitsTLS = false
        session.tlsStarted()
    }

    private func take(_ event: POP3ServerSession.Event) {
        if event != .outputFull { events.append(event.name) }
        if let refusal = refusals[event.name] { return session.refuse(refusal, into: &output) }
        switch event {
        case .needMore, .outputFull: break
        case .ask(let question): session.answer(directory.answer(question), into: &output)
        case .login: session.open(POP3Maildrop(sizes: messages.map(\.size), isReadOnly: isReadOnly), into: &output)
        case .startTLS:
            pending = []
            awaitsTLS = true
        case .uniqueID(let message): session.giveUniqueID(messages[message - 1].id.utf8, into: &output)
        case .retrieve(let message):
            let stored = messages[message - 1]
            let framing = session.startRetrieval(linesBeginningWithDot: stored.dots, into: &output)
            stored.prefix.write(into: &output)
            if framing == .dots(isStuffed: true) {
                var stuffer = DotStuffer()
                stored.content.withUnsafeBytes { stuffer.append($0, into: &output) }
                stuffer.finish(into: &output)
            } else {
                output.append(stored.content)
                DotStuffer.appendTerminator(contentEndsWithCRLF: stored.endsWithCRLF, into: &output)
            }
            session.contentSent()
        case .top(let message):
            session.startTop(into: &output)
            var rest = messages[message - 1].presented[...]
            while !rest.isEmpty {
                let chunk = Array(rest.prefix(chunkBytes))
                rest = rest.dropFirst(chunkBytes)
                guard chunk.withUnsafeBytes({ session.topContent($0, into: &output) }) else { break }
            }
            session.finishTop(into: &output)
        case .delete: session.acceptDelete(into: &output)
        case .update:
            session.maildrop?.forEachDeleted { removed.append(messages[$0 - 1].id) }
            session.finishUpdate(failed: failedSettles, into: &output)
        case .quit, .hangUp: isClosed = true
        }
    }

    /// One that is logged in, its replies taken off.
    static func loggedIn(
        _ settings: POP3ServerSettings = settings, messages: [POP3Stored] = maildrop, isReadOnly: Bool = false
    ) -> POP3ServerOwner {
        let owner = POP3ServerOwner(settings, isTLS: true, messages: messages)
        owner.isReadOnly = isReadOnly
        owner.send("USER altn.test\r\nPASS s3cret word\r\n")
        owner.output.removeAll()
        owner.events = []
        return owner
    }
}

extension POP3ServerSession.Event {
    /// The case's.
    var name: String {
        switch self {
        case .needMore: "needMore"
        case .outputFull: "outputFull"
        case .ask: "ask"
        case .login: "login"
        case .startTLS: "startTLS"
        case .uniqueID: "uniqueID"
        case .retrieve: "retrieve"
        case .top: "top"
        case .delete: "delete"
        case .update: "update"
        case .quit: "quit"
        case .hangUp: "hangUp"
        }
    }
}
