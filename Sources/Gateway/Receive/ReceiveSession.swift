import Glibc
import Protocols
import Reactor

/// One client's SMTP session: joins machine, connection and spool.
///
/// ```text
/// bytes ▶ machine ▶ events ▶ admission (RCPT) ▶ content ▶ commit ▶ 250
/// ```
///
/// While a commit runs, input is not looked at; so replies keep their order, and a sender that pipelines is held by TCP.
final class ReceiveSession {
    /// What the session waits for.
    private enum Waiting {
        case input
        /// A commit, or the end of a large message's writing.
        case commit
        /// The homes of what an ETRN asks for.
        case homes
        /// Room: in the large writer, in the commits, in the peer's window, or a pause after many errors.
        case room
        case handshake
        /// Too many handshakes of its network came before it.
        case handshakeTurn
        /// The last reply is on its way; then the peer's end, or a moment.
        case goodbye
        case closed
    }

    let token: Token
    let connection: Connection
    private unowned let core: Core
    private let kind: ListenerKind
    private var machine: SMTPServerSession
    private var waiting = Waiting.input
    private var transaction: Transaction?
    /// The message under way, from DATA or the first BDAT on.
    private var incoming: Incoming?
    private var needsProxyHeader: Bool
    private(set) var client: IPAddress
    private let peer: IPAddress
    /// Whose network this connection counts for.
    private(set) var counted: IPAddress
    let name: String
    private(set) var helo = ""
    private var isExtended = false
    private var tlsDescription: (version: String, text: String)?
    private var messages = 0
    private var deadline: UInt64
    private let sessionEnd: UInt64
    private var rateCheckedAt: UInt64 = 0
    private var rateBytes = 0
    private var lastWords = ""
    private(set) var reservedMemory = 0

    /// A transaction's envelope, recipients sorted by gateway.
    private struct Transaction {
        var reversePath: ReversePath
        var parameters: MailParameters
        var parcels: [(route: Route, destination: String, recipients: [Envelope.Recipient])] = []
        /// Bytes reserved in each parcel's store.
        var reserved = 0
        /// What the recipients take in the heads of the mail files, at most.
        var headBytes = 0
    }

    /// A message that is arriving.
    private final class Incoming {
        let id: QueueID
        let content = MessageContent()
        var scanner = HeaderScanner(traceFieldName: "")
        var parcels: [IncomingParcel] = []
        var writer: LargeMessageWriter?
        var writtenBytes = 0
        let idText: String
        init(id: QueueID) {
            self.id = id
            idText = id.description
        }
    }

    init(core: Core, token: Token, socket: SocketHandle, kind: ListenerKind, client: IPAddress) {
        self.core = core
        self.token = token
        self.kind = kind
        self.client = client
        peer = client
        counted = client
        name = "\(core.index)-\(token.index)-\(token.generation)"
        connection = Connection(reactor: core.reactor, token: token, socket: socket)
        machine = SMTPServerSession(
            settings: core.serverSettings(for: client), isTLS: kind == .smtps, offer: core.etrnOffer)
        needsProxyHeader = core.settings.trust.proxy.contains { $0.contains(client) }
        deadline = core.reactor.now + UInt64(Limits.commandTimeoutSeconds) * Limits.nanosecondsPerSecond
        sessionEnd = core.reactor.now + UInt64(Limits.sessionSecondsMax) * Limits.nanosecondsPerSecond
        core.log.sessionBegan(name, client: client.description, listener: kind.rawValue)
    }

    // MARK: Start

    func start() {
        armTimer()
        if needsProxyHeader { return connection.receive() }
        if kind == .smtps {
            beginTLS()
        } else {
            greet()
        }
    }

    private func greet() {
        if let refusal = core.admission(of: client) {
            machine.refuseSession(refusal, into: &connection.output)
            core.counters.connectionsRefused.add(1, ordering: .relaxed)
        } else {
            machine.greet(into: &connection.output)
        }
        pump()
    }

