import Protocols

/// Bytes in, events out.
var protocolParts: [Part] {
    [
        // A whole transaction of a client that pipelines, by the machine alone.
        Part(name: "smtp-server") {
            let owner = ServerOwner()
            return { owner.transaction() }
        },
        // Line ends, dots and the terminator of DATA.
        Part(name: "content-scan") {
            let data = Sample.data.fixed
            return {
                var scanner = ContentScanner()
                var position = 0
                var stop = ContentScanner.Stop.dot
                while stop == .dot { (stop, _) = scanner.scan(data, from: &position, framing: .dots) }
                precondition(stop == .endOfData && position == data.count)
            }
        },
        Part(name: "header-scan") {
            let content = Sample.content.fixed
            return {
                var scanner = HeaderScanner()
                scanner.received(content)
                precondition(scanner.isInBody && scanner.fieldCount == 12)
            }
        },
        Part(name: "address-parse") {
            let path = Array("<\(Sample.recipient)>".utf8).fixed
            return {
                var position = 0
                let parsed = try? AddressParser.parsePath(path, at: &position)
                precondition(parsed != nil)
                keep(parsed)
            }
        },
        Part(name: "trace-header") {
            var output = ByteOutput()
            let client = IPAddress("192.0.2.77")!
            let transmission = TransmissionProtocol(isExtended: true)
            return {
                TraceHeader(
                    helloName: "out3.sender.example", clientName: nil, clientAddress: client,
                    hostname: "mx1.provider.test",
                    transmission: transmission, queueID: "0RkVnGTtHQq00001000abc", onlyRecipient: Sample.recipient,
                    tlsDescription: nil, unixSeconds: 1_796_033_564
                ).write(into: &output)
                output.removeAll()
            }
        },
        // A whole transaction with a primary that offers PIPELINING and CHUNKING, by the machine alone.
        Part(name: "smtp-client") {
            let owner = ClientOwner()
            return { owner.transaction() }
        },
    ]
}

/// Answers a server's machine as `ReceiveSession` does, and drops the content.
private final class ServerOwner {
    private var machine: SMTPServerSession
    private var output = ByteOutput()
    private let envelope = Sample.envelope.fixed
    private let data = Sample.data.fixed
    private let queued = Reply(250, EnhancedStatus(2, 0, 0), "0RkVnGTtHQq00001000abc")

    init() {
        var settings = SMTPServerSettings(hostname: "mx1.provider.test")
        settings.transactionsMax = .max
        machine = SMTPServerSession(settings: settings)
        machine.greet(into: &output)
        feed(Array("EHLO out3.sender.example\r\n".utf8).fixed)
    }

    func transaction() {
        feed(envelope)
        feed(data)
        precondition(!machine.isInTransaction)
    }

    private func feed(_ input: UnsafeRawBufferPointer) {
        var consumed = 0
        while true {
            switch machine.next(input, consumed: &consumed, into: &output) {
            case .needMore: return output.removeAll()
            case .mail: machine.acceptMail(into: &output)
            case .recipient: machine.acceptRecipient(into: &output)
            case .data: machine.startContent(into: &output)
            case .endOfContent: machine.finishContent(queued, into: &output)
            case .hello, .content: break
            case let event: fatalError("not in this conversation: \(event)")
            }
        }
    }
}

/// A client's machine and the answers of a primary.
private final class ClientOwner {
    private var machine = SMTPClientSession(settings: SMTPClientSettings(helloName: "mx1.provider.test", tls: .never))
    private var output = ByteOutput()
    private let answers = Array("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Ok: queued as 4F1C2A0B33\r\n".utf8).fixed
    private let envelope = SMTPClientEnvelope(
        reversePath: Sample.sender, recipients: [.init(path: Sample.recipient)], size: Sample.content.count)
    private var delivered = 0

    init() {
        feed(
            Array(
                "220 primary.test\r\n250-primary.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250 CHUNKING\r\n"
                    .utf8
            ).fixed)
        precondition(machine.canSend)
    }

    func transaction() {
        let before = delivered
        _ = machine.send(envelope, into: &output)
        feed(UnsafeRawBufferPointer(start: nil, count: 0))
        feed(answers)
        precondition(delivered == before + 1)
    }

    private func feed(_ input: UnsafeRawBufferPointer) {
        var consumed = 0
        while true {
            switch machine.next(input, consumed: &consumed, into: &output) {
            case .needMore: return output.removeAll()
            case .sendContent(let id, _): machine.contentSent(id, into: &output)
            case .answered(let outcome): if outcome.recipients[0].reply.isPositive { delivered += 1 }
            case .ready, .recipientAnswered: break
            case let event: fatalError("not in this conversation: \(event)")
            }
        }
    }
}
