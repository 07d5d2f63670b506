import Protocols
import Reactor

@testable import Gateway

// What senders were promised, against what became of it.

extension SimulatedDay {
    /// One message's arrival at a primary.
    final class Arrival {
        let id: String
        let primary: Int
        let link: Int
        let place: Int
        let at: UInt64
        /// Ends of the process after which this recipient's file was still there, by recipient.
        var openEnds: [String: [UInt64]] = [:]

        init(id: String, primary: Int, _ message: ScriptedPrimary.Message) {
            (self.id, self.primary) = (id, primary)
            (link, place, at) = (message.link, message.place, message.at)
        }
    }

    /// All arrivals, and what they came to.
    struct Arrivals {
        /// By `id recipient`, in order.
        var byRecipient: [String: [Arrival]] = [:]
        /// The same keys, in the order in which they first came.
        var keys: [String] = []
        var ids: Set<String> = []
        /// Keys of recipients that their sender named twice: a primary may take one and refuse the other.
        var doubled: Set<String> = []
        /// Notices, by `id action recipient`.
        var reports: Set<String> = []
        /// Recipients, by `id recipient`, of whom stable storage has said that they are settled while others wait.
        var noted: Set<String> = []
        var seen: [Int] = []
        var count = 0
        var openCount = 0
        var delivered = 0
        var bounced = 0
        var queued = 0
        var removed = 0
        var again = 0
    }

    // MARK: Arrivals

    func collectArrivals() {
        let all = allPrimaries
        if arrivals.seen.isEmpty { arrivals.seen = all.map { _ in 0 } }
        for (at, primary) in all.enumerated() {
            while arrivals.seen[at] < primary.messages.count {
                let message = primary.messages[arrivals.seen[at]]
                arrivals.seen[at] += 1
                if message.isAccepted { collect(message, at) }
            }
        }
    }

    private func collect(_ message: ScriptedPrimary.Message, _ primary: Int) {
        arrivals.count += 1
        let isNotice = message.reversePath.isEmpty && primary >= primaries.count
        let id: String?
        let doubled: [String]
        if isNotice {
            id = read(notice: message.content)
            doubled = []
        } else {
            // The trace field may be folded at any word.
            id =
                Self.word(after: " id ", in: message.content.prefix(1_000).map { $0 < 32 ? 32 : $0 })?.prefix(
                    QueueID.textLength
                ).description
            doubled = check(content: message)
        }
        guard let id else { return fail("changed", "what arrived at primary \(primary) has no queue id") }
        let arrival = Arrival(id: id, primary: primary, message)
        note("arrived at \(message.at) at \(primary)/\(message.link)/\(message.place): \(id) \(message.paths)")
        arrivals.ids.insert(id)
        for (at, path) in message.paths.enumerated() where !message.paths[..<at].contains(path) {
            let key = "\(id) \(path)"
            if doubled.contains(path) { arrivals.doubled.insert(key) }
            if arrivals.byRecipient[key] == nil { arrivals.keys.append(key) }
            // By time: those of one primary are collected after another's.
            let at = arrivals.byRecipient[key, default: []].lastIndex { $0.at <= arrival.at }.map { $0 + 1 } ?? 0
            arrivals.byRecipient[key, default: []].insert(arrival, at: at)
        }
    }

    /// Returns the recipients that the sender named twice.
    private func check(content message: ScriptedPrimary.Message) -> [String] {
        guard let text = Self.word(after: "Subject: n", in: message.content.prefix(2_000)),
            let number = Int(text.prefix { $0 != "." }), number < ledger.count
        else {
            fail("changed", "a message arrived that nobody sent")
            return []
        }
        let entry = ledger[number]
        let body = message.content.suffix(entry.content.count)
        if let at = zip(body, entry.content).enumerated().first(where: { $0.element.0 != $0.element.1 })?.offset {
            let text = { (bytes: ArraySlice<UInt8>) in String(decoding: bytes.dropFirst(at).prefix(60), as: UTF8.self) }
            fail(
                "changed",
                "message \(number) of \(entry.content.count) bytes arrived with other bytes at \(at) and \(message.content.count - body.count) before: \(text(body[...])) for \(text(entry.content[...]))"
            )
        }
        if message.reversePath != entry.reversePath { fail("changed", "message \(number) has another reverse-path") }
        for path in message.paths where !entry.recipients.contains(where: { $0.path == path && !$0.isBad }) {
            fail("changed", "message \(number) arrived for \(path)")
        }
        let paths = entry.recipients.map(\.path)
        return paths.enumerated().filter { paths[..<$0.offset].contains($0.element) }.map(\.element)
    }

