/// The open folder as the client knows it, and what it is yet to be told.
extension IMAPServerSession {
    struct Selected {
        let folder: Int
        let isReadOnly: Bool
        var highestModSequence: UInt64
        /// By ascending UID. The number of a message is its index and one, up to `announced`.
        var messages: [IMAPMessage]
        /// How many the client has been told of by EXISTS.
        var announced: Int
        var recentCount: Int
        /// Of the announced ones: those that are gone without an EXPUNGE so far, and those with news of flags.
        var goneCount = 0
        var changedCount = 0
        /// The structure that was scanned last.
        var known: (uid: UInt32, structure: MIMEStructure, isOnlyHeader: Bool)?

        init(folder: Int, _ mailbox: IMAPMailbox, isReadOnly: Bool) {
            self.folder = folder
            self.isReadOnly = isReadOnly
            highestModSequence = mailbox.highestModSequence
            messages = mailbox.messages
            for index in messages.indices { messages[index].flags.remove([.gone, .goneAnnounced, .changed]) }
            announced = messages.count
            recentCount = messages.count { $0.flags.contains(.recent) }
        }

        /// Those that have a number.
        var numbered: ArraySlice<IMAPMessage> { messages[..<announced] }

        func index(ofUID uid: UInt32) -> Int? {
            let index = messages[...].firstIndex(uidAtLeast: uid)
            return index < messages.count && messages[index].uid == uid ? index : nil
        }

        mutating func markGone(_ index: Int) {
            guard !messages[index].flags.contains(.gone) else { return }
            messages[index].flags.insert(.gone)
            goneCount += 1
            clearChanged(index)
        }

        mutating func clearChanged(_ index: Int) {
            if messages[index].flags.contains(.changed) {
                messages[index].flags.remove(.changed)
                changedCount -= 1
            }
        }

        /// Takes over stored flags. False if nothing is new.
        @discardableResult
        mutating func take(_ news: IMAPMessage, at index: Int) -> Bool {
            let kept = messages[index].flags.intersection(.ofView)
            let flags = news.flags.intersection(.changeable).union(kept)
            let isNew = messages[index].flags != flags || messages[index].modSequence != news.modSequence
            messages[index].flags = flags
            messages[index].modSequence = news.modSequence
            highestModSequence = max(highestModSequence, news.modSequence)
            return isNew
        }
    }

    /// Messages came into the open folder; UIDs ascend, above all that were there. Without an open folder nothing happens.
    public mutating func appeared(_ messages: [IMAPMessage]) {
        guard selected != nil else { return }
        for var message in messages {
            precondition(message.uid > selected!.messages.last?.uid ?? 0, "UIDs ascend")
            // What doesn't fit is seen when the folder is opened next.
            guard selected!.messages.count < settings.messagesMax else { return }
            message.flags.remove([.gone, .goneAnnounced, .changed])
            selected!.messages.append(message)
            if message.flags.contains(.recent) { selected!.recentCount += 1 }
            selected!.highestModSequence = max(selected!.highestModSequence, message.modSequence)
        }
    }

    /// Messages were taken out of the open folder by another session or another way out. Unknown UIDs are passed over.
    public mutating func vanished(_ uids: [UInt32]) {
        for uid in uids {
            guard let index = selected?.index(ofUID: uid) else { continue }
            if index < selected!.announced {
                selected!.markGone(index)
            } else {
                if selected!.messages[index].flags.contains(.recent) { selected!.recentCount -= 1 }
                selected!.messages.remove(at: index)
            }
        }
    }

    /// Another session changed flags in the open folder. Unknown UIDs are passed over.
    public mutating func flagsChanged(_ messages: [IMAPMessage]) {
        for message in messages {
            guard let index = selected?.index(ofUID: message.uid) else { continue }
            let isNew = selected!.take(message, at: index)
            let flags = selected!.messages[index].flags
            if isNew, index < selected!.announced, flags.isDisjoint(with: [.gone, .changed]) {
                selected!.messages[index].flags.insert(.changed)
                selected!.changedCount += 1
            }
        }
    }

