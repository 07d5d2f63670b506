import Glibc
import Protocols
import Reactor

/// Who may hand in what: decides about connections, recipients and content, by the routes, the stores' state and the quotas.
extension Core {
    enum Admitted {
        /// `destination` is empty but for mail of our own.
        case accept(Route, path: String, destination: String)
        case refuse(Reply)
    }

    // MARK: Connections

    /// nil: the client is greeted.
    func admission(of client: IPAddress) -> Reply? {
        if isStopping { return Reply(421, EnhancedStatus(4, 3, 2), "\(settings.hostname) is stopping, try again") }
        guard !isUnlimited(client) else { return nil }
        if networks.count(of: client) > settings.connectionsPerNetworkMax {
            return Reply(421, EnhancedStatus(4, 7, 0), "Too many connections from your network, try again later")
        }
        return nil
    }

    func isUnlimited(_ client: IPAddress) -> Bool { settings.trust.unlimited.contains { $0.contains(client) } }

    /// Nanoseconds until a TLS handshake may begin; nil: never.
    func handshakeWait(of client: IPAddress) -> UInt64? {
        isUnlimited(client) ? 0 : networks.handshake(client, now: reactor.now, reactors: count)
    }

    // MARK: Recipients

    /// - Parameters:
    ///   - size: as declared at MAIL, 0 if it was not.
    ///   - mayAdd: whether the transaction has the store already, or room for one more.
    func admit(_ address: MailAddress, size: Int, mayAdd: (Store) -> Bool) -> Admitted {
        let isPostmaster = address.isPostmaster
        guard let domain = address.domain else { return ownPostmaster(address, size) }
        guard case .name(let text) = domain, let name = DomainNameNormaliser.aLabel(text) else {
            return .refuse(Self.notServed(address))
        }
        guard let route = routes.route(forDomain: name) else {
            if isPostmaster, settings.identity.names.contains(name) { return ownPostmaster(address, size) }
            return .refuse(Self.notServed(address))
        }
        guard route.gateway.isEnabled else {
            return .refuse(
                Reply(450, EnhancedStatus(4, 2, 1), "The gateway of <\(address)> is disabled, try again later"))
        }
        if let refusal = refusal(of: route, size: size, isPostmaster: isPostmaster) { return .refuse(refusal) }
        if !mayAdd(route.store) {
            return .refuse(
                Reply(452, EnhancedStatus(4, 5, 3), "Too many domains in one message, send the rest in another"))
        }
        return .accept(route, path: address.description, destination: "")
    }

    private static func notServed(_ address: MailAddress) -> Reply {
        Reply(550, EnhancedStatus(5, 7, 1), "No gateway here for <\(address)>")
    }

    /// `<Postmaster>` and Postmaster at our own names (RFC 5321 §4.5.1): to where the settings say, or kept.
    private func ownPostmaster(_ address: MailAddress, _ size: Int) -> Admitted {
        if let target = routes.snapshot.settings.postmaster {
            if case .name(let text)? = target.domain, let name = DomainNameNormaliser.aLabel(text),
                let route = routes.route(forDomain: name), route.gateway.isEnabled
            {
                if let refusal = refusal(of: route, size: size, isPostmaster: true) { return .refuse(refusal) }
                return .accept(route, path: target.description, destination: "")
            }
            guard let system = routes.system else { return .refuse(Self.notNow) }
            if let refusal = refusal(of: system, size: size, isPostmaster: true) { return .refuse(refusal) }
            return .accept(system, path: target.description, destination: systemDestination(target.description))
        }
        guard let system = routes.system else { return .refuse(Self.notNow) }
        if let refusal = refusal(of: system, size: size, isPostmaster: true) { return .refuse(refusal) }
        return .accept(system, path: "postmaster", destination: Queues.keptDestination)
    }

    private static var notNow: Reply {
        Reply(451, EnhancedStatus(4, 3, 0), "Mail directory unavailable, try again later")
    }

    /// Room that Postmaster has beyond a full quota.
    private static let postmasterExtraBytes = 64 << 10