    private func readProxyHeader() {
        var outcome = ProxyHeader.Parse.needMore
        connection.withInput { input in
            outcome = ProxyHeader.parse(input)
            if case .parsed(let consumed, _) = outcome { return consumed }
            return 0
        }
        switch outcome {
        case .needMore: connection.receive()
        case .invalid(let fault): end("malformed PROXY header (\(fault))")
        case .parsed(_, let endpoints):
            needsProxyHeader = false
            if let endpoints {
                // From here on all limits look at the client behind the proxy.
                core.networks.left(counted)
                client = endpoints.source
                counted = client
                core.networks.connected(client)
                machine = SMTPServerSession(
                    settings: core.serverSettings(for: client), isTLS: kind == .smtps, offer: core.etrnOffer)
            }
            if kind == .smtps { beginTLS() } else { greet() }
        }
    }

    // MARK: TLS

    private func beginTLS() {
        guard let wait = core.handshakeWait(of: client) else { return end("too many TLS handshakes from its network") }
        guard wait > 0 else { return shakeHands() }
        waiting = .handshakeTurn
        setDeadline(seconds: 60)
        armTimer(core.reactor.now + wait)
    }

    private func shakeHands() {
        guard let context = core.settings.serverTLS else { return end("TLS is not configured") }
        do throws(TLSFault) {
            let session = try TLSSession(server: context)
            waiting = .handshake
            setDeadline(seconds: 60)
            connection.startTLS(session)
            connection.receive()
        } catch {
            end("TLS: \(error)")
        }
    }

    private func secured(_ info: TLSInfo) {
        tlsDescription = (info.version, "\(info.version) \(info.cipher)")
        waiting = .input
        if kind == .smtps, case .greeting = machine.phase {
            greet()
        } else {
            machine.tlsStarted()
            pump()
        }
    }

    // MARK: Input

    func completed(_ completion: Completion) {
        switch connection.completed(completion) {
        case .nothing, .connected, .connectFailed: break
        case .input:
            if needsProxyHeader { return readProxyHeader() }
            if case .goodbye = waiting {
                connection.dropInput()
                return connection.receive()
            }
            pump()
            // A writer that has filled up meanwhile looks at nothing.
            connection.keepInput()
        case .end: peerEnded()
        case .lost(let why):
            if case .goodbye = waiting { end(lastWords) } else { end("lost connection \(machine.phase.words): \(why)") }
        case .sent:
            switch waiting {
            case .goodbye: linger()
            case .room: pump()
            default: break
            }
        case .secured(let info): secured(info)
        case .closed:
            waiting = .closed
            core.ended(self)
        }
    }

    /// What happens after the machine has looked at all the input.
    private enum Next {
        case receive, commit, homes, room, startTLS
        case goodbye(String)
    }

    private func pump() {
        guard !connection.isClosing else { return }
        switch waiting {
        case .input, .room: break
        default: return
        }
        guard mayProceed() else {
            waiting = .room
            connection.flush()
            return
        }
        waiting = .input
        var next = Next.receive
        var hasMoved = false
        connection.withInput { input in
            var consumed = 0
            next = work(input, &consumed)
            hasMoved = consumed > 0
            return consumed
        }
        noteFailures()
        countReplies()
        switch next {
        case .receive:
            connection.flush()
            if connection.isAtEnd { return peerEnded() }
            if machine.shouldDelayReplies, machine.errorCount > errorsDelayed {
                // Guessing gets slower with each wrong guess (T-D3).
                errorsDelayed = machine.errorCount
                waiting = .room
                pausedUntil = core.reactor.now + Limits.nanosecondsPerSecond
                setDeadline(seconds: machine.phase.timeoutSeconds, pause: pausedUntil)
            } else if connection.unsentBytes > Limits.outputPauseBytes || !mayProceed() {
                waiting = .room
            } else {
                // A part of a command doesn't count: what trickles in is as slow as what doesn't come (T-D1).
                if hasMoved { setDeadline(seconds: machine.phase.timeoutSeconds) }
                connection.receive()
            }
        case .commit: connection.flush()
        case .homes:
            waiting = .homes
            setDeadline(seconds: machine.phase.timeoutSeconds)
            connection.flush()
        case .room:
            waiting = .room
            connection.flush()
        case .startTLS:
            connection.flush()
            beginTLS()
        case .goodbye(let why):
            lastWords = why
            noteWaste()
            dropTransaction()
            waiting = .goodbye
            setDeadline(seconds: 30)
            connection.flush()
            if !connection.hasUnsent { linger() }
        }
    }

