import Foundation
import Testing

/// `dev/mutants` breaks the engine on purpose; here only that each mutant still finds what it breaks.
struct MutantTests {
    /// What a file of `Tests/Mutants` says: `--- path`, a text, `+++`, what stands in its place.
    private struct Change {
        let path: String
        let old: String
        let new: String
    }

    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    private static func changes(_ text: String) -> [Change] {
        text.components(separatedBy: "\n--- ").dropFirst().compactMap { text in
            let part = text.hasSuffix("\n") ? text : text + "\n"
            guard let line = part.firstIndex(of: "\n") else { return nil }
            let sides = part[part.index(after: line)...].components(separatedBy: "\n+++\n")
            guard sides.count == 2 else { return nil }
            return Change(path: String(part[..<line]), old: sides[0] + "\n", new: sides[1])
        }
    }

    @Test("each mutant's text stands in the sources exactly once, with another in its place") func mutantsApply() throws
    {
        let files = try FileManager.default.contentsOfDirectory(
            at: Self.root.appending(path: "Tests/Mutants"), includingPropertiesForKeys: nil
        ).filter { $0.pathExtension == "mutant" }
        #expect(files.count >= 30)
        for file in files {
            let text = try String(contentsOf: file, encoding: .utf8)
            #expect(text.hasPrefix("# "), "\(file.lastPathComponent) doesn't say what it breaks")
            let changes = Self.changes(text)
            #expect(
                !changes.isEmpty && changes.count == text.components(separatedBy: "\n+++\n").count - 1,
                "\(file.lastPathComponent)")
            for change in changes {
                let source = try String(contentsOf: Self.root.appending(path: change.path), encoding: .utf8)
                let count = source.components(separatedBy: change.old).count - 1
                #expect(count == 1, "\(file.lastPathComponent): its text stands \(count) times in \(change.path)")
                #expect(change.old != change.new, "\(file.lastPathComponent) changes nothing")
            }
        }
    }
}
