/// FETCH (RFC 3501 §6.4.5).
///
/// ```abnf
/// fetch-att = … / "BODY" [ ".PEEK" ] "[" [ section-part [ "." section-text ] ] "]" [ "<" number "." nz-number ">" ]
/// ```
extension IMAPParser {
    static let itemsMax = 100
    static let headerNamesMax = 200
    static let sectionDepthMax = 64

    mutating func fetch(isUID: Bool) throws(IMAPRefusal) -> IMAPCommand {
        try space()
        let set = try sequenceSet()
        try space()
        var items: [IMAPFetchItem] = []
        if skip(UInt8(ascii: "(")) {
            repeat {
                items.append(try item())
                guard items.count <= Self.itemsMax else { throw IMAPRefusal("Too many items") }
            } while skip(UInt8(ascii: " "))
            try expect(UInt8(ascii: ")"))
        } else {
            let start = at
            switch keyword() {
            case "ALL": items = [.flags, .internalDate, .size, .envelope]
            case "FAST": items = [.flags, .internalDate, .size]
            case "FULL": items = [.flags, .internalDate, .size, .envelope, .structure(isExtended: false)]
            default:
                at = start
                items = [try item()]
            }
        }
        var changedSince: UInt64?
        if skip(UInt8(ascii: " ")) {
            try expect(UInt8(ascii: "("))
            guard keyword() == "CHANGEDSINCE" else { throw IMAPRefusal("Unknown modifier of FETCH") }
            try space()
            changedSince = try number64()
            try expect(UInt8(ascii: ")"))
        }
        return .fetch(set, items, changedSince: changedSince, isUID: isUID)
    }

    private mutating func item() throws(IMAPRefusal) -> IMAPFetchItem {
        switch keyword() {
        case "ENVELOPE": return .envelope
        case "FLAGS": return .flags
        case "INTERNALDATE": return .internalDate
        case IMAPItemName.size: return .size
        case "UID": return .uid
        case "MODSEQ": return .modSequence
        case "BODYSTRUCTURE": return .structure(isExtended: true)
        case IMAPItemName.message: return .section(IMAPSection(label: IMAPItemName.message))
        case IMAPItemName.header:
            return .section(IMAPSection(text: .header, isPeek: true, label: IMAPItemName.header))
        case IMAPItemName.text: return .section(IMAPSection(text: .text, label: IMAPItemName.text))
        case "BODY":
            guard next == UInt8(ascii: "[") else { return .structure(isExtended: false) }
            return .section(try section(isPeek: false))
        case "BODY.PEEK": return .section(try section(isPeek: true))
        default: throw IMAPRefusal("Unknown item of FETCH")
        }
    }

    private mutating func section(isPeek: Bool) throws(IMAPRefusal) -> IMAPSection {
        var section = IMAPSection(isPeek: isPeek)
        try expect(UInt8(ascii: "["))
        var isAfterDot = false
        while let byte = next, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") {
            let number = try number32()
            guard number > 0, section.path.count < Self.sectionDepthMax else { throw IMAPRefusal("No such part") }
            section.path.append(Int(number))
            isAfterDot = skip(UInt8(ascii: "."))
            if !isAfterDot { break }
        }
        if section.path.isEmpty || isAfterDot {
            let word = keyword()
            switch word {
            case "" where !isAfterDot: break
            case "HEADER": section.text = .header
            case "TEXT": section.text = .text
            case "MIME" where !section.path.isEmpty: section.text = .mime
            case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
                section.text = .headerFields(try headerNames(), isNot: word.count > 13)
            default: throw IMAPRefusal("Unknown section of BODY")
            }
        }
        try expect(UInt8(ascii: "]"))
        if skip(UInt8(ascii: "<")) {
            let offset = try number32()
            try expect(UInt8(ascii: "."))
            let count = try number32()
            guard count > 0 else { throw IMAPRefusal("A partial fetch of nothing") }
            try expect(UInt8(ascii: ">"))
            section.partial = (Int(offset), Int(count))
        }
        return section
    }

    private mutating func headerNames() throws(IMAPRefusal) -> [[UInt8]] {
        try space()
        try expect(UInt8(ascii: "("))
        var names: [[UInt8]] = []
        repeat {
            let name = try astring()
            guard !name.isEmpty, name.count <= 256, name.allSatisfy({ $0 > 32 && $0 < 127 && $0 != UInt8(ascii: ":") })
            else { throw IMAPRefusal("A header field has no such name") }
            names.append(name)
            guard names.count <= Self.headerNamesMax else { throw IMAPRefusal("Too many header fields") }
        } while skip(UInt8(ascii: " "))
        try expect(UInt8(ascii: ")"))
        return names
    }
}
