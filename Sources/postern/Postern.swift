import ArgumentParser
import Gateway

/// The command: starts the server, and talks to a running one over its control socket.
@main
struct Postern: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "postern", abstract: "A store-and-forward mail gateway: the MX of other people's domains.",
        discussion: """
            Exit status: 0 done; 1 refused, failed, or no server running, with a sentence on standard error; 64 wrong usage.
            """,
        version: Version.current,
        subcommands: [
            Serve.self, Check.self, Status.self, GatewayCommand.self, QueueCommand.self, SettingsCommand.self,
            Trace.self, TokenCommand.self, PasswordCommand.self, Admin.self,
        ])
}
