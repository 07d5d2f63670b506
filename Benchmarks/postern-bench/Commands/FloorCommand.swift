import ArgumentParser
import CReactor
import Glibc

/// What sockets and disk alone cost: the same load against a peer that knows no mail.
struct FloorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "floor",
        abstract: "Measure what the same round trips, bytes and syncs cost without a mail server.",
        discussion: """
            The peer is a process of its own with one thread for sockets. It counts bytes, answers as many as a mail server would, and before the \
            reply to content appends it to a file that was written once before, with one fdatasync for all that came meanwhile.
            """)

    @Option(
        help: ArgumentHelp(
            "Where the file is made, on the file system that the server's spool is on.", valueName: "folder"))
    var folder = "."

    @Option(help: ArgumentHelp("Size of the file in MiB.", valueName: "MiB"))
    var fileSize = 256

    @Flag(help: "Measure also what the machine gives to the smallest loops, and how far the floor is from that.")
    var probe = false

    @OptionGroup var options: LoadOptions
    @OptionGroup var common: RunOptions

    func validate() throws {
        guard (16...65_536).contains(fileSize) else { throw ValidationError("`--file-size` is 16 to 65536 MiB") }
        guard case .fixed(let bytes) = options.size.map({ Sizes($0) ?? .mix }) ?? .fixed(10_240), bytes <= 8 << 20
        else {
            throw ValidationError("the floor needs one `--size` of at most 8m: its peer counts bytes")
        }
        guard options.tls == nil else {
            throw ValidationError("the floor has no TLS: it is what sockets and disk cost")
        }
    }

    func run() throws {
        prepare()
        var outcome = try orFail { () throws(BenchFault) in try measure() }
        outcome.parameters["file"] = "\(fileSize) MiB in \(folder)"
        try common.report(outcome)
    }

    private func measure() throws(BenchFault) -> Outcome {
        var load = options.load(Endpoint(address: [127, 0, 0, 1], port: 1))
        // Numbers of one length: the peer can't tell where a line ends.
        load.domains = Domains("d000.test")!
        let child = try ChildProcess([
            "floor-peer", "--script", FloorScript(load).text, "--folder", folder, "--file-size", "\(fileSize)",
        ])
        defer { child.end() }
        load.target = try Endpoint(resolving: "127.0.0.1:\(child.line)")
        let meter = ServerMeter(.process(child.pid), countsSyncs: false)
        var outcome = try AcceptRun.run(load, meter, common, mode: "floor")
        outcome.parameters = options.parameters(load)
        outcome.parameters["domains"] = "d000.test"
        guard probe, outcome.failures.isEmpty else { return outcome }
        let script = FloorScript(load)
        let content = script.message.last?.reads ?? 0
        let file = try FloorFile(folder: folder, bytes: fileSize << 20)
        let probe = try Probe(connections: load.connections, contentBytes: content, file: file)
        let least =
            Double(script.message.count - 1) * probe.roundTripMicroseconds + probe.contentMicroseconds
            + probe.diskMicroseconds
        outcome.figures["probe: round trips of 64 bytes, per second"] = probe.roundTripsPerSecond
        outcome.figures["probe: CPU of one round trip, µs"] = probe.roundTripMicroseconds
        outcome.figures["probe: CPU of taking one content, µs"] = probe.contentMicroseconds
        outcome.figures["probe: messages per second, 64 per fdatasync"] = probe.messagesPerSecond
        outcome.figures["probe: CPU of that per message, µs"] = probe.diskMicroseconds
        outcome.figures["probe: CPU per message of the parts together, µs"] = least
        if let cpu = outcome.serverCpuUsPerMessage {
            outcome.figures["floor: CPU, the parts' share of it, %"] = least / cpu * 100
        }
        outcome.figures["floor: messages per second, share of what the disk gives, %"] =
            outcome.perSecond / probe.messagesPerSecond * 100
        outcome.figures["floor: round trips per second, share of what sockets give, %"] =
            outcome.perSecond * Double(script.message.count) / probe.roundTripsPerSecond * 100
        return outcome
    }
}

/// The floor's other side; started by `floor`.
struct FloorPeerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "floor-peer", shouldDisplay: false)

    @Option var script: String
    @Option var folder: String
    @Option var fileSize: Int

    func run() throws {
        cr_die_with_parent()
        _ = Sockets.raiseDescriptorLimit()
        guard let script = FloorScript(text: script) else { throw ValidationError("`--script` is what `floor` says") }
        try orFail { () throws(BenchFault) in
            let peer = try FloorPeer(script, try FloorFile(folder: folder, bytes: fileSize << 20))
            Screen.write("\(peer.port)\n")
            try peer.run()
        }
    }
}
