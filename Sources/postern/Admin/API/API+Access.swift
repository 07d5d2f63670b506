import Gateway
import HTTPTypes
import Hummingbird

/// Who may come in: sessions, the password, tokens; and what they did.
extension API {
    var accessRoutes: [Route] {
        let name: JSON = ["type": "string", "minLength": 1, "maxLength": 64]
        let password: JSON = ["type": "string"]
        return [
            Route(
                method: .post, path: "session", id: "signIn", tag: "Access",
                summary: "Signs in: sets the cookie of a new session.", access: .everybody,
                body: .json([
                    "type": "object", "required": ["user", "password"],
                    "properties": ["user": name, "password": password],
                ]), refusals: [401, 429],
                answers: [Route.Answer(200, "Signed in.", .json(Schemas.reference("Session")))]
            ) { try await signIn($0) },
            Route(
                method: .get, path: "session", id: "getSession", tag: "Access",
                summary: "Who is signed in; `user` is null when nobody is.", access: .everybody,
                answers: [Route.Answer(200, "This one.", .json(Schemas.reference("Session")))]
            ) { .json(SessionAnswer(user: $0.caller?.name)) },
            Route(
                method: .delete, path: "session", id: "signOut", tag: "Access", summary: "Ends the session.",
                access: .session, answers: [Route.Answer(204, "Signed out.")]
            ) { request in
                let caller = request.by
                guard case .session(let digest) = caller.means else { return .nothing }
                try await access.run { store in
                    try store.endSession(digest)
                    try store.audit(
                        who: caller.title, address: caller.address, action: "session.delete", object: caller.name,
                        outcome: "done", now: Text.now)
                }
                return APIAnswer(
                    status: 204, headers: [(.setCookie, SessionCookie.expired(isSecure: request.client.isSecure))])
            },
            Route(
                method: .put, path: "password", id: "setPassword", tag: "Access",
                summary: "Sets a new password and ends all other sessions.", access: .session,
                body: .json([
                    "type": "object", "required": ["current", "new"],
                    "properties": ["current": password, "new": password],
                ]), refusals: [429], answers: [Route.Answer(204, "It is set.")]
            ) { try await setPassword($0) },
            Route(
                method: .get, path: "tokens", id: "listTokens", tag: "Access",
                summary: "The tokens, without their secrets.", access: .session,
                answers: [Route.Answer(200, "All of them.", .json(Schemas.items("Token")))]
            ) { _ in .json(["items": try await access.run { try $0.tokens() }]) },
            Route(
                method: .post, path: "tokens", id: "createToken", tag: "Access",
                summary: "Makes a token, which is shown this once; wants the password again.", access: .session,
                body: .json([
                    "type": "object", "required": ["name", "scope", "password"],
                    "properties": [
                        "name": name, "scope": ["type": "string", "enum": ["read", "write"]], "password": password,
                    ],
                ]), refusals: [409, 429],
                answers: [Route.Answer(201, "It was made.", .json(Schemas.reference("NewToken")))]
            ) { try await createToken($0) },
            Route(
                method: .delete, path: "tokens/{name}", id: "deleteToken", tag: "Access", summary: "Deletes a token.",
                access: .session, answers: [Route.Answer(204, "It is of no more use.")]
            ) { request in
                let name = request.path["name"]!
                try await change(request, "token.delete", name) {
                    guard try await access.run({ try $0.deleteToken(name) }) else {
                        throw Problem(.notFound, "there is no token of this name")
                    }
                    return ((), [])
                }
                return .nothing
            },
            Route(
                method: .get, path: "audit", id: "listAudit", tag: "Access",
                summary: "Who changed what by the page and the API, newest first.", access: .read,
                query: [
                    Route.Parameter(
                        name: "search", text: "Part of who, from where, what, on which object, or of what was changed.",
                        schema: ["type": "string"]),
                    Route.Parameter(
                        name: "before", text: "Only entries older than the one with this id.",
                        schema: ["type": "integer", "minimum": 1]),
                    Cursor.parameters[0],
                ], answers: [Route.Answer(200, "The entries.", .json(Schemas.items("AuditEntry")))]
            ) { request in
                let limit = try request.number("limit", in: Cursor.Limits.page, standard: Cursor.Limits.standardPage)
                let before = try request.number("before", in: 1...Int.max, standard: Int.max)
                let search = request.query["search"]
                return .json([
                    "items": try await access.run {
                        try $0.auditEntries(before: Int64(before), search: search, limit: limit)
                    }
                ])
            },
        ]
    }

