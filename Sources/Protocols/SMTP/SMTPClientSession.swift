/// The client's side of one SMTP conversation (RFC 5321), without the socket: it hands queued messages to a peer.
///
/// ```text
/// greeting ─220▶ hello ─250▶ [startTLS ─220▶ tlsHandshake ─tlsStarted▶ hello ─250▶] open ─quit▶ over
/// ```
///
/// While `open`, up to two hand-overs are under way: one whose content is sent and waits for its reply, and the next,
/// whose commands go out at once where the peer offers PIPELINING (RFC 2920); one command at a time where it does not.
///
/// ```text
/// DATA:  MAIL RCPT… DATA ·354· content . MAIL RCPT… DATA ·250 … 354· content . …
/// BDAT:  MAIL RCPT… ·250…· BDAT content RSET MAIL RCPT… ·250 250 …· BDAT content …
/// eager: MAIL RCPT… BDAT content RSET MAIL RCPT… BDAT content ·250…· …
/// ```
///
/// The RSET is there because a failed BDAT may leave its transaction open (RFC 3030 §2), and a recipient of the next
/// message would join it.
///
/// - The owner calls `next` until `.needMore` whenever input has come, and after each call of `send`, `tlsStarted` and
///   `contentSent`. Whenever `next` has returned `.needMore`, `canSend` says whether it may hand over one more.
/// - Content with 8-bit bytes goes as it is to a peer without 8BITMIME: what has passed the sender's own server
///   unencoded is delivered rather than refused or rewritten.
/// - For the client's role after ATRN (RFC 2645 §5.3) the session is the same: it begins with the peer's greeting.
/// - Errors: the peer's end as `.failed`; an owner out of order traps.
public struct SMTPClientSession: ~Copyable {
    /// Bounds of ours, whatever the peer would take.
    public enum Limits {
        /// Recipients offered in one transaction; all servers take 100 (RFC 5321 §4.5.3.1.8), most take this.
        public static let recipientsMax = 1000
    }

    enum Stage {
        case greeting
        case hello(isExtended: Bool)
        case startTLS
        case tlsHandshake
        case open
        case over(Phase)
    }

    let settings: SMTPClientSettings
    var stage = Stage.greeting
    var parser = SMTPReplyParser()
    /// Of the last answer to EHLO; empty before, and anew with TLS.
    public internal(set) var capabilities = SMTPPeerCapabilities()
    /// TLS is up: the peer's certificate is the owner's business.
    public internal(set) var isTLSActive: Bool

    /// The older hand-over; only it can be answered.
    var front: SMTPHandover?
    var back: SMTPHandover?
    /// The last transaction that ended may still be open at the peer.
    var isTransactionLeftOpen = false
    var transactionCount = 0
    private var handoverCount = 0

    /// A NOOP was sent, and its reply has not come.
    public internal(set) var awaitsNoop = false

    enum Quit { case notYet, wanted, sent }

    var quit = Quit.notYet

    /// Found, but not told yet: at most two outcomes, then the session's end.
    var untoldOutcomes: [SMTPHandoverOutcome] = []
    var untoldEnd: Event?

    /// Over a new connection, before its first byte (TLS is already up if `isImplicitTLS`).
    public init(settings: SMTPClientSettings) {
        self.settings = settings
        isTLSActive = settings.isImplicitTLS
    }

