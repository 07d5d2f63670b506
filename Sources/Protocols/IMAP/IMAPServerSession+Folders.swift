/// Folders: there are those that the owner names at login, and clients don't change them.
extension IMAPServerSession {
    /// - Throws: NO for a name that there isn't.
    func folder(_ name: [UInt8]) throws(IMAPRefusal) -> Int {
        if asciiMatches(name, "inbox") { return 0 }
        guard let index = folders.firstIndex(where: { $0.utf8.elementsEqual(name) }) else {
            throw IMAPRefusal(no: "No such folder", code: "NONEXISTENT")
        }
        return index
    }

    // MARK: Opening and closing

    mutating func select(
        _ mailbox: [UInt8], readOnly: Bool, modSequences: Bool, into output: inout ByteOutput
    ) throws(IMAPRefusal) -> Event? {
        guard !modSequences || settings.offersModSequences else { throw IMAPRefusal("Unknown parameter") }
        // Whatever comes of it, what was open is no more (RFC 3501 §6.3.1).
        let wasOpen = selected != nil
        selected = nil
        if modSequences { isModSequenceAware = true }
        do throws(IMAPRefusal) {
            let index = try folder(mailbox)
            return ask(.open(folder: index, readOnly: readOnly), .open(folder: index, readOnly: readOnly))
        } catch {
            refuse(error, into: &output)
            return wasOpen ? .close : nil
        }
    }

    public mutating func opened(_ mailbox: IMAPMailbox, into output: inout ByteOutput) {
        guard case .asking(.open(let folder, let readOnly)) = state else { preconditionFailure("no SELECT to answer") }
        precondition(mailbox.uidValidity > 0 && mailbox.messages.count <= settings.messagesMax, "not to be opened")
        let selected = Selected(folder: folder, mailbox, isReadOnly: readOnly || mailbox.isReadOnly)
        self.selected = selected
        output.append("* FLAGS ")
        output.append(flags: .changeable, keywords: settings.keywords)
        output.append("\r\n* ")
        output.append(number: selected.announced)
        output.append(" EXISTS\r\n* ")
        output.append(number: selected.recentCount)
        output.append(" RECENT\r\n")
        if let first = selected.messages.firstIndex(where: { !$0.flags.contains(.seen) }) {
            output.append("* OK [UNSEEN ")
            output.append(number: first + 1)
            output.append("] First unseen\r\n")
        }
        output.append("* OK [UIDVALIDITY ")
        output.append(number: Int(mailbox.uidValidity))
        output.append("] UIDs valid\r\n* OK [UIDNEXT ")
        output.append(number: Int(mailbox.uidNext))
        output.append("] Predicted next UID\r\n* OK [PERMANENTFLAGS ")
        output.append(flags: selected.isReadOnly ? [] : .changeable, keywords: settings.keywords, recent: false)
        output.append("] Kept\r\n")
        if settings.offersModSequences {
            if selected.highestModSequence > 0 {
                writeHighestModSequence(selected, into: &output)
            } else {
                output.append("* OK [NOMODSEQ] Mod-sequences are not kept\r\n")
            }
        }
        errorCount = 0
        reply(
            "OK", readOnly ? "EXAMINE completed" : "SELECT completed",
            code: selected.isReadOnly ? "READ-ONLY" : "READ-WRITE", into: &output)
    }

    func writeHighestModSequence(_ selected: Selected, into output: inout ByteOutput) {
        output.append("* OK [HIGHESTMODSEQ ")
        output.append(number: Int(selected.highestModSequence))
        output.append("] Highest\r\n")
    }

    /// CLOSE and UNSELECT: nothing is told any more of what is removed (RFC 3501 §6.4.2).
    mutating func close(expunging: Bool, into output: inout ByteOutput) -> Event? {
        if expunging, let selected, !selected.isReadOnly {
            run = .expunge(ExpungeRun(set: nil, isClosing: true))
            state = .running
            return nil
        }
        return endClose(into: &output)
    }

    mutating func endClose(into output: inout ByteOutput) -> Event {
        selected = nil
        errorCount = 0
        reply("OK", "Folder closed", into: &output)
        return .close
    }

    // MARK: Names

    func refuseChange(_ change: IMAPFolderChange, _ mailbox: [UInt8]) throws(IMAPRefusal) {
        let exists = (try? folder(mailbox)) != nil
        switch change {
        case .create where exists: throw IMAPRefusal(no: "The folder exists", code: "ALREADYEXISTS")
        case .delete where !exists, .rename where !exists:
            throw IMAPRefusal(no: "No such folder", code: "NONEXISTENT")
        default: throw IMAPRefusal(no: "Folders are fixed here", code: "CANNOT")
        }
    }

    /// All folders are subscribed, always.
    mutating func subscribe(_ mailbox: [UInt8], isOn: Bool, into output: inout ByteOutput) throws(IMAPRefusal) {
        _ = try folder(mailbox)
        guard isOn else { throw IMAPRefusal(no: "Every folder stays subscribed", code: "CANNOT") }
        finish("OK", "SUBSCRIBE completed", into: &output)
    }

