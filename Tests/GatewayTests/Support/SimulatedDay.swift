import Protocols
import Reactor

@testable import Gateway

/// A day in a rough world, drawn from one seed: many senders, primaries with moods, outages, cut connections, kills, power
/// losses, full and failing disks, clocks that jump, administrators.
///
/// ```text
/// senders and trouble ▶ (half of the days: power loss, and the ledger against the queue) ▶ calm: all must get through
///   ▶ the ledger ▶ what must be empty is empty ▶ one more end: nothing comes back
/// ```
///
/// `failures` is what was wrong with it; `tally` what it met.
final class SimulatedDay {
    /// A check that failed, by its name, and what it saw.
    struct Failure: CustomStringConvertible {
        let check: String
        let detail: String
        var description: String { "\(check): \(detail)" }
    }

    static let messagesMin = 200
    static let powerLossesMin = 2
    /// Days whose trouble does not suffice go on, up to here.
    private static let messagesMax = 1_000
    static let quotaMessages = 12
    static let quotaBytes = 600_000
    /// Stores of `d.test`, and of `sender.test` in some worlds.
    static let secondPath = "/mnt/second"

    /// One message of a sender's session.
    struct Entry {
        let number: Int
        /// Empty: `<>`.
        let reversePath: String
        let recipients: [Recipient]
        let content: [UInt8]
        let client: ScriptedClient
        /// Where the reply to MAIL stands among the client's, and the last one.
        let firstReply: Int
        let lastReply: Int

        var id: QueueID? { client.replies.count > lastReply ? queueID(client.replies[lastReply]) : nil }
        /// Those whose RCPT was accepted, of a message that got its 250.
        var promised: [Recipient] {
            guard id != nil else { return [] }
            return recipients.indices.filter { client.replies[firstReply + 1 + $0].hasPrefix("250") }
                .map { recipients[$0] }
        }
    }

    struct Recipient {
        let path: String
        var notify: String?
        var domain: String { String(path[path.index(after: path.lastIndex(of: "@")!)...]) }
        /// No primary knows it.
        var isBad: Bool { path.hasPrefix("bad") }
    }

    let seed: UInt64
    let gateway: SimulatedGateway
    /// Of the domains `a` to `d`, of guests, and a second one of `a`.
    let primaries: [ScriptedPrimary]
    /// Of `sender.test`, which is a gateway here, and of `else.test`, which isn't.
    let senders: [ScriptedPrimary]
    private var moods: [Int]
    /// Primaries that refuse a third of all recipients for now, so that much mail is done for some and waits for others.
    private let greylists: [Bool]
    var isCalm = false
    /// No primary comes back.
    var isAuditing = false
    var ledger: [Entry] = []
    private var sessionCount = 0
    /// A gateway that was created today and not yet deleted.
    var guest: String?
    var guestCount = 0
    /// Of all that there were today: what is deleted leaves its queue slowly.
    var everyGateway: [(id: UInt64, domain: String)] = []
    /// What administrators did, as `id domain`.
    var removed: Set<String> = []
    var returned: Set<String> = []
    /// Domains whose gateway was deleted together with its mail, or with its mail returned.
    var droppedDomains: Set<String> = []
    var bouncedDomains: Set<String> = []
    /// Mail directories that went aside.
    var asidePaths: [String] = []
    var clockSpread: ClosedRange<Int64> = 0...0
    var troubles = Troubles()
    var arrivals = Arrivals()
    private(set) var failures: [Failure] = []

    /// Beside the world's own counters.
    struct Troubles {
        var outages = 0
        var stops = 0
        var recoveriesCut = 0
        var startsCut = 0
        var acceptsCut = 0
        var settlesCut = 0
        var created = 0
        var deleted = 0
        var holds = 0
        var disabled = 0
        var flushes = 0
        var removals = 0
        var returns = 0
        var nextHopChanges = 0
        var notesOrphaned = 0
        var lateListings = 0
        var movesBroken = 0
        var blackholes = 0
        var journaled = 0
        var moved = 0
        var segments = 0
        var recovered = 0
    }

