import FoundationEssentials
import Gateway
import Hummingbird

/// What the page shows of time: samples for its plots, and changes as they happen. It asks the mail process at a pace of its
/// own, however many look.
actor Live {
    private enum Limits {
        /// With somebody listening, and without.
        static let pace = Duration.seconds(1)
        static let restingPace = Duration.seconds(10)
        /// Gateways are a longer answer.
        static let gatewaysEverySeconds = 5.0
        static let sampleEverySeconds = 10.0
        /// A day.
        static let samples = 8_640
        /// By the minute, for six hours, of the fullest.
        static let gatewayEverySeconds = 60.0
        static let gatewaySamples = 360
        static let gateways = 200
        static let listeners = 32
        /// Events that a listener has not taken; then it is let go, and comes again.
        static let pending = 64
        /// Domains named in one event.
        static let named = 100
        static let beat = Duration.seconds(15)
    }

    struct Sample: Codable, Sendable {
        let at: Double
        let queued: Int
        var held: Int?
        var accepted: Int?
        var delivered: Int?
        var sessions: Int?
    }

    struct History: Codable, Sendable {
        let everySeconds: Int
        let samples: [Sample]
    }

    private let mail: MailAsker
    private var samples: [Sample] = []
    private var byGateway: [String: [Sample]] = [:]
    private var listeners: [Int: AsyncStream<String>.Continuation] = [:]
    private var listenerNumber = 0
    private var eventNumber = 0
    private var lastStatus: ServerStatus?
    private var lastGateways: [String: GatewaySummary] = [:]
    private var gatewaysAt = 0.0
    private var gatewaySampleAt = 0.0

    init(mail: MailAsker) { self.mail = mail }

    func history(domain: String?) -> History {
        guard let domain else { return History(everySeconds: Int(Limits.sampleEverySeconds), samples: samples) }
        return History(everySeconds: Int(Limits.gatewayEverySeconds), samples: byGateway[domain] ?? [])
    }

    /// Looks until the process ends.
    func run() async {
        while true {
            await look()
            let until = ContinuousClock.now + (listeners.isEmpty ? Limits.restingPace : Limits.pace)
            // Somebody who comes meanwhile needn't wait for long.
            while ContinuousClock.now < until {
                try? await Task.sleep(for: Limits.pace)
                if !listeners.isEmpty { break }
            }
        }
    }

    private func look() async {
        let now = Text.now
        do {
            let status = try await mail.status.get()
            if samples.isEmpty || now - samples.last!.at >= Limits.sampleEverySeconds {
                samples.append(
                    Sample(
                        at: now, queued: status.queued, held: status.held, accepted: status.accepted,
                        delivered: status.delivered, sessions: status.reactors.reduce(0) { $0 + $1.sessions }))
                if samples.count > Limits.samples { samples.removeFirst(samples.count - Limits.samples) }
            }
            if !listeners.isEmpty { tell("status", status) }
            lastStatus = status
            let isDue = now - gatewaysAt >= Limits.gatewaysEverySeconds && !listeners.isEmpty
            if isDue || now - gatewaySampleAt >= Limits.gatewayEverySeconds {
                gatewaysAt = now
                compare(try await mail.gateways.get(), now)
            }
        } catch {
            if !listeners.isEmpty { tell("unavailable", ["detail": "\(error)"]) }
        }
    }

    private func compare(_ gateways: [GatewaySummary], _ now: Double) {
        if now - gatewaySampleAt >= Limits.gatewayEverySeconds {
            gatewaySampleAt = now
            sample(gateways, now)
        }
        let new = Dictionary(gateways.map { ($0.domain, $0) }) { $1 }
        var changed = gateways.filter { lastGateways[$0.domain] != $0 }.map(\.domain)
        changed += lastGateways.keys.filter { new[$0] == nil }
        let isFirst = lastGateways.isEmpty
        lastGateways = new
        guard !changed.isEmpty, !isFirst, !listeners.isEmpty else { return }
        tell(
            "gateways",
            GatewaysChanged(domains: Array(changed.sorted().prefix(Limits.named)), isCut: changed.count > Limits.named))
    }

    private struct GatewaysChanged: Codable {
        let domains: [String]
        let isCut: Bool
    }

    private func sample(_ gateways: [GatewaySummary], _ now: Double) {
        let fullest = gateways.filter { $0.status.queued > 0 || byGateway[$0.domain] != nil }
            .sorted { ($1.status.queued, $0.domain) < ($0.status.queued, $1.domain) }.prefix(Limits.gateways)
        var kept: [String: [Sample]] = [:]
        for gateway in fullest {
            var samples = byGateway[gateway.domain] ?? []
            samples.append(Sample(at: now, queued: gateway.status.queued))
            if samples.count > Limits.gatewaySamples { samples.removeFirst() }
            // Empty for all the time that is shown: nothing to show.
            if samples.contains(where: { $0.queued > 0 }) { kept[gateway.domain] = samples }
        }
        byGateway = kept
    }

    // MARK: Listeners

    private func tell(_ name: String, _ value: some Encodable) {
        eventNumber += 1
        let data = String(decoding: JSONBytes.encode(value), as: UTF8.self)
        let event = "id: \(eventNumber)\nevent: \(name)\ndata: \(data)\n\n"
        for (number, listener) in listeners {
            if case .dropped = listener.yield(event) {
                listener.finish()
                listeners[number] = nil
            }
        }
    }

    /// - Parameter isAlive: asked now and then; the stream ends when it is false.
    /// - Throws: `Problem` 429 when too many listen.
    func stream(isAlive: @escaping @Sendable () async -> Bool) throws -> ResponseBody {
        guard listeners.count < Limits.listeners else {
            var problem = Problem(.tooManyRequests, "\(Limits.listeners) listen to events already")
            problem.retryAfterSeconds = 30
            throw problem
        }
        return ResponseBody { writer in
            // From here on, and no sooner: who goes away before is never one.
            let (number, events, continuation) = await self.join()
            // The only sign of a listener that went away is a write that fails.
            let beat = Task {
                while !Task.isCancelled {
                    try? await Task.sleep(for: Limits.beat)
                    if await isAlive() { continuation.yield(": \n\n") } else { continuation.finish() }
                }
            }
            defer {
                beat.cancel()
                Task { await self.leave(number) }
            }
            for await event in events { try await writer.write(ByteBuffer(string: event)) }
            try await writer.finish(nil)
        }
    }

    private func join() -> (number: Int, events: AsyncStream<String>, continuation: AsyncStream<String>.Continuation) {
        listenerNumber += 1
        let (events, continuation) = AsyncStream.makeStream(
            of: String.self, bufferingPolicy: .bufferingOldest(Limits.pending))
        listeners[listenerNumber] = continuation
        continuation.yield("retry: 3000\n\n")
        if let lastStatus {
            let data = String(decoding: JSONBytes.encode(lastStatus), as: UTF8.self)
            continuation.yield("event: status\ndata: \(data)\n\n")
        }
        return (listenerNumber, events, continuation)
    }

    private func leave(_ number: Int) { listeners.removeValue(forKey: number)?.finish() }
}
