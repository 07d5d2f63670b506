import Gateway

/// The keys of a document (a gateway's, or the settings) as the page shows them and the API checks them.
///
/// Read from the reference that the documents print of themselves, so that a key that is added there appears here.
struct KeyReference: Sendable {
    struct Key: Codable, Hashable, Sendable {
        enum Kind: String, Codable, Sendable { case flag, number, choice, list, text }
        /// Dotted.
        let key: String
        /// As YAML on one line.
        let standard: String
        /// Completes "it takes …".
        let takes: String
        /// What it is for.
        let help: String
        let kind: Kind
        let isNullable: Bool
        /// Of a choice.
        let words: [String]?
    }

    /// Those that are built, in the document's order.
    let keys: [Key]

    static let gateway = KeyReference(markdown: GatewayDocument.referenceMarkdown())
    static let settings = KeyReference(markdown: Settings.referenceMarkdown())

    init(markdown: String) {
        keys = markdown.split(separator: "\n").dropFirst(2).compactMap { line in
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).dropFirst().dropLast().map {
                Self.trim($0)
            }
            guard cells.count >= 4, !cells[3].hasSuffix("Not in this version.") else { return nil }
            let code = { (text: String) in text.hasPrefix("`") ? String(text.dropFirst().dropLast()) : text }
            return Self.key(code(cells[0]), standard: code(cells[1]), takes: cells[2], help: cells[3])
        }
    }

    private static func key(_ key: String, standard: String, takes: String, help: String) -> Key {
        let orNull = ", or null"
        let isNullable = takes.hasSuffix(orNull)
        let base = isNullable ? String(takes.dropLast(orNull.count)) : takes
        let words = base.replacing(" or ", with: ", ").split(separator: ",").map { trim($0) }
        let areWords = words.count > 1 && words.allSatisfy { word in word.allSatisfy { $0.isLetter || $0.isNumber } }
        let kind: Key.Kind
        if base == "true or false" {
            kind = .flag
        } else if base.hasPrefix("a list of") {
            kind = .list
        } else if areWords {
            kind = .choice
        } else if base.split(separator: " ").count == 3, base.contains(" to ") {
            kind = .number
        } else {
            kind = .text
        }
        return Key(
            key: key, standard: standard, takes: takes, help: help, kind: kind, isNullable: isNullable,
            words: kind == .choice ? words : nil)
    }

    private static func trim(_ text: some StringProtocol) -> String {
        let head = text.drop { $0 == " " }
        return String(head.reversed().drop { $0 == " " }.reversed())
    }

    /// The document as a schema: objects in objects. What a value may be besides is the mail process's to say.
    ///
    /// - Parameter isLoose: as it is sent, not as it is answered: every value may be text, and null is the default.
    func schema(isLoose: Bool = false) -> [String: JSON] {
        var root = Node()
        for key in keys { root.insert(key.key.split(separator: ".")[...], Self.schema(key, isLoose: isLoose)) }
        return root.properties
    }

    private static func schema(_ key: Key, isLoose: Bool) -> JSON {
        var types: [String]
        switch key.kind {
        case .flag: types = ["boolean"]
        case .number: types = ["integer"]
        case .list: types = ["array"]
        case .text, .choice:
            types = key.standard.allSatisfy(\.isNumber) || key.takes.hasPrefix("452") ? ["integer"] : ["string"]
        }
        if isLoose { types = (key.kind == .list ? ["array", "string"] : [types[0], "string"]) }
        if key.isNullable || isLoose { types.append("null") }
        let unique = types.reduce(into: [String]()) { if !$0.contains($1) { $0.append($1) } }
        return ["type": .list(unique.map { .text($0) }), "description": .text(key.help)]
    }

    private struct Node {
        var properties: [String: JSON] = [:]

        mutating func insert(_ path: ArraySlice<Substring>, _ schema: JSON) {
            let name = String(path.first!)
            guard path.count > 1 else {
                properties[name] = schema
                return
            }
            var inner = Node()
            if case .map(let known)? = properties[name], case .map(let members)? = known["properties"] {
                inner.properties = members
            }
            inner.insert(path.dropFirst(), schema)
            properties[name] = ["type": "object", "properties": .map(inner.properties)]
        }
    }
}
