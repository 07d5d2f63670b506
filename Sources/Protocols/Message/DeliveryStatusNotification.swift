/// A delivery status notification: what the gateway tells the sender of a message about the fate of its recipients
/// (RFC 3461 §6, RFC 3464, RFC 6522, RFC 6533).
///
/// ```text
/// multipart/report
/// ├─ text/plain                       what happened and what to do, for a person
/// ├─ message/delivery-status          the same for programs (or message/global-delivery-status)
/// └─ text/rfc822-headers              the message's header section (or message/global-headers), or with RET=FULL
///                                     of a small failed one all of it: message/rfc822 (or message/global)
/// ```
///
/// It travels with the null reverse-path and is addressed to the sender alone. To a sender with an ASCII address it
/// contains nothing that needs SMTPUTF8, since the way back may not have it (RFC 6533 §4.5): international addresses
/// are written as utf-8-addr-xtext, UTF-8 text in quoted-printable.
public struct DeliveryStatusNotification: Sendable {
    /// What has become of the recipients (RFC 3464 §2.3.3).
    public enum Kind: String, Sendable, CaseIterable {
        case failed
        case delayed
        /// Handed to a server that does not offer DSN, for a sender who asked for success.
        case relayed
        case delivered
    }

    public struct Recipient: Sendable {
        /// The forward-path's address as it was accepted.
        public var address: String
        /// ORCPT as it came, in its encoding; nil if it did not come.
        public var originalRecipient: String?
        public var status: EnhancedStatus
        /// The host that `reply` came from; nil if no other host has a part in this.
        public var remoteMTA: String?
        /// The reply that decided.
        public var reply: Reply?
        /// What happened, in the gateway's own words, when there is no reply: `connection refused`.
        public var explanation: String?
        public var lastAttemptUnixSeconds: Int64?

        public init(
            address: String, originalRecipient: String? = nil, status: EnhancedStatus, remoteMTA: String? = nil,
            reply: Reply? = nil, explanation: String? = nil, lastAttemptUnixSeconds: Int64? = nil
        ) {
            self.address = address
            self.originalRecipient = originalRecipient
            self.status = status
            self.remoteMTA = remoteMTA
            self.reply = reply
            self.explanation = explanation
            self.lastAttemptUnixSeconds = lastAttemptUnixSeconds
        }
    }

    /// The finished message: raw content, all of whose lines end in CRLF and have at most 998 bytes.
    public struct Content: Sendable {
        public let bytes: [UInt8]
        public let linesBeginningWithDot: Int
        /// A byte above 127 is in it (RFC 6152).
        public let is8Bit: Bool
        /// The sender's address and so a header field is UTF-8 (RFC 6531).
        public let needsSMTPUTF8: Bool
    }

    public struct Limits: Sendable {
        /// A message of more bytes is never returned whole.
        public var fullReturnMaxBytes = 50_000
        /// Of a longer header section the whole lines within so many bytes are returned.
        public var headerReturnMaxBytes = 65_536
        /// Recipients that the text for people describes; the part for programs has all.
        public var describedRecipientsMax = 20
        /// Bytes of a remote reply, or of an explanation.
        public var diagnosticMaxBytes = 1_000

        public init() {}
    }

    public var kind: Kind
    /// Unique, of letters, digits and `-`: the DSN's own queue id. Its Message-ID and boundary are made of it.
    public var id: String
    /// The reporting host's full name.
    public var hostname: String
    /// The address of the reverse-path. Not empty: a null reverse-path gets no DSN.
    public var sender: String
    public var unixSeconds: Int64
    /// The queue id of the message that this is about.
    public var queueID: String
    /// ENVID as it came, in xtext; nil if it did not come.
    public var envelopeID: String?
    public var arrivalUnixSeconds: Int64
    /// When a delayed message will be given up.
    public var retryUntilUnixSeconds: Int64?
    public var ret: MailParameters.Return?
    /// The message came with SMTPUTF8, so 8-bit bytes in its header section are UTF-8.
    public var originalIsInternational: Bool
    /// All of the same kind; at least one.
    public var recipients: [Recipient]
    public var limits = Limits()