    private var pausedUntil: UInt64 = 0
    private var errorsDelayed = 0

    private func mayProceed() -> Bool {
        if let writer = incoming?.writer, writer.isFull { return false }
        return core.reactor.now >= pausedUntil
    }

    /// Looks at the input until the machine needs more of it, or somebody else.
    private func work(_ input: UnsafeRawBufferPointer, _ consumed: inout Int) -> Next {
        while true {
            switch machine.next(input, consumed: &consumed, into: &connection.output) {
            case .needMore: return .receive
            case .outputFull: return .room
            case .hello(let name, let extended):
                helo = name
                isExtended = extended
                dropTransaction()
            case .mail(let path, let parameters): mail(path, parameters)
            case .recipient(let address, let parameters): recipient(address, parameters)
            case .data, .chunk:
                if let refusal = beginContent() {
                    refused("DATA", refusal)
                    dropTransaction()
                    machine.refuseContent(refusal, into: &connection.output)
                } else {
                    machine.startContent(into: &connection.output)
                }
            case .content(let range):
                content(UnsafeRawBufferPointer(rebasing: input[range]))
                if let message = incoming, let writer = message.writer {
                    if let fault = writer.fault {
                        core.noteFailure(fault, message.id)
                        let refusal = core.refusal(for: fault)
                        refused("content", refusal)
                        dropTransaction()
                        machine.refuseContent(refusal, into: &connection.output)
                    } else if writer.isFull {
                        return .room
                    }
                }
            case .endOfContent:
                if endOfContent() { return .commit }
            case .contentFault(let reply):
                refused("content", reply)
                noteWaste()
                dropTransaction()
            case .contentRefused: break
            case .startTLS:
                consumed = input.count
                dropTransaction()
                return .startTLS
            case .xclient(let attributes): xclient(attributes)
            case .ask(let question): answer(question)
            case .authenticated(let user):
                core.log.loggedIn(
                    user,
                    gateways: core.routes.snapshot.gateways(ofCustomer: user).map(\.domain).joined(separator: ","),
                    client: client.description, session: name, listener: kind.rawValue)
            case .etrn(let request, let user):
                summons = Summons(core: core, request, user: user, client: client, asker: token)
                if let reply = summons?.start() { summoned(reply) } else { return .homes }
            case .reset: dropTransaction()
            case .quit: return .goodbye("quit")
            case .hangUp: return .goodbye("hung up \(machine.phase.words)")
            }
        }
    }

    // MARK: Customers (ETRN)

    /// The ETRN that is being carried out.
    private var summons: Summons?

    private func answer(_ question: SASLQuestion) {
        asked = question.user
        machine.answer(core.answer(question, for: .customer, client: client), into: &connection.output)
        noteFailures()
    }

    private var asked = ""
    private var notedFailures = 0

    /// SCRAM fails by what the client says last, and not by an answer of ours.
    private func noteFailures() {
        guard machine.failedLoginCount > notedFailures else { return }
        notedFailures = machine.failedLoginCount
        core.loginFailed(asked, client, session: name, listener: kind.rawValue)
    }

    private func summoned(_ reply: ETRNReply) {
        if case .notAllowed = reply { refused("ETRN", reply.reply) }
        summons = nil
        machine.answerETRN(reply, into: &connection.output)
    }

    /// A home's answer to an ETRN.
    func received(_ message: ToCustomerSession) {
        guard waiting == .homes, let reply = summons?.received(message) else { return }
        waiting = .input
        summoned(reply)
        pump()
    }

    // MARK: Envelope

