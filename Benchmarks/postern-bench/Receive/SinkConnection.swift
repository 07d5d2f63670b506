import Glibc

/// One connection of the sink: the server's side of SMTP, with no more than a fast primary needs.
///
/// It shares nothing with Postern's own machine: a fault in both would not be seen.
final class SinkConnection {
    enum Mode { case commands, content, chunk }

    let slot: Int
    let socket: Int32
    /// Index of the listener that it came by.
    let listener: Int
    var tls: TLSStream?
    var isShakingHands = false
    var mode = Mode.commands
    /// A command's beginning.
    var unread: [UInt8] = []
    var output: [UInt8] = []
    var outputSent = 0
    var isWaitingToWrite = false
    var isEnding = false
    /// Until when what it has to say is held back, in monotonic nanoseconds.
    var heldUntil: UInt64 = 0

    var hasMail = false
    var recipients = 0
    var check = ContentCheck()
    var contentBytes = 0
    /// Of a BDAT: what is left of the chunk, and whether it is the last.
    var chunkLeft = 0
    var isLastChunk = false
    var scanner = DotScanner()

    init(slot: Int, socket: Int32, listener: Int) { (self.slot, self.socket, self.listener) = (slot, socket, listener) }

    func reset() {
        hasMail = false
        recipients = 0
        check = ContentCheck()
        contentBytes = 0
        scanner = DotScanner()
    }

    func say(_ line: StaticString) {
        output.append(contentsOf: UnsafeBufferPointer(start: line.utf8Start, count: line.utf8CodeUnitCount))
    }
    func say(_ line: String) { output.append(contentsOf: line.utf8) }
}

/// Finds the end of content (RFC 5321 §4.5.2) and takes out stuffed dots, in any pieces.
struct DotScanner {
    private enum State { case lineStart, dot, dotCR, line }
    private var state = State.lineStart

    /// Gives the content in `bytes` to `body`, as few pieces as there are.
    ///
    /// - Returns: the bytes used up, and whether the content ended with them.
    mutating func scan(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) -> (Int, Bool) {
        var at = 0
        var pieceStart = 0
        func give(to end: Int) {
            if end > pieceStart { body(UnsafeRawBufferPointer(rebasing: bytes[pieceStart..<end])) }
        }
        while at < bytes.count {
            switch state {
            case .lineStart:
                if bytes[at] == UInt8(ascii: ".") {
                    give(to: at)
                    at += 1
                    pieceStart = at
                    state = .dot
                } else {
                    state = .line
                }
            case .dot:
                if bytes[at] == UInt8(ascii: "\r") {
                    at += 1
                    state = .dotCR
                } else {
                    state = .line
                }
            case .dotCR:
                // CR LF is the end; a CR of the content otherwise, which was left out when it came in an earlier piece.
                if bytes[at] == UInt8(ascii: "\n") { return (at + 1, true) }
                if at == 0 {
                    var carriageReturn = UInt8(ascii: "\r")
                    withUnsafeBytes(of: &carriageReturn, body)
                }
                state = .line
            case .line:
                guard let found = memchr(bytes.baseAddress! + at, 10, bytes.count - at) else {
                    at = bytes.count
                    break
                }
                at = UnsafeRawPointer(found) - bytes.baseAddress! + 1
                state = .lineStart
            }
        }
        // A CR behind a dot waits for what follows it.
        give(to: state == .dotCR && at > pieceStart ? at - 1 : at)
        return (bytes.count, false)
    }
}
