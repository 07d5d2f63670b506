import Glibc

/// What a server's work cost, or why that can't be said.
struct ServerFigures: Sendable {
    /// Of what, in words.
    var source = ""
    var cpuMicroseconds: Double?
    var pssKiB: UInt64?
    var contextSwitches: UInt64?
    var syncs: UInt64?
    /// By the figure's name.
    var notAvailable: [String: String] = [:]
}

/// Reads a server's processes, or its control group, before and after.
final class ServerMeter {
    enum Place {
        case automatic(Endpoint)
        case process(Int32)
        case group(String)
    }

    private let processes: ServerProcesses?
    private let group: String?
    private let source: String
    private let reason: String
    private let syncs: SyncCounter?
    private let syncsReason: String
    private var cpuBefore: UInt64?
    private var switchesBefore: UInt64 = 0
    private var syncsBefore: UInt64 = 0

    /// - Parameter countsSyncs: costs each system call of the whole machine a little, so it is not done unasked.
    init(_ place: Place, countsSyncs: Bool) {
        var reason = ""
        switch place {
        case .automatic(let endpoint):
            group = nil
            if endpoint.isLoopback {
                processes = ServerProcesses(listeningOn: endpoint)
                reason =
                    "no process that may be looked at listens on \(endpoint); give `--pid` or `--cgroup`, or be root"
            } else {
                processes = nil
                reason =
                    "\(endpoint) is not on this machine's loopback; give `--pid` or `--cgroup` if the server is here"
            }
            source =
                processes.map {
                    "processes \($0.roots.map(String.init).joined(separator: ", ")) and descendants, found by the port"
                } ?? ""
        case .process(let pid):
            group = nil
            processes = kill(pid, 0) == 0 || errno == EPERM ? ServerProcesses(roots: [pid]) : nil
            reason = "there is no process \(pid)"
            source = "process \(pid) and descendants"
        case .group(let path):
            group = path
            let members = (ProcFiles.text(path + "/cgroup.procs") ?? "").split(separator: "\n").compactMap { Int32($0) }
            processes = members.isEmpty ? nil : ServerProcesses(roots: members)
            reason = "there is no process in the control group \(path)"
            source = "control group \(path)"
        }
        self.reason = reason
        guard countsSyncs, let processes else {
            syncs = nil
            syncsReason = countsSyncs ? reason : "not counted without `--count-syncs`"
            return
        }
        do throws(BenchFault) {
            syncs = try SyncCounter(processes)
            syncsReason = ""
        } catch {
            syncs = nil
            syncsReason = error.description
        }
    }

    private func cpu() -> UInt64? {
        guard let group else { return processes?.cpuNanoseconds() }
        if let text = ProcFiles.text(group + "/cpuacct.usage") { return UInt64(text.prefix { $0.isNumber }) }
        return ProcFiles.text(group + "/cpu.stat").flatMap { ProcFiles.number("usage_usec", in: $0) }.map { $0 * 1000 }
    }

    private var members: ServerProcesses? {
        guard let group else { return processes }
        let members = (ProcFiles.text(group + "/cgroup.procs") ?? "").split(separator: "\n").compactMap { Int32($0) }
        return ServerProcesses(roots: members)
    }

    func begin() {
        switchesBefore = members?.contextSwitches() ?? 0
        syncsBefore = syncs?.count ?? 0
        cpuBefore = cpu()
    }

    /// Memory now; nil when it can't be read.
    func pssKiB() -> UInt64? { processes == nil ? nil : members?.pssKiB() }

    func end() -> ServerFigures {
        var figures = ServerFigures(source: source)
        if let after = cpu(), let before = cpuBefore {
            figures.cpuMicroseconds = Double(after &- min(before, after)) / 1000
        } else {
            figures.notAvailable["serverCpuUsPerMessage"] = reason
        }
        guard processes != nil, let members else {
            for name in ["serverPssKiB", "serverSwitchesPerMessage", "serverSyncsPerMessage"] {
                figures.notAvailable[name] = reason
            }
            return figures
        }
        let switches = members.contextSwitches()
        figures.contextSwitches = switches - min(switchesBefore, switches)
        figures.pssKiB = members.pssKiB()
        if figures.pssKiB == nil {
            figures.notAvailable["serverPssKiB"] =
                "the server's memory map may not be read: be root, or the server's user"
        }
        if let syncs {
            figures.syncs = syncs.count - syncsBefore
        } else {
            figures.notAvailable["serverSyncsPerMessage"] = syncsReason
        }
        return figures
    }
}
