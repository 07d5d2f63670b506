import Glibc

/// Which processes are the server: those that listen on its port, and all their descendants.
struct ServerProcesses: Sendable {
    let roots: [Int32]

    init(roots: [Int32]) { self.roots = roots }

    /// - Returns: nil when no process of this machine that we may look at listens there.
    init?(listeningOn endpoint: Endpoint) {
        let inodes = Self.listeners(on: endpoint.port)
        guard !inodes.isEmpty else { return nil }
        let wanted = Set(inodes.map { "socket:[\($0)]" })
        let holders = ProcFiles.names(in: "/proc").compactMap { Int32($0) }.filter { pid in
            ProcFiles.names(in: "/proc/\(pid)/fd").contains { name in
                ProcFiles.link("/proc/\(pid)/fd/\(name)").map(wanted.contains) ?? false
            }
        }
        guard !holders.isEmpty else { return nil }
        // Children that inherited the listener are found from their parent.
        let all = Set(holders)
        roots = holders.filter { pid in !(Self.parent(of: pid).map(all.contains) ?? false) }.sorted()
    }

    /// Inodes of listening TCP sockets on `port`: columns of /proc/net/tcp are local address, then state 0A, then the inode.
    private static func listeners(on port: UInt16) -> [Substring] {
        let wanted =
            ":" + String(repeating: "0", count: 4 - String(port, radix: 16).count)
            + String(port, radix: 16).uppercased()
        return ["/proc/net/tcp", "/proc/net/tcp6"].flatMap { path in
            (ProcFiles.text(path) ?? "").split(separator: "\n").dropFirst().compactMap { line -> Substring? in
                let columns = line.split(separator: " ")
                guard columns.count > 9, columns[1].hasSuffix(wanted), columns[3] == "0A" else { return nil }
                return columns[9]
            }
        }
    }

    /// Fields of /proc/PID/stat from the third on; the second may hold anything.
    private static func stat(_ pid: Int32) -> [Substring]? {
        guard let text = ProcFiles.text("/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return nil }
        return text[text.index(after: end)...].split(separator: " ")
    }

    private static func parent(of pid: Int32) -> Int32? { stat(pid).flatMap { Int32($0[1]) } }

    /// The roots and their descendants, now.
    func all() -> [Int32] {
        var found: [Int32] = []
        var left = roots
        var seen: Set<Int32> = []
        while let pid = left.popLast(), found.count < 65_536 {
            guard seen.insert(pid).inserted else { continue }
            found.append(pid)
            for task in ProcFiles.names(in: "/proc/\(pid)/task") {
                let children = ProcFiles.text("/proc/\(pid)/task/\(task)/children") ?? ""
                left += children.split(separator: " ").compactMap { Int32($0) }
            }
        }
        return found
    }

    /// CPU of all, and of the children that they have waited for, in nanoseconds.
    func cpuNanoseconds() -> UInt64 {
        let tick = 1_000_000_000 / UInt64(max(sysconf(Int32(_SC_CLK_TCK)), 1))
        return all().reduce(0) { sum, pid in
            var clock = clockid_t()
            var time = timespec()
            var own: UInt64 = 0
            if clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0 {
                own = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
            }
            let fields = Self.stat(pid) ?? []
            let waited = fields.count > 14 ? (UInt64(fields[13]) ?? 0) + (UInt64(fields[14]) ?? 0) : 0
            return sum + own + waited * tick
        }
    }

    /// Voluntary and other context switches of all threads that live.
    func contextSwitches() -> UInt64 {
        all().reduce(0) { sum, pid in
            ProcFiles.names(in: "/proc/\(pid)/task").reduce(sum) { sum, task in
                let status = ProcFiles.text("/proc/\(pid)/task/\(task)/status") ?? ""
                return sum + (ProcFiles.number("voluntary_ctxt_switches", in: status) ?? 0)
                    + (ProcFiles.number("nonvoluntary_ctxt_switches", in: status) ?? 0)
            }
        }
    }

    /// Proportional set size of all, in KiB; nil when one may not be looked at.
    func pssKiB() -> UInt64? {
        var sum: UInt64 = 0
        for pid in all() {
            guard let text = ProcFiles.text("/proc/\(pid)/smaps_rollup") else {
                // Ended meanwhile, or of another user.
                if errno == EACCES || errno == EPERM { return nil }
                continue
            }
            sum += ProcFiles.number("Pss", in: text) ?? 0
        }
        return sum
    }

    /// Threads of all.
    func threads() -> [Int32] {
        all().flatMap { pid in ProcFiles.names(in: "/proc/\(pid)/task").compactMap { Int32($0) } }
    }
}
