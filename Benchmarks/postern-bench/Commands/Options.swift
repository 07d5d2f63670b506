import ArgumentParser
import FoundationEssentials
import Glibc

/// What every mode takes.
struct RunOptions: ParsableArguments {
    @Flag(help: "Print JSON, for programs.")
    var json = false

    @Option(help: ArgumentHelp("Write a report with drawings, one self-contained page.", valueName: "file"))
    var html: String?

    @Option(help: ArgumentHelp("Give up when nothing has moved for so long.", valueName: "seconds"))
    var timeout = 60.0

    func validate() throws {
        guard timeout > 0, timeout <= 86_400 else { throw ValidationError("`--timeout` is 1 to 86,400 seconds") }
    }

    /// Prints the outcome, writes the page.
    ///
    /// - Throws: exit status 1 when the run failed.
    func report(_ outcome: Outcome) throws {
        if json {
            Screen.write(try Screen.json(outcome), to: STDOUT_FILENO)
        } else {
            Screen.write(TextReport.text(outcome))
        }
        if let html {
            let page = HTMLReport.page([outcome])
            guard page.withCString({ text in Self.save(html, text) }) else {
                Screen.complain("\(html) can't be written: \(String(cString: strerror(errno)))")
                throw ExitCode(1)
            }
        }
        guard outcome.failures.isEmpty else {
            if json { for failure in outcome.failures { Screen.complain(failure) } }
            throw ExitCode(1)
        }
    }

    private static func save(_ path: String, _ text: UnsafePointer<CChar>) -> Bool {
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard file >= 0 else { return false }
        Screen.write(Array(UnsafeRawBufferPointer(start: text, count: strlen(text))), to: file)
        return close(file) == 0
    }
}

/// Which server is measured, and how its processes are found.
struct TargetOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The server under test.", valueName: "host:port"))
    var target: String

    @Option(
        help: ArgumentHelp(
            "The server's first process; without it: whoever listens on the target's port.", valueName: "pid"))
    var pid: Int32?

    @Option(
        help: ArgumentHelp(
            "The server's control group, a folder; counts CPU of processes that have ended, too.", valueName: "folder"))
    var cgroup: String?

    @Flag(
        help: "Count the server's syncs by the kernel's tracepoints. Slows every system call of the machine a little.")
    var countSyncs = false

    func validate() throws {
        if pid != nil, cgroup != nil { throw ValidationError("`--pid` and `--cgroup` exclude each other") }
    }

    func endpoint() throws -> Endpoint { try orFail { () throws(BenchFault) in try Endpoint(resolving: target) } }

    func meter(_ endpoint: Endpoint) -> ServerMeter {
        let place: ServerMeter.Place =
            if let pid { .process(pid) } else if let cgroup { .group(cgroup) } else { .automatic(endpoint) }
        return ServerMeter(place, countsSyncs: countSyncs)
    }
}

/// What is sent, and how.
struct LoadOptions: ParsableArguments {
    @Option(help: "Connections at the same time.")
    var connections = 20

    @Option(help: "Messages to send.")
    var messages: Int?

    @Option(help: ArgumentHelp("Send for so long instead, such as 60s or 5m.", valueName: "time"))
    var duration: String?

    @Option(help: ArgumentHelp("Messages that are sent and answered before the measurement.", valueName: "messages"))
    var warmup = 0

    @Option(
        help: ArgumentHelp(
            "Bytes of each body (k and m are understood), or `mix`: sizes as in real mail. Standard: 10k; `gateways`: mix.",
            valueName: "bytes"))
    var size: String?

    @Option(
        help: ArgumentHelp(
            "Recipients' domains: one, or `d%d.test:300` for d0.test to d299.test, in turn.", valueName: "pattern"))
    var domains = "d%d.test:300"

    @Option(help: "Recipients of each message, all in its domain.")
    var rcpts = 1