    init(seed: UInt64) throws {
        self.seed = seed
        var settings = SimulatedSettings.drawn(from: seed)
        // A connection that is cut at every other segment carries nothing, and proves nothing.
        if settings.segmentMaxBytes < 512 { settings.cutChance /= 50 }
        if settings.windowBytes < 4_096 { settings.windowBytes = 4_096 }
        // A file that is written and synced within one turn is never torn.
        if settings.syncDelay.upperBound < 1_000_000 { settings.syncDelay = 100_000...2_000_000 }
        var random = SimulatedRandom(seed: seed ^ 0x6461_7973)
        let memoryBytes = random.pick([1 << 20, 16 << 20])
        let cores = 1 + random.below(4)
        gateway = try SimulatedGateway(
            seed: seed, cores: cores, world: settings, journal: Self.journal(random.next()),
            "a.test forward.server=198.51.100.1 retry.schedule=[5s,20s] forward.concurrency=4",
            "b.test forward.server=198.51.100.2 retry.schedule=[10s] quota.enabled=true quota.messages=\(Self.quotaMessages)",
            "c.test forward.server=198.51.100.3 retry.schedule=[3s,30s] forward.concurrency=2"
        ) { $0.messageMemoryBytes = memoryBytes }
        _ = gateway.world.disk.addDevice(mountedAt: Self.secondPath)
        try gateway.create(
            "d.test forward.server=198.51.100.4 retry.schedule=[5s] quota.enabled=true quota.bytes=\(Self.quotaBytes) mailDirectory=\(Self.secondPath)/d"
        )
        let senderPlace = random.coin() ? " mailDirectory=\(Self.secondPath)/sender" : ""
        try gateway.create("sender.test forward.server=198.51.100.9 retry.schedule=[5s]\(senderPlace)")
        gateway.mailboxCapacity = random.pick([1, 4, 1_024])
        everyGateway = gateway.directory.snapshot.gateways.map { ($0.id, $0.domain) }
        let gateway = gateway
        primaries = (1...6).map { ScriptedPrimary(gateway, at: "198.51.100.\($0)") }
        senders = ["198.51.100.9", "198.51.100.8"].map { ScriptedPrimary(gateway, at: $0) }
        moods = (primaries + senders).map { _ in random.pick([0, 5, 40]) }
        // Half the days that of `d.test`, on the second device, where `endTwice` needs it.
        greylists = (primaries + senders).indices.map { random.below($0 == 3 ? 2 : 4) == 0 }
        let resolver = ScriptedResolver()
        resolver.records = ["else.test": [.mx(10, "mx.else.test")], "mx.else.test": [.a("198.51.100.8")]]
        gateway.world.resolver = { resolver.answer($0) }
        for (at, primary) in (primaries + senders).enumerated() {
            primary.extensions =
                [
                    ["PIPELINING", "8BITMIME", "DSN"], ["PIPELINING", "CHUNKING"], [], ["CHUNKING", "SIZE 1000000"],
                ][(at + Int(seed)) % 4]
            primary.act = { [unowned self] in act($0, at) }
        }
    }

    /// In three of four worlds, so small that its segments are used again many times a day.
    static func journal(_ number: UInt64) -> JournalSettings {
        guard number % 4 > 0 else { return .none }
        let segmentBytes = JournalFormat.segmentMinBytes << Int(number / 4 % 3)
        return JournalSettings(segmentBytes: segmentBytes, limitBytes: segmentBytes * Int(4 + number / 16 % 5))
    }

    var world: SimulatedWorld { gateway.world }
    var allPrimaries: [ScriptedPrimary] { primaries + senders }

    func fail(_ check: String, _ detail: String) { failures.append(Failure(check: check, detail: detail)) }

