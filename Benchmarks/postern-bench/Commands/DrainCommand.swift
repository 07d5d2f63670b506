import ArgumentParser

/// How fast a queue empties when its primary comes back.
struct DrainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Fill a server's queue, then measure how fast it empties.",
        discussion: """
            While the queue is filled nothing listens at `--sink`. Then it does, `--start` is run, and what is counted is the time from the \
            first arrival to the last. Without `--start` the server's own next try is waited for, as long as `--timeout` says.
            """)

    @OptionGroup var target: TargetOptions
    @OptionGroup var place: PrimaryPlace
    @Option(help: ArgumentHelp("What releases the queue, such as `postern queue flush --all`.", valueName: "command"))
    var start: String?
    @OptionGroup var primary: SinkOptions
    @OptionGroup var options: LoadOptions
    @OptionGroup var common: RunOptions

    func run() throws {
        prepare()
        let load = options.load(try target.endpoint())
        let endpoints = try place.endpoints()
        let meter = target.meter(load.target)
        var outcome = try orFail { () throws(BenchFault) in try measure(load, endpoints, meter) }
        outcome.parameters = options.parameters(load)
        if let start { outcome.parameters["start"] = start }
        try common.report(outcome)
    }

    private func measure(_ load: Load, _ endpoints: [Endpoint], _ meter: ServerMeter) throws(BenchFault) -> Outcome {
        let run = try Run(load, common, numbers: load.numbersEnd)
        // A port that is taken is better found now than when the queue is full.
        do { _ = try Sink(endpoints, plan: primary.plan, gate: Gate(), ledger: nil) }
        try run.startGenerator()
        let filling = run.open()
        run.wait { run.generatorHasEnded }
        meter.begin()
        try run.startSink(endpoints, primary.plan)
        let released = Clock.now
        let command: ShellCommand? = if let start, !run.isStopped { try ShellCommand(start) } else { nil }
        run.waitForArrivals(0..<run.ledger.touched)
        let server = meter.end()
        let status = command?.wait() ?? 0
        let result = run.finish()

        var outcome = AcceptRun.outcome("drain", load, run, result, start: filling, server)
        outcome.phases = [
            Outcome.phase(
                "filled", result.sent, nanoseconds: result.sent.lastAt > filling ? result.sent.lastAt - filling : 0)
        ]
        outcome.errors = result.sent.errors
        outcome.verify(run, result)
        if status != 0 { outcome.failures.append("`\(start ?? "")` ended with status \(status)") }
        guard let tally = result.arrived?.tally, tally.firstAt > 0 else { return outcome }
        outcome.take(tally, nanoseconds: tally.lastAt - tally.firstAt)
        outcome.take(server)
        // How long they waited says when the queue was filled, and nothing of the server.
        (outcome.p50us, outcome.p90us, outcome.p99us, outcome.p999us, outcome.maxUs, outcome.curve) = (
            nil, nil, nil, nil, nil, []
        )
        outcome.latency = ""
        outcome.timeline = Array(tally.timeline.drop { $0 == 0 })
        outcome.figures["first arrival after the release, s"] =
            Double(tally.firstAt - min(released, tally.firstAt)) / 1e9
        outcome.sinkCpuUsPerMessage = Double(result.arrived?.cpu ?? 0) / 1000 / Double(max(tally.messages, 1))
        return outcome
    }
}
