import CReactor
import Glibc

/// Monotonic time in nanoseconds.
enum Clock {
    static var now: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    /// CPU time of the calling thread, in nanoseconds.
    static var threadCPU: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}

/// Nonblocking TCP sockets, Nagle off. Each returns a descriptor, or `-errno`.
enum Sockets {
    private static let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
    private static let bindAddressNoPort: Int32 = 24  // IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect

    static func connect(to target: Endpoint, from source: Endpoint?) -> Int32 {
        let handle = socket(target.family, type, 0)
        guard handle >= 0 else { return -errno }
        set(handle, Int32(IPPROTO_TCP), TCP_NODELAY)
        if let source, source.family == target.family {
            set(handle, Int32(IPPROTO_IP), bindAddressNoPort)
            if source.withSockaddr({ bind(handle, $0, $1) }) != 0 { return closed(handle) }
        }
        if target.withSockaddr({ Glibc.connect(handle, $0, $1) }) != 0, errno != EINPROGRESS { return closed(handle) }
        return handle
    }

    static func listen(on endpoint: Endpoint) -> Int32 {
        let handle = socket(endpoint.family, type, 0)
        guard handle >= 0 else { return -errno }
        set(handle, SOL_SOCKET, SO_REUSEADDR)
        set(handle, Int32(IPPROTO_TCP), TCP_NODELAY)
        if endpoint.withSockaddr({ bind(handle, $0, $1) }) != 0 || Glibc.listen(handle, 4096) != 0 {
            return closed(handle)
        }
        return handle
    }

    /// The port that a listener on port 0 was given.
    static func port(of handle: Int32) -> UInt16 {
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        _ = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(handle, $0, &length) }
        }
        return UInt16(bigEndian: address.sin_port)
    }

    static func accept(_ listener: Int32) -> Int32 {
        cr_accept(listener, Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue))
    }

    /// What came of a connect that was under way: 0 or an errno.
    static func fault(of handle: Int32) -> Int32 {
        var fault: Int32 = 0
        var length = socklen_t(4)
        getsockopt(handle, SOL_SOCKET, SO_ERROR, &fault, &length)
        return fault
    }

    private static func set(_ handle: Int32, _ level: Int32, _ option: Int32) {
        var one: Int32 = 1
        setsockopt(handle, level, option, &one, 4)
    }

    private static func closed(_ handle: Int32) -> Int32 {
        let fault = errno
        close(handle)
        return -fault
    }

    /// As many descriptors as the administrator allows.
    static func raiseDescriptorLimit() -> Int {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        return Int(limit.rlim_cur)
    }
}

/// One thread's epoll instance; an event carries a number that its owner chose.
final class Poller {
    static let batch = 256
    let handle: Int32
    private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: Poller.batch)

    init() {
        handle = epoll_create1(Int32(EPOLL_CLOEXEC))
        precondition(handle >= 0, "epoll_create1 failed: \(errno)")
    }

    deinit {
        close(handle)
        events.deallocate()
    }

    func add(_ socket: Int32, _ number: UInt64, writing: Bool = false) {
        control(EPOLL_CTL_ADD, socket, number, writing)
    }
    func change(_ socket: Int32, _ number: UInt64, writing: Bool) { control(EPOLL_CTL_MOD, socket, number, writing) }

    private func control(_ operation: Int32, _ socket: Int32, _ number: UInt64, _ writing: Bool) {
        var event = epoll_event()
        event.events = EPOLLIN.rawValue | (writing ? EPOLLOUT.rawValue : 0)
        event.data.u64 = number
        epoll_ctl(handle, operation, socket, &event)
    }

    /// Waits for at most `nanoseconds`, then calls `body` with each number, whether it can be read (or has ended) and written.
    func wait(nanoseconds: UInt64, _ body: (UInt64, Bool, Bool) -> Void) {
        var time = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
        let count = epoll_pwait2(handle, events, Int32(Self.batch), &time, nil)
        guard count > 0 else { return }
        for index in 0..<Int(count) {
            let event = events[index]
            body(
                event.data.u64, event.events & (EPOLLIN.rawValue | EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0,
                event.events & EPOLLOUT.rawValue != 0)
        }
    }
}
