import ArgumentParser
import Gateway

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Run the server until SIGTERM or SIGINT.")

    @OptionGroup var options: Options

    func run() throws {
        let status = ServeMain.run(try options.configuration())
        guard status == 0 else { throw ExitCode(status) }
    }
}
