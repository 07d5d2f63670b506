import Glibc

@testable import Gateway
@testable import Protocols

/// Paths and IP addresses. Input: the text.
enum AddressTarget {
    static func run(_ bytes: [UInt8]) {
        path(bytes)
        literal(bytes)
    }

    private static func path(_ bytes: [UInt8]) {
        var at = 0
        guard let path = try? withExact(bytes, { try AddressParser.parsePath($0, at: &at) }) else {
            return requireSame(at, 0, "the position after a fault")
        }
        require(at > 0 && at <= bytes.count && bytes[at - 1] == UInt8(ascii: ">"), "the position behind a path")
        // What follows a path is none of its business.
        var end = 0
        let alone = try? withExact(bytes[..<at]) { try AddressParser.parsePath($0, at: &end) }
        require(alone == path && end == at, "a path depends on what follows")
        guard case .mailbox(let address) = path else { return }
        let printed = Array("<\(address)>".utf8)
        var again = 0
        let read = try? withExact(printed) { try AddressParser.parsePath($0, at: &again) }
        require(read == path && again == printed.count, "\(address) is not read as it is written")
        require(!printed.contains(where: isControl), "a control byte in \(printed)")
        require((1...AddressParser.localPartMaxBytes).contains(address.localPart.utf8.count), "length of a local part")
        require(address.domainText.utf8.count <= AddressParser.domainMaxBytes, "length of a domain")
        guard let domain = address.domain else { return require(address.isPostmaster, "an address without a domain") }
        // The domain is what stands behind the last unquoted @, and nothing else (T-C1).
        let inner = bytes[1..<at - 1]
        requireSame(address.domainText, text(inner[(lastAt(inner) + 1)...]), "the domain")
        if case .name(let name) = domain {
            require(
                !name.utf8.contains { $0 >= 65 && $0 <= 90 } && name.lowercased().utf8.count > 0, "case of a domain")
            require(name.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { !$0.isEmpty }, "labels")
        }
        requireSame(try? MailAddress(validating: address.description), address, "an address without brackets")
        requireSame(try? MailDomain(validating: address.domainText), domain, "a domain alone")
    }

    /// Found by another way than the parser's.
    private static func lastAt(_ bytes: ArraySlice<UInt8>) -> Int {
        var last = bytes.startIndex - 1
        var isQuoted = false
        var isEscaped = false
        for (index, byte) in zip(bytes.indices, bytes) {
            if isEscaped {
                isEscaped = false
            } else if isQuoted, byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else if byte == UInt8(ascii: "\"") {
                isQuoted.toggle()
            } else if byte == UInt8(ascii: "@"), !isQuoted {
                last = index
            }
        }
        return last
    }

    /// Against the C library's reader.
    private static func literal(_ bytes: [UInt8]) {
        guard bytes.count <= 45, !bytes.contains(0), let given = String(validating: bytes, as: UTF8.self) else {
            return
        }
        let ours = IPAddress(given)
        var v4 = in_addr()
        var v6 = in6_addr()
        if inet_pton(AF_INET, given, &v4) == 1 {
            requireSame(ours, IPAddress(v4: UInt32(bigEndian: v4.s_addr)), "an IPv4 address")
        } else if inet_pton(AF_INET6, given, &v6) == 1 {
            requireSame(ours, withUnsafeBytes(of: v6) { IPAddress(bytes: Array($0)) }, "an IPv6 address")
        } else {
            require(ours == nil, "\(given) is no address")
        }
        guard let ours else { return }
        requireSame(IPAddress(ours.description), ours, "an address printed")
        requireSame(IPAddress(bytes: ours.bytes), ours, "an address as bytes")
    }
}

