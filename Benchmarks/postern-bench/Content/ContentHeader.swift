import CReactor

/// The header field by which a message is known again wherever it arrives.
///
/// ```abnf
/// field = "X-Postern-Bench:" SP run SP number SP size SP checksum CRLF   ; always 67 octets
/// run = 16HEXDIG   number = 12DIGIT   size = 9DIGIT   checksum = 8HEXDIG
/// ```
///
/// `size` is the body's, in bytes. The checksum (CRC32C) covers the field before it and all that follows the field, to the
/// end of the message: what servers put on top of a message does not count, what they change below does.
struct ContentHeader: Equatable {
    /// The length of the field with its CRLF.
    static let fieldBytes = 17 + 16 + 1 + 12 + 1 + 9 + 1 + 8 + 2
    /// Of these, what the checksum covers.
    static let coveredBytes = fieldBytes - 10
    static let name = "X-Postern-Bench: "

    var run: UInt64
    var number: Int
    var size: Int
    var checksum: UInt32

    /// - Parameter line: without its CRLF.
    /// - Returns: nil for any other line.
    init?(_ line: UnsafeRawBufferPointer) {
        guard line.count == Self.fieldBytes - 2, line.starts(with: Self.name.utf8),
            let run = Self.read(line, 17, 16, radix: 16), line[33] == UInt8(ascii: " "),
            let number = Self.read(line, 34, 12, radix: 10), line[46] == UInt8(ascii: " "),
            let size = Self.read(line, 47, 9, radix: 10), line[56] == UInt8(ascii: " "),
            let checksum = Self.read(line, 57, 8, radix: 16)
        else { return nil }
        (self.run, self.number, self.size, self.checksum) = (run, Int(number), Int(size), UInt32(checksum))
    }

    init(run: UInt64, number: Int, size: Int, checksum: UInt32) {
        (self.run, self.number, self.size, self.checksum) = (run, number, size, checksum)
    }

    /// Writes the field, `fieldBytes` long.
    func write(to target: UnsafeMutablePointer<UInt8>) {
        var at = 0
        for byte in Self.name.utf8 {
            target[at] = byte
            at += 1
        }
        Digits.write(run, 16, radix: 16, to: target + 17)
        target[33] = UInt8(ascii: " ")
        Digits.write(UInt64(number), 12, radix: 10, to: target + 34)
        target[46] = UInt8(ascii: " ")
        Digits.write(UInt64(size), 9, radix: 10, to: target + 47)
        target[56] = UInt8(ascii: " ")
        Digits.write(UInt64(checksum), 8, radix: 16, to: target + 57)
        target[65] = UInt8(ascii: "\r")
        target[66] = UInt8(ascii: "\n")
    }

    private static func read(_ line: UnsafeRawBufferPointer, _ at: Int, _ count: Int, radix: UInt64) -> UInt64? {
        var value: UInt64 = 0
        for byte in line[at..<at + count] {
            let digit: UInt64
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = UInt64(byte - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = UInt64(byte - UInt8(ascii: "a")) + 10
            default: return nil
            }
            guard digit < radix else { return nil }
            value = value * radix + digit
        }
        return value
    }
}

/// Numbers as text, without a String.
enum Digits {
    /// `count` digits with leading zeros, in lower case.
    static func write(_ value: UInt64, _ count: Int, radix: UInt64, to target: UnsafeMutablePointer<UInt8>) {
        var rest = value
        var at = count - 1
        while at >= 0 {
            let digit = UInt8(truncatingIfNeeded: rest % radix)
            target[at] = digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10
            rest /= radix
            at -= 1
        }
    }

    /// As many digits as it takes; their number.
    static func write(_ value: Int, to target: UnsafeMutablePointer<UInt8>) -> Int {
        var count = 1
        var rest = value
        while rest >= 10 {
            rest /= 10
            count += 1
        }
        write(UInt64(value), count, radix: 10, to: target)
        return count
    }
}
