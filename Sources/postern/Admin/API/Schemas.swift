/// The shapes of what is sent and answered (JSON Schema 2020-12, as OpenAPI 3.1 has it).
enum Schemas {
    static func reference(_ name: String) -> JSON { ["$ref": .text("#/components/schemas/\(name)")] }

    /// The name behind a reference; nil for a shape without one.
    static func name(of schema: JSON) -> String? {
        guard case .map(let members) = schema, case .text(let path)? = members["$ref"] else { return nil }
        return path.split(separator: "/").last.map(String.init)
    }

    static func page(_ item: String) -> JSON {
        object(
            [
                "items": ["type": "array", "items": reference(item)], "total": integer("All that match."),
                "next": nullable("string", "For `after`; null or absent at the end."),
                "isCut": boolean("There may be more than were looked at."),
            ], optional: ["next"])
    }

    static func items(_ item: String) -> JSON { object(["items": ["type": "array", "items": reference(item)]]) }

    static let gatewayOrChanges: JSON = ["anyOf": [reference("Gateway"), reference("Changes")]]

    private static func text(_ help: String) -> JSON { ["type": "string", "description": .text(help)] }
    private static func integer(_ help: String) -> JSON { ["type": "integer", "description": .text(help)] }
    private static func number(_ help: String) -> JSON { ["type": "number", "description": .text(help)] }
    private static func boolean(_ help: String) -> JSON { ["type": "boolean", "description": .text(help)] }
    private static func nullable(_ type: String, _ help: String) -> JSON {
        ["type": [.text(type), "null"], "description": .text(help)]
    }
    private static func array(_ items: JSON) -> JSON { ["type": "array", "items": items] }

    /// Every property is there, but the optional ones.
    private static func object(_ properties: [String: JSON], optional: Set<String> = []) -> JSON {
        let required = properties.keys.filter { !optional.contains($0) }.sorted()
        return [
            "type": "object", "properties": .map(properties), "required": .list(required.map { .text($0) }),
        ]
    }

    static var all: [String: JSON] {
        var gateway = KeyReference.gateway.schema()
        gateway["status"] = reference("GatewayStatus")
        var newGateway = KeyReference.gateway.schema(isLoose: true)
        newGateway["server"] = [
            "type": ["string", "null"],
            "description": "`HOST` or `HOST:PORT`: `forward.server` and `forward.port` in one.",
        ]
        newGateway["domain"] = text("A domain of at least two labels.")
        let loose: (KeyReference) -> JSON = { ["type": "object", "properties": .map($0.schema(isLoose: true))] }
        return [
            "Gateway": ["type": "object", "properties": .map(gateway), "required": ["domain", "status"]],
            "NewGateway": ["type": "object", "properties": .map(newGateway), "required": ["domain"]],
            "GatewayDocument": loose(.gateway),
            "Settings": ["type": "object", "properties": .map(KeyReference.settings.schema())],
            "SettingsDocument": loose(.settings),
            "GatewayStatus": gatewayStatus, "GatewaySummary": gatewaySummary, "Status": status, "Message": message,
            "Changes": object(
                [
                    "changes": array(reference("Change")),
                    "etag": nullable("string", "Of the state that would change."),
                    "errors": array(reference("Fault")),
                ],
                optional: ["etag"]),
            "Change": object(
                [
                    "key": text("Dotted."), "before": nullable("string", "As JSON."),
                    "after": nullable("string", "As JSON."),
                ], optional: ["before", "after"]),
            "Fault": object(["field": text("What it is about."), "detail": text("One sentence.")]),
            "Count": object(["count": integer("Messages or gateways.")]),
            "Usage": object(
                [
                    "domain": text("The gateway."), "messages": integer("Stored now."), "bytes": integer("Of content."),
                    "messagesMax": nullable("integer", "Null: no limit."),
                    "bytesMax": nullable("integer", "Null: no limit."),
                ], optional: ["messagesMax", "bytesMax"]),
            "Records": object([
                "records": array(
                    object([
                        "name": text("With its dot."), "type": text("MX, A, AAAA or PTR."), "value": text("Its data."),
                        "zone": text("Whose zone it belongs in."),
                    ])), "notes": array(["type": "string"]),
            ]),
            "BulkResults": object([
                "results": array(
                    object(
                        [
                            "domain": text("As it was asked for."), "done": boolean("Whether it was done."),
                            "detail": nullable("string", "Why not."),
                        ], optional: ["detail"]))
            ]),
            "ImportReport": object(["created": array(["type": "string"]), "updated": array(["type": "string"])]),
            "Headers": object([
                "fields": array(object(["name": text("As it stands."), "value": text("Unfolded.")])),
                "isCut": boolean("There are more."),
            ]),
            "History": history,
            "Keys": object(["gateway": array(reference("Key")), "settings": array(reference("Key"))]),
            "Key": object(
                [
                    "key": text("Dotted."), "standard": text("The default, as YAML."), "takes": text("What it takes."),
                    "help": text("What it is for."), "isNullable": boolean("Whether null is a value."),
                    "kind": ["type": "string", "enum": ["flag", "number", "choice", "list", "text"]],
                    "words": ["type": ["array", "null"], "items": ["type": "string"]],
                ], optional: ["words"]),
            "Session": object(
                [
                    "user": nullable("string", "Who."), "version": nullable("string", "Of the server."),
                    "idleSeconds": integer("After this long without a request it ends."),
                    "absoluteSeconds": integer("And after this long in any case."),
                ], optional: ["user", "version"]),
            "Token": object(
                [
                    "name": text("Its name."), "scope": ["type": "string", "enum": ["read", "write"]],
                    "createdAt": number("Seconds since 1970."), "usedAt": nullable("number", "Null: never."),
                ], optional: ["usedAt"]),
            "NewToken": object([
                "name": text("Its name."), "scope": text("read or write."),
                "token": text("For `Authorization: Bearer`; it is not shown again."),
            ]),
            "AuditEntry": object(
                [
                    "id": integer("Grows."), "at": number("Seconds since 1970."), "who": text("A user, or a token."),
                    "address": text("Where from."), "action": text("Such as gateway.set."), "object": text("On what."),
                    "outcome": text("done, refused, or unknown."), "detail": nullable("string", "Why refused."),
                    "changes": array(reference("Change")),
                ], optional: ["detail"]),
            "Problem": object(
                [
                    "type": text("about:blank."), "title": text("The status in words."),
                    "status": integer("The status."),
                    "detail": text("One sentence."),
                    "errors": array(reference("Fault")),
                    "differences": array(
                        object(["key": text("Dotted."), "stored": .map([:]), "sent": .map([:])])),
                    "etag": nullable("string", "Of what is stored now."),
                ], optional: ["errors", "differences", "etag"]),
        ]
    }

