import Testing

@testable import Protocols

/// An owner of a session that notes what happens and answers by simple rules.
final class SMTPServerOwner {
    var session: SMTPServerSession
    var output = ByteOutput()
    /// One word per event, without content and "need more".
    var events: [String] = []
    /// The raw content of the message under way or last finished.
    var content: [UInt8] = []
    /// Raw content, lines beginning with a dot and whether it ended in CRLF, of each finished message.
    var messages: [(content: [UInt8], dots: Int, endsWithCRLF: Bool)] = []
    var isClosed = false
    var recipientReply: (MailAddress) -> Reply?
    var mailReply: Reply?
    var contentReply: Reply?
    var finalReply = Reply(250, EnhancedStatus(2, 0, 0), "queued")
    var etrnReply: (ETRNRequest) -> ETRNReply = { .nothingWaits($0) }
    private let directory = SASLDirectory()
    private var pending: [UInt8] = []

    init(
        _ settings: SMTPServerSettings, isTLS: Bool = false, offersAUTH: Bool = false,
        recipientReply: @escaping (MailAddress) -> Reply? = { address in
            address.localPart.hasPrefix("no") ? Reply(550, EnhancedStatus(5, 1, 1), "no such user") : nil
        }
    ) {
        session = SMTPServerSession(
            settings: settings, isTLS: isTLS, offer: offersAUTH ? SASLOffer(context: directory.context) : nil)
        self.recipientReply = recipientReply
        session.greet(into: &output)
    }

    var isInTransaction: Bool { session.isInTransaction }
    var shouldDelayReplies: Bool { session.shouldDelayReplies }
    var replies: String { String(decoding: output.bytes, as: UTF8.self) }

    /// The codes of the replies since the last call, the last line of each.
    func codes() -> [String] {
        defer { output.removeAll() }
        return replies.split(separator: "\r\n").filter { $0.dropFirst(3).first == " " }.map { String($0.prefix(3)) }
    }

    func send(_ text: String) { send([UInt8](text.utf8)) }

    func send(_ bytes: [UInt8]) {
        pending += bytes
        while !isClosed {
            let input = pending
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            if case .content(let range) = event { content += input[range] }
            pending.removeFirst(consumed)
            if case .needMore = event {
                // Within content nothing is left over; of a command, less than a line.
                if session.phase == .content, session.isInContent { #expect(pending.isEmpty) }
                #expect(pending.count < max(session.settings.lineMaxBytes, SASLLimits.lineMaxBytes))
                return
            }
            take(event)
        }
    }

    private func take(_ event: SMTPServerSession.Event) {
        switch event {
        case .needMore, .outputFull, .content: break
        case .hello(let name, let extended): events.append("\(extended ? "ehlo" : "helo"):\(name)")
        case .mail(let path, _):
            events.append("mail:\(path)")
            if let mailReply { session.refuseMail(mailReply, into: &output) } else { session.acceptMail(into: &output) }
        case .recipient(let address, _):
            events.append("rcpt:\(address)")
            if let reply = recipientReply(address) {
                session.refuseRecipient(reply, into: &output)
            } else {
                session.acceptRecipient(into: &output)
            }
        case .data, .chunk:
            if !session.hasContent { content = [] }
            events.append("content")
            if let contentReply {
                session.refuseContent(contentReply, into: &output)
            } else {
                session.startContent(into: &output)
            }
        case .endOfContent:
            events.append("end")
            #expect(content.count == session.contentBytes)
            messages.append((content, session.linesBeginningWithDot, session.contentEndsWithCRLF))
            session.finishContent(finalReply, into: &output)
        case .contentFault(let reply): events.append("fault:\(reply.code)")
        case .contentRefused: events.append("refused")
        case .startTLS:
            events.append("tls")
            session.tlsStarted()
        case .xclient(let attributes):
            events.append("xclient:" + attributes.map { "\($0.name)=\($0.value ?? "-")" }.joined(separator: ","))
            session.acceptXClient(into: &output)
        case .ask(let question): session.answer(directory.answer(question), into: &output)
        case .authenticated(let user): events.append("authenticated:\(user)")
        case .etrn(let request, let user):
            events.append("etrn:\(request) of \(user ?? "nobody")")
            session.answerETRN(etrnReply(request), into: &output)
        case .reset: events.append("reset")
        case .quit, .hangUp:
            events.append(event == .quit ? "quit" : "hangUp")
            isClosed = true
        }
    }
}

extension SMTPServerOwner {
    static let settings: SMTPServerSettings = {
        var settings = SMTPServerSettings(hostname: "mx.example")
        settings.offersStartTLS = true
        return settings
    }()

    static let envelope = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"

    /// A session in which EHLO was said and, with `in`, the commands that follow; the replies are taken off.
    static func started(_ settings: SMTPServerSettings = settings, in commands: String = "") -> SMTPServerOwner {
        let owner = SMTPServerOwner(settings)
        owner.send("EHLO client.example\r\n" + commands)
        owner.output.removeAll()
        owner.events = []
        return owner
    }
}

extension SMTPServerSession {
    fileprivate var hasContent: Bool { chunkCount > 1 }

    fileprivate var isInContent: Bool {
        switch state {
        case .data, .chunk, .discardingData, .discardingChunk: true
        default: false
        }
    }
}

/// A small generator, the same in every run (xorshift).
struct DialogueNoise {
    var state: UInt64

    mutating func below(_ bound: Int) -> Int {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return Int(state % UInt64(bound))
    }
}
