/// What a conversation costs in bytes alone: how many come, how many are answered, and where a message must be durable first.
///
/// Made from the same load as the generator's, so that both sides pass the same bytes at the same points. The peer counts
/// bytes and understands none of them.
struct FloorScript: Equatable {
    struct Step: Equatable {
        var reads: Int
        var replies: [UInt8]
        /// The bytes are appended to the file and synced before the reply goes out.
        var commits = false
    }

    var greeting: [UInt8]
    var hello: Step
    /// One message.
    var message: [Step]
    /// nil: sessions stay open.
    var quit: Step?

    private static let mail = "250 2.1.0 ok\r\n", rcpt = "250 2.1.5 ok\r\n", go = "354 go on, end with a dot\r\n"
    private static let taken = "250 2.0.0 1tQ4vV8mZ3kX0001\r\n"

    /// - Parameter load: one size, one domain without a number: all messages have the same lengths.
    init(_ load: Load) {
        greeting = Array("220 floor.test ESMTP\r\n".utf8)
        let offers =
            "250-floor.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 52428800\r\n250-CHUNKING\r\n250 ENHANCEDSTATUSCODES\r\n"
        hello = Step(reads: "EHLO \(load.helo)\r\n".utf8.count, replies: Array(offers.utf8))
        let composer = Composer(
            run: 0, domains: load.domains, recipients: load.recipients, from: load.from, date: Composer.date())
        let room = UnsafeMutablePointer<UInt8>.allocate(
            capacity: Composer.commandsMax(recipients: load.recipients) + Composer.headerMax)
        defer { room.deallocate() }
        let body = load.sizes.bytes(0)
        let header = composer.header(0, bodyBytes: body, to: room)
        var commands = [
            Step(
                reads: composer.mail(contentBytes: body + Composer.headerMax, to: room), replies: Array(Self.mail.utf8))
        ]
        for index in 0..<load.recipients {
            commands.append(Step(reads: composer.recipient(index, of: 0, to: room), replies: Array(Self.rcpt.utf8)))
        }
        if load.chunking {
            let chunk = Composer.chunk(bytes: header + body, to: room)
            commands.append(Step(reads: chunk + header + body, replies: Array(Self.taken.utf8), commits: true))
            if load.pipelining { commands = [Self.together(commands)] }
        } else {
            commands.append(Step(reads: 6, replies: Array(Self.go.utf8)))
            if load.pipelining { commands = [Self.together(commands)] }
            commands.append(Step(reads: header + body + 3, replies: Array(Self.taken.utf8), commits: true))
        }
        message = commands
        quit = load.onePerSession ? Step(reads: 6, replies: Array("221 2.0.0 bye\r\n".utf8)) : nil
    }

    private static func together(_ steps: [Step]) -> Step {
        Step(
            reads: steps.reduce(0) { $0 + $1.reads }, replies: steps.flatMap(\.replies),
            commits: steps.contains(where: \.commits))
    }

    // As text, for the peer's process: steps separated by `;`, each `reads,commits,replies in hexadecimal`.

    var text: String {
        ([Step(reads: 0, replies: greeting), hello] + message + (quit.map { [$0] } ?? [Step(reads: 0, replies: [])]))
            .map {
                "\($0.reads),\($0.commits ? 1 : 0),"
                    + $0.replies.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
            }
            .joined(separator: ";")
    }

    init?(text: String) {
        var steps: [Step] = []
        for part in text.split(separator: ";") {
            let fields = part.split(separator: ",", omittingEmptySubsequences: false)
            guard fields.count == 3, let reads = Int(fields[0]), reads >= 0, fields[2].utf8.count % 2 == 0 else {
                return nil
            }
            var replies: [UInt8] = []
            var rest = fields[2]
            while !rest.isEmpty {
                guard let byte = UInt8(rest.prefix(2), radix: 16) else { return nil }
                replies.append(byte)
                rest = rest.dropFirst(2)
            }
            steps.append(Step(reads: reads, replies: replies, commits: fields[1] == "1"))
        }
        guard steps.count >= 4 else { return nil }
        greeting = steps[0].replies
        hello = steps[1]
        message = Array(steps[2..<(steps.count - 1)])
        quit = steps[steps.count - 1].reads == 0 ? nil : steps[steps.count - 1]
    }
}
