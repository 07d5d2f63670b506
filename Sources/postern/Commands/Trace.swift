import ArgumentParser
import Gateway

struct Trace: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Tell what became of a message, or of an address's last messages.",
        discussion: """
            Reads the mail log: `log.file` and the file rotated last, or without one systemd's journal; --log names others. A \
            running server adds what still waits. Exit status 1: nothing was found.
            """)

    @OptionGroup var options: Options

    @Option(
        help: ArgumentHelp("A file of the log; may be repeated, the oldest first.", valueName: "file"),
        completion: .file())
    var log: [String] = []

    @Option(help: "Messages at most, the newest.")
    var limit = 20

    @Argument(
        help: ArgumentHelp(
            "An id from a 250, the log or a Received field; or an envelope's address.", valueName: "id|address"))
    var subject: String

    func validate() throws {
        guard (1...10_000).contains(limit) else { throw ValidationError("--limit takes 1 to 10000") }
    }

    private struct Answer: Encodable {
        let messages: [MessageTrace]
        /// Lines about the address with nothing accepted.
        let refused: [[String: String]]
    }

    func run() throws {
        let source = try log.isEmpty ? LogSource(file: options.configuration().log.file) : .files(log)
        let subject = MessageTrace.Subject(subject)
        let client = client()
        let found: (traces: [MessageTrace], refusals: [LogLine], isCut: Bool)
        do throws(TraceFault) { found = try look(subject, source, client) } catch { throw failure(error.sentence) }
        if options.json {
            try printJSON(
                Answer(
                    messages: found.traces,
                    refused: found.refusals.map { line in
                        Dictionary(
                            [("time", line.time)] + line.fields.map { ($0.name, $0.value) },
                            uniquingKeysWith: { first, _ in first })
                    }))
        } else {
            for line in found.refusals { write("\(Self.text(line, without: []))\n") }
            for trace in found.traces { write(Self.text(trace)) }
        }
        if found.isCut { complain("there are more, older ones; --limit shows them") }
        guard !found.traces.isEmpty || !found.refusals.isEmpty else {
            throw failure("nothing is known of \(Text.visible(self.subject)): not in the log, and it does not wait")
        }
    }

    private func look(_ subject: MessageTrace.Subject, _ source: LogSource, _ client: ControlClient?)
        throws(TraceFault) -> (traces: [MessageTrace], refusals: [LogLine], isCut: Bool)
    {
        var (ids, refusals): ([String], [LogLine]) = ([], [])
        switch subject {
        case .id(let id): ids = [id]
        case .address(let address):
            (ids, refusals) = try MessageTrace.ids(of: address, in: source)
            // Until its first attempt a recipient stands in no line.
            let known = Set(ids)
            ids += Self.waiting(for: address, client).filter { !known.contains($0) }
        }
        var traces = try MessageTrace.all(ids.suffix(limit), in: source)
        for at in traces.indices {
            traces[at].waiting = try? client?.ask("queue.show", [.text("id", traces[at].id)], as: QueuedMessage.self)
                .result
        }
        // An id that nobody has seen is no message.
        traces.removeAll { $0.lines.isEmpty && $0.waiting == nil }
        return (traces, refusals.suffix(limit), ids.count > limit || refusals.count > limit)
    }

    private func client() -> ControlClient? {
        guard let configuration = try? options.configuration(),
            let client = try? ControlClient(path: ControlClient.path(dataFolder: configuration.data))
        else {
            complain("no server runs here: what still waits is not told")
            return nil
        }
        return client
    }

    private static func waiting(for address: String, _ client: ControlClient?) -> [String] {
        let folded = address.lowercased()
        guard let client, let at = folded.lastIndex(of: "@") else { return [] }
        let arguments = [
            DocumentValue.Member("limit", DocumentValue(.integer(100_000))),
            .text("domain", String(folded[folded.index(after: at)...])),
        ]
        let waiting = try? client.ask("queue.list", arguments, as: [QueuedMessage].self).result
        return (waiting ?? []).filter { $0.recipients.contains { $0.lowercased() == folded } }.map(\.id)
    }

    private static func text(_ trace: MessageTrace) -> String {
        var text = "\(Style.bold.around(Text.visible(trace.id)))\n"
        for line in trace.lines { text += "  \(Self.text(line, without: ["id", "session"]))\n" }
        if let waiting = trace.waiting {
            let next = waiting.nextAttempt.map { ", the next \(Text.relative($0))" } ?? ""
            let reply = waiting.lastReply.map { ": \(Text.visible($0))" } ?? ""
            text += "  waits now: \(waiting.state.rawValue), attempts \(waiting.attempts)\(next)\(reply)\n"
        }
        return text
    }

    /// `2026-11-24 14:20:00  accepted  from=a@sender.example …`.
    private static func text(_ line: LogLine, without: Set<String>) -> String {
        let head = line["outcome"] ?? line["event"] ?? ""
        let time = line.time.prefix(19).replacing("T", with: " ")
        let rest = line.fields.filter {
            !without.contains($0.name) && !["outcome", "event", "level"].contains($0.name)
        }
        .map { $0.value.contains(" ") ? "\($0.name)=“\($0.value)”" : "\($0.name)=\($0.value)" }
        let padding = String(repeating: " ", count: max(0, 9 - head.count))
        return Text.visible("\(time)  \(head)\(padding)  \(rest.joined(separator: " "))")
    }
}
