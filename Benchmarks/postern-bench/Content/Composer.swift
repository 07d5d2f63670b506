import CReactor
import Glibc

/// Writes what differs from message to message: commands and header sections, into memory that its caller owns.
///
/// - Threads: belongs to one.
final class Composer {
    /// Room for a header section, in bytes.
    static let headerMax = 1024
    /// Room for the commands of a message with `recipients`, without its header section.
    static func commandsMax(recipients: Int) -> Int { 1024 + recipients * 320 }

    private let run: UInt64
    private let bodies = Bodies()
    private let domains: Domains
    private let recipients: Int
    private let from: [UInt8]
    /// What follows the field, up to the domain; the number stands in it at `numberPlaces`.
    private let template: [UInt8]
    private let numberPlaces: [Int]

    /// - Parameter date: RFC 5322 §3.3.
    init(run: UInt64, domains: Domains, recipients: Int, from: String, date: String) {
        (self.run, self.domains, self.recipients) = (run, domains, recipients)
        self.from = Array(from.utf8)
        let blank = String(repeating: "0", count: 12)
        // Always as long: the floor's peer counts bytes.
        let digits = String(run, radix: 16)
        let name = String(repeating: "0", count: 16 - digits.count) + digits
        template = Array(
            "Date: \(date)\r\nFrom: <\(from)>\r\nMessage-ID: <\(blank).\(name)@bench.test>\r\nSubject: message \(blank)\r\nTo: <user0@"
                .utf8)
        let text = String(decoding: template, as: UTF8.self)
        numberPlaces = text.ranges(of: blank).map { text.utf8.distance(from: text.startIndex, to: $0.lowerBound) }
    }

    /// Writes message `number`'s header section, with the empty line; its length.
    func header(_ number: Int, bodyBytes: Int, to target: UnsafeMutablePointer<UInt8>) -> Int {
        let rest = target + ContentHeader.fieldBytes
        template.withUnsafeBufferPointer { rest.update(from: $0.baseAddress!, count: $0.count) }
        for place in numberPlaces { Digits.write(UInt64(number), 12, radix: 10, to: rest + place) }
        var length = template.count
        length += domains.write(number, to: rest + length)
        length += Self.put(">\r\n\r\n", to: rest + length)
        var field = ContentHeader(run: run, number: number, size: bodyBytes, checksum: 0)
        field.write(to: target)
        let covered = cr_crc32c(cr_crc32c(0, target, ContentHeader.coveredBytes), rest, length)
        field.checksum = bodies.checksum(header: covered, number: number, size: bodyBytes)
        field.write(to: target)
        return ContentHeader.fieldBytes + length
    }

    /// Writes `MAIL`, with a `SIZE` (RFC 1870) of `contentBytes` unless nil.
    func mail(contentBytes: Int?, to target: UnsafeMutablePointer<UInt8>) -> Int {
        var at = Self.put("MAIL FROM:<", to: target)
        from.withUnsafeBufferPointer { (target + at).update(from: $0.baseAddress!, count: $0.count) }
        at += from.count
        if let contentBytes {
            at += Self.put("> SIZE=", to: target + at)
            at += Digits.write(contentBytes, to: target + at)
            at += Self.put("\r\n", to: target + at)
        } else {
            at += Self.put(">\r\n", to: target + at)
        }
        return at
    }

    /// Writes the `RCPT` of the recipient with this index.
    func recipient(_ index: Int, of number: Int, to target: UnsafeMutablePointer<UInt8>) -> Int {
        var at = Self.put("RCPT TO:<user", to: target)
        at += Digits.write(index, to: target + at)
        target[at] = UInt8(ascii: "@")
        at += 1
        at += domains.write(number, to: target + at)
        return at + Self.put(">\r\n", to: target + at)
    }

    /// Writes a `BDAT` of the whole message (RFC 3030 §2).
    static func chunk(bytes: Int, to target: UnsafeMutablePointer<UInt8>) -> Int {
        var at = put("BDAT ", to: target)
        at += Digits.write(bytes, to: target + at)
        return at + put(" LAST\r\n", to: target + at)
    }

    static func put(_ text: StaticString, to target: UnsafeMutablePointer<UInt8>) -> Int {
        target.update(from: text.utf8Start, count: text.utf8CodeUnitCount)
        return text.utf8CodeUnitCount
    }

    /// The time of this call, as a Date field has it.
    static func date() -> String {
        var now = time(nil)
        var parts = tm()
        gmtime_r(&now, &parts)
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { text in
            strftime(text.baseAddress!, text.count, "%a, %d %b %Y %H:%M:%S +0000", &parts)
            return String(cString: text.baseAddress!)
        }
    }
}
