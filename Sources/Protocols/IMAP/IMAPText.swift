/// How values are written (RFC 3501 §4).
extension ByteOutput {
    private static let quotedMaxBytes = 1_000

    mutating func append(space text: StaticString) {
        append(UInt8(ascii: " "))
        append(text)
    }

    /// A quoted string, or a literal where that can't hold the bytes. NUL, which neither may hold, is left out.
    mutating func append(string bytes: some Collection<UInt8>) {
        if bytes.count <= Self.quotedMaxBytes, bytes.allSatisfy({ $0 >= 32 && $0 < 127 }) {
            append(UInt8(ascii: "\""))
            for byte in bytes {
                if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") { append(UInt8(ascii: "\\")) }
                append(byte)
            }
            append(UInt8(ascii: "\""))
            return
        }
        let kept = bytes.filter { $0 != 0 }
        append(literalOf: kept.count)
        append(kept)
    }

    mutating func append(nstring bytes: (some Collection<UInt8>)?) {
        if let bytes { append(string: bytes) } else { append("NIL") }
    }

    mutating func append(literalOf count: Int) {
        append(UInt8(ascii: "{"))
        append(number: count)
        append("}\r\n")
    }

    /// An atom where the bytes are one, else a string.
    mutating func append(astring bytes: [UInt8]) {
        if !bytes.isEmpty, bytes.allSatisfy({ IMAPParser.isAtomByte($0, orBrackets: true) }) {
            append(bytes)
        } else {
            append(string: bytes)
        }
    }

    mutating func append(flags: IMAPFlags, keywords: [String], recent: Bool = true) {
        append(UInt8(ascii: "("))
        var isFirst = true
        func separate(_ output: inout ByteOutput) {
            if !isFirst { output.append(UInt8(ascii: " ")) }
            isFirst = false
        }
        for (flag, name) in IMAPFlags.systemNames where flags.contains(flag) {
            separate(&self)
            append(name)
        }
        for (index, keyword) in keywords.enumerated() where flags.contains(.keyword(index)) {
            separate(&self)
            append(text: keyword)
        }
        if recent, flags.contains(.recent) {
            separate(&self)
            append("\\Recent")
        }
        append(UInt8(ascii: ")"))
    }

    // MARK: Envelope

    /// `ENVELOPE` of a message (RFC 3501 §7.4.2).
    mutating func append(envelopeOf part: MIMEStructure.Part) {
        append(UInt8(ascii: "("))
        append(nstring: part.value(of: .date))
        append(UInt8(ascii: " "))
        append(nstring: part.value(of: .subject))
        let from = part.addresses(.from)
        for field in [MIMEField.from, .sender, .replyTo] {
            append(UInt8(ascii: " "))
            // Sender and Reply-To are From where they are not given.
            let addresses = part.addresses(field)
            append(addresses: addresses.isEmpty ? from : addresses)
        }
        for field in [MIMEField.to, .cc, .bcc] {
            append(UInt8(ascii: " "))
            append(addresses: part.addresses(field))
        }
        for field in [MIMEField.inReplyTo, .messageID] {
            append(UInt8(ascii: " "))
            append(nstring: part.value(of: field))
        }
        append(UInt8(ascii: ")"))
    }

    private mutating func append(addresses: [MIMEAddresses.Element]) {
        guard !addresses.isEmpty else { return append("NIL") }
        append(UInt8(ascii: "("))
        for element in addresses {
            switch element {
            case .mailbox(let mailbox):
                append(UInt8(ascii: "("))
                append(nstring: mailbox.name)
                append(UInt8(ascii: " "))
                append(nstring: mailbox.route)
                append(UInt8(ascii: " "))
                append(string: mailbox.local)
                append(UInt8(ascii: " "))
                // NIL would say that a group begins or ends.
                append(string: mailbox.host)
                append(UInt8(ascii: ")"))
            case .groupStart(let name):
                append("(NIL NIL ")
                append(string: name)
                append(" NIL)")
            case .groupEnd: append("(NIL NIL NIL NIL)")
            }
        }
        append(UInt8(ascii: ")"))
    }

    // MARK: Structure

