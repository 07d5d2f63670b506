import Protocols
import Reactor

/// A customer's POP3 session: joins machine, connection, and his mailbox at the home of its gateway.
///
/// ```text
/// login ▶ home: the maildrop is his, and listed ▶ RETR, DELE: a lease ▶ content ▶ QUIT: settled, 16 at a time ▶ durable ▶ +OK
/// ```
///
/// Leases end with the session: what it did not delete by QUIT waits as before (RFC 1939 §6).
final class POP3Session: CustomerSession {
    /// A message that this session took or is sending.
    private struct Taken {
        let lease: Lease
        var isDeleted = false
    }

    /// What a parcel was asked for.
    private enum Wish { case retrieve, delete, top }

    private var machine: POP3ServerSession
    /// Whose name was asked about last.
    private var asked = ""
    private var key: QueueKey?
    private var route: Route?
    private var home = 0
    private var isOpen = false
    private var items: [MailboxItem] = []
    private var taken: [Int: Taken] = [:]
    private var wish: (what: Wish, message: Int)?
    /// Of a large message: what is being sent, and the next byte of it.
    private var streaming: (parcel: LoadedParcel, offset: Int)?
    private var stuffer: DotStuffer?
    private var isReading = false
    /// To be settled at QUIT, and how many settlements are not synced yet.
    private var toSettle: [Lease] = []
    private var unsynced = 0
    private var isUpdated = false

    private static let chunkBytes = 64 << 10

    override init(core: Core, token: Token, socket: SocketHandle, kind: ListenerKind, client: IPAddress) {
        var settings = POP3ServerSettings()
        settings.offersStartTLS = core.settings.serverTLS != nil
        machine = POP3ServerSession(
            settings: settings, offer: core.saslOffer([.scramSHA256, .plain, .login, .cramMD5]), isTLS: kind.isTLS)
        super.init(core: core, token: token, socket: socket, kind: kind, client: client)
    }

    private var address: SessionAddress { SessionAddress(core: core.index, token: token) }
    private func tell(_ what: FromCustomerSession) {
        guard let key else { return }
        core.send(.customer(key, address, what), to: home)
    }

    override var phaseWords: StaticString { machine.phase.words }
    override var timeoutSeconds: Int { machine.phase.timeoutSeconds }
    override var shouldDelayReplies: Bool { machine.shouldDelayReplies && machine.failedLoginCount > delayed }
    private var delayed = 0

    override func greet() {
        if core.admission(of: client) != nil {
            core.counters.connectionsRefused.add(1, ordering: .relaxed)
            return machine.refuseSession(.tooManySessions, into: &connection.output)
        }
        let functions = core.settings.logins.functions
        machine.greet(
            timestamp: functions.challenge(hostname: core.settings.hostname), into: &connection.output)
    }

    override func secured(_ info: TLSInfo) { if machine.phase == .startTLS { machine.tlsStarted() } }

    // MARK: Events

    override func work(_ input: UnsafeRawBufferPointer, _ consumed: inout Int) -> Next {
        delayed = machine.failedLoginCount
        while true {
            let event = machine.next(input, consumed: &consumed, into: &connection.output)
            // SCRAM fails by what the client says last, and not by an answer of ours.
            noteFailures()
            switch event {
            case .needMore: return .receive
            case .outputFull: return .room
            case .ask(let question):
                asked = question.user
                machine.answer(core.answer(question, for: .pop3, client: client), into: &connection.output)
                noteFailures()
            case .login(let user):
                if login(user) { return .busy }
            case .startTLS:
                consumed = input.count
                return .startTLS
            case .uniqueID(let message): machine.giveUniqueID(uniqueID(message), into: &connection.output)
            case .retrieve(let message):
                guard take(message, for: .retrieve) else { continue }
                return .busy
            case .top(let message):
                guard take(message, for: .top) else { continue }
                return .busy
            case .delete(let message):
                guard take(message, for: .delete) else { continue }
                return .busy
            case .update:
                settle()
                return .busy
            case .quit: return .goodbye("quit")
            case .hangUp: return .goodbye(isUpdated ? "quit" : "hung up \(machine.phase.words)")
            }
        }
    }