    private func refusal(of route: Route, size: Int, isPostmaster: Bool) -> Reply? {
        let store = route.store
        if store.isClosing { return Self.beingDeleted }
        switch store.state.load(ordering: .relaxed) {
        case .ready: break
        case .listing:
            if route.gateway.quota != nil {
                return Reply(451, EnhancedStatus(4, 3, 2), "The mail directory is being counted, try again in a moment")
            }
        case .failed:
            return Reply(452, EnhancedStatus(4, 3, 1), "The mail directory does not take mail now, try again later")
        case .unavailable: return Self.notNow
        }
        if store.device.isHanging { return Self.diskHangs }
        if !store.device.hasRoom(for: size) { return Self.diskFull }
        if let quota = route.gateway.quota,
            !store.mayTake(isPostmaster ? max(0, size - Self.postmasterExtraBytes) : size, quota)
        {
            if isPostmaster, store.mayTake(size, Self.extended(quota)) { return nil }
            return quotaRefusal(route.gateway)
        }
        return nil
    }

    private static var diskFull: Reply {
        Reply(452, EnhancedStatus(4, 3, 1), "Insufficient system storage, try again later")
    }

    static var beingDeleted: Reply {
        Reply(450, EnhancedStatus(4, 2, 1), "The gateway is being deleted, try again later")
    }

    private static var spoolBusy: Reply {
        Reply(451, EnhancedStatus(4, 3, 1), "The spool is busy, try again in a moment")
    }

    private static var diskHangs: Reply {
        Reply(451, EnhancedStatus(4, 3, 0), "The disk of the mail directory does not answer, try again later")
    }

    // MARK: Quota

    func quotaRefusal(_ gateway: Gateway) -> Reply {
        switch routes.snapshot.quotaCode(for: gateway) {
        case .tryAgain: Reply(452, EnhancedStatus(4, 2, 2), "\(gateway.domain) is over its quota, try again later")
        case .bounce: Reply(552, EnhancedStatus(5, 2, 2), "\(gateway.domain) is over its quota")
        }
    }

    /// What is charged against: Postmaster may exceed by 64 KiB, and one message.
    func quota(of gateway: Gateway, for envelope: Envelope) -> Gateway.Quota? {
        guard let quota = gateway.quota else { return nil }
        let isPostmaster = envelope.recipients.allSatisfy {
            $0.path.prefix(11).lowercased() == "postmaster@" || $0.path.lowercased() == "postmaster"
        }
        return isPostmaster ? Self.extended(quota) : quota
    }

    private static func extended(_ quota: Gateway.Quota) -> Gateway.Quota {
        Gateway.Quota(
            maxMessages: quota.maxMessages.map { $0 + 1 }, maxBytes: quota.maxBytes.map { $0 + postmasterExtraBytes },
            code: quota.code)
    }

    // MARK: Content

    /// Asked at DATA; nil: the content may come (design rule M10).
    func contentRefusal(_ size: Int, _ stores: [Store], client: IPAddress) -> Reply? {
        if !isUnlimited(client),
            networks.wasted(by: client, now: reactor.now) > Limits.wastedMessages * settings.messageSizeMax
        {
            return Reply(
                421, EnhancedStatus(4, 7, 0), "Too much mail from your network was broken off, try again later")
        }
        if isStopping { return Reply(421, EnhancedStatus(4, 3, 2), "\(settings.hostname) is stopping, try again") }
        for store in stores {
            if store.device.isHanging { return Self.diskHangs }
            if !store.device.hasRoom(for: max(size, 64 << 10)) { return Self.diskFull }
            if spool.pendingBytes(on: store.device) > Limits.uncommittedBytesMax { return Self.spoolBusy }
        }
        if announcedAhead > Limits.announcedMax { return Self.spoolBusy }
        return nil
    }

    /// The reply to a message that could not be made durable (P5: never a 250, always a 4xx).
    func refusal(for fault: CommitFault) -> Reply {
        if fault.isFull { return Self.diskFull }
        return Reply(451, EnhancedStatus(4, 3, 0), "The message could not be stored, try again later")
    }

    /// A message of this client should be written as it arrives.
    func isMemoryTight(for client: IPAddress) -> Bool {
        memoryBytes > settings.messageMemoryBytes
            || (!isUnlimited(client)
                && networks.memory(of: client) > settings.messageMemoryBytes / Limits.networkShare)
    }

