import Testing

@testable import Protocols

/// An owner of a session with one customer's folders in memory, that does what a gateway would.
final class IMAPServerOwner {
    struct Mail {
        var uid: UInt32
        var prefix: [UInt8] = []
        var content: [UInt8]
        var flags: IMAPFlags = []
        var modSequence: UInt64 = 1
        var unixSeconds: Int64 = 1_795_530_600
        var presented: [UInt8] { prefix + content }
    }

    var session: IMAPServerSession
    var output = ByteOutput()
    var isClosed = false
    var folders: [[Mail]]
    let names = ["INBOX", "Copies"]
    var open: Int?
    /// The highest mod-sequence that was given; 0: none are kept.
    var modSequence: UInt64 = 10
    /// Messages that another way out has leased.
    var leased: Set<UInt32> = []
    var unreadable: Set<UInt32> = []
    /// Done before the next event is acted on, once.
    var meanwhile: ((IMAPServerOwner) -> Void)?
    var events: [String] = []
    /// Content is read in pieces of that size.
    var pieceBytes = 7
    private var pending: [UInt8] = []
    /// What was taken from `output` when that was full.
    private var sent: [UInt8] = []

    static var settings: IMAPServerSettings {
        var settings = IMAPServerSettings(hostname: "mx.example")
        settings.offersModSequences = true
        settings.offersQuota = true
        settings.offersStartTLS = true
        return settings
    }

    init(_ mails: [Mail] = [], settings: IMAPServerSettings = IMAPServerOwner.settings, isTLS: Bool = true) {
        folders = [mails, []]
        session = IMAPServerSession(settings: settings, isTLS: isTLS)
        session.greet(into: &output)
    }

    /// A session that has logged in, with INBOX selected; its replies are taken off.
    static func selected(
        _ mails: [Mail], settings: IMAPServerSettings = settings, then commands: String = ""
    ) -> IMAPServerOwner {
        let owner = IMAPServerOwner(mails, settings: settings)
        owner.send("l LOGIN u p\r\ns SELECT INBOX\r\n" + commands)
        _ = owner.take()
        owner.events = []
        return owner
    }

    /// Mails with these contents, UIDs from 101 in steps of 10.
    static func mails(_ contents: [String]) -> [Mail] {
        contents.enumerated().map { Mail(uid: UInt32(101 + 10 * $0.offset), content: Array($0.element.utf8)) }
    }

    var isTLS: Bool { session.isTLS }
    var shouldDelayReplies: Bool { session.shouldDelayReplies }
    var phase: IMAPServerSession.Phase { session.phase }
    var replies: String { String(decoding: sent + output.array, as: UTF8.self) }

    /// The replies since the last call, line by line.
    func take() -> [String] {
        defer {
            sent = []
            output.removeAll()
        }
        return replies.split(separator: "\r\n", omittingEmptySubsequences: false).dropLast().map(String.init)
    }

    /// What a command is answered with.
    func ask(_ text: String) -> [String] {
        send(text + "\r\n")
        return take()
    }

    func send(_ text: String) { send([UInt8](text.utf8)) }

    func send(_ bytes: [UInt8]) {
        pending += bytes
        while !isClosed {
            let input = pending
            var consumed = 0
            let event = input.withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
            pending.removeFirst(consumed)
            if case .needMore = event {
                #expect(pending.isEmpty)
                return
            }
            act(event)
        }
    }

    private func find(_ uid: UInt32) -> Int? { folders[open!].firstIndex { $0.uid == uid } }

