/// A value of a JSON or YAML document, a command line or the environment, before a setting has looked at it.
///
/// Types are decided by the setting that takes the value, not by the text: `no` is a domain where a domain is wanted
/// and a mistake where `true` or `false` is.
public struct DocumentValue: Sendable {
    public enum Content: Sendable {
        case null
        case bool(Bool)
        case integer(Int)
        /// Said to be text: in quotes.
        case text(String)
        /// Bare, of no type yet: a plain YAML scalar, an argument, an environment variable.
        case word(String)
        case list([DocumentValue])
        /// In the document's order; each key once.
        case map([Member])
    }

    public struct Member: Sendable {
        public let key: String
        public let value: DocumentValue

        public init(_ key: String, _ value: DocumentValue) {
            self.key = key
            self.value = value
        }
    }

    /// Bounds of what is read from outside.
    enum Limits {
        /// Lists and maps within each other.
        static let depth = 16
        /// Values in one YAML text: 10,000 gateways with every key said are half of it.
        static let values = 1_000_000
        /// Aliases in one YAML text: so few cannot multiply much.
        static let aliases = 8
        /// A configuration file or one gateway's document.
        static let documentBytes = 1 << 20
        /// An import of many gateways.
        static let importBytes = 16 << 20
    }

    public let content: Content
    /// Counted from 1; nil when the value did not come from a text of several lines.
    public let line: Int?

    public init(_ content: Content, line: Int? = nil) {
        self.content = content
        self.line = line
    }

    public static let null = DocumentValue(.null)

    public subscript(key: String) -> DocumentValue? {
        guard case .map(let members) = content else { return nil }
        return members.first { $0.key == key }?.value
    }
}

extension DocumentValue {
    /// Text of a scalar in quotes or bare; nil for everything else.
    var string: String? {
        switch content {
        case .text(let text), .word(let text): text
        case .integer(let number): String(number)
        case .bool(let value): value ? "true" : "false"
        case .null, .list, .map: nil
        }
    }

    var integer: Int? {
        switch content {
        case .integer(let number): number
        case .word(let text): Int(text)
        default: nil
        }
    }

    var bool: Bool? {
        switch content {
        case .bool(let value): value
        case .word("true"): true
        case .word("false"): false
        default: nil
        }
    }

    /// The items of a list; of a bare word `a,b` or `[a,b]` the parts between the commas.
    var items: [DocumentValue]? {
        switch content {
        case .list(let items): return items
        case .word(let word):
            var inner = word[...]
            if inner.first == "[", inner.last == "]", inner.utf8.count > 1 { inner = inner.dropFirst().dropLast() }
            if inner.allSatisfy({ $0 == " " }) { return [] }
            return inner.split(separator: ",", omittingEmptySubsequences: false).map {
                DocumentValue(.word(Self.trim($0)), line: line)
            }
        default: return nil
        }
    }

    private static func trim(_ text: Substring) -> String {
        let head = text.drop { $0 == " " }
        return String(head[..<(head.lastIndex { $0 != " " }.map(head.index(after:)) ?? head.startIndex)])
    }

    var isNull: Bool {
        if case .null = content { return true }
        return false
    }

    /// ` (line 3)`, or nothing.
    var place: String { line.map { " (line \($0))" } ?? "" }

    /// The value as a sentence names it.
    var quoted: String {
        switch content {
        case .map: "a group of keys"
        case .list: InvalidSetting.quote(json)
        case .text(let text): InvalidSetting.quote("\"\(text)\"")
        default: InvalidSetting.quote(string ?? "null")
        }
    }
}

extension DocumentValue: Codable {
    private struct Name: CodingKey {
        let stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    public func encode(to encoder: any Encoder) throws {
        switch content {
        case .list(let items):
            var container = encoder.unkeyedContainer()
            for item in items { try container.encode(item) }
        case .map(let members):
            var container = encoder.container(keyedBy: Name.self)
            for member in members { try container.encode(member.value, forKey: Name(stringValue: member.key)) }
        case .null:
            var container = encoder.singleValueContainer()
            try container.encodeNil()
        case .bool(let value):
            var container = encoder.singleValueContainer()
            try container.encode(value)
        case .integer(let number):
            var container = encoder.singleValueContainer()
            try container.encode(number)
        case .text(let text), .word(let text):
            var container = encoder.singleValueContainer()
            try container.encode(text)
        }
    }

    public init(from decoder: any Decoder) throws {
        if let container = try? decoder.container(keyedBy: Name.self) {
            let keys = container.allKeys.sorted { $0.stringValue < $1.stringValue }
            self.init(
                .map(try keys.map { Member($0.stringValue, try container.decode(DocumentValue.self, forKey: $0)) }))
            return
        }
        if var container = try? decoder.unkeyedContainer() {
            var items: [DocumentValue] = []
            while !container.isAtEnd { items.append(try container.decode(DocumentValue.self)) }
            self.init(.list(items))
            return
        }
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self.init(.null)
        } else if let value = try? container.decode(Bool.self) {
            self.init(.bool(value))
        } else if let number = try? container.decode(Int.self) {
            self.init(.integer(number))
        } else if let number = try? container.decode(Double.self) {
            self.init(.word(String(number)))
        } else {
            self.init(.text(try container.decode(String.self)))
        }
    }
}
