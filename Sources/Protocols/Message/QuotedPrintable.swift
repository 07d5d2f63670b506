/// The quoted-printable encoding (RFC 2045 §6.7), for text whose lines end in CRLF.
enum QuotedPrintable {
    private static let lineMaxBytes = 76

    /// Appends `text` with everything but printable ASCII encoded, in lines of at most 76 bytes.
    static func encode(_ text: UnsafeRawBufferPointer, into output: inout ByteOutput) {
        var column = 0
        var at = 0
        while at < text.count {
            let byte = text[at]
            let next = at + 1 < text.count ? text[at + 1] : nil
            at += 1
            if byte == UInt8(ascii: "\r"), next == UInt8(ascii: "\n") {
                output.append("\r\n")
                column = 0
                at += 1
                continue
            }
            let isSpace = byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t")
            let isLastOfLine = next == nil || next == UInt8(ascii: "\r")
            let isPlain = isSpace ? !isLastOfLine : (33...126).contains(byte) && byte != UInt8(ascii: "=")
            // One column is kept for the "=" of a soft line break.
            if column + (isPlain ? 1 : 3) > lineMaxBytes - 1 {
                output.append("=\r\n")
                column = 0
            }
            if isPlain {
                output.append(byte)
                column += 1
            } else {
                output.append(UInt8(ascii: "="))
                output.append(XText.hexDigit(byte >> 4))
                output.append(XText.hexDigit(byte & 15))
                column += 3
            }
        }
    }
}
