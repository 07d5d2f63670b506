/// The report for a terminal.
enum TextReport {
    static func text(_ outcome: Outcome) -> String {
        let lines = lines(outcome)
        let width = (lines.map(\.0.count).max() ?? 0) + 2
        return lines.map { $0.0 + String(repeating: " ", count: width - $0.0.count) + $0.1 }.joined(separator: "\n")
            + "\n"
    }

    /// Names and what is said of them.
    static func lines(_ outcome: Outcome) -> [(String, String)] {
        var lines: [(String, String)] = []
        lines.append((outcome.mode, outcome.target))
        lines.append(
            ("", outcome.parameters.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")))
        lines.append(
            ("messages", "\(Screen.count(outcome.messages)) in \(Screen.decimal(outcome.seconds, 2)) s"))
        lines.append(
            (
                "rate",
                "\(Screen.decimal(outcome.perSecond, 0)) messages/s, \(Screen.decimal(outcome.megabytesPerSecond)) MB/s"
            ))
        if outcome.p50us != nil {
            lines.append(("latency", outcome.latency))
            lines.append(
                (
                    "",
                    "p50 \(Screen.latency(outcome.p50us))  p90 \(Screen.latency(outcome.p90us))  p99 \(Screen.latency(outcome.p99us))  "
                        + "p99.9 \(Screen.latency(outcome.p999us))  max \(Screen.latency(outcome.maxUs))"
                ))
        }
        for phase in outcome.phases {
            lines.append(
                (
                    phase.name,
                    "\(Screen.count(phase.messages)) in \(Screen.decimal(phase.seconds, 2)) s, \(Screen.decimal(phase.perSecond, 0))/s"
                        + (phase.p50us == nil
                            ? ""
                            : ", p50 \(Screen.latency(phase.p50us)), p99 \(Screen.latency(phase.p99us)), p99.9 \(Screen.latency(phase.p999us))")
                ))
        }
        if !outcome.server.isEmpty { lines.append(("server", outcome.server)) }
        func figure(_ name: String, _ key: String, _ value: String?) {
            lines.append((name, value ?? "not available: \(outcome.notAvailable[key] ?? "not measured in this mode")"))
        }
        figure("  CPU each", "serverCpuUsPerMessage", outcome.serverCpuUsPerMessage.map { Screen.decimal($0) + " µs" })
        figure(
            "  memory", "serverPssKiB", outcome.serverPssKiB.map { Screen.count(Int($0)) + " KiB (PSS, at the end)" })
        figure(
            "  switches", "serverSwitchesPerMessage",
            outcome.serverSwitchesPerMessage.map { Screen.decimal($0, 2) + " per message (threads alive at the end)" })
        figure(
            "  syncs", "serverSyncsPerMessage",
            outcome.serverSyncsPerMessage.map {
                Screen.decimal($0, 3) + " per message (system calls: fsync, fdatasync, syncfs, …)"
            })
        if let cpu = outcome.generatorCpuUsPerMessage {
            lines.append(("generator", Screen.decimal(cpu) + " µs CPU each"))
        }
        if let cpu = outcome.sinkCpuUsPerMessage { lines.append(("sink", Screen.decimal(cpu) + " µs CPU each")) }
        if outcome.fullHandshakes + outcome.resumedHandshakes > 0 {
            lines.append(
                (
                    "TLS",
                    "\(Screen.count(outcome.fullHandshakes)) full handshakes, \(Screen.count(outcome.resumedHandshakes)) resumed"
                ))
        }
        for (name, value) in outcome.figures.sorted(by: { $0.key < $1.key }) {
            lines.append((name, Screen.decimal(value, 2)))
        }
        for (error, count) in outcome.errors.sorted(by: { $0.key < $1.key }) {
            let words = outcome.errorTexts[error] ?? ""
            lines.append(("error \(error)", "\(Screen.count(count))\(words.isEmpty ? "" : "  (\(words))")"))
        }
        lines.append(
            (
                "verified",
                "lost \(outcome.lost), wrong \(outcome.wrong), duplicates \(outcome.duplicates), foreign \(outcome.foreign)"
            ))
        for failure in outcome.failures { lines.append(("FAILED", failure)) }
        return lines
    }
}
