/// One transaction under way: which commands are sent, which are answered, and what each recipient got.
///
/// Commands and answers are positions in one row, as answers come in the order of commands (RFC 2920 §3.1):
///
/// ```text
/// [RSET] MAIL RCPT … RCPT [DATA] content
///              answered ▲      ▲ sent
/// ```
struct SMTPHandover {
    enum Content { case notYet, due, underWay, sent }

    let id: SMTPHandoverID
    let envelope: SMTPClientEnvelope
    /// Recipients that are offered: the first of the envelope.
    let recipientCount: Int
    let framing: SMTPContentFraming
    /// The content follows its envelope at once.
    let isEager: Bool
    /// An earlier transaction may be open at the peer.
    let beginsWithReset: Bool

    var sent = 0
    var answered = 0
    var content = Content.notYet
    private(set) var acceptedCount = 0
    private(set) var isMailRefused = false
    /// The transaction may be open at the peer, when the last command so far is answered.
    private(set) var isLeftOpen = false
    /// By recipient; nil while undecided.
    private(set) var results: [SMTPHandoverOutcome.Recipient?]

    init(
        id: SMTPHandoverID, envelope: SMTPClientEnvelope, recipientCount: Int, framing: SMTPContentFraming,
        isEager: Bool, beginsWithReset: Bool
    ) {
        self.id = id
        self.envelope = envelope
        self.recipientCount = recipientCount
        self.framing = framing
        self.isEager = isEager
        self.beginsWithReset = beginsWithReset
        results = Array(repeating: nil, count: envelope.recipients.count)
        if recipientCount < results.count {
            // RFC 9422: the peer said that it would not take them.
            let reply = Reply(452, EnhancedStatus(4, 5, 3), "more recipients than the peer takes at once")
            for index in recipientCount..<results.count {
                results[index] = .init(reply: reply, phase: .recipient, isFromPeer: false)
            }
        }
    }

    enum Step: Equatable {
        case reset, mail
        case recipient(Int)
        case data, content
    }

    var usesChunk: Bool {
        if case .chunk = framing { true } else { false }
    }

    func step(_ position: Int) -> Step {
        var at = position
        if beginsWithReset {
            if at == 0 { return .reset }
            at -= 1
        }
        if at == 0 { return .mail }
        if at <= recipientCount { return .recipient(at - 1) }
        return at == recipientCount + 1 && !usesChunk ? .data : .content
    }

    var isEverythingAnswered: Bool { answered == sent }

    /// Nobody is left for the content. Only meaningful once all recipients offered so far are answered.
    var isHopeless: Bool { isMailRefused || acceptedCount == 0 }

    var phase: SMTPClientSession.Phase {
        if content == .due || content == .underWay { return .content }
        switch step(answered) {
        case .reset: return .reset
        case .mail: return .mail
        case .recipient: return .recipient
        case .data: return .data
        case .content: return .endOfContent
        }
    }

    mutating func mailAnswered(_ reply: Reply) {
        isLeftOpen = reply.isPositive
        isMailRefused = !reply.isPositive
        if isMailRefused { decide(reply, in: .mail, isFromPeer: true) }
    }

    mutating func contentAnswered(accepted: Bool) {
        // RFC 5321 §4.1.1.4: the dot ends the transaction either way. RFC 3030 §2: a failed BDAT may not.
        isLeftOpen = usesChunk && !accepted
    }

    mutating func recipientAnswered(_ index: Int, _ reply: Reply) {
        if reply.isPositive {
            acceptedCount += 1
        } else {
            results[index] = .init(reply: reply, phase: .recipient, isFromPeer: true)
        }
    }

    /// Decides all that are undecided.
    mutating func decide(_ reply: Reply, in phase: SMTPClientSession.Phase, isFromPeer: Bool) {
        let result = SMTPHandoverOutcome.Recipient(reply: reply, phase: phase, isFromPeer: isFromPeer)
        for index in results.indices where results[index] == nil { results[index] = result }
    }

    /// All of the content is sent, somebody may have got it, and nothing is known of it.
    var isFateUnknown: Bool { content == .sent && results.contains { $0 == nil } }

    /// Everything must be decided.
    func outcome(isDSNPassedOn: Bool, isPossibleDuplicate: Bool) -> SMTPHandoverOutcome {
        SMTPHandoverOutcome(
            id: id, recipients: results.map { $0! }, isDSNPassedOn: isDSNPassedOn,
            isPossibleDuplicate: isPossibleDuplicate)
    }
}

// MARK: - Commands

extension SMTPHandover {
    /// Appends the commands that may go out now.
    mutating func write(
        offers: borrowing SMTPPeerCapabilities, isPipelining: Bool, into output: inout ByteOutput
    ) {
        while isNextDue(isPipelining: isPipelining) { writeNext(offers: offers, into: &output) }
    }

    private func isNextDue(isPipelining: Bool) -> Bool {
        guard isPipelining || isEverythingAnswered else { return false }
        switch step(sent) {
        case .reset, .mail: return true
        case .recipient: return !isMailRefused
        case .data: return isPipelining || !isHopeless
        case .content:
            guard content == .notYet, usesChunk else { return false }
            return isEager || isEverythingAnswered && !isHopeless
        }
    }

    /// Appends the command at `sent`.
    private mutating func writeNext(offers: borrowing SMTPPeerCapabilities, into output: inout ByteOutput) {
        switch step(sent) {
        case .reset: output.append("RSET\r\n")
        case .mail: writeMail(offers: offers, into: &output)
        case .recipient(let index): writeRecipient(envelope.recipients[index], offers: offers, into: &output)
        case .data: output.append("DATA\r\n")
        case .content:
            if case .chunk(let size) = framing {
                output.append("BDAT ")
                output.append(number: size)
                output.append(" LAST\r\n")
            }
            content = .due
        }
        sent += 1
    }

    private func writeMail(offers: borrowing SMTPPeerCapabilities, into output: inout ByteOutput) {
        output.append("MAIL FROM:<")
        output.append(text: envelope.reversePath)
        output.append(">")
        if offers.sizeMax != nil {
            output.append(" SIZE=")
            output.append(number: envelope.size)
        }
        if envelope.is8Bit, offers.eightBitMIME { output.append(" BODY=8BITMIME") }
        if envelope.needsSMTPUTF8 { output.append(" SMTPUTF8") }
        if offers.dsn {
            Self.write(" RET=", envelope.ret, into: &output)
            Self.write(" ENVID=", envelope.envid, into: &output)
        }
        output.append("\r\n")
    }

    private func writeRecipient(
        _ recipient: SMTPClientEnvelope.Recipient, offers: borrowing SMTPPeerCapabilities, into output: inout ByteOutput
    ) {
        output.append("RCPT TO:<")
        output.append(text: recipient.path)
        output.append(">")
        if offers.dsn {
            Self.write(" NOTIFY=", recipient.notify, into: &output)
            Self.write(" ORCPT=", recipient.orcpt, into: &output)
        }
        output.append("\r\n")
    }

    private static func write(_ parameter: StaticString, _ value: String?, into output: inout ByteOutput) {
        guard let value else { return }
        output.append(parameter)
        output.append(text: value)
    }
}
