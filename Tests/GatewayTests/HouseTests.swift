import Foundation
import Gateway
import Testing

/// Rules of the repository that no compiler checks: which part knows which, and how sources are cited.
struct HouseTests {
    /// Each layer's imports, whole: a new one is a decision, not an accident.
    @Test(arguments: [
        ("Protocols", []),
        ("Reactor", ["CReactor", "Glibc", "Synchronization"]),
    ])
    func layerImportsOnly(_ target: String, _ allowed: [String]) throws {
        for file in try Repository.files(in: "Sources/\(target)", suffixes: [".swift"]) {
            let foreign = try Repository.imports(of: file).subtracting(allowed)
            #expect(foreign.isEmpty, "\(file) imports \(foreign.sorted().joined(separator: ", "))")
        }
    }

    /// Foundation allocates where nobody sees it, so the mail path does without. The control thread may have its JSON.
    @Test func gatewayDoesWithoutFoundation() throws {
        for file in try Repository.files(in: "Sources/Gateway", suffixes: [".swift"]) {
            let allowed: Set = file.hasPrefix("Sources/Gateway/Control/") ? ["FoundationEssentials"] : []
            let foundation = try Repository.imports(of: file).filter { $0.hasPrefix("Foundation") }.subtracting(allowed)
            #expect(foundation.isEmpty, "\(file) imports \(foundation.sorted().joined(separator: ", "))")
        }
    }

    /// The search finds what it must: a rule that sees no file, or no import, proves nothing.
    @Test func importsAreSeen() throws {
        #expect(try Repository.files(in: "Sources/Protocols", suffixes: [".swift"]).count > 20)
        let text = """
            // import Commented
            import Plain
            public import struct Kinded.Value
            @preconcurrency @testable internal import Attributed
                import Indented.Submodule
            /// import Documented
            let importance = "import Quoted"
            """
        #expect(Repository.imports(in: text) == ["Plain", "Kinded", "Attributed", "Indented"])
    }

    /// The manual's tables are printed from the keys' declarations. `UPDATE_REFERENCE=1 swift test --filter HouseTests` puts
    /// them in after a change.
    @Test func manualHasTheReference() throws {
        let file = "docs/configure.md"
        let text = try Repository.text(of: file)
        var updated = text
        for (name, table) in [
            ("postern.yaml", Configuration.referenceMarkdown()), ("gateway", GatewayDocument.referenceMarkdown()),
            ("settings", Settings.referenceMarkdown()),
        ] {
            let begin = try #require(
                updated.range(of: "<!-- reference: \(name) -->\n"), "\(file) has no place for \(name)")
            let end = try #require(updated.range(of: "<!-- end -->", range: begin.upperBound..<updated.endIndex))
            updated.replaceSubrange(begin.upperBound..<end.lowerBound, with: table)
        }
        if ProcessInfo.processInfo.environment["UPDATE_REFERENCE"] != nil {
            try updated.write(to: Repository.root.appending(path: file), atomically: true, encoding: .utf8)
        } else {
            #expect(
                updated == text, "\(file) is older than the keys: UPDATE_REFERENCE=1 swift test --filter HouseTests")
        }
    }

    /// One spelling, `RFC 5321 §4.1.1.4`, so that a search for a section finds all that rests on it.
    @Test func citationsHaveOneSpelling() throws {
        for file in try Repository.citingFiles() {
            let faults = Citation.faults(in: try Repository.text(of: file))
            #expect(faults.isEmpty, "\(file): \(faults.joined(separator: "; "))")
        }
    }

    @Test func citedDocumentsAreInTheIndex() throws {
        var titles: [Int: Substring] = [:]
        for line in try Repository.text(of: "docs/rfc-index.tsv").split(separator: "\n") {
            let columns = line.split(separator: "\t", omittingEmptySubsequences: false)
            let number = try #require(Int(columns[0]), "\(line)")
            #expect(columns.count == 2 && !columns[1].isEmpty, "\(line)")
            #expect(titles.updateValue(columns[1], forKey: number) == nil, "RFC \(number) stands twice in the index")
        }
        for file in try Repository.citingFiles() {
            let unknown = Citation.numbers(in: try Repository.text(of: file)).filter { titles[$0] == nil }
            #expect(unknown.isEmpty, "\(file) cites RFC \(unknown), not in docs/rfc-index.tsv")
        }
    }

    @Test(arguments: [
        ("RFC 5321 §4.1.1.4, and RFC 3461; RFC 5321 §D.1.", []),
        ("orcpt=rfc822;a@b, message/rfc822", []),
        ("RFC5321 and RFC-5321", ["RFC5321", "RFC-5321"]),
        ("RFC 5321 section 4.1", ["RFC 5321 section 4.1"]),
        ("RFC 5321, Section 4.1", ["RFC 5321, Section 4.1"]),
        ("RFC 5321 § 4.1", ["RFC 5321 § 4.1"]),
        ("RFC 5321 4.1", ["RFC 5321 4.1"]),
        ("RFC 5321§4.1", ["RFC 5321§4.1"]),
        ("Section 4.1 of RFC 5321", ["Section 4.1 of RFC 5321"]),
    ])
    func wrongCitationsAreSeen(_ text: String, _ faults: [String]) {
        #expect(Citation.faults(in: text) == faults)
    }
}

/// How a document of the RFC series is named.
private enum Citation {
    static func numbers(in text: String) -> [Int] {
        Set(text.matches(of: #/RFC (\d{1,5})/#).compactMap { Int($0.output.1) }).sorted()
    }

    /// Every citation that is spelt in another way, as it stands.
    static func faults(in text: String) -> [String] {
        let wrong = [
            #/\bRFC[-_]?\d+/#,
            #/\bRFC \d+,? *(?:[Ss]ection|[Ss]ec\.|[Aa]ppendix) *[0-9A-Z][0-9.]*/#,
            #/\bRFC \d+(?: § +|  +§|§)[0-9A-Z][0-9.]*/#,
            #/\bRFC \d+ \d+\.[0-9.]*/#,
            #/\b[Ss]ection [0-9.]+ of RFC \d+/#,
        ]
        return wrong.flatMap { text.matches(of: $0) }
            .sorted { $0.range.lowerBound < $1.range.lowerBound }
            .map { String($0.output) }
    }
}

/// The source tree that this test was built from.
private enum Repository {
    static let root = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().standardizedFileURL

    /// Paths from the root, sorted.
    static func files(in folder: String, suffixes: [String]) throws -> [String] {
        let names = try FileManager.default.subpathsOfDirectory(atPath: root.appending(path: folder).path)
        return names.filter { name in suffixes.contains { name.hasSuffix($0) } }.map { "\(folder)/\($0)" }.sorted()
    }

    /// This file holds wrong citations on purpose.
    static func citingFiles() throws -> [String] {
        try ["Sources", "Tests", "docs"].flatMap { try files(in: $0, suffixes: [".swift", ".h", ".c", ".py", ".md"]) }
            .filter { !$0.hasSuffix("HouseTests.swift") && !$0.hasPrefix("docs/evidence/") }
    }

    static func text(of file: String) throws -> String {
        try String(contentsOf: root.appending(path: file), encoding: .utf8)
    }

    static func imports(of file: String) throws -> Set<String> { imports(in: try text(of: file)) }

    static func imports(in text: String) -> Set<String> {
        let statement =
            #/
            ^\s*(?:@\w+\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?import\s+
            (?:(?:struct|class|enum|protocol|func|var|let|typealias)\s+)?(\w+)
            /#
        return Set(text.split(separator: "\n").compactMap { $0.firstMatch(of: statement).map { String($0.output.1) } })
    }
}
