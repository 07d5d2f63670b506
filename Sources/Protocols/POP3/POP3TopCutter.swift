/// Cuts the beginning off a message as TOP wants it (RFC 1939 §7): the header section, the empty line behind it, and so
/// many lines of the body; and makes it fit for the wire. Works on chunks of any size and keeps none.
public struct POP3TopCutter: Sendable {
    private var stuffer = DotStuffer()
    private var bodyLines: Int
    private var isInHeader = true
    /// Bytes since the last LF, up to 2; and whether a first one is CR.
    private var lineBytes = 0
    private var beginsWithCR = false
    public private(set) var isDone = false

    /// Before the message's first byte. `bodyLines`: at most.
    public init(bodyLines: Int) {
        precondition(bodyLines >= 0)
        self.bodyLines = bodyLines
    }

    /// Appends what is wanted of the next chunk, with its dots stuffed.
    ///
    /// - Returns: whether more is wanted. If not, or behind the last chunk: `finish`.
    public mutating func append(_ chunk: UnsafeRawBufferPointer, into output: inout ByteOutput) -> Bool {
        guard !isDone else { return false }
        var end = chunk.count
        for (at, byte) in chunk.enumerated() {
            guard byte == UInt8(ascii: "\n") else {
                if lineBytes == 0 { beginsWithCR = byte == UInt8(ascii: "\r") }
                lineBytes = min(lineBytes + 1, 2)
                continue
            }
            let isEmpty = lineBytes == 0 || lineBytes == 1 && beginsWithCR
            lineBytes = 0
            if isInHeader {
                isInHeader = !isEmpty
            } else {
                bodyLines -= 1
            }
            if !isInHeader, bodyLines == 0 {
                isDone = true
                end = at + 1
                break
            }
        }
        stuffer.append(UnsafeRawBufferPointer(rebasing: chunk[..<end]), into: &output)
        return !isDone
    }

    /// Appends the end of the data.
    public mutating func finish(into output: inout ByteOutput) { stuffer.finish(into: &output) }
}
