import Gateway
import HTTPTypes
import Hummingbird
import NIOCore

/// Lets requests to `/api/v1` in: finds the route, asks who it is, looks whether the browser was led here by another site, and
/// turns whatever goes wrong into a problem.
struct APIGate: Sendable {
    static let prefix = "/api/v1/"
    /// A header that no form and no link of another site can send (T-G4).
    static let pageHeader = HTTPField.Name("Postern-Request")!

    private enum Limits {
        static let jsonBytes = 1 << 20
        static let yamlBytes = 12 << 20
    }

    private let api: API
    private let routes: [Route]

    init(_ api: API) { (self.api, routes) = (api, api.routes) }

    func respond(to request: Request, _ client: APIRequest.Client, path: Substring, query: Substring) async throws
        -> Response
    {
        do {
            return Self.response(try await answer(request, client, path, query))
        } catch let problem as Problem {
            return Self.response(problem)
        } catch let fault as ControlFault {
            return Self.response(Problem(fault, hasPrecondition: request.headers[.ifMatch] != nil))
        } catch let fault as AccessFault {
            return Self.response(Problem(fault))
        }
    }

    private func answer(
        _ request: Request, _ client: APIRequest.Client, _ path: Substring, _ query: Substring
    ) async throws -> APIAnswer {
        let (route, values) = try find(request.method, path)
        let caller = try await admit(route, request, client)
        let parameters = try QueryString.parse(query)
        for name in parameters.keys where !route.query.contains(where: { $0.name == name }) {
            throw Problem(.badRequest, "this request takes no such parameter", field: name)
        }
        if let empty = values.first(where: { $0.value.isEmpty || $0.value.unicodeScalars.contains { $0.value < 0x20 } })
        {
            throw Problem(.notFound, "there is no such thing", field: empty.key)
        }
        let asked = APIRequest(
            caller: caller, client: client, path: values, query: parameters, body: try await body(route, request),
            ifMatch: try Self.etag(request.headers[.ifMatch]))
        guard parameters["dryRun"] == "true", case .json? = route.body else { return try await route.handle(asked) }
        do {
            return try await route.handle(asked)
        } catch let problem as Problem where [.unprocessableContent, .conflict].contains(problem.status) {
            // What is wrong is what a dry run is asked for.
            let errors = problem.errors.isEmpty ? [Problem.Field(field: "", detail: problem.detail)] : problem.errors
            return .json(API.Changes([], etag: nil, errors: errors))
        }
    }

    private func find(_ method: HTTPRequest.Method, _ path: Substring) throws(Problem) -> (Route, [String: String]) {
        let segments = path.split(separator: "/", omittingEmptySubsequences: false)
        var allowed: [String] = []
        for route in routes {
            guard let values = route.match(segments) else { continue }
            if route.method == method || (method == .head && route.method == .get && route.path != "events") {
                return (route, values)
            }
            allowed.append(route.method.rawValue)
        }
        guard !allowed.isEmpty else {
            throw Problem(.notFound, "there is no such path; /api/v1/openapi.json lists all")
        }
        var problem = Problem(.methodNotAllowed, "this path takes \(allowed.joined(separator: ", "))")
        problem.allow = allowed.joined(separator: ", ")
        throw problem
    }

    /// - Returns: who asks; nil only on a route that everybody may ask.
    private func admit(_ route: Route, _ request: Request, _ client: APIRequest.Client) async throws -> Caller? {
        let isUnsafe = ![.get, .head].contains(request.method)
        if route.access == .everybody {
            if isUnsafe { try Self.mustComeFromPage(request) }
            return try await api.access.caller(session: client.session, token: nil, address: client.address)
        }
        let token = request.headers[.authorization].flatMap(Self.bearer)
        if request.headers[.authorization] != nil, token == nil {
            throw Problem(.unauthorized, "`Authorization` takes `Bearer` and a token")
        }
        guard
            let caller = try await api.access.caller(
                session: client.session, token: token, address: client.address, noting: route.path != "events")
        else {
            throw Problem(
                .unauthorized,
                token == nil ? "sign in, or send a token as `Authorization: Bearer`" : "this token is not known")
        }
        switch caller.means {
        case .session:
            if isUnsafe { try Self.mustComeFromPage(request) }
        case .token(let scope):
            if route.access == .session {
                throw Problem(.forbidden, "a person must be signed in for this, not a token")
            }
            if route.access == .write, scope != .write {
                throw Problem(.forbidden, "the token `\(caller.name)` is for reading only")
            }
        }
        return caller
    }

    private static func bearer(_ field: String) -> String? {
        let parts = field.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0].lowercased() == "bearer", parts[1].utf8.count <= 256 else { return nil }
        return String(parts[1])
    }

    /// Cookies come along with whatever another site makes a browser send; these three don't.
    static func mustComeFromPage(_ request: Request) throws(Problem) {
        guard request.headers[pageHeader] != nil else {
            throw Problem(.forbidden, "a request with a cookie needs the header `\(pageHeader.canonicalName)`")
        }
        if let site = request.headers[.secFetchSite], site != "same-origin" {
            throw Problem(.forbidden, "the request comes from another site")
        }
        if let origin = request.headers[.origin] {
            let host = origin.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false).last.map(
                String.init)
            guard let own = request.head.authority, host?.lowercased() == own.lowercased() else {
                throw Problem(.forbidden, "the request comes from another site")
            }
        }
    }

    private func body(_ route: Route, _ request: Request) async throws -> [UInt8] {
        let (type, limit): (String, Int)
        switch route.body {
        case nil: return []
        case .json?: (type, limit) = ("application/json", Limits.jsonBytes)
        case .yaml?: (type, limit) = ("application/yaml", Limits.yamlBytes)
        }
        let said = request.headers[.contentType]?.split(separator: ";").first?.lowercased()
        guard let said, said.filter({ $0 != " " }) == type else {
            throw Problem(.unsupportedMediaType, "the body must be \(type)")
        }
        do {
            return Array(buffer: try await request.body.collect(upTo: limit))
        } catch is NIOTooManyBytesError {
            throw Problem(.contentTooLarge, "the body is longer than \(limit) bytes")
        }
    }

    /// - Returns: the tag without its quotes; nil when there is no `If-Match`.
    private static func etag(_ field: String?) throws(Problem) -> String? {
        guard let field, field != "*" else { return field }
        guard field.count >= 2, field.hasPrefix("\""), field.hasSuffix("\"") else {
            throw Problem(.badRequest, "`If-Match` takes one ETag in quotes, or *", field: "If-Match")
        }
        return String(field.dropFirst().dropLast())
    }

    private static func response(_ answer: APIAnswer) -> Response {
        var fields = HTTPFields()
        if let type = answer.contentType { fields[.contentType] = type }
        for (name, value) in answer.headers { fields[name] = value }
        return Response(status: HTTPResponse.Status(code: answer.status), headers: fields, body: answer.body)
    }

    static func response(_ problem: Problem) -> Response {
        var fields: HTTPFields = [.contentType: "application/problem+json"]
        if let seconds = problem.retryAfterSeconds { fields[.retryAfter] = String(seconds) }
        if let allow = problem.allow { fields[.allow] = allow }
        if problem.status == .unauthorized { fields[.wwwAuthenticate] = "Bearer realm=\"postern\"" }
        return Response(
            status: problem.status, headers: fields, body: ResponseBody(byteBuffer: ByteBuffer(bytes: problem.body)))
    }
}

extension HTTPField.Name {
    static let secFetchSite = HTTPField.Name("Sec-Fetch-Site")!
}
