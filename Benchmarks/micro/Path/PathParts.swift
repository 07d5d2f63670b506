import Protocols
import Reactor

/// The whole way of a message through one reactor, over a world that costs nothing: ten clients, commits of ten.
var pathParts: [Part] {
    [
        Part(name: "path-accept", rounds: 200, messagesPerRound: WholePath.clients) {
            let path = WholePath(relays: false, journal: .none)
            return { path.round() }
        },
        Part(name: "path-relay", rounds: 200, messagesPerRound: WholePath.clients) {
            let path = WholePath(relays: true, journal: .none)
            return { path.round() }
        },
        Part(name: "path-relay-journal", rounds: 200, messagesPerRound: WholePath.clients) {
            let path = WholePath(
                relays: true, journal: JournalSettings(segmentBytes: 16 << 20, limitBytes: 16 * (16 << 20)))
            return { path.round() }
        },
    ]
}

/// One reactor, its clients and its primary.
private final class WholePath {
    static let clients = 10
    /// Accepted and not handed on yet; more hold the clients back.
    private static let underWayMax = 3 * clients
    private static let stepsMax = 10_000

    private let fixture: Fixture
    private let backend = StillBackend()
    private let core: Core
    private let counters = Counters()
    private let clients = (0..<WholePath.clients).map { _ in StillClient() }
    private let relays: Bool
    /// A step may bring more than a round wants: that is the next one's.
    private var target = 0

    /// - Parameter relays: else the mail waits.
    init(relays: Bool, journal: JournalSettings) {
        self.relays = relays
        fixture = Fixture(gateways: 300, "hold=\(!relays)")
        let context: TLSContext
        do throws(TLSConfigurationFault) { context = try TLSContext(client: .nothing) } catch { fatalError("\(error)") }
        let settings = CoreSettings(
            hostname: "mx1.provider.test", messageSizeMax: 50 << 20, recipientsMax: 1_000, connectionsMax: 1_000,
            connectionsPerNetworkMax: 1_000, messageMemoryBytes: 16 << 20, trust: Configuration.Trust(),
            identity: Identity(names: ["mx1.provider.test"], addresses: [IPAddress("192.0.2.1")!], ports: [25]),
            serverTLS: nil, clientTLS: CoreSettings.ClientTLS(unverified: context, verified: context),
            logins: LoginMeans(nobodySecret: [UInt8](repeating: 0, count: 32)))
        backend.makePrimary = { StillPrimary() }
        core = Core(
            Core.Parts(
                index: 0, count: 1, start: 1, firstStartOfThisBoot: 1, lastSeen: 0, settings: settings,
                routes: fixture.routes,
                listeners: [CoreListener(socket: backend.listener, kind: .smtp, address: "192.0.2.1:25")],
                outboxes: [nil], inboxes: [], counters: counters, logWriter: Fixture.closedLog, logLevel: .info,
                journal: journal == .none ? nil : fixture.journal(journal)), backend: backend)
        core.start()
        while core.recovering > 0 { core.step() }
        for client in clients {
            client.mayGoOn = { [unowned self] in !relays || accepted - delivered < Self.underWayMax }
            backend.arrive(client)
        }
    }

    private var accepted: Int { clients.reduce(0) { $0 + $1.accepted } }
    private var delivered: Int { counters.delivered.load(ordering: .relaxed) }

    /// So many messages more as there are clients.
    func round() {
        target += Self.clients
        for _ in 0..<Self.stepsMax {
            if (relays ? delivered : accepted) >= target { return }
            core.step()
        }
        fatalError("accepted \(accepted), delivered \(delivered), and no more")
    }
}
