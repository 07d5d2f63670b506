import Testing

@testable import Protocols

private func stuff(_ chunks: [[UInt8]]) -> [UInt8] {
    var stuffer = DotStuffer()
    var output = ByteOutput()
    for chunk in chunks { chunk.withUnsafeBytes { stuffer.append($0, into: &output) } }
    stuffer.finish(into: &output)
    return output.array
}

@Suite struct DotStuffingTests {
    @Test(arguments: [
        ("", ".\r\n"), ("a\r\n", "a\r\n.\r\n"), ("a", "a\r\n.\r\n"), (".", "..\r\n.\r\n"), (".\r\n", "..\r\n.\r\n"),
        ("..\r\n", "...\r\n.\r\n"), ("a.b\r\n.c\r\n\r\n.\r\n", "a.b\r\n..c\r\n\r\n..\r\n.\r\n"),
        ("12345678\r\n.\r\n.2345678.\r\n.", "12345678\r\n..\r\n..2345678.\r\n..\r\n.\r\n"),
        ("1234567\r\n.\r\n", "1234567\r\n..\r\n.\r\n"), ("123456\r\n.\u{b}.\r\n", "123456\r\n..\u{b}.\r\n.\r\n"),
    ])
    func stuffsAtEverySplit(_ content: String, _ expected: String) {
        let bytes = Array(content.utf8)
        #expect(stuff([bytes]) == Array(expected.utf8))
        for cut in 0...bytes.count {
            #expect(stuff([Array(bytes[..<cut]), Array(bytes[cut...])]) == Array(expected.utf8), "cut at \(cut)")
        }
        #expect(stuff(bytes.map { [$0] }) == Array(expected.utf8))
    }

    @Test func isUndoneByTheReader() {
        // RFC 5321 §4.5.2, the receiver's half, on content of dots, line ends and a byte that is one bit off an LF.
        let alphabet = ["\r\n", ".", "\u{b}", "12345678"]
        for number in 0..<4096 {
            let lines = (0..<6).map { alphabet[number >> (2 * $0) & 3] }
            let content = lines.joined() + "\r\n"
            let wire = String(decoding: stuff([Array(content.utf8)]), as: UTF8.self)
            var back = ""
            var parts = wire.split(separator: "\r\n", omittingEmptySubsequences: false)
            #expect(parts.suffix(2) == [".", ""])
            parts.removeLast(2)
            for part in parts { back += (part.first == "." ? part.dropFirst() : part) + "\r\n" }
            #expect(back == content)
        }
    }

    @Test func terminatorOfUnstuffedContent() {
        var output = ByteOutput()
        DotStuffer.appendTerminator(contentEndsWithCRLF: true, into: &output)
        DotStuffer.appendTerminator(contentEndsWithCRLF: false, into: &output)
        #expect(output.array == Array(".\r\n\r\n.\r\n".utf8))
    }
}