/// Parameters of MAIL and RCPT. Input: options (SMTPUTF8), then what stands behind the path.
enum ParametersTarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let smtpUTF8 = input.byte() & 1 == 1
        // The session lets no control byte through.
        let line = input.all().filter { !isControl($0) }
        mail(line)
        recipient(line, smtpUTF8)
    }

    private static func mail(_ line: [UInt8]) {
        func parse(_ line: [UInt8]) -> MailParameters? {
            withExact(line) {
                var cursor = SMTPLineCursor($0)
                let parameters = try? cursor.mailParameters()
                require(cursor.position <= line.count, "the cursor ran away")
                if parameters != nil { require(cursor.isAtEnd, "parameters end before the line") }
                return parameters
            }
        }
        guard let parameters = parse(line) else { return }
        var printed = ""
        if let size = parameters.size {
            require(size >= 0, "a size of \(size)")
            printed += " SIZE=\(size)"
        }
        if let body = parameters.body { printed += body == .sevenBit ? " BODY=7BIT" : " BODY=8BITMIME" }
        if parameters.smtpUTF8 { printed += " SMTPUTF8" }
        if let ret = parameters.ret { printed += ret == .full ? " RET=FULL" : " RET=HDRS" }
        if let envid = parameters.envid {
            require(envid.utf8.count <= 100 && envid.utf8.allSatisfy { (33...126).contains($0) }, "ENVID \(envid)")
            printed += " ENVID=\(envid)"
        }
        requireSame(parse(Array(printed.utf8)), parameters, "\(printed)")
    }

    private static func recipient(_ line: [UInt8], _ smtpUTF8: Bool) {
        func parse(_ line: [UInt8]) -> RecipientParameters? {
            withExact(line) {
                var cursor = SMTPLineCursor($0)
                let parameters = try? cursor.recipientParameters(smtpUTF8: smtpUTF8)
                if parameters != nil { require(cursor.isAtEnd, "parameters end before the line") }
                return parameters
            }
        }
        guard let parameters = parse(line) else { return }
        var printed = ""
        if let notify = parameters.notify {
            require(NotifyConditions(text: notify.text) == notify, "NOTIFY as the spool has it")
            printed += " NOTIFY=\(notify.text)"
        }
        if let orcpt = parameters.orcpt {
            require(orcpt.utf8.count <= 500 && !orcpt.utf8.contains { $0 <= 32 || $0 == 127 }, "ORCPT \(orcpt)")
            require(smtpUTF8 || orcpt.utf8.allSatisfy { $0 < 128 }, "an international ORCPT without SMTPUTF8")
            printed += " ORCPT=\(orcpt)"
        }
        requireSame(parse(Array(printed.utf8)), parameters, "\(printed)")
    }
}

/// xtext, the forms of international addresses, and XCLIENT's attributes. Input: the text.
enum XTextTarget {
    static func run(_ bytes: [UInt8]) {
        let encoded = XText.encode(bytes)
        require(encoded.utf8.allSatisfy { (33...126).contains($0) && $0 != 61 }, "xtext of \(bytes)")
        requireSame(XText.decode(encoded), bytes, "xtext of \(bytes)")
        let given = text(bytes)
        if let decoded = XText.decode(given) {
            requireSame(XText.decode(XText.encode(decoded)), decoded, "xtext printed")
            require(decoded.count <= given.utf8.count, "xtext grew")
        }
        address(given)
        attributes(bytes.filter { !isControl($0) })
    }

    private static func address(_ given: String) {
        let isPlain =
            !given.isEmpty && !given.unicodeScalars.contains { $0.value < 32 || (127...159).contains($0.value) }
        let forms = [UTF8AddressText.encodeXText(given), UTF8AddressText.encodeUnitext(given)]
        require(forms[0].utf8.allSatisfy { (33...126).contains($0) }, "utf-8-addr-xtext of \(given)")
        for form in forms {
            require(!form.utf8.contains { $0 <= 32 || $0 == 127 }, "a form of \(given)")
            if isPlain { require(UTF8AddressText.decode(form).map(Array.init(_:)) == Array(given), "\(form)") }
        }
        if let decoded = UTF8AddressText.decode(given) {
            require(!decoded.unicodeScalars.contains { $0.value < 32 || (127...159).contains($0.value) }, "controls")
            let again = UTF8AddressText.decode(UTF8AddressText.encodeXText(decoded))
            require(again?.unicodeScalars.elementsEqual(decoded.unicodeScalars) == true, "\(given) printed")
        }
    }

    private static func attributes(_ line: [UInt8]) {
        func parse(_ line: [UInt8]) -> [XClientAttribute]? {
            withExact(line) {
                var cursor = SMTPLineCursor($0)
                return try? cursor.xclientAttributes()
            }
        }
        guard let attributes = parse(line) else { return }
        require((1...XClientAttribute.Name.allCases.count).contains(attributes.count), "attributes")
        let printed = attributes.map {
            "\($0.name.rawValue)=\($0.value.map { XText.encode($0.utf8) } ?? "[UNAVAILABLE]")"
        }
        for attribute in attributes {
            require(attribute.value?.utf8.contains(where: isControl) != true, "a control byte in an attribute")
        }
        // What is left of `IPV6:` alone, or of `IPV6:[UNAVAILABLE]`, cannot be written; one that begins so again loses it again.
        let isPrintable = attributes.allSatisfy {
            guard let value = $0.value else { return true }
            let isUnwritable = value.isEmpty || ["[UNAVAILABLE]", "[TEMPUNAVAIL]"].contains(value.uppercased())
            return !isUnwritable && !($0.name == .address && value.lowercased().hasPrefix("ipv6:"))
        }
        if isPrintable { requireSame(parse(Array(printed.joined(separator: " ").utf8)), attributes, "\(printed)") }
    }
}

