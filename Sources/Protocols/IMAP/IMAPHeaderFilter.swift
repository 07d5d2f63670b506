/// Picks fields out of a header section that streams by: `HEADER.FIELDS` and `HEADER.FIELDS.NOT` (RFC 3501 §6.4.5). The
/// lines stay as they are, and an empty one ends them.
struct IMAPHeaderFilter {
    private enum Place { case lineStart, lineStartCR, name, value }

    /// The picked lines so far; at most `maxBytes`, what is beyond is cut off.
    private(set) var selected: [UInt8] = []

    private static let nameMaxBytes = 1_024

    /// In lower case.
    private let names: [[UInt8]]
    private let isNot: Bool
    private let maxBytes: Int
    private var place = Place.lineStart
    /// The field's bytes up to where its name is known.
    private var pending: [UInt8] = []
    private var isSelected = false
    private var isOver = false

    init(names: [[UInt8]], isNot: Bool, maxBytes: Int) {
        self.names = names.map { $0.map(asciiLowercased) }
        self.isNot = isNot
        self.maxBytes = maxBytes
    }

    /// Takes the next bytes of the section, however they were cut.
    mutating func received(_ bytes: UnsafeRawBufferPointer) {
        for byte in bytes {
            if isOver { return }
            switch place {
            case .lineStart where byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t"):
                place = .value
                put(byte)
            case .lineStart:
                if byte == UInt8(ascii: "\n") {
                    isOver = true
                } else if byte == UInt8(ascii: "\r") {
                    place = .lineStartCR
                } else {
                    pending = [byte]
                    place = .name
                    if byte == UInt8(ascii: ":") { decide() }
                }
            case .lineStartCR:
                if byte == UInt8(ascii: "\n") {
                    isOver = true
                } else {
                    pending = [UInt8(ascii: "\r"), byte]
                    place = .name
                }
            case .name:
                pending.append(byte)
                if byte == UInt8(ascii: ":") || byte == UInt8(ascii: "\n") || pending.count == Self.nameMaxBytes {
                    decide()
                    if byte == UInt8(ascii: "\n") { place = .lineStart }
                }
            case .value:
                put(byte)
                if byte == UInt8(ascii: "\n") { place = .lineStart }
            }
        }
    }

    /// The lines with the empty one behind them.
    mutating func finish() -> [UInt8] {
        if place == .name { decide() }
        if let last = selected.last, last != UInt8(ascii: "\n") { selected += [13, 10] }
        return selected + [13, 10]
    }

    private mutating func decide() {
        let name = pending.dropLast().map(asciiLowercased).trimmed
        isSelected = names.contains(name) != isNot
        for byte in pending { put(byte) }
        pending = []
        place = .value
    }

    private mutating func put(_ byte: UInt8) {
        if isSelected, selected.count < maxBytes { selected.append(byte) }
    }
}
