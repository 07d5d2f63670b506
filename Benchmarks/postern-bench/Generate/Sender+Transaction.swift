import Glibc

/// One message: what is said, and what its replies mean.
///
/// | | round trips for one recipient |
/// | --- | --- |
/// | plain | MAIL, RCPT, DATA, content |
/// | `--bdat` | MAIL, RCPT, BDAT with content |
/// | `--pipelining` (RFC 2920) | MAIL RCPT DATA, content |
/// | both | MAIL RCPT BDAT with content |
extension Sender {
    /// Begins the message that `connection` was given.
    func begin(_ connection: SenderConnection) {
        connection.bodyBytes = load.sizes.bytes(connection.number)
        connection.refusal = 0
        connection.recipientsTaken = 0
        connection.phase = .envelope
        connection.step = connection.needsReset ? -1 : 0
        connection.needsReset = false
        if load.pipelining {
            for step in connection.step...(load.recipients + 1) { say(connection, step: step) }
        } else {
            say(connection, step: connection.step)
        }
        flush(connection)
    }

    private func say(_ connection: SenderConnection, step: Int) {
        let at = connection.scratch + connection.scratchEnd
        switch step {
        case -1: connection.scratchEnd += Composer.put("RSET\r\n", to: at)
        case 0:
            let bytes = connection.offersSize ? connection.bodyBytes + Composer.headerMax : nil
            connection.scratchEnd += composer.mail(contentBytes: bytes, to: at)
        case 1...load.recipients: connection.scratchEnd += composer.recipient(step - 1, of: connection.number, to: at)
        case _ where load.chunking:
            let length = composer.header(connection.number, bodyBytes: connection.bodyBytes, to: header)
            connection.scratchEnd += Composer.chunk(bytes: length + connection.bodyBytes, to: at)
            (connection.scratch + connection.scratchEnd).update(from: header, count: length)
            connection.scratchEnd += length
            connection.body = BodyCursor(number: connection.number, bytes: connection.bodyBytes)
            // The last of it leaves with this flush, or later: written again then.
            ledger[connection.number].sentAt = now
        default: connection.scratchEnd += Composer.put("DATA\r\n", to: at)
        }
    }

    private func sayContent(_ connection: SenderConnection) {
        connection.phase = .content
        guard connection.recipientsTaken > 0 else {
            // A server may say 354 although it took no recipient (RFC 2920 §3.1): it gets an empty message, which fails.
            connection.dotLeft = 3
            return
        }
        connection.scratchEnd += composer.header(
            connection.number, bodyBytes: connection.bodyBytes, to: connection.scratch + connection.scratchEnd)
        connection.body = BodyCursor(number: connection.number, bytes: connection.bodyBytes)
        connection.dotLeft = 3
        ledger[connection.number].sentAt = now
    }

    func transactionReplied(_ connection: SenderConnection, _ code: Int, text: () -> String) {
        if connection.phase == .content {
            return finish(connection, code, text: text)
        }
        let step = connection.step
        connection.step += 1
        switch step {
        case -1: break
        case 0: if code != 250 { refuse(connection, code, text: text) }
        case 1...load.recipients:
            if (250...252).contains(code) {
                connection.recipientsTaken += 1
            } else if connection.refusal == 0 {
                // Also when others are taken: an error of its own then.
                tally.count(String(code), words: text())
                if step == load.recipients, connection.recipientsTaken == 0 { connection.refusal = code }
            }
        case _ where load.chunking: return finish(connection, code, text: text)
        default:
            if code == 354 { return sayContent(connection) }
            refuse(connection, code, text: text)
            return close(connection)
        }
        guard !load.pipelining else { return }
        if connection.refusal != 0 { return close(connection) }
        say(connection, step: connection.step)
    }

    /// The first refusal counts; those behind it follow from it.
    private func refuse(_ connection: SenderConnection, _ code: Int, text: () -> String) {
        guard connection.refusal == 0 else { return }
        connection.refusal = code
        tally.count(String(code), words: text())
    }

    /// The reply to the content.
    private func finish(_ connection: SenderConnection, _ code: Int, text: () -> String) {
        if code == 250, connection.recipientsTaken > 0 {
            accepted(connection)
            next(connection)
        } else {
            refuse(connection, code, text: text)
            close(connection)
        }
    }

    /// The message was not taken.
    private func close(_ connection: SenderConnection) {
        connection.needsReset = true
        refused(connection)
        next(connection)
    }

    private func next(_ connection: SenderConnection) {
        if load.onePerSession {
            quit(connection)
        } else {
            connection.phase = .ready
            idle.append(connection.slot)
        }
    }
}