    public init(
        kind: Kind, id: String, hostname: String, sender: String, unixSeconds: Int64, queueID: String,
        envelopeID: String?, arrivalUnixSeconds: Int64, retryUntilUnixSeconds: Int64?, ret: MailParameters.Return?,
        originalIsInternational: Bool, recipients: [Recipient]
    ) {
        self.kind = kind
        self.id = id
        self.hostname = hostname
        self.sender = sender
        self.unixSeconds = unixSeconds
        self.queueID = queueID
        self.envelopeID = envelopeID
        self.arrivalUnixSeconds = arrivalUnixSeconds
        self.retryUntilUnixSeconds = retryUntilUnixSeconds
        self.ret = ret
        self.originalIsInternational = originalIsInternational
        self.recipients = recipients
    }

    /// Whether the sender is to be told about a recipient's fate (RFC 3461 §5.2, RFC 5321 §3.6.3).
    ///
    /// - Without NOTIFY: of failure and delay, never of success.
    /// - `relayed` means that the next hop did not take over the duty to report success.
    public static func isWanted(_ kind: Kind, notify: NotifyConditions?, reversePath: ReversePath) -> Bool {
        guard reversePath != .null else { return false }
        return switch kind {
        case .failed: notify?.contains(.failure) ?? true
        case .delayed: notify?.contains(.delay) ?? true
        case .relayed, .delivered: notify?.contains(.success) ?? false
        }
    }
}

extension DeliveryStatusNotification {
    /// Its sender's address decides how the whole is encoded.
    var isInternational: Bool { !sender.utf8.allSatisfy { $0 < 128 } }

    /// Makes the message.
    ///
    /// - Parameters:
    ///   - original: the raw content of the message that this is about, at least its header section.
    ///   - isWhole: `original` is all of it.
    public func build(original: UnsafeRawBufferPointer, isWhole: Bool) -> Content {
        precondition(!sender.isEmpty && !recipients.isEmpty)
        var scanner = HeaderScanner()
        scanner.received(original)
        scanner.finish()
        let returned = ReturnedMessage(original, headerBytes: scanner.headerBytes, isWhole: isWhole, of: self)
        var text = ReportWriter(allowsUTF8: true)
        writeText(&text)
        var status = ReportWriter(allowsUTF8: isInternational)
        writeStatus(&status)

        var report = ReportWriter(allowsUTF8: isInternational)
        let safeBoundary = returned.boundary(id: id)
        let boundary = safeBoundary ?? "=_postern"
        let is8Bit = isInternational || (safeBoundary != nil && returned.encoding == .eightBit)
        let messageID = scanner.messageIDRange.flatMap { Self.messageID(original[$0]) }
        writeHeader(&report, inReplyTo: messageID, boundary: boundary, is8Bit: is8Bit)
        func begin(_ part: StaticString, _ report: inout ReportWriter) {
            report.line("\r\n--", boundary)
            report.append("Content-Description: ")
            report.append(part)
            report.append("\r\nContent-Type: ")
        }
        begin("Notification", &report)
        let textEncoding = Encoding(of: text.output.bytes, allows8Bit: isInternational)
        report.append(textEncoding == .sevenBit ? "text/plain; charset=us-ascii\r\n" : "text/plain; charset=utf-8\r\n")
        report.append(part: text.output.bytes, textEncoding)

        begin("Delivery report", &report)
        report.append(isInternational ? "message/global-delivery-status\r\n" : "message/delivery-status\r\n")
        report.append(part: status.output.bytes, isInternational ? .eightBit : .sevenBit)

        if safeBoundary != nil {
            begin(returned.description, &report)
            report.append(returned.type)
            report.append("\r\n")
            report.append(encoded: returned.encoded.bytes, returned.encoding)
        }
        report.line("\r\n--", boundary, "--")

        let bytes = report.output.array
        return Content(
            bytes: bytes, linesBeginningWithDot: Self.linesBeginningWithDot(bytes), is8Bit: bytes.contains { $0 > 127 },
            needsSMTPUTF8: isInternational)
    }

    private func writeHeader(
        _ report: inout ReportWriter, inReplyTo: String?, boundary: String, is8Bit: Bool
    ) {
        report.line("From: Mail Delivery System <MAILER-DAEMON@", hostname, ">")
        report.line("To: <", sender, ">")
        report.append("Subject: ")
        report.append(kind.subject)
        report.append("\r\nDate: ")
        MailDate.write(unixSeconds: unixSeconds, into: &report.output)
        report.append("\r\n")
        report.line("Message-ID: <", "\(id)@\(hostname)", ">")
        if let inReplyTo {
            report.line("In-Reply-To: ", inReplyTo)
            report.line("References: ", inReplyTo)
        }
        report.append("Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")
        report.append("Content-Type: multipart/report; report-type=delivery-status;\r\n")
        report.line("\tboundary=\"", boundary, "\"")
        if is8Bit { report.append("Content-Transfer-Encoding: 8bit\r\n") }
        report.append("\r\nThis is a message in several parts (MIME). The first one is meant for people.\r\n")
    }

