/// SEARCH (RFC 3501 §6.4.4), with RETURN (RFC 4731) and MODSEQ (RFC 7162 §3.1.5).
extension IMAPParser {
    /// Keys within keys: parentheses, NOT and OR.
    static let searchDepthMax = 32
    static let searchKeysMax = 1_000
    /// Texts that content is looked through for, each of which costs another pass over it.
    static let needlesMax = 16
    static let needleMaxBytes = 1_024

    mutating func searchProgram() throws(IMAPRefusal) -> IMAPSearchProgram {
        var program = IMAPSearchProgram()
        try space()
        if skip(anyCase: "return") {
            try space()
            program.returning = try returnOptions()
            try space()
        }
        if skip(anyCase: "charset") {
            try space()
            let name = try astring()
            guard asciiMatches(name, "us-ascii") || asciiMatches(name, "utf-8") else {
                throw IMAPRefusal(no: "Search in US-ASCII or UTF-8", code: "BADCHARSET (US-ASCII UTF-8)")
            }
            try space()
        }
        var keys: [IMAPSearchKey] = []
        var count = 0
        repeat { keys.append(try key(&program, &count, depth: 0)) } while skip(UInt8(ascii: " "))
        program.key = keys.count == 1 ? keys[0] : .and(keys)
        return program
    }

    /// Skips the word if it stands here whole.
    private mutating func skip(anyCase word: StaticString) -> Bool {
        let start = at
        if asciiMatches(Array(keyword().utf8), word) { return true }
        at = start
        return false
    }

    private mutating func returnOptions() throws(IMAPRefusal) -> IMAPSearchProgram.Returning {
        var options: IMAPSearchProgram.Returning = []
        try expect(UInt8(ascii: "("))
        if !skip(UInt8(ascii: ")")) {
            repeat {
                switch keyword() {
                case "MIN": options.insert(.minimum)
                case "MAX": options.insert(.maximum)
                case "ALL": options.insert(.all)
                case "COUNT": options.insert(.count)
                default: throw IMAPRefusal("Unknown option of RETURN")
                }
            } while skip(UInt8(ascii: " "))
            try expect(UInt8(ascii: ")"))
        }
        return options.isEmpty ? .all : options
    }

    private mutating func key(
        _ program: inout IMAPSearchProgram, _ count: inout Int, depth: Int
    ) throws(IMAPRefusal) -> IMAPSearchKey {
        count += 1
        guard depth < Self.searchDepthMax, count <= Self.searchKeysMax else {
            throw IMAPRefusal("The search is too deep or too long")
        }
        if skip(UInt8(ascii: "(")) {
            var keys: [IMAPSearchKey] = []
            repeat { keys.append(try key(&program, &count, depth: depth + 1)) } while skip(UInt8(ascii: " "))
            try expect(UInt8(ascii: ")"))
            return .and(keys)
        }
        if let byte = next, byte == UInt8(ascii: "*") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) {
            return .numbers(try sequenceSet())
        }
        let name = keyword()
        if let key = Self.plainKey(name) { return key }
        try space()
        switch name {
        case "NOT": return .not(try key(&program, &count, depth: depth + 1))
        case "OR":
            let first = try key(&program, &count, depth: depth + 1)
            try space()
            return .or(first, try key(&program, &count, depth: depth + 1))
        case "UID": return .uids(try sequenceSet())
        case "KEYWORD", "UNKEYWORD":
            let isSet = name == "KEYWORD"
            guard let flag = keywordFlag(try atom()) else { return isSet ? .never : .all }
            return .flag(flag, isSet: isSet)
        case "LARGER": return .larger(UInt64(try number32()))
        case "SMALLER": return .smaller(UInt64(try number32()))
        case "BEFORE": return .received(Int.min..<(try date()))
        case "ON": return .received(Self.oneDay(try date()))
        case "SINCE": return .received((try date())..<Int.max)
        case "SENTBEFORE": return .sent(Int.min..<(try date()))
        case "SENTON": return .sent(Self.oneDay(try date()))
        case "SENTSINCE": return .sent((try date())..<Int.max)
        case "BCC", "CC", "FROM", "SUBJECT", "TO":
            return try needle(.header(name.utf8.map(asciiLowercased)), &program)
        case "HEADER":
            let field = try astring().map(asciiLowercased)
            try space()
            return try needle(.header(field), &program)
        case "BODY": return try needle(.body, &program)
        case "TEXT": return try needle(.text, &program)
        case "MODSEQ": return try modSequence(&program)
        default: throw IMAPRefusal("Unknown search key")
        }
    }

    private static func plainKey(_ name: String) -> IMAPSearchKey? {
        switch name {
        case "ALL": .all
        case "ANSWERED": .flag(.answered, isSet: true)
        case "DELETED": .flag(.deleted, isSet: true)
        case "DRAFT": .flag(.draft, isSet: true)
        case "FLAGGED": .flag(.flagged, isSet: true)
        case "RECENT": .flag(.recent, isSet: true)
        case "SEEN": .flag(.seen, isSet: true)
        case "UNANSWERED": .flag(.answered, isSet: false)
        case "UNDELETED": .flag(.deleted, isSet: false)
        case "UNDRAFT": .flag(.draft, isSet: false)
        case "UNFLAGGED": .flag(.flagged, isSet: false)
        case "UNSEEN": .flag(.seen, isSet: false)
        case "OLD": .flag(.recent, isSet: false)
        case "NEW": .and([.flag(.recent, isSet: true), .flag(.seen, isSet: false)])
        default: nil
        }
    }

    private static func oneDay(_ day: Int) -> Range<Int> { day..<day + 1 }

    private mutating func needle(
        _ place: IMAPSearchNeedle.Place, _ program: inout IMAPSearchProgram
    ) throws(IMAPRefusal) -> IMAPSearchKey {
        let text = try astring()
        guard text.count <= Self.needleMaxBytes, program.needles.count < Self.needlesMax else {
            throw IMAPRefusal(no: "Search for fewer or shorter texts", code: "LIMIT")
        }
        program.needles.append(IMAPSearchNeedle(place: place, bytes: CaseFolder.folded(text)))
        return .needle(program.needles.count - 1)
    }

    /// One mod-sequence is kept for each message, so entry name and type narrow nothing (RFC 7162 §3.1.5).
    private mutating func modSequence(_ program: inout IMAPSearchProgram) throws(IMAPRefusal) -> IMAPSearchKey {
        if next == UInt8(ascii: "\"") {
            _ = try string()
            try space()
            guard ["ALL", "PRIV", "SHARED"].contains(keyword()) else { throw IMAPRefusal("Unknown type of entry") }
            try space()
        }
        program.usesModSequences = true
        return .modSequence(try number64())
    }

    /// `date` of RFC 3501 §9, with or without quotes, as days since 1970-01-01.
    private mutating func date() throws(IMAPRefusal) -> Int {
        let isQuoted = skip(UInt8(ascii: "\""))
        let day = Int(try number32())
        try expect(UInt8(ascii: "-"))
        let start = at
        while let byte = next, byte | 0x20 >= UInt8(ascii: "a"), byte | 0x20 <= UInt8(ascii: "z") { at += 1 }
        let month = IMAPDate.month(bytes[start..<at])
        try expect(UInt8(ascii: "-"))
        let year = Int(try number32())
        if isQuoted { try expect(UInt8(ascii: "\"")) }
        guard let month, let date = IMAPDate.day(year: year, month: month, day: day) else {
            throw IMAPRefusal("There is no such day")
        }
        return date
    }
}
