@testable import Protocols

/// A client's bytes, in flights, whole and cut: the same replies; numbers as a client counts them.
///
/// Input: options, cut seed (two bytes), then flights: the first is a message's content, the others what the client says.
/// Before each flight the folder changes, as the flight's first byte says.
enum IMAPTarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = input.byte()
        let cuts = Cuts(seed: input.number())
        let flights = input.parts(FuzzInput.flight, atLeast: 2)
        let whole = IMAPFuzzOwner(options, content: flights[0])
        let cut = IMAPFuzzOwner(options, content: flights[0])
        for flight in flights.dropFirst() {
            let news = flight.first ?? 0
            for (owner, pieces) in [
                (whole, [Array(flight.dropFirst())]), (cut, cuts.pieces(Array(flight.dropFirst()))),
            ] {
                owner.change(news)
                for piece in pieces { owner.take(piece) }
            }
        }
        requireSame(text(whole.sent), text(cut.sent), "replies, whole and cut")
        requireSame(whole.uids, cut.uids, "messages left, whole and cut")
        requireSame(whole.isClosed, cut.isClosed, "closed, whole and cut")
        IMAPFuzzClient(whole).read()
    }
}

/// The folder and the socket, as small as they may be.
private final class IMAPFuzzOwner {
    private struct Mail {
        let uid: UInt32
        let content: [UInt8]
        var flags: IMAPFlags = []
        var modSequence: UInt64 = 1
    }

    private(set) var sent: [UInt8] = []
    private(set) var isClosed = false
    /// Where in `sent` a range of a message stands.
    var uids: [UInt32] { mails.map(\.uid) }

    private var session: IMAPServerSession
    private var mails: [Mail]
    private var modSequence: UInt64 = 1
    private var nextUID: UInt32 = 100
    private var isOpen = false
    private var isFlightOver = false
    private var pending: [UInt8] = []
    private var output = ByteOutput()
    private var events = 0
    private var given = 100

    init(_ options: UInt8, content: [UInt8]) {
        var settings = IMAPServerSettings(hostname: "h")
        settings.offersModSequences = options & 1 == 0
        settings.offersQuota = options & 2 == 0
        settings.offersStartTLS = true
        settings.sliceMax = 2
        settings.turnMessagesMax = 2
        if options & 4 == 4 { settings.outputPauseBytes = 20 }
        if options & 8 == 8 { settings.headerFieldsMaxBytes = 30 }
        mails = [
            Mail(uid: 3, content: content), Mail(uid: 5, content: Array("Subject: b\r\n\r\nbody\r\n".utf8)),
            Mail(uid: 9, content: []),
        ]
        session = IMAPServerSession(settings: settings, isTLS: options & 16 == 0)
        session.greet(into: &output)
        // Also to one who says nothing.
        sent += output.array
        output.removeAll()
        // Most flights are to be of what comes behind the login.
        if options & 32 == 0 { take(Array("l LOGIN u p\r\ns SELECT INBOX\r\n".utf8)) }
    }

    /// What another session does.
    func change(_ byte: UInt8) {
        isFlightOver = false
        guard !isClosed else { return }
        switch byte & 3 {
        case 1 where !mails.isEmpty:
            let uid = mails.remove(at: Int(byte >> 2) % mails.count).uid
            if isOpen { session.vanished([uid]) }
        case 2 where nextUID < 110:
            mails.append(Mail(uid: nextUID, content: Array("x\r\n".utf8)))
            nextUID += 1
            if isOpen { session.appeared([IMAPMessage(uid: nextUID - 1, flags: .recent, modSequence: 1)]) }
        case 3 where !mails.isEmpty:
            let index = Int(byte >> 2) % mails.count
            modSequence += 1
            (mails[index].flags, mails[index].modSequence) = (.seen, modSequence)
            let mail = mails[index]
            if isOpen {
                session.flagsChanged([IMAPMessage(uid: mail.uid, flags: mail.flags, modSequence: mail.modSequence)])
            }
        default: break
        }
    }

    func take(_ bytes: [UInt8]) {
        guard !isClosed, !isFlightOver else { return }
        pending += bytes
        given += bytes.count
        while true {
            var consumed = 0
            let event = withExact(pending) { session.next($0, consumed: &consumed, into: &output) }
            require(consumed <= pending.count, "consumed too much")
            pending.removeFirst(consumed)
            events += 1
            require(events < 400 * given, "\(events) events of \(given) bytes")
            sent += output.array
            output.removeAll()
            if case .needMore = event {
                require(pending.isEmpty, "bytes are left over")
                return
            }
            if isClosed || !act(event) { return }
        }
    }

    private func find(_ uid: UInt32) -> Int? { mails.firstIndex { $0.uid == uid } }

