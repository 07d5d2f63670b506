import Gateway
import NIOPosix

/// The way of all HTTP requests to the control socket: one question at a time, off the event loop, and answers that are
/// shared by those who ask at the same moment. So no flood of requests reaches the mail process.
actor ControlGate {
    private let path: String
    private var readinessTask: Task<ControlReadiness, any Error>?
    private var metricsTask: Task<String, any Error>?

    /// A mail process that takes longer is as good as gone for a monitor.
    private static let timeoutSeconds = 10
    /// How long an answer is given again.
    private static let freshness = Duration.milliseconds(250)

    init(path: String) { self.path = path }

    /// Whether the mail process does all that is configured.
    ///
    /// - Throws: `ControlFault` when it can't be asked.
    func readiness() async throws -> ControlReadiness {
        if let readinessTask { return try await readinessTask.value }
        let path = path
        let task = Task { try await Self.ask(path, "ready", as: ControlReadiness.self) }
        readinessTask = task
        Task {
            _ = await task.result
            try? await Task.sleep(for: Self.freshness)
            readinessTask = nil
        }
        return try await task.value
    }

    /// In the text format of Prometheus.
    func metrics() async throws -> String {
        if let metricsTask { return try await metricsTask.value }
        let path = path
        let task = Task { try await Self.ask(path, "metrics", as: ControlText.self).text }
        metricsTask = task
        Task {
            _ = await task.result
            try? await Task.sleep(for: Self.freshness)
            metricsTask = nil
        }
        return try await task.value
    }

    private static func ask<Result: Codable & Sendable>(
        _ path: String, _ command: String, as type: Result.Type
    ) async throws -> Result {
        try await NIOThreadPool.singleton.runIfActive {
            try ControlClient(path: path, timeoutSeconds: timeoutSeconds).ask(command, as: type).result
        }
    }
}
