import Glibc

/// A Postfix `main.cf` (postconf(5)): parameters, and the tables and lists that they name.
///
/// Only files are read: a table that Postfix asks a program for is a `Fault`, never empty.
struct PostfixConfiguration {
    struct Fault: Error, Equatable, CustomStringConvertible {
        /// One sentence without a full stop that names file or parameter.
        let description: String
    }

    private enum Limits {
        /// Of `$name` in `$name`; Postfix has 100, and nobody uses five.
        static let depth = 20
        /// Of a value with everything put in.
        static let valueBytes = 1 << 20
    }

    /// The types of tables whose text stands in a file of the table's name (`postmap` makes the rest from it).
    static let textTypes: Set = ["hash", "btree", "texthash", "lmdb", "cdb", "dbm", "sdbm"]

    private let parameters: [String: String]
    /// Reads a file; whoever tests has none.
    private let read: (String) throws -> String

    /// - Parameters:
    ///   - text: of `main.cf`.
    ///   - folder: where it lies; `$config_directory`.
    init(_ text: String, folder: String, read: @escaping (String) throws -> String) throws {
        var parameters = ["config_directory": folder]
        for line in Self.logicalLines(text) {
            guard let equals = line.firstIndex(of: "=") else {
                throw Fault(description: "main.cf: “\(line.prefix(60))” is no NAME = VALUE")
            }
            // The last one counts, as in Postfix.
            parameters[Self.trimmed(line[..<equals])] = Self.trimmed(line[line.index(after: equals)...])
        }
        (self.parameters, self.read) = (parameters, read)
    }

    /// The value of a parameter with every `$name` put in; nil: `main.cf` does not set it.
    func value(_ name: String) throws -> String? {
        try parameters[name].map { try expanded($0, of: name, depth: 0) }
    }

    /// What a list parameter holds, its files and tables read: one entry a word.
    func list(_ name: String) throws -> [String] {
        var entries: [String] = []
        for word in Self.words(try value(name) ?? "") {
            if word.hasPrefix("/") {
                for line in Self.logicalLines(try read(word)) { entries += Self.words(line) }
            } else if let table = try table(word) {
                entries += table.map(\.key)
            } else {
                entries.append(word)
            }
        }
        return entries
    }

    /// What the tables of a parameter say, in their order; the first one that knows a key counts.
    func tables(_ name: String) throws -> [(key: String, value: String)] {
        var entries: [(key: String, value: String)] = []
        for word in Self.words(try value(name) ?? "") {
            guard let table = try table(word) else {
                throw Fault(description: "\(name): “\(word)” is no TYPE:TABLE")
            }
            entries += table
        }
        return entries
    }

    /// - Returns: nil when `word` is no `type:table`.
    private func table(_ word: String) throws -> [(key: String, value: String)]? {
        let word = word.hasPrefix("proxy:") ? String(word.dropFirst("proxy:".count)) : word
        guard let colon = word.firstIndex(of: ":") else { return nil }
        let (type, path) = (String(word[..<colon]), String(word[word.index(after: colon)...]))
        guard Self.textTypes.contains(type), path.hasPrefix("/") else {
            throw Fault(
                description:
                    "“\(word)” is not a table whose text is in a file; write its entries into one, and name that as "
                    + "texthash:FILE in a copy of main.cf")
        }
        return Self.logicalLines(try read(path)).map { line in
            let end = line.firstIndex { $0 == " " || $0 == "\t" } ?? line.endIndex
            return (line[..<end].lowercased(), Self.trimmed(line[end...]))
        }
    }

    // MARK: Text

    /// Without comments and empty lines; a line that begins with white space goes on with the one before.
    static func logicalLines(_ text: String) -> [String] {
        var lines: [String] = []
        for line in text.split(whereSeparator: \.isNewline) {
            let content = trimmed(line)
            if content.isEmpty || content.hasPrefix("#") { continue }
            if line.first == " " || line.first == "\t", let last = lines.popLast() {
                lines.append(last + " " + content)
            } else {
                lines.append(content)
            }
        }
        return lines
    }

    /// Separated by commas and white space.
    static func words(_ text: String) -> [String] {
        text.split { $0 == "," || $0.isWhitespace }.map { String($0) }
    }

    private static func trimmed(_ text: some StringProtocol) -> String {
        var rest = text[...]
        while rest.first?.isWhitespace == true { rest.removeFirst() }
        while rest.last?.isWhitespace == true { rest.removeLast() }
        return String(rest)
    }

    private func expanded(_ text: String, of parameter: String, depth: Int) throws -> String {
        guard depth < Limits.depth else {
            throw Fault(description: "main.cf: \(parameter) names itself, over \(Limits.depth) others")
        }
        var result = ""
        var rest = text[...]
        while let dollar = rest.firstIndex(of: "$") {
            result += rest[..<dollar]
            rest = rest[rest.index(after: dollar)...]
            let name: Substring
            switch rest.first {
            case "$":
                result += "$"
                rest.removeFirst()
                continue
            case "{", "(":
                guard let end = rest.firstIndex(where: { $0 == "}" || $0 == ")" }) else {
                    throw Fault(description: "main.cf: \(parameter) has a “$\(rest.first!)” without its end")
                }
                name = rest[rest.index(after: rest.startIndex)..<end]
                rest = rest[rest.index(after: end)...]
            default:
                name = rest.prefix { $0.isASCII && ($0.isLetter || $0.isNumber) || $0 == "_" }
                rest = rest[name.endIndex...]
            }
            guard name.allSatisfy({ $0.isASCII && ($0.isLetter || $0.isNumber) || $0 == "_" }) else {
                throw Fault(description: "main.cf: \(parameter) has “${\(name)}”, which is beyond this import")
            }
            // One that is not set is Postfix's default, and of those only the host's names are likely here.
            if let value = parameters[String(name)] {
                result += try expanded(value, of: parameter, depth: depth + 1)
            } else if let value = Self.standard(String(name)) {
                result += try expanded(value, of: parameter, depth: depth + 1)
            }
            guard result.utf8.count <= Limits.valueBytes else {
                throw Fault(description: "main.cf: \(parameter) is longer than \(Limits.valueBytes) bytes")
            }
        }
        return result + rest
    }

    /// What Postfix takes where `main.cf` is silent.
    private static func standard(_ name: String) -> String? {
        switch name {
        case "default_database_type": "hash"
        case "mydestination": "$myhostname, localhost.$mydomain, localhost"
        case "myhostname": hostName()
        case "mydomain":
            hostName().flatMap { name in name.firstIndex(of: ".").map { String(name[name.index(after: $0)...]) } }
        default: nil
        }
    }

    private static func hostName() -> String? {
        var name = [CChar](repeating: 0, count: Int(HOST_NAME_MAX) + 1)
        guard gethostname(&name, name.count - 1) == 0 else { return nil }
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
