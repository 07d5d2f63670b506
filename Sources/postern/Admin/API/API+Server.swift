import Gateway
import HTTPTypes
import Hummingbird

/// The server as a whole: how it does, its settings, and what the API is like.
extension API {
    var serverRoutes: [Route] {
        [
            Route(
                method: .get, path: "status", id: "getStatus", tag: "Server", summary: "What the mail process does.",
                access: .read, answers: [Route.Answer(200, "At this moment.", .json(Schemas.reference("Status")))]
            ) { _ in .json(try await mail.status.get()) },
            Route(
                method: .get, path: "history", id: "getHistory", tag: "Server",
                summary: "Counts over time, since the admin process began to look; at most a day.", access: .read,
                query: [
                    Route.Parameter(
                        name: "domain", text: "The queue of this gateway, by the minute; all of them when left out.",
                        schema: ["type": "string"])
                ], answers: [Route.Answer(200, "The samples.", .json(Schemas.reference("History")))]
            ) { .json(await live.history(domain: $0.query["domain"])) },
            Route(
                method: .get, path: "events", id: "getEvents", tag: "Server",
                summary: "Changes as they happen, as server-sent events: `status` and `gateways`.", access: .read,
                refusals: [429], answers: [Route.Answer(200, "The stream.", .other(type: "text/event-stream"))]
            ) { request in
                let isAlive: @Sendable () async -> Bool = {
                    // A session that was ended, or a token that was deleted, sees no more.
                    switch request.by.means {
                    case .session:
                        (try? await access.caller(
                            session: request.client.session, token: nil, address: request.client.address, noting: false))
                            .flatMap(\.self) != nil
                    case .token:
                        (try? await access.run { try $0.tokens().contains { $0.name == request.by.name } }) ?? false
                    }
                }
                return APIAnswer(contentType: "text/event-stream", body: try await live.stream(isAlive: isAlive))
            },
            Route(
                method: .get, path: "keys", id: "getKeys", tag: "Server",
                summary: "The keys of a gateway's document and of the settings, each with its help.", access: .read,
                answers: [Route.Answer(200, "All that this version has.", .json(Schemas.reference("Keys")))]
            ) { _ in .json(["gateway": KeyReference.gateway.keys, "settings": KeyReference.settings.keys]) },
            Route(
                method: .get, path: "settings", id: "getSettings", tag: "Server",
                summary: "The policy of the whole server. With an `ETag`.", access: .read,
                answers: [Route.Answer(200, "Every key with its value.", .json(Schemas.reference("Settings")))]
            ) { _ in
                let answer = try await ask("settings.show", as: Settings.self)
                return noting(answer.warnings, .json(answer.result, etag: Self.etag(answer.result)))
            },
            Route(
                method: .patch, path: "settings", id: "patchSettings", tag: "Server",
                summary: "Sets keys and leaves the rest; null sets a default.", access: .write, query: [Self.dryRun],
                body: .json(Schemas.reference("SettingsDocument")), precondition: .optional, refusals: [409],
                answers: [
                    Route.Answer(
                        200, "They were changed; with `dryRun`, what would be.",
                        .json(["anyOf": [Schemas.reference("Settings"), Schemas.reference("Changes")]]))
                ]
            ) { try await patchSettings($0) },
            Route(
                method: .get, path: "openapi.json", id: "getOpenAPI", tag: "Server",
                summary: "The description of this API (OpenAPI 3.1).", access: .everybody,
                answers: [Route.Answer(200, "The document.", .json(["type": "object"]))]
            ) { _ in .json(OpenAPI.document(routes)) },
        ]
    }

    /// Of the values: settings have no number of their own.
    private static func etag(_ settings: Settings) -> String {
        String(RandomText.digest(settings.value.json).prefix(16))
    }

    private func patchSettings(_ request: APIRequest) async throws -> APIAnswer {
        let sent = try request.document()
        let stored = try await ask("settings.show", as: Settings.self).result
        let tag = Self.etag(stored)
        if let ifMatch = request.ifMatch, ifMatch != "*", ifMatch != tag {
            var problem = Problem(.preconditionFailed, "the settings were changed meanwhile; read them again")
            problem.differences = DocumentChange.differences(stored: stored.value, sent: sent)
            problem.etag = tag
            throw problem
        }
        var wanted = stored
        do throws(InvalidSetting) { try wanted.merge(sent) } catch {
            var problem = Problem(error)
            let faults = DocumentChange.faults(in: sent) { (part) throws(InvalidSetting) in
                var settings = stored
                try settings.merge(part)
            }
            if !faults.isEmpty { problem.errors = faults }
            throw problem
        }
        let changes = DocumentChange.between(stored.value, wanted.value)
        if try request.flag("dryRun") { return .json(Changes(changes, etag: tag)) }
        if wanted == stored { return .json(stored, etag: tag) }
        let answer = try await change(request, "settings.set", "settings") {
            (try await ask("settings.set", [DocumentValue.Member("document", sent)], as: Settings.self), changes)
        }
        return noting(answer.warnings, .json(answer.result, etag: Self.etag(answer.result)))
    }
}
