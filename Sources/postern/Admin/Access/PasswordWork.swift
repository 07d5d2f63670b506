import NIOPosix

/// Computes password hashes beside the event loop, few at a time: each takes 32 MiB and a core.
actor PasswordWork {
    private enum Limits {
        static let threads = 2
        /// Waiting and computing; more are told to come back.
        static let queued = 16
    }

    struct Busy: Error {}

    private let pool: NIOThreadPool
    private var queued = 0

    init() {
        pool = NIOThreadPool(numberOfThreads: Limits.threads)
        pool.start()
    }

    /// - Throws: `Busy` when too many wait already.
    func run<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async throws -> Result {
        guard queued < Limits.queued else { throw Busy() }
        queued += 1
        defer { queued -= 1 }
        return try await pool.runIfActive(body)
    }
}
