import Protocols
import Reactor

/// One ETRN (RFC 1985): whose mail it asks for, whether the asker may have it, and how much of it is on its way now.
///
/// A domain that is unknown, another's, or whose customer takes his mail another way: one answer, at once (T-C4).
final class Summons {
    private unowned let core: Core
    private let request: ETRNRequest
    private let user: String?
    private let client: IPAddress
    private let asker: Token
    private var answersLeft = 0
    private var count = 0
    private var isUnable = false

    init(core: Core, _ request: ETRNRequest, user: String?, client: IPAddress, asker: Token) {
        (self.core, self.request, self.user, self.client, self.asker) = (core, request, user, client, asker)
    }

    /// Tells the homes. The reply, where there is nobody to ask.
    func start() -> ETRNReply? {
        let gateways = named.filter(isGranted)
        guard !gateways.isEmpty else {
            let snapshot = core.routes.snapshot
            return user == nil && snapshot.etrnOpenCount == 0 ? .authenticationRequired : .notAllowed(request)
        }
        let address = SessionAddress(core: core.index, token: asker)
        for gateway in gateways {
            guard let route = core.routes.route(forID: gateway.id) else { continue }
            answersLeft += 1
            core.send(
                .customer(QueueKey(gatewayID: gateway.id), address, .summon(hop(route))),
                to: Routes.home(of: gateway.id, reactors: core.count))
        }
        return answersLeft == 0 ? .unable(request) : nil
    }

    /// A home's answer; with the last one the reply.
    func received(_ message: ToCustomerSession) -> ETRNReply? {
        switch message {
        case .waiting(let count): self.count += count
        case .refused: isUnable = true
        default: return nil
        }
        answersLeft -= 1
        guard answersLeft == 0 else { return nil }
        if count > 0 { return .pendingCountStarted(count, request) }
        return isUnable ? .unable(request) : .nothingWaits(request)
    }

    private var named: [Gateway] {
        let snapshot = core.routes.snapshot
        switch request {
        case .domain(let domain): return snapshot.gateway(forDomain: domain.description).map { [$0] } ?? []
        case .subtree(let domain):
            // All gateways are gone through only where the address alone may say who asks.
            let all = snapshot.etrnOpenCount > 0
            let mine = user.map { snapshot.gateways(ofCustomer: $0) } ?? []
            return all
                ? snapshot.gateways(within: domain.description)
                : mine.filter { QualifiedDomain($0.domain)?.isWithin(domain) ?? false }
        case .queue(let name): return snapshot.gateways(ofCustomer: name)
        }
    }

    private func isGranted(_ gateway: Gateway) -> Bool {
        let etrn = gateway.dequeue.etrn
        guard gateway.dequeue.method == .etrn, !etrn.deny.contains(where: { $0.contains(client) }) else { return false }
        let isAllowed = etrn.allow.contains { $0.contains(client) }
        guard etrn.requiresAuthentication else { return isAllowed }
        let isCustomer = user.map { UserName.folded($0) == gateway.dequeue.user } ?? false
        return isCustomer && (etrn.allow.isEmpty || isAllowed)
    }

    /// nil: where the gateway's mail always goes.
    private func hop(_ route: Route) -> Route? {
        let etrn = route.gateway.dequeue.etrn
        let server: Gateway.NextHop? = etrn.sendsToRequester ? .address(client) : etrn.server.map { .init($0) }
        return server.map { Route(gateway: route.gateway.with($0, port: etrn.port), store: route.store) }
    }
}

extension Core {
    /// AUTH serves ETRN: without a gateway that wants it, it is not offered.
    var etrnOffer: SASLOffer? {
        guard routes.snapshot.etrnCount > routes.snapshot.etrnOpenCount else { return nil }
        return saslOffer([.scramSHA256, .cramMD5, .plain, .login])
    }
}
