import Gateway
import HTTPTypes
import Hummingbird

/// The gateways: looked at, made, changed, deleted.
extension API {
    static let dryRun = Route.Parameter(
        name: "dryRun", text: "`true`: only tells what is wrong or would change.", schema: ["type": "boolean"])

    private static let states = ["up", "slow", "down", "returning", "no-next-hop", "held", "disabled", "waiting"]
    private static let sorts = ["domain", "queued", "bytes", "oldest", "state", "server"]

    var gatewayRoutes: [Route] {
        [
            Route(
                method: .get, path: "gateways", id: "listGateways", tag: "Gateways", summary: "A page of the gateways.",
                access: .read,
                query: [
                    Route.Parameter(
                        name: "search", text: "Part of a domain or of a server's name.", schema: ["type": "string"]),
                    Route.Parameter(
                        name: "state", text: "Only those in this state; `waiting`: with mail in the queue.",
                        schema: ["type": "string", "enum": .list(Self.states.map { .text($0) })]),
                    Route.Parameter(
                        name: "sort", text: "By what; `domain` when left out.",
                        schema: ["type": "string", "enum": .list(Self.sorts.map { .text($0) })]),
                    Route.Parameter(
                        name: "order", text: "`asc` or `desc`.", schema: ["type": "string", "enum": ["asc", "desc"]]),
                ] + Cursor.parameters, answers: [Route.Answer(200, "The page.", .json(Schemas.page("GatewaySummary")))]
            ) { request in .json(try await self.list(request)) },
            Route(
                method: .post, path: "gateways", id: "createGateway", tag: "Gateways",
                summary: "Makes a gateway: `domain`, and any other keys of its document.", access: .write,
                query: [Self.dryRun], body: .json(Schemas.reference("NewGateway")), refusals: [409],
                answers: [
                    Route.Answer(201, "It was made.", .json(Schemas.reference("Gateway"))),
                    Route.Answer(200, "What would be made, with `dryRun`.", .json(Schemas.reference("Changes"))),
                ]
            ) { try await self.create($0) },
            Route(
                method: .get, path: "gateways/{domain}", id: "getGateway", tag: "Gateways",
                summary: "A gateway: every key with its value in force, and how it does. With an `ETag`.",
                access: .read,
                answers: [Route.Answer(200, "The gateway.", .json(Schemas.reference("Gateway")))]
            ) { request in
                let report = try await self.gateway(request.path["domain"]!)
                return .json(report, etag: report.status.etag)
            },
            Route(
                method: .put, path: "gateways/{domain}", id: "putGateway", tag: "Gateways",
                summary: "Makes a gateway, or replaces its whole document; what is left out has its default.",
                access: .write, query: [Self.dryRun], body: .json(Schemas.reference("GatewayDocument")),
                precondition: .required, refusals: [409],
                answers: [
                    Route.Answer(200, "It was replaced, or is as it was.", .json(Schemas.gatewayOrChanges)),
                    Route.Answer(201, "It was made.", .json(Schemas.reference("Gateway"))),
                ]
            ) { try await self.put($0) },
            Route(
                method: .patch, path: "gateways/{domain}", id: "patchGateway", tag: "Gateways",
                summary: "Sets keys, dotted or nested, and leaves the rest; null sets a default.", access: .write,
                query: [Self.dryRun], body: .json(Schemas.reference("GatewayDocument")), precondition: .optional,
                refusals: [409],
                answers: [Route.Answer(200, "It was changed.", .json(Schemas.gatewayOrChanges))]
            ) { try await self.patch($0) },
            Route(
                method: .delete, path: "gateways/{domain}", id: "deleteGateway", tag: "Gateways",
                summary: "Deletes a gateway.", access: .write,
                query: [
                    Route.Parameter(
                        name: "mail", text: "What becomes of waiting mail; `refuse`: there must be none.",
                        schema: ["type": "string", "enum": ["refuse", "drop", "bounce"]])
                ], precondition: .optional, refusals: [400, 409, 422], answers: [Route.Answer(204, "It is gone.")]
            ) { try await self.delete($0) },
        ]
    }

    func gateway(_ domain: String) async throws -> GatewayReport {
        try await ask("gateway.show", [.text("domain", domain)], as: GatewayReport.self).result
    }

    /// nil: there is none.
    func gatewayIfAny(_ domain: String) async throws -> GatewayReport? {
        do { return try await gateway(domain) } catch let fault as ControlFault where fault.code == .notFound {
            return nil
        }
    }

    // MARK: Looking

    private func list(_ request: APIRequest) async throws -> Page<GatewaySummary> {
        let sort = try request.word("sort", of: Self.sorts, standard: "domain")
        let isDescending = try request.word("order", of: ["asc", "desc"], standard: "asc") == "desc"
        let state = try request.query["state"].map { _ in try request.word("state", of: Self.states, standard: "") }
        let search = (request.query["search"] ?? "").lowercased()
        // A name in its own script is looked for as it is stored.
        let aLabel = DomainNameNormaliser.aLabel(search) ?? search
        let all = try await mail.gateways.get().filter { gateway in
            let isFound =
                search.isEmpty || gateway.domain.contains(search) || gateway.domain.contains(aLabel)
                || gateway.forward.server?.lowercased().contains(search) == true
            return isFound && (state.map { Self.isIn($0, gateway) } ?? true)
        }
        let sorted = all.sorted { a, b in
            let (a, b) = isDescending ? (b, a) : (a, b)
            return Self.isBefore(a, b, sort)
        }
        return try Cursor.page(sorted, request) { $0.domain }
    }