    /// `BODY` or, with `isExtended`, `BODYSTRUCTURE` of a part (RFC 3501 §7.4.2). Recursion ends at the scanner's depth.
    mutating func append(bodyOf index: Int, in structure: MIMEStructure, isExtended: Bool) {
        let part = structure.parts[index]
        append(UInt8(ascii: "("))
        if part.kind == .multipart {
            for child in part.children { append(bodyOf: child, in: structure, isExtended: isExtended) }
            // There is no multipart without parts here.
            if part.children.isEmpty { append(Self.emptyPart) }
            append(UInt8(ascii: " "))
            append(string: part.type.subword.isEmpty ? Array("mixed".utf8) : part.type.subword)
            if isExtended {
                append(UInt8(ascii: " "))
                append(parameters: part.type.parameters)
                appendTail(of: part)
            }
            return append(UInt8(ascii: ")"))
        }
        append(string: part.type.word)
        append(UInt8(ascii: " "))
        append(string: part.type.subword)
        append(UInt8(ascii: " "))
        append(parameters: part.type.parameters)
        append(UInt8(ascii: " "))
        append(nstring: part.value(of: .contentID))
        append(UInt8(ascii: " "))
        append(nstring: part.value(of: .contentDescription))
        append(UInt8(ascii: " "))
        let encoding = MIMEHeaderValue(part.value(of: .contentTransferEncoding) ?? []).word
        append(string: encoding.isEmpty ? Array("7bit".utf8) : encoding)
        append(UInt8(ascii: " "))
        append(number: part.body.count)
        if part.kind == .message, let child = part.children.first {
            append(UInt8(ascii: " "))
            append(envelopeOf: structure.parts[child])
            append(UInt8(ascii: " "))
            append(bodyOf: child, in: structure, isExtended: isExtended)
        }
        if part.kind == .message || asciiMatches(part.type.word, "text") {
            append(UInt8(ascii: " "))
            append(number: part.bodyLines)
        }
        if isExtended {
            append(UInt8(ascii: " "))
            append(nstring: part.value(of: .contentMD5))
            appendTail(of: part)
        }
        append(UInt8(ascii: ")"))
    }

    private static var emptyPart: StaticString { "(\"text\" \"plain\" NIL NIL NIL \"7bit\" 0 0)" }

    private mutating func append(parameters: [MIMEHeaderValue.Parameter]) {
        guard !parameters.isEmpty else { return append("NIL") }
        append(UInt8(ascii: "("))
        for (index, parameter) in parameters.enumerated() {
            if index > 0 { append(UInt8(ascii: " ")) }
            append(string: parameter.name)
            append(UInt8(ascii: " "))
            append(string: parameter.value)
        }
        append(UInt8(ascii: ")"))
    }

    /// Disposition, language, location.
    private mutating func appendTail(of part: MIMEStructure.Part) {
        append(UInt8(ascii: " "))
        if let disposition = part.value(of: .contentDisposition).map({ MIMEHeaderValue($0) }), !disposition.word.isEmpty
        {
            append(UInt8(ascii: "("))
            append(string: disposition.word)
            append(UInt8(ascii: " "))
            append(parameters: disposition.parameters)
            append(UInt8(ascii: ")"))
        } else {
            append("NIL")
        }
        append(UInt8(ascii: " "))
        let languages = part.value(of: .contentLanguage).map { MIMEHeaderValue.words($0) } ?? []
        if languages.isEmpty {
            append("NIL")
        } else if languages.count == 1 {
            append(string: languages[0])
        } else {
            append(UInt8(ascii: "("))
            for (index, language) in languages.enumerated() {
                if index > 0 { append(UInt8(ascii: " ")) }
                append(string: language)
            }
            append(UInt8(ascii: ")"))
        }
        append(UInt8(ascii: " "))
        append(nstring: part.value(of: .contentLocation))
    }
}

extension MIMEStructure.Part {
    func addresses(_ field: MIMEField) -> [MIMEAddresses.Element] {
        value(of: field).map { MIMEAddresses.parse($0) } ?? []
    }
}

extension MIMEHeaderValue {
    /// The words of a list, at most 32 of them (`Content-Language`).
    static func words(_ value: [UInt8]) -> [[UInt8]] {
        var reader = MIMETokenReader(value)
        var words: [[UInt8]] = []
        repeat {
            let word = reader.token()
            if !word.isEmpty { words.append(word) }
        } while words.count < 32 && reader.skip(UInt8(ascii: ","))
        return words
    }
}