    private func act(_ event: IMAPServerSession.Event) {
        if let meanwhile {
            self.meanwhile = nil
            meanwhile(self)
        }
        switch event {
        case .needMore: break
        case .outputFull:
            sent += output.array
            output.removeAll()
        case .workLeft: events.append("workLeft")
        case .startTLS:
            events.append("tls")
            session.tlsStarted()
        case .login(let user, let password): answerLogin(user, password)
        case .authenticate(let mechanism, let initial):
            events.append("auth:\(mechanism)")
            if let initial { answerPlain(initial) } else { session.challenge([], into: &output) }
        case .authenticationResponse(let response): answerPlain(response)
        case .authenticationCancelled: events.append("cancelled")
        case .open(let folder, let readOnly):
            events.append("open:\(folder)\(readOnly ? ":ro" : "")")
            open = folder
            let messages = folders[folder].map {
                IMAPMessage(uid: $0.uid, flags: $0.flags, modSequence: modSequence == 0 ? 0 : $0.modSequence)
            }
            session.opened(
                IMAPMailbox(
                    uidValidity: 7, uidNext: (messages.last?.uid ?? 0) + 1, highestModSequence: modSequence,
                    messages: messages, isReadOnly: folder == 1), into: &output)
        case .close:
            events.append("close")
            open = nil
        case .status(let folder):
            var status = IMAPFolderStatus()
            status.messages = folders[folder].count
            status.uidNext = (folders[folder].last?.uid ?? 0) + 1
            status.uidValidity = 7
            status.unseen = folders[folder].count { !$0.flags.contains(.seen) }
            status.highestModSequence = modSequence
            status.deleted = folders[folder].count { $0.flags.contains(.deleted) }
            status.deletedBytes = folders[folder].filter { $0.flags.contains(.deleted) }.map(\.presented.count).reduce(
                0, +)
            session.status(status, into: &output)
        case .quota:
            var quota = IMAPQuota()
            (quota.usedBytes, quota.limitBytes, quota.usedMessages, quota.limitMessages) = (2_049, 10_240, 2, 100)
            session.quota(quota, into: &output)
        case .describe(let uid):
            session.described(
                find(uid).map {
                    let mail = folders[open!][$0]
                    return IMAPDescription(bytes: mail.presented.count, unixSeconds: mail.unixSeconds)
                })
        case .read(let uid, let range): read(uid, range)
        case .send(let uid, let range):
            output.append(Array(find(uid).map { folders[open!][$0].presented[range] } ?? []))
        case .store(let store): session.stored(store.uids.map { self.store($0, store) }, into: &output)
        case .expunge(let uids):
            events.append("expunge:\(uids)")
            let gone = uids.filter { !leased.contains($0) }
            folders[open!].removeAll { gone.contains($0.uid) }
            session.expunged(gone, into: &output)
        case .hangUp: isClosed = true
        }
    }

    private func answerLogin(_ user: [UInt8], _ password: [UInt8]) {
        events.append("login:" + String(decoding: user + [58] + password, as: UTF8.self))
        if password == Array("p".utf8) {
            session.acceptLogin(folders: names, into: &output)
        } else {
            session.refuseLogin(IMAPDenial("Login failed", code: "AUTHENTICATIONFAILED"), into: &output)
        }
    }

    private func answerPlain(_ response: [UInt8]) {
        let parts = response.split(separator: 0, omittingEmptySubsequences: false)
        answerLogin(Array(parts.count == 3 ? parts[1] : []), Array(parts.last ?? []))
    }

    private func read(_ uid: UInt32, _ range: Range<Int>) {
        events.append("read:\(uid)")
        guard let index = find(uid), !unreadable.contains(uid) else {
            return session.contentEnded(isWhole: false, into: &output)
        }
        let bytes = Array(folders[open!][index].presented[range])
        var at = 0
        while at < bytes.count {
            let end = min(at + pieceBytes, bytes.count)
            guard bytes[at..<end].withUnsafeBytes({ session.content($0) }) else { break }
            at = end
        }
        session.contentEnded(isWhole: true, into: &output)
    }

    private func store(_ uid: UInt32, _ store: IMAPStore) -> IMAPStoreOutcome {
        guard let index = find(uid) else { return .gone }
        let mail = folders[open!][index]
        if let since = store.unchangedSince, mail.modSequence > since {
            return .modified(mail.flags, modSequence: mail.modSequence)
        }
        let flags = store.change.applied(to: mail.flags)
        if flags != mail.flags, modSequence > 0 {
            modSequence += 1
            folders[open!][index].modSequence = modSequence
        }
        folders[open!][index].flags = flags
        return .stored(flags, modSequence: modSequence == 0 ? 0 : folders[open!][index].modSequence)
    }
}
