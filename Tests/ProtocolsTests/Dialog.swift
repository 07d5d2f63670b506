import Foundation
import Testing

/// One conversation of `Tests/Dialogs`, where README.md says how the files read.
struct Dialog: Sendable, CustomTestStringConvertible {
    enum Role: String, Sendable { case server, client }

    enum Step: Sendable {
        /// What the client says at once, and the server.
        case client([UInt8])
        case server([UInt8])
        /// The handshake: whatever was said in the clear and not answered before is gone.
        case tls
        /// The connection ends.
        case closed
    }

    struct Fault: Error, CustomStringConvertible {
        let description: String
    }

    /// The file, with a number where it holds several.
    let name: String
    let title: String
    /// Ours.
    let role: Role
    /// What the session has else than usual: `xclient`, `proxy`, `tls`.
    let with: Set<String>
    let steps: [Step]
    /// What must be stored, whole messages in order; nil: not said.
    let messages: [[UInt8]]?

    var testDescription: String { "\(name): \(title)" }

    static let folder = URL(filePath: #filePath).resolvingSymlinksInPath()
        .deletingLastPathComponent().deletingLastPathComponent().appending(path: "Dialogs")

    /// All of one role, by name. An unreadable one, or none at all, fails the test that asks.
    static func all(_ role: Role) -> [Dialog] {
        do {
            let files = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
                .filter { $0.hasSuffix(".txt") }.sorted()
            let dialogs = try files.flatMap { try read($0).filter { $0.role == role } }
            if dialogs.isEmpty { Issue.record("\(folder.path) holds no dialogue of role \(role)") }
            return dialogs
        } catch {
            Issue.record("\(error)")
            return []
        }
    }

    private static func read(_ file: String) throws -> [Dialog] {
        let text = try String(contentsOf: folder.appending(path: file), encoding: .utf8)
        let parts = text.components(separatedBy: "\n---\n")
        let name = String(file.dropLast(4))
        return try parts.enumerated().map { number, part in
            try Dialog(parts.count == 1 ? name : "\(name).\(number + 1)", part)
        }
    }

    init(_ name: String, _ text: String) throws {
        self.name = name
        var (title, role, with) = ("", Role?.none, Set<String>())
        var steps: [Step] = []
        var messages: [[UInt8]]?
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            func value(_ mark: String) -> Substring? {
                line.hasPrefix(mark) ? line.dropFirst(mark.count).drop { $0 == " " } : nil
            }
            func bytes(_ mark: String) throws -> [UInt8]? {
                guard line.hasPrefix(mark) else { return nil }
                var rest = line.dropFirst(mark.count)
                if rest.first == " " { rest = rest.dropFirst() }
                guard let bytes = Self.unescaped(rest) else { throw Fault(description: "\(name), line \(number + 1)") }
                return bytes
            }
            if line.isEmpty { continue }
            if let said = value("#") {
                if title.isEmpty { title = String(said) }
            } else if let said = value("role:") {
                role = Role(rawValue: String(said))
            } else if let said = value("with:") {
                with = Set(said.split(separator: " ").map(String.init))
            } else if let said = try bytes("C:") {
                if case .client(let before) = steps.last {
                    steps[steps.count - 1] = .client(before + said)
                } else {
                    steps.append(.client(said))
                }
            } else if let said = try bytes("S:") {
                if case .server(let before) = steps.last {
                    steps[steps.count - 1] = .server(before + said)
                } else {
                    steps.append(.server(said))
                }
            } else if let said = try bytes("M:") {
                guard messages?.isEmpty == false else { throw Fault(description: "\(name): M: without MESSAGE") }
                messages![messages!.count - 1] += said
            } else if line == "MESSAGE" {
                messages = (messages ?? []) + [[]]
            } else if line == "NO MESSAGE" {
                messages = []
            } else if line == "TLS" {
                steps.append(.tls)
            } else if line == "CLOSED" {
                steps.append(.closed)
            } else {
                throw Fault(description: "\(name), line \(number + 1): \(line)")
            }
        }
        guard let role, !title.isEmpty, !steps.isEmpty else {
            throw Fault(description: "\(name): no title, role or step")
        }
        (self.title, self.role, self.with, self.steps, self.messages) = (title, role, with, steps, messages)
    }

    /// `\r`, `\n`, `\\`, `\xHH`; behind each line CRLF, but not where it ends in a lone `\`.
    private static func unescaped(_ text: Substring) -> [UInt8]? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "\\") else {
                bytes.append(byte)
                continue
            }
            switch rest.popFirst() {
            case nil: return bytes
            case UInt8(ascii: "r"): bytes.append(13)
            case UInt8(ascii: "n"): bytes.append(10)
            case UInt8(ascii: "\\"): bytes.append(byte)
            case UInt8(ascii: "x"):
                guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
                else { return nil }
                bytes.append(value)
                rest.removeFirst(2)
            default: return nil
            }
        }
        return bytes + [13, 10]
    }

    /// The bytes that one side says, all together.
    func bytes(of side: Role) -> [UInt8] {
        steps.flatMap { step -> [UInt8] in
            switch (step, side) {
            case (.client(let bytes), .client), (.server(let bytes), .server): bytes
            default: []
            }
        }
    }

    /// What the server says between two turns of the client, codes with text and all.
    var serverTurns: [String] {
        steps.compactMap { if case .server(let bytes) = $0 { String(decoding: bytes, as: UTF8.self) } else { nil } }
    }

    /// Ours as they come out of a spool that draws ids.
    static func withoutIDs(_ text: String) -> String {
        text.replacing(#/(?m)^250 2\.0\.0 [0-9A-Za-z]{12,}$/#) { _ in "250 2.0.0 ID" }
            .replacing(#/(?m)^250 2\.0\.0 [0-9A-Za-z]{12,}\r\n/#) { _ in "250 2.0.0 ID\r\n" }
    }
}

/// Where a stream is cut into reads, counted from its first byte.
struct Cuts: CustomStringConvertible {
    var places: [Int]
    var description: String { places.isEmpty ? "uncut" : "cut at \(places.count > 4 ? "every byte" : "\(places)")" }

    /// The pieces of `bytes`, which begin at `offset` in the stream.
    func pieces(of bytes: [UInt8], from offset: Int) -> [[UInt8]] {
        var pieces: [[UInt8]] = []
        var start = 0
        for place in places where place > offset && place < offset + bytes.count {
            pieces.append(Array(bytes[start..<(place - offset)]))
            start = place - offset
        }
        return pieces + [Array(bytes[start...])]
    }

    /// All bytes alone; each place; where it isn't too much, each pair of places, else some pairs.
    static func all(_ count: Int, pairsUpTo bytes: Int = 100) -> [Cuts] {
        guard count > 1 else { return [] }
        var list = [Cuts(places: Array(1..<count))] + (1..<count).map { Cuts(places: [$0]) }
        if count <= bytes {
            for first in 1..<count {
                for second in (first + 1)..<max(count, first + 1) { list.append(Cuts(places: [first, second])) }
            }
        } else {
            var draw: UInt64 = 0x5eed
            for _ in 0..<150 {
                draw = draw &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                let first = 1 + Int(draw >> 33) % (count - 1)
                // Near ones are the more telling.
                list.append(Cuts(places: [first, min(first + 1 + Int(draw >> 20) % 40, count - 1)].sorted()))
            }
        }
        return list
    }
}