    mutating func list(
        _ reference: [UInt8], _ pattern: [UInt8], onlySubscribed: Bool, into output: inout ByteOutput
    ) {
        let command: StaticString = onlySubscribed ? "LSUB" : "LIST"
        if pattern.isEmpty, !onlySubscribed {
            // The question for the delimiter (RFC 3501 §6.3.8).
            output.append("* LIST (\\Noselect) \"/\" \"\"\r\n")
        } else {
            let wanted = reference + pattern
            for (index, name) in folders.enumerated() {
                let isMatch = Self.matches(Array(name.utf8), wanted, anyCase: index == 0)
                guard isMatch else { continue }
                output.append("* ")
                output.append(command)
                output.append(" (\\Noinferiors) \"/\" ")
                output.append(astring: Array(name.utf8))
                output.append("\r\n")
            }
        }
        finish("OK", onlySubscribed ? "LSUB completed" : "LIST completed", into: &output)
    }

    /// `*` stands for anything, `%` for anything without a `/`. Time is the product of both lengths.
    static func matches(_ name: [UInt8], _ pattern: [UInt8], anyCase: Bool) -> Bool {
        guard pattern.count <= IMAPParser.wildcardsMax else { return false }
        // Which beginnings of the name the pattern so far can stand for.
        var reached = [Bool](repeating: false, count: name.count + 1)
        reached[0] = true
        for byte in pattern {
            var next = [Bool](repeating: false, count: name.count + 1)
            switch byte {
            case UInt8(ascii: "*"), UInt8(ascii: "%"):
                var isOpen = false
                for length in 0...name.count {
                    if length > 0, byte == UInt8(ascii: "%"), name[length - 1] == UInt8(ascii: "/") { isOpen = false }
                    if reached[length] { isOpen = true }
                    next[length] = isOpen
                }
            default:
                for length in 0..<name.count where reached[length] {
                    let isSame =
                        anyCase ? asciiLowercased(name[length]) == asciiLowercased(byte) : name[length] == byte
                    if isSame { next[length + 1] = true }
                }
            }
            reached = next
        }
        return reached[name.count]
    }

    // MARK: Status and quota

    mutating func status(
        _ mailbox: [UInt8], _ items: [IMAPStatusItem], into output: inout ByteOutput
    ) throws(IMAPRefusal) -> Event {
        for item in items {
            switch item {
            case .highestModSequence:
                guard settings.offersModSequences else { throw IMAPRefusal("Unknown item of STATUS") }
            case .deleted, .deletedStorage:
                guard settings.offersQuota else { throw IMAPRefusal("Unknown item of STATUS") }
            default: break
            }
        }
        let index = try folder(mailbox)
        if items.contains(.highestModSequence) { becomeModSequenceAware(into: &output) }
        return ask(.status(folder: index, items), .status(folder: index))
    }

    public mutating func status(_ status: IMAPFolderStatus, into output: inout ByteOutput) {
        guard case .asking(.status(let folder, let items)) = state else { preconditionFailure("no STATUS to answer") }
        output.append("* STATUS ")
        output.append(astring: Array(folders[folder].utf8))
        output.append(" (")
        for (index, item) in items.enumerated() {
            if index > 0 { output.append(UInt8(ascii: " ")) }
            output.append(text: item.rawValue)
            output.append(UInt8(ascii: " "))
            let value =
                switch item {
                case .messages: status.messages
                case .recent: status.recent
                case .uidNext: Int(status.uidNext)
                case .uidValidity: Int(status.uidValidity)
                case .unseen: status.unseen
                case .highestModSequence: Int(status.highestModSequence)
                case .deleted: status.deleted
                case .deletedStorage: status.deletedBytes
                }
            output.append(number: value)
        }
        output.append(")\r\n")
        finish("OK", "STATUS completed", into: &output)
    }

    public mutating func quota(_ quota: IMAPQuota, into output: inout ByteOutput) {
        guard case .asking(.quota(let folder)) = state else { preconditionFailure("no quota was asked for") }
        if let folder {
            output.append("* QUOTAROOT ")
            output.append(astring: Array(folders[folder].utf8))
            output.append(" \"\"\r\n")
        }
        output.append("* QUOTA \"\" (")
        if let limit = quota.limitBytes {
            output.append("STORAGE ")
            output.append(number: (quota.usedBytes + 1_023) / 1_024)
            output.append(UInt8(ascii: " "))
            output.append(number: limit / 1_024)
        }
        if let limit = quota.limitMessages {
            output.append(quota.limitBytes == nil ? "MESSAGE " : " MESSAGE ")
            output.append(number: quota.usedMessages)
            output.append(UInt8(ascii: " "))
            output.append(number: limit)
        }
        output.append(")\r\n")
        finish("OK", folder == nil ? "GETQUOTA completed" : "GETQUOTAROOT completed", into: &output)
    }
}

/// What STATUS may ask about a folder.
public struct IMAPFolderStatus: Equatable, Sendable {
    public var messages = 0
    public var recent = 0
    public var uidNext: UInt32 = 1
    public var uidValidity: UInt32 = 1
    public var unseen = 0
    /// 0: none are kept.
    public var highestModSequence: UInt64 = 0
    /// Messages with `\Deleted`.
    public var deleted = 0
    /// Their bytes.
    public var deletedBytes = 0

    public init() {}
}

/// What is used of the one quota that all folders of a login share, and its limits; nil: none.
public struct IMAPQuota: Equatable, Sendable {
    public var usedBytes = 0
    public var limitBytes: Int?
    public var usedMessages = 0
    public var limitMessages: Int?

    public init() {}
}
