import Gateway
import HTTPTypes
import Hummingbird

/// One method of one path of the API. It is served and described from here, so that the two can't differ.
struct Route: Sendable {
    /// Who may ask.
    enum Access: Sendable {
        case everybody
        /// A session, or any token.
        case read
        /// A session, or a token of scope `write`.
        case write
        /// A person in a browser: what a leaked token must not reach.
        case session
    }

    struct Parameter: Sendable {
        let name: String
        let text: String
        let schema: JSON
    }

    enum Body: Sendable {
        case json(JSON)
        case yaml
    }

    /// What a request that was done is answered with.
    struct Answer: Sendable {
        enum Content: Sendable {
            case none
            case json(JSON)
            case other(type: String)
        }
        let status: Int
        let text: String
        let content: Content

        init(_ status: Int, _ text: String, _ content: Content = .none) {
            (self.status, self.text, self.content) = (status, text, content)
        }
    }

    let method: HTTPRequest.Method
    /// Below `/api/v1/`: `gateways/{domain}`.
    let path: String
    /// Its name in the OpenAPI document.
    let id: String
    let tag: String
    let summary: String
    let access: Access
    var query: [Parameter] = []
    var body: Body?
    /// Takes `If-Match`; where `isRequired`, is refused without it.
    var precondition: Precondition = .none
    /// Statuses of refusals beyond those that follow from the rest.
    var refusals: Set<Int> = []
    let answers: [Answer]
    let handle: @Sendable (APIRequest) async throws -> APIAnswer

    enum Precondition: Sendable { case none, optional, required }

    /// Names in braces.
    var pathParameters: [String] {
        path.split(separator: "/").filter { $0.hasPrefix("{") }.map { String($0.dropFirst().dropLast()) }
    }

    /// Every status that a refusal may have.
    var refusalStatuses: Set<Int> {
        // What the request itself is like, and a server that can't be asked.
        var statuses = refusals.union([400, 503])
        if access != .everybody { statuses.formUnion([401, 403]) }
        if !pathParameters.isEmpty { statuses.insert(404) }
        if body != nil { statuses.formUnion([413, 415, 422]) }
        if method != .get { statuses.insert(403) }
        switch precondition {
        case .none: break
        case .optional: statuses.insert(412)
        case .required: statuses.formUnion([412, 428])
        }
        return statuses
    }

    /// The values of `{names}` when `segments` is this path.
    func match(_ segments: [Substring]) -> [String: String]? {
        let pattern = path.split(separator: "/")
        guard pattern.count == segments.count else { return nil }
        var values: [String: String] = [:]
        for (part, segment) in zip(pattern, segments) {
            if part.hasPrefix("{") {
                guard let value = segment.removingURLEncoding() else { return nil }
                values[String(part.dropFirst().dropLast())] = value
            } else if part != segment {
                return nil
            }
        }
        return values
    }
}

/// A request that was let in.
struct APIRequest: Sendable {
    let caller: Caller?
    let client: Client
    let path: [String: String]
    let query: [String: String]
    let body: [UInt8]
    /// The etag of `If-Match`, without its quotes.
    let ifMatch: String?

    /// What is known of who asks, before anybody is believed.
    struct Client: Sendable {
        let address: String
        /// The browser came by HTTPS, by way of a proxy.
        let isSecure: Bool
        /// Of the cookie.
        let session: String?
    }
}

struct APIAnswer: Sendable {
    var status = 200
    var contentType: String?
    var headers: [(HTTPField.Name, String)] = []
    var body = ResponseBody()

    static func json(_ value: some Encodable, status: Int = 200, etag: String? = nil) -> APIAnswer {
        APIAnswer(
            status: status, contentType: "application/json", headers: etag.map { [(.eTag, "\"\($0)\"")] } ?? [],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: JSONBytes.encode(value))))
    }

    static let nothing = APIAnswer(status: 204)
}

extension APIRequest {
    /// The body as a map.
    func document() throws(Problem) -> DocumentValue {
        guard let text = String(validating: body, as: UTF8.self) else {
            throw Problem(.badRequest, "the body is not UTF-8")
        }
        let value: DocumentValue
        do throws(InvalidSetting) { value = try DocumentValue(json: text) } catch {
            throw Problem(.badRequest, error.sentence)
        }
        guard case .map = value.content else { throw Problem(.unprocessableContent, "the body is no JSON object") }
        return value
    }

    /// A query parameter that must be a number.
    func number(_ name: String, in range: ClosedRange<Int>, standard: Int) throws(Problem) -> Int {
        guard let text = query[name] else { return standard }
        guard let number = Int(text), range.contains(number) else {
            throw Problem(
                .badRequest, "`\(name)` takes \(range.lowerBound) to \(range.upperBound)", field: name)
        }
        return number
    }

    func flag(_ name: String) throws(Problem) -> Bool {
        switch query[name] {
        case nil, "false": return false
        case "true": return true
        default: throw Problem(.badRequest, "`\(name)` takes true or false", field: name)
        }
    }

    func word(_ name: String, of words: [String], standard: String) throws(Problem) -> String {
        guard let word = query[name] else { return standard }
        guard words.contains(word) else {
            throw Problem(.badRequest, "`\(name)` takes \(words.joined(separator: ", "))", field: name)
        }
        return word
    }

    /// Who asks; a route that isn't for everybody has one.
    var by: Caller {
        guard let caller else { preconditionFailure("a route for everybody asks who calls") }
        return caller
    }
}

extension StringProtocol {
    /// With `%41` decoded; nil where that is no UTF-8 or no hexadecimal.
    func removingURLEncoding() -> String? {
        guard utf8.contains(UInt8(ascii: "%")) else { return String(self) }
        var bytes: [UInt8] = []
        var rest = Array(utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            let digits = rest.prefix(2)
            guard digits.count == 2, digits.allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }),
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 16)
            else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}

/// The part of an address behind the `?`: `+` is a space.
enum QueryString {
    /// Pairs at most.
    private static let pairsMax = 32

    /// - Throws: for what can't be read, and for a name that is given twice.
    static func parse(_ text: some StringProtocol) throws(Problem) -> [String: String] {
        var values: [String: String] = [:]
        for pair in text.split(separator: "&").prefix(pairsMax) {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let decoded = parts.map { part in String(part.map { $0 == "+" ? " " : $0 }).removingURLEncoding() }
            guard let name = decoded[0], let value = decoded.count == 2 ? decoded[1] : "" else {
                throw Problem(.badRequest, "the query is not URL-encoded UTF-8")
            }
            guard values.updateValue(value, forKey: name) == nil else {
                throw Problem(.badRequest, "a query parameter is given twice")
            }
        }
        return values
    }
}