    private func mail(_ path: ReversePath, _ parameters: MailParameters) {
        dropTransaction()
        if let size = parameters.size, size > core.settings.messageSizeMax {
            let reply = Reply(
                552, EnhancedStatus(5, 3, 4), "Message too big; the limit is \(core.settings.messageSizeMax) bytes")
            refused("MAIL", reply)
            return machine.refuseMail(reply, into: &connection.output)
        }
        transaction = Transaction(reversePath: path, parameters: parameters)
        machine.acceptMail(into: &connection.output)
    }

    private func recipient(_ address: MailAddress, _ parameters: RecipientParameters) {
        let size = transaction!.parameters.size ?? 0
        let isFull = transaction!.parcels.count >= Limits.gatewaysPerTransaction
        let hasStore = { (store: Store) in isFull && self.transaction!.parcels.contains { $0.route.store === store } }
        switch core.admit(address, size: size, mayAdd: { !isFull || hasStore($0) }) {
        case .refuse(let reply):
            refused("RCPT TO:<\(address)>", reply)
            machine.refuseRecipient(reply, into: &connection.output)
        case .accept(let route, let path, let destination):
            let recipient = Envelope.Recipient(
                path: path, notify: parameters.notify?.text, orcpt: parameters.orcpt)
            transaction!.headBytes += MailFile.recipientBytes(recipient)
            guard transaction!.headBytes <= MailFile.headMaxBytes - MailFile.headOtherBytes else {
                let reply = Reply(452, EnhancedStatus(4, 5, 3), "Too many recipients, send the rest in another message")
                refused("RCPT TO:<\(address)>", reply)
                return machine.refuseRecipient(reply, into: &connection.output)
            }
            if let at = transaction!.parcels.firstIndex(where: { $0.route.store === route.store }) {
                guard transaction!.parcels[at].destination == destination else {
                    // One file a store and message; the settings changed between two recipients.
                    let reply = Reply(451, EnhancedStatus(4, 5, 3), "Send this recipient's copy in another message")
                    return machine.refuseRecipient(reply, into: &connection.output)
                }
                transaction!.parcels[at].recipients.append(recipient)
            } else {
                transaction!.parcels.append((route, destination, [recipient]))
            }
            machine.acceptRecipient(into: &connection.output)
        }
    }

    private func xclient(_ attributes: [XClientAttribute]) {
        guard core.settings.trust.xclient.contains(where: { $0.contains(peer) }) else {
            return machine.refuseXClient(
                Reply(550, EnhancedStatus(5, 7, 0), "Not allowed from here"), into: &connection.output)
        }
        dropTransaction()
        for attribute in attributes {
            switch attribute.name {
            case .address: if let value = attribute.value, let address = IPAddress(value) { client = address }
            case .helo: helo = attribute.value ?? ""
            default: break
            }
        }
        machine.acceptXClient(into: &connection.output)
    }

    // MARK: Content

    /// nil: the content may come.
    private func beginContent() -> Reply? {
        guard incoming == nil else { return nil }
        if let refusal = core.contentRefusal(
            transaction!.parameters.size ?? 0, transaction!.parcels.map { $0.route.store }, client: client)
        {
            return refusal
        }
        let message = Incoming(id: core.nextID())
        let transaction = transaction!
        for parcel in transaction.parcels {
            message.parcels.append(
                IncomingParcel(
                    route: parcel.route,
                    envelope: Envelope(
                        reversePath: Self.text(transaction.reversePath),
                        is8Bit: transaction.parameters.body == .eightBitMIME,
                        needsSMTPUTF8: transaction.parameters.smtpUTF8,
                        ret: transaction.parameters.ret.map { $0 == .full ? "FULL" : "HDRS" },
                        envid: transaction.parameters.envid, recipients: parcel.recipients,
                        client: Envelope.Client(
                            address: client.description, helo: Self.word(helo), tls: tlsDescription?.version ?? "")),
                    destination: parcel.destination))
        }
        let recipients = transaction.parcels.reduce(0) { $0 + $1.recipients.count }
        TraceHeader(
            helloName: helo, clientName: nil, clientAddress: client, hostname: core.settings.hostname,
            transmission: TransmissionProtocol(
                isExtended: isExtended, isTLS: machine.isTLS, isInternational: transaction.parameters.smtpUTF8),
            queueID: message.idText,
            onlyRecipient: recipients == 1 ? transaction.parcels[0].recipients[0].path : nil,
            tlsDescription: tlsDescription?.text, unixSeconds: core.reactor.wall / 1_000_000_000
        ).write(into: &core.scratch)
        message.content.append(core.scratch.bytes)
        core.scratch.removeAll()
        incoming = message
        account(message)
        rateCheckedAt = core.reactor.now
        rateBytes = connection.bytesReceived
        let look = core.reactor.now + Self.rateLookNanoseconds
        if look < timerAt { armTimer(look) }
        // Without memory for it, a message is written as it arrives from the start.
        if core.isMemoryTight(for: client) { spill(message) }
        return nil
    }

