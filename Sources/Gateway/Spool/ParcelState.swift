import CReactor

/// Which recipients of a parcel are settled while others wait, and whether its delay notice was sent (design rule M4).
struct ParcelState: Equatable, Sendable {
    /// Indexes into the envelope's recipients, ascending.
    var settled: [Int] = []
    var delayNoticeSent = false

    var isInitial: Bool { settled.isEmpty && !delayNoticeSent }

    /// One line: `X-Postern-State: 1 delayed=0 settled=0,4 crc=…`.
    func encoded() -> [UInt8] {
        let list = settled.map(String.init).joined(separator: ",")
        var line = Array("X-Postern-State: 1 delayed=\(delayNoticeSent ? 1 : 0) settled=\(list)".utf8)
        let crc = line.withUnsafeBytes { cr_crc32c(0, $0.baseAddress, $0.count) }
        line += " crc=\(String(crc, radix: 16))\r\n".utf8
        return line
    }

    /// nil: not a state that we wrote.
    init?(_ bytes: some Collection<UInt8>) {
        let bytes = Array(bytes)
        guard bytes.count < 1 << 16, bytes.suffix(2) == [13, 10],
            let end = bytes.lastIndex(of: 32)
        else { return nil }
        let crc = bytes[..<end].withUnsafeBytes { cr_crc32c(0, $0.baseAddress, $0.count) }
        guard String(decoding: bytes[end...].dropLast(2), as: UTF8.self) == " crc=\(String(crc, radix: 16))" else { return nil }
        let words = String(decoding: bytes[..<end], as: UTF8.self).split(separator: " ")
        guard words.count == 4, words[0] == "X-Postern-State:", words[1] == "1", words[3].hasPrefix("settled=") else {
            return nil
        }
        delayNoticeSent = words[2] == "delayed=1"
        for index in words[3].dropFirst(8).split(separator: ",") {
            guard let index = Int(index), index >= 0 else { return nil }
            settled.append(index)
        }
    }

    init() {}
}
