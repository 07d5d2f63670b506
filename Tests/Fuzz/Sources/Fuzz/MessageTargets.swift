@testable import Protocols

/// The header scanner, against a plain one, and cut. Input: options, cut seed (two bytes), then the content.
enum HeaderTarget {
    private static let traceName: StaticString = "X-Trace"

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = input.byte()
        let cuts = Cuts(seed: input.number())
        let content = input.all()
        var limits = HeaderScanner.Limits()
        if options & 1 == 1 { limits.headerMaxBytes = 64 }
        if options & 2 == 2 { limits.fieldsMax = 3 }
        let whole = scan([content], limits)
        let cut = scan(cuts.pieces(content), limits)
        requireSame(facts(whole), facts(cut), "facts, whole and cut")
        require(whole.isInBody, "no body")
        require(whole.headerBytes <= whole.bodyOffset && whole.bodyOffset <= content.count, "where the body begins")
        require(whole.headerBytes <= limits.headerMaxBytes && whole.fieldCount <= limits.fieldsMax, "limits")
        require(
            whole.traceValues.count <= HeaderScanner.traceValuesMax && whole.traceFieldCount >= whole.traceValues.count
                && whole.traceValues.allSatisfy { $0.count <= HeaderScanner.traceValueMaxBytes }, "trace values")
        if let range = whole.messageIDRange {
            require(!range.isEmpty && range.upperBound <= whole.headerBytes, "Message-ID at \(range)")
        }
        if options & 3 == 0 { compare(whole, Plain(content)) }
    }

    private static func scan(_ pieces: [[UInt8]], _ limits: HeaderScanner.Limits) -> HeaderScanner {
        var scanner = HeaderScanner(traceFieldName: traceName, limits: limits)
        for piece in pieces { withExact(piece) { scanner.received($0) } }
        scanner.finish()
        return scanner
    }

    private static func facts(_ s: HeaderScanner) -> String {
        "\(s.headerBytes) \(s.bodyOffset) \(s.fieldCount) \(s.lineCount) \(s.receivedFieldCount) \(s.traceFieldCount) "
            + "\(s.traceValues) \(s.hasDate) \(s.hasMessageID) \(String(describing: s.messageIDRange)) "
            + "\(s.isAutoSubmitted) \(String(describing: s.overLimit)) \(s.has8BitHeader)"
    }

    private static func compare(_ scanner: HeaderScanner, _ plain: Plain) {
        requireSame(scanner.headerBytes, plain.headerBytes, "headerBytes")
        requireSame(scanner.bodyOffset, plain.bodyOffset, "bodyOffset")
        requireSame(scanner.fieldCount, plain.names.count, "fieldCount")
        requireSame(scanner.receivedFieldCount, plain.names.count { $0 == "received" }, "receivedFieldCount")
        requireSame(scanner.hasDate, plain.names.contains("date"), "hasDate")
        requireSame(scanner.hasMessageID, plain.names.contains("message-id"), "hasMessageID")
        requireSame(scanner.traceFieldCount, plain.names.count { $0 == "x-trace" }, "traceFieldCount")
    }

    /// The same by lines, as one would write it without thinking of speed.
    private struct Plain {
        var headerBytes = 0
        var bodyOffset = 0
        var names: [String] = []

        init(_ content: [UInt8]) {
            var at = 0
            while at < content.count {
                let end = content[at...].firstIndex(of: 10).map { $0 + 1 } ?? content.count
                let line = content[at..<end]
                if line.elementsEqual([13, 10]) || line.elementsEqual([10]) {
                    (headerBytes, bodyOffset) = (at, end)
                    return
                }
                if line.first == 32 || line.first == 9 {
                    guard !names.isEmpty else { break }
                } else {
                    guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { break }
                    let name = line[..<colon]
                    let word = name.prefix { (33...126).contains($0) }
                    guard !word.isEmpty, name[word.endIndex...].allSatisfy({ $0 == 32 || $0 == 9 }) else { break }
                    names.append(text(word).lowercased())
                }
                at = end
            }
            (headerBytes, bodyOffset) = (at, at)
        }
    }
}