    private static func text(_ path: ReversePath) -> String {
        if case .mailbox(let address) = path { return address.description }
        return ""
    }

    /// One word for the head of a mail file.
    private static func word(_ helo: String) -> String {
        String(decoding: helo.utf8.map { $0 > 32 && $0 != 127 ? $0 : UInt8(ascii: "?") }, as: UTF8.self)
    }

    private func content(_ bytes: UnsafeRawBufferPointer) {
        guard let message = incoming else { return }
        message.scanner.received(bytes)
        message.content.append(bytes)
        growReservation(message.content.count)
        account(message)
        if let writer = message.writer {
            let waits = message.content.count - message.writtenBytes
            if waits >= MessageContent.furtherPieceBytes { give(message, writer) }
        } else if message.content.count > Limits.memoryMessageBytes || core.isMemoryTight(for: client) {
            spill(message)
        }
    }

    /// What arrives is reserved as it comes, in steps: a declared size costs its sender nothing (design rule M9).
    private func growReservation(_ bytes: Int) {
        guard let reserved = transaction?.reserved, bytes > reserved else { return }
        let more = max(bytes - reserved, MessageContent.furtherPieceBytes)
        for parcel in transaction!.parcels { parcel.route.store.reserve(more) }
        transaction!.reserved += more
    }

    private func spill(_ message: Incoming) {
        let writer = core.largeWriter(message.id, message.parcels, for: token)
        message.writer = writer
        give(message, writer)
    }

    private func give(_ message: Incoming, _ writer: LargeMessageWriter) {
        let bytes = message.content.count - message.writtenBytes
        guard bytes > 0 else { return }
        message.writtenBytes = message.content.count
        writer.append(message.content.takePieces(), bytes: bytes)
        account(message)
    }

    /// Message memory of this session, in the reactor's and the network's sums.
    private func account(_ message: Incoming?) {
        let now = (message?.content.allocatedBytes ?? 0) + (message?.writer?.waitingBytes ?? 0)
        guard now != reservedMemory else { return }
        core.memory(client, changedBy: now - reservedMemory)
        reservedMemory = now
    }

    /// All content is here. False: answered at once.
    private func endOfContent() -> Bool {
        let message = incoming!
        message.scanner.finish()
        if let fault = message.writer?.fault {
            core.noteFailure(fault, message.id)
            return answer(core.refusal(for: fault))
        }
        if !machine.contentEndsWithCRLF { message.content.append([13, 10]) }
        message.content.linesBeginningWithDot = machine.linesBeginningWithDot
        if message.scanner.receivedFieldCount > Limits.receivedFieldsMax {
            return answer(Reply(554, EnhancedStatus(5, 4, 6), "Mail loop: too many Received fields"))
        }
        if message.scanner.overLimit != nil {
            return answer(Reply(554, EnhancedStatus(5, 6, 0), "The header section is too large"))
        }
        // Exact: over a quota at the end refuses the whole transaction, and nothing is charged (design rule M9).
        var charged: [Store] = []
        for (at, parcel) in message.parcels.enumerated() {
            let gateway = transaction!.parcels[at].route.gateway
            let quota = core.quota(of: gateway, for: parcel.envelope)
            guard parcel.store.charge(message.content.count, quota) else {
                for store in charged { store.discharge(message.content.count) }
                return answer(core.quotaRefusal(gateway))
            }
            charged.append(parcel.store)
            // Charged first: who deletes the gateway says so first, and then looks at the charge.
            guard !parcel.store.isClosing else {
                for store in charged { store.discharge(message.content.count) }
                return answer(Core.beingDeleted)
            }
        }
        let whole = IncomingMessage(
            id: message.id, idText: message.idText, content: message.content, parcels: message.parcels, owner: token)
        whole.chargedBytes = message.content.count
        waiting = .commit
        finished = whole
        if let writer = message.writer {
            give(message, writer)
            whole.isLarge = true
            writer.finish(message.content)
        } else {
            core.spool.commit(whole)
        }
        setDeadline(seconds: 600)
        return true
    }

