import Gateway
import HTTPTypes
import Hummingbird

/// What waits, and single messages.
extension API {
    private static let states = ["queued", "active", "deferred", "held"]
    /// Messages that are looked through for one answer.
    private static let lookedAtMax = 20_000

    private static let queueParameters: [Route.Parameter] =
        [
            Route.Parameter(
                name: "search", text: "Part of an id, of the sender, of a recipient or of the last reply.",
                schema: ["type": "string"]),
            Route.Parameter(
                name: "state", text: "Only those in this state.",
                schema: ["type": "string", "enum": .list(states.map { .text($0) })]),
        ] + Cursor.parameters

    var queueRoutes: [Route] {
        [
            Route(
                method: .get, path: "queue", id: "listQueue", tag: "Queue",
                summary: "A page of what waits in all gateways, oldest first.", access: .read,
                query: Self.queueParameters,
                answers: [Route.Answer(200, "The page.", .json(Schemas.page("Message")))]
            ) { .json(try await self.queue($0, domain: nil)) },
            Route(
                method: .get, path: "gateways/{domain}/queue", id: "listGatewayQueue", tag: "Queue",
                summary: "A page of what waits in one gateway, oldest first; `@system` is our own mail.", access: .read,
                query: Self.queueParameters,
                answers: [Route.Answer(200, "The page.", .json(Schemas.page("Message")))]
            ) { .json(try await self.queue($0, domain: $0.path["domain"]!)) },
        ]
    }

    private func queue(_ request: APIRequest, domain: String?) async throws -> Page<QueuedMessage> {
        let state = try request.query["state"].map { _ in try request.word("state", of: Self.states, standard: "") }
        let search = (request.query["search"] ?? "").lowercased()
        let all = try await ask(
            "queue.list",
            [DocumentValue.Member("limit", DocumentValue(.integer(Self.lookedAtMax)))]
                + (domain.map { [.text("domain", $0)] } ?? []), as: [QueuedMessage].self
        ).result
        let found = all.filter { message in
            if let state, message.state.rawValue != state { return false }
            return search.isEmpty
                || ([message.id, message.from, message.lastReply ?? "", message.domain] + message.recipients)
                    .contains { $0.lowercased().contains(search) }
        }
        var page = try Cursor.page(found, request) { "\($0.id) \($0.domain)" }
        page.isCut = all.count >= Self.lookedAtMax
        return page
    }

    var messageRoutes: [Route] {
        [
            Route(
                method: .get, path: "messages/{id}", id: "getMessage", tag: "Messages",
                summary: "A message that waits: envelope, attempts, and the last reply of the peer.", access: .read,
                refusals: [422], answers: [Route.Answer(200, "The message.", .json(Schemas.reference("Message")))]
            ) { request in
                .json(try await ask("queue.show", [.text("id", request.path["id"]!)], as: QueuedMessage.self).result)
            },
            Route(
                method: .get, path: "messages/{id}/headers", id: "getMessageHeaders", tag: "Messages",
                summary: "Its header fields, as they are, at most 64 KiB of them.", access: .read, refusals: [422],
                answers: [Route.Answer(200, "The fields.", .json(Schemas.reference("Headers")))]
            ) { .json(HeaderFields(try await content($0))) },
            Route(
                method: .get, path: "messages/{id}/content", id: "getMessageContent", tag: "Messages",
                summary: "The whole message; it stays in the queue.", access: .read, refusals: [422],
                answers: [Route.Answer(200, "The message.", .other(type: "message/rfc822"))]
            ) { request in
                let content = try await content(request)
                // The server has found it: the id is one, and no other text.
                return APIAnswer(
                    contentType: "message/rfc822",
                    headers: [(.contentDisposition, "attachment; filename=\"\(request.path["id"]!).eml\"")],
                    body: ResponseBody(byteBuffer: ByteBuffer(bytes: content)))
            },
            Route(
                method: .delete, path: "messages/{id}", id: "deleteMessage", tag: "Messages",
                summary: "Deletes a message; nobody is told.", access: .write, refusals: [409, 422],
                answers: [Route.Answer(204, "It is gone.")]
            ) { try await end($0, "queue.delete") },
            Route(
                method: .post, path: "messages/{id}/bounce", id: "bounceMessage", tag: "Messages",
                summary: "Gives a message back to its sender.", access: .write, refusals: [409, 422],
                answers: [Route.Answer(204, "It goes back.")]
            ) { try await end($0, "queue.bounce") },
        ]
    }

    private func content(_ request: APIRequest) async throws -> [UInt8] {
        Array(try await ask("queue.export", [.text("id", request.path["id"]!)], as: ControlContent.self).result.content)
    }

    private func end(_ request: APIRequest, _ command: String) async throws -> APIAnswer {
        let id = request.path["id"]!
        let message = try await ask("queue.show", [.text("id", id)], as: QueuedMessage.self).result
        try await change(request, command, id) {
            _ = try await ask(command, [.text("id", id)], as: ControlCount.self)
            return (
                (),
                [
                    AuditEntry.Change(key: "gateway", before: message.domain, after: nil),
                    AuditEntry.Change(key: "from", before: message.from, after: nil),
                    AuditEntry.Change(key: "recipients", before: message.recipients.joined(separator: " "), after: nil),
                ]
            )
        }
        return .nothing
    }
}

/// The header section of a message as it stands, for people: nothing in it is decoded or believed.
struct HeaderFields: Codable, Hashable, Sendable {
    struct Field: Codable, Hashable, Sendable {
        let name: String
        /// Folded lines joined, other bytes than UTF-8 replaced.
        let value: String
    }
    let fields: [Field]
    /// There is more than is shown.
    let isCut: Bool

    private enum Limits {
        static let bytes = 64 << 10
        static let fields = 200
    }

    init(_ content: [UInt8]) {
        var fields: [Field] = []
        var isCut = false
        var hasEnded = false
        var rest = content.prefix(Limits.bytes)
        while let end = rest.firstIndex(of: 0x0a) {
            let line = rest[..<end].last == 0x0d ? rest[..<end].dropLast() : rest[..<end]
            rest = rest[(end + 1)...]
            if line.isEmpty {
                hasEnded = true
                break
            }
            if line.first == 0x20 || line.first == 0x09, let last = fields.popLast() {
                let more = String(decoding: line.drop { $0 == 0x20 || $0 == 0x09 }, as: UTF8.self)
                fields.append(Field(name: last.name, value: last.value + " " + more))
                continue
            }
            guard let colon = line.firstIndex(of: 0x3a) else { break }
            if fields.count == Limits.fields {
                isCut = true
                break
            }
            fields.append(
                Field(
                    name: String(decoding: line[..<colon], as: UTF8.self),
                    value: String(decoding: line[(colon + 1)...].drop { $0 == 0x20 || $0 == 0x09 }, as: UTF8.self)))
        }
        (self.fields, self.isCut) = (fields, isCut || (content.count > Limits.bytes && !hasEnded))
    }
}
