import DequeModule
import Glibc
import Protocols
import Reactor

/// What the product itself does with a message.
var gatewayParts: [Part] {
    [
        // Domain of a recipient to its gateway, among 300.
        Part(name: "recipient-lookup") {
            let fixture = Fixture(gateways: 300)
            return {
                let name = DomainNameNormaliser.aLabel(Sample.domain)!
                precondition(fixture.routes.route(forDomain: name) != nil)
            }
        },
        // Copied once, its checksum beside it.
        Part(name: "content-keep") {
            let content = Sample.content.fixed
            return {
                let kept = MessageContent()
                kept.append(content)
                keep(kept)
            }
        },
        Part(name: "mail-head") {
            let fixture = Fixture(gateways: 1)
            let envelope = Fixture.envelope
            return { keep(IncomingParcel(route: fixture.route, envelope: envelope)) }
        },
        Part(name: "queue-id") {
            var ids = QueueIDMaker(start: 1, reactor: 0)
            return { keep(ids.next(wall: Fixture.wall).description) }
        },
        // One batch of 64 messages, ready for the lane.
        Part(name: "journal-append", rounds: 100, messagesPerRound: JournalWork.messages) {
            let work = JournalWork()
            return { work.append() }
        },
        // The ends of 64 messages, ready for the lane.
        Part(name: "journal-settle", rounds: 100, messagesPerRound: JournalWork.messages) {
            let work = JournalWork()
            return { work.settle() }
        },
        // Into the index and the queue of its gateway, leased, out again, beside ten thousand that wait.
        Part(name: "queue-index") {
            let work = QueueWork(waiting: 10_000)
            return { work.pass() }
        },
        // One line when it is accepted and one when it leaves.
        Part(name: "log-lines") {
            let fixture = Fixture(gateways: 1)
            let log = EventLog(
                writer: Fixture.closedLog, level: .info, reactor: Reactor(backend: StillBackend()), counters: Counters()
            )
            let id = fixture.ids.next(wall: Fixture.wall)
            let idText = id.description
            let reply = Reply(250, EnhancedStatus(2, 0, 0), "Ok: queued as 4F1C2A0B33")
            return {
                log.accepted(
                    idText, from: Sample.sender, recipients: 1, gateways: 1, bytes: Sample.content.count,
                    client: "192.0.2.77", session: "0-12-3456")
                log.attempt(
                    id, to: Sample.recipient, domain: Sample.domain, relay: "198.51.100.7:25", delayMilliseconds: 12,
                    outcome: "sent", reply: reply)
                log.flush()
            }
        },
    ]
}

/// A segment that is filled anew in each round.
private final class JournalWork {
    static let messages = 64

    private let fixture = Fixture(gateways: 1)
    private let segment = JournalSegment(slot: 0, handle: 3, bytes: JournalFormat.segmentMaxBytes, journal: 0x1234_5678)
    private var waiting: Deque<IncomingMessage> = []
    private var ends: Deque<JournalEnd> = []
    private let stock: [IncomingMessage]
    private let token = Token(kind: TokenKind.journal, generation: 0, index: 0)

    init() {
        stock = (0..<Self.messages).map { [fixture] _ in fixture.message() }
        waiting.reserveCapacity(Self.messages)
        ends.reserveCapacity(Self.messages)
    }

    func append() {
        segment.begin(generation: 1)
        waiting.append(contentsOf: stock)
        write(expecting: Self.messages)
    }

    func settle() {
        if segment.generation == 0 {
            append()
            for message in stock { segment.add(message.parcels[0].place) }
        }
        segment.end = JournalFormat.blockBytes
        for message in stock {
            ends.append(
                JournalEnd(
                    place: message.parcels[0].place, id: message.id, store: message.parcels[0].store,
                    bytes: message.content.count, purpose: .settled(credit: nil)))
        }
        write(expecting: 0)
    }

    private func write(expecting count: Int) {
        guard let batch = JournalBatch(of: segment, core: 0, messages: &waiting, ends: &ends, now: 1),
            batch.messages.count == count, waiting.isEmpty, ends.isEmpty
        else { fatalError("the segment has no room") }
        keep(batch.makeTask(token, device: 1))
    }
}

private final class QueueWork {
    private let fixture = Fixture(gateways: 1)
    private var index = ParcelIndex()
    private let queue: GatewayQueue
    private let hot: HotParcel
    private let place = JournalPlace(core: 0, slot: 1, generation: 1, offset: 4096)

    init(waiting: Int) {
        queue = GatewayQueue(key: QueueKey(gatewayID: fixture.route.gateway.id), number: 0, route: fixture.route)
        let message = fixture.message()
        hot = HotParcel(envelope: Fixture.envelope, content: message.content)
        for _ in 0..<waiting { insert() }
    }

    private func insert() {
        let reference = index.insert(
            fixture.ids.next(wall: Fixture.wall), bytes: Sample.content.count, queue: 0, hot: hot, place: place)
        queue.append(reference)
    }

    func pass() {
        insert()
        guard let reference = queue.takeReady(index) else { fatalError("nothing waits") }
        index[reference].state = .leased
        keep(index[reference])
        index[reference].hot = nil
        index.remove(reference)
    }
}