    @Option(
        help: ArgumentHelp(
            "Messages per second in all; each has its time, and latency counts from that. Without: as fast as answers come.",
            valueName: "per second"))
    var rate: Double?

    @Flag(help: "Send MAIL, RCPT and DATA together (RFC 2920).")
    var pipelining = false

    @Flag(help: "Send content by BDAT (RFC 3030).")
    var bdat = false

    @Option(
        defaultAsFlag: "starttls",
        help: ArgumentHelp(
            "TLS: `--tls` by STARTTLS, `--tls implicit` from the first byte. No certificate is checked.",
            valueName: "starttls|implicit"))
    var tls: String?

    @Flag(help: "Resume TLS sessions, with `--one-per-session`.")
    var resume = false

    @Flag(help: "A connection for each message.")
    var onePerSession = false

    @Option(help: ArgumentHelp("The name for EHLO.", valueName: "name"))
    var helo = "bench.test"

    @Option(help: ArgumentHelp("The reverse-path.", valueName: "address"))
    var from = "from@sender.test"

    @Option(help: ArgumentHelp("Client addresses to come from, in turn, such as 127.0.0.0/16.", valueName: "network"))
    var source: String?

    @Option(help: "Threads that send.")
    var threads = 1

    static let connectionsMax = 100_000

