/// The server's side of one IMAP4rev1 conversation (RFC 3501), without socket, accounts and mail.
///
/// ```text
/// connected ─greet▶ not authenticated ─LOGIN, AUTHENTICATE▶ authenticated ◀─SELECT, CLOSE─▶ selected
///                   └ STARTTLS ▶ not authenticated              all ─LOGOUT, errors▶ logout
/// ```
///
/// How an owner of the socket drives it:
///
/// 1. `greet`, send `output`. Then call ``next(_:consumed:into:)`` with the bytes that came, again and again.
/// 2. Each ``Event`` says what to do, and how to answer; until it is answered `next` must not be called, and may not be.
///    Before `.send`, `.startTLS`, `.hangUp` and `.outputFull` are acted on, `output` is sent.
/// 3. What happens to the open folder elsewhere is told at any time: ``appeared(_:)``, ``vanished(_:)``,
///    ``flagsChanged(_:)``; then `next`, with no bytes if there are none. The client learns of it when it may (§5.2, §7.4.1).
/// 4. Content is asked for in offsets of the presented message, see ``IMAPPresentedContent``, and never kept. From the first
///    event with a UID to the first one with another the owner keeps that message readable, whatever becomes of it.
///
/// - Errors: a client's are answered, and too many end the session; an owner out of order traps.
/// - Departure: content that holds NUL is sent as it is, though a literal may not (§9 `CHAR8`); sizes would change else.
public struct IMAPServerSession: ~Copyable {
    let settings: IMAPServerSettings
    var state: State = .connected
    var phaseOfLogin = Login.none
    var expects = Expects.command
    var run: Run?
    public internal(set) var isTLS: Bool

    /// Names of the folders of who has logged in; the first is INBOX.
    var folders: [String] = []
    var selected: Selected?
    var isModSequenceAware = false

    /// The command under way, with its literals.
    var command: [UInt8] = []
    /// Where in `command` the line begins that is being read.
    var lineStart = 0
    var tag: [UInt8] = []
    var errorCount = 0
    var failedLoginCount = 0
    var discardedBytes = 0

    /// - `isTLS`: the handshake is done before the greeting (RFC 8314 §3.2).
    public init(settings: borrowing IMAPServerSettings, isTLS: Bool = false) {
        precondition(settings.keywords.count <= IMAPFlags.keywordsMax, "too many keywords")
        self.settings = copy settings
        self.isTLS = isTLS
    }
}

// MARK: - Events

extension IMAPServerSession {
    /// What the owner is to do.
    public enum Event: Equatable, Sendable {
        /// Give more bytes, or news of the folder. All that was given is consumed.
        case needMore
        /// Replies have piled up in `output`: send them before the next call.
        case outputFull
        /// A long command is under way: let others have their turn, then call again.
        case workLeft
        /// The OK is in the output. Do the handshake, call ``tlsStarted()``. All of `input` counts as consumed; drop
        /// whatever else came in plaintext (T-B1).
        case startTLS
        /// Answer with ``acceptLogin(folders:into:)`` or ``refuseLogin(_:into:)``. The bytes are as the client sent them.
        case login(user: [UInt8], password: [UInt8])
        /// A SASL exchange begins, with a mechanism that is offered: answer with ``challenge(_:into:)``,
        /// ``acceptLogin(folders:into:)`` or ``refuseLogin(_:into:)``.
        case authenticate(mechanism: String, initialResponse: [UInt8]?)
        /// The answer to a challenge; answer in the same way.
        case authenticationResponse([UInt8])
        /// The client gave the exchange up, or sent what is no base64. It is answered.
        case authenticationCancelled
        /// Answer with ``opened(_:into:)`` or ``refused(_:into:)``. A folder that was open is closed. The client is the first
        /// to see the messages above all that were opened before, for writing: those get ``IMAPFlags/recent``.
        case open(folder: Int, readOnly: Bool)
        /// No folder is open any more.
        case close
        /// Answer with ``status(_:into:)`` or ``refused(_:into:)``.
        case status(folder: Int)
        /// Answer with ``quota(_:into:)`` or ``refused(_:into:)``.
        case quota
        /// Answer with ``described(_:)``.
        case describe(UInt32)
        /// Give that range of the message to ``content(_:)``, piece by piece, until it wants no more; then call
        /// ``contentEnded(isWhole:into:)``.
        case read(UInt32, Range<Int>)
        /// Send `output`, then that range of the message; then call `next`. If it can't be read, close the connection: the
        /// client has been told how many bytes come.
        case send(UInt32, Range<Int>)
        /// Change flags, durably; answer with ``stored(_:into:)``.
        case store(IMAPStore)
        /// Take messages away, durably, for good; answer with ``expunged(_:into:)``.
        case expunge([UInt32])
        /// Flush and close.
        case hangUp
    }