    /// False if the connection is over.
    private func act(_ event: IMAPServerSession.Event) -> Bool {
        switch event {
        case .needMore, .outputFull, .workLeft: break
        case .startTLS:
            // What else came in plaintext is dropped: the rest of the flight, however it is cut.
            session.tlsStarted()
            pending = []
            isFlightOver = true
        case .login(_, let password):
            if password == [112] {
                session.acceptLogin(folders: ["INBOX", "Copies"], into: &output)
            } else {
                session.refuseLogin(IMAPDenial("no", code: "AUTHENTICATIONFAILED"), into: &output)
            }
        case .authenticate(_, let response):
            if response == nil {
                session.challenge([1, 2], into: &output)
            } else {
                session.refuseLogin(IMAPDenial("no"), into: &output)
            }
        case .authenticationResponse(let response):
            if response.isEmpty {
                session.refuseLogin(IMAPDenial("no"), into: &output)
            } else {
                session.acceptLogin(folders: ["INBOX", "Copies"], into: &output)
            }
        case .authenticationCancelled: break
        case .open(let folder, _):
            isOpen = folder == 0
            guard isOpen else {
                session.refused(IMAPDenial("not now", code: "UNAVAILABLE"), into: &output)
                break
            }
            let messages = mails.map { IMAPMessage(uid: $0.uid, flags: $0.flags, modSequence: $0.modSequence) }
            session.opened(
                IMAPMailbox(uidValidity: 1, uidNext: nextUID, highestModSequence: modSequence, messages: messages),
                into: &output)
        case .close: isOpen = false
        case .status: session.status(IMAPFolderStatus(), into: &output)
        case .quota: session.quota(IMAPQuota(), into: &output)
        case .describe(let uid):
            session.described(
                find(uid).map { IMAPDescription(bytes: mails[$0].content.count, unixSeconds: 1_795_530_600) })
        case .read(let uid, let range):
            guard let index = find(uid) else {
                session.contentEnded(isWhole: false, into: &output)
                break
            }
            require(range.upperBound <= mails[index].content.count, "a range beyond the message")
            for byte in mails[index].content[range] {
                if !withExact([byte], { session.content($0) }) { break }
            }
            session.contentEnded(isWhole: true, into: &output)
        case .send(let uid, let range):
            guard let index = find(uid) else { fail("a message is sent that is gone") }
            require(!range.isEmpty && range.upperBound <= mails[index].content.count, "a range beyond the message")
            sent += mails[index].content[range]
        case .store(let store): session.stored(store.uids.map { outcome($0, store) }, into: &output)
        case .expunge(let uids):
            let gone = uids.filter { $0 != 5 }
            mails.removeAll { gone.contains($0.uid) }
            session.expunged(gone, into: &output)
        case .hangUp:
            isClosed = true
            return false
        }
        return true
    }

    private func outcome(_ uid: UInt32, _ store: IMAPStore) -> IMAPStoreOutcome {
        require(store.uids.count <= 2 && store.change.flags.isSubset(of: .changeable), "a store beyond its bounds")
        guard let index = find(uid) else { return .gone }
        if let since = store.unchangedSince, mails[index].modSequence > since {
            return .modified(mails[index].flags, modSequence: mails[index].modSequence)
        }
        modSequence += 1
        mails[index].flags = store.change.applied(to: mails[index].flags)
        mails[index].modSequence = modSequence
        return .stored(mails[index].flags, modSequence: modSequence)
    }
}

/// Reads replies as a client must: literals by their length, numbers by what EXISTS and EXPUNGE left.
private struct IMAPFuzzClient {
    private let bytes: [UInt8]
    private let isClosed: Bool

    init(_ owner: IMAPFuzzOwner) {
        bytes = owner.sent
        isClosed = owner.isClosed
    }

    func read() {
        var at = 0
        var exists = 0
        while at < bytes.count {
            let line = line(from: &at)
            if line.starts(with: "+ ".utf8) { continue }
            let words = line.split(separator: 32, maxSplits: 3).map { text($0) }
            require(words.count >= 2, "the reply \(text(line))")
            guard words[0] == "*" else {
                require(["OK", "NO", "BAD"].contains(words[1]), "the tagged reply \(text(line))")
                continue
            }
            if words[1] == "FLAGS" { exists = 0 }
            guard let number = Int(words[1]) else {
                require(
                    [
                        "OK", "BAD", "BYE", "FLAGS", "LIST", "LSUB", "SEARCH", "ESEARCH", "STATUS", "CAPABILITY",
                        "ENABLED",
                        "ID", "NAMESPACE", "QUOTA", "QUOTAROOT",
                    ].contains(words[1]), "the reply \(text(line))")
                continue
            }
            switch words[2] {
            case "EXISTS":
                require(number >= exists, "EXISTS goes down")
                exists = number
            case "EXPUNGE":
                require(number >= 1 && number <= exists, "EXPUNGE of \(number), of \(exists)")
                exists -= 1
            case "FETCH": require(number >= 1 && number <= exists, "FETCH of \(number), of \(exists)")
            case "RECENT": require(number <= exists, "\(number) of \(exists) are recent")
            default: fail("the reply \(text(line))")
            }
        }
    }

    /// The line from `at`, literals and all, without its CRLF.
    private func line(from at: inout Int) -> ArraySlice<UInt8> {
        let start = at
        while true {
            guard let end = bytes[at...].firstIndex(of: 10), end > at, bytes[end - 1] == 13 else {
                fail("a reply without CRLF: \(text(bytes[start...]))")
            }
            at = end + 1
            guard end >= 2, bytes[end - 2] == UInt8(ascii: "}"),
                let open = bytes[start..<end].lastIndex(of: UInt8(ascii: "{")),
                let count = decimal(bytes[(open + 1)..<(end - 2)])
            else { return bytes[start..<(end - 1)] }
            at += count
            require(at <= bytes.count, "a literal is cut off")
        }
    }
}
