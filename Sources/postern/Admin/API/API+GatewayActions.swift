import Gateway
import HTTPTypes
import Hummingbird

/// What is done with a gateway's mail, with many gateways at a time, and with gateways as YAML.
extension API {
    private static let actions = ["flush", "hold", "release"]
    /// In one request: each is a transaction of the mail process's database.
    private static let bulkMax = 200
    /// Named in the audit log.
    private static let importedNamedMax = 1_000

    var gatewayActionRoutes: [Route] {
        let meanings = [
            "flush": "Tries its waiting mail now, whatever retry times say; held mail stays.",
            "hold": "Mail is accepted and nothing leaves.", "release": "Lets its held mail go.",
        ]
        return Self.actions.map { action in
            Route(
                method: .post, path: "gateways/{domain}/\(action)", id: "\(action)Gateway", tag: "Gateways",
                summary: meanings[action]!, access: .write, refusals: [409, 422],
                answers: [Route.Answer(200, "How many were touched.", .json(Schemas.reference("Count")))]
            ) { request in
                let domain = try await gateway(request.path["domain"]!).document.domain
                let answer = try await act(request, action, domain)
                return noting(answer.warnings, .json(answer.result))
            }
        } + [
            Route(
                method: .get, path: "gateways/{domain}/usage", id: "getGatewayUsage", tag: "Gateways",
                summary: "What its mail takes, and its limits.", access: .read,
                answers: [Route.Answer(200, "The usage.", .json(Schemas.reference("Usage")))]
            ) { request in
                let domain = try await gateway(request.path["domain"]!).document.domain
                let usage = try await ask("gateway.usage", [.text("domain", domain)], as: [GatewayUsage].self).result
                guard let usage = usage.first else { throw Problem(.notFound, "there is no gateway `\(domain)`") }
                return .json(usage)
            },
            Route(
                method: .get, path: "gateways/{domain}/records", id: "getGatewayRecords", tag: "Gateways",
                summary: "The DNS records to publish for it.", access: .read,
                answers: [Route.Answer(200, "The records.", .json(Schemas.reference("Records")))]
            ) { request in
                let domain = try await gateway(request.path["domain"]!).document.domain
                return .json(Records(domain: domain, hostname: try await mail.status.get().hostname))
            },
            Route(
                method: .post, path: "bulk", id: "bulk", tag: "Gateways",
                summary: "Flushes, holds or releases many gateways.", access: .write,
                body: .json([
                    "type": "object", "required": ["action", "domains"],
                    "properties": [
                        "action": ["type": "string", "enum": .list(Self.actions.map { .text($0) })],
                        "domains": ["type": "array", "items": ["type": "string"], "maxItems": .integer(Self.bulkMax)],
                    ],
                ]), answers: [Route.Answer(200, "What became of each.", .json(Schemas.reference("BulkResults")))]
            ) { try await bulk($0) },
            Route(
                method: .get, path: "export", id: "exportGateways", tag: "Gateways",
                summary: "All gateways as YAML, what differs from the defaults.", access: .read,
                answers: [Route.Answer(200, "YAML.", .other(type: "application/yaml"))]
            ) { _ in
                let answer = try await ask("gateway.export", as: ControlText.self)
                let body = ResponseBody(byteBuffer: ByteBuffer(string: answer.result.text))
                return noting(answer.warnings, APIAnswer(contentType: "application/yaml", body: body))
            },
            Route(
                method: .post, path: "import", id: "importGateways", tag: "Gateways",
                summary: "Makes and replaces the gateways of a YAML text: all, or none.", access: .write,
                query: [Self.dryRun], body: .yaml,
                answers: [Route.Answer(200, "Which ones.", .json(Schemas.reference("ImportReport")))]
            ) { request in
                guard let yaml = String(validating: request.body, as: UTF8.self) else {
                    throw Problem(.badRequest, "the body is not UTF-8")
                }
                let dryRun = try request.flag("dryRun")
                let arguments: [DocumentValue.Member] = [.text("yaml", yaml), .flag("dryRun", dryRun)]
                if dryRun {
                    let answer = try await ask("gateway.import", arguments, as: ImportReport.self)
                    return noting(answer.warnings, .json(answer.result))
                }
                let answer = try await change(request, "gateway.import", "all") {
                    let answer = try await ask("gateway.import", arguments, as: ImportReport.self)
                    let changes =
                        answer.result.created.map { AuditEntry.Change(key: $0, before: nil, after: "created") }
                        + answer.result.updated.map { AuditEntry.Change(key: $0, before: nil, after: "updated") }
                    return (answer, Array(changes.prefix(Self.importedNamedMax)))
                }
                return noting(answer.warnings, .json(answer.result))
            },
        ]
    }

    /// - Parameter domain: as the gateway is called.
    private func act(_ request: APIRequest, _ action: String, _ domain: String) async throws
        -> ControlAnswer<ControlCount>
    {
        try await change(request, "queue.\(action)", domain) {
            (try await ask("queue.\(action)", [.text("domain", domain)], as: ControlCount.self), [])
        }
    }

    private struct BulkResult: Codable, Sendable {
        let domain: String
        let done: Bool
        /// Why not.
        let detail: String?
    }

    private func bulk(_ request: APIRequest) async throws -> APIAnswer {
        let body = try request.document()
        guard case .text(let action)? = body["action"]?.content, Self.actions.contains(action) else {
            throw Problem(
                .unprocessableContent, "`action` takes \(Self.actions.joined(separator: ", "))", field: "action")
        }
        guard case .list(let items)? = body["domains"]?.content, items.count <= Self.bulkMax else {
            throw Problem(
                .unprocessableContent, "`domains` takes a list of at most \(Self.bulkMax) domains", field: "domains")
        }
        var domains: [String] = []
        for item in items {
            guard case .text(let domain) = item.content else {
                throw Problem(.unprocessableContent, "`domains` takes text", field: "domains")
            }
            if !domains.contains(domain) { domains.append(domain) }
        }
        guard !domains.isEmpty else { return .json(["results": [BulkResult]()]) }
        // One entry for all of them: it is one thing that a person did.
        let results = try await change(request, "queue.\(action)", "\(domains.count) gateways") {
            var results: [BulkResult] = []
            for domain in domains { results.append(try await bulk(action, domain)) }
            let changes = results.map {
                AuditEntry.Change(key: $0.domain, before: nil, after: $0.done ? "done" : "refused: \($0.detail ?? "")")
            }
            return (results, changes)
        }
        return .json(["results": results])
    }

    private func bulk(_ action: String, _ domain: String) async throws -> BulkResult {
        do {
            _ = try await ask("queue.\(action)", [.text("domain", domain)], as: ControlCount.self)
            return BulkResult(domain: domain, done: true, detail: nil)
        } catch let fault as ControlFault where fault.code != .notRunning {
            return BulkResult(domain: domain, done: false, detail: fault.message)
        }
    }
}
