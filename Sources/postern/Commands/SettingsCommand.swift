import ArgumentParser
import Gateway

struct SettingsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "settings", abstract: "Show or change the server-wide policy.", subcommands: [Show.self, Set.self])

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show every setting with its value in force.")

        @OptionGroup var options: Options

        func run() throws { try SettingsCommand.show(options.ask("settings.show"), options) }
    }

    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Change settings: all of them, or none.")

        @OptionGroup var options: Options

        @Argument(help: ArgumentHelp("Such as smarthost=relay.example.net:587.", valueName: "key=value"))
        var assignments: [String]

        func run() throws {
            try SettingsCommand.show(options.ask("settings.set", [.texts("set", assignments)]), options)
        }
    }

    private static func show(_ settings: Settings, _ options: Options) throws {
        if options.json { try printJSON(settings) } else { write(settings.yaml) }
    }
}