    var hasNews: Bool {
        guard let selected else { return false }
        return selected.goneCount > 0 || selected.changedCount > 0 || selected.messages.count > selected.announced
    }

    // MARK: Telling

    struct AnnounceRun {
        struct Ending {
            let word: StaticString
            let text: String
            let code: String?
        }

        enum Stage {
            /// From the last message down, so that no number changes on the way; the index after the next.
            case expunges(Int?)
            case exists
            /// The next index.
            case changes(Int)
        }

        let mayExpunge: Bool
        /// nil: within IDLE.
        let ending: Ending?
        var stage = Stage.expunges(nil)
    }

    mutating func stepAnnounce(_ announce: inout AnnounceRun, into output: inout ByteOutput) -> Event? {
        switch announce.stage {
        case .expunges(let from):
            guard announce.mayExpunge, selected!.goneCount > 0 || from != nil else {
                announce.stage = .exists
                break
            }
            var index = from ?? selected!.announced
            while index > 0, output.count < settings.outputPauseBytes {
                index -= 1
                guard selected!.messages[index].flags.contains(.gone) else { continue }
                selected!.messages[index].flags.insert(.goneAnnounced)
                output.append("* ")
                output.append(number: index + 1)
                output.append(" EXPUNGE\r\n")
            }
            announce.stage = index > 0 ? .expunges(index) : .exists
            if index == 0 { removeAnnouncedGone() }
        case .exists:
            if selected!.messages.count > selected!.announced {
                selected!.announced = selected!.messages.count
                output.append("* ")
                output.append(number: selected!.announced)
                output.append(" EXISTS\r\n* ")
                output.append(number: selected!.recentCount)
                output.append(" RECENT\r\n")
            }
            announce.stage = .changes(0)
        case .changes(let from):
            var index = from
            while index < selected!.announced, selected!.changedCount > 0, output.count < settings.outputPauseBytes {
                if selected!.messages[index].flags.contains(.changed) {
                    selected!.clearChanged(index)
                    writeFlags(of: index, withUID: isModSequenceAware, into: &output)
                }
                index += 1
            }
            if index < selected!.announced, selected!.changedCount > 0 {
                announce.stage = .changes(index)
            } else if let ending = announce.ending {
                reply(ending.word, ending.text, code: ending.code, into: &output)
                return nil
            } else {
                state = .line
                return nil
            }
        }
        run = .announce(announce)
        return nil
    }

    private mutating func removeAnnouncedGone() {
        let before = selected!.announced
        var kept = 0
        for index in selected!.messages.indices {
            let message = selected!.messages[index]
            if message.flags.contains(.goneAnnounced) {
                if message.flags.contains(.recent) { selected!.recentCount -= 1 }
            } else {
                selected!.messages[kept] = message
                kept += 1
            }
        }
        let removed = selected!.messages.count - kept
        selected!.messages.removeLast(removed)
        selected!.announced = before - removed
        selected!.goneCount -= removed
    }

    /// A FETCH response with the flags of a message.
    func writeFlags(
        of index: Int, withUID: Bool, onlyModSequence: Bool = false, into output: inout ByteOutput
    ) {
        let message = selected!.messages[index]
        output.append("* ")
        output.append(number: index + 1)
        output.append(" FETCH (")
        if withUID {
            output.append("UID ")
            output.append(number: Int(message.uid))
            output.append(UInt8(ascii: " "))
        }
        if !onlyModSequence {
            output.append("FLAGS ")
            output.append(flags: message.flags, keywords: settings.keywords)
        }
        if isModSequenceAware, message.modSequence > 0 {
            output.append(onlyModSequence ? "MODSEQ (" : " MODSEQ (")
            output.append(number: Int(message.modSequence))
            output.append(UInt8(ascii: ")"))
        }
        output.append(")\r\n")
    }
}