    /// Consumes from `input`, beginning at `consumed`, and returns what happened first.
    ///
    /// Call it again with what `consumed` leaves, until `.needMore`. After `.closed` and `.failed`, input is dropped.
    public mutating func next(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event {
        while true {
            if let event = untold() { return event }
            switch stage {
            case .tlsHandshake, .over:
                consumed = input.count
                return .needMore
            case .greeting, .hello, .startTLS, .open: break
            }
            switch parser.next(input, consumed: &consumed) {
            case .needMore:
                return .needMore
            case .fault(let fault):
                fail(.malformedReply(fault))
            case .line(let code, let text, let isFirst, let isLast):
                if case .hello(isExtended: true) = stage, code == 250, !isFirst {
                    capabilities.note(UnsafeRawBufferPointer(rebasing: input[text]))
                }
                guard isLast else { continue }
                if let event = received(parser.reply(input, lastText: text), into: &output) {
                    // T-B1: answers injected in the clear behind the 220 must not count inside TLS (CVE-2011-0411).
                    if case .startTLS = event { consumed = input.count }
                    return event
                }
            }
        }
    }

    private mutating func untold() -> Event? {
        if !untoldOutcomes.isEmpty { return .answered(untoldOutcomes.removeFirst()) }
        if let end = untoldEnd {
            untoldEnd = nil
            return end
        }
        if front?.content == .due {
            front!.content = .underWay
            return .sendContent(front!.id, front!.framing)
        }
        if back?.content == .due {
            back!.content = .underWay
            return .sendContent(back!.id, back!.framing)
        }
        return nil
    }

    // MARK: What the owner tells

    /// TLS is up after `.startTLS`: the conversation begins anew, and all that was said before is forgotten
    /// (RFC 3207 §4.2).
    public mutating func tlsStarted(into output: inout ByteOutput) {
        guard case .tlsHandshake = stage else { preconditionFailure("TLS that was not asked for") }
        isTLSActive = true
        parser = SMTPReplyParser()
        writeHello(isExtended: true, into: &output)
    }

    /// One more hand-over may begin now.
    public var canSend: Bool {
        guard case .open = stage, quit == .notYet, untoldOutcomes.isEmpty, untoldEnd == nil, back == nil, !isUsedUp,
            !awaitsNoop
        else {
            return false
        }
        return front == nil || isPipelining && front?.content == .sent
    }

    /// The peer takes no further transaction in this session (RFC 9422 MAILMAX): `quit`.
    public var isUsedUp: Bool { transactionCount >= capabilities.transactionsMax ?? .max }

    /// Begins a hand-over: `canSend` must be true.
    ///
    /// What the peer cannot take by its own words (size, SMTPUTF8) is answered without a word to it; so are the
    /// recipients past its limit.
    public mutating func send(_ envelope: SMTPClientEnvelope, into output: inout ByteOutput) -> SMTPHandoverID {
        precondition(canSend && !envelope.recipients.isEmpty && envelope.size >= 0)
        handoverCount += 1
        let id = SMTPHandoverID(number: handoverCount)
        if let refusal = refusal(of: envelope) {
            let result = SMTPHandoverOutcome.Recipient(reply: refusal, phase: .mail, isFromPeer: false)
            untoldOutcomes.append(
                SMTPHandoverOutcome(
                    id: id, recipients: envelope.recipients.map { _ in result }, isDSNPassedOn: false,
                    isPossibleDuplicate: false))
            return id
        }
        let usesChunk = capabilities.chunking && settings.usesChunking
        let dots = SMTPContentFraming.dots(isStuffed: envelope.linesBeginningWithDot > 0)
        let recipientsMax = min(Limits.recipientsMax, capabilities.recipientsMax ?? Limits.recipientsMax)
        var handover = SMTPHandover(
            id: id, envelope: envelope, recipientCount: min(envelope.recipients.count, recipientsMax),
            framing: usesChunk ? .chunk(size: envelope.size) : dots,
            isEager: usesChunk && isPipelining && envelope.size <= settings.eagerContentMaxBytes,
            beginsWithReset: front.map { $0.usesChunk } ?? isTransactionLeftOpen)
        transactionCount += 1
        handover.write(offers: capabilities, isPipelining: isPipelining, into: &output)
        if front == nil { front = handover } else { back = handover }
        return id
    }

    /// The content of `id` is complete in the output, or on its way.
    public mutating func contentSent(_ id: SMTPHandoverID, into output: inout ByteOutput) {
        if front?.id == id {
            precondition(front!.content == .underWay)
            front!.content = .sent
        } else if back?.id == id {
            precondition(back!.content == .underWay)
            back!.content = .sent
        }
        // Neither: the session ended meanwhile.
        writeQuitIfWanted(into: &output)
    }

    /// Asks whether the peer is still there. Only while `phase` is `.idle`; until the reply nothing is handed over.
    public mutating func noop(into output: inout ByteOutput) {
        precondition(phase == .idle && !awaitsNoop && quit == .notYet)
        awaitsNoop = true
        output.append("NOOP\r\n")
    }

    /// Ends the session as soon as nothing is left to send for the hand-overs under way; their replies still come.
    public mutating func quit(into output: inout ByteOutput) {
        if quit == .notYet { quit = .wanted }
        writeQuitIfWanted(into: &output)
    }

    /// The peer closed, or the connection broke: told after the last input, as the decisive reply may be in it. Call
    /// `next` for the outcomes and the end.
    public mutating func connectionLost() { lost(.connectionLost) }

    /// Nothing moved for the phase's time. Call `next` for the outcomes and the end.
    public mutating func timedOut() { lost(.timedOut) }

    private mutating func lost(_ reason: SMTPClientFailure.Reason) {
        guard case .open = stage, quit == .sent, front == nil else { return fail(reason) }
        untoldEnd = .closed(nil)
        stage = .over(.quit)
    }

    // MARK: What the owner may ask

    /// What the session is waiting for, with its timeout; after the end: what it was waiting for then.
    public var phase: Phase {
        switch stage {
        case .greeting: .greeting
        case .hello: .hello
        case .startTLS: .startTLS
        case .tlsHandshake: .tlsHandshake
        case .over(let phase): phase
        case .open:
            if back?.content == .due || back?.content == .underWay {
                .content
            } else if let front {
                front.phase
            } else {
                quit == .sent ? .quit : .idle
            }
        }
    }

    /// Hand-overs not answered yet, oldest first.
    public var openHandovers: [SMTPHandoverID] { [front, back].compactMap { $0?.id } }

    // MARK: Within

    var isPipelining: Bool { capabilities.pipelining && settings.usesPipelining }

    private func refusal(of envelope: SMTPClientEnvelope) -> Reply? {
        let hasControlByte = { (text: String) in text.utf8.contains { $0 < 0x20 || $0 == 0x7f } }
        let texts = [envelope.reversePath, envelope.ret ?? "", envelope.envid ?? ""]
        if texts.contains(where: hasControlByte)
            || envelope.recipients.contains(where: {
                hasControlByte($0.path) || hasControlByte($0.notify ?? "") || hasControlByte($0.orcpt ?? "")
            })
        {
            // The owner lets none through; this keeps a damaged envelope from speaking commands.
            return Reply(553, EnhancedStatus(5, 1, 3), "control byte in the envelope")
        }
        if envelope.needsSMTPUTF8, !capabilities.smtpUTF8 {
            return Reply(550, EnhancedStatus(5, 6, 7), "the next server does not offer SMTPUTF8")
        }
        if let sizeMax = capabilities.sizeMax, sizeMax > 0, envelope.size > sizeMax {
            return Reply(552, EnhancedStatus(5, 3, 4), "message is larger than the next server's limit of \(sizeMax)")
        }
        return nil
    }

    mutating func writeHello(isExtended: Bool, into output: inout ByteOutput) {
        capabilities = SMTPPeerCapabilities()
        stage = .hello(isExtended: isExtended)
        output.append(isExtended ? "EHLO " : "HELO ")
        output.append(text: settings.helloName)
        output.append("\r\n")
    }

    mutating func writeQuitIfWanted(into output: inout ByteOutput) {
        guard quit == .wanted, case .open = stage else { return }
        let isFrontSent = front.map { isPipelining && $0.content == .sent } ?? true
        let isBackSent = back.map { $0.content == .sent } ?? true
        guard isFrontSent, isBackSent else { return }
        output.append("QUIT\r\n")
        quit = .sent
    }
}
