import FoundationEssentials
import Gateway
import HTTPTypes
import Hummingbird

/// A refusal as the API says it (RFC 9457): the sentence is the mail process's own where it is the one that refuses.
struct Problem: Error, Sendable {
    struct Field: Codable, Hashable, Sendable {
        /// A dotted key of what was sent, or a parameter's name.
        let field: String
        let detail: String
    }

    /// A key on which the stored state and the one that was sent disagree.
    struct Difference: Codable, Hashable, Sendable {
        let key: String
        let stored: JSON
        let sent: JSON
    }

    let status: HTTPResponse.Status
    let detail: String
    var errors: [Field] = []
    var differences: [Difference]?
    /// Of what is stored now.
    var etag: String?
    var retryAfterSeconds: Int?
    /// For 405.
    var allow: String?

    init(_ status: HTTPResponse.Status, _ detail: String, field: String? = nil) {
        (self.status, self.detail) = (status, detail)
        if let field { errors = [Field(field: field, detail: detail)] }
    }

    private struct Body: Encodable {
        let type = "about:blank"
        let title: String
        let status: Int
        let detail: String
        let errors: [Field]?
        let differences: [Difference]?
        let etag: String?
    }

    var body: [UInt8] {
        JSONBytes.encode(
            Body(
                title: status.reasonPhrase, status: status.code, detail: detail, errors: errors.isEmpty ? nil : errors,
                differences: differences, etag: etag))
    }
}

extension Problem {
    init(_ fault: AccessFault) { self.init(.serviceUnavailable, fault.description) }

    /// - Parameter hasPrecondition: the request named the state that it wants to change.
    init(_ fault: ControlFault, hasPrecondition: Bool = false) {
        let status: HTTPResponse.Status =
            switch fault.code {
            case .refused: .unprocessableContent
            case .notFound: .notFound
            case .conflict: hasPrecondition ? .preconditionFailed : .conflict
            case .failed, .notRunning: .serviceUnavailable
            }
        self.init(status, fault.message)
        if fault.code == .refused, let field = Self.field(in: fault.message) {
            errors = [Field(field: field, detail: fault.message)]
        }
    }

    init(_ fault: InvalidSetting) {
        self.init(.unprocessableContent, fault.sentence, field: Self.field(in: fault.sentence))
    }

    /// The key that a sentence begins with, between backquotes: "`forward.port`: `0` is not allowed; …".
    static func field(in sentence: String) -> String? {
        var rest = sentence[...]
        for beginning in ["unknown key ", ""] where rest.hasPrefix(beginning) {
            rest = rest.dropFirst(beginning.count)
            break
        }
        guard rest.first == "`", let end = rest.dropFirst().firstIndex(of: "`") else { return nil }
        let key = rest[rest.index(after: rest.startIndex)..<end]
        let isKey = key.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0) || $0 == 0x2e
        }
        return isKey && !key.isEmpty ? String(key) : nil
    }
}

/// The one form of JSON that is answered: keys in order, so that equal answers are equal texts.
enum JSONBytes {
    static func encode(_ value: some Encodable) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let bytes = try? encoder.encode(value) else { preconditionFailure("an answer that is no JSON") }
        return Array(bytes)
    }
}

/// A value of JSON of any shape.
indirect enum JSON: Hashable, Sendable {
    case null
    case bool(Bool)
    case integer(Int)
    case text(String)
    case list([JSON])
    case map([String: JSON])

    init(_ value: DocumentValue) {
        self =
            switch value.content {
            case .null: .null
            case .bool(let value): .bool(value)
            case .integer(let value): .integer(value)
            case .text(let text), .word(let text): .text(text)
            case .list(let items): .list(items.map { JSON($0) })
            case .map(let members): .map(Dictionary(members.map { ($0.key, JSON($0.value)) }) { $1 })
            }
    }

    var document: DocumentValue {
        switch self {
        case .null: .null
        case .bool(let value): DocumentValue(.bool(value))
        case .integer(let value): DocumentValue(.integer(value))
        case .text(let text): DocumentValue(.text(text))
        case .list(let items): DocumentValue(.list(items.map(\.document)))
        case .map(let members):
            DocumentValue(
                .map(members.sorted { $0.key < $1.key }.map { DocumentValue.Member($0.key, $0.value.document) }))
        }
    }
}

extension JSON: Codable, ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    init(stringLiteral text: String) { self = .text(text) }
    init(booleanLiteral value: Bool) { self = .bool(value) }
    init(integerLiteral value: Int) { self = .integer(value) }
    init(arrayLiteral items: JSON...) { self = .list(items) }
    init(dictionaryLiteral members: (String, JSON)...) { self = .map(Dictionary(members) { $1 }) }
    init(from decoder: any Decoder) throws { self.init(try DocumentValue(from: decoder)) }
    func encode(to encoder: any Encoder) throws { try document.encode(to: encoder) }
}
