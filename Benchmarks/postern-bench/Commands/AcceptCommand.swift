import ArgumentParser

/// How fast a server takes mail: from the first command, or from when a message is due, to the reply to its content.
struct AcceptCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "accept", abstract: "Measure how a server accepts mail.",
        discussion: """
            `lost` counts messages that were sent and never answered. What the server does with accepted mail is seen by `relay`.
            """)

    @OptionGroup var target: TargetOptions
    @OptionGroup var options: LoadOptions
    @OptionGroup var common: RunOptions

    func run() throws {
        prepare()
        let load = options.load(try target.endpoint())
        let meter = target.meter(load.target)
        let measured = try orFail { () throws(BenchFault) in try AcceptRun.run(load, meter, common) }
        var outcome = measured
        outcome.parameters = options.parameters(load)
        try common.report(outcome)
    }
}

enum AcceptRun {
    /// Sends all, measures the server meanwhile.
    static func run(_ load: Load, _ meter: ServerMeter, _ options: RunOptions, mode: String = "accept")
        throws(BenchFault) -> Outcome
    {
        let run = try Run(load, options, numbers: load.numbersEnd)
        try run.startGenerator()
        meter.begin()
        let start = run.open()
        run.wait { run.generatorHasEnded }
        let server = meter.end()
        let result = run.finish()
        return outcome(mode, load, run, result, start: start, server)
    }

    static func outcome(
        _ mode: String, _ load: Load, _ run: Run, _ result: Run.Result, start: UInt64, _ server: ServerFigures
    ) -> Outcome {
        var outcome = Outcome(mode: mode, target: load.target.description, run: String(run.ledger.run, radix: 16))
        outcome.take(result.sent, nanoseconds: result.sent.lastAt > start ? result.sent.lastAt - start : 0)
        outcome.latency =
            load.rate == nil
            ? "from the first command to the reply to the content"
            : "from when each was due to the reply to its content"
        outcome.errors = result.sent.errors
        outcome.errorTexts = result.sent.words
        outcome.take(server)
        if outcome.messages > 0 {
            outcome.generatorCpuUsPerMessage = Double(result.sent.cpu) / 1000 / Double(outcome.messages)
        }
        outcome.connections = result.sent.connections
        outcome.fullHandshakes = result.sent.fullHandshakes
        outcome.resumedHandshakes = result.sent.resumedHandshakes
        outcome.failures = result.faults
        let sums = run.ledger.sums(0..<run.ledger.touched)
        outcome.lost = sums.unanswered
        if result.sent.overdue > 0 { outcome.figures["due and not begun"] = Double(result.sent.overdue) }
        if outcome.lost > 0 { outcome.failures.append("\(outcome.lost) messages were sent and not answered") }
        if outcome.messages == 0 { outcome.failures.append("no message was accepted") }
        return outcome
    }
}
