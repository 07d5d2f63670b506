import ArgumentParser
import Glibc
import Reactor

/// The whole provider scenario: many domains, several primaries, some of them down for a while, everything verified.
struct GatewaysCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateways", abstract: "Many domains and primaries, mixed sizes, an outage in the middle.",
        discussion: """
            Domain n of `--domains` belongs to listener n of `--sink`, in turn; `--create` tells the server so, or `--routes` writes the table for you. When a \
            quarter of the messages is answered, `--down` of the primaries go; at 60 % they return. All that was accepted must arrive, unchanged.
            """)

    @OptionGroup var target: TargetOptions
    @Option(
        help: ArgumentHelp("Where the primaries listen: ADDRESS:PORT, with ranges as in `sink`.", valueName: "listen"))
    var sink: [String] = ["127.0.1.1-127.0.1.30:2600"]
    @Option(help: ArgumentHelp("Share of the primaries that go down, 0 to 1.", valueName: "share"))
    var down = 0.2
    @Option(
        help: ArgumentHelp(
            "A command that makes one domain, run once for each: {domain} and {server} are replaced.",
            valueName: "command"))
    var create: String?
    @Option(help: ArgumentHelp("Write the table of domains and servers to a file, and end.", valueName: "file"))
    var routes: String?
    @Option(
        help: ArgumentHelp(
            "What is run when the primaries are back, such as `postern queue flush --all`.", valueName: "command"))
    var start: String?
    @OptionGroup var primary: SinkOptions
    @OptionGroup var options: LoadOptions
    @OptionGroup var common: RunOptions

    func validate() throws {
        guard (0...1).contains(down) else { throw ValidationError("`--down` is a share, 0 to 1") }
        guard options.duration == nil else {
            throw ValidationError("the outage comes at a quarter of the messages: give `--messages`, not `--duration`")
        }
    }

    func run() throws {
        prepare()
        let endpoints = try sinkEndpoints(sink)
        let domains = Domains(options.domains)!
        let table = domains.names.enumerated().map { ($0.element, endpoints[$0.offset % endpoints.count].description) }
        if let routes {
            let file = open(routes, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
            guard file >= 0 else {
                Screen.complain("\(routes) can't be written: \(String(cString: strerror(errno)))")
                throw ExitCode(1)
            }
            Screen.write(table.map { "\($0.0)\t\($0.1)\n" }.joined(), to: file)
            close(file)
            return
        }
        let load = options.load(try target.endpoint(), messages: 20_000, sizes: .mix)
        var outcome = try orFail { () throws(BenchFault) in
            if let create { try Self.makeAll(table, create) }
            return try measure(load, endpoints, target.meter(load.target))
        }
        outcome.parameters = options.parameters(load)
        outcome.parameters["primaries"] = "\(endpoints.count)"
        outcome.parameters["down"] = "\(down)"
        try common.report(outcome)
    }

    /// Four at a time.
    private static func makeAll(_ table: [(String, String)], _ command: String) throws(BenchFault) {
        for first in stride(from: 0, to: table.count, by: 4) {
            var running: [(String, ShellCommand)] = []
            for (domain, server) in table[first..<min(first + 4, table.count)] {
                let text = command.replacing("{domain}", with: domain).replacing("{server}", with: server)
                running.append((text, try ShellCommand(text)))
            }
            for (text, command) in running {
                let status = command.wait()
                guard status == 0 else { throw BenchFault("`\(text)` ended with status \(status)") }
            }
            if Interrupt.isSeen { throw BenchFault("interrupted") }
        }
    }

    private func measure(_ load: Load, _ endpoints: [Endpoint], _ meter: ServerMeter) throws(BenchFault) -> Outcome {
        let run = try Run(load, common, numbers: load.numbersEnd)
        let outage = Outage()
        // Spread over all of them, so that neighbours of a dead one show what it does to others.
        let count = Int((Double(endpoints.count) * down).rounded())
        let victims = Set((0..<count).map { $0 * endpoints.count / max(count, 1) })
        var plan = primary.plan
        plan.unsteady = victims
        try run.startSink(endpoints, plan, outage: outage)
        try run.startGenerator()
        run.waitForArrivals(0..<load.warmUp)
        meter.begin()
        let start = run.open()
        let (from, to) = (load.warmUp + load.numbersEnd / 4, load.warmUp + load.numbersEnd * 3 / 5)
        run.wait { run.gate.sentCount >= from || run.generatorHasEnded }
        let wentAt = Clock.now
        outage.set(victims)
        run.wait { run.gate.sentCount >= to || run.generatorHasEnded }
        outage.set([])
        let returnedAt = Clock.now
        var command: ShellCommand?
        if let text = self.start, !run.isStopped { command = try ShellCommand(text) }
        run.wait { run.generatorHasEnded }
        run.waitForArrivals(0..<run.ledger.touched)
        let server = meter.end()
        let status = command?.wait() ?? 0
        let result = run.finish()
        var outcome = RelayCommand.outcome("gateways", load, run, result, start: start, server)
        outcome.failures += outage.sentences
        if status != 0 { outcome.failures.append("`\(self.start ?? "")` ended with status \(status)") }
        guard let arrived = result.arrived else { return outcome }
        var steady = arrived.tally
        steady.latencies = arrived.steady
        steady.messages = arrived.steady.count
        if !victims.isEmpty {
            outcome.phases.append(
                Outcome.phase("to primaries that stayed", steady, nanoseconds: arrived.tally.lastAt - start))
            outcome.figures["outage, s"] = Double(returnedAt - wentAt) / 1e9
            outcome.figures["from the return to the last message that had waited, s"] =
                arrived.unsteadyLastAt > returnedAt ? Double(arrived.unsteadyLastAt - returnedAt) / 1e9 : 0
        }
        return outcome
    }
}
