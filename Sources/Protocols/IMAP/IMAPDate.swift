/// Days and times as IMAP writes and compares them, in UTC.
enum IMAPDate {
    static let months = Array("JanFebMarAprMayJunJulAugSepOctNovDec".utf8)

    /// 1...12 for the three letters of a month's name, in any case.
    static func month(_ letters: some Collection<UInt8>) -> Int? {
        guard letters.count == 3 else { return nil }
        let lower = letters.map(asciiLowercased)
        return (0..<12).first { index in months[index * 3..<index * 3 + 3].map(asciiLowercased) == lower }.map {
            $0 + 1
        }
    }

    /// Days since 1970-01-01 of the Gregorian calendar; nil for a day that isn't one.
    static func day(year: Int, month: Int, day: Int) -> Int? {
        guard (0...9_999).contains(year), (1...12).contains(month), (1...31).contains(day) else { return nil }
        // Years that begin on 1 March, so that the leap day is the last of its year.
        let years = (month <= 2 ? year - 1 : year) + 400
        let fromMarch = (month + 9) % 12
        let dayOfYear = (153 * fromMarch + 2) / 5 + day - 1
        let yearOfEra = years % 400
        let days = years / 400 * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        let result = days - 719_468 - 146_097
        // The 31st of a month of 30 days would be another one's first.
        let civil = Civil(days: result)
        return civil.month == month && civil.day == day ? result : nil
    }

    struct Civil {
        let year: Int
        let month: Int
        let day: Int

        init(days: Int) {
            let shifted = days + 719_468 + 146_097
            let era = shifted / 146_097
            let dayOfEra = shifted % 146_097
            let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
            let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
            let fromMarch = (5 * dayOfYear + 2) / 153
            day = dayOfYear - (153 * fromMarch + 2) / 5 + 1
            month = fromMarch < 10 ? fromMarch + 3 : fromMarch - 9
            year = yearOfEra + era * 400 - 400 + (month <= 2 ? 1 : 0)
        }
    }

    /// `" 1-Dec-2026 09:05:00 +0000"` with its quotes (`date-time` of RFC 3501 §9). Times outside of the years 1970 to 9999 are
    /// written as the nearest second inside.
    static func write(unixSeconds: Int64, into output: inout ByteOutput) {
        let seconds = Int(min(max(unixSeconds, 0), 253_402_300_799))
        let civil = Civil(days: seconds / 86_400)
        func digits(_ number: Int, _ width: Int, padding: UInt8 = UInt8(ascii: "0")) {
            var divisor = 1
            for _ in 1..<width { divisor *= 10 }
            var isPadding = true
            while divisor > 0 {
                let digit = number / divisor % 10
                if digit > 0 || divisor == 1 { isPadding = false }
                output.append(isPadding ? padding : UInt8(ascii: "0") + UInt8(digit))
                divisor /= 10
            }
        }
        output.append(UInt8(ascii: "\""))
        digits(civil.day, 2, padding: UInt8(ascii: " "))
        output.append(UInt8(ascii: "-"))
        output.append(Array(months[(civil.month - 1) * 3..<civil.month * 3]))
        output.append(UInt8(ascii: "-"))
        digits(civil.year, 4)
        output.append(UInt8(ascii: " "))
        let time = seconds % 86_400
        digits(time / 3600, 2)
        output.append(UInt8(ascii: ":"))
        digits(time / 60 % 60, 2)
        output.append(UInt8(ascii: ":"))
        digits(time % 60, 2)
        output.append(" +0000\"")
    }

    /// The day of a `Date` field as it stands, time and zone left aside (RFC 3501 §6.4.4), as days since 1970-01-01.
    ///
    /// Leniencies: no name of the day, hyphens instead of spaces, years of two and three digits (RFC 5322 §4.3).
    static func day(ofField value: [UInt8]) -> Int? {
        var reader = MIMETokenReader(value)
        var words: [[UInt8]] = []
        while words.count < 4 {
            let word = reader.token()
            if word.isEmpty {
                guard reader.skip(UInt8(ascii: ",")) else { break }
                continue
            }
            words += word.split(separator: UInt8(ascii: "-")).map { Array($0) }
        }
        guard let first = words.firstIndex(where: { decimal($0) != nil }), first + 2 < words.count,
            let day = decimal(words[first]), let month = month(words[first + 1].prefix(3)),
            var year = decimal(words[first + 2])
        else { return nil }
        switch words[first + 2].count {
        case 2: year += year < 50 ? 2_000 : 1_900
        case 3: year += 1_900
        default: break
        }
        return Self.day(year: year, month: month, day: day)
    }
}
