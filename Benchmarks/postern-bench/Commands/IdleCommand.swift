import ArgumentParser

/// What sessions cost that say nothing, and what they do to those that do.
struct IdleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "idle", abstract: "Hold sessions after EHLO, and measure memory and the mail beside them.",
        discussion: """
            `--sessions` are opened and held; then the load runs beside them. A client address has about 28,000 ports: with more sessions than that on \
            loopback they come from all of 127.0.0.0/16, unless `--source` says otherwise.
            """)

    @OptionGroup var target: TargetOptions
    @Option(help: "Sessions that are held.")
    var sessions = 1000
    @OptionGroup var options: LoadOptions
    @OptionGroup var common: RunOptions

    func validate() throws {
        guard (1...1_000_000).contains(sessions) else { throw ValidationError("`--sessions` is 1 to 1,000,000") }
    }

    func run() throws {
        Interrupt.watch()
        let limit = Sockets.raiseDescriptorLimit()
        guard sessions + options.connections + 100 <= limit else {
            Screen.complain(
                "\(sessions) sessions need as many descriptors, and the limit is \(limit): `ulimit -n \(sessions + 1000)`"
            )
            throw ExitCode(1)
        }
        let load = options.load(try target.endpoint(), messages: 2_000)
        let meter = target.meter(load.target)
        var outcome = try orFail { () throws(BenchFault) in try measure(load, meter) }
        outcome.parameters = options.parameters(load)
        outcome.parameters["sessions"] = "\(sessions)"
        try common.report(outcome)
    }

    private func measure(_ load: Load, _ meter: ServerMeter) throws(BenchFault) -> Outcome {
        var held = load
        held.connections = sessions
        (held.messages, held.durationNanoseconds, held.warmUp, held.rate) = (0, nil, 0, nil)
        (held.onePerSession, held.resume, held.threads) = (false, false, 1)
        if held.source == nil, load.target.isLoopback, load.target.family == 2, sessions > 20_000 {
            held.source = SourceAddresses("127.0.0.0/16")
        }
        let holding = try Run(held, common, numbers: 1)
        let before = meter.pssKiB()
        let began = Clock.now
        try holding.startGenerator()
        let opened = Clock.now - began
        guard !holding.isStopped else {
            let faults = holding.finish().faults
            throw BenchFault("not all of the \(sessions) sessions could be opened: \(faults.joined(separator: "; "))")
        }
        let with = meter.pssKiB()
        var outcome = try AcceptRun.run(load, meter, common, mode: "idle")
        let dropped = holding.gate.droppedCount
        // It ends when it is opened: it has no messages.
        _ = holding.open()
        holding.wait { holding.generatorHasEnded }
        _ = holding.finish()
        outcome.figures["sessions held"] = Double(sessions)
        outcome.figures["sessions ended by the server meanwhile"] = Double(dropped)
        outcome.figures["sessions opened per second"] = Double(sessions) / (Double(opened) / 1e9)
        if let before, let with {
            outcome.figures["server memory per session, KiB (PSS)"] = (Double(with) - Double(before)) / Double(sessions)
        } else {
            outcome.notAvailable["server memory per session"] =
                outcome.notAvailable["serverPssKiB"] ?? "the server's memory could not be read"
        }
        return outcome
    }
}
