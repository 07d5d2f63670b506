import CReactor
import Protocols

/// The form of a stored message: bytes only, no I/O.
///
/// ```text
/// X-Postern: 1 id=0RkZ… head=000001a4 content=0000000000002a1c dots=00000000 crc=1f0e2d3c headcrc=9a8b7c6d    fixed width
/// X-Postern-Gateway: 17 demo.test                                                                    ─┐
/// X-Postern-Client: 192.0.2.9 mail.sender.example TLSv1.3                                             │ head
/// X-Postern-From: BODY=8BITMIME <sender@sender.example>                                               │
/// X-Postern-To: NOTIFY=FAILURE ORCPT=rfc822;a@demo.test <a@demo.test>                                ─┘ one a recipient
/// Received: from …                                                                                   ─┐ content: what
/// Subject: …                                                                                         ─┘ leaves again
/// ```
///
/// It opens in any mail program, since the envelope is header fields. `head` and `content` are byte counts (hexadecimal),
/// `dots` counts the content's lines that begin with a dot, `crc` is the content's CRC32C and `headcrc` that of the first line up
/// to ` headcrc=` together with the head. `id` is the message's: after a power loss a new file may show what its blocks held before, and
/// that may be a whole mail file, of a message that left long ago. What the writer refuses to write, the reader refuses to believe.
enum MailFile {
    static let version = 1
    static let lead = "X-Postern: 1 id="
    /// With its CRLF.
    static let firstLineBytes = 123
    /// A transaction has at most 1,000 recipients of at most 320 + 500 + 40 bytes each.
    static let headMaxBytes = 1 << 20

    struct Sizes: Equatable, Sendable {
        /// Of the message, as the first line says.
        var id: QueueID
        var headBytes: Int
        var contentBytes: Int
        var linesBeginningWithDot: Int
        var contentCRC: UInt32
        /// Where the content begins in the file.
        var contentOffset: Int { MailFile.firstLineBytes + headBytes }
    }

    /// Why bytes are not a mail file.
    enum Damage: Error, Equatable, CustomStringConvertible {
        case tooShort
        case notAMailFile
        case unknownVersion
        case headChecksum
        case otherMessage(QueueID)
        case length(expected: Int, found: Int)
        case contentChecksum
        case envelope

        var description: String {
            switch self {
            case .tooShort: "the file is shorter than its head"
            case .notAMailFile: "the file does not begin with `X-Postern: 1`"
            case .unknownVersion: "the file is of a newer version of Postern"
            case .headChecksum: "the checksum of the envelope is wrong"
            case .otherMessage(let id): "the file holds what was another message (\(id))"
            case .length(let expected, let found): "the file has \(found) bytes where it should have \(expected)"
            case .contentChecksum: "the checksum of the content is wrong"
            case .envelope: "the envelope can't be read"
            }
        }
    }

    // MARK: Writing

    /// Of the head without its recipients: gateway, client and reverse-path, each bounded by the SMTP machine.
    static let headOtherBytes = 4 << 10

    /// What a recipient takes in the head.
    static func recipientBytes(_ recipient: Envelope.Recipient) -> Int {
        64 + recipient.path.utf8.count + (recipient.orcpt?.utf8.count ?? 0)
    }

    /// The envelope's lines.
    static func head(gatewayID: UInt64, domain: String, envelope: Envelope) -> [UInt8] {
        var output = ByteOutput()
        output.append("X-Postern-Gateway: ")
        output.append(text: "\(gatewayID) \(domain)\r\n")
        if !envelope.client.address.isEmpty {
            output.append("X-Postern-Client: ")
            output.append(text: envelope.client.address)
            output.append(" ")
            output.append(text: envelope.client.helo.isEmpty ? "-" : envelope.client.helo)
            output.append(" ")
            output.append(text: envelope.client.tls.isEmpty ? "-" : envelope.client.tls)
            output.append("\r\n")
        }
        output.append("X-Postern-From:")
        if envelope.is8Bit { output.append(" BODY=8BITMIME") }
        if envelope.needsSMTPUTF8 { output.append(" SMTPUTF8") }
        parameter(" RET=", envelope.ret, &output)
        parameter(" ENVID=", envelope.envid, &output)
        path(envelope.reversePath, &output)
        for recipient in envelope.recipients {
            output.append("X-Postern-To:")
            parameter(" NOTIFY=", recipient.notify, &output)
            parameter(" ORCPT=", recipient.orcpt, &output)
            path(recipient.path, &output)
        }
        return output.array
    }

