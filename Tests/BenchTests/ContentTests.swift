import CReactor
import Testing

@testable import postern_bench

struct ContentTests {
    /// The whole of a message as the generator would send it.
    private func message(_ number: Int, bytes: Int, run: UInt64 = 0xABCD, domains: String = "d%d.test:300") -> [UInt8] {
        let composer = Composer(
            run: run, domains: Domains(domains)!, recipients: 1, from: "from@sender.test",
            date: "Mon, 05 Jan 2026 10:00:00 +0000")
        return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Composer.headerMax) { header in
            let length = composer.header(number, bodyBytes: bytes, to: header.baseAddress!)
            return Array(header[..<length]) + body(number, bytes)
        }
    }

    private func body(_ number: Int, _ bytes: Int) -> [UInt8] {
        var cursor = BodyCursor(number: number, bytes: bytes)
        var all: [UInt8] = []
        while let piece = cursor.next(atMost: 5_000) {
            all += piece
            cursor.advance(piece.count)
        }
        return all
    }

    private func verdict(_ bytes: [UInt8], pieces: Int = .max) -> ContentCheck.Verdict {
        var check = ContentCheck()
        var at = 0
        while at < bytes.count {
            let end = min(at.addingReportingOverflow(pieces).partialValue, bytes.count)
            bytes[at..<(pieces == .max ? bytes.count : end)].withUnsafeBytes { check.feed($0) }
            at = pieces == .max ? bytes.count : end
        }
        return check.finish(Bodies())
    }

    @Test(arguments: [0, 1, 2, 3, 77, 78, 79, 80, 81, 155, 156, 157, 158, 10_240, 79_872, 400_000])
    func bodyHasItsSizeAndWholeLines(_ bytes: Int) {
        for number in [0, 1, 1023, 1024] {
            let text = body(number, bytes)
            #expect(text.count == bytes)
            if bytes >= 2 { #expect(text.suffix(2) == [13, 10]) }
            for (index, byte) in text.enumerated() {
                if byte == 13, bytes >= 2 { #expect(index + 1 < text.count && text[index + 1] == 10, "CR at \(index)") }
                if byte == 10, bytes >= 2 { #expect(text[index - 1] == 13, "LF at \(index)") }
                if byte == UInt8(ascii: ".") { Issue.record("a dot at \(index)") }
            }
        }
    }

    @Test func messagesOfOneSizeDiffer() {
        #expect(body(1, 10_240) != body(2, 10_240))
        #expect(body(1, 10_240) == body(1 + Block.lineCount, 10_240))
        #expect(message(1, bytes: 100) != message(1 + Block.lineCount, bytes: 100))
    }

    @Test(arguments: [0, 2, 81, 10_240, 300_000])
    func messageIsFoundIntactBehindTraceFields(_ bytes: Int) {
        let trace = Array("Return-Path: <a@b>\r\nReceived: from x by y;\r\n\tMon, 05 Jan 2026 10:00:00 +0000\r\n".utf8)
        let whole = trace + message(4711, bytes: bytes)
        guard case .intact(let header) = verdict(whole) else {
            Issue.record("not intact")
            return
        }
        #expect((header.run, header.number, header.size) == (0xABCD, 4711, bytes))
    }

    /// Any split of the input gives the same verdict.
    @Test(arguments: [1, 2, 3, 7, 64, 67, 100])
    func splitDoesNotMatter(_ pieces: Int) {
        let whole = Array("Received: here\r\n".utf8) + message(9, bytes: 700)
        guard case .intact = verdict(whole, pieces: pieces) else {
            Issue.record("not intact in pieces of \(pieces)")
            return
        }
    }

    /// Every byte of a message counts: flipping any of them is seen.
    @Test func flippedByteIsSeen() {
        let whole = message(77, bytes: 333)
        for at in whole.indices {
            var changed = whole
            changed[at] ^= 1
            if case .intact = verdict(changed) { Issue.record("byte \(at) of \(whole.count) was flipped unseen") }
        }
    }

    @Test func missingAndAddedBytesAreSeen() {
        let whole = message(78, bytes: 333)
        var shorter = whole
        shorter.remove(at: whole.count - 40)
        #expect(verdict(shorter) == .changed(field(of: whole)))
        #expect(verdict(whole + [13, 10]) == .changed(field(of: whole)))
        #expect(verdict(Array(whole.dropLast(333))) == .changed(field(of: whole)))
    }

    private func field(of message: [UInt8]) -> ContentHeader {
        message[..<(ContentHeader.fieldBytes - 2)].withUnsafeBytes { ContentHeader($0)! }
    }

    @Test func otherMailIsForeign() {
        #expect(verdict(Array("Subject: hello\r\n\r\ntext\r\n".utf8)) == .foreign)
        #expect(verdict([]) == .foreign)
    }

    @Test func fieldIsReadAsWritten() {
        let header = ContentHeader(run: .max, number: 999_999_999_999, size: 999_999_999, checksum: .max)
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: ContentHeader.fieldBytes) { field in
            header.write(to: field.baseAddress!)
            let line = UnsafeRawBufferPointer(
                rebasing: UnsafeRawBufferPointer(field)[..<(ContentHeader.fieldBytes - 2)])
            #expect(ContentHeader(line) == header)
        }
    }

    @Test(arguments: [0, 1, 7, 64, 10_240, 1_000_003])
    func joinedChecksumIsThatOfTheWhole(_ length: Int) {
        let first = Array("some header section\r\n\r\n".utf8)
        let second = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ 5) }
        let whole = first + second
        let join = CRCJoin(length: length)
        #expect(
            join.join(cr_crc32c(0, first, first.count), cr_crc32c(0, second, second.count))
                == cr_crc32c(0, whole, whole.count))
    }

    @Test func dotsAreTakenOutInAnyPieces() {
        let content = Array("..one\r\n.\rtwo\r\n.. \r\nthree.\r\n".utf8)
        // As a sender stuffs it, but for `.\r` at a line's start, which is not the end without its LF.
        let wire = Array("...one\r\n..\rtwo\r\n... \r\nthree.\r\n.\r\nRSET\r\n".utf8)
        for pieces in 1...wire.count {
            var scanner = DotScanner()
            var got: [UInt8] = []
            var at = 0
            var isEnd = false
            while !isEnd, at < wire.count {
                let piece = wire[at..<min(at + pieces, wire.count)]
                piece.withUnsafeBytes { bytes in
                    let (used, ended) = scanner.scan(bytes) { got += $0 }
                    at += used
                    isEnd = ended
                }
            }
            #expect(isEnd && got == content, "pieces of \(pieces)")
            #expect(wire[at...] == wire.suffix(6), "pieces of \(pieces)")
        }
    }
}
