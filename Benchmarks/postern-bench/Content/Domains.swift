/// The domains that messages go to: `d%d.test:300` is d0.test to d299.test, in turn; `example.test` is one.
struct Domains: Equatable, Sendable {
    static let countMax = 100_000
    let before: [UInt8]
    let after: [UInt8]
    /// 0: one domain without a number.
    let count: Int

    init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count <= 2, let pattern = parts.first, !pattern.isEmpty else { return nil }
        guard let place = pattern.firstRange(of: "%d") else {
            guard parts.count == 1, !pattern.contains("%"), Self.isName(pattern) else { return nil }
            (before, after, count) = (Array(pattern.utf8), [], 0)
            return
        }
        guard parts.count == 2, let count = Int(parts[1]), (1...Self.countMax).contains(count) else { return nil }
        let (before, after) = (pattern[..<place.lowerBound], pattern[place.upperBound...])
        guard !after.contains("%"), Self.isName(before + "0" + after) else { return nil }
        (self.before, self.after, self.count) = (Array(before.utf8), Array(after.utf8), count)
    }

    private static func isName(_ text: some StringProtocol) -> Bool {
        text.utf8.count <= 240
            && text.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { label in
                (1...60).contains(label.utf8.count)
                    && label.utf8.allSatisfy {
                        switch $0 {
                        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                            true
                        default: false
                        }
                    }
            }
    }

    /// Which of them message `number` goes to.
    func index(_ number: Int) -> Int { count == 0 ? 0 : number % count }

    /// Writes the domain of message `number`; its length.
    func write(_ number: Int, to target: UnsafeMutablePointer<UInt8>) -> Int {
        var at = 0
        for byte in before {
            target[at] = byte
            at += 1
        }
        guard count > 0 else { return at }
        at += Digits.write(index(number), to: target + at)
        for byte in after {
            target[at] = byte
            at += 1
        }
        return at
    }

    /// All of them.
    var names: [String] {
        (0..<max(count, 1)).map {
            String(decoding: before, as: UTF8.self) + (count == 0 ? "" : String($0))
                + String(decoding: after, as: UTF8.self)
        }
    }
}