    /// A line in the log between those of the gateway, when there is one.
    func note(_ text: @autoclosure () -> String) {
        SimulatedGateway.log?.write(Array("day now=\(world.now) \(text())\n".utf8))
    }

    // MARK: Primaries

    private func act(_ moment: ScriptedPrimary.Moment, _ at: Int) -> ScriptedPrimary.Action? {
        if case .recipient(let line) = moment, line.contains("<bad") { return .reply("550 5.1.1 nobody here") }
        if isCalm { return nil }
        if case .recipient = moment, greylists[at], world.draw(3) == 0 { return .reply("450 4.2.0 greylisted") }
        guard world.draw(1_000) < moods[at] else { return nil }
        switch moment {
        case .recipient where world.draw(2) == 0: return .reply("450 4.2.0 greylisted")
        case .someContent: return .cut
        case .content where world.draw(2) == 0: return .takeAndCut
        default:
            return [
                .cut, .replyAndClose("421 4.3.2 going down"), .reply("451 4.3.0 later"),
                world.draw(8) == 0 ? .silence : .cut,
            ][world.draw(4)]
        }
    }

    func changeMood() { moods[world.draw(moods.count)] = [0, 5, 40, 200][world.draw(4)] }

    // MARK: Senders

    /// A sender's session of one to four messages, or of one that is large and stalls before its end.
    func newSession(isLargeAndSlow isSlow: Bool = false) {
        let count = isSlow ? 1 : 1 + world.draw(4)
        let pause = isSlow ? UInt64(1 + world.draw(20)) * 1_000_000_000 : 0
        var steps = [ScriptedClient.Step(bytes: Array("EHLO client.test\r\n".utf8), onlyAfter: "220")]
        var drafts: [(recipients: [Recipient], reversePath: String, content: [UInt8], first: Int, last: Int)] = []
        var replies = 2
        for at in 0..<count {
            let number = ledger.count + at
            let reversePath = [
                "s\(number)@sender.test", "s\(number)@sender.test", "s\(number)@else.test",
                world.draw(4) == 0 ? "" : "s\(number)@sender.test",
            ][world.draw(4)]
            let recipients = newRecipients()
            let content = newContent(number, isLarge: isSlow)
            let usesChunk = world.draw(4) == 0
            var text = "MAIL FROM:<\(reversePath)>\(world.draw(2) == 0 ? " SIZE=\(content.count)" : "")\r\n"
            for recipient in recipients {
                text += "RCPT TO:<\(recipient.path)>\(recipient.notify.map { " NOTIFY=\($0)" } ?? "")\r\n"
            }
            let last: Int
            if usesChunk {
                last = replies + recipients.count + 1
                steps.append(
                    ScriptedClient.Step(
                        bytes: Array((text + "BDAT \(content.count) LAST\r\n").utf8) + content,
                        replies: recipients.count + 2, pause: pause))
            } else {
                last = replies + recipients.count + 2
                steps.append(
                    ScriptedClient.Step(bytes: Array((text + "DATA\r\n").utf8), replies: recipients.count + 2))
                steps.append(
                    ScriptedClient.Step(
                        bytes: ScriptedClient.stuffed(content) + Array(".\r\n".utf8), onlyAfter: "354", pause: pause))
            }
            drafts.append((recipients, reversePath, content, replies, last))
            replies = last + 1
        }
        if world.draw(2) == 0 { steps.append(ScriptedClient.Step(bytes: Array("QUIT\r\n".utf8))) }
        sessionCount += 1
        let client = ScriptedClient(gateway, from: "203.0.113.\(sessionCount % 200 + 1)", script: steps)
        for draft in drafts {
            ledger.append(
                Entry(
                    number: ledger.count, reversePath: draft.reversePath, recipients: draft.recipients,
                    content: draft.content, client: client, firstReply: draft.first, lastReply: draft.last))
        }
    }

