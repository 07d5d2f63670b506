// The part of a DSN that people read.

extension DeliveryStatusNotification.Kind {
    var subject: StaticString {
        switch self {
        case .failed: "Undelivered: your message could not be delivered"
        case .delayed: "Delayed: your message has not been delivered yet"
        case .relayed: "Delivery report: your message was passed on"
        case .delivered: "Delivery report: your message was delivered"
        }
    }

    /// One sentence or two, with their line breaks.
    fileprivate var summary: StaticString {
        switch self {
        case .failed:
            """
            Your message could not be delivered to the recipients below.\r
            No further attempt will be made.
            """
        case .delayed:
            """
            Your message has not been delivered to the recipients below yet.\r
            This is only a warning: you need not send it again.
            """
        case .relayed:
            """
            Your message was passed on for the recipients below, to a mail system that\r
            sends no delivery reports. You may get no further report.
            """
        case .delivered: "Your message was delivered to the recipients below."
        }
    }
}

extension DeliveryStatusNotification {
    /// What happened, to whom, what the other server said, what to do.
    func writeText(_ text: inout ReportWriter) {
        text.line("This is the mail system at ", hostname, ".")
        text.append("\r\n")
        text.append(kind.summary)
        text.append("\r\n")
        for recipient in recipients.prefix(limits.describedRecipientsMax) {
            text.append("\r\n")
            text.line("  ", recipient.address)
            if let reply = recipient.reply {
                if let remote = recipient.remoteMTA {
                    text.line("    The mail server ", remote, " answered:")
                } else {
                    text.append("    The answer was:\r\n")
                }
                text.folded("      ", reply.description, maxBytes: limits.diagnosticMaxBytes)
            } else if let explanation = recipient.explanation {
                text.folded("    Reason: ", explanation, maxBytes: limits.diagnosticMaxBytes)
            }
            if kind == .failed { text.folded("    ", Self.advice(recipient.status), maxBytes: .max) }
        }
        if recipients.count > limits.describedRecipientsMax {
            let more = recipients.count - limits.describedRecipientsMax
            text.line("\r\n  and ", "\(more)", " more, named in the delivery report below.")
        }
        if kind == .delayed {
            text.append("\r\nDelivery will be tried again")
            if let until = retryUntilUnixSeconds {
                text.append(" until\r\n")
                MailDate.write(unixSeconds: until, into: &text.output)
                text.append(".\r\nYou will be told if it")
            } else {
                text.append(". You will be told if it")
            }
            text.append(" does not succeed.\r\n")
        }
        text.date("\r\nYour message came here on ", arrivalUnixSeconds)
        text.line("and had the number ", queueID, " in our records.")
        text.append("\r\nIf you need help, send this whole message to your mail administrator.\r\n")
        text.append("Please do not answer it: it was made by a program.\r\n")
    }

    /// What a sender can do about a failure (RFC 3463 §3).
    private static func advice(_ status: EnhancedStatus) -> String {
        switch (status.class, status.subject, status.detail) {
        case (4, _, _), (_, 4, 7):
            "The trouble may pass, but it has lasted too long to keep trying. Please send the message again later, or "
                + "reach the recipient in another way."
        case (_, 1, 2), (_, 4, 1...4):
            "The recipient's mail server can't be found or reached. Please check the part of the address behind the @ "
                + "for typing errors, and send the message again if you find one."
        case (_, 1, 7...8): "The recipient's mail system does not accept your own address. Please ask your provider."
        case (_, 1, _), (_, 2, 0...1):
            "The recipient's mail system does not take mail for this address. Please check it for typing errors, and "
                + "send the message again if you find one."
        case (_, 2, 2):
            "The recipient's mailbox is full. Please reach the recipient in another way, or send the message again "
                + "later."
        case (_, 2, 3), (_, 3, 4):
            "The message is too big for the recipient's mail system. Please send it again with smaller attachments, or "
                + "with a link instead of them."
        case (_, 4, 6):
            "Mail servers have sent the message in a circle. Only the administrators of the recipient's mail system "
                + "can repair this; please reach the recipient in another way."
        case (_, 6, 7):
            "A mail system on the way can't handle addresses or subjects with letters other than a to z. Please use "
                + "another address of the recipient's."
        case (_, 7, _):
            "The recipient's mail system has refused the message by its rules. Please reach the recipient in another "
                + "way; the recipient's administrator can tell why."
        default: "Please reach the recipient in another way, or ask your mail administrator."
        }
    }
}

