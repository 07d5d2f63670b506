import Foundation
import Testing

/// Tests/cases.tsv says what shows that each case is survived: each is there, and each test that it names.
struct CaseTableTests {
    private struct Row {
        let number: Int
        let columns: [String]
        var id: String { columns[0] }
    }

    private struct Fault: Error, CustomStringConvertible { let description: String }

    /// How many cases each letter has.
    private static let counts = ["A": 11, "B": 8, "C": 6, "D": 11, "E": 9, "F": 6, "G": 7]

    /// What this version does not have: a case may wait for it.
    private static let parts: Set = [
        "attachment extraction", "IMAP", "AUTH", "DANE", "DANE and MTA-STS", "ETRN and ATRN", "IMAP and POP3",
        "scanning",
        "milters", "recipient lists", "ATRN", "POP3", "web pages", "AUTH and web pages",
    ]

    private static func rows(_ text: String) throws -> [Row] {
        try text.split(separator: "\n", omittingEmptySubsequences: false).enumerated().compactMap { number, line in
            if line.isEmpty || line.hasPrefix("#") { return nil }
            let columns = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            guard columns.count == 4, columns.allSatisfy({ !$0.isEmpty }) else {
                throw Fault(description: "line \(number + 1) is not case, kind, file, name: \(line)")
            }
            return Row(number: number + 1, columns: columns)
        }
    }

    /// What is wrong with the table, as sentences.
    private static func faults(_ table: String, _ text: (String) throws -> String) throws -> [String] {
        let rows = try rows(table)
        var faults: [String] = []
        let known = Set(counts.flatMap { letter, count in (1...count).map { "T-\(letter)\($0)" } })
        for id in known.subtracting(rows.map(\.id)).sorted() { faults.append("\(id) has no row") }
        var seen: Set<[String]> = []
        for row in rows {
            if !known.contains(row.id) { faults.append("line \(row.number): no case \(row.id)") }
            if !seen.insert(row.columns).inserted { faults.append("line \(row.number) stands twice") }
            let (file, name) = (row.columns[2], row.columns[3])
            switch row.columns[1] {
            case "comes with":
                if !parts.contains(file) { faults.append("line \(row.number): no part \(file)") }
            case "test":
                guard let source = try? text(file) else {
                    faults.append("line \(row.number): no file \(file)")
                    continue
                }
                let places =
                    switch file.split(separator: ".").last {
                    case "swift": ["\"\(name)\"", "`\(name)`", "func \(name)("]
                    case "txt": ["# \(name)\n"]
                    default: [name]
                    }
                if !places.contains(where: source.contains) {
                    faults.append("line \(row.number): \(file) has no test \(name)")
                }
            default: faults.append("line \(row.number): \(row.columns[1])")
            }
        }
        return faults
    }

    @Test func eachCaseHasItsTests() throws {
        let faults = try Self.faults(try SourceTree.text(of: "Tests/cases.tsv")) { try SourceTree.text(of: $0) }
        #expect(faults.isEmpty, "\(faults.joined(separator: "\n"))")
    }

    /// Operators read the same in docs/guarantees.md.
    @Test func theManualListsThem() throws {
        let manual = try SourceTree.text(of: "docs/guarantees.md").split(separator: "\n")
        for row in try Self.rows(try SourceTree.text(of: "Tests/cases.tsv")) {
            let line = try #require(manual.first { $0.hasPrefix("| \(row.id) |") }, "no \(row.id)")
            let file = row.columns[2].hasPrefix("Tests/") ? String(row.columns[2].dropFirst(6)) : row.columns[2]
            #expect(line.contains(file) && line.contains(row.columns[3]), "\(row.id): \(row.columns[3])")
        }
    }

    /// What is wrong is found.
    @Test func wrongTablesAreSeen() throws {
        let table = try SourceTree.text(of: "Tests/cases.tsv")
        let source: (String) throws -> String = { file in
            switch file {
            case "a.swift": "@Test(\"one\") func a() { }\n@Test func `two`() {}"
            case "a.txt": "# three\nrole: server"
            default: throw Fault(description: "no file")
            }
        }
        func faults(_ rows: String...) throws -> [String] {
            try Self.faults(rows.joined(separator: "\n"), source).filter { !$0.hasSuffix("has no row") }
        }
        #expect(
            try faults(
                "T-A1\ttest\ta.swift\tone", "T-A1\ttest\ta.swift\ttwo", "T-A1\ttest\ta.swift\ta",
                "T-A1\ttest\ta.txt\tthree", "T-A1\tcomes with\tIMAP\tx"
            ).isEmpty)
        for wrong in [
            "T-A1\ttest\ta.swift\ton", "T-A1\ttest\tb.swift\tone", "T-A12\ttest\ta.swift\tone",
            "T-A1\tcomes with\tlater\tx",
            "T-A1\ttest\ta.txt\tthre", "T-A1\tperhaps\ta.swift\tone",
        ] {
            #expect(try faults(wrong).count == 1, "\(wrong)")
        }
        #expect(try faults("T-A1\ttest\ta.swift\tone", "T-A1\ttest\ta.swift\tone") == ["line 2 stands twice"])
        for empty in ["T-A1\ttest\ta.swift\t", "T-A1\ttest\ta.swift", "T-A1"] {
            #expect(throws: Fault.self) { try faults(empty) }
        }
        let without = table.split(separator: "\n").filter { !$0.hasPrefix("T-G7\t") }.joined(separator: "\n")
        #expect(try Self.faults(without) { try SourceTree.text(of: $0) } == ["T-G7 has no row"])
    }
}
