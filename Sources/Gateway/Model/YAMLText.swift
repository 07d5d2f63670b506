import Yams

/// YAML to and from `DocumentValue`. Plain scalars stay words: the setting decides what they are.
extension DocumentValue {
    /// Reads the documents of a YAML stream; an empty text has none.
    ///
    /// - Throws: `InvalidSetting` naming the line: bad syntax, a key given twice, too deep, too long, too many aliases.
    static func documents(yaml text: String, limitBytes: Int) throws(InvalidSetting) -> [DocumentValue] {
        guard text.utf8.count <= limitBytes else {
            throw InvalidSetting("the document is longer than \(limitBytes) bytes")
        }
        guard aliasesAtMost(text) <= Limits.aliases else {
            throw InvalidSetting("the document holds more than \(Limits.aliases) aliases (`*name`)")
        }
        do {
            var left = Limits.values
            var documents: [DocumentValue] = []
            // Not `compose_all`: it ends at an error as at the end.
            let parser = try Parser(yaml: text)
            while let node = try parser.nextRoot() {
                documents.append(try DocumentValue(node: node, depth: 0, left: &left))
            }
            return documents
        } catch let fault as InvalidSetting {
            throw fault
        } catch let error as YamlError {
            throw InvalidSetting(sentence(of: error))
        } catch {
            throw InvalidSetting("not YAML: \(InvalidSetting.quote(String(describing: error)))")
        }
    }

    /// How many aliases a text can hold; those in comments and quotes are counted, too, as only a parser knows them.
    ///
    /// Asked before the parser runs, because it hashes keys: an alias there multiplies, and there is no stopping it.
    private static func aliasesAtMost(_ text: String) -> Int {
        var aliases = 0
        var hasAnchor = false
        var previous = UInt8(ascii: "\n")
        for byte in text.utf8 {
            switch previous {
            // Where a token can begin.
            case 0...32, UInt8(ascii: "["), UInt8(ascii: "{"), UInt8(ascii: ","), UInt8(ascii: ":"), UInt8(ascii: "?"),
                UInt8(ascii: "-"), UInt8(ascii: "]"), UInt8(ascii: "}"), UInt8(ascii: "\""), UInt8(ascii: "'"), 128...:
                if byte == UInt8(ascii: "*") { aliases += 1 }
                if byte == UInt8(ascii: "&") { hasAnchor = true }
            default: break
            }
            previous = byte
        }
        return hasAnchor ? aliases : 0
    }

    private static func sentence(of error: YamlError) -> String {
        switch error {
        case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
            .composer(let context, let problem, let mark, _):
            "not YAML (line \(mark.line)): \(problem)" + (context.map { " \($0.text)" } ?? "")
        case .duplicatedKeysInMapping(let duplicates, let context):
            "\(InvalidSetting.quote(duplicates.first ?? "")) stands twice in the group that begins at line "
                + "\(context.mark.line)"
        case .reader(let problem, _, _, _): "not YAML: \(problem)"
        default: "not YAML: \(InvalidSetting.quote(error.description))"
        }
    }

    private init(node: Node, depth: Int, left: inout Int) throws(InvalidSetting) {
        let line = node.mark?.line
        guard depth < Limits.depth else {
            throw InvalidSetting("values nested too deep\(line.map { " (line \($0))" } ?? "")")
        }
        left -= 1
        guard left > 0 else { throw InvalidSetting("the document holds more than \(Limits.values) values") }
        switch node {
        case .scalar(let scalar):
            switch scalar.style {
            case .singleQuoted, .doubleQuoted, .literal, .folded: self.init(.text(scalar.string), line: line)
            default:
                let isNull = ["", "~", "null", "Null", "NULL"].contains(scalar.string)
                self.init(isNull ? .null : .word(scalar.string), line: line)
            }
        case .sequence(let sequence):
            var items: [DocumentValue] = []
            for item in sequence { items.append(try DocumentValue(node: item, depth: depth + 1, left: &left)) }
            self.init(.list(items), line: line)
        case .mapping(let mapping):
            var members: [Member] = []
            for (key, value) in mapping {
                guard let name = key.scalar?.string else {
                    throw InvalidSetting("a key that is no text\(line.map { " (line \($0))" } ?? "")")
                }
                var value = try DocumentValue(node: value, depth: depth + 1, left: &left)
                // The key's line: an empty or nested value begins on a later one.
                value = DocumentValue(value.content, line: key.mark?.line ?? value.line)
                members.append(Member(name, value))
            }
            self.init(.map(members), line: line)
        case .alias:
            throw InvalidSetting("an alias without its anchor\(line.map { " (line \($0))" } ?? "")")
        }
    }

    /// Block style for maps, one line for lists of scalars; ends with a line feed.
    var yaml: String {
        var output = ""
        writeBlock(indent: 0, into: &output)
        return output
    }

    private func writeBlock(indent: Int, into output: inout String) {
        let margin = String(repeating: " ", count: indent)
        switch content {
        case .map(let members) where !members.isEmpty:
            for member in members {
                output += margin + Self.yamlScalar(member.key) + ":"
                if member.value.isBlock {
                    output += "\n"
                    member.value.writeBlock(indent: indent + 2, into: &output)
                } else {
                    output += " " + member.value.flow + "\n"
                }
            }
        case .list(let items) where isBlock:
            for item in items {
                guard item.isBlock else {
                    output += margin + "- " + item.flow + "\n"
                    continue
                }
                var inner = ""
                item.writeBlock(indent: indent + 2, into: &inner)
                output += margin + "- " + inner.dropFirst(indent + 2)
            }
        default: output += margin + flow + "\n"
        }
    }

    private var isBlock: Bool {
        switch content {
        case .map(let members): !members.isEmpty
        case .list(let items): items.contains { $0.isBlock }
        default: false
        }
    }

    /// On one line: `[1m, 5m]`, `{ a: 1 }`, `null`.
    var flow: String {
        switch content {
        case .list(let items): "[" + items.map(\.flow).joined(separator: ", ") + "]"
        case .map(let members):
            members.isEmpty
                ? "{}"
                : "{ " + members.map { "\(Self.yamlScalar($0.key)): \($0.value.flow)" }.joined(separator: ", ") + " }"
        case .text(let text): Self.yamlScalar(text)
        case .word(let word): word
        default: json
        }
    }

    /// Plain where every YAML reader takes it for text, else in double quotes (JSON's escapes are YAML's).
    private static func yamlScalar(_ text: String) -> String {
        let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"]
        let isPlain =
            text.utf8.allSatisfy {
                ($0 | 0x20 >= UInt8(ascii: "a") && $0 | 0x20 <= UInt8(ascii: "z"))
                    || ($0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9")) || $0 == UInt8(ascii: ".")
                    || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: "/")
            } && text.utf8.contains { $0 | 0x20 >= UInt8(ascii: "a") && $0 | 0x20 <= UInt8(ascii: "z") }
            && text.utf8.first != UInt8(ascii: "-") && text.utf8.first != UInt8(ascii: ".")
            && !words.contains(text.lowercased()) && Double(text) == nil
            && !["0x", "0o", "0b"].contains { text.lowercased().hasPrefix($0) }
        if isPlain { return text }
        var quoted = ""
        write(text, into: &quoted)
        return quoted
    }
}