    private static func parameter(_ name: StaticString, _ value: String?, _ output: inout ByteOutput) {
        guard let value else { return }
        output.append(name)
        output.append(text: value)
    }

    private static func path(_ path: String, _ output: inout ByteOutput) {
        output.append(" <")
        output.append(text: path)
        output.append(">\r\n")
    }

    /// - Parameter idText: 22 characters, see `QueueID`.
    static func firstLine(
        _ idText: String, head: [UInt8], contentBytes: Int, linesBeginningWithDot: Int, contentCRC: UInt32
    ) -> [UInt8] {
        precondition(head.count <= headMaxBytes)
        var line: [UInt8] = []
        line.reserveCapacity(firstLineBytes)
        line += lead.utf8
        line += idText.utf8
        line += " head=".utf8
        hexadecimal(UInt64(head.count), digits: 8, &line)
        line += " content=".utf8
        hexadecimal(UInt64(contentBytes), digits: 16, &line)
        line += " dots=".utf8
        hexadecimal(UInt64(UInt32(clamping: linesBeginningWithDot)), digits: 8, &line)
        line += " crc=".utf8
        hexadecimal(UInt64(contentCRC), digits: 8, &line)
        let crc = headCRC(line, head[...])
        line += " headcrc=".utf8
        hexadecimal(UInt64(crc), digits: 8, &line)
        line += "\r\n".utf8
        precondition(line.count == firstLineBytes)
        return line
    }

    private static func hexadecimal(_ value: UInt64, digits: Int, _ line: inout [UInt8]) {
        for shift in stride(from: (digits - 1) * 4, through: 0, by: -4) {
            let digit = UInt8(value >> UInt64(shift) & 15)
            line.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
        }
    }

    private static func headCRC(_ line: [UInt8], _ head: ArraySlice<UInt8>) -> UInt32 {
        let crc = line.withUnsafeBytes { cr_crc32c(0, $0.baseAddress, $0.count) }
        return head.withUnsafeBytes { cr_crc32c(crc, $0.baseAddress, $0.count) }
    }

    // MARK: Reading

