import ArgumentParser

/// The command: load for any SMTP server, and a primary that looks at every byte.
@main
struct PosternBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "postern-bench", abstract: "Load for mail servers, measured and verified.",
        discussion: """
            Exit status: 0 done; 1 a loss, a wrong byte, or a run that failed, with a sentence on standard error; 64 wrong usage.
            """,
        subcommands: [
            AcceptCommand.self, RelayCommand.self, DrainCommand.self, IdleCommand.self, GatewaysCommand.self,
            SinkCommand.self, FloorCommand.self, FloorPeerCommand.self,
        ])
}
