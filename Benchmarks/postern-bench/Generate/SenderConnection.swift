import CReactor
import Glibc
import Protocols

/// One client connection of the generator: its socket, what waits to be sent, and where the conversation stands.
///
/// Content is not copied: what waits is the scratch (commands and a header section), then a slice of the block, then the
/// final dot, and one `sendmsg` takes all three.
final class SenderConnection {
    enum Phase {
        case closed, connecting, handshake, greeting, hello, startTLS, ready, envelope, content, quitting
    }

    let slot: Int
    var socket: Int32 = -1
    var phase = Phase.closed
    var parser = SMTPReplyParser()
    /// The part of a reply's line that has come so far.
    var unread: [UInt8] = []
    var tls: TLSStream?
    /// Of the last connection, for `--resume`; owned.
    var session: OpaquePointer?

    // What waits to be sent.
    let scratch: UnsafeMutablePointer<UInt8>
    var scratchSent = 0
    var scratchEnd = 0
    var body = BodyCursor.empty
    var dotLeft = 0
    var isWaitingToWrite = false

    // The message under way.
    var number = -1
    var bodyBytes = 0
    /// When it was due, in an open loop, or when it was begun.
    var began: UInt64 = 0
    /// The command whose reply comes next: −1 RSET, 0 MAIL, 1…n RCPT, n + 1 DATA or BDAT.
    var step = 0
    var recipientsTaken = 0
    /// The first refusal of this message.
    var refusal = 0
    var needsReset = false
    /// A message that waits for this connection to be made.
    var hasPending = false
    /// From the connect to the reply to EHLO.
    var isOpening = false
    /// When the connect succeeded, in monotonic nanoseconds.
    var connectedAt: UInt64 = 0

    // What the server's EHLO said.
    var offersPipelining = false
    var offersChunking = false
    var offersStartTLS = false
    var offersSize = false

    init(slot: Int, scratchBytes: Int) {
        self.slot = slot
        scratch = .allocate(capacity: scratchBytes)
    }

    deinit {
        scratch.deallocate()
        if let session { SSL_SESSION_free(session) }
        if socket >= 0 { close(socket) }
    }

    var hasOutput: Bool { scratchSent < scratchEnd || body.left > 0 || dotLeft > 0 }

    func clearOutput() {
        (scratchSent, scratchEnd, dotLeft) = (0, 0, 0)
        body = .empty
    }

    enum Flushed { case done, blocked, lost }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// - Parameter staging: room for one record of TLS.
    func flush(_ vectors: UnsafeMutablePointer<iovec>, staging: UnsafeMutableRawBufferPointer) -> Flushed {
        if let tls { return flush(tls, staging) }
        while hasOutput {
            var message = msghdr()
            message.msg_iov = vectors
            message.msg_iovlen = gather(vectors)
            let sent = sendmsg(socket, &message, Int32(MSG_NOSIGNAL))
            guard sent >= 0 else {
                if errno == EINTR { continue }
                return errno == EAGAIN ? .blocked : .lost
            }
            advance(sent)
        }
        if scratchSent == scratchEnd { (scratchSent, scratchEnd) = (0, 0) }
        return .done
    }

    static let vectorsMax = 10

    private func gather(_ vectors: UnsafeMutablePointer<iovec>) -> Int {
        var count = 0
        if scratchSent < scratchEnd {
            vectors[0] = iovec(iov_base: scratch + scratchSent, iov_len: scratchEnd - scratchSent)
            count = 1
        }
        var cursor = body
        while count < Self.vectorsMax - 1, let piece = cursor.next(atMost: .max) {
            vectors[count] = iovec(iov_base: UnsafeMutableRawPointer(mutating: piece.baseAddress), iov_len: piece.count)
            cursor.advance(piece.count)
            count += 1
        }
        if cursor.left == 0, dotLeft > 0 {
            vectors[count] = iovec(iov_base: Self.dot + (3 - dotLeft), iov_len: dotLeft)
            count += 1
        }
        return count
    }

    private func advance(_ sent: Int) {
        var rest = sent
        let fromScratch = min(rest, scratchEnd - scratchSent)
        scratchSent += fromScratch
        rest -= fromScratch
        while rest > 0, let piece = body.next(atMost: rest) {
            body.advance(piece.count)
            rest -= piece.count
        }
        dotLeft -= rest
    }

    /// Records are filled, so that a message costs as few as it can.
    private func flush(_ tls: TLSStream, _ staging: UnsafeMutableRawBufferPointer) -> Flushed {
        while hasOutput {
            var filled = min(scratchEnd - scratchSent, staging.count)
            staging.baseAddress!.copyMemory(from: scratch + scratchSent, byteCount: filled)
            var cursor = body
            while filled < staging.count, let piece = cursor.next(atMost: staging.count - filled) {
                (staging.baseAddress! + filled).copyMemory(from: piece.baseAddress!, byteCount: piece.count)
                cursor.advance(piece.count)
                filled += piece.count
            }
            if cursor.left == 0 {
                let dots = min(dotLeft, staging.count - filled)
                (staging.baseAddress! + filled).copyMemory(from: Self.dot + (3 - dotLeft), byteCount: dots)
                filled += dots
            }
            switch tls.write(UnsafeRawBufferPointer(rebasing: staging[..<filled])) {
            case .bytes(let sent): advance(sent)
            case .wantsMore: return .blocked
            case .ended, .failed: return .lost
            }
        }
        (scratchSent, scratchEnd) = (0, 0)
        return .done
    }

    /// The final dot; never changed after it was made.
    nonisolated(unsafe) private static let dot: UnsafeMutablePointer<UInt8> = {
        let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: 3)
        (bytes[0], bytes[1], bytes[2]) = (UInt8(ascii: "."), UInt8(ascii: "\r"), UInt8(ascii: "\n"))
        return bytes
    }()
}
