/// Commands come in lines, with literals between (RFC 3501 §4.3, RFC 7888).
extension IMAPServerSession {
    /// LITERAL-: literals that don't wait may have no more (RFC 7888 §5).
    private static let literalMaxBytes = 4_096

    private var commandMaxBytes: Int {
        phaseOfLogin == .none ? settings.commandMaxBytesBeforeLogin : settings.commandMaxBytes
    }

    /// Takes what there is of the line.
    mutating func line(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event? {
        guard let base = input.baseAddress else { return .needMore }
        let limit = min(input.count, consumed + commandMaxBytes - command.count)
        let end = ByteSearch.lineFeed(base, consumed, limit)
        let isWhole = end < limit
        let taken = isWhole ? end + 1 : end
        command.append(contentsOf: UnsafeRawBufferPointer(rebasing: input[consumed..<taken]))
        consumed = taken
        guard isWhole else {
            return limit < input.count || command.count >= commandMaxBytes
                ? hangUp("[TOOBIG] The command is too long", into: &output) : .needMore
        }
        guard command.count - lineStart >= 2, command[command.count - 2] == UInt8(ascii: "\r") else {
            return hangUp("Bare LF; lines end with CRLF", into: &output)
        }
        if expects == .command, let literal = announcedLiteral(from: lineStart) {
            return takeLiteral(literal.count, waits: literal.waits, into: &output)
        }
        let text = command
        command.removeAll(keepingCapacity: text.count <= 1_024)
        lineStart = 0
        return text.withUnsafeBytes { take($0, input, &consumed, into: &output) }
    }

    /// `{n}` or `{n+}` in front of the CRLF that `command` ends in.
    private func announcedLiteral(from start: Int) -> (count: Int, waits: Bool)? {
        var at = command.count - 3
        guard at > start, command[at] == UInt8(ascii: "}") else { return nil }
        at -= 1
        let waits = command[at] != UInt8(ascii: "+")
        if !waits { at -= 1 }
        let end = at + 1
        while at >= start, command[at] >= UInt8(ascii: "0"), command[at] <= UInt8(ascii: "9") { at -= 1 }
        guard at >= start, command[at] == UInt8(ascii: "{"), end > at + 1 else { return nil }
        // A number beyond all limits is just that.
        return (
            decimal(command[(at + 1)..<end].drop { $0 == UInt8(ascii: "0") })
                ?? (command[at + 1] == 48 && end == at + 2 ? 0 : .max), waits
        )
    }

    private mutating func takeLiteral(_ count: Int, waits: Bool, into output: inout ByteOutput) -> Event? {
        let answer = refusalOfLiteral(count, waits: waits)
        guard let answer else {
            if waits { output.append("+ Ready for the literal\r\n") }
            state = count > 0 ? .literal(count) : .line
            lineStart = command.count
            return nil
        }
        tag = IMAPParser.tag(command) ?? [UInt8(ascii: "*")]
        command.removeAll()
        lineStart = 0
        // Who waits for the go-ahead sees the refusal instead, and sends nothing.
        guard !waits else {
            refuse(answer, into: &output)
            return nil
        }
        guard count <= settings.discardMaxBytes - discardedBytes else {
            return hangUp("[TOOBIG] The literal is too big", into: &output)
        }
        discardedBytes += count
        state = .discarding(count, answer: answer)
        return nil
    }

    private func refusalOfLiteral(_ count: Int, waits: Bool) -> IMAPRefusal? {
        if !waits, count > Self.literalMaxBytes {
            var refusal = IMAPRefusal("The literal is too big to be sent without being asked for")
            refusal.code = "TOOBIG"
            return refusal
        }
        if isAppend {
            return phaseOfLogin == .none
                ? IMAPRefusal("Log in first") : IMAPRefusal(no: "Mail comes by SMTP only", code: "CANNOT")
        }
        guard count < commandMaxBytes - command.count else {
            var refusal = IMAPRefusal("The literal is too big")
            refusal.code = "TOOBIG"
            return refusal
        }
        return nil
    }

    private var isAppend: Bool {
        guard let tag = IMAPParser.tag(command) else { return false }
        return asciiMatches(command.dropFirst(tag.count).prefix(8), " append ")
    }

    /// Passes over a refused literal and the line behind it, which may announce another one.
    mutating func discard(
        _ missing: Int, _ answer: IMAPRefusal, _ input: UnsafeRawBufferPointer, consumed: inout Int,
        into output: inout ByteOutput
    ) -> Event? {
        if missing > 0 {
            let count = min(missing, input.count - consumed)
            consumed += count
            state = .discarding(missing - count, answer: answer)
            return nil
        }
        let byte = input[consumed]
        consumed += 1
        discardedBytes += 1
        command.append(byte)
        guard discardedBytes <= settings.discardMaxBytes else {
            return hangUp("[TOOBIG] The command is too long", into: &output)
        }
        guard byte == UInt8(ascii: "\n") else {
            // Of a line only its end matters: the announcement of a literal.
            if command.count > 64 { command.removeFirst(32) }
            return nil
        }
        let literal = announcedLiteral(from: 0)
        command.removeAll()
        // One that waits is not asked for: the command is over for both sides.
        guard let literal, !literal.waits else {
            refuse(answer, into: &output)
            return nil
        }
        guard literal.count <= settings.discardMaxBytes - discardedBytes else {
            return hangUp("[TOOBIG] The literal is too big", into: &output)
        }
        discardedBytes += literal.count
        state = .discarding(literal.count, answer: answer)
        return nil
    }

    /// A whole line, or a command with all its literals.
    private mutating func take(
        _ text: UnsafeRawBufferPointer, _ input: UnsafeRawBufferPointer, _ consumed: inout Int,
        into output: inout ByteOutput
    ) -> Event? {
        let line = UnsafeRawBufferPointer(rebasing: text.dropLast(2))
        switch expects {
        case .command: break
        case .done:
            expects = .command
            guard asciiMatches(line, "done") else {
                refuse(IMAPRefusal("DONE ends IDLE"), into: &output)
                return nil
            }
            finish("OK", "IDLE completed", into: &output)
            return nil
        case .authenticationResponse:
            expects = .command
            guard line.count != 1 || line[0] != UInt8(ascii: "*"), let response = Base64.decode(line) else {
                let isCancelled = line.count == 1 && line[0] == UInt8(ascii: "*")
                refuse(
                    IMAPRefusal(isCancelled ? "Authentication cancelled" : "The response is not base64"), into: &output)
                return .authenticationCancelled
            }
            state = .asking(.authentication)
            return .authenticationResponse(response)
        }
        guard let tag = IMAPParser.tag(line) else {
            tag = [UInt8(ascii: "*")]
            refuse(IMAPRefusal("A command begins with a tag"), into: &output)
            return nil
        }
        self.tag = tag
        var parser = IMAPParser(text, keywords: settings.keywords)
        parser.at = tag.count
        do throws(IMAPRefusal) {
            try parser.space()
            let event = try perform(try parser.command(), into: &output)
            if case .startTLS = event { consumed = input.count }
            return event
        } catch {
            refuse(error, into: &output)
            return nil
        }
    }
}