/// Dots and line ends of content, against a plain reader; and back by the stuffer.
///
/// Input: options, cut seed (two bytes), then the stream.
enum ContentTarget {
    private struct Reading: Equatable {
        var content: [UInt8] = []
        /// Bytes of the stream that were passed over.
        var consumed = 0
        var isOver = false
        var isBare = false
        var dots = 0
        var endsWithCRLF = true
    }

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let framing: ContentScanner.Framing = input.byte() & 1 == 0 ? .dots : .verbatim
        let cuts = Cuts(seed: input.number())
        let stream = input.all()
        let whole = scan([stream], framing)
        let cut = scan(cuts.pieces(stream), framing)
        let plain = read(stream, framing)
        requireSame(whole, cut, "scanned whole and cut")
        // How far content was told before a bare line ending is nobody's business: it is refused.
        if plain.isBare {
            require(whole.isBare && whole.consumed == plain.consumed, "a bare line ending at \(plain.consumed)")
        } else {
            requireSame(whole, plain, "scanned, and read plainly")
        }
        guard !plain.isBare, hasOnlyCRLF(whole.content) else { return }
        stuff(whole, cuts)
    }

    private static func scan(_ pieces: [[UInt8]], _ framing: ContentScanner.Framing) -> Reading {
        var scanner = ContentScanner()
        var reading = Reading()
        for piece in pieces where !reading.isOver && !reading.isBare {
            var steps = 2 * piece.count + 4
            var at = 0
            loop: while true {
                steps -= 1
                require(steps > 0, "more steps than bytes")
                let (stop, range) = withExact(piece) { scanner.scan($0, from: &at, framing: framing) }
                require(range.upperBound <= at && at <= piece.count, "content beyond the position")
                if stop == .bareLineEnding {
                    reading.isBare = true
                    break loop
                }
                reading.content += piece[range]
                switch stop {
                case .exhausted:
                    require(at == piece.count, "exhausted early")
                    break loop
                case .endOfData:
                    reading.isOver = true
                    break loop
                case .dot, .bareLineEnding: break
                }
            }
            reading.consumed += at
        }
        if reading.isBare { reading.content = [] } else { reading.endsWithCRLF = scanner.isAtLineStart }
        if reading.isOver { require(scanner.isAtLineStart, "the end is no line's end") }
        if !reading.isBare { reading.dots = scanner.linesBeginningWithDot }
        return reading
    }

    /// RFC 5321 §4.5.2 byte by byte.
    private static func read(_ stream: [UInt8], _ framing: ContentScanner.Framing) -> Reading {
        var reading = Reading()
        var line: [UInt8] = []
        for byte in stream {
            reading.consumed += 1
            if (byte == 10) != (line.last == 13) {
                reading.isBare = true
                return reading
            }
            line.append(byte)
            guard byte == 10 else { continue }
            if framing == .dots, line == [46, 13, 10] {
                reading.isOver = true
                line = []
                break
            }
            if framing == .dots, line.first == 46 { line.removeFirst() }
            if line.first == 46 { reading.dots += 1 }
            reading.content += line
            line = []
        }
        // An unfinished line. A dot that may yet be the end's is no content.
        if framing == .dots, line.first == 46 { line.removeFirst() }
        let mayBeEnd = framing == .dots && stream[..<reading.consumed].suffix(2) == [46, 13] && line == [13]
        if mayBeEnd { line = [] }
        if line.first == 46 { reading.dots += 1 }
        reading.content += line
        let isAtDot = framing == .dots && stream[..<reading.consumed].last == 46 && line.isEmpty
        reading.endsWithCRLF = line.isEmpty && !mayBeEnd && !(isAtDot && !reading.isOver)
        return reading
    }

    private static func stuff(_ reading: Reading, _ cuts: Cuts) {
        var whole = ByteOutput()
        var stuffer = DotStuffer()
        withExact(reading.content) { stuffer.append($0, into: &whole) }
        stuffer.finish(into: &whole)
        var cut = ByteOutput()
        var second = DotStuffer()
        for piece in cuts.pieces(reading.content) { withExact(piece) { second.append($0, into: &cut) } }
        second.finish(into: &cut)
        requireSame(whole.array, cut.array, "stuffed whole and cut")
        let back = scan([whole.array], .dots)
        require(back.isOver && back.consumed == whole.count, "stuffed content does not end, or ends early")
        let expected = reading.content + (reading.content.isEmpty || reading.content.last == 10 ? [] : [13, 10])
        requireSame(back.content, expected, "stuffed and back")
    }
}

