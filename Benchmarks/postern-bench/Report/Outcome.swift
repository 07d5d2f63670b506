/// What a run found, as `--json` prints it. Names are a contract: they are added to, not changed.
struct Outcome: Encodable {
    /// One stretch of a run.
    struct Phase: Encodable {
        var name: String
        var messages: Int
        var seconds: Double
        var perSecond: Double
        var p50us: Int?
        var p99us: Int?
        var p999us: Int?
    }

    var mode: String
    var target: String
    var run: String
    /// Of the load, for the record.
    var parameters: [String: String] = [:]
    var messages = 0
    var seconds = 0.0
    var perSecond = 0.0
    var megabytesPerSecond = 0.0
    /// Of `p50us` and the others: from where to where.
    var latency = ""
    var p50us: Int?
    var p90us: Int?
    var p99us: Int?
    var p999us: Int?
    var maxUs: Int?
    /// By reply code, or by what happened to a connection.
    var errors: [String: Int] = [:]
    /// The first words behind each.
    var errorTexts: [String: String] = [:]
    var server = ""
    var serverCpuUsPerMessage: Double?
    var serverPssKiB: UInt64?
    var serverSwitchesPerMessage: Double?
    var serverSyncsPerMessage: Double?
    /// Figures that are null, and why.
    var notAvailable: [String: String] = [:]
    /// CPU of this program's own threads: near `1e6 / perSecond` per thread, it is the limit and not the server.
    var generatorCpuUsPerMessage: Double?
    var sinkCpuUsPerMessage: Double?
    var connections = 0
    var fullHandshakes = 0
    var resumedHandshakes = 0
    var lost = 0
    var wrong = 0
    var duplicates = 0
    /// Messages that carried no field of ours: notifications, other mail.
    var foreign = 0
    var phases: [Phase] = []
    /// Further figures of the mode.
    var figures: [String: Double] = [:]
    /// Why the run failed, one sentence each; empty when it didn't.
    var failures: [String] = []

    // For the drawings.
    var timeline: [Int] = []
    var curve: [(Double, Int)] = []

    private enum CodingKeys: String, CodingKey {
        case mode, target, run, parameters, messages, seconds, perSecond, megabytesPerSecond, latency
        case p50us, p90us, p99us, p999us, maxUs, errors, errorTexts
        case server, serverCpuUsPerMessage, serverPssKiB, serverSwitchesPerMessage, serverSyncsPerMessage, notAvailable
        case generatorCpuUsPerMessage, sinkCpuUsPerMessage, connections, fullHandshakes, resumedHandshakes
        case lost, wrong, duplicates, foreign, phases, figures, failures
    }

    /// With null for what was not measured: a name that is missing would be another contract.
    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(mode, forKey: .mode)
        try values.encode(target, forKey: .target)
        try values.encode(run, forKey: .run)
        try values.encode(parameters, forKey: .parameters)
        try values.encode(messages, forKey: .messages)
        try values.encode(seconds, forKey: .seconds)
        try values.encode(perSecond, forKey: .perSecond)
        try values.encode(megabytesPerSecond, forKey: .megabytesPerSecond)
        try values.encode(latency, forKey: .latency)
        try values.encode(p50us, forKey: .p50us)
        try values.encode(p90us, forKey: .p90us)
        try values.encode(p99us, forKey: .p99us)
        try values.encode(p999us, forKey: .p999us)
        try values.encode(maxUs, forKey: .maxUs)
        try values.encode(errors, forKey: .errors)
        try values.encode(errorTexts, forKey: .errorTexts)
        try values.encode(server, forKey: .server)
        try values.encode(serverCpuUsPerMessage, forKey: .serverCpuUsPerMessage)
        try values.encode(serverPssKiB, forKey: .serverPssKiB)
        try values.encode(serverSwitchesPerMessage, forKey: .serverSwitchesPerMessage)
        try values.encode(serverSyncsPerMessage, forKey: .serverSyncsPerMessage)
        try values.encode(notAvailable, forKey: .notAvailable)
        try values.encode(generatorCpuUsPerMessage, forKey: .generatorCpuUsPerMessage)
        try values.encode(sinkCpuUsPerMessage, forKey: .sinkCpuUsPerMessage)
        try values.encode(connections, forKey: .connections)
        try values.encode(fullHandshakes, forKey: .fullHandshakes)
        try values.encode(resumedHandshakes, forKey: .resumedHandshakes)
        try values.encode(lost, forKey: .lost)
        try values.encode(wrong, forKey: .wrong)
        try values.encode(duplicates, forKey: .duplicates)
        try values.encode(foreign, forKey: .foreign)
        try values.encode(phases, forKey: .phases)
        try values.encode(figures, forKey: .figures)
        try values.encode(failures, forKey: .failures)
    }
}

extension Outcome {
    /// The rates and latencies of what `tally` counted in `nanoseconds`.
    mutating func take(_ tally: Tally, nanoseconds: UInt64) {
        messages = tally.messages
        seconds = Double(nanoseconds) / 1e9
        perSecond = seconds > 0 ? Double(messages) / seconds : 0
        megabytesPerSecond = seconds > 0 ? Double(tally.bytes) / seconds / 1e6 : 0
        p50us = tally.latencies.percentile(50)
        p90us = tally.latencies.percentile(90)
        p99us = tally.latencies.percentile(99)
        p999us = tally.latencies.percentile(99.9)
        maxUs = tally.latencies.maximum
        timeline = tally.timeline
        curve = tally.latencies.curve()
    }

    /// What the server's work cost, over the `messages` that are set by now.
    mutating func take(_ figures: ServerFigures) {
        server = figures.source
        let each = Double(max(messages, 1))
        serverCpuUsPerMessage = figures.cpuMicroseconds.map { $0 / each }
        serverPssKiB = figures.pssKiB
        serverSwitchesPerMessage = figures.contextSwitches.map { Double($0) / each }
        serverSyncsPerMessage = figures.syncs.map { Double($0) / each }
        notAvailable.merge(figures.notAvailable) { first, _ in first }
    }

    static func phase(_ name: String, _ tally: Tally, nanoseconds: UInt64) -> Phase {
        let seconds = Double(nanoseconds) / 1e9
        return Phase(
            name: name, messages: tally.messages, seconds: seconds,
            perSecond: seconds > 0 ? Double(tally.messages) / seconds : 0, p50us: tally.latencies.percentile(50),
            p99us: tally.latencies.percentile(99), p999us: tally.latencies.percentile(99.9))
    }
}
