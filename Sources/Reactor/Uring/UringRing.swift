import CReactor
import Glibc

/// Why io_uring can't be used here.
public struct UringUnavailable: Error, CustomStringConvertible, Sendable {
    public let description: String

    init(_ description: String) { self.description = description }

    /// - Parameters:
    ///   - fault: a positive `errno`.
    ///   - step: what was tried.
    init(fault: Int32, step: String) {
        switch fault {
        case ENOSYS: description = "this kernel has no io_uring"
        case EPERM, EACCES:
            description = "io_uring is forbidden here, by the container's seccomp profile or kernel.io_uring_disabled"
        case EINVAL: description = "this kernel is too old: \(step) needs Linux 5.19 or later"
        case ENOMEM: description = "no memory for io_uring, or above the limit of locked memory (ulimit -l)"
        default: description = "\(step): \(String(cString: strerror(fault)))"
        }
    }
}

/// A submission queue and a completion queue shared with the kernel. It belongs to the thread that made it.
final class UringRing {
    /// What a completion says: whose it is, bytes or `-errno`, and `IORING_CQE_F_…`.
    struct Result {
        var userData: UInt64
        var value: Int32
        var flags: UInt32
        var goesOn: Bool { flags & UInt32(IORING_CQE_F_MORE) != 0 }
    }

    private static let submissionEntries: UInt32 = 1024
    /// One turn's submissions can bring several completions each (accept).
    static let completionEntries: UInt32 = 8 * submissionEntries
    /// For what a submission points to until the kernel has taken it: a `msghdr` or an IPv6 address.
    private static let sideBytes = 64
    /// In order of preference: completions run only when we ask (Linux 6.1), without interrupting us (5.19), anyhow.
    private static let setups: [UInt32] = [
        UInt32(IORING_SETUP_SINGLE_ISSUER) | UInt32(IORING_SETUP_DEFER_TASKRUN) | UInt32(IORING_SETUP_SUBMIT_ALL),
        UInt32(IORING_SETUP_COOP_TASKRUN) | UInt32(IORING_SETUP_SUBMIT_ALL),
        UInt32(IORING_SETUP_SUBMIT_ALL),
    ]
    /// Entries' side data may be reused after the submit; cancelled quietly; deadlines without a timeout of their own; nothing dropped.
    private static let features =
        UInt32(IORING_FEAT_SUBMIT_STABLE) | UInt32(IORING_FEAT_CQE_SKIP) | UInt32(IORING_FEAT_EXT_ARG)
        | UInt32(IORING_FEAT_NODROP)

    let pointer: UnsafeMutablePointer<io_uring>
    private let thread = pthread_self()
    private let side: UnsafeMutableRawPointer
    /// Taken from a full completion queue before its turn; older than what is in the queue.
    private var early: [Result] = []
    private var earlyTaken = 0

    init() throws(UringUnavailable) {
        let pointer = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        pointer.initialize(to: io_uring())
        var status = -EINVAL
        for setup in Self.setups where status == -EINVAL {
            var parameters = io_uring_params()
            parameters.flags = setup | UInt32(IORING_SETUP_CQSIZE)
            parameters.cq_entries = Self.completionEntries
            status = io_uring_queue_init_params(Self.submissionEntries, pointer, &parameters)
        }
        guard status == 0 else {
            pointer.deallocate()
            throw UringUnavailable(fault: -status, step: "io_uring_setup")
        }
        guard pointer.pointee.features & Self.features == Self.features else {
            io_uring_queue_exit(pointer)
            pointer.deallocate()
            throw UringUnavailable(fault: EINVAL, step: "io_uring")
        }
        // Saves looking up the ring's descriptor with each call; without it all works the same.
        io_uring_register_ring_fd(pointer)
        self.pointer = pointer
        side = .allocate(byteCount: Int(Self.submissionEntries) * Self.sideBytes, alignment: Self.sideBytes)
    }

    deinit {
        io_uring_queue_exit(pointer)
        pointer.deallocate()
        side.deallocate()
    }

    var isOnItsThread: Bool { pthread_equal(thread, pthread_self()) != 0 }

    // MARK: Submissions

    /// A free submission entry, to be prepared at once. When the queue is full, what is in it is submitted.
    func entry(_ userData: UInt64) -> UnsafeMutablePointer<io_uring_sqe> {
        while true {
            if let entry = io_uring_get_sqe(pointer) {
                entry.pointee.user_data = userData
                return entry
            }
            // The kernel takes nothing while completions that it has no room for wait, or memory is short.
            if io_uring_submit(pointer) <= 0 {
                io_uring_get_events(pointer)
                while let result = peek() { early.append(result) }
                sched_yield()
            }
        }
    }

    /// 64 bytes that belong to `entry` until it has been submitted.
    func side(of entry: UnsafeMutablePointer<io_uring_sqe>) -> UnsafeMutableRawPointer {
        side + (entry - pointer.pointee.sq.sqes) * Self.sideBytes
    }

    /// Submits, without a wait.
    func submit() { check(io_uring_submit_and_get_events(pointer)) }

    /// Submits, and waits for a completion, at most `nanoseconds` if given.
    func submitAndWait(_ nanoseconds: UInt64?) {
        guard earlyTaken == early.count else { return submit() }
        var first: UnsafeMutablePointer<io_uring_cqe>?
        guard let nanoseconds else { return check(io_uring_submit_and_wait_timeout(pointer, &first, 1, nil, nil)) }
        var time = __kernel_timespec()
        time.tv_sec = Int64(nanoseconds / 1_000_000_000)
        time.tv_nsec = Int64(nanoseconds % 1_000_000_000)
        check(io_uring_submit_and_wait_timeout(pointer, &first, 1, &time, nil))
    }

    private func check(_ status: Int32) {
        precondition(status != -EEXIST, "a ring is used by the thread that made it")
        precondition(status != -EBADR, "the kernel lost completions for want of memory")
        // Else: submitted, or no time or memory left; the next turn submits what is still in the queue.
    }

    // MARK: Completions

    func next() -> Result? {
        guard earlyTaken < early.count else { return peek() }
        defer {
            earlyTaken += 1
            if earlyTaken == early.count {
                early.removeAll()
                earlyTaken = 0
            }
        }
        return early[earlyTaken]
    }

    @inline(__always)
    private func peek() -> Result? {
        guard io_uring_cq_ready(pointer) > 0 else { return nil }
        let queue = pointer.pointee.cq
        let entry = queue.cqes! + Int(queue.khead.pointee & queue.ring_mask)
        let result = Result(userData: entry.pointee.user_data, value: entry.pointee.res, flags: entry.pointee.flags)
        io_uring_cq_advance(pointer, 1)
        return result
    }
}
