/// The verbs that the server knows. The raw value is the verb's lower-case bytes, the first one lowest, so that a verb
/// is compared in one instruction.
enum SMTPVerb: UInt64, CaseIterable {
    case helo = 0x6f6c_6568
    case ehlo = 0x6f6c_6865
    case mail = 0x6c69_616d
    case rcpt = 0x7470_6372
    case data = 0x6174_6164
    case bdat = 0x7461_6462
    case rset = 0x7465_7372
    case noop = 0x706f_6f6e
    case vrfy = 0x7966_7276
    case expn = 0x6e70_7865
    case help = 0x706c_6568
    case quit = 0x7469_7571
    case auth = 0x6874_7561
    case etrn = 0x6e72_7465
    case atrn = 0x6e72_7461
    case starttls = 0x736c_7474_7261_7473
    case xclient = 0x74_6e65_696c_6378
    // A web client talking to the wrong port, perhaps made to by an attacker.
    case get = 0x74_6567
    case post = 0x7473_6f70
    case connect = 0x74_6365_6e6e_6f63
}

/// Reads one command line, its CRLF taken off.
struct SMTPLineCursor {
    let bytes: UnsafeRawBufferPointer
    private(set) var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isASCII: Bool { bytes.allSatisfy { $0 < 128 } }

    var isAtEnd: Bool { position == bytes.count }
    var next: UInt8? { position < bytes.count ? bytes[position] : nil }
    var rest: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[position...]) }

    mutating func skipSpaces() {
        while position < bytes.count, bytes[position] == UInt8(ascii: " ") { position += 1 }
    }

    mutating func skip(_ byte: UInt8) -> Bool {
        guard next == byte else { return false }
        position += 1
        return true
    }

    /// Skips `text`, which is in lower case, in any case of its letters.
    mutating func skip(anyCase text: StaticString) -> Bool {
        let count = text.utf8CodeUnitCount
        guard bytes.count - position >= count else { return false }
        for offset in 0..<count {
            let byte = bytes[position + offset]
            let isUpper = byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z")
            guard (isUpper ? byte | 0x20 : byte) == text.utf8Start[offset] else { return false }
        }
        position += count
        return true
    }

    /// Up to the next of `end`, a space, or the end of the line.
    mutating func word(endingAt end: UInt8 = UInt8(ascii: " ")) -> UnsafeRawBufferPointer {
        let start = position
        while position < bytes.count, bytes[position] != UInt8(ascii: " "), bytes[position] != end { position += 1 }
        return UnsafeRawBufferPointer(rebasing: bytes[start..<position])
    }

    mutating func path() throws(AddressFault) -> ReversePath {
        try AddressParser.parsePath(bytes, at: &position)
    }

    /// A word of at most eight bytes as one number, letters in lower case; 0 for a longer or empty one. Of what a line
    /// may hold, only letters become letters.
    static func packed(_ word: UnsafeRawBufferPointer) -> UInt64 {
        guard word.count <= 8 else { return 0 }
        var value: UInt64 = 0
        for (index, byte) in word.enumerated() { value |= UInt64(byte | 0x20) << (8 * UInt64(index)) }
        return value
    }

    /// Decimal digits. Numbers beyond `Int` are `Int.max`: no limit is that high. nil if it is no number.
    static func number(_ digits: UnsafeRawBufferPointer) -> Int? {
        guard (1...20).contains(digits.count) else { return nil }
        var value = 0
        for digit in digits {
            guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
            let (tenfold, isOver) = value.multipliedReportingOverflow(by: 10)
            let (sum, isSumOver) = tenfold.addingReportingOverflow(Int(digit - UInt8(ascii: "0")))
            value = isOver || isSumOver ? Int.max : sum
        }
        return value
    }
}

/// A command that is answered with `reply` and changes nothing.
struct SMTPRefusal: Error {
    let reply: Reply
    /// Counts against the peer if it is permanent.
    var isError = true

    init(_ code: Int, _ status: EnhancedStatus, _ text: String) { reply = Reply(code, status, text) }
}