    /// The sizes in a first line, its checksum not yet compared (that needs the head).
    static func sizes(_ bytes: ArraySlice<UInt8>) throws(Damage) -> Sizes {
        guard bytes.count >= firstLineBytes else { throw .tooShort }
        let line = Array(bytes.prefix(firstLineBytes))
        guard line.starts(with: lead.utf8) else {
            throw line.starts(with: "X-Postern: ".utf8) ? .unknownVersion : .notAMailFile
        }
        var at = lead.utf8.count + QueueID.textLength
        guard let id = QueueID(String(decoding: line[lead.utf8.count..<at], as: UTF8.self)),
            line[at...].starts(with: " head=".utf8)
        else { throw .notAMailFile }
        at += 6
        func field(_ digits: Int, then text: String) throws(Damage) -> UInt64 {
            var value: UInt64 = 0
            for byte in line[at..<at + digits] {
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(byte - UInt8(ascii: "0"))
                case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(byte - UInt8(ascii: "a") + 10)
                default: throw .notAMailFile
                }
            }
            at += digits
            guard line[at...].starts(with: text.utf8) else { throw .notAMailFile }
            at += text.utf8.count
            return value
        }
        let head = try field(8, then: " content=")
        let content = try field(16, then: " dots=")
        let dots = try field(8, then: " crc=")
        let crc = try field(8, then: " headcrc=")
        _ = try field(8, then: "\r\n")
        guard head <= headMaxBytes, content <= Int.max / 2 else { throw .notAMailFile }
        return Sizes(
            id: id, headBytes: Int(head), contentBytes: Int(content), linesBeginningWithDot: Int(dots),
            contentCRC: UInt32(crc))
    }

    /// A file that has fewer bytes than its first line says, or no whole first line.
    ///
    /// - Parameter bytes: the first line, or as much of it as there is.
    static func isCutOff(_ bytes: [UInt8], fileBytes: Int) -> Bool {
        guard fileBytes >= firstLineBytes else { return true }
        guard let sizes = try? sizes(bytes[...]) else { return false }
        return fileBytes < sizes.contentOffset + sizes.contentBytes
    }

    /// A file that is what was written, to its last byte.
    static func isWhole(_ bytes: [UInt8], of id: QueueID) -> Bool {
        guard let head = try? readHead(bytes[...], of: id),
            bytes.count == head.sizes.contentOffset + head.sizes.contentBytes
        else { return false }
        return bytes.withUnsafeBytes {
            cr_crc32c(0, $0.baseAddress! + head.sizes.contentOffset, head.sizes.contentBytes)
        } == head.sizes.contentCRC
    }

    /// A parsed head: the content's bytes are not looked at.
    struct Head: Equatable, Sendable {
        var sizes: Sizes
        var gatewayID: UInt64
        var domain: String
        var envelope: Envelope
    }

    /// Reads first line and head, both of which must be in `bytes` (more may follow).
    ///
    /// - Parameter id: of the message that the file is named after.
    static func readHead(_ bytes: ArraySlice<UInt8>, of id: QueueID) throws(Damage) -> Head {
        let sizes = try sizes(bytes)
        let start = bytes.startIndex + firstLineBytes
        guard bytes.endIndex - start >= sizes.headBytes else { throw .tooShort }
        let head = bytes[start..<start + sizes.headBytes]
        let signed = Array(bytes[bytes.startIndex..<bytes.startIndex + firstLineBytes - 19])
        let given = String(decoding: bytes[(start - 10)..<(start - 2)], as: UTF8.self)
        guard UInt32(given, radix: 16) == headCRC(signed, head) else { throw .headChecksum }
        guard sizes.id == id else { throw .otherMessage(sizes.id) }
        var parser = HeadParser(rest: head)
        return try parser.parse(sizes)
    }

    /// The head of a record in a journal, which has the first line's numbers in its own header.
    static func readHead(
        record head: ArraySlice<UInt8>, of id: QueueID, contentBytes: Int, linesBeginningWithDot: Int,
        contentCRC: UInt32
    ) throws(Damage) -> Head {
        var parser = HeadParser(rest: head)
        return try parser.parse(
            Sizes(
                id: id, headBytes: head.count, contentBytes: contentBytes, linesBeginningWithDot: linesBeginningWithDot,
                contentCRC: contentCRC))
    }

    private struct HeadParser {
        var rest: ArraySlice<UInt8>

        mutating func line(_ name: String) throws(Damage) -> ArraySlice<UInt8>? {
            guard rest.starts(with: name.utf8) else { return nil }
            guard let end = rest.firstIndex(of: 13), rest[end...].starts(with: [13, 10]) else { throw .envelope }
            let value = rest[(rest.startIndex + name.utf8.count)..<end]
            rest = rest[(end + 2)...]
            return value
        }

        mutating func parse(_ sizes: Sizes) throws(Damage) -> Head {
            guard let gateway = try line("X-Postern-Gateway: "),
                let space = gateway.firstIndex(of: 32),
                let id = UInt64(String(decoding: gateway[..<space], as: UTF8.self))
            else { throw .envelope }
            var envelope = Envelope(reversePath: "", recipients: [])
            if let client = try line("X-Postern-Client: ") {
                let words = client.split(separator: 32, maxSplits: 2).map { String(decoding: $0, as: UTF8.self) }
                guard words.count == 3 else { throw .envelope }
                envelope.client = Envelope.Client(
                    address: words[0], helo: words[1] == "-" ? "" : words[1], tls: words[2] == "-" ? "" : words[2])
            }
            guard let from = try line("X-Postern-From:") else { throw .envelope }
            let (fromWords, path) = try Self.words(from)
            envelope.reversePath = path
            for word in fromWords {
                if word == "BODY=8BITMIME" {
                    envelope.is8Bit = true
                } else if word == "SMTPUTF8" {
                    envelope.needsSMTPUTF8 = true
                } else if word.hasPrefix("RET=") {
                    envelope.ret = String(word.dropFirst(4))
                } else if word.hasPrefix("ENVID=") {
                    envelope.envid = String(word.dropFirst(6))
                } else {
                    throw .envelope
                }
            }
            while let to = try line("X-Postern-To:") {
                let (words, path) = try Self.words(to)
                var recipient = Envelope.Recipient(path: path)
                for word in words {
                    if word.hasPrefix("NOTIFY=") {
                        recipient.notify = String(word.dropFirst(7))
                    } else if word.hasPrefix("ORCPT=") {
                        recipient.orcpt = String(word.dropFirst(6))
                    } else {
                        throw .envelope
                    }
                }
                envelope.recipients.append(recipient)
            }
            guard rest.isEmpty, !envelope.recipients.isEmpty else { throw .envelope }
            let domain = String(decoding: gateway[(space + 1)...], as: UTF8.self)
            return Head(sizes: sizes, gatewayID: id, domain: domain, envelope: envelope)
        }

        /// ` A=1 B=2 <path>`: no parameter holds a space, so the first ` <` begins the path, which ends with the line.
        static func words(_ line: ArraySlice<UInt8>) throws(Damage) -> ([String], String) {
            var at = line.startIndex
            var words: [String] = []
            while at < line.endIndex {
                guard line[at] == 32, at + 1 < line.endIndex else { throw .envelope }
                if line[at + 1] == UInt8(ascii: "<") {
                    guard line.last == UInt8(ascii: ">"), line.endIndex - at >= 3 else { throw .envelope }
                    return (words, String(decoding: line[(at + 2)..<(line.endIndex - 1)], as: UTF8.self))
                }
                let end = line[(at + 1)...].firstIndex(of: 32) ?? line.endIndex
                words.append(String(decoding: line[(at + 1)..<end], as: UTF8.self))
                at = end
            }
            throw .envelope
        }
    }

    // MARK: Names

    /// `0Rk…-10268.eml`: id and content bytes, so that a listing is the index (design rule M6: no outside text).
    static func name(_ id: QueueID, contentBytes: Int) -> String { name(id.description, contentBytes: contentBytes) }

    static func name(_ idText: String, contentBytes: Int) -> String { "\(idText)-\(contentBytes).eml" }

    /// Marks settled recipients beside a message that still waits for others.
    static func stateName(_ id: QueueID) -> String { "\(id).state" }

    /// What may lie in a mail directory. Total: each name is exactly one of these.
    enum Entry: Equatable {
        case message(QueueID, contentBytes: Int)
        case state(QueueID)
        /// Never promised (no `250` was sent): goes at recovery, unless this run is writing it.
        case part(QueueID?)
        /// Set aside earlier.
        case damaged
        case head
        /// Not ours: left alone.
        case foreign
    }

    static let damagedSuffix = ".damaged"
    static let headName = "store.head"

    static func entry(_ name: String) -> Entry {
        if name == headName { return .head }
        if name.hasSuffix(damagedSuffix) { return .damaged }
        if name.hasSuffix(".part") { return .part(QueueID(name.prefix(QueueID.textLength))) }
        guard let id = QueueID(name.prefix(QueueID.textLength)) else { return .foreign }
        let rest = name.dropFirst(QueueID.textLength)
        if rest == ".state" { return .state(id) }
        guard rest.hasPrefix("-"), rest.hasSuffix(".eml"),
            let bytes = Int(rest.dropFirst().dropLast(4)), bytes >= 0, Self.name(id, contentBytes: bytes) == name
        else { return .foreign }
        return .message(id, contentBytes: bytes)
    }
}