    private static func isIn(_ state: String, _ gateway: GatewaySummary) -> Bool {
        switch state {
        case "held": gateway.hold
        case "disabled": !gateway.enabled
        case "waiting": gateway.status.queued > 0
        default: gateway.status.state == state
        }
    }

    private static func isBefore(_ a: GatewaySummary, _ b: GatewaySummary, _ sort: String) -> Bool {
        switch sort {
        case "queued" where a.status.queued != b.status.queued: a.status.queued < b.status.queued
        case "bytes" where a.status.bytes != b.status.bytes: a.status.bytes < b.status.bytes
        case "oldest" where a.status.oldest != b.status.oldest:
            a.status.oldest ?? .infinity < b.status.oldest ?? .infinity
        case "state" where a.status.state != b.status.state: a.status.state < b.status.state
        case "server" where a.forward.server != b.forward.server: a.forward.server ?? "" < b.forward.server ?? ""
        default: a.domain < b.domain
        }
    }

    // MARK: Making

    private func create(_ request: APIRequest) async throws -> APIAnswer {
        let body = try request.document()
        guard case .map(let members) = body.content else {
            throw Problem(.unprocessableContent, "the body is no object")
        }
        var keys = members.filter { $0.key != "server" }
        if let server = body["server"], case .text(let text) = server.content {
            guard let (host, port) = MailServer.withPort(text) else {
                throw Problem(
                    .unprocessableContent,
                    "`server`: it takes HOST or HOST:PORT, such as mail.example.net or 192.0.2.7:2525",
                    field: "server")
            }
            keys.append(.text("forward.server", host.description))
            if let port { keys.append(DocumentValue.Member("forward.port", DocumentValue(.integer(Int(port))))) }
        } else if let server = body["server"], case .null = server.content {
        } else if body["server"] != nil {
            throw Problem(.unprocessableContent, "`server` takes text", field: "server")
        }
        return try await make(request, DocumentValue(.map(keys)))
    }

    /// - Parameter value: a whole document.
    private func make(_ request: APIRequest, _ value: DocumentValue) async throws -> APIAnswer {
        let document = try Self.newDocument(value)
        if try await gatewayIfAny(document.domain) != nil {
            throw Problem(.conflict, "the gateway `\(document.domain)` exists already", field: "domain")
        }
        let changes = DocumentChange.flat(document.changes).map {
            AuditEntry.Change(key: $0.key, before: nil, after: $0.value.json)
        }
        if try request.flag("dryRun") { return .json(Changes(changes, etag: nil)) }
        let answer = try await change(request, "gateway.create", document.domain) {
            do {
                let answer = try await ask(
                    "gateway.create", [DocumentValue.Member("document", document.toldChanges)], as: GatewayReport.self)
                return (answer, changes)
            } catch let fault as ControlFault where fault.message.hasSuffix("exists already") {
                throw Problem(.conflict, fault.message, field: "domain")
            }
        }
        var made = APIAnswer.json(answer.result, status: 201, etag: answer.result.status.etag)
        made.headers.append((.location, "/api/v1/gateways/\(document.domain)"))
        return noting(answer.warnings, made)
    }

    private static func newDocument(_ value: DocumentValue) throws(Problem) -> GatewayDocument {
        do throws(InvalidSetting) { return try GatewayDocument(value) } catch {
            var problem = Problem(error)
            // All that is wrong with it, when at least its name is right.
            if case .text(let domain)? = value["domain"]?.content, let blank = try? GatewayDocument(domain: domain) {
                problem.errors = DocumentChange.faults(in: value) { (part) throws(InvalidSetting) in
                    var document = blank
                    try document.merge(part)
                }
                if problem.errors.isEmpty { problem.errors = Problem(error).errors }
            }
            throw problem
        }
    }

    // MARK: Changing