    private var notedFailures = 0

    private func noteFailures() {
        guard machine.failedLoginCount > notedFailures else { return }
        notedFailures = machine.failedLoginCount
        core.loginFailed(asked, client, session: name, listener: kind.rawValue)
    }

    private func uniqueID(_ message: Int) -> [UInt8] {
        let item = items[message - 1]
        // Who has it already is no longer shown: what is left is another message.
        let suffix = item.settled > 0 ? ".\(item.settled)" : ""
        return Array("\(item.id)\(suffix)".utf8)
    }

    /// False: answered at once.
    private func login(_ user: String) -> Bool {
        guard let gateway = core.routes.snapshot.mailbox(ofUser: user), let route = core.routes.route(forID: gateway.id)
        else {
            machine.refuse(.gone, into: &connection.output)
            return false
        }
        core.log.loggedIn(
            user, gateways: gateway.domain, client: client.description, session: name, listener: kind.rawValue)
        self.route = route
        key = QueueKey(gatewayID: gateway.id)
        home = Routes.home(of: gateway.id, reactors: core.count)
        tell(.openMailbox)
        return true
    }

    /// False: it is here already, and the wish was fulfilled.
    private func take(_ message: Int, for what: Wish) -> Bool {
        wish = (what, message)
        let item = items[message - 1]
        if what == .top {
            tell(.look(item.reference))
        } else if let lease = taken[message]?.lease {
            guard what == .retrieve else {
                machine.acceptDelete(into: &connection.output)
                return false
            }
            load(lease)
        } else {
            tell(.take(item.reference))
        }
        return true
    }

    override func received(_: QueueKey?, _ message: ToCustomerSession) {
        switch message {
        case .mailbox(let items):
            guard !isReleased else { return }
            isOpen = true
            self.items = items
            machine.open(
                POP3Maildrop(
                    sizes: items.map(\.size), isReadOnly: route?.gateway.dequeue.mailbox?.isReadOnly ?? true),
                into: &connection.output)
            proceed()
        case .refused(let refusal):
            guard !isReleased else { return }
            key = nil
            machine.refuse(
                refusal.isInUse ? .inUse : POP3Refusal(.temporary, "The maildrop can't be opened now, try later"),
                into: &connection.output)
            proceed()
        case .parcel(let lease):
            guard !isReleased, let wish else {
                if let key { core.giveBack(lease, key) }
                return
            }
            taken[wish.message] = Taken(lease: lease)
            if wish.what == .retrieve { return load(lease) }
            machine.acceptDelete(into: &connection.output)
            proceed()
        case .shown(let lease): if !isReleased, wish != nil { load(lease) }
        case .parcelRefused(let refusal):
            guard !isReleased, wish != nil else { return }
            refuse(refusal.isInUse ? .messageInUse : refusal.isGone ? .gone : .unreadable)
        case .waiting: break
        case .credit(let count):
            unsynced -= count
            if !isReleased, machine.phase == .update { settleMore() }
        }
    }

    private func refuse(_ refusal: POP3Refusal) {
        wish = nil
        machine.refuse(refusal, into: &connection.output)
        proceed()
    }

    // MARK: Content

    private func load(_ lease: Lease) {
        guard let route else { return }
        ParcelLoader(files: core.calls).load(
            route.store, lease, contentMaxBytes: Limits.memoryMessageBytes, opensLarge: true, prefixBytes: 0
        ) { [weak self] loaded in
            guard let self, !isReleased, let wish else {
                if case .success(let parcel) = loaded, let file = parcel.file {
                    self?.core.calls.run([.close(file)], on: .bulk, of: route.store) { _ in }
                }
                return
            }
            switch loaded {
            case .success(let parcel): self.loaded(parcel, wish)
            case .failure(.damaged(let why)):
                if let lease = taken.removeValue(forKey: wish.message)?.lease { settle(lease, .damaged(why)) }
                refuse(.unreadable)
            case .failure: refuse(.unreadable)
            }
        }
    }

