/// How large the messages are: all alike, or as mail is.
enum Sizes: Equatable {
    case fixed(Int)
    case mix

    /// The body's bytes and how many messages of a thousand have it; modelled on a provider's inbound mail: most are short, most
    /// bytes are in few.
    static let mixture: [(bytes: Int, perThousand: Int)] = [
        (1_200, 90), (2_500, 130), (4_000, 140), (7_000, 150), (12_000, 150), (20_000, 110), (35_000, 80), (60_000, 60),
        (100_000, 35), (200_000, 25), (500_000, 15), (1_500_000, 10), (4_000_000, 4), (12_000_000, 1),
    ]

    /// - Parameter text: a number of bytes, with `k` or `m` for 1,024 and 1,048,576, or `mix`.
    init?(_ text: String) {
        if text == "mix" {
            self = .mix
            return
        }
        let unit = text.hasSuffix("k") ? 1 << 10 : text.hasSuffix("m") ? 1 << 20 : 1
        guard let number = Int(unit == 1 ? text : String(text.dropLast())), number >= 0,
            number <= Bodies.sizeMax / unit
        else { return nil }
        self = .fixed(number * unit)
    }

    /// As it is written.
    var text: String {
        switch self {
        case .fixed(let bytes): "\(bytes)"
        case .mix: "mix"
        }
    }

    /// The body's bytes of message `number`: the same for every run.
    func bytes(_ number: Int) -> Int {
        switch self {
        case .fixed(let bytes): return bytes
        case .mix:
            var luck = Int(Mixed.hash(number) % 1000)
            for (bytes, share) in Self.mixture {
                luck -= share
                if luck < 0 { return bytes }
            }
            return Self.mixture[0].bytes
        }
    }

    /// Of the largest.
    var bytesMax: Int {
        switch self {
        case .fixed(let bytes): bytes
        case .mix: Self.mixture.map(\.bytes).max() ?? 0
        }
    }
}

/// Draws that depend on a number alone.
enum Mixed {
    /// splitmix64.
    static func hash(_ number: Int) -> UInt64 {
        var z = UInt64(bitPattern: Int64(number)) &+ 0x9E37_79B9_7F4A_7C15
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }

    /// True for `share` of the numbers.
    static func draw(_ number: Int, share: Double) -> Bool { Double(hash(number) >> 11) * 0x1p-53 < share }
}
