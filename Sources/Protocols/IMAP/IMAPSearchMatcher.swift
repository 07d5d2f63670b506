/// Looks through the content of one message for the texts of a SEARCH, piece by piece: header sections decoded
/// (RFC 2047), bodies of text parts decoded from their encoding and character set. Linear in bytes times texts.
struct IMAPSearchMatcher {
    /// Which needles were found, a bit each.
    private(set) var found: UInt32 = 0
    /// The day of the first Date field, as days since 1970-01-01; nil if there is none that can be read.
    private(set) var sentDay: Int?

    /// Of one header field.
    private static let fieldMaxBytes = 64 << 10

    private let needles: [IMAPSearchNeedle]
    private var streams: [IMAPStreamSearch]
    private var decoder: MIMETextDecoder?
    private var decoded: [UInt8] = []

    private var isRootHeader = true
    private var field: [UInt8] = []
    private var isLineStart = true
    private(set) var isHeaderOver = false
    private var hasDate = false

    init(_ needles: [IMAPSearchNeedle]) {
        self.needles = needles
        streams = needles.map { IMAPStreamSearch($0.bytes) }
    }

    /// Every needle that is looked for beyond the message's own header section was found.
    var isContentDone: Bool {
        needles.indices.allSatisfy { isFound($0) || !isInContent(needles[$0].place) }
    }

    func isFound(_ needle: Int) -> Bool { found & 1 << UInt32(needle) != 0 }

    private func isInContent(_ place: IMAPSearchNeedle.Place) -> Bool {
        if case .header = place { false } else { true }
    }

    // MARK: Header sections

    /// Begins a header section: the message's own, or that of a part.
    mutating func beginHeader(isRoot: Bool) {
        isRootHeader = isRoot
        isLineStart = true
        isHeaderOver = false
        field = []
    }

    mutating func receivedHeader(_ bytes: UnsafeRawBufferPointer) {
        for byte in bytes {
            if isHeaderOver { return }
            if isLineStart {
                isLineStart = false
                if byte == UInt8(ascii: "\r") || byte == UInt8(ascii: "\n") {
                    endField()
                    isHeaderOver = true
                    return
                }
                if byte != UInt8(ascii: " "), byte != UInt8(ascii: "\t") { endField() }
            }
            if byte == UInt8(ascii: "\n") {
                isLineStart = true
            } else if byte != UInt8(ascii: "\r"), field.count < Self.fieldMaxBytes {
                field.append(byte)
            }
        }
    }

    mutating func endHeader() { endField() }

    private mutating func endField() {
        defer { field.removeAll(keepingCapacity: true) }
        guard let colon = field.firstIndex(of: UInt8(ascii: ":")) else { return }
        let name = field[..<colon].map(asciiLowercased).trimmed
        let value = Array(field[(colon + 1)...])
        if isRootHeader, !hasDate, asciiMatches(name, "date") {
            hasDate = true
            sentDay = IMAPDate.day(ofField: value)
        }
        guard found.nonzeroBitCount < needles.count else { return }
        var decoded: [UInt8]?
        for (index, needle) in needles.enumerated() where !isFound(index) {
            let isWhole: Bool
            switch needle.place {
            case .header(let wanted):
                guard isRootHeader, wanted == name else { continue }
                isWhole = false
            case .text: isWhole = true
            case .body:
                guard !isRootHeader else { continue }
                isWhole = true
            }
            let text = decoded ?? MIMEEncodedWords.folded(value.trimmed)
            decoded = text
            var search = IMAPStreamSearch(needle.bytes)
            search.received(isWhole ? name + Array(": ".utf8) + text : text)
            if search.isFound { found |= 1 << UInt32(index) }
        }
    }

    // MARK: Bodies

    /// Begins the body of a text part.
    mutating func beginBody(of part: MIMEStructure.Part) {
        decoder = MIMETextDecoder(
            encoding: MIMEEncoding(name: part.value(of: .contentTransferEncoding) ?? []),
            charset: MIMECharset(name: part.type.parameter("charset") ?? []))
        for index in streams.indices { streams[index].restart() }
    }

    mutating func receivedBody(_ bytes: UnsafeRawBufferPointer) {
        decoded.removeAll(keepingCapacity: true)
        decoder?.decode(bytes, into: &decoded)
        search()
    }

    mutating func endBody() {
        decoded.removeAll(keepingCapacity: true)
        decoder?.finish(into: &decoded)
        search()
        decoder = nil
    }

    private mutating func search() {
        for (index, needle) in needles.enumerated() where !isFound(index) && isInContent(needle.place) {
            streams[index].received(decoded)
            if streams[index].isFound { found |= 1 << UInt32(index) }
        }
    }

    /// A part whose text is looked through: text of every kind, and reports.
    static func isSearched(_ part: MIMEStructure.Part) -> Bool {
        part.kind == .leaf && (asciiMatches(part.type.word, "text") || asciiMatches(part.type.word, "message"))
    }
}

/// Looks for one text in a stream, in linear time (Knuth, Morris, Pratt).
struct IMAPStreamSearch {
    private let needle: [UInt8]
    /// For each length of a match so far, that of the longest one that is also its end.
    private let fallbacks: [Int]
    private var matched = 0
    private(set) var isFound: Bool

    init(_ needle: [UInt8]) {
        self.needle = needle
        var fallbacks = [Int](repeating: 0, count: needle.count + 1)
        var length = 0
        for index in needle.indices.dropFirst() {
            while length > 0, needle[length] != needle[index] { length = fallbacks[length] }
            if needle[length] == needle[index] { length += 1 }
            fallbacks[index + 1] = length
        }
        self.fallbacks = fallbacks
        isFound = needle.isEmpty
    }

    mutating func restart() { matched = 0 }

    mutating func received(_ text: [UInt8]) {
        guard !isFound else { return }
        for byte in text {
            while matched > 0, needle[matched] != byte { matched = fallbacks[matched] }
            if needle[matched] == byte { matched += 1 }
            if matched == needle.count {
                isFound = true
                return
            }
        }
    }
}