    func validate() throws {
        func need(_ condition: Bool, _ sentence: String) throws { if !condition { throw ValidationError(sentence) } }
        try need((1...Self.connectionsMax).contains(connections), "`--connections` is 1 to \(Self.connectionsMax)")
        try need((1...min(64, connections)).contains(threads), "`--threads` is 1 to 64, and at most `--connections`")
        try need((1...1000).contains(rcpts), "`--rcpts` is 1 to 1000")
        try need((0...Ledger.capacityMax / 2).contains(warmup), "`--warmup` is a number of messages")
        try need(messages == nil || duration == nil, "`--messages` and `--duration` exclude each other")
        if let messages {
            try need((1...Ledger.capacityMax / 2).contains(messages), "`--messages` is 1 to \(Ledger.capacityMax / 2)")
        }
        if let duration { try need(Self.nanoseconds(duration) != nil, "`--duration` is a time such as 60s or 5m") }
        if let rate { try need(rate > 0 && rate <= 10_000_000, "`--rate` is a number of messages per second") }
        try need(size == nil || Sizes(size ?? "") != nil, "`--size` is a number of bytes, or `mix`")
        try need(
            Domains(domains) != nil,
            "`--domains` is a name, or a pattern and a number up to \(Domains.countMax): d%d.test:300")
        try need(tls == nil || Load.Security(rawValue: tls ?? "") != nil, "`--tls` is starttls or implicit")
        try need(!resume || (tls != nil && onePerSession), "`--resume` needs `--tls` and `--one-per-session`")
        try need(
            source == nil || SourceAddresses(source ?? "") != nil, "`--source` is an IPv4 network such as 127.0.0.0/16")
        for (name, text) in [("--helo", helo), ("--from", from)] {
            try need(
                text.utf8.count <= 200 && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x3C && $0 != 0x3E },
                "`\(name)` is up to 200 printable characters, without angle brackets")
        }
    }

    /// `60s`, `5m`, `1h`, `500ms`; a number alone is seconds.
    static func nanoseconds(_ text: String) -> UInt64? {
        let units: [(String, Double)] = [("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)]
        let unit = units.first { text.hasSuffix($0.0) }
        guard let number = Double(text.dropLast(unit?.0.count ?? 0)), number > 0 else { return nil }
        let nanoseconds = number * (unit?.1 ?? 1e9)
        return nanoseconds <= 7 * 86_400e9 ? UInt64(nanoseconds) : nil
    }

    /// - Parameter messages: when neither `--messages` nor `--duration` is given.
    func load(_ target: Endpoint, messages standard: Int = 10_000, sizes: Sizes = .fixed(10_240)) -> Load {
        var load = Load(target: target, domains: Domains(domains)!)
        load.connections = connections
        load.messages = duration == nil ? messages ?? standard : nil
        load.durationNanoseconds = duration.flatMap(Self.nanoseconds)
        load.warmUp = warmup
        load.sizes = size.flatMap(Sizes.init) ?? sizes
        load.recipients = rcpts
        load.rate = rate
        load.pipelining = pipelining
        load.chunking = bdat
        load.security = tls.flatMap(Load.Security.init) ?? .none
        load.resume = resume
        load.onePerSession = onePerSession
        load.helo = helo
        load.from = from
        load.source = source.flatMap(SourceAddresses.init)
        load.threads = threads
        return load
    }

    /// For the report.
    func parameters(_ load: Load) -> [String: String] {
        var values = [
            "connections": "\(connections)", "size": load.sizes.text, "domains": domains, "rcpts": "\(rcpts)",
            "pipelining": pipelining ? "yes" : "no", "content": bdat ? "BDAT" : "DATA", "tls": tls ?? "no",
            "session": onePerSession ? "one message each" : "kept open", "threads": "\(threads)",
            "rate": rate.map { "\(Screen.decimal($0, 0))/s" } ?? "flat out",
        ]
        if resume { values["resume"] = "yes" }
        if let source { values["source"] = source }
        if warmup > 0 { values["warmup"] = "\(warmup)" }
        if let duration { values["duration"] = duration } else { values["messages"] = "\(load.messages ?? 0)" }
        return values
    }
}

/// The primary's part of a run.
struct SinkOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Share of messages, 0 to 1, that are refused for good after their content.", valueName: "share"))
    var refuse = 0.0

    @Option(
        name: .customLong("defer"),
        help: ArgumentHelp("Share of messages, 0 to 1, that are put off once.", valueName: "share"))
    var deferOnce = 0.0

    @Option(help: ArgumentHelp("Hold back each reply to content for so long, such as 50ms.", valueName: "time"))
    var delay: String?

    @Flag(help: "Offer STARTTLS, with a certificate made for the occasion.")
    var offerTls = false

    @Option(help: .hidden)
    var dropEvery = 0

    func validate() throws {
        guard (0...1).contains(refuse), (0...1).contains(deferOnce) else { throw ValidationError("a share is 0 to 1") }
        if let delay, LoadOptions.nanoseconds(delay) == nil {
            throw ValidationError("`--delay` is a time such as 50ms")
        }
        guard dropEvery >= 0 else { throw ValidationError("`--drop-every` is not negative") }
    }

    var plan: SinkPlan {
        SinkPlan(
            refuse: refuse, deferOnce: deferOnce, delayNanoseconds: delay.flatMap(LoadOptions.nanoseconds) ?? 0,
            offersTLS: offerTls, dropEvery: dropEvery)
    }
}

/// Runs `body`; its sentence goes to standard error and ends the program with status 1.
func orFail<T>(_ body: () throws(BenchFault) -> T) throws -> T {
    do throws(BenchFault) { return try body() } catch {
        Screen.complain(error.description)
        throw ExitCode(1)
    }
}

/// Where the primary of this program listens.
struct PrimaryPlace: ParsableArguments {
    @Option(
        help: ArgumentHelp("Where the primary listens: ADDRESS:PORT, with ranges as in `sink`.", valueName: "listen"))
    var sink: [String] = ["127.0.0.1:2600"]

    func endpoints() throws -> [Endpoint] { try sinkEndpoints(sink) }
}

/// Before a mode begins: Ctrl-C ends it with its report, and there are descriptors for all connections.
func prepare() {
    Interrupt.watch()
    _ = Sockets.raiseDescriptorLimit()
}

/// Where sinks listen, from one or several ranges.
func sinkEndpoints(_ ranges: [String]) throws -> [Endpoint] {
    try orFail { () throws(BenchFault) in
        var all: [Endpoint] = []
        for range in ranges { all += try ListenRange.parse(range) }
        return all
    }
}
