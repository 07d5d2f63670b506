import ArgumentParser
import FoundationEssentials
import Gateway
import Glibc

struct QueueCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queue", abstract: "Look at waiting mail, and deal with it.",
        subcommands: [
            List.self, Flush.self, Hold.self, Release.self, Show.self, Delete.self, Bounce.self, Export.self,
        ])

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List waiting messages, oldest first.")

        @OptionGroup var options: Options

        @Option(help: "Messages at most.") var limit = 1_000

        @Argument(help: "All gateways when left out; @system is mail of our own.") var domain: String?

        func validate() throws {
            guard (1...100_000).contains(limit) else { throw ValidationError("--limit takes 1 to 100000") }
        }

        func run() throws {
            var arguments = [DocumentValue.Member("limit", DocumentValue(.integer(limit)))]
            if let domain { arguments.append(.text("domain", domain)) }
            let messages = try options.ask("queue.list", arguments, as: [QueuedMessage].self)
            if options.json { return try printJSON(messages) }
            guard !messages.isEmpty else { return write("nothing waits\n") }
            var table = Table([
                ("ID", .left), ("GATEWAY", .left), ("RECEIVED", .left), ("SIZE", .right), ("STATE", .left),
                ("TRIES", .right), ("NEXT", .left), ("FROM", .left), ("TO", .left), ("LAST REPLY", .left),
            ])
            for message in messages {
                let others = message.recipients.count > 1 ? " +\(message.recipients.count - 1)" : ""
                table.append([
                    message.id, message.domain, Text.relative(message.receivedAt), Text.size(message.bytes),
                    message.state.rawValue, String(message.attempts),
                    message.nextAttempt.map { Text.relative($0) } ?? "", "<\(message.from)>",
                    "<\(message.recipients.first ?? "")>\(others)", message.lastReply ?? "",
                ])
            }
            write(table.text)
        }
    }

    /// One gateway or all: one of the two must be said.
    struct Target: ParsableArguments {
        @Flag(help: "All gateways.") var all = false
        @Argument var domain: String?

        func validate() throws {
            guard all == (domain == nil) else { throw ValidationError("give either DOMAIN or --all") }
        }

        var arguments: [DocumentValue.Member] { domain.map { [.text("domain", $0)] } ?? [.flag("all", true)] }
        var name: String { domain.map(Text.visible) ?? "all gateways" }
    }

    struct Flush: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Try waiting mail now, whatever retry times and delivery say; held mail stays.")

        @OptionGroup var options: Options
        @OptionGroup var target: Target

        func run() throws {
            let count = try options.ask("queue.flush", target.arguments, as: ControlCount.self)
            if options.json { return try printJSON(count) }
            write("\(Text.count(count.count)) waiting for \(target.name) are tried now\n")
        }
    }

    struct Hold: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Keep mail: it is accepted, and nothing leaves.")

        @OptionGroup var options: Options
        @OptionGroup var target: Target

        func run() throws {
            let count = try options.ask("queue.hold", target.arguments, as: ControlCount.self)
            if options.json { return try printJSON(count) }
            write(count.count == 0 ? "held already\n" : "held: \(target.name)\n")
        }
    }

    struct Release: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Let held mail go.")

        @OptionGroup var options: Options
        @OptionGroup var target: Target

        func run() throws {
            let count = try options.ask("queue.release", target.arguments, as: ControlCount.self)
            if options.json { return try printJSON(count) }
            write(count.count == 0 ? "not held\n" : "released: \(target.name)\n")
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show messages with all their recipients.")

        @OptionGroup var options: Options
        @Argument var ids: [String]

        func run() throws {
            var messages: [QueuedMessage] = []
            let failed = try forEach(ids, options) { client, id in
                messages.append(try options.ask(client, "queue.show", [.text("id", id)], as: QueuedMessage.self))
            }
            if options.json {
                try printJSON(messages)
            } else {
                for message in messages { write(Self.text(message)) }
            }
            if failed { throw ExitCode(1) }
        }

        private static func text(_ message: QueuedMessage) -> String {
            let next = message.nextAttempt.map { ", next \(Text.relative($0))" } ?? ""
            return """
                \(Style.bold.around(message.id))
                  gateway   \(message.domain)
                  received  \(Text.relative(message.receivedAt)), \(Text.size(message.bytes))
                  state     \(message.state.rawValue), attempts \(message.attempts)\(next)
                  from      <\(Text.visible(message.from))>
                \(message.recipients.map { "  to        <\(Text.visible($0))>\n" }.joined())\
                \(message.lastReply.map { "  reply     \(Text.visible($0))\n" } ?? "")
                """
        }
    }

    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Delete messages; nobody is told.")

        @OptionGroup var options: Options
        @Argument var ids: [String]

        func run() throws { try QueueCommand.end("queue.delete", "deleted", ids, options) }
    }

    struct Bounce: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Give messages back to their senders.")

        @OptionGroup var options: Options
        @Argument var ids: [String]

        func run() throws { try QueueCommand.end("queue.bounce", "bounced", ids, options) }
    }

    struct Export: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Copy messages out of the queue, where they stay.",
            discussion: "One message goes to standard output; several want --to.")

        @OptionGroup var options: Options

        @Option(
            help: ArgumentHelp("Write a file ID.eml each into this folder.", valueName: "dir"), completion: .directory)
        var to: String?

        @Argument var ids: [String]

        func validate() throws {
            if to == nil, !options.json, ids.count > 1 { throw ValidationError("several messages want --to DIR") }
        }

        private struct Exported: Encodable {
            let id: String
            let content: Data
        }

        func run() throws {
            var exported: [Exported] = []
            let failed = try forEach(ids, options) { client, id in
                let content = try options.ask(client, "queue.export", [.text("id", id)], as: ControlContent.self)
                    .content
                if let to {
                    // The server has found it: the id is one, and no path.
                    let path = "\(to)/\(id).eml"
                    try writeNewFile(path, Array(content))
                    if !options.json { write("\(path)\n") }
                } else if options.json {
                    exported.append(Exported(id: id, content: content))
                } else {
                    write(Array(content), to: STDOUT_FILENO)
                }
            }
            if options.json, to == nil { try printJSON(exported) }
            if failed { throw ExitCode(1) }
        }
    }

    private static func end(_ command: String, _ done: String, _ ids: [String], _ options: Options) throws {
        var ended: [String] = []
        let failed = try forEach(ids, options) { client, id in
            _ = try options.ask(client, command, [.text("id", id)], as: ControlCount.self)
            ended.append(id)
            if !options.json { write("\(done) \(id)\n") }
        }
        if options.json { try printJSON(ended) }
        if failed { throw ExitCode(1) }
    }
}

/// - Throws: exit status 1, after the sentence; also when there is such a file.
private func writeNewFile(_ path: String, _ bytes: [UInt8]) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0, write(bytes, to: descriptor), close(descriptor) == 0 else {
        throw failure("\(path): it cannot be written: \(String(cString: strerror(errno)))")
    }
}

/// Does `body` for each, also after one has failed (which it has said itself); whether one did.
private func forEach(_ ids: [String], _ options: Options, _ body: (ControlClient, String) throws -> Void) throws -> Bool
{
    let client = try options.client()
    var hasFailed = false
    for id in ids {
        do { try body(client, id) } catch is ExitCode { hasFailed = true }
    }
    return hasFailed
}
