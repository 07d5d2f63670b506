import CReactor
import Glibc

/// A POSIX thread with a name and, if wanted, a processor.
public enum Thread {
    private final class Start: Sendable {
        let name: String
        let cpu: Int?
        let body: @Sendable () -> Void
        init(name: String, cpu: Int?, body: @escaping @Sendable () -> Void) {
            (self.name, self.cpu, self.body) = (name, cpu, body)
        }
    }

    /// A thread that can be waited for.
    public struct Handle: @unchecked Sendable {
        let thread: pthread_t
        public func join() { pthread_join(thread, nil) }
    }

    /// Starts `body` on a new thread. Signals stay with the main thread.
    ///
    /// - Parameter name: at most 15 bytes are seen by the kernel.
    public static func start(_ name: String, cpu: Int? = nil, _ body: @escaping @Sendable () -> Void) -> Handle {
        var thread = pthread_t()
        let start = Unmanaged.passRetained(Start(name: name, cpu: cpu, body: body))
        let status = pthread_create(
            &thread, nil,
            { argument in
                let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                cr_block_signals()
                cr_name_thread(String(start.name.prefix(15)))
                cr_wake_politely()
                if let cpu = start.cpu { _ = cr_pin(Int32(cpu)) }
                start.body()
                return nil
            }, start.toOpaque())
        precondition(status == 0, "the system gives no more threads (pthread_create: \(status))")
        return Handle(thread: thread)
    }

    /// The processors that this process may use.
    public static func allowedCPUs() -> [Int] {
        var cpus = [Int32](repeating: 0, count: 1024)
        let count = cr_allowed_cpus(&cpus, 1024)
        return cpus.prefix(Int(count)).map(Int.init)
    }
}