    private func put(_ request: APIRequest) async throws -> APIAnswer {
        let domain = request.path["domain"]!
        let sent = try request.document()
        guard let name = DomainNameNormaliser.aLabel(domain), name.contains(".") else {
            throw Problem(.notFound, "there is no gateway of this name, and none can have it")
        }
        var members: [DocumentValue.Member] = []
        if case .map(let all) = sent.content { members = all.filter { $0.key != "domain" && $0.key != "status" } }
        if let said = sent["domain"] {
            guard case .text(let text) = said.content, DomainNameNormaliser.aLabel(text) == name else {
                throw Problem(
                    .unprocessableContent, "`domain`: the gateway `\(name)` keeps its name", field: "domain")
            }
        }
        let value = DocumentValue(.map([.text("domain", name)] + members))
        guard let stored = try await gatewayIfAny(name) else {
            if let tag = request.ifMatch {
                throw Problem(.preconditionFailed, "there is no gateway `\(name)`, so none with the ETag \(tag)")
            }
            return try await make(request, value)
        }
        let wanted = try Self.newDocument(value)
        guard let tag = request.ifMatch else {
            var problem = Problem(
                .preconditionRequired, "the gateway `\(name)` exists: say in `If-Match` which state is to be replaced")
            problem.etag = stored.status.etag
            throw problem
        }
        try Self.compare(tag, stored, sent: wanted.value)
        let merging: [DocumentValue.Member]
        do throws(InvalidSetting) { merging = try DocumentChange.merging(stored.document, into: wanted) } catch {
            throw Problem(error)
        }
        return try await set(request, stored, DocumentValue(.map(merging)), sent: wanted.value)
    }

    private func patch(_ request: APIRequest) async throws -> APIAnswer {
        let sent = try request.document()
        let stored = try await gateway(request.path["domain"]!)
        if let tag = request.ifMatch { try Self.compare(tag, stored, sent: sent) }
        return try await set(request, stored, sent, sent: sent)
    }

    /// Merges `keys` into the stored document.
    private func set(_ request: APIRequest, _ stored: GatewayReport, _ keys: DocumentValue, sent: DocumentValue)
        async throws -> APIAnswer
    {
        let domain = stored.document.domain
        var wanted = stored.document
        do throws(InvalidSetting) { try wanted.merge(keys) } catch {
            var problem = Problem(error)
            let faults = DocumentChange.faults(in: keys) { (part) throws(InvalidSetting) in
                var document = stored.document
                try document.merge(part)
            }
            if !faults.isEmpty { problem.errors = faults }
            throw problem
        }
        let changes = DocumentChange.between(stored.document.value, wanted.value)
        if try request.flag("dryRun") { return .json(Changes(changes, etag: stored.status.etag)) }
        if wanted == stored.document { return .json(stored, etag: stored.status.etag) }
        let etag = request.ifMatch == nil ? nil : stored.status.etag
        let answer = try await change(request, "gateway.set", domain) {
            do {
                let answer = try await ask(
                    "gateway.set",
                    [.text("domain", domain), DocumentValue.Member("document", keys)]
                        + (etag.map { [.text("etag", $0)] } ?? []), as: GatewayReport.self)
                return (answer, changes)
            } catch let fault as ControlFault where fault.code == .conflict && etag != nil {
                // Changed since we looked, a moment ago.
                throw Self.changedMeanwhile(fault.message, try await gateway(domain), sent: sent)
            }
        }
        return noting(answer.warnings, .json(answer.result, etag: answer.result.status.etag))
    }

    private static func compare(_ tag: String, _ stored: GatewayReport, sent: DocumentValue) throws(Problem) {
        guard tag != "*", tag != stored.status.etag else { return }
        throw changedMeanwhile(
            "the gateway `\(stored.document.domain)` was changed meanwhile; read it again", stored, sent: sent)
    }

    private static func changedMeanwhile(_ sentence: String, _ stored: GatewayReport, sent: DocumentValue) -> Problem {
        var problem = Problem(.preconditionFailed, sentence)
        problem.differences = DocumentChange.differences(stored: stored.document.value, sent: sent)
        problem.etag = stored.status.etag
        return problem
    }

    // MARK: Deleting

    private func delete(_ request: APIRequest) async throws -> APIAnswer {
        let mail = try request.word("mail", of: ["refuse", "drop", "bounce"], standard: "refuse")
        let stored = try await gateway(request.path["domain"]!)
        let domain = stored.document.domain
        if let tag = request.ifMatch { try Self.compare(tag, stored, sent: stored.document.value) }
        try await change(request, "gateway.delete", domain) {
            do {
                _ = try await ask(
                    "gateway.delete",
                    [.text("domain", domain), .text("mail", mail)]
                        + (request.ifMatch == nil ? [] : [.text("etag", stored.status.etag)]), as: ControlCount.self)
                let changes = DocumentChange.flat(stored.document.changes).map {
                    AuditEntry.Change(key: $0.key, before: $0.value.json, after: nil)
                }
                return ((), changes + [AuditEntry.Change(key: "mail", before: nil, after: mail)])
            } catch let fault as ControlFault where fault.code == .refused && mail == "refuse" {
                // Its sentence speaks of the command; here the way is another.
                let waiting = try await gateway(domain).status.queued
                throw Problem(
                    .conflict, "\(waiting) messages wait for \(domain): choose whether they are dropped or bounced",
                    field: "mail")
            }
        }
        return .nothing
    }

    /// What a change would do.
    struct Changes: Codable, Sendable {
        let changes: [AuditEntry.Change]
        /// Of the state that it would change.
        let etag: String?
        /// Why it would be refused; empty: it would not.
        let errors: [Problem.Field]

        init(_ changes: [AuditEntry.Change], etag: String?, errors: [Problem.Field] = []) {
            (self.changes, self.etag, self.errors) = (changes, etag, errors)
        }
    }
}
