/// Dates as text, from seconds since 1970-01-01 UTC, without a time zone database. Times outside the years 1970 to 9999
/// are written as the nearest second inside.
public enum MailDate {
    /// 9999-12-31 23:59:59 UTC.
    private static let lastUnixSeconds: Int64 = 253_402_300_799

    /// Appends an RFC 5322 §3.3 date-time: `Tue, 24 Nov 2026 14:20:00 +0000`.
    ///
    /// - Parameter offsetMinutes: east of UTC, -1,439 to 1,439; other values are brought into that range.
    public static func write(unixSeconds: Int64, offsetMinutes: Int = 0, into output: inout ByteOutput) {
        let offset = min(max(offsetMinutes, -1439), 1439)
        let time = Civil(unixSeconds: min(max(unixSeconds, 0), lastUnixSeconds) + Int64(offset) * 60)
        output.reserve(31)
        appendName(time.weekday, of: "SunMonTueWedThuFriSat", to: &output)
        output.append(", ")
        appendDigits(time.day, 2, to: &output)
        output.append(UInt8(ascii: " "))
        appendName(time.month - 1, of: "JanFebMarAprMayJunJulAugSepOctNovDec", to: &output)
        output.append(UInt8(ascii: " "))
        appendDigits(time.year, 4, to: &output)
        output.append(UInt8(ascii: " "))
        appendClock(time, to: &output)
        output.append(UInt8(ascii: " "))
        output.append(offset < 0 ? UInt8(ascii: "-") : UInt8(ascii: "+"))
        appendDigits(abs(offset) / 60, 2, to: &output)
        appendDigits(abs(offset) % 60, 2, to: &output)
    }

    /// Appends an ISO 8601 UTC time with milliseconds, for logs: `2026-11-24T14:20:00.123Z`.
    public static func writeISO8601(unixMilliseconds: Int64, into output: inout ByteOutput) {
        let milliseconds = min(max(unixMilliseconds, 0), lastUnixSeconds * 1000 + 999)
        let time = Civil(unixSeconds: milliseconds / 1000)
        output.reserve(24)
        appendDigits(time.year, 4, to: &output)
        output.append(UInt8(ascii: "-"))
        appendDigits(time.month, 2, to: &output)
        output.append(UInt8(ascii: "-"))
        appendDigits(time.day, 2, to: &output)
        output.append(UInt8(ascii: "T"))
        appendClock(time, to: &output)
        output.append(UInt8(ascii: "."))
        appendDigits(Int(milliseconds % 1000), 3, to: &output)
        output.append(UInt8(ascii: "Z"))
    }

    private static func appendClock(_ time: Civil, to output: inout ByteOutput) {
        appendDigits(time.secondOfDay / 3600, 2, to: &output)
        output.append(UInt8(ascii: ":"))
        appendDigits(time.secondOfDay / 60 % 60, 2, to: &output)
        output.append(UInt8(ascii: ":"))
        appendDigits(time.secondOfDay % 60, 2, to: &output)
    }

    private static func appendDigits(_ number: Int, _ width: Int, to output: inout ByteOutput) {
        var divisor = 1
        for _ in 1..<width { divisor *= 10 }
        while divisor > 0 {
            output.append(UInt8(ascii: "0") + UInt8(number / divisor % 10))
            divisor /= 10
        }
    }

    private static func appendName(_ index: Int, of names: StaticString, to output: inout ByteOutput) {
        output.append(UnsafeRawBufferPointer(start: names.utf8Start + index * 3, count: 3))
    }

    /// A day of the proleptic Gregorian calendar and the second in it.
    private struct Civil {
        let year: Int
        /// 1...12
        let month: Int
        /// 1...31
        let day: Int
        /// 0 is Sunday.
        let weekday: Int
        let secondOfDay: Int

        /// Counts in years that begin on 1 March, so that the leap day is the last of its year.
        init(unixSeconds: Int64) {
            // At least one day before 1970 may be asked for, by an offset west of UTC; both divisions round down.
            let seconds = Int(unixSeconds) + 86_400
            let days = seconds / 86_400 - 1 + 719_468
            secondOfDay = seconds % 86_400
            let era = days / 146_097
            let dayOfEra = days % 146_097
            let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
            let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
            let monthFromMarch = (5 * dayOfYear + 2) / 153
            day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
            month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
            year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
            // 0000-03-01, day 0 here, was a Wednesday.
            weekday = (days + 3) % 7
        }
    }
}