/// Notifications about hostile messages and replies, and the trace field.
///
/// Input: options, then texts with unit separators: sender, address, ORCPT, ENVID, reply lines, host, explanation, the
/// original message.
enum DSNTarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = input.byte()
        let parts = input.parts(FuzzInput.unit, atLeast: 8)
        let sender = text(parts[0])
        let original = Array(parts[7...].joined(separator: [FuzzInput.unit]))
        let reply = reply(parts[4])
        let count = options & 16 == 16 ? 25 : 1
        let recipient = DeliveryStatusNotification.Recipient(
            address: text(parts[1]), originalRecipient: parts[2].isEmpty ? nil : text(parts[2]),
            status: reply?.status ?? EnhancedStatus(5, Int(options >> 5), 1),
            remoteMTA: parts[5].isEmpty ? nil : text(parts[5]),
            reply: reply, explanation: parts[6].isEmpty ? nil : text(parts[6]), lastAttemptUnixSeconds: 1_795_530_500)
        var notification = DeliveryStatusNotification(
            kind: DeliveryStatusNotification.Kind.allCases[Int(options & 3)], id: "9aB2c1",
            hostname: "mx1.provider.test",
            sender: sender.isEmpty ? "a@b.test" : sender, unixSeconds: 1_795_530_600, queueID: "3fG7x2",
            envelopeID: parts[3].isEmpty ? nil : text(parts[3]), arrivalUnixSeconds: 1_795_530_000,
            retryUntilUnixSeconds: options & 4 == 0 ? nil : 1_795_962_000, ret: options & 8 == 0 ? .headers : .full,
            originalIsInternational: options & 32 == 32,
            recipients: Array(repeating: recipient, count: count))
        if options & 64 == 64 {
            notification.limits.fullReturnMaxBytes = 200
            notification.limits.headerReturnMaxBytes = 50
            notification.limits.diagnosticMaxBytes = 40
        }
        let content = withExact(original) { notification.build(original: $0, isWhole: options & 128 == 0) }
        check(content, notification, originalBytes: original.count, given: bytes.count)
        trace(parts, options)
    }

    /// The hostile server's reply, through the parser that reads it from the wire.
    private static func reply(_ bytes: [UInt8]) -> Reply? {
        withExact(bytes) {
            var parser = SMTPReplyParser()
            var consumed = 0
            while case .line(_, let text, _, let isLast) = parser.next($0, consumed: &consumed) {
                if isLast { return parser.reply($0, lastText: text) }
            }
            return nil
        }
    }

    private static let fields: Set<String> = [
        "From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "MIME-Version",
        "Content-Type", "Content-Transfer-Encoding",
    ]

    private static func check(
        _ content: DeliveryStatusNotification.Content, _ notification: DeliveryStatusNotification, originalBytes: Int,
        given: Int
    ) {
        let bytes = content.bytes
        require(hasOnlyCRLF(bytes) && bytes.suffix(2) == [13, 10] && !bytes.contains(0), "line ends")
        requireSame(content.is8Bit, bytes.contains { $0 > 127 }, "is8Bit")
        let isInternational = notification.sender.utf8.contains { $0 > 127 }
        requireSame(content.needsSMTPUTF8, isInternational, "needsSMTPUTF8")
        var dots = 0
        var seen: [String: Int] = [:]
        var isHeader = true
        var boundary: [UInt8]?
        var boundaryLines = 0
        var statusFields: [String] = []
        var isStatus = false
        for line in bytes.split(separator: 10, omittingEmptySubsequences: false).dropLast() {
            let line = line.dropLast()
            require(line.count <= 998, "a line of \(line.count) bytes")
            if line.first == UInt8(ascii: ".") { dots += 1 }
            if line.isEmpty { isHeader = false }
            if isHeader {
                require(isInternational || line.allSatisfy { $0 < 128 }, "an 8-bit header: \(text(line))")
                if line.first == 9, line.starts(with: Array("\tboundary=\"".utf8)) {
                    boundary = Array("--".utf8) + line.dropFirst(11).dropLast()
                }
                guard line.first != 9, line.first != 32 else { continue }
                let name = text(line.prefix { $0 != UInt8(ascii: ":") })
                require(fields.contains(name), "header field \(name)")
                seen[name, default: 0] += 1
                require(seen[name] == 1, "\(name) stands twice")
            } else if let boundary, line.starts(with: boundary) {
                boundaryLines += 1
                isStatus = boundaryLines == 2
            } else if isStatus, line.first != 32, !line.isEmpty {
                statusFields.append(text(line.prefix { $0 != UInt8(ascii: ":") }))
            }
        }
        requireSame(content.linesBeginningWithDot, dots, "linesBeginningWithDot")
        require(seen["To"] == 1 && seen["From"] == 1 && boundary != nil, "the header section")
        require(boundaryLines == 4 || boundaryLines == 3, "\(boundaryLines) boundary lines")
        // Nobody makes the report say more than it says.
        let finals = statusFields.count { $0 == "Final-Recipient" }
        requireSame(finals, notification.recipients.count, "recipients in the report")
        requireSame(statusFields.count { $0 == "Action" }, finals, "actions in the report")
        requireSame(statusFields.count { $0 == "Status" }, finals, "statuses in the report")
        // Outside text at most four times in each place, which are a handful; quoted-printable triples.
        let bound = 16_384 + 4 * originalBytes + notification.recipients.count * (1_500 + 40 * given)
        require(bytes.count <= bound, "\(bytes.count) bytes of \(given)")
    }

    private static func trace(_ parts: [[UInt8]], _ options: UInt8) {
        var output = ByteOutput()
        TraceHeader(
            helloName: text(parts[0]), clientName: text(parts[1]), clientAddress: IPAddress(v4: 0xc000_0201),
            hostname: "mx1.provider.test",
            transmission: TransmissionProtocol(
                isExtended: options & 1 == 1, isTLS: true, isInternational: options & 2 == 2),
            queueID: "3fG7x2", onlyRecipient: text(parts[5]), tlsDescription: text(parts[6]), unixSeconds: 1_795_530_600
        ).write(into: &output)
        let bytes = output.array
        require(
            hasOnlyCRLF(bytes) && bytes.suffix(2) == [13, 10] && !bytes.contains(0), "line ends of the trace field")
        let lines = bytes.split(separator: 10).map { $0.dropLast() }
        require(lines.first?.starts(with: "Received: from ".utf8) == true, "the trace field's begin")
        require(lines.dropFirst().allSatisfy { $0.first == 9 }, "the trace field ends early")
        require(lines.allSatisfy { $0.count <= 998 }, "long lines in the trace field")
        require(options & 2 == 2 || bytes.allSatisfy { $0 < 128 }, "an 8-bit trace field")
        var scanner = HeaderScanner()
        withExact(bytes + [13, 10]) { scanner.received($0) }
        require(scanner.fieldCount == 1 && scanner.receivedFieldCount == 1, "more than one trace field")
    }
}
