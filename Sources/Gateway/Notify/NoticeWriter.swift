import Protocols
import Reactor

/// Notices become messages of our own: addressed, charged and committed like any other.
extension Core {
    /// Where mail of our own for this address waits.
    func systemDestination(_ path: String) -> String {
        if routes.snapshot.settings.smarthost != nil { return "" }
        guard let at = path.lastIndex(of: "@") else { return Queues.keptDestination }
        let domain = String(path[path.index(after: at)...])
        return domain.hasPrefix("[") ? domain.lowercased() : DomainNameNormaliser.aLabel(domain) ?? domain.lowercased()
    }

    func notify(_ notice: Notice, then: @escaping (Bool) -> Void) {
        let id = nextID()
        let original = notice.parcel.envelope
        let built = notice.build(
            noticeID: id, hostname: settings.hostname, wall: reactor.wall,
            lifetimeSeconds: RetrySchedule.standard.lifetimeSeconds)
        let recipient = Envelope.Recipient(path: original.reversePath, notify: "NEVER")
        let envelope = Envelope(
            reversePath: "", is8Bit: built.is8Bit, needsSMTPUTF8: built.needsSMTPUTF8, recipients: [recipient])
        // A sender whose domain is a gateway here gets it through that gateway.
        var target = routes.system
        var destination = systemDestination(original.reversePath)
        if let domain = recipient.domain, let name = DomainNameNormaliser.aLabel(domain),
            let route = routes.route(forDomain: name), route.store.state.load(ordering: .relaxed) != .unavailable
        {
            target = route
            destination = ""
        }
        guard let route = target, route.store.charge(built.bytes.count, nil) else { return then(false) }
        guard !route.store.isClosing else {
            route.store.discharge(built.bytes.count)
            return then(false)
        }
        let content = MessageContent()
        content.append(built.bytes)
        content.linesBeginningWithDot = built.linesBeginningWithDot
        let message = IncomingMessage(
            id: id, content: content,
            parcels: [IncomingParcel(route: route, envelope: envelope, destination: destination)],
            owner: Token(kind: TokenKind.notice, generation: 0, index: 0))
        message.chargedBytes = content.count
        notices[id] = { [self] isDurable in
            if isDurable { log.notified(notice.id, kind: notice.kind.rawValue, notice: id) }
            then(isDurable)
        }
        spool.commit(message)
    }
}