    private func newRecipients() -> [Recipient] {
        var recipients: [Recipient] = []
        for domain in ["a.test", "b.test", "c.test", "d.test"] + (guest.map { [$0] } ?? [])
        where recipients.isEmpty || world.draw(3) == 0 {
            for name in 0...world.draw(3) {
                var recipient = Recipient(path: "\(world.draw(8) == 0 ? "bad" : "u")\(name)@\(domain)")
                if world.draw(6) == 0 { recipient.notify = ["SUCCESS,FAILURE", "NEVER", "SUCCESS"][world.draw(3)] }
                recipients.append(recipient)
                if world.draw(20) == 0 { recipients.append(recipient) }
            }
        }
        return recipients
    }

    /// Each message's bytes are its own, so that what shows another's is seen.
    private func newContent(_ number: Int, isLarge: Bool) -> [UInt8] {
        let isLarge = isLarge || number % 100 == 50 || world.draw(60) == 0
        let size = isLarge ? 262_000 + world.draw(100_000) : [0, 500, 5_000, 40_000][world.draw(4)]
        var text = "From: <a@sender.test>\r\nSubject: n\(number).\r\n\r\nHello\r\n"
        let line = String(repeating: "message \(number) ", count: 60 / (9 + "\(number)".count)) + "\r\n"
        text.reserveCapacity(size + 100)
        while text.utf8.count < size { text += line }
        if world.draw(4) == 0 { text += ".dot\r\n..\r\n" }
        return Array(text.utf8)
    }

    // MARK: From morning to night

    private var isRoughEnough: Bool {
        ledger.count >= Self.messagesMin && world.counters.powerLosses >= Self.powerLossesMin
            && world.counters.tornFiles > 0
    }

    /// Returns the digest of all that happened.
    @discardableResult
    func live() throws -> UInt64 {
        gateway.ready()
        while !isRoughEnough, ledger.count < Self.messagesMax {
            for _ in 0...world.draw(4) { newSession() }
            gateway.pass(seconds: Double(world.draw(3_000)) / 1_000)
            if ledger.count >= Self.messagesMin { try tear() } else { try happen() }
            lookAtQuotas()
        }
        if !isRoughEnough { fail("calm-day", "\(world.counters)") }
        gateway.run(seconds: 400) { ledger.allSatisfy { $0.client.isDone } }
        if world.draw(2) == 0 { try auditQueue() }
        try drain()
        audit("at the end", drained: true)
        try lastEnd()
        return world.traceHash
    }

    /// Power loss, and no primary answers: what was promised is in the queues.
    private func auditQueue() throws {
        isAuditing = true
        for primary in allPrimaries { primary.stop() }
        world.calm()
        try end([.powerLoss, .kill][world.draw(2)], aimed: world.draw(2) == 0)
        gateway.run(seconds: 600) { gateway.ready() && !gateway.isRecovering }
        audit("after a power loss", drained: false)
    }

    var isAtRest: Bool {
        gateway.isIdle && gateway.sessions == 0 && gateway.forwardSessions == 0
            && ledger.allSatisfy { $0.client.isDone }
    }

    /// Everything works again: all that waits must get through.
    private func drain() throws {
        isCalm = true
        isAuditing = false
        world.calm()
        repairDisks()
        for primary in allPrimaries {
            world.setBlackholed(primary.address, false)
            primary.start()
        }
        for domain in gateway.directory.snapshot.gateways.map(\.domain) {
            try gateway.update(domain, "hold=false", "enabled=true")
        }
        gateway.flush()
        // Removals that failed are tried again after ten seconds.
        for _ in 0..<5 {
            gateway.run(seconds: 7_200) { isAtRest }
            gateway.pass(seconds: 15)
            if isAtRest { return lookAtRest() }
        }
        fail(
            "stuck",
            "\(gateway.queue), sessions \(gateway.sessions) in and \(gateway.forwardSessions) out, \(gateway.ask(.health))"
        )
    }

