internal import HashTreeCollections

/// All gateways and the server-wide policy at one moment, for the reactors. It never changes: a change makes the next
/// one, which shares all but a few nodes of its trees with this one.
public final class DirectorySnapshot: Sendable {
    /// Grows by one with each change.
    public let number: UInt64
    public let settings: Settings
    /// The server's own queue, `@system`.
    public let system: Gateway
    private let gatewaysByDomain: TreeDictionary<String, Gateway>
    private let gatewaysByID: TreeDictionary<UInt64, Gateway>

    /// Without gateways, all settings at their defaults.
    public convenience init() {
        let settings = Settings()
        self.init(number: 0, settings: settings, system: .system(settings), gatewaysByDomain: [:], gatewaysByID: [:])
    }

    private init(
        number: UInt64, settings: Settings, system: Gateway, gatewaysByDomain: TreeDictionary<String, Gateway>,
        gatewaysByID: TreeDictionary<UInt64, Gateway>
    ) {
        self.number = number
        self.settings = settings
        self.system = system
        self.gatewaysByDomain = gatewaysByDomain
        self.gatewaysByID = gatewaysByID
    }

    /// Without `@system`.
    public var gatewayCount: Int { gatewaysByID.count }

    /// - Parameter domain: A-labels in lower case, as `DomainNameNormaliser.aLabel` makes them.
    public func gateway(forDomain domain: String) -> Gateway? { gatewaysByDomain[domain] }

    /// 0 is `@system`.
    public func gateway(forID id: UInt64) -> Gateway? { id == Gateway.systemID ? system : gatewaysByID[id] }

    /// By rising id, without `@system`.
    public var gateways: [Gateway] { gatewaysByID.values.sorted { $0.id < $1.id } }

    /// The reply's code to mail beyond `gateway`'s quota.
    public func quotaCode(for gateway: Gateway) -> Gateway.QuotaCode { gateway.quota?.code ?? settings.quotaCode }

    /// The next snapshot: `changed` put in, each in the place of the one with its id, and `removed` taken out.
    func next(changed: [Gateway] = [], removed: [UInt64] = [], settings: Settings? = nil) -> DirectorySnapshot {
        var byDomain = gatewaysByDomain
        var byID = gatewaysByID
        for id in removed {
            if let gateway = byID.removeValue(forKey: id) { byDomain[gateway.domain] = nil }
        }
        for gateway in changed {
            byDomain[gateway.domain] = gateway
            byID[gateway.id] = gateway
        }
        return DirectorySnapshot(
            number: number + 1, settings: settings ?? self.settings, system: settings.map { .system($0) } ?? system,
            gatewaysByDomain: byDomain, gatewaysByID: byID)
    }
}
