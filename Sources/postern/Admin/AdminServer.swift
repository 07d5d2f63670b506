import Gateway
import Glibc
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import Synchronization

/// HTTP for monitoring: `/healthz`, `/readyz`, `/metrics`. Holds nothing: each answer is asked of the mail process.
struct AdminServer: Sendable {
    private let readiness: SharedAnswer<ControlReadiness>
    private let metrics: SharedAnswer<ControlText>
    private let logger: Logger

    private enum Limits {
        /// Of a request's header; nothing here wants more.
        static let headerBytes = 16 << 10
        static let headerFields = 100
        /// A client that asks nothing for this long is let go.
        static let idle = TimeAmount.seconds(60)
        /// Open at a time; more are closed at once.
        static let connections = 256
        /// One is enough for an operator's page and a scraper.
        static let threads = 1
    }

    init(controlPath: String) {
        readiness = SharedAnswer(controlPath: controlPath, command: "ready")
        metrics = SharedAnswer(controlPath: controlPath, command: "metrics")
        // What it has to say goes to the log of `serve`; nothing below a warning concerns an operator.
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        var logger = Logger(label: "admin")
        logger.logLevel = .warning
        self.logger = logger
    }

    /// Serves connections of `listeners`, which this process has inherited, until it ends.
    func run(_ listeners: [CInt]) throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: Limits.threads)
        let http = HTTP1Channel(
            responder: makeResponder(),
            configuration: HTTP1Channel.Configuration(
                idleTimeout: Limits.idle,
                httpDecoderConfiguration: HTTP1Channel.Configuration.DecoderConfiguration(
                    maxHeaderFieldSize: Limits.headerBytes, maxHeaderListSize: Limits.headerBytes,
                    maxHeaderFieldCount: Limits.headerFields)))
        let logger = logger
        let connections = Connections(max: Limits.connections)
        let channels = try listeners.map { listener in
            try ServerBootstrap(group: group)
                .childChannelOption(.allowRemoteHalfClosure, value: true)
                .childChannelInitializer { channel in
                    guard connections.enter() else { return channel.close() }
                    channel.closeFuture.whenComplete { _ in connections.leave() }
                    return http.setup(channel: channel, logger: logger).map { connection in
                        _ = Task { await http.handle(value: connection, logger: logger) }
                    }
                }
                .withBoundSocket(listener).wait()
        }
        for channel in channels { try channel.closeFuture.wait() }
    }

    private func makeResponder() -> HTTPChannelHandler.Responder {
        let router = makeRouter().buildResponder()
        let logger = logger
        return { request, writer, channel in
            let context = Context(source: ApplicationRequestContextSource(channel: channel, logger: logger))
            var response = try await router.respond(to: request, context: context)
            if response.status == .notFound { response = Self.text(.notFound, "there is no such page") }
            response.headers[.date] = Self.date()
            response.headers[.cacheControl] = "no-store"
            response.headers[.xContentTypeOptions] = "nosniff"
            try await writer.write(response: response.head, body: response.body)
        }
    }

    private func makeRouter() -> Router<Context> {
        let router = Router(context: Context.self, options: .autoGenerateHeadEndpoints)
        let (readiness, metrics) = (readiness, metrics)
        router.get("healthz") { _, _ in
            await Self.answer {
                _ = try await readiness.get()
                return Self.text(.ok, "ok")
            }
        }
        router.get("readyz") { _, _ in
            await Self.answer {
                let answer = try await readiness.get()
                return answer.ready
                    ? Self.text(.ok, "ready") : Self.text(.serviceUnavailable, answer.reason ?? "not ready")
            }
        }
        router.get("metrics") { _, context in
            guard context.isLoopback else { return Self.text(.forbidden, "metrics are for this machine only") }
            return await Self.answer {
                var response = Self.text(.ok, try await metrics.get().text, ending: "")
                response.headers[.contentType] = "text/plain; version=0.0.4; charset=utf-8"
                return response
            }
        }
        return router
    }

    /// The mail process that can't be asked is what these pages are there to tell.
    private static func answer(_ body: () async throws -> Response) async -> Response {
        do { return try await body() } catch { return text(.serviceUnavailable, "\(error)") }
    }

    private static func text(_ status: HTTPResponse.Status, _ text: String, ending: String = "\n") -> Response {
        Response(
            status: status, headers: [.contentType: "text/plain; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: text + ending)))
    }

    /// Now, as IMF-fixdate (RFC 9110 §5.6.7).
    private static func date() -> String {
        var now = time(nil)
        var parts = tm()
        gmtime_r(&now, &parts)
        var text = [CChar](repeating: 0, count: 40)
        let count = strftime(&text, text.count, "%a, %d %b %Y %H:%M:%S GMT", &parts)
        return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// How many connections are open.
    private final class Connections: Sendable {
        private let max: Int
        private let open = Atomic<Int>(0)

        init(max: Int) { self.max = max }

        /// - Returns: false when there are too many; then it has not entered.
        func enter() -> Bool {
            guard open.add(1, ordering: .relaxed).newValue > max else { return true }
            leave()
            return false
        }

        func leave() { open.subtract(1, ordering: .relaxed) }
    }

    /// A request with the address that it came from.
    private struct Context: RequestContext {
        var coreContext: CoreRequestContextStorage
        let isLoopback: Bool

        init(source: ApplicationRequestContextSource) {
            coreContext = CoreRequestContextStorage(source: source)
            isLoopback = source.channel.remoteAddress.map(Self.isLoopback) ?? false
        }

        private static func isLoopback(_ address: SocketAddress) -> Bool {
            switch address {
            case .v4(let v4): UInt32(bigEndian: v4.address.sin_addr.s_addr) >> 24 == 127
            case .v6: address.ipAddress == "::1"
            case .unixDomainSocket: false
            }
        }
    }
}
