import Glibc

/// Aligned columns for people; bold heads on a terminal.
struct Table {
    enum Alignment { case left, right }

    private let columns: [(head: String, alignment: Alignment)]
    private var rows: [[String]] = []

    init(_ columns: [(String, Alignment)]) { self.columns = columns.map { ($0.0, $0.1) } }

    var isEmpty: Bool { rows.isEmpty }

    /// One cell a column; what a terminal would act on is made visible.
    mutating func append(_ cells: [String]) { rows.append(cells.map(Text.visible)) }

    /// With the heads, each line ended.
    var text: String {
        var widths = columns.map(\.head.count)
        for row in rows { for (index, cell) in row.enumerated() { widths[index] = max(widths[index], cell.count) } }
        return line(columns.map(\.head), widths, style: .bold) + rows.map { line($0, widths) }.joined()
    }

    private func line(_ cells: [String], _ widths: [Int], style: Style? = nil) -> String {
        var line = ""
        for (index, cell) in cells.enumerated() {
            let space = String(repeating: " ", count: widths[index] - cell.count)
            let isLast = index == cells.count - 1
            switch columns[index].alignment {
            case .left: line += isLast ? cell : cell + space
            case .right: line += space + cell
            }
            if !isLast { line += "  " }
        }
        return (style?.around(line) ?? line) + "\n"
    }
}

/// How a terminal shows a text; nothing where output is no terminal or `NO_COLOR` is set.
enum Style: String {
    case bold = "1"
    case red = "31"
    case green = "32"
    case yellow = "33"

    private static let isUsed = isatty(STDOUT_FILENO) == 1 && getenv("NO_COLOR") == nil

    func around(_ text: String) -> String { Self.isUsed ? "\u{1b}[\(rawValue)m\(text)\u{1b}[0m" : text }
}

/// Numbers and times as people read them.
enum Text {
    /// `1,234,567`.
    static func count(_ number: Int) -> String {
        var text = ""
        for (index, digit) in String(number).reversed().enumerated() {
            if index > 0, index % 3 == 0, digit != "-" { text = "," + text }
            text = String(digit) + text
        }
        return text
    }

    /// `532 B`, `1.4 KiB`, `52 MiB`.
    static func size(_ bytes: Int) -> String {
        var value = Double(bytes)
        var units = ["B", "KiB", "MiB", "GiB", "TiB"][...]
        while value >= 1_000, units.count > 1 {
            value /= 1_024
            units = units.dropFirst()
        }
        if units.first == "B" || value >= 9.95 { return "\(Int(value.rounded())) \(units.first!)" }
        return "\((value * 10).rounded() / 10) \(units.first!)"
    }

    /// `3 min ago` or `in 2 h`, of an instant in seconds since 1970.
    static func relative(_ instant: Double, now: Double = Text.now) -> String {
        let seconds = now - instant
        if abs(seconds) < 1 { return "now" }
        return seconds > 0 ? "\(span(seconds)) ago" : "in \(span(-seconds))"
    }

    /// `5 s`, `3 min`, `2 h`, `4 d`.
    static func span(_ seconds: Double) -> String {
        switch seconds {
        case ..<90: "\(Int(seconds)) s"
        case ..<5_400: "\(Int(seconds / 60)) min"
        case ..<172_800: "\(Int(seconds / 3_600)) h"
        case ..<1e11: "\(Int(seconds / 86_400)) d"
        default: "ages"
        }
    }

    static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }

    /// Without what a terminal would act on: controls, and marks that turn the direction of writing (T-G3).
    static func visible(_ text: String) -> String {
        var visible = ""
        for scalar in text.unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned:
                visible += "\\u{\(String(scalar.value, radix: 16))}"
            default: visible.unicodeScalars.append(scalar)
            }
        }
        return visible
    }
}
