import ArgumentParser
import Glibc

/// A primary for other generators: takes, checks, counts.
struct SinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sink", abstract: "Be a fast primary that looks at every byte.",
        discussion: """
            Runs until `--messages` have come, `--duration` is over, Ctrl-C or SIGTERM; then it reports. Messages of `postern-bench` are \
            checked against what they must be, whichever process sent them: a changed one, or with `--messages` a missing number, ends it with status 1.
            """)

    @Option(
        help: ArgumentHelp(
            "Where to listen: 127.0.0.1:2600, 127.0.0.1:2600-2699, 127.0.1.1-127.0.1.30:2600. May be given several times.",
            valueName: "address:port"))
    var listen: [String]

    @Option(help: "End when so many different messages have come.")
    var messages: Int?

    @Option(help: ArgumentHelp("End after so long, such as 60s.", valueName: "time"))
    var duration: String?

    @OptionGroup var primary: SinkOptions
    @OptionGroup var common: RunOptions

    func validate() throws {
        if let duration, LoadOptions.nanoseconds(duration) == nil {
            throw ValidationError("`--duration` is a time such as 60s")
        }
        if let messages, messages < 1 { throw ValidationError("`--messages` is at least 1") }
    }

    func run() throws {
        prepare()
        let endpoints = try sinkEndpoints(listen)
        let outcome = try orFail { () throws(BenchFault) in try serve(endpoints) }
        try common.report(outcome)
    }

    private func serve(_ endpoints: [Endpoint]) throws(BenchFault) -> Outcome {
        let run = try Run(nil, common, numbers: 1)
        try run.startSink(endpoints, primary.plan)
        _ = run.open()
        if !common.json {
            Screen.complain(
                "listening on \(endpoints[0])\(endpoints.count > 1 ? " and \(endpoints.count - 1) more" : "")")
        }
        run.waitAsServer(messages: messages, nanoseconds: duration.flatMap(LoadOptions.nanoseconds))
        let result = run.finish()
        var outcome = Outcome(mode: "sink", target: listen.joined(separator: " "), run: "")
        guard let arrived = result.arrived else { return outcome }
        let tally = arrived.tally
        // From the first: what came before was waiting for a sender.
        outcome.take(tally, nanoseconds: tally.lastAt > tally.firstAt ? tally.lastAt - tally.firstAt : 0)
        if tally.firstAt > 0 { outcome.timeline = Array(tally.timeline.drop { $0 == 0 }) }
        outcome.sinkCpuUsPerMessage = Double(arrived.cpu) / 1000 / Double(max(tally.messages, 1))
        outcome.wrong = arrived.wrong
        outcome.foreign = arrived.foreign
        outcome.duplicates = arrived.duplicates
        outcome.connections = arrived.sessions
        for name in ["serverCpuUsPerMessage", "serverPssKiB", "serverSwitchesPerMessage", "serverSyncsPerMessage"] {
            outcome.notAvailable[name] = "a sink does not know its server"
        }
        let missing = arrived.runs.values.reduce(0) { $0 + $1.missing }
        if let messages {
            outcome.lost = max(missing, messages - tally.messages)
        } else {
            outcome.figures["numbers not seen"] = Double(missing)
        }
        if arrived.refused > 0 { outcome.figures["refused, as asked"] = Double(arrived.refused) }
        if arrived.deferred > 0 { outcome.figures["deferred, as asked"] = Double(arrived.deferred) }
        if outcome.lost > 0 { outcome.failures.append("\(outcome.lost) messages did not come") }
        if arrived.wrong > 0 {
            let some = arrived.wrongNumbers.map(String.init).joined(separator: ", ")
            outcome.failures.append("\(arrived.wrong) messages arrived changed, among them number \(some)")
        }
        return outcome
    }
}
