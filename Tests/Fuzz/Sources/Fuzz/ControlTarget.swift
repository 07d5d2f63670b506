@testable import Gateway

/// The control socket's requests and answers: each line gets exactly one answer, which its own readers read.
///
/// Input: requests, one a line.
enum ControlTarget {
    private static let answersMax = 8

    static func run(_ bytes: [UInt8]) throws {
        let service = ControlService(try IdleMailProcess())
        var at = 0
        var count = 0
        while count < answersMax {
            let end = ControlSocket.lineEnd(bytes, from: at) ?? bytes.count
            require(end >= at && (end == bytes.count || bytes[end] == 10), "a line's end")
            let line = Array(bytes[at..<end])
            check(service.answer(line))
            request(line)
            answer(line)
            count += 1
            at = end + 1
            if at >= bytes.count { break }
        }
    }

    private static func check(_ answer: [UInt8]) {
        require(answer.last == 10 && !answer.dropLast().contains(10), "an answer is one line")
        guard let outcome = try? ControlProtocol.decode(ControlOutcome.self, answer) else {
            fail("an answer that its reader does not read: \(text(answer))")
        }
        require(outcome.ok == (outcome.error == nil), "an answer that is neither")
        // The document's own JSON reader agrees with the other one.
        if answer.count < DocumentValue.Limits.documentBytes {
            require((try? DocumentValue(json: text(answer))) != nil, "no JSON: \(text(answer))")
        }
        guard let fault = outcome.error else { return }
        requireSentence(fault.message)
    }

    private static func request(_ line: [UInt8]) {
        guard let request = try? ControlProtocol.decode(ControlRequest.self, line), let arguments = request.arguments
        else { return }
        guard let encoded = try? ControlProtocol.encode(arguments) else { fail("arguments can't be written") }
        require(!encoded.contains(10), "a line feed in a request")
        guard let again = try? ControlProtocol.decode(DocumentValue.self, encoded) else {
            fail("arguments written are not read: \(text(encoded))")
        }
        requireSame((try? ControlProtocol.encode(again)).map(text), text(encoded), "arguments printed and read")
    }

    /// The client's side: an answer from a server of another version, say.
    private static func answer(_ line: [UInt8]) {
        again(ServerStatus.self, line)
        again(GatewayReport.self, line)
        again(GatewaySummary.self, line)
        again(ControlFault.self, line)
        again(ControlAnswer<ControlCount>.self, line)
    }

    private static func again<Value: Codable>(_ type: Value.Type, _ line: [UInt8]) {
        guard let value = try? ControlProtocol.decode(type, line) else { return }
        guard let once = try? ControlProtocol.encode(value) else { return }  // numbers that JSON has not
        guard let second = try? ControlProtocol.decode(type, once) else { fail("\(type) is not read: \(text(once))") }
        requireSame((try? ControlProtocol.encode(second)).map(text), text(once), "\(type)")
    }
}
