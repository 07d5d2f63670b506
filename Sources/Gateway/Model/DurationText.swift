/// Times as people write them: `90s`, `5m`, `24h`, `5d`, `1w`, or several (`1h30m`); a bare number counts seconds.
enum DurationText {
    private static let units: [(letter: Character, seconds: Int)] = [
        ("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1),
    ]

    /// Seconds; nil for anything else, and for a sum beyond 64 bits.
    static func seconds(_ text: String) -> Int? {
        guard text.utf8.count <= 32 else { return nil }
        if let bare = Digits.value(text) { return bare }
        var sum = 0
        var digits = ""
        var unitsLeft = units[...]
        for character in text {
            if character.isASCII, character.isWholeNumber {
                digits.append(character)
                continue
            }
            // Each unit once, larger ones first.
            guard let index = unitsLeft.firstIndex(where: { $0.letter == character }),
                let count = Digits.value(digits)
            else { return nil }
            let (part, tooLarge) = count.multipliedReportingOverflow(by: units[index].seconds)
            let (total, sumTooLarge) = sum.addingReportingOverflow(part)
            guard !tooLarge, !sumTooLarge else { return nil }
            sum = total
            unitsLeft = unitsLeft[(index + 1)...]
            digits = ""
        }
        return digits.isEmpty && !text.isEmpty ? sum : nil
    }

    /// In the largest unit up to days that divides `seconds`.
    static func text(_ seconds: Int) -> String {
        let unit = units.dropFirst().first { seconds != 0 && seconds % $0.seconds == 0 } ?? ("s", 1)
        return "\(seconds / unit.seconds)\(unit.letter)"
    }
}

/// Amounts of bytes as people write them: `52428800`, `512K`, `50M`, `1G`, `2T`; a suffix counts in powers of 1,024.
enum SizeText {
    /// Bytes; nil for anything else, and beyond 64 bits.
    static func bytes(_ text: String) -> Int? {
        guard let last = text.last, text.utf8.count <= 24 else { return nil }
        let shift: Int
        switch last {
        case "K", "k": shift = 10
        case "M", "m": shift = 20
        case "G", "g": shift = 30
        case "T", "t": shift = 40
        default: return Digits.value(text)
        }
        guard let count = Digits.value(text.dropLast()), count <= Int.max >> shift else { return nil }
        return count << shift
    }

    /// `50M` where a suffix says it exactly, else digits.
    static func text(_ bytes: Int) -> String {
        for (suffix, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)]
        where bytes != 0 && bytes & (1 << shift - 1) == 0 {
            return "\(bytes >> shift)\(suffix)"
        }
        return String(bytes)
    }
}

private enum Digits {
    /// Digits alone, without a sign.
    static func value(_ text: some StringProtocol) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else {
            return nil
        }
        return Int(text)
    }
}
