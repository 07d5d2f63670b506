import Gateway
import HTTPTypes
import Hummingbird

/// What the handlers work with.
struct API: Sendable {
    let mail: MailAsker
    let access: AccessDesk
    let live: Live

    /// Every route, in the order of the reference.
    var routes: [Route] {
        gatewayRoutes + gatewayActionRoutes + queueRoutes + messageRoutes + serverRoutes + accessRoutes
    }

    /// One question to the mail process, with its answer's warnings in a header.
    func ask<Result: Codable & Sendable>(
        _ command: String, _ arguments: [DocumentValue.Member] = [], as: Result.Type = Result.self
    ) async throws -> ControlAnswer<Result> {
        try await mail.ask(command, arguments)
    }

    /// Makes a change that is in the audit log: before it is made, and with its outcome afterwards.
    func change<Result: Sendable>(
        _ request: APIRequest, _ action: String, _ object: String,
        _ body: () async throws -> (result: Result, changes: [AuditEntry.Change])
    ) async throws -> Result {
        let caller = request.by
        let entry = try await access.run {
            try $0.auditBegan(caller, action: action, object: object, now: Text.now)
        }
        do {
            let (result, changes) = try await body()
            await mail.forget()
            await noteEnd(entry, "done", nil, changes)
            return result
        } catch {
            await noteEnd(entry, "refused", (error as? Problem)?.detail ?? "\(error)", [])
            throw error
        }
    }

    /// The change is made or refused by now: a database that has just failed is said on standard error.
    private func noteEnd(_ entry: Int64, _ outcome: String, _ detail: String?, _ changes: [AuditEntry.Change]) async {
        do {
            try await access.run { try $0.auditEnded(entry, outcome: outcome, detail: detail, changes: changes) }
        } catch {
            complain("the audit log lacks how entry \(entry) ended (\(outcome)): \(error)")
        }
    }

    func noting(_ warnings: [String], _ answer: APIAnswer) -> APIAnswer {
        guard !warnings.isEmpty else { return answer }
        var answer = answer
        let text = warnings.joined(separator: "; ").unicodeScalars.map {
            (0x20...0x7e).contains($0.value) ? Character($0) : "?"
        }
        answer.headers.append((.warningText, String(String(text).prefix(2_000))))
        return answer
    }
}

extension HTTPField.Name {
    /// Sentences of the mail process about what was done.
    static let warningText = HTTPField.Name("Postern-Warning")!
}

/// A part of a long list, and where the next one begins.
struct Page<Item: Codable & Sendable>: Codable, Sendable {
    let items: [Item]
    /// All that match.
    let total: Int
    /// For `?after=`; nil: this was the last.
    let next: String?
    /// There may be more than were looked at.
    var isCut = false
}

/// The place in a list behind an item: its number, and its name for when the list has changed.
struct Cursor {
    enum Limits {
        static let page = 1...1_000
        static let standardPage = 50
    }

    static func page<Item: Codable & Sendable>(
        _ all: [Item], _ request: APIRequest, name: (Item) -> String
    ) throws(Problem) -> Page<Item> {
        let limit = try request.number("limit", in: Limits.page, standard: Limits.standardPage)
        var start = 0
        if let after = request.query["after"] {
            let parts = after.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, let number = Int(parts[0]), number >= 0 else {
                throw Problem(.badRequest, "`after` takes the `next` of an earlier answer", field: "after")
            }
            let found = all.firstIndex { name($0) == parts[1] }
            start = found.map { $0 + 1 } ?? min(number, all.count)
        }
        let end = min(start + limit, all.count)
        let items = Array(all[start..<end])
        return Page(
            items: items, total: all.count, next: end < all.count ? items.last.map { "\(end):\(name($0))" } : nil)
    }

    static let parameters: [Route.Parameter] = [
        Route.Parameter(
            name: "limit", text: "Items at most; 50 when left out.",
            schema: ["type": "integer", "minimum": 1, "maximum": 1_000]),
        Route.Parameter(
            name: "after", text: "The `next` of the answer before.", schema: ["type": "string"]),
    ]
}
