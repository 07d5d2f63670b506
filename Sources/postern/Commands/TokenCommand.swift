import ArgumentParser
import Gateway

struct TokenCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "token", abstract: "Tokens for programs that use the HTTP API; also while no server runs.",
        subcommands: [Create.self, List.self, Delete.self])

    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Make a token; it is shown this once.")

        @OptionGroup var options: Options

        @Option(help: "read, or write for one that may also change things.")
        var scope: Scope

        @Argument var name: String

        func validate() throws {
            guard AccessStore.isTokenName(name) else {
                throw ValidationError("a name has 1 to 64 letters, digits, `.`, `_` and `-`")
            }
        }

        private struct Made: Encodable {
            let name: String
            let scope: Scope
            let token: String
        }

        func run() throws {
            let made = try options.accessStore { store in
                let entry = try store.auditBegan(
                    who: "command", address: "local", action: "token.create", object: name, now: Text.now)
                let made = try store.makeToken(name: name, scope: scope, now: Text.now)
                guard case .made = made else {
                    try store.auditEnded(entry, outcome: "refused")
                    return made
                }
                try store.auditEnded(
                    entry, outcome: "done",
                    changes: [AuditEntry.Change(key: "scope", before: nil, after: scope.rawValue)])
                return made
            }
            switch made {
            case .made(let token):
                if options.json {
                    try printJSON(Made(name: name, scope: scope, token: token))
                } else {
                    write(token + "\n")
                }
            case .exists: throw failure("there is a token \(name) already: delete it first")
            case .tooMany: throw failure("there are \(AccessStore.Limits.tokens) tokens: delete one first")
            }
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the tokens, without their secrets.")

        @OptionGroup var options: Options

        func run() throws {
            let tokens = try options.accessStore { try $0.tokens() }
            if options.json { return try printJSON(tokens) }
            guard !tokens.isEmpty else {
                return write("no tokens: make one with `postern token create NAME --scope read|write`\n")
            }
            var table = Table([("NAME", .left), ("SCOPE", .left), ("CREATED", .left), ("USED", .left)])
            for token in tokens {
                table.append([
                    token.name, token.scope.rawValue, Text.relative(token.createdAt),
                    token.usedAt.map { Text.relative($0) } ?? "never",
                ])
            }
            write(table.text)
        }
    }

    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Delete a token: it is of no more use at once.")

        @OptionGroup var options: Options
        @Argument var name: String

        func run() throws {
            let isDone = try options.accessStore { store in
                let entry = try store.auditBegan(
                    who: "command", address: "local", action: "token.delete", object: name, now: Text.now)
                let isDone = try store.deleteToken(name)
                try store.auditEnded(entry, outcome: isDone ? "done" : "refused")
                return isDone
            }
            guard isDone else { throw failure("there is no token \(Text.visible(name))") }
            if options.json { try printJSON([name]) } else { write("deleted \(name)\n") }
        }
    }
}

extension Scope: ExpressibleByArgument {}
