/// Which recipients of a parcel are settled while others wait, and whether its delay notice was sent (design rule M4).
struct ParcelState: Equatable, Sendable {
    /// Of a state file: a message has at most 100,000 recipients.
    static let maxBytes = 1 << 20

    /// Indexes into the envelope's recipients, ascending.
    var settled: [Int] = []
    var delayNoticeSent = false

    var isInitial: Bool { settled.isEmpty && !delayNoticeSent }

    /// One line: `X-Postern-State: 1 delayed=0 settled=0,4 crc=…`.
    func encoded() -> [UInt8] {
        let list = settled.map(String.init).joined(separator: ",")
        return SignedLine.encode("X-Postern-State: 1 delayed=\(delayNoticeSent ? 1 : 0) settled=\(list)")
    }

    /// nil: not a state that we wrote.
    init?(_ bytes: [UInt8]) {
        guard let words = SignedLine.decode(bytes), words.count == 4, words[0] == "X-Postern-State:", words[1] == "1",
            words[2].hasPrefix("delayed="), words[3].hasPrefix("settled=")
        else { return nil }
        delayNoticeSent = words[2] == "delayed=1"
        for index in words[3].dropFirst(8).split(separator: ",") {
            guard let index = Int(index), index >= 0 else { return nil }
            settled.append(index)
        }
    }

    init() {}
}
