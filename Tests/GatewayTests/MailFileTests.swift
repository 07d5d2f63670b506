import Protocols
import Testing

@testable import Gateway

struct MailFileTests {
    private static let envelopes: [Envelope] = [
        Envelope(reversePath: "", recipients: [Envelope.Recipient(path: "x@demo.test")]),
        Envelope(
            reversePath: "\"a b> <c\"@sender.test", is8Bit: true, needsSMTPUTF8: true, ret: "HDRS", envid: "QQ314159",
            recipients: [
                Envelope.Recipient(path: "x@demo.test", notify: "SUCCESS,FAILURE", orcpt: "rfc822;x@demo.test"),
                Envelope.Recipient(path: "\"y> <z\"@demo.test", notify: "NEVER"),
                Envelope.Recipient(path: "postmaster"),
                Envelope.Recipient(path: "грета@пример.test", orcpt: "utf-8;\\x{433}@demo.test"),
            ], client: Envelope.Client(address: "2001:db8::1", helo: "[IPv6:2001:db8::1]", tls: "TLSv1.3")),
        Envelope(
            reversePath: "a@b.test", recipients: (0..<1_000).map { Envelope.Recipient(path: "user\($0)@demo.test") },
            client: Envelope.Client(address: "192.0.2.1")),
    ]

    private static let id = QueueID(milliseconds: 1_767_225_600_000, start: 7, reactor: 1, counter: 42)

    private func file(_ envelope: Envelope, content: [UInt8]) -> [UInt8] {
        let head = MailFile.head(gatewayID: 17, domain: "demo.test", envelope: envelope)
        let message = MessageContent()
        message.append(content)
        let line = MailFile.firstLine(
            Self.id.description, head: head, contentBytes: content.count, linesBeginningWithDot: 3,
            contentCRC: message.crc)
        #expect(line.count == MailFile.firstLineBytes)
        return line + head + content
    }

    @Test(arguments: envelopes.indices) func writtenIsRead(_ at: Int) throws {
        let envelope = Self.envelopes[at]
        let content = Array("Received: x\r\n\r\nbody\r\n".utf8)
        let bytes = file(envelope, content: content)
        let head = try MailFile.readHead(bytes[...], of: Self.id)
        #expect(head.envelope == envelope && head.gatewayID == 17 && head.domain == "demo.test")
        #expect(head.sizes.contentBytes == content.count && head.sizes.linesBeginningWithDot == 3)
        #expect(Array(bytes[head.sizes.contentOffset...]) == content)
        // The file opens in a mail program: it is a header section up to the message's own.
        let text = String(decoding: bytes[..<head.sizes.contentOffset], as: UTF8.self)
        #expect(text.split(separator: "\r\n").allSatisfy { $0.hasPrefix("X-Postern") })
    }

    @Test(arguments: [0, 1]) func everyTruncationIsDamage(_ at: Int) throws {
        let bytes = file(Self.envelopes[at], content: [])
        for count in 0..<bytes.count {
            #expect(throws: MailFile.Damage.self) { try MailFile.readHead(bytes[..<count], of: Self.id) }
        }
    }

    @Test(arguments: [0, 1]) func everyFlippedBitIsDamage(_ at: Int) throws {
        let bytes = file(Self.envelopes[at], content: [])
        for offset in bytes.indices {
            for bit in 0..<8 {
                var changed = bytes
                changed[offset] ^= 1 << bit
                #expect(throws: MailFile.Damage.self, "byte \(offset), bit \(bit)") {
                    try MailFile.readHead(changed[...], of: Self.id)
                }
            }
        }
    }

    @Test func anotherMessagesFileIsDamage() {
        let other = QueueID(milliseconds: 1_767_225_600_000, start: 7, reactor: 1, counter: 43)
        let bytes = file(Self.envelopes[0], content: [])
        #expect(throws: MailFile.Damage.otherMessage(Self.id)) { try MailFile.readHead(bytes[...], of: other) }
    }

    @Test func namesAreTotal() {
        let id = QueueID(milliseconds: 1_767_225_600_000, start: 7, reactor: 1, counter: 42)
        let cases: [(String, MailFile.Entry)] = [
            (MailFile.name(id, contentBytes: 10_268), .message(id, contentBytes: 10_268)),
            (MailFile.stateName(id), .state(id)), (MailFile.name(id, contentBytes: 1) + ".part", .part(id)),
            ("\(id).part", .part(id)), ("x.part", .part(nil)), (MailFile.headName, .head),
            (MailFile.name(id, contentBytes: 1) + MailFile.damagedSuffix, .damaged), ("\(id)", .foreign),
            ("\(id)-01.eml", .foreign), ("\(id)-.eml", .foreign), ("\(id)--1.eml", .foreign),
            ("\(id)-1.emlx", .foreign),
            ("\(id)-99999999999999999999.eml", .foreign), ("", .foreign), (".", .foreign), ("lost+found", .foreign),
            ("\(id)-1.eml ", .foreign), (String(repeating: "z", count: 22) + "-1.eml", .foreign),
        ]
        for (name, entry) in cases { #expect(MailFile.entry(name) == entry, "\(name)") }
    }

    @Test func idsPrintAndSort() throws {
        var last: QueueID?
        for milliseconds in [0, 1, 1_767_225_600_000, (1 << 48) - 1] as [Int64] {
            for start in [1, 65_535, 65_536, UInt32.max] {
                for counter in [0, 1, UInt32.max] {
                    let id = QueueID(milliseconds: milliseconds, start: start, reactor: 9, counter: counter)
                    #expect(id.milliseconds == milliseconds && id.start == start)
                    #expect(QueueID(id.description) == id && id.description.utf8.count == QueueID.textLength)
                    if let last { #expect(last < id && last.description < id.description) }
                    last = id
                }
            }
        }
        #expect(QueueID("") == nil && QueueID(String(repeating: "0", count: 21) + "-") == nil)
    }

    @Test func statesPrintAndRead() {
        for state in [(list: [], false), ([0], true), ([1, 4, 999], false)] as [(list: [Int], Bool)] {
            var value = ParcelState()
            (value.settled, value.delayNoticeSent) = state
            let bytes = value.encoded()
            #expect(ParcelState(bytes) == value)
            for at in bytes.indices {
                var changed = bytes
                changed[at] ^= 1
                #expect(ParcelState(changed) == nil, "byte \(at)")
                #expect(ParcelState(Array(bytes[..<at])) == nil)
            }
        }
    }
}
