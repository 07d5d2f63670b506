import Glibc
import Protocols
import Reactor

/// Gateways with their mail directories, over a disk that exists in memory only.
final class Fixture {
    static let wall: Int64 = 1_796_033_564_000_000_000
    static let dataPath = "data"
    static let envelope = Envelope(
        reversePath: Sample.sender, is8Bit: true, recipients: [Envelope.Recipient(path: Sample.recipient)],
        client: Envelope.Client(address: "192.0.2.77", helo: "out3.sender.example"))

    /// Takes lines and has no thread any more that would take them away, so that each run counts the same.
    static var closedLog: LogWriter {
        guard let writer = try? LogWriter(path: "/dev/null") else { fatalError("/dev/null can't be opened") }
        writer.shutDown()
        return writer
    }

    let world = SimulatedWorld(seed: 1)
    let routes: Routes
    private let keeper: StoreKeeper
    var ids = QueueIDMaker(start: 1, reactor: 0)

    /// - Parameters:
    ///   - gateways: how many, that of `Sample` among them.
    ///   - keys: of each gateway's document, `key=value`.
    init(gateways: Int, _ keys: String...) {
        do {
            let directory = try SQLiteDirectory(inMemoryWith: { 1_796_033_564_000 })
            keeper = StoreKeeper(
                dataPath: Self.dataPath, files: world.disk, directory: directory, random: { 1 }, close: { _ in })
            for number in 0..<gateways {
                let domain = number == 0 ? Sample.domain : Sample.domain(17 + number)
                var document = try GatewayDocument(domain: domain)
                try document.apply(["forward.server=198.51.100.7", "forward.tls=none"] + keys)
                _ = try directory.create(document)
            }
            for gateway in [directory.snapshot.system] + directory.snapshot.gateways { _ = try keeper.open(gateway) }
            routes = Routes(snapshot: directory.snapshot, stores: keeper.stores, devices: keeper.devices)
        } catch {
            fatalError("\(error)")
        }
    }

    var route: Route { routes.route(forDomain: Sample.domain)! }

    /// Arrived, not stored yet.
    func message() -> IncomingMessage {
        let content = MessageContent()
        content.append(Sample.content)
        return IncomingMessage(
            id: ids.next(wall: Self.wall), content: content,
            parcels: [IncomingParcel(route: route, envelope: Self.envelope)],
            owner: Token(kind: TokenKind.receive, generation: 0, index: 0))
    }

    /// One reactor's journal.
    func journal(_ settings: JournalSettings) -> JournalStart {
        do {
            return try JournalOpener(
                dataPath: Self.dataPath, files: world.disk, random: { 1 }, store: { [keeper] in keeper.stores[$0] },
                note: { _, _, _ in }
            ).open(settings, reactors: 1)![0]
        } catch {
            fatalError("\(error)")
        }
    }
}