/// The PROXY header: never decided early, never differently later. Input: a connection's first bytes.
enum ProxyTarget {
    static func run(_ bytes: [UInt8]) {
        let whole = withExact(bytes) { ProxyHeader.parse($0) }
        var isDecided = false
        for count in 0..<min(bytes.count, 1_100) {
            switch withExact(bytes[..<count], { ProxyHeader.parse($0) }) {
            case .needMore: require(!isDecided, "needs more after it was decided")
            case let decided:
                isDecided = true
                requireSame(decided, whole, "decided at \(count)")
            }
        }
        switch whole {
        case .needMore:
            require(bytes.count < 16 + ProxyHeader.addressesMaxBytes, "never decided")
            require(bytes.first == 13 || bytes.count < ProxyHeader.lineMaxBytes, "a line that is never decided")
        case .invalid: break
        case .parsed(let consumed, let endpoints):
            require((1...16 + ProxyHeader.addressesMaxBytes).contains(consumed) && consumed <= bytes.count, "consumed")
            if bytes[0] != 13 { require(hasOnlyCRLF(bytes[consumed - 2..<consumed].suffix(2)), "the line's end") }
            guard let endpoints else { return }
            check(endpoints)
        }
    }

    private static func check(_ endpoints: ProxyHeader.Endpoints) {
        let ports = "\(endpoints.sourcePort) \(endpoints.destinationPort)"
        guard endpoints.source.isV4 == endpoints.destination.isV4 else { return }
        // An IPv4 address that came in its IPv6 form is printed as what it is.
        let line = "PROXY TCP\(endpoints.source.isV4 ? 4 : 6) \(endpoints.source) \(endpoints.destination) \(ports)\r\n"
        requireSame(
            withExact(Array(line.utf8)) { ProxyHeader.parse($0) }, .parsed(consumed: line.utf8.count, endpoints), line)
        var binary: [UInt8] = [13, 10, 13, 10, 0, 13, 10] + Array("QUIT\n".utf8) + [0x21]
        binary += endpoints.source.isV4 ? [0x11, 0, 12] : [0x21, 0, 36]
        binary += endpoints.source.bytes + endpoints.destination.bytes
        for port in [endpoints.sourcePort, endpoints.destinationPort] {
            binary += [UInt8(port >> 8), UInt8(truncatingIfNeeded: port)]
        }
        requireSame(
            withExact(binary) { ProxyHeader.parse($0) }, .parsed(consumed: binary.count, endpoints),
            "version 2 of \(line)")
    }
}

/// DNS answers. Input: the message.
enum DNSTarget {
    static func run(_ bytes: [UInt8]) {
        // Read as a name to ask for.
        if bytes.count <= 300 {
            query(text(bytes))
            query(text(bytes.filter { DNSQuery.isHostByte($0) || $0 == UInt8(ascii: ".") }))
        }
        guard let answer = try? withExact(bytes, { try DNSAnswer.decode($0) }) else { return }
        require(answer.records.count + answer.unusableRecords <= DNSAnswer.recordsMax + 1, "records")
        require(answer.ttlSeconds <= UInt32(Int32.max) || answer.ttlSeconds == .max, "a TTL of \(answer.ttlSeconds)")
        require(answer.status == .success || answer.records.isEmpty, "records without success")
        name(answer.questionName)
        name(answer.canonicalName)
        for record in answer.records {
            switch record {
            case .mx(_, let host), .cname(let host), .ptr(let host): hostName(host)
            case .txt(let bytes): require(bytes.count <= 65_535, "TXT")
            case .a(let address): require(address.isV4, "an A record's address")
            case .aaaa: break
            }
        }
        // The additional section is nobody's business.
        if bytes.count < 65_000 {
            let longer = try? withExact(bytes + [0, 1, 2, 0xc0]) { try DNSAnswer.decode($0) }
            requireSame(longer, answer, "bytes behind the answer")
        }
    }

    private static func name(_ name: String) {
        // Each byte of a label at most doubled, or a U+FFFD of three.
        require(name.utf8.count <= 3 * 255, "a name of \(name.utf8.count) bytes")
        require(!name.utf8.contains { $0 >= 65 && $0 <= 90 }, "upper case in \(name)")
    }

    private static func hostName(_ host: String) {
        name(host)
        require(host.utf8.allSatisfy { DNSQuery.isHostByte($0) || $0 == UInt8(ascii: ".") }, "host \(host)")
        if !host.isEmpty {
            require((try? DNSQuery.encode(name: host, type: .a, id: 1)) != nil, "\(host) can't be asked")
        }
    }

    /// A question is read back from its own bytes.
    private static func query(_ name: String) {
        guard var message = try? DNSQuery.encode(name: name, type: .mx, id: 7) else { return }
        require(message.count <= 12 + 255 + 4 + 11, "the length of a query")
        message[2] |= 0x80
        let answer = try? withExact(message) { try DNSAnswer.decode($0) }
        let asked = name.hasSuffix(".") ? String(name.dropLast()) : name
        require(answer?.questionName == asked.lowercased() && answer?.id == 7, "the question \(name)")
    }
}