    func memory(_ client: IPAddress, changedBy bytes: Int) {
        memoryBytes += bytes
        networks.memory(client, changedBy: bytes)
    }
}

/// Connections, message memory and wasted bytes by client network: an IPv4 /24 or an IPv6 /56.
struct ClientNetworks {
    private struct Use {
        var connections = 0
        var memory = 0
        /// Of content that was broken off or refused for what it was, since `wastedAt` (monotonic nanoseconds).
        var wasted = 0
        var wastedAt: UInt64 = 0
        /// When the handshakes begun so far are worked off, at the allowed rate.
        var handshakesUntil: UInt64 = 0

        var isOver: Bool { connections <= 0 && memory <= 0 && wasted == 0 && handshakesUntil == 0 }
    }
    private var uses: [UInt64: Use] = [:]

    /// Waste is forgotten after so long.
    private static let wasteNanoseconds: UInt64 = 600 * Limits.nanosecondsPerSecond
    /// Networks whose waste is remembered; above, all waste is forgotten.
    private static let networksMax = 100_000

    private static func key(_ address: IPAddress) -> UInt64 {
        address.isV4 ? 1 << 63 | UInt64(address.v4 >> 8) : address.high >> 8
    }

    func count(of address: IPAddress) -> Int { uses[Self.key(address)]?.connections ?? 0 }
    func memory(of address: IPAddress) -> Int { uses[Self.key(address)]?.memory ?? 0 }

    mutating func connected(_ address: IPAddress) { uses[Self.key(address), default: Use()].connections += 1 }

    mutating func left(_ address: IPAddress) { change(address) { $0.connections -= 1 } }

    mutating func memory(_ address: IPAddress, changedBy bytes: Int) { change(address) { $0.memory += bytes } }

    private mutating func change(_ address: IPAddress, _ body: (inout Use) -> Void) {
        let key = Self.key(address)
        var use = uses[key] ?? Use()
        body(&use)
        uses[key] = use.isOver ? nil : use
    }

    // MARK: Waste (T-D4)

    func wasted(by address: IPAddress, now: UInt64) -> Int {
        guard let use = uses[Self.key(address)], now - use.wastedAt < Self.wasteNanoseconds else { return 0 }
        return use.wasted
    }

    mutating func waste(_ address: IPAddress, _ bytes: Int, now: UInt64) {
        if uses.count > Self.networksMax { forget { _ in true } }
        change(address) { use in
            if now - use.wastedAt >= Self.wasteNanoseconds { (use.wasted, use.wastedAt) = (0, now) }
            use.wasted += bytes
        }
    }

    // MARK: Handshakes (T-B7)

    /// A handshake costs what a hundred commands do: beyond a rate they wait their turn.
    ///
    /// - Parameter reactors: share the rate.
    /// - Returns: nanoseconds until it may begin; nil: too long.
    mutating func handshake(_ address: IPAddress, now: UInt64, reactors: Int) -> UInt64? {
        if uses.count > Self.networksMax { forget { _ in true } }
        var wait: UInt64? = 0
        change(address) { use in
            let interval = UInt64(reactors) * Limits.nanosecondsPerSecond / UInt64(Limits.handshakesPerSecond)
            let credit = interval * UInt64(max(1, Limits.handshakesAtOnce / reactors))
            let until = max(use.handshakesUntil, now) + interval
            let due = until > now + credit ? until - now - credit : 0
            wait = due <= Limits.handshakeWaitNanoseconds ? due : nil
            if wait != nil { use.handshakesUntil = until }
        }
        return wait
    }

    /// Once in a while.
    mutating func forgetOld(now: UInt64) {
        forget { now - $0.wastedAt >= Self.wasteNanoseconds && $0.handshakesUntil <= now }
    }

    private mutating func forget(_ isOld: (Use) -> Bool) {
        for (key, use) in uses where (use.wasted > 0 || use.handshakesUntil > 0) && isOld(use) {
            var use = use
            (use.wasted, use.handshakesUntil) = (0, 0)
            uses[key] = use.isOver ? nil : use
        }
    }
}