    /// The message that waits for its commit.
    private var finished: IncomingMessage?

    private func answer(_ reply: Reply) -> Bool {
        refused("content", reply)
        dropTransaction()
        machine.finishContent(reply, into: &connection.output)
        return false
    }

    /// The large writer has finished a step.
    func writerProceeded() {
        guard let message = incoming, let writer = message.writer else { return }
        if let whole = finished, waiting == .commit {
            if let fault = writer.fault {
                whole.fault = fault
                core.noteFailure(fault, whole.id)
                core.discharge(whole)
                committed(whole)
            } else if writer.isDone {
                message.writer = nil
                core.spool.commit(whole)
            }
            return
        }
        account(message)
        if case .room = waiting { pump() }
    }

    /// The spool has judged: the only way to a 250.
    func committed(_ message: IncomingMessage) {
        finished = nil
        if let fault = message.fault {
            let reply = core.refusal(for: fault)
            refused("content", reply)
            dropTransaction()
            guard waiting == .commit else { return }
            machine.finishContent(reply, into: &connection.output)
        } else {
            messages += 1
            errorsDelayed = 0
            core.log.accepted(
                message.idText, from: message.parcels[0].envelope.reversePath,
                recipients: message.parcels.reduce(0) { $0 + $1.envelope.recipients.count },
                gateways: message.parcels.count, bytes: message.content.count, client: client.description, session: name
            )
            dropTransaction()
            guard waiting == .commit else { return }
            machine.finishContent(
                Reply(250, EnhancedStatus(2, 0, 0), message.idText), into: &connection.output)
        }
        waiting = .input
        setDeadline(seconds: Limits.commandTimeoutSeconds)
        pump()
    }

    private func dropTransaction() {
        if let message = incoming {
            message.writer?.abandon()
            incoming = nil
            account(nil)
        }
        release(transaction)
        transaction = nil
    }

    private func release(_ transaction: Transaction?) {
        guard let transaction, transaction.reserved > 0 else { return }
        for parcel in transaction.parcels { parcel.route.store.unreserve(transaction.reserved) }
    }

    // MARK: The end

    private func peerEnded() {
        switch waiting {
        case .commit: end("the peer left before its 250")
        case .goodbye, .closed: end(lastWords)
        default: end("lost connection \(machine.phase.words)")
        }
    }

    /// The last reply is out: the peer gets a moment to read it before the socket goes.
    private func linger() {
        connection.shutDownSending()
        setDeadline(seconds: 2)
        connection.receive()
    }

    private func end(_ how: String) {
        if !connection.isClosing {
            lastWords = how
            connection.close()
        }
        // What the spool has already is its own: it becomes durable, or not, without us.
        if let whole = finished, incoming?.writer != nil { core.discharge(whole) }
        if finished == nil { noteWaste() }
        finished = nil
        dropTransaction()
    }

    /// Content that cost us its way here and comes to nothing.
    private func noteWaste() {
        guard let message = incoming else { return }
        core.networks.waste(client, message.content.count, now: core.reactor.now)
    }

