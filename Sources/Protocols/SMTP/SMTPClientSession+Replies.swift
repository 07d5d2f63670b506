/// What the client makes of the peer's replies, and how a session ends.
extension SMTPClientSession {
    /// One whole reply.
    mutating func received(_ reply: Reply, into output: inout ByteOutput) -> Event? {
        switch stage {
        case .greeting:
            guard reply.code == 220 else { return refused(reply, into: &output) }
            if quit == .wanted { return becomeReady(into: &output) }
            writeHello(isExtended: true, into: &output)
            return nil
        case .hello(let isExtended): return helloAnswered(reply, isExtended: isExtended, into: &output)
        case .startTLS: return startTLSAnswered(reply, into: &output)
        case .open: return answered(reply, into: &output)
        case .tlsHandshake, .over: return nil
        }
    }

    private mutating func helloAnswered(_ reply: Reply, isExtended: Bool, into output: inout ByteOutput) -> Event? {
        if isExtended, reply.isPermanent {
            // RFC 5321 §3.2: a server that knows no EHLO.
            writeHello(isExtended: false, into: &output)
            return nil
        }
        guard reply.code == 250 else { return refused(reply, into: &output) }
        guard !isTLSActive, quit == .notYet, settings.tls != .never else { return becomeReady(into: &output) }
        if capabilities.startTLS {
            stage = .startTLS
            output.append("STARTTLS\r\n")
            return nil
        }
        guard settings.tls == .required else { return becomeReady(into: &output) }
        output.append("QUIT\r\n")
        fail(.tlsNotOffered)
        return nil
    }

    private mutating func startTLSAnswered(_ reply: Reply, into output: inout ByteOutput) -> Event? {
        if reply.code == 220 {
            stage = .tlsHandshake
            return .startTLS
        }
        guard !reply.isPositive, reply.code != 421 else { return refused(reply, into: &output) }
        guard settings.tls == .required else { return becomeReady(into: &output) }
        output.append("QUIT\r\n")
        fail(.tlsRefused(reply))
        return nil
    }

    private mutating func becomeReady(into output: inout ByteOutput) -> Event? {
        stage = .open
        guard quit == .wanted else { return .ready }
        writeQuitIfWanted(into: &output)
        return nil
    }

    /// The conversation ends before it could begin.
    private mutating func refused(_ reply: Reply, into output: inout ByteOutput) -> Event? {
        guard !reply.isPositive else {
            fail(.unexpectedReply(reply))
            return nil
        }
        if reply.code != 421 { output.append("QUIT\r\n") }
        fail(.refused(reply))
        return nil
    }

    // MARK: Transactions

    private mutating func answered(_ reply: Reply, into output: inout ByteOutput) -> Event? {
        if reply.code == 421 {
            // RFC 5321 §3.8: the peer is going, and reads nothing that stands behind the command it answered so.
            end(.closed(reply), reply: reply, isFromPeer: true, isFateKnown: true)
            return nil
        }
        if awaitsNoop {
            // Whatever it says: it is there.
            awaitsNoop = false
            return nil
        }
        guard front != nil else {
            if quit == .sent {
                end(.closed(reply), reply: reply, isFromPeer: true, isFateKnown: true)
            } else {
                fail(.unexpectedReply(reply))
            }
            return nil
        }
        let event = frontAnswered(reply, into: &output)
        guard front != nil else { return event }
        front!.write(offers: capabilities, isPipelining: isPipelining, into: &output)
        if front!.isEverythingAnswered { settleFront() }
        writeQuitIfWanted(into: &output)
        return event
    }

    /// Books the reply to the oldest command.
    private mutating func frontAnswered(_ reply: Reply, into output: inout ByteOutput) -> Event? {
        let step = front!.step(front!.answered)
        // 3xx means something behind DATA alone; 2xx means nothing there.
        let isExpected = step == .data ? reply.code == 354 || !reply.isPositive : !(300..<400).contains(reply.code)
        let isPremature = step == .content && front!.content != .sent
        guard isExpected, !isPremature, step != .reset || reply.isPositive else {
            if isPremature, !reply.isPositive { front!.decide(reply, in: .content, isFromPeer: true) }
            fail(.unexpectedReply(reply))
            return nil
        }
        front!.answered += 1
        switch step {
        case .reset: break
        case .mail:
            front!.mailAnswered(reply)
        case .recipient(let index):
            guard !front!.isMailRefused else { break }
            front!.recipientAnswered(index, reply)
            return .recipientAnswered(front!.id, index: index, reply)
        case .data:
            if reply.isPositive {
                front!.sent += 1
                front!.content = front!.isHopeless ? .sent : .due
                // RFC 2920 §3.1: nobody is left to get it, but the peer waits for content.
                if front!.isHopeless { output.append(".\r\n") }
            } else {
                front!.decide(reply, in: .data, isFromPeer: true)
            }
        case .content:
            front!.decide(reply, in: .endOfContent, isFromPeer: true)
            front!.contentAnswered(accepted: reply.isPositive)
        }
        return nil
    }

    private mutating func settleFront() {
        isTransactionLeftOpen = front!.isLeftOpen
        untoldOutcomes.append(front!.outcome(isDSNPassedOn: capabilities.dsn, isPossibleDuplicate: false))
        front = back.take()
    }

    // MARK: The end

    mutating func fail(_ reason: SMTPClientFailure.Reason) {
        let failure = SMTPClientFailure(reason: reason, phase: phase)
        end(.failed(failure), reply: failure.asReply, isFromPeer: false, isFateKnown: false)
    }

    /// Answers all that is under way with `reply`. `isFateKnown`: the peer took none of it.
    mutating func end(_ event: Event, reply: Reply, isFromPeer: Bool, isFateKnown: Bool) {
        if case .over = stage { return }
        let phase = phase
        for var handover in [front.take(), back.take()].compactMap({ $0 }) {
            let isPossibleDuplicate = !isFateKnown && handover.isFateUnknown
            handover.decide(reply, in: handover.phase, isFromPeer: isFromPeer)
            untoldOutcomes.append(
                handover.outcome(isDSNPassedOn: capabilities.dsn, isPossibleDuplicate: isPossibleDuplicate))
        }
        stage = .over(phase)
        untoldEnd = event
    }
}