    /// After the last hand-over is settled, a power loss brings nothing back.
    private func lastEnd() throws {
        guard failures.isEmpty else { return }
        collectArrivals()
        countJournal()
        let before = arrivals.count
        let open = arrivals.openCount
        if world.draw(2) == 0 { gateway.losePower() } else { gateway.kill() }
        noteOpenHandovers()
        if arrivals.openCount > open {
            fail("unsettled", "\(arrivals.openCount - open) settles were not durable at rest")
        }
        try startAgain()
        gateway.run(seconds: 600) { gateway.ready() && isAtRest }
        gateway.pass(seconds: 15)
        collectArrivals()
        if arrivals.count > before { fail("unsettled", "\(arrivals.count - before) messages came again after rest") }
        lookAtRest()
        lookAtResidue()
    }

    /// What the journals did in this run of the process.
    func countJournal() {
        for counters in gateway.counters {
            troubles.journaled += counters.journalMessages.load(ordering: .relaxed)
            troubles.moved += counters.journalMoved.load(ordering: .relaxed)
            troubles.segments += counters.journalSegments.load(ordering: .relaxed)
        }
        troubles.recovered += SimulatedJournal(world.disk).live.count
    }

    // MARK: What must hold at any time, and at rest

    /// No gateway has more than its quota, and none has a message that it no longer counts: that one would be sent again.
    private func lookAtQuotas() {
        let promised = Set(ledger.compactMap { $0.id?.description })
        let journal = SimulatedJournal(world.disk)
        for (domain, path) in stores {
            guard let id = gateway.directory.snapshot.gateway(forDomain: domain)?.id else { continue }
            let records = journal.live.filter { $0.gatewayID == id && promised.contains($0.id.description) }
            let files: [(name: String, id: QueueID, bytes: Int)] = (world.disk.names(in: path) ?? []).compactMap {
                guard case .message(let id, let bytes) = MailFile.entry($0), promised.contains(id.description),
                    !records.contains(where: { $0.id == id })
                else { return nil }
                return ($0, id, bytes)
            }
            let messages = records.count + files.count
            let bytes = records.reduce(0) { $0 + $1.contentBytes } + files.reduce(0) { $0 + $1.bytes }
            if domain == "b.test", messages > Self.quotaMessages { fail("quota", "\(messages) messages in b.test") }
            if domain == "d.test", bytes > Self.quotaBytes { fail("quota", "\(bytes) bytes in d.test") }
            guard let store = gateway.keeper.stores[id], store.state.load(ordering: .relaxed) != .listing,
                messages > store.used.messages
            else { continue }
            // What is damaged is no longer counted, and may still have its name.
            let whole = files.filter { isWhole(world.disk.contents(of: "\(path)/\($0.name)") ?? [], $0.id) }
            if records.count + whole.count > store.used.messages {
                fail("uncounted", "\(domain) has \(records.count + whole.count) messages and counts \(store.used)")
            }
        }
    }

    /// Nothing is held when nothing is under way.
    private func lookAtRest() {
        let disk = world.disk
        if disk.openHandles != gateway.handlesAtRest {
            fail("leak", "\(disk.openHandles) file handles, at the start \(gateway.handlesAtRest)")
        }
        if world.openSockets != gateway.cores.count { fail("leak", "\(world.openSockets) sockets are open") }
        if gateway.memoryBytes != 0 { fail("leak", "\(gateway.memoryBytes) bytes of message memory") }
        if world.counters.badHandles != 0 { fail("bad-handle", "a file handle was used after its close") }
        if world.counters.missingNames != 0 { fail("taken-away", "a file was to be renamed and was gone") }
        let promised = Set(ledger.compactMap { $0.id?.description })
        for (domain, path) in stores {
            guard let route = gateway.directory.snapshot.gateway(forDomain: domain),
                let store = gateway.keeper.stores[route.id]
            else { continue }
            if store.used != (0, 0) { fail("counters", "\(domain) counts \(store.used) and waits for nothing") }
            // What is reserved shows only as room that is missing.
            let quota = { Gateway.Quota(maxMessages: nil, maxBytes: $0, code: nil) }
            if !store.mayTake(0, quota(0)) || store.mayTake(1, quota(0)) {
                fail("leak", "\(domain) has reserved bytes for nothing")
            }
            // A file whose writing failed, and its removal too, was never promised and goes with the next start.
            let mayBeLeft = world.counters.failedFileSteps > 0
            let left = (disk.names(in: path) ?? []).filter { name in
                guard case .message(let id, _) = MailFile.entry(name) else { return false }
                if mayBeLeft, !promised.contains(id.description) { return false }
                return isWhole(disk.contents(of: "\(path)/\(name)") ?? [], id)
            }
            if !left.isEmpty { fail("counters", "\(domain) counts nothing and holds \(left.joined(separator: " "))") }
        }
    }