    /// The word that follows a text.
    static func word(after text: String, in bytes: some Sequence<UInt8>) -> String? {
        let (bytes, text) = (Array(bytes), Array(text.utf8))
        guard bytes.count > text.count else { return nil }
        for at in 0..<(bytes.count - text.count)
        where bytes[at] == text[0] && bytes[at..<(at + text.count)].elementsEqual(text) {
            let rest = bytes[(at + text.count)...]
            return String(decoding: rest.prefix { $0 > 32 && $0 != UInt8(ascii: "@") }, as: UTF8.self)
        }
        return nil
    }

    /// Remembers whom a notice is about; its own id.
    @discardableResult
    private func read(notice content: [UInt8]) -> String? {
        guard let id = Self.word(after: "Message-ID: <", in: content.prefix(4_000)),
            let about = Self.word(after: "X-Postern-Queue-ID: ", in: content)
        else { return nil }
        var recipient = ""
        for line in content.split(separator: 10) where line.count < 200 {
            if line.starts(with: "Final-Recipient: rfc822; ".utf8) {
                recipient = String(decoding: line.dropFirst(25).filter { $0 > 32 }, as: UTF8.self)
            } else if line.starts(with: "Action: ".utf8), !recipient.isEmpty {
                let action = String(decoding: line.dropFirst(8).filter { $0 > 32 }, as: UTF8.self)
                arrivals.reports.insert("\(about) \(action) \(recipient)")
                recipient = ""
            }
        }
        return id
    }

    // MARK: Ends

    private var storesWithOurs: [(domain: String, path: String)] {
        stores + [(Gateway.systemDomain, gateway.keeper.path(of: gateway.directory.snapshot.system))]
    }

    /// Notes of who is settled (path and name) beside a message that stable storage has and the running system no longer sees: a power
    /// loss may bring it back. Of the second device: a start syncs its own data folder's.
    var orphanedNotes: [(path: String, name: String)] {
        stores.filter { $0.path.hasPrefix(Self.secondPath) }.flatMap { _, path -> [(path: String, name: String)] in
            guard let files = world.disk.durableFiles(in: path), let names = world.disk.names(in: path) else {
                return []
            }
            return files.compactMap { name, _ in
                guard case .message(let id, _) = MailFile.entry(name), !names.contains(name) else { return nil }
                let note = MailFile.stateName(id)
                return names.contains(note) && files.contains { $0.name == note } ? (path, note) : nil
            }
        }
    }

    /// Before and after an end of the process: what stable storage says of settled recipients holds for ever.
    func collectNotes() {
        for (_, path) in storesWithOurs {
            let files = world.disk.durableFiles(in: path) ?? []
            for (name, bytes) in files {
                guard case .message(let id, _) = MailFile.entry(name),
                    let note = files.first(where: { $0.name == MailFile.stateName(id) }),
                    let state = ParcelState(note.bytes), let head = try? MailFile.readHead(bytes[...], of: id)
                else { continue }
                for at in state.settled where at < head.envelope.recipients.count {
                    arrivals.noted.insert("\(id) \(head.envelope.recipients[at].path)")
                }
            }
        }
    }

    /// After the end of the process: hand-overs whose settle did not reach the disk will be done again, and those only.
    func noteOpenHandovers() {
        defer { collectNotes() }
        var perLink: [String: Int] = [:]
        let journal = SimulatedJournal(world.disk)
        for (domain, path) in storesWithOurs {
            var stored: [(id: QueueID, envelope: Envelope)] = []
            let gatewayID = gateway.directory.snapshot.gateway(forDomain: domain)?.id ?? Gateway.systemID
            for record in journal.live where record.gatewayID == gatewayID {
                stored.append((record.id, record.envelope))
            }
            for name in world.disk.names(in: path) ?? [] {
                guard case .message(let id, _) = MailFile.entry(name), !stored.contains(where: { $0.id == id }),
                    let bytes = world.disk.contents(of: "\(path)/\(name)"),
                    let head = try? MailFile.readHead(bytes[...], of: id)
                else { continue }
                stored.append((id, head.envelope))
            }
            for (id, envelope) in stored where arrivals.ids.contains(id.description) {
                let state = world.disk.contents(of: "\(path)/\(MailFile.stateName(id))").flatMap { ParcelState($0) }
                var links: [String] = []
                for (at, recipient) in envelope.recipients.enumerated()
                where state?.settled.contains(at) != true {
                    let key = "\(id) \(recipient.path)"
                    guard let arrival = arrivals.byRecipient[key]?.last else { continue }
                    if arrivals.noted.contains(key), !arrivals.doubled.contains(key) {
                        fail("forgotten", "\(key) was noted as settled on stable storage and is no longer")
                    }
                    if arrival.openEnds[recipient.path] == nil { arrivals.openCount += 1 }
                    arrival.openEnds[recipient.path, default: []].append(world.now)
                    let link = "\(arrival.primary) \(arrival.link)"
                    if !links.contains(link) { links.append(link) }
                }
                for link in links {
                    perLink[link, default: 0] += 1
                    if perLink[link]! == Limits.leasesPerConnection + 1 {
                        fail(
                            "open-handovers",
                            "more than \(Limits.leasesPerConnection) of \(domain) on connection \(link) were unsettled")
                    }
                }
            }
        }
    }

