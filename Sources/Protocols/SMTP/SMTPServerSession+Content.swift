/// DATA and BDAT content, taken or refused.
extension SMTPServerSession {
    /// What becomes of content bytes; nil if the state changed and there is nothing to tell.
    mutating func content(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        switch state {
        case .data: takeData(input, consumed: &consumed, into: &output)
        case .chunk(let remaining, let isLast):
            takeChunk(remaining, isLast, input, consumed: &consumed, into: &output)
        case .discardingData(let reply): dropData(reply, input, consumed: &consumed, into: &output)
        case .discardingChunk(let remaining, let reply, let isError):
            dropChunk(remaining, reply, isError, input, consumed: &consumed, into: &output)
        default: preconditionFailure("no content under way")
        }
    }

    private mutating func takeData(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        let start = consumed
        let (stop, range) = scanner.scan(input, from: &consumed, framing: .dots)
        let room = settings.messageSizeMax - contentBytes
        if range.count > room {
            // What came first decides, and all behind it is refused, however it was cut.
            discardedBytes += consumed - start - room
            if stop == .bareLineEnding || discardedBytes > settings.discardMaxBytes {
                resetTransaction()
                _ = hangUp(.tooBig, into: &output)
            } else {
                // The scanner's state is kept: it still has to find the end. That is not here, or the range were empty.
                state = .discardingData(.tooBig)
            }
            return .contentFault(.tooBig)
        }
        if stop == .bareLineEnding { return refuseBareLineEnding(into: &output) }
        contentBytes += range.count
        if stop == .endOfData {
            state = .answering(.endOfContent)
            return .endOfContent
        }
        if !range.isEmpty { return .content(range) }
        return stop == .exhausted ? .needMore : nil
    }

    private mutating func takeChunk(
        _ remaining: Int, _ isLast: Bool, _ input: UnsafeRawBufferPointer, consumed: inout Int,
        into output: inout ByteOutput
    ) -> Event? {
        guard remaining > 0 else { return endChunk(isLast, into: &output) }
        guard consumed < input.count else { return .needMore }
        let end = consumed + min(remaining, input.count - consumed)
        let (stop, range) = scanner.scan(
            UnsafeRawBufferPointer(rebasing: input[..<end]), from: &consumed, framing: .verbatim)
        if stop == .bareLineEnding { return refuseBareLineEnding(into: &output) }
        contentBytes += range.count
        state = .chunk(remaining: remaining - range.count, isLast: isLast)
        return .content(range)
    }

    private mutating func endChunk(_ isLast: Bool, into output: inout ByteOutput) -> Event? {
        guard isLast else {
            state = .commands
            stage = .chunks
            output.append("250 2.0.0 Chunk ok\r\n")
            return nil
        }
        if scanner.isAfterCR { return refuseBareLineEnding(into: &output) }
        state = .answering(.endOfContent)
        return .endOfContent
    }

    private mutating func refuseBareLineEnding(into output: inout ByteOutput) -> Event {
        resetTransaction()
        let reply = Reply(550, EnhancedStatus(5, 5, 2), "Bare CR or LF in the message; lines end with CRLF")
        _ = hangUp(reply, into: &output)
        return .contentFault(reply)
    }

    private mutating func dropData(
        _ reply: Reply, _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        while true {
            let start = consumed
            let (stop, _) = scanner.scan(input, from: &consumed, framing: .dots)
            discardedBytes += consumed - start
            if stop == .bareLineEnding || discardedBytes > settings.discardMaxBytes {
                return hangUp(reply, into: &output)
            }
            switch stop {
            case .endOfData:
                resetTransaction()
                state = .commands
                answer(reply, into: &output)
                return .contentRefused
            case .exhausted: return .needMore
            case .dot, .bareLineEnding: break
            }
        }
    }

    private mutating func dropChunk(
        _ remaining: Int, _ reply: Reply, _ isError: Bool, _ input: UnsafeRawBufferPointer, consumed: inout Int,
        into output: inout ByteOutput
    ) -> Event? {
        // Known beforehand, so not waited for.
        guard remaining <= settings.discardMaxBytes - discardedBytes else { return hangUp(reply, into: &output) }
        let count = min(remaining, input.count - consumed)
        consumed += count
        discardedBytes += count
        state = .discardingChunk(remaining: remaining - count, reply, isError: isError)
        guard count == remaining else { return .needMore }
        state = .commands
        answer(reply, isError: isError, into: &output)
        return .contentRefused
    }
}

extension Reply {
    static var tooBig: Reply { Reply(552, EnhancedStatus(5, 3, 4), "Message is too big") }
}
