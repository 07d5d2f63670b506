import Gateway
import NIOPosix

/// The way of HTTP requests to one command of the control socket: off the event loop, and one answer for all who ask at the
/// same moment. So no flood of requests reaches the mail process.
actor SharedAnswer<Result: Codable & Sendable> {
    private let controlPath: String
    private let command: String
    private var asking: (task: Task<Result, any Error>, number: Int)?
    private var number = 0

    /// A mail process that takes longer is as good as gone for a monitor.
    private static var timeoutSeconds: Int { 10 }
    /// How long an answer is given again.
    private static var freshness: Duration { .milliseconds(250) }

    init(controlPath: String, command: String) { (self.controlPath, self.command) = (controlPath, command) }

    /// - Throws: `ControlFault` when the mail process can't be asked.
    func get() async throws -> Result {
        if let asking { return try await asking.task.value }
        let (controlPath, command) = (controlPath, command)
        let task = Task {
            try await NIOThreadPool.singleton.runIfActive {
                try ControlClient(path: controlPath, timeoutSeconds: Self.timeoutSeconds)
                    .ask(command, as: Result.self).result
            }
        }
        number += 1
        let own = number
        asking = (task, own)
        Task {
            _ = await task.result
            try? await Task.sleep(for: Self.freshness)
            if asking?.number == own { asking = nil }
        }
        return try await task.value
    }

    /// The next to ask gets a new answer.
    func forget() { asking = nil }
}
