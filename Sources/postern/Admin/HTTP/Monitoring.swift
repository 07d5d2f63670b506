import Gateway
import HTTPTypes
import Hummingbird

/// `/healthz`, `/readyz`, `/metrics`: for programs that watch, without a sign-in.
struct Monitoring: Sendable {
    private let readiness: SharedAnswer<ControlReadiness>
    private let metrics: SharedAnswer<ControlText>

    init(controlPath: String) {
        readiness = SharedAnswer(controlPath: controlPath, command: "ready")
        metrics = SharedAnswer(controlPath: controlPath, command: "metrics")
    }

    /// nil: another path.
    func respond(_ path: Substring, isLoopback: Bool) async -> Response? {
        switch path {
        case "/healthz":
            await answer {
                _ = try await readiness.get()
                return Self.text(.ok, "ok")
            }
        case "/readyz":
            await answer {
                let answer = try await readiness.get()
                return answer.ready
                    ? Self.text(.ok, "ready") : Self.text(.serviceUnavailable, answer.reason ?? "not ready")
            }
        case "/metrics":
            if isLoopback {
                await answer {
                    var response = Self.text(.ok, try await metrics.get().text, ending: "")
                    response.headers[.contentType] = "text/plain; version=0.0.4; charset=utf-8"
                    return response
                }
            } else {
                Self.text(.forbidden, "metrics are for this machine only")
            }
        default: nil
        }
    }

    /// The mail process that can't be asked is what these pages are there to tell.
    private func answer(_ body: () async throws -> Response) async -> Response {
        do { return try await body() } catch { return Self.text(.serviceUnavailable, "\(error)") }
    }

    static func text(_ status: HTTPResponse.Status, _ text: String, ending: String = "\n") -> Response {
        Response(
            status: status, headers: [.contentType: "text/plain; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: text + ending)))
    }
}
