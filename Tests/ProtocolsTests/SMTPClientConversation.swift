import Testing

@testable import Protocols

// A conversation is a list of the peer's turns; the client's turns and the events are compared with what is expected,
// with the peer's bytes whole, cut in two at every place, and one by one.

struct ClientMessage {
    var envelope: SMTPClientEnvelope
    var content: String

    init(_ recipients: String..., from: String = "s@a.example", content: String = "hello\r\n") {
        self.content = content
        envelope = SMTPClientEnvelope(
            reversePath: from, recipients: recipients.map { .init(path: $0) }, size: content.utf8.count)
        envelope.linesBeginningWithDot = content.split(separator: "\r\n").count(where: { $0.hasPrefix(".") })
    }
}

extension String {
    /// LF as CRLF.
    var onWire: String {
        split(separator: "\n", omittingEmptySubsequences: false).joined(separator: "\r\n")
    }
}

struct ClientLog: Equatable {
    /// By turn; CRLF written as LF.
    var client: [String] = []
    var events: [String] = []
    var handoverCount = 0
}

/// Where the peer's bytes are cut into reads.
enum InputCut {
    case nowhere
    case at(Int)
    case everywhere
}

enum ClientEnding { case open, lost, timedOut }

private func text(_ failure: SMTPClientFailure) -> String {
    switch failure.reason {
    case .refused(let reply): "refused \(reply)"
    case .tlsNotOffered: "tlsNotOffered"
    case .tlsRefused(let reply): "tlsRefused \(reply)"
    case .malformedReply(let fault): "malformed \(fault)"
    case .unexpectedReply(let reply): "unexpected \(reply)"
    case .connectionLost: "lost"
    case .timedOut: "timedOut"
    }
}

private func text(_ outcome: SMTPHandoverOutcome) -> String {
    let recipients = outcome.recipients.map { "\($0.reply) (\($0.phase)\($0.isFromPeer ? "" : ", ours"))" }
    return "answered \(outcome.id.number): " + recipients.joined(separator: "; ")
        + (outcome.isDSNPassedOn ? " dsn" : "") + (outcome.isPossibleDuplicate ? " duplicate?" : "")
}

func converse(
    _ settings: SMTPClientSettings, _ messages: [ClientMessage], peer: [String], cut: InputCut, quits: Bool,
    ending: ClientEnding
) -> ClientLog {
    var session = SMTPClientSession(settings: settings)
    var log = ClientLog()
    var waiting = messages[...]
    var open: [SMTPHandoverID: ClientMessage] = [:]
    var output = ByteOutput()
    var input: [UInt8] = []
    var hasQuit = false

    func act() {
        loop: while true {
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            input.removeFirst(consumed)
            switch event {
            case .needMore:
                if session.canSend, let message = waiting.first {
                    waiting.removeFirst()
                    log.handoverCount += 1
                    open[session.send(message.envelope, into: &output)] = message
                } else if quits, waiting.isEmpty, !hasQuit, !messages.isEmpty {
                    hasQuit = true
                    session.quit(into: &output)
                } else {
                    break loop
                }
            case .startTLS:
                log.events.append("startTLS")
                input = []
                session.tlsStarted(into: &output)
            case .ready: log.events.append("ready")
            case .recipientAnswered(let id, let index, let reply):
                log.events.append("rcpt \(id.number).\(index): \(reply)")
            case .sendContent(let id, let framing):
                log.events.append("content \(id.number)")
                let content = open[id]!.content
                switch framing {
                case .dots(let isStuffed):
                    var stuffer = DotStuffer()
                    if isStuffed {
                        Array(content.utf8).withUnsafeBytes { stuffer.append($0, into: &output) }
                        stuffer.finish(into: &output)
                    } else {
                        output.append(text: content)
                        DotStuffer.appendTerminator(
                            contentEndsWithCRLF: content.isEmpty || content.hasSuffix("\r\n"), into: &output)
                    }
                case .chunk(let size):
                    #expect(size == content.utf8.count)
                    output.append(text: content)
                }
                session.contentSent(id, into: &output)
            case .answered(let outcome):
                #expect(open.removeValue(forKey: outcome.id) != nil)
                log.events.append(text(outcome))
            case .closed(let reply): log.events.append("closed \(reply.map { "\($0)" } ?? "")")
            case .failed(let failure): log.events.append("failed (\(failure.phase)): " + text(failure))
            }
        }
    }

    var fed = 0
    for turn in peer {
        log.client.append("")
        let bytes = Array(turn.onWire.utf8)
        var reads: [ArraySlice<UInt8>] = [bytes[...]]
        switch cut {
        case .nowhere: break
        case .at(let place) where (fed..<fed + bytes.count).contains(place):
            reads = [bytes[..<(place - fed)], bytes[(place - fed)...]]
        case .at: break
        case .everywhere: reads = bytes.indices.map { bytes[$0...$0] }
        }
        fed += bytes.count
        for read in reads {
            input += read
            act()
            log.client[log.client.count - 1] +=
                String(decoding: output.array, as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: false)
                .joined(separator: "\n")
            output.removeAll()
        }
    }
    switch ending {
    case .open: break
    case .lost: session.connectionLost()
    case .timedOut: session.timedOut()
    }
    act()
    return log
}

/// Checks a conversation under every cut. Turns are without their last line's end; the client's first turn answers the
/// peer's first.
func checkClient(
    _ messages: [ClientMessage], tls: SMTPClientSettings.TLSUse = .never, peer: [String], client: [String],
    events: [String],
    quits: Bool = true, ending: ClientEnding = .open, cuts: Bool = true,
    sourceLocation: SourceLocation = #_sourceLocation, adjust: (inout SMTPClientSettings) -> Void = { _ in }
) {
    var settings = SMTPClientSettings(helloName: "gw.example", tls: tls)
    adjust(&settings)
    let peer = peer.map { $0.isEmpty ? "" : $0 + "\n" }
    let client = client.map { $0.isEmpty ? "" : $0 + "\n" }
    let whole = converse(settings, messages, peer: peer, cut: .nowhere, quits: quits, ending: ending)
    #expect(whole.client == client, sourceLocation: sourceLocation)
    #expect(whole.events == events, sourceLocation: sourceLocation)
    guard cuts, whole.client == client, whole.events == events else { return }
    let bytes = peer.reduce(0) { $0 + $1.onWire.utf8.count }
    for place in 1..<max(bytes, 2) {
        let log = converse(settings, messages, peer: peer, cut: .at(place), quits: quits, ending: ending)
        #expect(log == whole, "cut at \(place)", sourceLocation: sourceLocation)
    }
    let log = converse(settings, messages, peer: peer, cut: .everywhere, quits: quits, ending: ending)
    #expect(log == whole, "every byte alone", sourceLocation: sourceLocation)
}

/// SplitMix64: the same row for the same seed.
struct ConversationRandom: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}
