import Gateway
import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import Synchronization

/// HTTP: the page at `/`, the API at `/api/v1`, monitoring beside them. Of mail it holds nothing: each answer is asked of the
/// mail process.
struct AdminServer: Sendable {
    private let monitoring: Monitoring
    private let gate: APIGate
    private let live: Live
    private let access: AccessDesk
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
        // What it has to say goes to the log of `serve`; nothing below a warning concerns an operator.
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        var logger = Logger(label: "admin")
        logger.logLevel = .warning
        self.logger = logger
        monitoring = Monitoring(controlPath: controlPath)
        let mail = MailAsker(controlPath: controlPath)
        live = Live(mail: mail)
        let folder = controlPath.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(
            separator: "/")
        access = AccessDesk(path: AccessStore.path(dataFolder: folder.isEmpty ? "." : folder))
        gate = APIGate(API(mail: mail, access: access, live: live))
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
        Task { await live.run() }
        // The first password is said at the start, not at the first visit.
        Task { try? await access.run { _ in } }
        for channel in channels { try channel.closeFuture.wait() }
    }

    private func makeResponder() -> HTTPChannelHandler.Responder {
        { request, writer, channel in
            var response = try await respond(to: request, channel)
            response.headers[.date] = Self.date()
            for (name, value) in Self.everywhere where response.headers[name] == nil { response.headers[name] = value }
            if request.method == .head {
                let length = response.body.contentLength
                response.body = ResponseBody(contentLength: length) { try await $0.finish(nil) }
                response.headers[.contentLength] = length.map { String($0) }
            }
            try await writer.write(response: response.head, body: response.body)
        }
    }

    private func respond(to request: Request, _ channel: any Channel) async throws -> Response {
        let target = request.head.path ?? "/"
        let question = target.firstIndex(of: "?") ?? target.endIndex
        let path = target[..<question]
        if path.hasPrefix(APIGate.prefix) {
            return try await gate.respond(
                to: request, Self.client(request, channel), path: path.dropFirst(APIGate.prefix.count),
                query: target[question...].dropFirst())
        }
        guard [.get, .head].contains(request.method) else {
            var problem = Problem(.methodNotAllowed, "this path takes GET")
            problem.allow = "GET, HEAD"
            return APIGate.response(problem)
        }
        // What a proxy passes on comes from elsewhere.
        let isLoopback =
            channel.remoteAddress.map(Self.isLoopback) == true && request.headers[.xForwardedFor] == nil
        if let response = await monitoring.respond(path, isLoopback: isLoopback) { return response }
        return PageFiles.response(path, request) ?? Monitoring.text(.notFound, "there is no such page")
    }

    /// What every answer says to browsers.
    private static let everywhere: [(HTTPField.Name, String)] = [
        (.cacheControl, "no-store"), (.xContentTypeOptions, "nosniff"),
        (.contentSecurityPolicy, "default-src 'none'; frame-ancestors 'none'; sandbox"),
        (HTTPField.Name("X-Frame-Options")!, "DENY"), (HTTPField.Name("Referrer-Policy")!, "no-referrer"),
        (HTTPField.Name("Cross-Origin-Opener-Policy")!, "same-origin"),
        (HTTPField.Name("Cross-Origin-Resource-Policy")!, "same-origin"),
    ]

    /// A proxy on this machine, which ends HTTPS, is believed about whom it speaks for: the last address that it names.
    private static func client(_ request: Request, _ channel: any Channel) -> APIRequest.Client {
        var address = channel.remoteAddress?.ipAddress ?? "unknown"
        var isSecure = false
        if channel.remoteAddress.map(isLoopback) == true {
            isSecure = request.headers[.xForwardedProto] == "https"
            if let said = request.headers[.xForwardedFor]?.split(separator: ",").last?.filter({ $0 != " " }),
                said.utf8.count <= 45, !said.isEmpty, said.allSatisfy({ $0.isHexDigit || $0 == "." || $0 == ":" })
            {
                address = said
            }
        }
        return APIRequest.Client(
            address: address, isSecure: isSecure,
            session: request.headers[.cookie].flatMap { SessionCookie.value(in: $0) })
    }

    private static func isLoopback(_ address: NIOCore.SocketAddress) -> Bool {
        switch address {
        case .v4(let v4): UInt32(bigEndian: v4.address.sin_addr.s_addr) >> 24 == 127
        case .v6: address.ipAddress == "::1"
        case .unixDomainSocket: false
        }
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
}

extension HTTPField.Name {
    static let xForwardedFor = HTTPField.Name("X-Forwarded-For")!
    static let xForwardedProto = HTTPField.Name("X-Forwarded-Proto")!
}