/// Writes the lines of a report. None gets longer than 998 bytes, and no outside text can end one.
struct ReportWriter: ~Copyable {
    /// Where text is folded, at a space.
    private static let foldColumn = 78
    /// Where a line is broken in any case, well before the 998 of RFC 5322 §2.1.1.
    private static let breakColumn = 900

    let allowsUTF8: Bool
    var output = ByteOutput()

    init(allowsUTF8: Bool) { self.allowsUTF8 = allowsUTF8 }

    mutating func append(_ text: StaticString) { output.append(text) }

    /// `before`, outside text, `after` and a CRLF.
    mutating func line(_ before: String, _ text: String, _ after: StaticString = "") {
        output.append(text: before)
        var column = before.utf8.count
        append(clean: text, &column)
        output.append(after)
        output.append("\r\n")
    }

    /// A field or sentence that ends with a date.
    mutating func date(_ before: StaticString, _ unixSeconds: Int64) {
        output.append(before)
        MailDate.write(unixSeconds: unixSeconds, into: &output)
        output.append("\r\n")
    }

    /// `before` and outside text of at most `maxBytes`, folded at spaces under six spaces, and a CRLF.
    mutating func folded(_ before: StaticString, _ text: String, maxBytes: Int) {
        output.append(before)
        var column = before.utf8CodeUnitCount
        var isFirst = true
        var rest = maxBytes
        for word in text.split(whereSeparator: \.isWhitespace) {
            guard rest > 0 else { break }
            let cut = word.utf8.count > rest ? Substring(word.unicodeScalars.prefix(rest / 4)) : word
            rest -= word.utf8.count + 1
            if !isFirst {
                if column + 1 + cut.utf8.count > Self.foldColumn {
                    output.append("\r\n      ")
                    column = 6
                } else {
                    output.append(" ")
                    column += 1
                }
            }
            isFirst = false
            append(clean: cut, &column)
        }
        output.append("\r\n")
    }

    private mutating func append(clean text: some StringProtocol, _ column: inout Int) {
        for scalar in text.unicodeScalars {
            if column >= Self.breakColumn {
                output.append("\r\n      ")
                column = 6
            }
            if scalar.isASCII {
                let isControl = scalar.value < 32 || scalar.value == 127
                output.append(isControl ? UInt8(ascii: "?") : UInt8(scalar.value))
                column += 1
            } else if allowsUTF8, scalar.value >= 0xa0 {
                for byte in UTF8.encode(scalar)! { output.append(byte) }
                column += 4
            } else {
                output.append(UInt8(ascii: "?"))
                column += 1
            }
        }
    }

    /// An encoding's name, the empty line, and the part encoded.
    mutating func append(part: UnsafeRawBufferPointer, _ encoding: DeliveryStatusNotification.Encoding) {
        guard encoding == .quotedPrintable else { return append(encoded: part, encoding) }
        append("Content-Transfer-Encoding: quoted-printable\r\n\r\n")
        QuotedPrintable.encode(part, into: &output)
    }

    mutating func append(encoded part: UnsafeRawBufferPointer, _ encoding: DeliveryStatusNotification.Encoding) {
        switch encoding {
        case .sevenBit: append("\r\n")
        case .eightBit: append("Content-Transfer-Encoding: 8bit\r\n\r\n")
        case .quotedPrintable: append("Content-Transfer-Encoding: quoted-printable\r\n\r\n")
        }
        output.append(part)
    }
}