    private func loaded(_ parcel: LoadedParcel, _ wish: (what: Wish, message: Int)) {
        let prefix = parcel.mailboxPrefix
        if wish.what == .top {
            machine.startTop(into: &connection.output)
            var head = ByteOutput()
            prefix.write(into: &head)
            _ = machine.topContent(head.bytes, into: &connection.output)
        } else {
            let framing = machine.startRetrieval(
                linesBeginningWithDot: parcel.sizes.linesBeginningWithDot, into: &connection.output)
            prefix.write(into: &connection.output)
            if framing == .dots(isStuffed: true) { stuffer = DotStuffer() }
        }
        guard let content = parcel.content else {
            streaming = (parcel, 0)
            connection.flush()
            // With TLS, stuffing or TOP the bytes pass through here; else they go from the page cache to the socket.
            _ = sendMore()
            return
        }
        if wish.what == .top {
            var isWanted = true
            content.forEachPiece { if isWanted { isWanted = machine.topContent($0, into: &connection.output) } }
        } else if stuffer != nil {
            content.forEachPiece { stuffer!.append($0, into: &connection.output) }
        } else {
            connection.queue(content)
        }
        finishContent()
    }

    private func finishContent() {
        guard let wish else { return }
        self.wish = nil
        if wish.what == .top {
            machine.finishTop(into: &connection.output)
        } else {
            if stuffer != nil {
                stuffer!.finish(into: &connection.output)
            } else {
                // Stored content always ends in CRLF.
                DotStuffer.appendTerminator(contentEndsWithCRLF: true, into: &connection.output)
            }
            machine.contentSent()
        }
        stuffer = nil
        closeFile()
        proceed()
    }

    private func closeFile() {
        if let file = streaming?.parcel.file, let route {
            core.calls.run([.close(file)], on: .bulk, of: route.store) { _ in }
        }
        streaming = nil
    }

    private static let sliceBytes = 1 << 20

    /// What was queued is sent: the next part of a large message.
    override func sendMore() -> Bool {
        guard let (parcel, offset) = streaming, !isReading, let wish, !connection.hasUnsent else {
            return streaming != nil
        }
        guard offset < parcel.sizes.contentBytes else {
            finishContent()
            return true
        }
        guard wish.what == .retrieve, connection.tls == nil, stuffer == nil else {
            readMore()
            return true
        }
        let length = min(Self.sliceBytes, parcel.sizes.contentBytes - offset)
        streaming!.offset += length
        connection.queueFile(parcel.file!, offset: Int64(parcel.sizes.contentOffset + offset), length: length)
        connection.flush()
        return true
    }

    private func readMore() {
        guard let (parcel, offset) = streaming, !isReading, let route else { return }
        guard offset < parcel.sizes.contentBytes else { return finishContent() }
        isReading = true
        let length = min(Self.chunkBytes, parcel.sizes.contentBytes - offset)
        let place = Int64(parcel.sizes.contentOffset + offset)
        core.calls.run([.read(parcel.file!, at: place, length: length)], on: .bulk, of: route.store) {
            [weak self] outcomes in
            self?.read(outcomes[0], length)
        }
    }

    private func read(_ outcome: FileOutcome, _ length: Int) {
        isReading = false
        guard !isReleased, let wish, streaming != nil else { return closeFile() }
        guard outcome.isDone, outcome.data.count == length else {
            // The message is cut here; the customer must not take it for whole.
            machine.abort()
            return end("a message can't be read on")
        }
        streaming!.offset += length
        var isWanted = true
        outcome.data.withUnsafeBytes { bytes in
            if wish.what == .top {
                isWanted = machine.topContent(bytes, into: &connection.output)
            } else if stuffer != nil {
                stuffer!.append(bytes, into: &connection.output)
            } else {
                connection.output.append(bytes)
            }
        }
        if !isWanted { return finishContent() }
        connection.flush()
        // A chunk of which nothing was wanted.
        if !connection.hasUnsent { readMore() }
    }