    private struct SessionAnswer: Encodable {
        let user: String?
        let idleSeconds = Int(AccessStore.SessionLife.idleSeconds)
        let absoluteSeconds = Int(AccessStore.SessionLife.absoluteSeconds)
        let version: String?

        init(user: String?) {
            self.user = user
            // Strangers needn't know.
            version = user == nil ? nil : Version.current
        }
    }

    /// Members of a body that must be texts.
    private func texts(_ request: APIRequest, _ names: [String]) throws(Problem) -> [String] {
        let body = try request.document()
        var texts: [String] = []
        for name in names {
            guard case .text(let text)? = body[name]?.content,
                text.utf8.count <= PasswordHash.Limits.password.upperBound
            else { throw Problem(.unprocessableContent, "`\(name)` takes text", field: name) }
            texts.append(text)
        }
        return texts
    }

    private func signIn(_ request: APIRequest) async throws -> APIAnswer {
        let texts = try texts(request, ["user", "password"])
        let secret = try await access.signIn(
            user: texts[0], password: texts[1], address: request.client.address, replacing: request.client.session)
        var answer = APIAnswer.json(SessionAnswer(user: texts[0]))
        answer.headers = [(.setCookie, SessionCookie.make(secret, isSecure: request.client.isSecure))]
        return answer
    }

    private func setPassword(_ request: APIRequest) async throws -> APIAnswer {
        let texts = try texts(request, ["current", "new"])
        let caller = request.by
        guard PasswordHash.Limits.password.contains(texts[1].utf8.count) else {
            let range = PasswordHash.Limits.password
            throw Problem(
                .unprocessableContent, "a password has \(range.lowerBound) to \(range.upperBound) bytes", field: "new")
        }
        guard case .session(let digest) = caller.means else {
            throw Problem(.forbidden, "only a person has a password")
        }
        try await again(caller, password: texts[0], field: "current")
        try await change(request, "password.set", caller.name) {
            try await access.setPassword(texts[1], of: caller.name, keeping: digest)
            return ((), [])
        }
        return .nothing
    }

    /// The password once more, before secrets are given out or replaced. A wrong one is no end of the session.
    private func again(_ caller: Caller, password: String, field: String) async throws {
        do {
            try await access.check(user: caller.name, password: password, address: caller.address)
        } catch let problem as Problem where problem.status == .unauthorized {
            throw Problem(.forbidden, "this is not your password", field: field)
        }
    }

    private func createToken(_ request: APIRequest) async throws -> APIAnswer {
        let texts = try texts(request, ["name", "scope", "password"])
        let name = texts[0]
        guard AccessStore.isTokenName(name) else {
            throw Problem(
                .unprocessableContent, "`name` takes 1 to 64 letters, digits, `.`, `_` and `-`", field: "name")
        }
        guard let scope = Scope(rawValue: texts[1]) else {
            throw Problem(.unprocessableContent, "`scope` takes read or write", field: "scope")
        }
        try await again(request.by, password: texts[2], field: "password")
        let token = try await change(request, "token.create", name) {
            switch try await access.run({ try $0.makeToken(name: name, scope: scope, now: Text.now) }) {
            case .made(let token):
                return (token, [AuditEntry.Change(key: "scope", before: nil, after: scope.rawValue)])
            case .exists: throw Problem(.conflict, "there is a token of this name; delete it first", field: "name")
            case .tooMany:
                throw Problem(.conflict, "there are \(AccessStore.Limits.tokens) tokens; delete one first")
            }
        }
        return .json(["name": name, "scope": scope.rawValue, "token": token], status: 201)
    }
}

/// The browser's proof of a session.
enum SessionCookie {
    static let name = "postern_session"

    static func make(_ secret: String, isSecure: Bool) -> String {
        "\(name)=\(secret); Path=/; HttpOnly; SameSite=Strict; Max-Age=\(Int(AccessStore.SessionLife.absoluteSeconds))"
            + (isSecure ? "; Secure" : "")
    }

    static func expired(isSecure: Bool) -> String {
        "\(name)=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0" + (isSecure ? "; Secure" : "")
    }

    /// Its value in a `Cookie` field; nil where there is none, or two, of which one could be planted.
    static func value(in field: String) -> String? {
        let values = field.split(separator: ";").compactMap { pair -> Substring? in
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, parts[0].filter({ $0 != " " }) == name else { return nil }
            return parts[1]
        }
        return values.count == 1 ? String(values[0]) : nil
    }
}
