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
    /// Of those that have one, by its user.
    private let mailboxes: TreeDictionary<String, UInt64>
    /// Gateways that ATRN or ETRN take from, by their customer, in order of their ids.
    private let customers: TreeDictionary<String, [UInt64]>
    private let knownByAddress: [UInt64]
    /// Gateways that ETRN starts, and those of them that want no AUTH.
    let etrnCount: Int
    let etrnOpenCount: Int

    /// Without gateways, all settings at their defaults.
    public convenience init() {
        let settings = Settings()
        self.init(
            number: 0, settings: settings, system: .system(settings), gatewaysByDomain: [:], gatewaysByID: [:],
            mailboxes: [:], customers: [:], knownByAddress: [], etrnCount: 0, etrnOpenCount: 0)
    }

    private init(
        number: UInt64, settings: Settings, system: Gateway, gatewaysByDomain: TreeDictionary<String, Gateway>,
        gatewaysByID: TreeDictionary<UInt64, Gateway>, mailboxes: TreeDictionary<String, UInt64>,
        customers: TreeDictionary<String, [UInt64]>, knownByAddress: [UInt64], etrnCount: Int, etrnOpenCount: Int
    ) {
        self.number = number
        self.settings = settings
        self.system = system
        self.gatewaysByDomain = gatewaysByDomain
        self.gatewaysByID = gatewaysByID
        self.mailboxes = mailboxes
        self.customers = customers
        self.knownByAddress = knownByAddress
        (self.etrnCount, self.etrnOpenCount) = (etrnCount, etrnOpenCount)
    }

    /// Without `@system`.
    public var gatewayCount: Int { gatewaysByID.count }

    /// - Parameter domain: A-labels in lower case, as `DomainNameNormaliser.aLabel` makes them.
    public func gateway(forDomain domain: String) -> Gateway? { gatewaysByDomain[domain] }

    /// 0 is `@system`.
    public func gateway(forID id: UInt64) -> Gateway? { id == Gateway.systemID ? system : gatewaysByID[id] }

    /// Whose mailbox `user` logs in to, in any case of its letters.
    func mailbox(ofUser user: String) -> Gateway? { mailboxes[UserName.folded(user)].flatMap { gatewaysByID[$0] } }

    /// The gateways that are one customer's, by rising id; empty: there is no such customer.
    func gateways(ofCustomer user: String) -> [Gateway] {
        (customers[UserName.folded(user)] ?? []).compactMap { gatewaysByID[$0] }
    }

    /// Those whose mail ATRN takes without a login, by its address alone.
    var gatewaysKnownByAddress: [Gateway] { knownByAddress.compactMap { gatewaysByID[$0] } }

    /// The domain's and those of all below it.
    func gateways(within domain: String) -> [Gateway] {
        let suffix = "." + domain
        return gatewaysByDomain.filter { $0.key == domain || $0.key.hasSuffix(suffix) }.values.sorted { $0.id < $1.id }
    }

    /// By rising id, without `@system`.
    public var gateways: [Gateway] { gatewaysByID.values.sorted { $0.id < $1.id } }

    /// The reply's code to mail beyond `gateway`'s quota.
    public func quotaCode(for gateway: Gateway) -> Gateway.QuotaCode { gateway.quota?.code ?? settings.quotaCode }

    /// The next snapshot: `changed` put in, each in the place of the one with its id, and `removed` taken out.
    func next(changed: [Gateway] = [], removed: [UInt64] = [], settings: Settings? = nil) -> DirectorySnapshot {
        var byDomain = gatewaysByDomain
        var byID = gatewaysByID
        var mailboxes = mailboxes
        var customers = customers
        var knownByAddress = Set(knownByAddress)
        var (etrnCount, etrnOpenCount) = (etrnCount, etrnOpenCount)
        let count = { (gateway: Gateway, change: Int) in
            guard gateway.dequeue.method == .etrn else { return }
            etrnCount += change
            if !gateway.dequeue.etrn.requiresAuthentication { etrnOpenCount += change }
        }
        let forget = { (gateway: Gateway) in
            byDomain[gateway.domain] = nil
            knownByAddress.remove(gateway.id)
            count(gateway, -1)
            if let user = gateway.dequeue.mailbox?.user, mailboxes[user] == gateway.id { mailboxes[user] = nil }
            if gateway.isCustomers {
                let left = (customers[gateway.dequeue.user] ?? []).filter { $0 != gateway.id }
                customers[gateway.dequeue.user] = left.isEmpty ? nil : left
            }
        }
        for id in removed { if let gateway = byID.removeValue(forKey: id) { forget(gateway) } }
        for gateway in changed {
            if let old = byID[gateway.id] { forget(old) }
            byDomain[gateway.domain] = gateway
            byID[gateway.id] = gateway
            if gateway.isKnownByAddress { knownByAddress.insert(gateway.id) }
            count(gateway, 1)
            if let user = gateway.dequeue.mailbox?.user { mailboxes[user] = gateway.id }
            if gateway.isCustomers {
                customers[gateway.dequeue.user] = ((customers[gateway.dequeue.user] ?? []) + [gateway.id]).sorted()
            }
        }
        return DirectorySnapshot(
            number: number + 1, settings: settings ?? self.settings, system: settings.map { .system($0) } ?? system,
            gatewaysByDomain: byDomain, gatewaysByID: byID, mailboxes: mailboxes, customers: customers,
            knownByAddress: knownByAddress.sorted(), etrnCount: etrnCount, etrnOpenCount: etrnOpenCount)
    }
}

extension Gateway {
    /// Its customer's secret opens it, or is held by it.
    fileprivate var isCustomers: Bool { dequeue.method == .atrn || dequeue.method == .etrn || dequeue.secret != nil }

    fileprivate var isKnownByAddress: Bool { dequeue.method == .atrn && !dequeue.atrn.requiresAuthentication }
}