    // MARK: Settling

    /// QUIT: what is marked as deleted is the customer's.
    private func settle() {
        machine.maildrop?.forEachDeleted { message in
            if let lease = taken[message]?.lease {
                taken[message]!.isDeleted = true
                toSettle.append(lease)
            }
        }
        toSettle.reverse()
        settleMore()
    }

    /// At most so many are unsynced at a time: that bounds what a power loss shows again (design §6).
    private func settleMore() {
        var settlements: [Settlement] = []
        while unsynced + settlements.count < Limits.leasesPerConnection, let lease = toSettle.popLast() {
            settlements.append(
                Settlement(slot: lease.slot, generation: lease.generation, result: .collected))
            noteCollected(lease)
        }
        unsynced += settlements.count
        if !settlements.isEmpty, let key { core.send(.settle(key, address, settlements), to: home) }
        guard unsynced == 0, toSettle.isEmpty else { return }
        taken = taken.filter { !$0.value.isDeleted }
        isUpdated = true
        machine.finishUpdate(failed: 0, into: &connection.output)
        proceed()
    }

    private func noteCollected(_ lease: Lease) {
        messages += 1
        core.log.collected(
            lease.id, domain: route?.gateway.domain ?? "", listener: kind.rawValue,
            delayMilliseconds: core.reactor.wall / 1_000_000 - lease.id.milliseconds, client: client.description,
            session: name)
    }

    private func settle(_ lease: Lease, _ result: Settlement.Result) {
        guard let key else { return }
        core.send(
            .settle(key, nil, [Settlement(slot: lease.slot, generation: lease.generation, result: result)]), to: home)
    }

    // MARK: The end

    private var isReleased = false

    override func sayTimedOut() { machine.timedOut() }

    override func sayShutDown() -> Bool {
        // What is on its way ends first, within the time that a stop has.
        switch machine.phase {
        case .update, .content: return false
        default: break
        }
        machine.timedOut()
        return true
    }

    override func release() {
        guard !isReleased else { return }
        isReleased = true
        if !isReading { closeFile() }
        guard key != nil else { return }
        // Those of an update that was cut off were settled, or go back; which of them, the customer sees at his next login.
        let settled = Set(taken.filter { $0.value.isDeleted }.map(\.key))
        let left = Set(toSettle.map(\.slot))
        for (message, taken) in taken where !settled.contains(message) || left.contains(taken.lease.slot) {
            settle(taken.lease, .unread)
        }
        taken = [:]
        tell(.ended)
    }
}

extension SASLQuestion {
    var user: String {
        switch self {
        case .password(let user, _), .secret(let user), .scramKeys(let user): user
        }
    }
}

extension CustomerRefusal {
    var isInUse: Bool { if case .inUse = self { true } else { false } }
    var isGone: Bool { if case .gone = self { true } else { false } }
}

extension Core {
    func makeCustomerSession(
        _ token: Token, _ socket: SocketHandle, _ kind: ListenerKind, _ client: IPAddress
    ) -> CustomerSession {
        switch kind {
        case .pop3, .pop3s: POP3Session(core: self, token: token, socket: socket, kind: kind, client: client)
        case .odmr, .odmrs: ODMRSession(core: self, token: token, socket: socket, kind: kind, client: client)
        case .smtp, .smtps: preconditionFailure("no customer comes by \(kind)")
        }
    }

    /// A lease that nobody wants any more.
    func giveBack(_ lease: Lease, _ key: QueueKey) {
        let result = Settlement(slot: lease.slot, generation: lease.generation, result: .unread)
        send(.settle(key, nil, [result]), to: Routes.home(of: key.gatewayID, reactors: count))
    }
}
