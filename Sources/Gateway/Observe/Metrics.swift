import Synchronization

/// One metric with its values now. Every one is there from the start, with all of its label values.
struct Metric: Sendable {
    enum Kind: String, Sendable { case counter, gauge }

    struct Sample: Sendable {
        /// Names and values, in the declaration's order.
        var labels: [(name: String, value: String)] = []
        var value: Double
    }

    let declaration: Declaration
    let samples: [Sample]

    /// Name, meaning and unit. The name ends in the unit, where there is one, and counters in `_total`.
    struct Declaration: Sendable {
        let name: String
        let kind: Kind
        /// One sentence without a full stop.
        let help: String

        init(_ name: String, _ kind: Kind, _ help: String) {
            (self.name, self.kind, self.help) = ("postern_" + name, kind, help)
        }
    }

    /// Metrics without labels.
    init(_ declaration: Declaration, _ value: Int) { self.init(declaration, Double(value)) }

    init(_ declaration: Declaration, _ value: Double) { self.init(declaration, samples: [Sample(value: value)]) }

    init(_ declaration: Declaration, samples: [Sample]) {
        (self.declaration, self.samples) = (declaration, samples)
    }
}

extension Metric.Declaration {
    /// The values of `replies_total`'s label: the codes that we send (RFC 5321 §4.2.3); all others count as `other`.
    static let replyCodes = [
        214, 220, 221, 235, 250, 251, 252, 334, 354, 421, 450, 451, 452, 454, 455, 458, 459, 500, 501, 502, 503, 504,
        530, 535, 550, 552, 553, 554, 555, 556,
    ]

    static let accepted = Self("accepted_total", .counter, "Messages accepted with a 250 since the start")
    static let acceptedBytes = Self("accepted_bytes_total", .counter, "Bytes of content accepted since the start")
    static let delivered = Self("delivered_total", .counter, "Parcels handed on since the start")
    static let deferred = Self("deferred_total", .counter, "Attempts that left a parcel waiting")
    static let bounced = Self("bounced_total", .counter, "Parcels that ended in a bounce")
    static let queued = Self("queued", .gauge, "Parcels that wait")
    static let held = Self("held", .gauge, "Parcels that wait and are held")
    static let replies = Self("replies_total", .counter, "Replies sent to clients")
    static let sessions = Self("sessions", .gauge, "Sessions of clients now")
    static let sessionsTotal = Self("sessions_total", .counter, "Sessions of clients since the start")
    static let connectionsRefused = Self("connections_refused_total", .counter, "Connections beyond a limit")
    static let forwardSessions = Self("forward_sessions", .gauge, "Sessions with primaries now")
    static let commits = Self("commits_total", .counter, "Batches made durable")
    static let possibleDuplicates = Self(
        "possible_duplicates_total", .counter, "Messages sent again because a peer's reply was lost")
    static let journalMessages = Self("journal_messages_total", .counter, "Messages stored in the journal")
    static let journalMoved = Self(
        "journal_moved_total", .counter, "Parcels that went from the journal to their mail directories")
    static let journalSegments = Self("journal_segments_total", .counter, "Segments of the journal that were begun")
    static let journalParcels = Self("journal_parcels", .gauge, "Parcels that wait in the journal")
    static let journalBytes = Self("journal_bytes", .gauge, "Bytes of the journal's segments that are not free")
    static let damaged = Self(
        "damaged_total", .counter, "Files set aside because their content is not what was written")
    static let alarms = Self("alarms_total", .counter, "Alarms raised since the start")
    static let longestCallback = Self(
        "longest_callback_seconds", .gauge, "The longest callback of a reactor since the start, of all reactors")
    static let slowCallbacks = Self("slow_callbacks_total", .counter, "Callbacks of 10 ms or more since the start")
    static let busy = Self("reactor_busy_seconds_total", .counter, "Time that reactors did not wait")
    static let messageMemory = Self("message_memory_bytes", .gauge, "Bytes of messages that are being received")
    static let gateways = Self("gateways", .gauge, "Gateways in the directory")
    static let ready = Self("ready", .gauge, "1 when everything that is configured works")
    static let startTime = Self("start_time_seconds", .gauge, "When the mail process started, in seconds since 1970")
    static let build = Self("build_info", .gauge, "1; version and I/O backend are its labels")
    static let gatewayQueued = Self("gateway_queued", .gauge, "Parcels that wait, of the fullest gateways")
}

extension Metric {
    /// Gateways that have metrics of their own: those with the most mail waiting.
    static let gatewaysMax = 20

