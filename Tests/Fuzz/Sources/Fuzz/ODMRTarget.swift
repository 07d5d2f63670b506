@testable import Protocols

/// On-demand mail relay up to the turn, and ETRN's argument: the same however the stream is cut; no turn without a user,
/// nor with anything behind ATRN; domains as a plain reader has them.
///
/// Input: options, cut seed (two bytes), then what the customer sends, in flights; or ETRN's argument.
enum ODMRTarget {
    struct Options: OptionSet {
        let rawValue: UInt8
        static let etrn = Options(rawValue: 1)
        static let tls = Options(rawValue: 2)
        static let withoutUser = Options(rawValue: 4)
        static let small = Options(rawValue: 8)
        static let loggedIn = Options(rawValue: 16)
        static let refuses = Options(rawValue: 32)
    }

    struct Outcome: Equatable {
        var replies: [UInt8] = []
        var events: [String] = []
        var phase = ODMRServerSession.Phase.greeting
    }

    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = Options(rawValue: input.byte())
        let cuts = Cuts(seed: input.number())
        if options.contains(.etrn) { return request(input.all()) }
        var flights = input.parts(FuzzInput.flight)
        if options.contains(.loggedIn) {
            flights.insert(Array("EHLO x\r\nAUTH PLAIN AGFsdG4udGVzdABzZWNyZXQ=\r\n".utf8), at: 0)
        }
        let whole = converse(options, flights, nil)
        require(hasOnlyCRLF(whole.replies) && whole.replies.suffix(2) == [13, 10], "reply lines")
        for line in whole.replies.split(separator: 10) {
            require(line.count <= 511 && line.allSatisfy { $0 < 127 }, "reply line: \(text(line))")
        }
        let cut = converse(options, flights, cuts)
        requireSame(text(whole.replies), text(cut.replies), "replies, whole and cut")
        requireSame(whole, cut, "outcomes, whole and cut")
    }

    private static func request(_ argument: [UInt8]) {
        do throws(ETRNReply) {
            let request = try ETRNRequest(argument: argument)
            let printed = Array(request.description.utf8)
            requireSame(try ETRNRequest(argument: printed), request, "print and parse")
            requireSame(printed.map { $0 | 0x20 }, argument.map { $0 | 0x20 }, "what was asked for")
            switch request {
            case .domain(let domain), .subtree(let domain): checkDomain(domain)
            case .queue(let name): require((1...64).contains(name.utf8.count), "queue name")
            }
            var output = ByteOutput()
            ETRNReply.pendingCountStarted(.max, request).reply.write(into: &output)
            require(output.count <= 512, "reply of \(output.count) bytes")
        } catch {
            requireSame(error, argument.isEmpty ? .missingArgument : .malformedArgument, "fault")
        }
    }

    private static func checkDomain(_ domain: QualifiedDomain) {
        let labels = domain.description.split(separator: ".", omittingEmptySubsequences: false)
        require(labels.count >= 2 && domain.description.utf8.count <= 255, "\(domain)")
        for label in labels {
            require(!label.isEmpty && label.utf8.count <= 63 && label.first != "-" && label.last != "-", "\(domain)")
            require(label.allSatisfy { $0.isASCII && ($0.isLowercase || $0.isNumber || $0 == "-") }, "\(domain)")
        }
    }

    private static func converse(_ options: Options, _ flights: [[UInt8]], _ cuts: Cuts?) -> Outcome {
        var settings = ODMRServerSettings(hostname: "mx.example")
        settings.offersStartTLS = true
        settings.requiresAuthentication = !options.contains(.withoutUser)
        if options.contains(.small) {
            (settings.lineMaxBytes, settings.errorsMax, settings.commandsMax, settings.domainsMax) = (64, 3, 8, 2)
        }
        let isTLS = options.contains(.tls) || options.contains(.loggedIn)
        var session = ODMRServerSession(
            settings: settings, offer: SASLOffer(context: FuzzDirectory.context), isTLS: isTLS)
        var output = ByteOutput()
        var outcome = Outcome()
        var user: String?
        session.greet(into: &output)
        // Not consumed: it is presented again. After STARTTLS the rest of a flight is dropped.
        var pending: [UInt8] = []
        conversation: for flight in flights {
            var unread = flight.count
            var stepsAllowed = 16
            for piece in cuts?.pieces(flight) ?? [flight] {
                pending += piece
                unread -= piece.count
                stepsAllowed += 4 * piece.count + 4
                loop: while true {
                    stepsAllowed -= 1
                    require(stepsAllowed > 0, "more steps than bytes")
                    var consumed = 0
                    let event = withExact(pending) { session.next($0, consumed: &consumed, into: &output) }
                    require((0...pending.count).contains(consumed), "consumed \(consumed) of \(pending.count)")
                    pending.removeFirst(consumed)
                    if event != .needMore { outcome.events.append("\(event)") }
                    switch event {
                    case .needMore: break loop
                    case .hello(let name, _): require((1...255).contains(name.utf8.count), "hello name")
                    case .ask(let question): session.answer(FuzzDirectory.answer(question), into: &output)
                    case .authenticated(let name):
                        require(user == nil && name == FuzzDirectory.user, "authenticated")
                        user = name
                    case .startTLS:
                        require(pending.isEmpty && user == nil, "STARTTLS")
                        session.tlsStarted()
                        continue conversation
                    case .turn(let name, let domains):
                        require(
                            name == user && (user != nil || options.contains(.withoutUser)),
                            "a turn for \(name ?? "nobody")")
                        require(Set(domains).count == domains.count && domains.count <= settings.domainsMax, "domains")
                        for domain in domains { checkDomain(domain) }
                        let decision: ATRNDecision =
                            options.contains(.refuses)
                            ? .decide(requested: domains, granted: [], turnsWithoutMail: true) { _ in true }
                            : .turn(domains.isEmpty ? [QualifiedDomain("altn.test")!] : domains)
                        session.answerTurn(decision, earlyBytes: unread, into: &output)
                    case .turned:
                        require(
                            !options.contains(.refuses) && pending.isEmpty && unread == 0, "a turn with bytes behind it"
                        )
                        break conversation
                    case .quit, .hangUp: break conversation
                    }
                }
            }
        }
        (outcome.replies, outcome.phase) = (output.array, session.phase)
        return outcome
    }
}