    /// The session has gone from the reactor's table.
    func logEnd() {
        dropTransaction()
        core.log.sessionEnded(name, client: client.description, how: lastWords, messages: messages)
    }

    /// The server is stopping: what is between two commands ends now.
    func shutDown() {
        guard !connection.isClosing else { return }
        switch waiting {
        case .handshake, .handshakeTurn: return end("server is stopping")
        default: break
        }
        if needsProxyHeader { return end("server is stopping") }
        guard case .input = waiting, !machine.isInTransaction else { return }
        machine.shutDown(into: &connection.output)
        lastWords = "server is stopping"
        waiting = .goodbye
        setDeadline(seconds: 5)
        connection.flush()
    }

    // MARK: Time

    private func setDeadline(seconds: Int, pause: UInt64 = 0) {
        deadline = core.reactor.now + UInt64(seconds) * Limits.nanosecondsPerSecond
        if case .commit = waiting {} else if case .goodbye = waiting {} else { deadline = min(deadline, sessionEnd) }
        let due = pause > 0 ? pause : deadline
        if due < timerAt { armTimer(due) }
    }

    private var timerAt: UInt64 = 0
    private var timer = TimerWheel.ID.none

    private func armTimer(_ at: UInt64? = nil) {
        core.reactor.cancelTimer(timer)
        timerAt = at ?? deadline
        timer = core.reactor.setTimer(timerAt, token.with(kind: TokenKind.receiveTimer))
    }

    func cancelTimer() { core.reactor.cancelTimer(timer) }

    func timerFired() {
        timerAt = .max
        let now = core.reactor.now
        if case .handshakeTurn = waiting { return shakeHands() }
        if case .room = waiting, now >= pausedUntil, pausedUntil > 0 {
            pausedUntil = 0
            pump()
        }
        if now >= deadline { return timedOut() }
        if incoming != nil, case .input = waiting, isTooSlow(now) { return timedOut() }
        let look = incoming == nil ? deadline : min(deadline, now + Self.rateLookNanoseconds)
        armTimer(look)
    }

    private static let rateLookNanoseconds: UInt64 = 60 * Limits.nanosecondsPerSecond

    /// Content below the minimum rate (T-D1).
    private func isTooSlow(_ now: UInt64) -> Bool {
        let seconds = Int((now - rateCheckedAt) / Limits.nanosecondsPerSecond)
        guard seconds >= 60 else { return false }
        let bytes = connection.bytesReceived - rateBytes
        rateCheckedAt = now
        rateBytes = connection.bytesReceived
        return bytes < Limits.contentRateMin * seconds
    }

    private func timedOut() {
        switch waiting {
        case .goodbye, .closed, .handshake, .handshakeTurn:
            end(lastWords.isEmpty ? "timed out \(machine.phase.words)" : lastWords)
        case .commit:
            // The disk, not the peer: it stays, for its answer decides who has the message.
            armTimer(core.reactor.now + 60 * Limits.nanosecondsPerSecond)
        case .homes: end("timed out \(machine.phase.words)")
        case .input, .room:
            let words = "timed out \(machine.phase.words)"
            if connection.unsentBytes == 0, incoming == nil, !needsProxyHeader {
                machine.timedOut(into: &connection.output)
                dropTransaction()
                lastWords = words
                waiting = .goodbye
                setDeadline(seconds: 5)
                armTimer()
                connection.flush()
            } else {
                end(words)
            }
        }
    }

    private func refused(_ what: String, _ reply: Reply) {
        core.log.refused(what, client: client.description, session: name, reply: reply)
    }

    /// For `postern_replies_total`: the code at the start of each reply line that ends a reply.
    private func countReplies() {
        let bytes = connection.output.bytes
        var at = 0
        while at + 3 < bytes.count {
            if bytes[at + 3] != UInt8(ascii: "-") {
                core.counters.replied(Int(bytes[at]) * 100 + Int(bytes[at + 1]) * 10 + Int(bytes[at + 2]) - 48 * 111)
            }
            while at < bytes.count, bytes[at] != 10 { at += 1 }
            at += 1
        }
    }
}
