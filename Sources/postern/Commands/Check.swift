import ArgumentParser
import Gateway

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Look whether this host and its configuration are fit for `serve`.")

    @OptionGroup var options: Options

    @Flag(help: "Print the reference of all keys instead, in Markdown.")
    var settings = false

    @Flag(help: "Print a configuration file with every default instead.")
    var sample = false

    func run() throws {
        if settings { return printReference() }
        if sample { return write(Configuration.sampleYAML()) }
        let findings = HostCheck.run(try options.configuration())
        if options.json {
            try printJSON(findings)
        } else {
            for finding in findings {
                let style: Style =
                    switch finding.level {
                    case .good: .green
                    case .warning: .yellow
                    case .error: .red
                    }
                let level = finding.level.rawValue + String(repeating: " ", count: 7 - finding.level.rawValue.count)
                write("\(style.around(level))  \(Text.visible(finding.text))\n")
            }
        }
        if findings.contains(where: { $0.level == .error }) { throw ExitCode(1) }
    }

    private func printReference() {
        write("# postern.yaml\n\n" + Configuration.referenceMarkdown())
        write("\n# Settings (`postern settings`)\n\n" + Settings.referenceMarkdown())
        write("\n# Gateway document (`postern gateway`)\n\n" + GatewayDocument.referenceMarkdown())
    }
}
