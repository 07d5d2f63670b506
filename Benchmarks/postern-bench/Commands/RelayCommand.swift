import ArgumentParser
import Glibc

/// How fast mail goes through a server: from the sender's end of content to the primary's.
struct RelayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "relay", abstract: "Measure how a server hands mail on, with a primary in this program.",
        discussion: """
            The server under test must hand the mail for `--domains` to where `--sink` listens. Every message is known again and compared byte \
            for byte; one that does not arrive, or not as it was sent, ends the run with status 1.
            """)

    @OptionGroup var target: TargetOptions
    @OptionGroup var place: PrimaryPlace
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
        try common.report(outcome)
    }

    private func measure(_ load: Load, _ endpoints: [Endpoint], _ meter: ServerMeter) throws(BenchFault) -> Outcome {
        let run = try Run(load, common, numbers: load.numbersEnd)
        try run.startSink(endpoints, primary.plan)
        try run.startGenerator()
        run.waitForArrivals(0..<load.warmUp)
        meter.begin()
        let start = run.open()
        run.wait { run.generatorHasEnded }
        run.waitForArrivals(0..<run.ledger.touched)
        let server = meter.end()
        let result = run.finish()
        return RelayCommand.outcome("relay", load, run, result, start: start, server)
    }

    static func outcome(
        _ mode: String, _ load: Load, _ run: Run, _ result: Run.Result, start: UInt64, _ server: ServerFigures
    ) -> Outcome {
        var outcome = AcceptRun.outcome(mode, load, run, result, start: start, server)
        outcome.phases = [
            Outcome.phase(
                "accepted", result.sent, nanoseconds: result.sent.lastAt > start ? result.sent.lastAt - start : 0)
        ]
        outcome.verify(run, result)
        guard let arrived = result.arrived else { return outcome }
        let tally = arrived.tally
        outcome.take(tally, nanoseconds: tally.lastAt > start ? tally.lastAt - start : 0)
        outcome.take(server)
        outcome.latency = "from the end of the content at the sender to its end at the primary"
        outcome.sinkCpuUsPerMessage = Double(arrived.cpu) / 1000 / Double(max(tally.messages, 1))
        outcome.generatorCpuUsPerMessage = Double(result.sent.cpu) / 1000 / Double(max(result.sent.messages, 1))
        return outcome
    }
}

extension Run {
    /// Waits until all recipients of these messages that were taken have arrived.
    func waitForArrivals(_ numbers: Range<Int>) {
        var checkedAt: UInt64 = 0
        wait {
            // Going through the ledger takes a while, so not at each look.
            let now = Clock.now
            guard now > checkedAt + 20_000_000 else { return false }
            checkedAt = now
            return hasArrived(numbers)
        }
    }
}

extension Outcome {
    /// Compares what was taken with what has arrived.
    mutating func verify(_ run: Run, _ result: Run.Result) {
        let sums = run.ledger.sums(0..<run.ledger.touched)
        lost = sums.lost
        wrong = (result.arrived?.wrong ?? 0) + sums.unexpected
        duplicates = sums.duplicates
        foreign = result.arrived?.foreign ?? 0
        failures = result.faults
        if lost > 0 { failures.append("\(lost) recipients were accepted and did not get the message") }
        if let wrong = result.arrived?.wrong, wrong > 0 {
            let some = result.arrived?.wrongNumbers.map(String.init).joined(separator: ", ") ?? ""
            failures.append("\(wrong) messages arrived changed, among them number \(some)")
        }
        if sums.unexpected > 0 { failures.append("\(sums.unexpected) messages arrived although they had been refused") }
        if let arrived = result.arrived {
            if arrived.others > 0 { figures["messages of earlier runs, not counted"] = Double(arrived.others) }
            if arrived.refused > 0 { figures["refused by the primary, as asked"] = Double(arrived.refused) }
            if arrived.deferred > 0 { figures["deferred by the primary, as asked"] = Double(arrived.deferred) }
        }
        if sums.accepted == 0 { failures.append("no message was accepted") }
    }
}