    /// Where the conversation stands, for timeouts and for the log.
    public enum Phase: CaseIterable, Sendable {
        case greeting, login, command, idle, startTLS, closing

        /// Completes "lost connection …" and "timeout …".
        public var words: StaticString {
            switch self {
            case .greeting: "before the greeting"
            case .login: "before login"
            case .command: "between commands"
            case .idle: "in IDLE"
            case .startTLS: "after STARTTLS"
            case .closing: "while closing"
            }
        }

        /// How long to wait for the client: at least 30 minutes once it has logged in (RFC 3501 §5.4).
        /// That of `login` counts from the greeting, whatever is said meanwhile (T-D7).
        public var timeoutSeconds: Int {
            switch self {
            case .greeting, .login, .startTLS: 60
            case .command, .idle: 31 * 60
            case .closing: 30
            }
        }
    }

    enum State {
        /// No greeting yet.
        case connected
        /// Within a line.
        case line
        /// Within a literal; bytes still to come.
        case literal(Int)
        /// A refused command with a literal that can't be stopped (RFC 7888 §4): bytes of it to come, then a line.
        case discarding(Int, answer: IMAPRefusal)
        case asking(Question)
        /// `run` is worked on.
        case running
        case startingTLS
        /// The last reply is in the output.
        case closing
    }

    enum Question: Equatable {
        case login, authentication
        case open(folder: Int, readOnly: Bool)
        case status(folder: Int, [IMAPStatusItem])
        case quota(folder: Int?)
        case description, content
        case store, expunge
    }

    enum Login { case none, done }

    /// What the next line is.
    enum Expects { case command, authenticationResponse, done }

    /// A command that is worked out in steps.
    enum Run {
        case fetch(FetchRun)
        case store(StoreRun)
        case search(SearchRun)
        case expunge(ExpungeRun)
        case announce(AnnounceRun)
    }
}

/// Why the owner refuses. The texts must be ASCII, on one line.
public struct IMAPDenial: Equatable, Sendable {
    /// RFC 5530: `AUTHENTICATIONFAILED`, `UNAVAILABLE`, `INUSE` …; goes into brackets.
    public var code: String?
    public var text: String
    /// The session ends with it.
    public var isFinal: Bool

    public init(_ text: String, code: String? = nil, isFinal: Bool = false) {
        (self.text, self.code, self.isFinal) = (text, code, isFinal)
    }
}

// MARK: - Conversation

extension IMAPServerSession {
    public mutating func greet(into output: inout ByteOutput) {
        guard case .connected = state else { preconditionFailure("greeted twice") }
        state = .line
        output.append("* OK [CAPABILITY ")
        writeCapabilities(into: &output)
        output.append("] ")
        output.append(text: settings.hostname)
        output.append(" Postern IMAP4rev1\r\n")
    }

    /// Goes through `input` from `consumed` on, up to the first thing that happened. `consumed` comes back behind what need
    /// not be presented again.
    public mutating func next(
        _ input: UnsafeRawBufferPointer, consumed: inout Int, into output: inout ByteOutput
    ) -> Event {
        while true {
            switch state {
            case .connected: preconditionFailure("not greeted")
            case .asking: preconditionFailure("the last event was not answered")
            case .startingTLS: preconditionFailure("tlsStarted was not called")
            case .closing:
                consumed = input.count
                return .hangUp
            case .running:
                if output.count >= settings.outputPauseBytes { return .outputFull }
                if let event = step(into: &output) { return event }
            case .line:
                if output.count >= settings.outputPauseBytes { return .outputFull }
                if expects == .done, hasNews {
                    run = .announce(AnnounceRun(mayExpunge: true, ending: nil))
                    state = .running
                    continue
                }
                guard errorCount < settings.errorsMax else {
                    return hangUp("Too many errors", into: &output)
                }
                guard consumed < input.count else { return .needMore }
                if let event = line(input, consumed: &consumed, into: &output) { return event }
            case .literal(let missing):
                let count = min(missing, input.count - consumed)
                guard count > 0 else { return .needMore }
                command.append(contentsOf: UnsafeRawBufferPointer(rebasing: input[consumed..<consumed + count]))
                consumed += count
                state = missing == count ? .line : .literal(missing - count)
                lineStart = command.count
            case .discarding(let missing, let answer):
                guard consumed < input.count else { return .needMore }
                if let event = discard(missing, answer, input, consumed: &consumed, into: &output) { return event }
            }
        }
    }

