@testable import Protocols

/// The structure of a message, whole and cut, against what its ranges say; and what IMAP writes of it.
///
/// Input: options, cut seed (two bytes), then the content.
enum MIMETarget {
    static func run(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let options = input.byte()
        let cuts = Cuts(seed: input.number())
        let content = input.all()
        var limits = MIMEScanner.Limits()
        if options & 1 == 1 { limits.partsMax = 4 }
        if options & 2 == 2 { limits.depthMax = 3 }
        if options & 4 == 4 { limits.textMaxBytes = 40 }
        let whole = scan([content], limits)
        requireSame(whole, scan(cuts.pieces(content), limits), "scanned whole and cut")
        check(whole, content, limits)
        let header = scan([content], limits, headerOnly: true)
        requireSame(header.parts.count, 1, "parts of a header section")
        requireSame(header.root.header, whole.root.header, "the header section alone")
        compareWithScanner(whole, content)
        write(whole, given: bytes.count)
        decode(content, cuts, options)
    }

    private static func scan(
        _ pieces: [[UInt8]], _ limits: MIMEScanner.Limits, headerOnly: Bool = false
    ) -> MIMEStructure {
        var scanner = MIMEScanner(headerOnly: headerOnly, limits: limits)
        for piece in pieces { withExact(piece) { scanner.received($0) } }
        return scanner.finish()
    }

    private static func check(_ structure: MIMEStructure, _ content: [UInt8], _ limits: MIMEScanner.Limits) {
        requireSame(structure.root.header.lowerBound, 0, "where the message begins")
        requireSame(structure.root.body.upperBound, content.count, "where the message ends")
        require(structure.parts.count <= limits.partsMax, "\(structure.parts.count) parts")
        let kept = structure.parts.flatMap(\.fields).map(\.value.count).reduce(0, +)
        require(kept <= limits.textMaxBytes, "\(kept) bytes kept")
        var seen = 0
        func visit(_ index: Int, depth: Int) {
            seen += 1
            let part = structure.parts[index]
            require(depth <= limits.depthMax, "depth \(depth)")
            requireSame(part.header.upperBound, part.body.lowerBound, "between header and body of part \(index)")
            requireSame(part.bodyLines, content[part.body].count { $0 == 10 }, "lines of part \(index)")
            require(part.kind != .leaf || part.children.isEmpty, "parts in a leaf")
            require(part.kind != .message || part.children.count == 1, "messages in a message")
            var end = part.body.lowerBound
            for child in part.children {
                require(child > index, "a part begins before the one around it")
                let inner = structure.parts[child]
                require(inner.header.lowerBound >= end, "parts overlap")
                require(
                    inner.body.upperBound <= max(part.body.upperBound, inner.body.lowerBound),
                    "a part ends behind the one around it")
                end = inner.body.upperBound
                visit(child, depth: depth + 1)
            }
        }
        visit(0, depth: 1)
        requireSame(seen, structure.parts.count, "parts that belong to the message")
    }

    /// Two readers of one message agree where its body begins (T-A2).
    private static func compareWithScanner(_ structure: MIMEStructure, _ content: [UInt8]) {
        var scanner = HeaderScanner()
        withExact(content) { scanner.received($0) }
        scanner.finish()
        requireSame(structure.root.body.lowerBound, scanner.bodyOffset, "where the body begins")
    }

    private static func write(_ structure: MIMEStructure, given: Int) {
        for isExtended in [false, true] {
            var output = ByteOutput()
            output.append(bodyOf: 0, in: structure, isExtended: isExtended)
            var reader = ValueReader(output.array)
            _ = reader.list()
            require(reader.isAtEnd, "something is behind a body")
        }
        var output = ByteOutput()
        output.append(envelopeOf: structure.root)
        var reader = ValueReader(output.array)
        requireSame(reader.list(), 10, "values of an envelope")
        require(reader.isAtEnd, "something is behind an envelope")
    }

    private static func decode(_ content: [UInt8], _ cuts: Cuts, _ options: UInt8) {
        let encoding: MIMEEncoding = options & 16 == 16 ? .base64 : options & 32 == 32 ? .quotedPrintable : .identity
        func decoded(_ pieces: [[UInt8]]) -> [UInt8] {
            var decoder = MIMETextDecoder(encoding: encoding, charset: options & 64 == 64 ? .latin1 : .utf8)
            var text: [UInt8] = []
            for piece in pieces { withExact(piece) { decoder.decode($0, into: &text) } }
            decoder.finish(into: &text)
            return text
        }
        let whole = decoded([content])
        requireSame(whole, decoded(cuts.pieces(content)), "decoded whole and cut")
        require(whole.count <= 4 * content.count, "\(whole.count) bytes decoded from \(content.count)")
        require(MIMEEncodedWords.folded(content).count <= 4 * content.count, "encoded words grow")
        require(MIMEAddresses.parse(content).count <= MIMEAddresses.elementsMax, "addresses")
        require(MIMEHeaderValue(content).parameters.count <= MIMEHeaderValue.parametersMax, "parameters")
    }
}

/// Reads what IMAP sends as values: lists, strings, literals, NIL and numbers.
struct ValueReader {
    private let bytes: [UInt8]
    private var at = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { at == bytes.count }

    /// The number of values in the list that begins here.
    mutating func list() -> Int {
        require(at < bytes.count && bytes[at] == UInt8(ascii: "("), "no list at \(at) of \(text(bytes))")
        at += 1
        var count = 0
        while at < bytes.count, bytes[at] != UInt8(ascii: ")") {
            if bytes[at] == UInt8(ascii: " ") { at += 1 }
            value()
            count += 1
        }
        require(at < bytes.count, "a list is open in \(text(bytes))")
        at += 1
        return count
    }

    private mutating func value() {
        require(at < bytes.count, "a value is missing in \(text(bytes))")
        switch bytes[at] {
        case UInt8(ascii: "("): _ = list()
        case UInt8(ascii: "\""):
            at += 1
            while at < bytes.count, bytes[at] != UInt8(ascii: "\"") {
                require(bytes[at] >= 32 && bytes[at] < 127, "byte \(bytes[at]) in quotes")
                at += bytes[at] == UInt8(ascii: "\\") ? 2 : 1
            }
            at += 1
        case UInt8(ascii: "{"):
            let end = bytes[at...].firstIndex(of: UInt8(ascii: "}")) ?? bytes.count
            guard let count = decimal(bytes[(at + 1)..<end]) else { fail("a literal of what length?") }
            require(bytes[(end + 1)...].starts(with: [13, 10]), "no line end in front of a literal")
            at = end + 3 + count
            require(at <= bytes.count, "a literal is cut off")
            require(!bytes[(end + 3)..<at].contains(0), "NUL in a literal")
        default:
            let word = bytes[at...].prefix { $0 > 32 && $0 != UInt8(ascii: ")") && $0 != UInt8(ascii: "(") }
            require(word.elementsEqual("NIL".utf8) || decimal(word) != nil, "the value \(text(word))")
            at += word.count
        }
    }
}
