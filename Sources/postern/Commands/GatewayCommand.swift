import ArgumentParser
import Gateway
import Glibc

struct GatewayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway", abstract: "Look at gateways and change them: the domains that are served.",
        subcommands: [
            List.self, Show.self, Create.self, Set.self, Delete.self, Export.self, Import.self, Usage.self,
        ])

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List all gateways.")

        @OptionGroup var options: Options

        func run() throws {
            let gateways = try options.ask("gateway.list", as: [GatewaySummary].self)
            if options.json { return try printJSON(gateways) }
            guard !gateways.isEmpty else {
                return write("no gateways: make one with `postern gateway create DOMAIN`\n")
            }
            var table = Table([
                ("DOMAIN", .left), ("SERVER", .left), ("QUEUED", .right), ("SIZE", .right), ("OLDEST", .left),
                ("STATE", .left),
            ])
            for gateway in gateways {
                let server = gateway.forward.server.map { "\($0):\(gateway.forward.port)" } ?? "MX of the domain"
                table.append([
                    gateway.domain, server, Text.count(gateway.status.queued), Text.size(gateway.status.bytes),
                    gateway.status.oldest.map { Text.relative($0) } ?? "", Self.state(gateway),
                ])
            }
            write(table.text)
        }

        private static func state(_ gateway: GatewaySummary) -> String {
            let words = [
                gateway.status.fault == nil ? nil : "unreadable", gateway.enabled ? nil : "disabled",
                gateway.hold ? "held" : nil, gateway.status.state == "held" ? nil : gateway.status.state,
            ]
            return words.compactMap(\.self).joined(separator: ", ")
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a gateway: all keys, and how it does.")

        @OptionGroup var options: Options

        @Argument var domain: String

        func run() throws {
            let report = try options.ask("gateway.show", [.text("domain", domain)], as: GatewayReport.self)
            try GatewayCommand.show(report, options)
        }
    }

    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a gateway.",
            discussion: "Without a server, mail goes to the MX hosts of the domain that are better than we are.")

        @OptionGroup var options: Options

        @Argument var domain: String

        @Option(help: ArgumentHelp("The customer's server.", valueName: "host[:port]"))
        var server: String?

        @Option(help: ArgumentHelp("Send one copy of each message to this address.", valueName: "address"))
        var account: String?

        @Argument(help: ArgumentHelp("Keys of the gateway's document, such as quota.bytes=1G.", valueName: "key=value"))
        var assignments: [String] = []

        func validate() throws {
            if server != nil, account != nil { throw ValidationError("--server and --account exclude each other") }
        }

        func run() throws {
            var arguments: [DocumentValue.Member] = [.text("domain", domain), .texts("set", assignments)]
            if let server { arguments.append(.text("server", server)) }
            if let account { arguments.append(.text("account", account)) }
            let report = try options.ask("gateway.create", arguments, as: GatewayReport.self)
            if options.json { return try printJSON(report) }
            write("created \(report.document.domain)\n")
        }
    }

    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Change keys of a gateway: all of them, or none.",
            discussion: "key=null sets a default. `postern check --settings` prints all keys.")

        @OptionGroup var options: Options

        @Argument var domain: String

        @Argument(help: ArgumentHelp("Such as forward.server=mail.example.net.", valueName: "key=value"))
        var assignments: [String]

        func run() throws {
            let report = try options.ask(
                "gateway.set", [.text("domain", domain), .texts("set", assignments)], as: GatewayReport.self)
            if options.json { return try printJSON(report) }
            write("changed \(report.document.domain)\n")
        }
    }

    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Delete a gateway.")

        @OptionGroup var options: Options

        @Argument var domain: String

        @Option(
            help: ArgumentHelp(
                "What becomes of waiting mail: refuse (the deletion, while mail waits), drop, bounce, export=DIR.",
                valueName: "what"))
        var mail = "refuse"

        private var disposal: [DocumentValue.Member]? {
            if ["refuse", "drop", "bounce"].contains(mail) { return [.text("mail", mail)] }
            guard mail.hasPrefix("export="), mail != "export=" else { return nil }
            // The server has another working folder.
            let folder = String(mail.dropFirst("export=".count))
            return [.text("mail", "export"), .text("directory", absolute(folder))]
        }

        func validate() throws {
            guard disposal != nil else {
                throw ValidationError("--mail takes refuse, drop, bounce or export=DIR")
            }
        }

        func run() throws {
            let count = try options.ask(
                "gateway.delete", [.text("domain", domain)] + (disposal ?? []), as: ControlCount.self)
            if options.json { return try printJSON(count) }
            write("deleted \(Text.visible(domain))\n")
        }
    }

    struct Export: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print gateways as YAML, for `import` or for git: what is not default.")

        @OptionGroup var options: Options

        @Argument(help: "All gateways when left out.") var domain: String?

        func run() throws {
            let arguments = domain.map { [DocumentValue.Member.text("domain", $0)] } ?? []
            let yaml = try options.ask("gateway.export", arguments, as: ControlText.self).text
            guard options.json else { return write(yaml) }
            do throws(InvalidSetting) {
                let documents = try GatewayDocument.list(yaml: yaml)
                try? printJSON(documents.map(\.changes))
            } catch {
                throw failure(error.sentence)
            }
        }
    }

    struct Import: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create and change gateways from YAML or from a Postfix: all of them, or none.",
            discussion: """
                A gateway that exists is replaced whole; one that the file does not name stays. Of a Postfix that relays for \
                other domains, relay_domains become gateways, with the next hops of transport_maps, relay_transport and \
                relayhost. What has no counterpart is told.
                """)

        @OptionGroup var options: Options

        @Flag(help: "Only tell what would be done.")
        var dryRun = false

        @Option(
            help: ArgumentHelp("The folder of a Postfix's main.cf, in place of FILE.", valueName: "folder"),
            completion: .directory)
        var postfix: String?

        @Flag(help: "With --postfix: print the gateways as YAML, and ask no server.")
        var yaml = false

        @Argument(help: "`-` is standard input.", completion: .file()) var file: String?

        func validate() throws {
            if (file == nil) == (postfix == nil) { throw ValidationError("give FILE or --postfix FOLDER") }
            if yaml, postfix == nil { throw ValidationError("--yaml goes with --postfix") }
        }

        func run() throws {
            let text = try postfix.map { try Self.relays(folder: absolute($0)) } ?? readText(file!)
            if yaml { return write(text) }
            let client = try options.client()
            let before = dryRun ? try options.ask(client, "gateway.export", as: ControlText.self).text : nil
            let report = try options.ask(
                client, "gateway.import", [.text("yaml", text), .flag("dryRun", dryRun)], as: ImportReport.self)
            let changes = try before.map { try Self.changes(of: report.updated, from: $0, to: text) } ?? [:]
            if options.json {
                return try dryRun
                    ? printJSON(DryRun(created: report.created, updated: report.updated, changes: changes))
                    : printJSON(report)
            }
            let would = dryRun ? "would be " : ""
            for domain in report.created { write("\(domain): \(would)created\n") }
            for domain in report.updated {
                write("\(domain): \(would)changed\n")
                for change in changes[domain] ?? [] { write("    \(change.key): \(change.from) → \(change.to)\n") }
            }
            if report.created.isEmpty, report.updated.isEmpty { write("nothing to change\n") }
        }

        /// What a dry run answers to programs.
        private struct DryRun: Encodable {
            let created: [String]
            let updated: [String]
            /// By domain, of `updated`.
            let changes: [String: [DocumentDifference]]
        }

        private static func changes(of domains: [String], from old: String, to new: String) throws
            -> [String: [DocumentDifference]]
        {
            do throws(InvalidSetting) {
                let before = Dictionary(
                    try GatewayDocument.list(yaml: old).map { ($0.domain, $0) }, uniquingKeysWith: { _, last in last })
                let after = Dictionary(
                    try GatewayDocument.list(yaml: new).map { ($0.domain, $0) }, uniquingKeysWith: { _, last in last })
                var changes: [String: [DocumentDifference]] = [:]
                for domain in domains {
                    guard let old = before[domain], let new = after[domain] else { continue }
                    changes[domain] = DocumentDifference.between(old, new)
                }
                return changes
            } catch {
                throw failure(error.sentence)
            }
        }

        /// The gateways of a Postfix as YAML; remarks go to standard error.
        private static func relays(folder: String) throws -> String {
            let text = try readText("\(folder)/main.cf")
            let relays: PostfixImport
            do {
                relays = try PostfixImport(try PostfixConfiguration(text, folder: folder, read: readText))
            } catch let fault as PostfixConfiguration.Fault {
                throw failure("\(folder): \(fault)")
            }
            for remark in relays.remarks { complain("warning: \(Text.visible(remark))") }
            return GatewayDocument.yaml(relays.gateways)
        }
    }

    struct Usage: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what the mail of gateways takes, and their quotas.")

        @OptionGroup var options: Options

        @Argument(help: "All gateways when left out.") var domain: String?

        func run() throws {
            let arguments = domain.map { [DocumentValue.Member.text("domain", $0)] } ?? []
            let usages = try options.ask("gateway.usage", arguments, as: [GatewayUsage].self)
            if options.json { return try printJSON(usages) }
            var table = Table([
                ("DOMAIN", .left), ("MESSAGES", .right), ("LIMIT", .right), ("SIZE", .right), ("LIMIT", .right),
            ])
            for usage in usages {
                table.append([
                    usage.domain, Text.count(usage.messages), usage.messagesMax.map(Text.count) ?? "none",
                    Text.size(usage.bytes), usage.bytesMax.map(Text.size) ?? "none",
                ])
            }
            write(table.text)
        }
    }

    private static func show(_ report: GatewayReport, _ options: Options) throws {
        if options.json { return try printJSON(report) }
        let status = report.status
        if let fault = status.fault { write("\(Style.red.around("unreadable")): \(Text.visible(fault))\n") }
        write(report.document.yaml)
        write(
            """
            # queued \(Text.count(status.queued)) (\(Text.size(status.bytes)))\
            \(status.oldest.map { ", the oldest from \(Text.relative($0))" } ?? "")
            # primary \(status.state), sessions \(status.sessions)\
            \(status.detail.isEmpty ? "" : ": \(Text.visible(status.detail))")
            # created \(Text.relative(status.createdAt)), etag \(status.etag)

            """)
    }
}

/// From the working folder on.
func absolute(_ path: String) -> String {
    guard !path.hasPrefix("/"), let folder = getcwd(nil, 0) else { return path }
    defer { free(folder) }
    return "\(String(cString: folder))/\(path)"
}

/// The text of a file, or of standard input for `-`; up to what an import may be.
private func readText(_ path: String) throws -> String {
    let bytesMax = 16 << 20
    let descriptor = path == "-" ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw failure("\(path): it cannot be read: \(String(cString: strerror(errno)))") }
    defer { if descriptor != STDIN_FILENO { close(descriptor) } }
    var text: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0, errno == EINTR { continue }
        guard count >= 0 else { throw failure("\(path): it cannot be read: \(String(cString: strerror(errno)))") }
        if count == 0 { break }
        text += chunk[..<count]
        guard text.count <= bytesMax else { throw failure("\(path): it is longer than 16 MiB") }
    }
    guard let valid = String(validating: text, as: UTF8.self) else { throw failure("\(path): it is not UTF-8") }
    return valid
}
