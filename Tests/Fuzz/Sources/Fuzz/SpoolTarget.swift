import Glibc
import Reactor

@testable import Gateway
@testable import Protocols

/// The spool's files: what the writer wrote is read as it was, what the reader takes is written again as it was, all
/// else is damage.
///
/// Input: a kind, then what the kind needs.
enum MailFileTarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        switch input.byte() & 7 {
        case 0: file(input.all())
        case 1: head(input.all())
        case 2: commands(input.all())
        case 3: small(input.all())
        case 4: small(SignedLine.encode(text(input.all().filter { $0 != 10 })))
        case 5: names(text(input.all()))
        case 6: superblock(input.all())
        default: superblock(SignedLine.encode(text(input.all())))
        }
    }

    private static let id = QueueID(milliseconds: 1_767_225_600_000, start: 7, reactor: 1, counter: 42)

    /// A whole file.
    private static func file(_ bytes: [UInt8]) {
        if let sizes = try? MailFile.sizes(bytes[...]) {
            require((0...MailFile.headMaxBytes).contains(sizes.headBytes) && sizes.contentBytes >= 0, "sizes")
        }
        let isCutOff = MailFile.isCutOff(Array(bytes.prefix(MailFile.firstLineBytes)), fileBytes: bytes.count)
        do throws(MailFile.Damage) {
            // The name would be made from the id.
            let head = try MailFile.readHead(bytes[...], of: try MailFile.sizes(bytes[...]).id)
            let sizes = head.sizes
            requireSame(isCutOff, bytes.count < sizes.contentOffset + sizes.contentBytes, "cut off")
            again(head)
        } catch {
            requireSentence(error.description)
        }
    }

    /// A head under a first line that fits.
    private static func head(_ bytes: [UInt8]) {
        file(
            MailFile.firstLine(id.description, head: bytes, contentBytes: 0, linesBeginningWithDot: 0, contentCRC: 0)
                + bytes)
    }

    /// What was read is written and read the same, as long as the text is UTF-8, as all that the machine lets in.
    private static func again(_ head: MailFile.Head) {
        require(!head.envelope.recipients.isEmpty, "an envelope without recipients")
        let texts = head.envelope.recipients.flatMap { [$0.path, $0.notify ?? "", $0.orcpt ?? ""] }
        guard !(texts + [head.envelope.reversePath, head.domain]).contains(where: { $0.contains("\u{fffd}") }) else {
            return
        }
        let written = MailFile.head(gatewayID: head.gatewayID, domain: head.domain, envelope: head.envelope)
        let line = MailFile.firstLine(
            head.sizes.id.description, head: written, contentBytes: head.sizes.contentBytes,
            linesBeginningWithDot: head.sizes.linesBeginningWithDot, contentCRC: head.sizes.contentCRC)
        guard var read = try? MailFile.readHead((line + written)[...], of: head.sizes.id) else {
            fail("what was written is not read")
        }
        read.sizes.headBytes = head.sizes.headBytes
        requireSame(read, head, "read, written and read")
    }

    /// Every envelope that a client can make is written and read the same.
    private static func commands(_ bytes: [UInt8]) {
        var session = SMTPServerSession(settings: SMTPServerSettings(hostname: "mx.example"))
        var output = ByteOutput()
        session.greet(into: &output)
        var envelope: Envelope?
        var helo = ""
        var consumed = 0
        while true {
            switch withExact(bytes, { session.next($0, consumed: &consumed, into: &output) }) {
            case .hello(let name, _):
                // As ReceiveSession keeps it: a word. `-` stands for none.
                helo = name == "-" ? "" : text(name.utf8.map { $0 > 32 ? $0 : UInt8(ascii: "?") })
            case .mail(let path, let parameters):
                envelope = Envelope(
                    reversePath: path.description, is8Bit: parameters.body == .eightBitMIME,
                    needsSMTPUTF8: parameters.smtpUTF8, ret: parameters.ret.map { $0 == .full ? "FULL" : "HDRS" },
                    envid: parameters.envid, recipients: [],
                    client: Envelope.Client(address: "192.0.2.1", helo: helo, tls: "TLSv1.3"))
                session.acceptMail(into: &output)
            case .recipient(let address, let parameters):
                envelope?.recipients.append(
                    Envelope.Recipient(
                        path: address.description, notify: parameters.notify?.text, orcpt: parameters.orcpt))
                session.acceptRecipient(into: &output)
            case .data, .chunk:
                if let envelope { written(envelope) }
                session.refuseContent(Reply(452, nil, "no"), into: &output)
            case .needMore, .quit, .hangUp, .startTLS:
                if let envelope, !envelope.recipients.isEmpty { written(envelope) }
                return
            default: break
            }
        }
    }

    private static func written(_ envelope: Envelope) {
        let head = MailFile.head(gatewayID: 17, domain: "demo.test", envelope: envelope)
        let most = MailFile.headOtherBytes + envelope.recipients.reduce(0) { $0 + MailFile.recipientBytes($1) }
        require(head.count <= most, "a head of \(head.count) bytes where \(most) were reckoned with")
        require(hasOnlyCRLF(head) && head.suffix(2) == [13, 10], "line ends of a head")
        let line = MailFile.firstLine(
            id.description, head: head, contentBytes: 12, linesBeginningWithDot: 3, contentCRC: 4)
        do throws(MailFile.Damage) {
            let read = try MailFile.readHead((line + head)[...], of: id)
            requireSame(read.envelope, envelope, "an envelope written and read")
            require(read.gatewayID == 17 && read.domain == "demo.test", "whose it is")
            requireSame(read.sizes.contentBytes, 12, "the content's size")
        } catch {
            fail("an envelope written is \(error): \(envelope)")
        }
    }

    /// Signed lines and parcel states.
    private static func small(_ bytes: [UInt8]) {
        if let words = SignedLine.decode(bytes) {
            // Without the spaces between.
            let text = words.joined(separator: " ")
            requireSame(SignedLine.decode(SignedLine.encode(text)) ?? [], words, "a signed line")
        }
        guard let state = ParcelState(bytes) else { return }
        require(state.settled.allSatisfy { $0 >= 0 }, "settled \(state.settled)")
        requireSame(ParcelState(state.encoded()), state, "a state written and read")
    }

    /// Names in a mail directory, and ids.
    private static func names(_ name: String) {
        switch MailFile.entry(name) {
        case .message(let id, let bytes):
            require(bytes >= 0 && MailFile.name(id, contentBytes: bytes) == name, "message \(name)")
        case .state(let id): requireSame(MailFile.stateName(id), name, "a state's name")
        case .part, .damaged, .head, .foreign: break
        }
        guard let id = QueueID(name) else { return }
        require(id.description == name, "id \(name)")
        requireSame(
            MailFile.entry(MailFile.name(id, contentBytes: 5)), .message(id, contentBytes: 5), "a message's name")
    }

    /// A start on a superblock with any content: taken and one further, or refused and untouched.
    private static func superblock(_ bytes: [UInt8]) {
        let disk = Disk(bytes)
        func start() throws(SpoolFault) -> Superblock {
            try Superblock.open(3, path: "/data", files: disk, wall: 1_795_530_600_000_000_000, boot: "b")
        }
        do throws(SpoolFault) {
            let first = try start()
            let second = try start()
            require(first.start > 0 && second.start == first.start + 1, "start numbers")
            requireSame(second.firstStartOfThisBoot, first.firstStartOfThisBoot, "the first start of this boot")
        } catch {
            requireSentence(error.description)
            require(disk.file == bytes || disk.hasStarted, "a superblock that was refused and changed")
        }
    }

    /// One file.
    private final class Disk: FileExecutor {
        var file: [UInt8]
        var hasStarted = false

        init(_ file: [UInt8]) { self.file = file }

        func carryOut(_ step: FileStep) -> FileOutcome {
            switch step {
            case .readWhole(_, _, let maxBytes):
                file.count <= maxBytes ? FileOutcome(file.count, data: file) : FileOutcome(-Int(EFBIG))
            case .place(_, _, let vectors):
                place(vectors)
            default: FileOutcome(0)
            }
        }

        private func place(_ vectors: [IOVector]) -> FileOutcome {
            hasStarted = true
            file = vectors.flatMap { Array(UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len)) }
            return FileOutcome(0)
        }
    }
}