    /// The handshake is done. All that the client said before is forgotten (RFC 3501 §6.2.1).
    public mutating func tlsStarted() {
        guard case .startingTLS = state else { preconditionFailure("no STARTTLS under way") }
        isTLS = true
        state = .line
    }

    /// The client kept silent for too long. Flush and close.
    public mutating func timedOut(into output: inout ByteOutput) { _ = hangUp("Autologout", into: &output) }

    /// The server is stopping. Flush and close. Not to be said while content is being sent.
    public mutating func shutDown(into output: inout ByteOutput) {
        _ = hangUp("[UNAVAILABLE] Server is shutting down", into: &output)
    }

    public var phase: Phase {
        switch state {
        case .connected: .greeting
        case .startingTLS: .startTLS
        case .closing: .closing
        default: phaseOfLogin == .none ? .login : expects == .done ? .idle : .command
        }
    }

    /// The client has failed to log in: answer slowly (T-D5).
    public var shouldDelayReplies: Bool { failedLoginCount > 0 && phaseOfLogin == .none }
}

// MARK: - Common to all commands

extension IMAPServerSession {
    mutating func hangUp(_ text: StaticString, into output: inout ByteOutput) -> Event {
        output.append("* BYE ")
        output.append(text)
        output.append("\r\n")
        state = .closing
        return .hangUp
    }

    /// The tagged reply; the next command is read.
    mutating func reply(_ word: StaticString, _ text: String, code: String? = nil, into output: inout ByteOutput) {
        output.append(tag)
        output.append(UInt8(ascii: " "))
        output.append(word)
        output.append(UInt8(ascii: " "))
        if let code {
            output.append(UInt8(ascii: "["))
            output.append(text: code)
            output.append("] ")
        }
        output.append(text: text)
        output.append("\r\n")
        state = .line
        expects = .command
        run = nil
    }

    mutating func refuse(_ refusal: IMAPRefusal, into output: inout ByteOutput) {
        if refusal.kind == .bad { errorCount += 1 }
        reply(refusal.kind == .bad ? "BAD" : "NO", refusal.text, code: refusal.code, into: &output)
    }

    /// Ends a command with an OK or a NO, behind news of the folder.
    mutating func finish(
        _ word: StaticString, _ text: String, code: String? = nil, mayExpunge: Bool = true,
        into output: inout ByteOutput
    ) {
        if word == .ok { errorCount = 0 }
        guard hasNews else { return reply(word, text, code: code, into: &output) }
        run = .announce(
            AnnounceRun(mayExpunge: mayExpunge, ending: AnnounceRun.Ending(word: word, text: text, code: code)))
        state = .running
    }

    private mutating func step(into output: inout ByteOutput) -> Event? {
        guard let current = run.take() else { preconditionFailure("nothing to work on") }
        switch current {
        case .fetch(var fetch): return stepFetch(&fetch, into: &output)
        case .store(var store): return stepStore(&store, into: &output)
        case .search(var search): return stepSearch(&search, into: &output)
        case .expunge(var expunge): return stepExpunge(&expunge, into: &output)
        case .announce(var announce): return stepAnnounce(&announce, into: &output)
        }
    }
}

extension StaticString {
    static var ok: StaticString { "OK" }

    static func == (a: StaticString, b: StaticString) -> Bool {
        a.utf8CodeUnitCount == b.utf8CodeUnitCount
            && UnsafeBufferPointer(start: a.utf8Start, count: a.utf8CodeUnitCount)
                .elementsEqual(UnsafeBufferPointer(start: b.utf8Start, count: b.utf8CodeUnitCount))
    }
}