    /// Whether the recipient may have got this message again after `arrival`.
    private func explains(_ arrival: Arrival, _ recipient: String, before next: Arrival) -> Bool {
        if arrival.openEnds[recipient]?.contains(where: { $0 > arrival.at && $0 <= next.at }) == true { return true }
        // What was on its way when the process ended may come after what its next start sent.
        return mayBeUnread(arrival) || mayBeUnread(next)
    }

    /// The answers to the last two hand-overs of a connection that broke off may not have been read.
    private func mayBeUnread(_ arrival: Arrival) -> Bool {
        let link = allPrimaries[arrival.primary].links[arrival.link]
        return !link.hasEndedWell && arrival.place >= link.accepted - 2
    }

    // MARK: The ledger

    func audit(_ moment: String, drained: Bool) {
        collectArrivals()
        let queue = drained ? [] : gateway.queue
        var waiting: Set<String> = []
        for message in queue {
            for recipient in message.recipients { waiting.insert("\(message.id) \(recipient)") }
            if message.from.isEmpty, let id = QueueID(message.id) {
                for case .content(let bytes) in gateway.ask(.export(id)) { read(notice: bytes) }
            }
        }
        // What left its queue meanwhile has arrived.
        collectArrivals()
        var aside: Set<String> = []
        for path in asidePaths {
            for name in world.disk.names(in: path) ?? [] { aside.insert(String(name.prefix(QueueID.textLength))) }
        }
        (arrivals.delivered, arrivals.bounced, arrivals.removed) = (0, 0, 0)
        arrivals.queued += waiting.count
        for entry in ledger {
            for recipient in entry.promised { audit(entry, recipient, waiting, aside, moment) }
        }
        if drained { auditRepeats() }
    }

    private func audit(
        _ entry: Entry, _ recipient: Recipient, _ waiting: Set<String>, _ aside: Set<String>, _ moment: String
    ) {
        let id = entry.id!.description
        let what = "message \(entry.number) (\(id)) to \(recipient.path), \(moment)"
        let last = arrivals.byRecipient["\(id) \(recipient.path)"]?.last
        let isBounced = arrivals.reports.contains("\(id) failed \(recipient.path)")
        let isQueued = waiting.contains("\(id) \(recipient.path)")
        let isRemoved =
            removed.contains("\(id) \(recipient.domain)") || droppedDomains.contains(recipient.domain)
            || aside.contains(id)
        let mayBounce =
            recipient.isBad || returned.contains("\(id) \(recipient.domain)")
            || bouncedDomains.contains(recipient.domain) || mayExpire
        // RFC 3461 §4.1, and never about a message from `<>`.
        let isReported = !entry.reversePath.isEmpty && recipient.notify?.contains("FAILURE") != false
        if last != nil { arrivals.delivered += 1 } else if isRemoved { arrivals.removed += 1 }
        if isBounced { arrivals.bounced += 1 }
        if isBounced, !mayBounce { fail("wrong-bounce", what) }
        guard last != nil || isQueued || isRemoved || isBounced || (mayBounce && !isReported) || mayExpire else {
            return fail("lost", what)
        }
        guard let last, !mayBounce, recipient.notify?.hasPrefix("SUCCESS") == true, !entry.reversePath.isEmpty else {
            return
        }
        let isPassedOn = allPrimaries[last.primary].extensions.contains("DSN")
        if !isPassedOn, !isQueued, !isRemoved, !arrivals.reports.contains("\(id) relayed \(recipient.path)") {
            fail("no-report", what)
        }
    }

    /// Nobody gets a message twice but where a hand-over was open.
    private func auditRepeats() {
        arrivals.again = 0
        for key in arrivals.keys where !arrivals.doubled.contains(key) {
            let list = arrivals.byRecipient[key]!
            arrivals.again += list.count - 1
            let recipient = String(key.drop { $0 != " " }.dropFirst())
            for (earlier, later) in zip(list, list.dropFirst()) where !explains(earlier, recipient, before: later) {
                fail("again", "\(key) arrived again at \(later.at) although it was settled after \(earlier.at)")
            }
        }
    }
}
