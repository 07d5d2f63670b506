import Synchronization

@testable import Gateway

/// A mail process that carries no mail: it keeps what it was told, and a queue that a test puts there.
final class IdleMailProcess: MailProcess {
    struct State {
        var events: [String] = []
        var messages: [QueuedMessage] = []
        /// What `created`, `updated` and `deleting` throw next.
        var fault: ControlFault?
        var isReady = true
        var content: [UInt8] = []
    }

    let directory: any Directory
    let state = Mutex(State())

    init() throws { directory = try SQLiteDirectory(inMemoryWith: { 1_700_000_000_000 }) }

    var events: [String] { state.withLock { $0.events } }
    var isReady: Bool { state.withLock { $0.isReady } }

    private func note(_ event: String) throws(ControlFault) {
        let fault = state.withLock { state in
            state.events.append(event)
            defer { state.fault = nil }
            return state.fault
        }
        if let fault { throw fault }
    }

    func status() -> ServerStatus {
        let ready = isReady
        return ServerStatus(
            version: "1.2.3", io: "epoll", hostname: "mx.test",
            reactors: [
                ServerStatus.Reactor(
                    cpu: nil, sessions: 1, forwardSessions: 2, queued: 3, longestTurnMicroseconds: 450, busy: 0.25)
            ], accepted: 7, delivered: 4, deferred: 0, bounced: 0, queued: 3, held: 1, gateways: 2,
            startedAt: 1_700_000_000,
            ready: ready, notReady: ready ? nil : "stores are being listed", alarms: [])
    }

    func created(_ gateway: StoredGateway) throws(ControlFault) -> [String] {
        try note("created \(gateway.document.domain)")
        return gateway.document.forward.server == nil ? ["no next hop"] : []
    }

    func updated(_ gateway: StoredGateway) throws(ControlFault) -> [String] {
        try note("updated \(gateway.document.domain)")
        return []
    }

    func deleting(_ gateway: StoredGateway, mail: MailDisposal) throws(ControlFault) {
        try note("deleting \(gateway.document.domain) \(mail)")
    }

    func deleted(_ gateway: StoredGateway) { try? note("deleted \(gateway.document.domain)") }
    func lookAgain() {}
    func publish() { try? note("publish") }

    func queue(domain: String?, limit: Int) throws(ControlFault) -> [QueuedMessage] {
        let all = state.withLock { $0.messages }
        return Array(all.filter { domain == nil || $0.domain == domain }.prefix(limit))
    }

    func flush(domain: String?) throws(ControlFault) -> Int { try queue(domain: domain, limit: .max).count }

    func message(_ id: QueueID) throws(ControlFault) -> QueuedMessage {
        guard let message = state.withLock({ $0.messages.first { $0.id == id.description } }) else {
            throw ControlFault(.notFound, "no message \(id) waits here")
        }
        return message
    }

    func delete(_ id: QueueID) throws(ControlFault) {
        _ = try message(id)
        state.withLock { $0.messages.removeAll { $0.id == id.description } }
    }

    func bounce(_ id: QueueID) throws(ControlFault) { try delete(id) }
    func export(_ id: QueueID) throws(ControlFault) -> [UInt8] { state.withLock { $0.content } }

    func health(domain: String?) -> [QueueHealth] {
        let domains = Set(state.withLock { $0.messages }.map(\.domain)).filter { domain == nil || $0 == domain }
        return domains.sorted().map { domain in
            let waiting = state.withLock { $0.messages }.filter { $0.domain == domain }
            return QueueHealth(
                domain: domain, destination: "", state: "down", detail: "connection refused", queued: waiting.count,
                bytes: waiting.reduce(0) { $0 + $1.bytes }, sessions: 0, oldest: waiting.map(\.receivedAt).min())
        }
    }

    func metrics() -> [Metric] { Metric.all([Counters()], status: status(), health: health(domain: nil)) }
}

/// An id that a message can have.
let firstMessageID = QueueID(milliseconds: 1_700_000_000_000, start: 1, reactor: 0, counter: 1).description

/// A message that waits after two attempts.
func waitingMessage(_ domain: String, id: String = firstMessageID, bytes: Int = 100) -> QueuedMessage {
    QueuedMessage(
        id: id, domain: domain, from: "", recipients: ["a@\(domain)"], bytes: bytes, receivedAt: 1_700_000_000.25,
        state: .deferred, attempts: 2, nextAttempt: nil, lastReply: "451 4.3.0 later")
}