    /// A Message-ID that can be quoted as it stands.
    private static func messageID(_ bytes: Slice<UnsafeRawBufferPointer>) -> String? {
        guard (3...250).contains(bytes.count), bytes.first == UInt8(ascii: "<"), bytes.last == UInt8(ascii: ">"),
            bytes.dropFirst().dropLast().allSatisfy({
                (33...126).contains($0) && $0 != UInt8(ascii: "<") && $0 != UInt8(ascii: ">")
            })
        else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The fields of RFC 3464 §2.2 and §2.3.
    private func writeStatus(_ report: inout ReportWriter) {
        if let envelopeID {
            let decoded = XText.decode(envelopeID).map { String(decoding: $0, as: UTF8.self) }
            report.line("Original-Envelope-Id: ", decoded ?? envelopeID)
        }
        report.line("Reporting-MTA: dns; ", hostname)
        report.date("Arrival-Date: ", arrivalUnixSeconds)
        report.line("X-Postern-Queue-ID: ", queueID)
        for recipient in recipients {
            report.append("\r\n")
            if let original = recipient.originalRecipient {
                report.line("Original-Recipient: ", originalRecipientField(original))
            }
            report.line("Final-Recipient: ", addressField(recipient.address))
            report.line("Action: ", kind.rawValue)
            report.line("Status: ", recipient.status.description)
            if let remote = recipient.remoteMTA { report.line("Remote-MTA: dns; ", remote) }
            if let reply = recipient.reply {
                report.folded("Diagnostic-Code: smtp; ", reply.description, maxBytes: limits.diagnosticMaxBytes)
            } else if let explanation = recipient.explanation {
                report.folded("Diagnostic-Code: X-Postern; ", explanation, maxBytes: limits.diagnosticMaxBytes)
            }
            if let lastAttempt = recipient.lastAttemptUnixSeconds { report.date("Last-Attempt-Date: ", lastAttempt) }
            if kind == .delayed, let until = retryUntilUnixSeconds { report.date("Will-Retry-Until: ", until) }
        }
    }

    private func addressField(_ address: String) -> String {
        if address.utf8.allSatisfy({ $0 < 128 }) { return "rfc822; " + address }
        return "utf-8; " + (isInternational ? address : UTF8AddressText.encodeXText(address))
    }

    /// ORCPT without its xtext. A `utf-8` address gets the form that the report's type has; what is not in any of its
    /// forms stays as it came (RFC 6533 §3).
    private func originalRecipientField(_ parameter: String) -> String {
        guard let semicolon = parameter.firstIndex(of: ";") else { return "unknown; " + parameter }
        let type = String(parameter[..<semicolon])
        let encoded = parameter[parameter.index(after: semicolon)...]
        let plain = XText.decode(encoded).map { String(decoding: $0, as: UTF8.self) }
        if type.lowercased() == "utf-8" {
            let address = UTF8AddressText.decode(encoded) ?? plain
            return "\(type); "
                + (address.map { isInternational ? $0 : UTF8AddressText.encodeXText($0) } ?? String(encoded))
        }
        return "\(type); \(plain ?? String(encoded))"
    }

    private static func linesBeginningWithDot(_ bytes: [UInt8]) -> Int {
        var count = 0
        var previous = UInt8(ascii: "\n")
        for byte in bytes {
            if byte == UInt8(ascii: "."), previous == UInt8(ascii: "\n") { count += 1 }
            previous = byte
        }
        return count
    }
}

extension DeliveryStatusNotification {
    enum Encoding {
        case sevenBit
        case eightBit
        case quotedPrintable

        init(of bytes: UnsafeRawBufferPointer, allows8Bit: Bool) {
            self = bytes.allSatisfy { $0 < 128 } ? .sevenBit : allows8Bit ? .eightBit : .quotedPrintable
        }
    }
}

/// The third part: what is given back of the message.
private struct ReturnedMessage: ~Copyable {
    let type: StaticString
    let description: StaticString
    let encoding: DeliveryStatusNotification.Encoding
    var encoded = ByteOutput()

