import CBench
import Glibc

/// Counts a server's system calls that wait for stable storage, by the kernel's own tracepoints.
///
/// Counted are fsync, fdatasync, syncfs, sync_file_range and msync, of all threads that live at the beginning and all that these
/// start. A sync that is queued to an io_uring is no system call and is not among them.
final class SyncCounter {
    static let calls = ["fsync", "fdatasync", "syncfs", "sync_file_range", "msync"]
    private let descriptors: [Int32]

    init(_ processes: ServerProcesses) throws(BenchFault) {
        var descriptors: [Int32] = []
        for call in Self.calls {
            let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            let text = places.lazy.compactMap { ProcFiles.text("\($0)/events/syscalls/sys_enter_\(call)/id") }.first
            guard let text, let id = UInt64(text.prefix { $0.isNumber }) else {
                for descriptor in descriptors { close(descriptor) }
                throw BenchFault("no tracepoints: `mount -t tracefs none /sys/kernel/tracing` as root")
            }
            for thread in processes.threads() {
                let descriptor = cb_count_tracepoint(id, thread)
                if descriptor == -ESRCH { continue }
                guard descriptor >= 0 else {
                    for descriptor in descriptors { close(descriptor) }
                    throw BenchFault("perf_event_open: \(String(cString: strerror(-descriptor)))")
                }
                descriptors.append(descriptor)
            }
        }
        self.descriptors = descriptors
    }

    deinit { for descriptor in descriptors { close(descriptor) } }

    var count: UInt64 { descriptors.reduce(0) { $0 + UInt64(max(cb_counted($1), 0)) } }
}
