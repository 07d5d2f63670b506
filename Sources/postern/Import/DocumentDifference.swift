import Gateway

/// What a dry run of an import tells of one key of a gateway: its value before and after.
struct DocumentDifference: Equatable, Encodable {
    /// Dotted.
    let key: String
    let from: String
    let to: String

    /// In the document's order; empty when nothing differs.
    static func between(_ old: GatewayDocument, _ new: GatewayDocument) -> [DocumentDifference] {
        let before = leaves(old.value, "")
        let after = leaves(new.value, "")
        let known = Dictionary(before, uniquingKeysWith: { first, _ in first })
        return after.compactMap { key, value in
            guard let old = known[key], old != value else { return nil }
            return DocumentDifference(key: key, from: old, to: value)
        }
    }

    /// Both documents have every key.
    private static func leaves(_ value: DocumentValue, _ prefix: String) -> [(String, String)] {
        guard case .map(let members) = value.content else { return [(prefix, text(value))] }
        return members.flatMap { leaves($0.value, prefix.isEmpty ? $0.key : "\(prefix).\($0.key)") }
    }

    private static func text(_ value: DocumentValue) -> String {
        switch value.content {
        case .null: "null"
        case .bool(let flag): flag ? "true" : "false"
        case .integer(let number): String(number)
        case .text(let text), .word(let text): text
        case .list(let items): "[" + items.map(text).joined(separator: ", ") + "]"
        case .map(let members): "{ " + members.map { "\($0.key): \(text($0.value))" }.joined(separator: ", ") + " }"
        }
    }
}
