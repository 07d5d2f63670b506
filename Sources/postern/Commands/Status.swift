import ArgumentParser
import Gateway

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show what the running server does.")

    @OptionGroup var options: Options

    func run() throws {
        let status = try options.ask("status", as: ServerStatus.self)
        if options.json { return try printJSON(status) }
        let state =
            status.ready
            ? Style.green.around("ready")
            : Style.yellow.around("not ready: \(Text.visible(status.notReady ?? "starting"))")
        write(
            """
            postern \(status.version) on \(Text.visible(status.hostname)), \(state), for \
            \(Text.span(Text.now - status.startedAt)), with \(status.io)

            accepted   \(Text.count(status.accepted))
            delivered  \(Text.count(status.delivered))
            deferred   \(Text.count(status.deferred))
            bounced    \(Text.count(status.bounced))
            queued     \(Text.count(status.queued)), of these held \(Text.count(status.held))
            gateways   \(Text.count(status.gateways))


            """)
        var table = Table([
            ("REACTOR", .right), ("CPU", .right), ("CLIENTS", .right), ("PRIMARIES", .right), ("QUEUED", .right),
            ("LONGEST TURN", .right), ("BUSY", .right),
        ])
        for (index, reactor) in status.reactors.enumerated() {
            table.append([
                String(index), reactor.cpu.map { String($0) } ?? "any", Text.count(reactor.sessions),
                Text.count(reactor.forwardSessions), Text.count(reactor.queued),
                "\((Double(reactor.longestTurnMicroseconds) / 100).rounded() / 10) ms",
                "\((reactor.busy * 1_000).rounded() / 10) %",
            ])
        }
        write(table.text)
        for alarm in status.alarms { write("\(Style.red.around("alarm")): \(Text.visible(alarm))\n") }
    }
}
