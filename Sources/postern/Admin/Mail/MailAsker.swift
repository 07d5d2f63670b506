import Gateway
import NIOPosix
import Synchronization

/// The way of API requests to the control socket: beside the event loop, a few at a time.
final class MailAsker: Sendable {
    private enum Limits {
        /// Connections at a time; the control socket has 64 places, which the command needs, too.
        static let threads = 4
        /// Asking and waiting for a thread; more are told to come back.
        static let asking = 128
        /// A deletion waits for what is on its way in or out.
        static let timeoutSeconds = 120
    }

    private let controlPath: String
    private let pool = NIOThreadPool(numberOfThreads: Limits.threads)
    private let asking = Atomic<Int>(0)
    /// Asked often, by many at the same time.
    let gateways: SharedAnswer<[GatewaySummary]>
    let status: SharedAnswer<ServerStatus>

    init(controlPath: String) {
        self.controlPath = controlPath
        gateways = SharedAnswer(controlPath: controlPath, command: "gateway.list")
        status = SharedAnswer(controlPath: controlPath, command: "status")
        pool.start()
    }

    /// - Throws: `ControlFault`.
    func ask<Result: Codable & Sendable>(
        _ command: String, _ arguments: [DocumentValue.Member] = [], as: Result.Type = Result.self
    ) async throws -> ControlAnswer<Result> {
        guard asking.add(1, ordering: .relaxed).newValue <= Limits.asking else {
            asking.subtract(1, ordering: .relaxed)
            throw ControlFault(.failed, "too many requests wait for the mail process; try again in a moment")
        }
        defer { asking.subtract(1, ordering: .relaxed) }
        let controlPath = controlPath
        return try await pool.runIfActive {
            try ControlClient(path: controlPath, timeoutSeconds: Limits.timeoutSeconds).ask(command, arguments)
        }
    }

    /// After a change: who looks next sees it.
    func forget() async {
        await gateways.forget()
        await status.forget()
    }
}
