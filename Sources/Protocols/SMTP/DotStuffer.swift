/// Makes raw content fit for DATA, POP3 and the like: a line that begins with a dot gets a second one
/// (RFC 5321 §4.5.2, RFC 1939 §3). Works on chunks of any size.
///
/// Content without such lines needs none of this: it may go out as it is, with `appendTerminator` behind it.
public struct DotStuffer: Sendable {
    private var isAtLineStart = true

    /// Before the content's first byte.
    public init() {}

    /// Appends the next `chunk` of the content, stuffed.
    ///
    /// The content holds CR and LF only as CRLF: it was refused otherwise when it came in.
    public mutating func append(_ chunk: UnsafeRawBufferPointer, into output: inout ByteOutput) {
        guard let last = chunk.last else { return }
        output.reserve(chunk.count + 1)
        if isAtLineStart, chunk[0] == UInt8(ascii: ".") { output.append(UInt8(ascii: ".")) }
        var copied = 0
        var at = Self.behindLineFeed(in: chunk, from: 0)
        while at < chunk.count {
            if chunk[at] == UInt8(ascii: ".") {
                output.append(UnsafeRawBufferPointer(rebasing: chunk[copied..<at]))
                output.append(UInt8(ascii: "."))
                copied = at
            }
            at = Self.behindLineFeed(in: chunk, from: at)
        }
        output.append(UnsafeRawBufferPointer(rebasing: chunk[copied...]))
        isAtLineStart = last == UInt8(ascii: "\n")
    }

    /// Appends the end of the data, with the CRLF that the content's last line may lack.
    public mutating func finish(into output: inout ByteOutput) {
        Self.appendTerminator(contentEndsWithCRLF: isAtLineStart, into: &output)
        isAtLineStart = true
    }

    /// The end of the data for content that went out unstuffed. Empty content counts as one that ends with CRLF.
    public static func appendTerminator(contentEndsWithCRLF: Bool, into output: inout ByteOutput) {
        output.append(contentEndsWithCRLF ? ".\r\n" : "\r\n.\r\n")
    }

    /// The place behind the next LF, or the chunk's end. Eight bytes at a time where none of them is an LF.
    @inline(__always)
    private static func behindLineFeed(in chunk: UnsafeRawBufferPointer, from: Int) -> Int {
        var at = from
        while at + 8 <= chunk.count {
            let loaded = chunk.loadUnaligned(fromByteOffset: at, as: UInt64.self)
            let word = UInt64(littleEndian: loaded) ^ 0x0a0a_0a0a_0a0a_0a0a
            // The lowest set bit is exact: a borrow only reaches bytes above the first zero byte.
            let zeroes = (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
            if zeroes != 0 { return at + zeroes.trailingZeroBitCount / 8 + 1 }
            at += 8
        }
        while at < chunk.count {
            at += 1
            if chunk[at - 1] == UInt8(ascii: "\n") { return at }
        }
        return chunk.count
    }
}
