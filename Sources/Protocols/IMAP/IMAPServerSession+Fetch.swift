/// FETCH (RFC 3501 §6.4.5): message by message, and each in the order in which it was asked for.
///
/// ```text
/// next message ─▶ describe ─▶ scan its structure ─▶ store \Seen ─▶ write items, with content sent by the owner ─▶ next
/// ```
///
/// A step that nothing asks for is left out.
extension IMAPServerSession {
    struct FetchRun {
        enum Stage { case nextMessage, describe, scan, seen, items }

        let items: [IMAPFetchItem]
        let indices: [Range<Int>]
        let changedSince: UInt64?
        let isUID: Bool
        let needsDescription: Bool
        /// nil: none; else whether the header section is enough.
        let needsScan: (isHeaderEnough: Bool, Void)?
        let setsSeen: Bool

        var stage = Stage.nextMessage
        var next = 0
        var range = 0
        /// Of the message under way.
        var index = 0
        var description: IMAPDescription?
        var scanner: MIMEScanner?
        var filter: IMAPHeaderFilter?
        var item = 0
        var isBegun = false
        var hasSetSeen = false
        /// Of the whole command.
        var hasGone = false
        var hasFailed = false

        init(
            _ items: [IMAPFetchItem], _ indices: [Range<Int>], changedSince: UInt64?, isUID: Bool, isReadOnly: Bool
        ) {
            self.items = items
            self.indices = indices
            self.changedSince = changedSince
            self.isUID = isUID
            var (needsDescription, needsHeader, needsStructure, setsSeen) = (false, false, false, false)
            for item in items {
                switch item {
                case .flags, .uid, .modSequence: break
                case .internalDate, .size: needsDescription = true
                case .envelope: needsHeader = true
                case .structure: needsStructure = true
                case .section(let section):
                    needsDescription = true
                    if section.needsStructure { needsStructure = true }
                    if section.needsHeader { needsHeader = true }
                    if !section.isPeek { setsSeen = true }
                }
            }
            needsScan = needsStructure ? (false, ()) : needsHeader ? (true, ()) : nil
            self.needsDescription = needsDescription || needsHeader || needsStructure
            self.setsSeen = setsSeen && !isReadOnly
        }
    }

    mutating func fetch(
        _ set: IMAPSequenceSet, _ items: [IMAPFetchItem], changedSince: UInt64?, isUID: Bool,
        into output: inout ByteOutput
    ) throws(IMAPRefusal) -> Event? {
        let indices = try indices(of: set, isUID: isUID)
        var items = items
        if changedSince != nil || items.contains(.modSequence) {
            try useModSequences(into: &output)
            if !items.contains(.modSequence) { items.append(.modSequence) }
        }
        if isUID, !items.contains(.uid) { items.insert(.uid, at: 0) }
        run = .fetch(
            FetchRun(items, indices, changedSince: changedSince, isUID: isUID, isReadOnly: selected!.isReadOnly))
        state = .running
        return nil
    }

    mutating func stepFetch(_ fetch: inout FetchRun, into output: inout ByteOutput) -> Event? {
        switch fetch.stage {
        case .nextMessage:
            guard let isFound = findNext(&fetch) else {
                run = .fetch(fetch)
                return .workLeft
            }
            guard isFound else {
                endFetch(fetch, into: &output)
                return nil
            }
            fetch.description = nil
            fetch.item = 0
            fetch.isBegun = false
            fetch.hasSetSeen = false
            fetch.stage = fetch.needsDescription ? .describe : .seen
        case .describe:
            let uid = selected!.messages[fetch.index].uid
            run = .fetch(fetch)
            return ask(.description, .describe(uid))
        case .scan:
            let uid = selected!.messages[fetch.index].uid
            fetch.stage = .seen
            guard let needed = fetch.needsScan, !isKnown(uid, onlyHeader: needed.isHeaderEnough) else { break }
            fetch.scanner = MIMEScanner(headerOnly: needed.isHeaderEnough)
            run = .fetch(fetch)
            return ask(.content, .read(uid, 0..<(fetch.description?.bytes ?? 0)))
        case .seen:
            fetch.stage = .items
            let message = selected!.messages[fetch.index]
            guard fetch.setsSeen, !message.flags.contains(.seen) else { break }
            run = .fetch(fetch)
            let store = IMAPStore(uids: [message.uid], change: IMAPFlagChange(.add, .seen), unchangedSince: nil)
            return ask(.store, .store(store))
        case .items: return writeItems(&fetch, into: &output)
        }
        run = .fetch(fetch)
        return nil
    }

