/// A command as it was read, its tag taken off.
enum IMAPCommand: Equatable {
    case capability, noop, logout, startTLS
    case id
    case enable([[UInt8]])
    case login(user: [UInt8], password: [UInt8])
    /// The initial response is decoded; empty for `=` (RFC 4959 §3).
    case authenticate(mechanism: String, initialResponse: [UInt8]?)
    case select(mailbox: [UInt8], readOnly: Bool, modSequences: Bool)
    /// CREATE, DELETE, RENAME: folders are as they are.
    case change(IMAPFolderChange, mailbox: [UInt8])
    case subscribe(mailbox: [UInt8], isOn: Bool)
    case list(reference: [UInt8], pattern: [UInt8], onlySubscribed: Bool)
    case status(mailbox: [UInt8], [IMAPStatusItem])
    case namespace
    case quota(root: [UInt8])
    case quotaRoot(mailbox: [UInt8])
    case setQuota
    case check, close, unselect, idle
    case expunge(uids: IMAPSequenceSet?)
    case search(IMAPSearchProgram, isUID: Bool)
    case fetch(IMAPSequenceSet, [IMAPFetchItem], changedSince: UInt64?, isUID: Bool)
    case store(IMAPSequenceSet, IMAPFlagChange, isSilent: Bool, unchangedSince: UInt64?, isUID: Bool)
    case copy(mailbox: [UInt8])
}

enum IMAPFolderChange: Equatable { case create, delete, rename }

enum IMAPStatusItem: String, CaseIterable {
    case messages = "MESSAGES"
    case recent = "RECENT"
    case uidNext = "UIDNEXT"
    case uidValidity = "UIDVALIDITY"
    case unseen = "UNSEEN"
    case highestModSequence = "HIGHESTMODSEQ"
    case deleted = "DELETED"
    case deletedStorage = "DELETED-STORAGE"
}

/// What a STORE does.
public struct IMAPFlagChange: Equatable, Sendable {
    public enum Action: Equatable, Sendable { case add, remove, replace }

    public var action: Action
    public var flags: IMAPFlags

    public init(_ action: Action, _ flags: IMAPFlags) { (self.action, self.flags) = (action, flags) }

    public func applied(to old: IMAPFlags) -> IMAPFlags {
        switch action {
        case .add: old.union(flags)
        case .remove: old.subtracting(flags)
        case .replace: old.subtracting(.changeable).union(flags)
        }
    }
}

enum IMAPFetchItem: Equatable {
    case envelope, flags, internalDate, size, uid, modSequence
    case structure(isExtended: Bool)
    case section(IMAPSection)
}

/// Items named after RFC 822, in two pieces: whole they would look like citations in another spelling than the house's.
enum IMAPItemName {
    static let message = "RFC" + "822"
    static let size = message + ".SIZE"
    static let header = message + ".HEADER"
    static let text = message + ".TEXT"
}

/// `BODY[…]<…>`, and the three items that are the same under an older name.
struct IMAPSection: Equatable {
    enum Text: Equatable {
        /// All of the part.
        case all
        case header
        case headerFields([[UInt8]], isNot: Bool)
        case text, mime
    }

    var path: [Int] = []
    var text = Text.all
    var isPeek = false
    var partial: (offset: Int, count: Int)?
    /// The older name.
    var label: String?

    /// The header section of the message is enough to answer.
    var needsHeader: Bool { path.isEmpty && text != .all }
    var needsStructure: Bool { !path.isEmpty }

    static func == (a: IMAPSection, b: IMAPSection) -> Bool {
        a.path == b.path && a.text == b.text && a.isPeek == b.isPeek && a.partial?.offset == b.partial?.offset
            && a.partial?.count == b.partial?.count && a.label == b.label
    }
}

/// A SEARCH, read and with its texts made ready to be found.
struct IMAPSearchProgram: Equatable {
    var key = IMAPSearchKey.and([])
    /// nil: the plain answer, `SEARCH`; else `ESEARCH` (RFC 4731).
    var returning: Returning?
    /// What content is looked through for; keys hold indices.
    var needles: [IMAPSearchNeedle] = []
    var usesModSequences = false

    struct Returning: OptionSet, Equatable {
        let rawValue: Int
        static let minimum = Returning(rawValue: 1)
        static let maximum = Returning(rawValue: 2)
        static let all = Returning(rawValue: 4)
        static let count = Returning(rawValue: 8)
    }
}

struct IMAPSearchNeedle: Equatable {
    enum Place: Equatable {
        /// The name in lower case.
        case header([UInt8])
        case body, text
    }

    let place: Place
    /// UTF-8, without distinction of case.
    let bytes: [UInt8]
}

indirect enum IMAPSearchKey: Equatable {
    case all
    case flag(IMAPFlags, isSet: Bool)
    /// A keyword that no message has.
    case never
    case numbers(IMAPSequenceSet)
    case uids(IMAPSequenceSet)
    /// Indices, once the folder is known.
    case indices([Range<Int>])
    case modSequence(UInt64)
    /// Days since 1970-01-01, the upper one excluded.
    case received(Range<Int>)
    case sent(Range<Int>)
    case larger(UInt64)
    case smaller(UInt64)
    case needle(Int)
    case not(IMAPSearchKey)
    case or(IMAPSearchKey, IMAPSearchKey)
    case and([IMAPSearchKey])
}

/// Why a command is refused.
struct IMAPRefusal: Error, Equatable {
    enum Kind { case bad, no }

    var kind = Kind.bad
    /// In brackets in front of the text.
    var code: String?
    let text: String

    init(_ text: String) { self.text = text }

    init(no text: String, code: String? = nil) {
        self.text = text
        self.code = code
        kind = .no
    }
}
