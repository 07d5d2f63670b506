/// What a message is made of (RFC 2045, RFC 2046), without its content: where each part is, and the header fields that say
/// what it is. Made by ``MIMEScanner``; offsets count from the message's first byte.
///
/// ```text
/// 0 multipart ┬ 1 leaf
///             ├ 2 message ─ 3 multipart ┬ 4 leaf       a message/rfc822 has one child, the message in it,
///             │                         └ 5 leaf       which has a header section of its own
///             └ 6 leaf
/// ```
public struct MIMEStructure: Equatable, Sendable {
    public enum Kind: Equatable, Sendable {
        /// Anything that is not looked into.
        case leaf
        case multipart
        /// `message/rfc822`: one child.
        case message
    }

    public struct Part: Equatable, Sendable {
        public internal(set) var kind = Kind.leaf
        /// With its empty line, if there is one.
        public internal(set) var header: Range<Int>
        public internal(set) var body: Range<Int>
        /// LFs in the body.
        public internal(set) var bodyLines = 0
        /// Indices in ``MIMEStructure/parts``; of a multipart possibly none.
        public internal(set) var children: [Int] = []
        /// `Content-Type`, or what stands for a missing one. Of a leaf never `multipart` or `message/rfc822`.
        public internal(set) var type: MIMEHeaderValue
        /// Unfolded values of the fields that are kept, each at most once (the first), cut off at the scanner's limits.
        public internal(set) var fields: [(field: MIMEField, value: [UInt8])] = []

        init(headerAt position: Int) {
            header = position..<position
            body = position..<position
            type = MIMEHeaderValue([])
        }

        public func value(of field: MIMEField) -> [UInt8]? { fields.first { $0.field == field }?.value }

        public static func == (a: Part, b: Part) -> Bool {
            a.kind == b.kind && a.header == b.header && a.body == b.body && a.bodyLines == b.bodyLines
                && a.children == b.children && a.type == b.type && a.fields.elementsEqual(b.fields, by: ==)
        }
    }

    /// In the order in which they begin; the first is the message itself.
    public internal(set) var parts: [Part]
    /// There was more than the limits let in: something is shown as a leaf that is none, or a value is cut off.
    public internal(set) var isIncomplete = false

    public var root: Part { parts[0] }

    /// The part that a path of numbers names (RFC 3501 §6.4.5); nil if there is none.
    ///
    /// A message that is no multipart has a part 1, its body: then the index is that of the message.
    public func index(at path: [Int]) -> Int? {
        var current = 0
        var isMessage = true
        for number in path {
            if !isMessage, parts[current].kind == .message {
                guard let child = parts[current].children.first else { return nil }
                current = child
                isMessage = true
            }
            if parts[current].kind == .multipart {
                guard number >= 1, number <= parts[current].children.count else { return nil }
                current = parts[current].children[number - 1]
            } else {
                guard isMessage, number == 1 else { return nil }
            }
            isMessage = false
        }
        return current
    }

    /// The message that `path` names: the whole one, or the one in a `message/rfc822`.
    public func messageIndex(at path: [Int]) -> Int? {
        guard let index = index(at: path) else { return nil }
        return path.isEmpty ? index : parts[index].kind == .message ? parts[index].children.first : nil
    }
}

/// The header fields that tell what a message or part is.
public enum MIMEField: UInt8, CaseIterable, Sendable {
    case contentType, contentTransferEncoding, contentID, contentDescription, contentDisposition, contentMD5
    case contentLanguage, contentLocation
    // Of messages only.
    case date, subject, from, sender, replyTo, to, cc, bcc, inReplyTo, messageID

    var name: StaticString {
        switch self {
        case .contentType: "content-type"
        case .contentTransferEncoding: "content-transfer-encoding"
        case .contentID: "content-id"
        case .contentDescription: "content-description"
        case .contentDisposition: "content-disposition"
        case .contentMD5: "content-md5"
        case .contentLanguage: "content-language"
        case .contentLocation: "content-location"
        case .date: "date"
        case .subject: "subject"
        case .from: "from"
        case .sender: "sender"
        case .replyTo: "reply-to"
        case .to: "to"
        case .cc: "cc"
        case .bcc: "bcc"
        case .inReplyTo: "in-reply-to"
        case .messageID: "message-id"
        }
    }

    /// It describes the content of a part, not a message.
    var isOfParts: Bool { rawValue <= Self.contentLocation.rawValue }

    init?(name: some Collection<UInt8>) {
        guard let field = Self.allCases.first(where: { asciiMatches(name, $0.name) }) else { return nil }
        self = field
    }
}