    /// nil: it takes longer.
    private func findNext(_ fetch: inout FetchRun) -> Bool? {
        var steps = 0
        while fetch.range < fetch.indices.count {
            let range = fetch.indices[fetch.range]
            let index = max(fetch.next, range.lowerBound)
            guard index < range.upperBound else {
                fetch.range += 1
                continue
            }
            fetch.next = index + 1
            let message = selected!.messages[index]
            if message.flags.contains(.gone) {
                fetch.hasGone = true
            } else if message.modSequence > fetch.changedSince ?? 0 || fetch.changedSince == nil {
                fetch.index = index
                return true
            }
            steps += 1
            if steps == settings.turnMessagesMax { return nil }
        }
        return false
    }

    private mutating func endFetch(_ fetch: FetchRun, into output: inout ByteOutput) {
        if fetch.hasFailed {
            finish("NO", "Some messages can't be read", code: "UNAVAILABLE", mayExpunge: fetch.isUID, into: &output)
        } else if fetch.hasGone, !fetch.isUID {
            finish("NO", "Some messages are gone", code: "EXPUNGEISSUED", mayExpunge: false, into: &output)
        } else {
            finish("OK", "FETCH completed", mayExpunge: fetch.isUID, into: &output)
        }
    }

    // MARK: Answers of the owner

    /// What a `.describe` asked for; nil if the message is no more.
    public mutating func described(_ description: IMAPDescription?) {
        guard case .asking(.description) = state else { preconditionFailure("nothing to describe") }
        state = .running
        switch run {
        case .fetch(var fetch):
            fetch.description = description
            fetch.stage = .scan
            if description == nil {
                selected!.markGone(fetch.index)
                fetch.hasGone = true
                fetch.stage = .nextMessage
            }
            run = .fetch(fetch)
        case .search(var search):
            takeDescription(description, &search)
            run = .search(search)
        default: preconditionFailure("nothing to describe")
        }
    }

    /// The next bytes of a `.read`. False if no more are wanted.
    public mutating func content(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard case .asking(.content) = state else { preconditionFailure("nothing to read") }
        // Taken out of its place, so that what it holds isn't copied.
        switch run.take() {
        case .fetch(var fetch):
            defer { run = .fetch(fetch) }
            if fetch.filter != nil {
                fetch.filter!.received(bytes)
                return true
            }
            fetch.scanner!.received(bytes)
            return !fetch.scanner!.isDone
        case .search(var search):
            defer { run = .search(search) }
            return search.received(bytes)
        default: preconditionFailure("nothing to read")
        }
    }

    /// A `.read` is over. `isWhole` is false if a byte that was wanted couldn't be read.
    public mutating func contentEnded(isWhole: Bool, into output: inout ByteOutput) {
        guard case .asking(.content) = state else { preconditionFailure("nothing to read") }
        state = .running
        switch run.take() {
        case .fetch(var fetch):
            if fetch.filter != nil {
                // The response has begun: there is no way to take it back.
                if !isWhole { _ = hangUp("A message can't be read", into: &output) }
            } else {
                let structure = fetch.scanner!.finish()
                fetch.scanner = nil
                if isWhole {
                    remember(
                        selected!.messages[fetch.index].uid, structure, onlyHeader: fetch.needsScan!.isHeaderEnough)
                } else {
                    fetch.hasFailed = true
                    fetch.stage = .nextMessage
                }
            }
            run = .fetch(fetch)
        case .search(var search):
            endContent(&search, isWhole: isWhole)
            run = .search(search)
        default: preconditionFailure("nothing to read")
        }
    }

    mutating func takeSeen(_ outcome: IMAPStoreOutcome, _ fetch: inout FetchRun) {
        switch outcome {
        case .stored(let flags, let modSequence), .modified(let flags, let modSequence):
            let news = IMAPMessage(
                uid: selected!.messages[fetch.index].uid, flags: flags, modSequence: modSequence)
            fetch.hasSetSeen = selected!.take(news, at: fetch.index)
        case .gone:
            selected!.markGone(fetch.index)
            fetch.hasGone = true
            fetch.stage = .nextMessage
        // It is read, though nobody will know.
        case .failed: break
        }
    }

    // MARK: The last structure, which is often asked for part by part

    func isKnown(_ uid: UInt32, onlyHeader: Bool) -> Bool {
        guard let known = selected!.known else { return false }
        return known.uid == uid && (onlyHeader || !known.isOnlyHeader)
    }

    mutating func remember(_ uid: UInt32, _ structure: MIMEStructure, onlyHeader: Bool) {
        selected!.known = (uid, structure, onlyHeader)
    }
}

/// What can't be known from the list of messages.
public struct IMAPDescription: Equatable, Sendable {
    /// Of the presented content: what the client is told as its size.
    public var bytes: Int
    /// When the message was accepted: INTERNALDATE.
    public var unixSeconds: Int64

    public init(bytes: Int, unixSeconds: Int64) { (self.bytes, self.unixSeconds) = (bytes, unixSeconds) }
}
