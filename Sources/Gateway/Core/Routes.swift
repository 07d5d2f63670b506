import HashTreeCollections
import Reactor

/// A gateway with its open mail directory.
struct Route: Sendable {
    let gateway: Gateway
    let store: Store
}

/// The directory's snapshot with the stores that belong to it: what reactors look recipients up in.
final class Routes: Sendable {
    let snapshot: DirectorySnapshot
    private let stores: TreeDictionary<UInt64, Store>
    /// Free space is measured once a device.
    let devices: [Device]

    init(snapshot: DirectorySnapshot, stores: TreeDictionary<UInt64, Store>, devices: [Device]) {
        (self.snapshot, self.stores, self.devices) = (snapshot, stores, devices)
    }

    /// - Parameter domain: A-labels in lower case.
    func route(forDomain domain: String) -> Route? {
        guard let gateway = snapshot.gateway(forDomain: domain), let store = stores[gateway.id] else { return nil }
        return Route(gateway: gateway, store: store)
    }

    func route(forID id: UInt64) -> Route? {
        guard let gateway = snapshot.gateway(forID: id), let store = stores[id] else { return nil }
        return Route(gateway: gateway, store: store)
    }

    var system: Route? { route(forID: Gateway.systemID) }

    /// All gateways' ids, `@system` first, in order.
    var ids: [UInt64] { [Gateway.systemID] + snapshot.gateways.map(\.id) }

    /// Any open mail directory on a device.
    func store(on device: Device) -> Store? { stores.values.first { $0.device === device && $0.directory >= 0 } }

    /// The reactor that keeps a gateway's queue. The ids are dense, so this spreads as well as a hash.
    static func home(of id: UInt64, reactors: Int) -> Int { Int(id % UInt64(reactors)) }
}