    private static let gatewayStatus = object(
        [
            "id": integer("Never used again."), "etag": text("Names this state."),
            "createdAt": number("Seconds since 1970."), "fault": nullable("string", "What is wrong with it."),
            "queued": integer("Messages."), "bytes": integer("Of content."), "sessions": integer("To its server."),
            "state": text("up, slow, down, returning or no-next-hop."), "detail": text("Of the last failure."),
            "oldest": nullable("number", "Since when the oldest waits, in seconds since 1970."),
        ], optional: ["fault", "oldest"])

    private static let gatewaySummary = object([
        "domain": text("In A-labels."), "enabled": boolean("Takes mail."), "hold": boolean("Lets none out."),
        "delivery": object(["when": text("immediately or onContact.")]),
        "forward": object(
            ["server": nullable("string", "Null: the domain's MX set."), "port": integer("Its port.")],
            optional: ["server"]), "status": reference("GatewayStatus"),
    ])

    private static let message = object([
        "id": text("The queue id."), "domain": text("Its gateway."), "from": text("The reverse-path."),
        "recipients": array(["type": "string"]), "bytes": integer("Of content."),
        "receivedAt": number("Seconds since 1970."),
        "state": ["type": "string", "enum": ["queued", "active", "deferred", "held"]], "attempts": integer("So far."),
        "nextAttempt": nullable("number", "Null: as soon as there is room."),
        "lastReply": nullable("string", "In the peer's own words."),
    ])

    private static let status = object(
        [
            "version": text("Of the server."), "io": text("epoll or uring."), "hostname": text("Its name."),
            "reactors": array(
                object([
                    "cpu": nullable("integer", "Null: not pinned."), "sessions": integer("Of clients."),
                    "forwardSessions": integer("To primaries."), "queued": integer("Whose home it is."),
                    "longestTurnMicroseconds": integer("Since the start."), "busy": number("0 to 1."),
                ])), "accepted": integer("Since the start."), "delivered": integer("Since the start."),
            "deferred": integer("Since the start."), "bounced": integer("Since the start."), "queued": integer("Now."),
            "held": integer("Of these."), "gateways": integer("How many."), "startedAt": number("Seconds since 1970."),
            "ready": boolean("All that is configured works."), "notReady": nullable("string", "Why not."),
            "alarms": array(["type": "string"]),
        ], optional: ["notReady"])

    private static let history = object([
        "everySeconds": integer("Between two samples, at least."),
        "samples": array(
            object(
                [
                    "at": number("Seconds since 1970."), "queued": integer("At that moment."),
                    "held": integer("At that moment."), "accepted": integer("Since the start of the mail process."),
                    "delivered": integer("Since the start of the mail process."), "sessions": integer("Of clients."),
                ], optional: ["held", "accepted", "delivered", "sessions"])),
    ])
}