    init(
        _ original: UnsafeRawBufferPointer, headerBytes: Int, isWhole: Bool, of notification: DeliveryStatusNotification
    ) {
        let limits = notification.limits
        let returnsAll =
            isWhole && notification.kind == .failed && notification.ret == .full
            && original.count <= limits.fullReturnMaxBytes && Self.isFit(original)
        var part = ByteOutput()
        let header = UnsafeRawBufferPointer(rebasing: original[..<headerBytes])
        if returnsAll {
            part.append(original)
            if original.count > 0, original.last != UInt8(ascii: "\n") { part.append("\r\n") }
        } else {
            Self.appendHeader(header, maxBytes: limits.headerReturnMaxBytes, to: &part)
        }
        description = returnsAll ? "Undelivered message" : "Message header section"
        let isPlain = part.bytes.allSatisfy { $0 < 128 }
        let isGlobal =
            !isPlain && notification.originalIsInternational && String(validating: header, as: UTF8.self) != nil
        switch (returnsAll, isGlobal) {
        case (true, true): type = "message/global"
        case (true, false): type = "message/rfc822"
        case (false, true): type = "message/global-headers"
        case (false, false): type = "text/rfc822-headers"
        }
        // RFC 2046 §5.2.1 forbids other encodings of message/rfc822; a raw 8-bit header has no charset that a
        // quoted-printable part could name. Only the global types may be encoded (RFC 6532 §3.5).
        if isGlobal, !notification.isInternational {
            encoding = .quotedPrintable
            QuotedPrintable.encode(part.bytes, into: &encoded)
        } else {
            encoding = isPlain ? .sevenBit : .eightBit
            encoded.append(part.bytes)
        }
    }

    /// Can stand in a part without an encoding (RFC 2045 §2.8): lines of at most 998 bytes, no NUL, no bare CR or LF.
    private static func isFit(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var length = 0
        var previous: UInt8 = 0
        for byte in bytes {
            length += 1
            if byte == 0 || (byte == UInt8(ascii: "\n")) != (previous == UInt8(ascii: "\r")) { return false }
            if byte == UInt8(ascii: "\n") {
                length = 0
            } else if length > 999 {  // 998 and the CR
                return false
            }
            previous = byte
        }
        return previous != UInt8(ascii: "\r") && length <= 998
    }

    /// Appends whole lines, too long ones folded, bytes that no line may have replaced.
    private static func appendHeader(_ header: UnsafeRawBufferPointer, maxBytes: Int, to part: inout ByteOutput) {
        var end = header.count
        if end > maxBytes {
            end = header[..<maxBytes].lastIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? maxBytes
        }
        var column = 0
        var at = 0
        while at < end {
            let byte = header[at]
            at += 1
            if byte == UInt8(ascii: "\r"), at < end, header[at] == UInt8(ascii: "\n") {
                part.append("\r\n")
                column = 0
                at += 1
                continue
            }
            // Not within a UTF-8 sequence, as long as it is one.
            if column >= 990, byte & 0xc0 != 0x80 || column >= 997 {
                part.append("\r\n ")
                column = 1
            }
            let isForbidden = byte == 0 || byte == UInt8(ascii: "\r") || byte == UInt8(ascii: "\n")
            part.append(isForbidden ? UInt8(ascii: "?") : byte)
            column += 1
        }
        if column > 0 { part.append("\r\n") }
    }

    /// A boundary that begins no line of this part; nil if someone has foreseen all that are tried, and then the part
    /// is left out. The other parts have no line that begins with `--`.
    borrowing func boundary(id: String) -> String? {
        let token = id.unicodeScalars.prefix(40).filter { $0.properties.isAlphabetic && $0.isASCII || "0"..."9" ~= $0 }
        for attempt in 0..<16 {
            let candidate = "=_postern-\(String(String.UnicodeScalarView(token)))-\(attempt)"
            if !hasLine(beginningWith: Array("--\(candidate)".utf8)) { return candidate }
        }
        return nil
    }

    private borrowing func hasLine(beginningWith text: [UInt8]) -> Bool {
        let bytes = encoded.bytes
        var previous = UInt8(ascii: "\n")
        for (at, byte) in bytes.enumerated() {
            if previous == UInt8(ascii: "\n"), byte == text[0], bytes[at...].starts(with: text) { return true }
            previous = byte
        }
        return false
    }
}