    /// What a mail process has to tell.
    ///
    /// - Parameters:
    ///   - counters: one a reactor.
    ///   - health: of all gateways.
    static func all(_ counters: [Counters], status: ServerStatus, health: [QueueHealth]) -> [Metric] {
        let sum = { (value: (Counters) -> Int) in counters.reduce(0) { $0 + value($1) } }
        let nanoseconds = 1e-9
        return [
            Metric(.accepted, sum { $0.accepted.load(ordering: .relaxed) }),
            Metric(.acceptedBytes, sum { $0.acceptedBytes.load(ordering: .relaxed) }),
            Metric(.delivered, sum { $0.delivered.load(ordering: .relaxed) }),
            Metric(.deferred, sum { $0.deferred.load(ordering: .relaxed) }),
            Metric(.bounced, sum { $0.bounced.load(ordering: .relaxed) }),
            Metric(.queued, status.queued),
            Metric(.held, status.held),
            replies(sum),
            Metric(.sessions, sum { $0.sessions.load(ordering: .relaxed) }),
            Metric(.sessionsTotal, sum { $0.sessionsTotal.load(ordering: .relaxed) }),
            Metric(.connectionsRefused, sum { $0.connectionsRefused.load(ordering: .relaxed) }),
            Metric(.forwardSessions, sum { $0.forwardSessions.load(ordering: .relaxed) }),
            Metric(.commits, sum { $0.commits.load(ordering: .relaxed) }),
            Metric(.journalMessages, sum { $0.journalMessages.load(ordering: .relaxed) }),
            Metric(.journalMoved, sum { $0.journalMoved.load(ordering: .relaxed) }),
            Metric(.journalSegments, sum { $0.journalSegments.load(ordering: .relaxed) }),
            Metric(.journalParcels, sum { $0.journalParcels.load(ordering: .relaxed) }),
            Metric(.journalBytes, sum { $0.journalBytes.load(ordering: .relaxed) }),
            Metric(.possibleDuplicates, sum { $0.possibleDuplicates.load(ordering: .relaxed) }),
            Metric(.damaged, sum { $0.damaged.load(ordering: .relaxed) }),
            Metric(.alarms, sum { $0.alarms.load(ordering: .relaxed) }),
            Metric(
                .longestCallback,
                Double(counters.map { $0.longestCallbackNanoseconds.load(ordering: .relaxed) }.max() ?? 0)
                    * nanoseconds),
            Metric(.slowCallbacks, sum { $0.slowCallbacks.load(ordering: .relaxed) }),
            Metric(.busy, Double(sum { $0.busyNanoseconds.load(ordering: .relaxed) }) * nanoseconds),
            Metric(.messageMemory, sum { $0.messageMemoryBytes.load(ordering: .relaxed) }),
            Metric(.gateways, status.gateways),
            Metric(.ready, status.ready ? 1 : 0),
            Metric(.startTime, status.startedAt),
            Metric(
                .build, samples: [Sample(labels: [("version", status.version), ("io", status.io)], value: 1)]),
            fullest(health),
        ]
    }

    private static func replies(_ sum: ((Counters) -> Int) -> Int) -> Metric {
        var samples: [Sample] = []
        var listed = 0
        for code in Declaration.replyCodes {
            let count = sum { $0.replies(code) }
            listed += count
            samples.append(Sample(labels: [("code", String(code))], value: Double(count)))
        }
        let total = sum { counters in (200..<600).reduce(0) { $0 + counters.replies($1) } }
        // Counted while others count on: never below zero.
        samples.append(Sample(labels: [("code", "other")], value: Double(max(0, total - listed))))
        return Metric(.replies, samples: samples)
    }

    private static func fullest(_ health: [QueueHealth]) -> Metric {
        var queued: [String: Int] = [:]
        for queue in health { queued[queue.domain, default: 0] += queue.queued }
        let most = queued.filter { $0.value > 0 }.sorted { ($1.value, $0.key) < ($0.value, $1.key) }
        return Metric(
            .gatewayQueued,
            samples: most.prefix(gatewaysMax).map {
                Sample(labels: [("domain", $0.key)], value: Double($0.value))
            })
    }
}

extension Metric {
    /// The text format of Prometheus, version 0.0.4.
    static func text(_ metrics: [Metric]) -> String {
        var text = ""
        for metric in metrics {
            let declaration = metric.declaration
            text += "# HELP \(declaration.name) \(declaration.help)\n"
            text += "# TYPE \(declaration.name) \(declaration.kind.rawValue)\n"
            for sample in metric.samples {
                text += declaration.name
                if !sample.labels.isEmpty {
                    text +=
                        "{" + sample.labels.map { "\($0.name)=\"\(escape($0.value))\"" }.joined(separator: ",") + "}"
                }
                text += " \(number(sample.value))\n"
            }
        }
        return text
    }

    private static func escape(_ value: String) -> String {
        var escaped = ""
        for character in value {
            switch character {
            case "\\": escaped += "\\\\"
            case "\"": escaped += "\\\""
            case "\n": escaped += "\\n"
            default: escaped.append(character)
            }
        }
        return escaped
    }

    /// Without a fraction where there is none.
    private static func number(_ value: Double) -> String { Int(exactly: value).map { String($0) } ?? "\(value)" }
}
