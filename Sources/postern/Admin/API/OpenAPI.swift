import Gateway

/// The document that describes the API (OpenAPI 3.1), made from the routes that are served.
enum OpenAPI {
    static func document(_ routes: [Route]) -> JSON {
        var paths: [String: JSON] = [:]
        for route in routes {
            var methods: [String: JSON] = [:]
            if case .map(let known)? = paths["/" + route.path] { methods = known }
            methods[route.method.rawValue.lowercased()] = operation(route)
            paths["/" + route.path] = .map(methods)
        }
        return [
            "openapi": "3.1.0",
            "info": [
                "title": "Postern", "version": .text(Version.current),
                "description": "The gateways, their queues and the settings of one Postern server.",
            ],
            "servers": [["url": "/api/v1"]],
            "paths": .map(paths),
            "components": [
                "securitySchemes": [
                    "token": ["type": "http", "scheme": "bearer", "description": "Made by `postern token create`."],
                    "session": ["type": "apiKey", "in": "cookie", "name": .text(SessionCookie.name)],
                ],
                "schemas": .map(Schemas.all),
            ],
        ]
    }

    private static func operation(_ route: Route) -> JSON {
        var operation: [String: JSON] = [
            "operationId": .text(route.id), "summary": .text(route.summary), "tags": [.text(route.tag)],
        ]
        operation["security"] =
            switch route.access {
            case .everybody: []
            case .session: [["session": []]]
            case .read, .write: [["token": []], ["session": []]]
            }
        var parameters: [JSON] = route.pathParameters.map { name in
            [
                "name": .text(name), "in": "path", "required": true,
                "schema": ["type": "string", "minLength": 1],
            ]
        }
        parameters += route.query.map { parameter in
            [
                "name": .text(parameter.name), "in": "query", "description": .text(parameter.text),
                "schema": parameter.schema,
            ]
        }
        if route.precondition != .none {
            parameters.append([
                "name": "If-Match", "in": "header", "schema": ["type": "string"],
                "description": .text(
                    route.precondition == .required
                        ? "The ETag of the state that is to be replaced; needed where there is one."
                        : "The ETag of the state that is to be changed; any when it is left out."),
            ])
        }
        if !parameters.isEmpty { operation["parameters"] = .list(parameters) }
        switch route.body {
        case nil: break
        case .json(let schema)?:
            operation["requestBody"] = ["required": true, "content": ["application/json": ["schema": schema]]]
        case .yaml?:
            operation["requestBody"] = [
                "required": true, "content": ["application/yaml": ["schema": ["type": "string"]]],
            ]
        }
        operation["responses"] = .map(responses(route))
        return .map(operation)
    }

    private static func responses(_ route: Route) -> [String: JSON] {
        var responses: [String: JSON] = [:]
        for answer in route.answers {
            var response: [String: JSON] = ["description": .text(answer.text)]
            switch answer.content {
            case .none: break
            case .json(let schema): response["content"] = ["application/json": ["schema": schema]]
            case .other(let type):
                // YAML is of the shape that it says; the others are bytes.
                response["content"] = .map([type: ["schema": type == "application/yaml" ? [:] : ["type": "string"]]])
            }
            responses[String(answer.status)] = .map(response)
        }
        for status in route.refusalStatuses {
            responses[String(status)] = [
                "description": .text(meanings[status] ?? "Refused."),
                "content": ["application/problem+json": ["schema": Schemas.reference("Problem")]],
            ]
        }
        return responses
    }

    /// What a refusal's status means, everywhere.
    static let meanings = [
        400: "The request cannot be read.",
        401: "Nobody is signed in, and there is no valid token.",
        403: "Not allowed: the token's scope, or a request that did not come from the page itself.",
        404: "There is no such thing.",
        409: "Something is in the way: it exists already, or is in use now.",
        412: "It was changed meanwhile; `differences` says where.",
        413: "The body is too long.",
        415: "The body is of another type.",
        422: "A value is not allowed; `errors` names the field.",
        428: "`If-Match` is needed.",
        429: "Too many attempts; `Retry-After` says when to come back.",
        503: "The mail process, or a database, cannot be used now.",
    ]

    /// The reference page, `docs/api.md`.
    static func markdown(_ routes: [Route]) -> String {
        var text = """
            # HTTP API

            All paths begin with `/api/v1`. How to sign in, with examples: [admin.md](admin.md). The same as OpenAPI 3.1, with
            the schemas: `/api/v1/openapi.json` on a running server. A refusal is `application/problem+json` (RFC 9457) with one
            sentence in `detail`, and the fields in `errors`.

            Written from the routes themselves (`UPDATE_REFERENCE=1 swift test --filter APIReferenceTests`).

            """
        var tags: [String] = []
        for route in routes where !tags.contains(route.tag) { tags.append(route.tag) }
        for tag in tags {
            text += "\n## \(tag)\n\n| request | who | what it does | takes | answers | refusals |\n"
            text += "| --- | --- | --- | --- | --- | --- |\n"
            for route in routes where route.tag == tag {
                let who =
                    switch route.access {
                    case .everybody: "everybody"
                    case .read: "read"
                    case .write: "write"
                    case .session: "page"
                    }
                var takes = route.query.map { "`?\($0.name)`: \($0.text)" }
                if route.precondition != .none {
                    takes.append(route.precondition == .required ? "`If-Match`" : "`If-Match`, optional")
                }
                switch route.body {
                case nil: break
                case .yaml?: takes.append("YAML")
                case .json(let schema)?: takes.append("JSON" + (Schemas.name(of: schema).map { ": \($0)" } ?? ""))
                }
                let answers = route.answers.map { "\($0.status): \($0.text)" }.joined(separator: "<br>")
                let refusals = route.refusalStatuses.sorted().map(String.init).joined(separator: ", ")
                text +=
                    "| `\(route.method.rawValue) /\(route.path)` | \(who) | \(route.summary) | "
                    + "\(takes.joined(separator: "<br>")) | \(answers) | \(refusals) |\n"
            }
        }
        text += "\n## Refusals\n\n| status | meaning |\n| --- | --- |\n"
        for (status, meaning) in meanings.sorted(by: { $0.key < $1.key }) { text += "| \(status) | \(meaning) |\n" }
        return text
    }
}
