import Glibc
import Protocols
import Reactor

/// A client that pipelines MAIL, RCPT and DATA, sends the content behind the 354, and goes on with the next message.
final class StillClient: StillPeer {
    /// Bytes that the client may say next, each in its turn.
    private enum Next { case greeting, hello, envelope, content, wait }

    private let hello = Array("EHLO out3.sender.example\r\n".utf8).fixed
    private let envelope = Sample.envelope.fixed
    private let data = Sample.data.fixed

    private(set) var accepted = 0
    /// Whether the next message may begin.
    var mayGoOn: () -> Bool = { true }
    private var next = Next.wait
    private var waitsFor = Next.greeting

    func speak() -> UnsafeRawBufferPointer? {
        switch next {
        case .hello:
            (next, waitsFor) = (.wait, .hello)
            return hello
        case .envelope:
            guard mayGoOn() else { return nil }
            (next, waitsFor) = (.wait, .envelope)
            return envelope
        case .content:
            (next, waitsFor) = (.wait, .content)
            return data
        case .greeting, .wait: return nil
        }
    }

    func hear(_ bytes: UnsafeRawBufferPointer) {
        // The last of the replies that came together.
        var start = bytes.count - 1
        while start > 0, bytes[start - 1] != UInt8(ascii: "\n") { start -= 1 }
        let code = bytes[start]
        switch waitsFor {
        case .greeting: next = .hello
        case .hello: next = .envelope
        case .envelope:
            precondition(code == UInt8(ascii: "3"), "no 354")
            next = .content
        case .content:
            precondition(code == UInt8(ascii: "2"), "no 250")
            accepted += 1
            next = .envelope
        case .wait: fatalError("a reply to nothing")
        }
        waitsFor = .wait
    }
}

/// A primary that offers PIPELINING and CHUNKING and accepts everything.
final class StillPrimary: StillPeer {
    private static let ok = Array("250 2.0.0 Ok: queued as 4F1C2A0B33\r\n".utf8)
    private static let hello = Array(
        "250-primary.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-DSN\r\n250 CHUNKING\r\n".utf8)

    private(set) var taken = 0
    private var answers = ByteOutput()
    private var said = ByteOutput()
    /// Of a chunk, still to come.
    private var chunkLeft = 0

    init() { answers.append("220 primary.test ESMTP\r\n") }

    func speak() -> UnsafeRawBufferPointer? {
        guard !answers.isEmpty else { return nil }
        said.removeAll()
        swap(&said, &answers)
        return said.bytes
    }

    func hear(_ bytes: UnsafeRawBufferPointer) {
        var at = 0
        while at < bytes.count {
            if chunkLeft > 0 {
                let part = min(chunkLeft, bytes.count - at)
                chunkLeft -= part
                at += part
                if chunkLeft == 0 {
                    taken += 1
                    answers.append(Self.ok)
                }
                continue
            }
            guard let lineFeed = memchr(bytes.baseAddress! + at, 10, bytes.count - at) else {
                fatalError("half a command")
            }
            let end = UnsafeRawPointer(lineFeed) - bytes.baseAddress! + 1
            heard(bytes, at)
            at = end
        }
    }

    private func heard(_ bytes: UnsafeRawBufferPointer, _ start: Int) {
        switch bytes[start] {
        case UInt8(ascii: "B"):
            var at = start + 5
            while bytes[at] >= UInt8(ascii: "0") {
                chunkLeft = chunkLeft * 10 + Int(bytes[at] - UInt8(ascii: "0"))
                at += 1
            }
        case UInt8(ascii: "E"): answers.append(Self.hello)
        case UInt8(ascii: "Q"): fatalError("the session ended in between")
        default: answers.append(Self.ok)
        }
    }
}