    /// What isn't is set aside; should its new name fail, that is done again after the next start.
    private func isWhole(_ bytes: [UInt8], _ id: QueueID) -> Bool {
        guard let head = try? MailFile.readHead(bytes[...], of: id),
            bytes.count == head.sizes.contentOffset + head.sizes.contentBytes
        else { return false }
        let content = MessageContent()
        content.append(Array(bytes[head.sizes.contentOffset...]))
        return content.crc == head.sizes.contentCRC
    }

    /// After a start that found nothing to do.
    private func lookAtResidue() {
        for (domain, path) in stores {
            let left = (world.disk.names(in: path) ?? []).filter {
                switch MailFile.entry($0) {
                case .head, .damaged: false
                default: true
                }
            }
            if !left.isEmpty { fail("residue", "\(domain) keeps \(left.joined(separator: " "))") }
        }
    }

    /// Domains with their mail directories.
    var stores: [(domain: String, path: String)] {
        gateway.directory.snapshot.gateways.map { ($0.domain, gateway.keeper.path(of: $0)) }
    }

    // MARK: What it met

    var tally: [(name: String, count: Int)] {
        let world = world.counters
        let outcome = arrivals
        return [
            ("messages", ledger.count), ("promised", ledger.count { $0.id != nil }),
            ("delivered", outcome.delivered), ("bounced", outcome.bounced), ("queued", outcome.queued),
            ("removed", outcome.removed), ("again", outcome.again), ("open-at-ends", outcome.openCount),
            ("kills", world.kills), ("power-losses", world.powerLosses), ("torn-files", world.tornFiles),
            ("stale-sectors", world.staleSectors), ("lost-names", world.lostEntryChanges),
            ("tasks-cut", world.tasksCut), ("accepts-cut", troubles.acceptsCut), ("settles-cut", troubles.settlesCut),
            ("recoveries-cut", troubles.recoveriesCut), ("starts-cut", troubles.startsCut), ("stops", troubles.stops),
            ("cut-connections", world.cutConnections), ("refused-connections", world.refusedConnections),
            ("outages", troubles.outages), ("blackholes", troubles.blackholes), ("failed-syncs", world.failedSyncs),
            ("failed-steps", world.failedFileSteps), ("full-disks", world.fullDisks),
            ("short-writes", world.shortWrites), ("hangs", world.hangs), ("clock-jumps", world.wallJumps),
            ("stalls", world.stalls), ("failed-lookups", world.failedLookups), ("created", troubles.created),
            ("deleted", troubles.deleted), ("holds", troubles.holds), ("disabled", troubles.disabled),
            ("flushes", troubles.flushes), ("admin-deletes", troubles.removals), ("admin-bounces", troubles.returns),
            ("next-hop-changes", troubles.nextHopChanges), ("notes-orphaned", troubles.notesOrphaned),
            ("late-listings", troubles.lateListings), ("moves-broken", troubles.movesBroken),
            ("journaled", troubles.journaled),
            ("moved", troubles.moved), ("segments", troubles.segments), ("recovered", troubles.recovered),
            ("log-writes", world.logWrites),
        ]
    }
}
