/// The header that a load balancer puts before a connection's first byte, to name the real client (PROXY protocol,
/// versions 1 and 2, of HAProxy).
///
/// Nothing of it is believed unless the connection comes from a network that may send it: that is the owner's check.
public enum ProxyHeader {
    /// The addresses that the proxy saw.
    public struct Endpoints: Sendable, Equatable {
        public let source: IPAddress
        public let sourcePort: UInt16
        public let destination: IPAddress
        public let destinationPort: UInt16

        public init(source: IPAddress, sourcePort: UInt16, destination: IPAddress, destinationPort: UInt16) {
            self.source = source
            self.sourcePort = sourcePort
            self.destination = destination
            self.destinationPort = destinationPort
        }
    }

    /// Why the header can't be one. The owner closes the connection, without a reply.
    public enum Fault: Error, Sendable, Equatable {
        /// Neither version's first bytes.
        case notAHeader
        /// A version 1 line that breaks the grammar.
        case badLine
        /// A version 1 line longer than ``lineMaxBytes``, or a version 2 length above ``addressesMaxBytes``.
        case tooLong
        /// A version 2 header of another version, or with an undefined command, family or transport.
        case badKind
        /// A version 2 header shorter than the addresses that its family has.
        case tooShort
    }

    public enum Parse: Sendable, Equatable {
        /// So far a good header: present the same bytes again, with more behind them.
        case needMore
        case invalid(Fault)
        /// The header ends after `consumed` bytes. No endpoints: the proxy speaks for itself (a health check) or knows
        /// no addresses; those of the connection hold.
        case parsed(consumed: Int, Endpoints?)
    }

    /// Longest version 1 line, with its CRLF, as the protocol's text has it.
    public static let lineMaxBytes = 107
    /// Most that may follow the 16 fixed bytes of version 2: addresses (36, or 216 for Unix) and TLVs. Those that
    /// proxies really send take less than 500.
    public static let addressesMaxBytes = 1024

    /// Reads the header at the start of `bytes`, all that the connection has sent so far.
    public static func parse(_ bytes: UnsafeRawBufferPointer) -> Parse {
        guard let first = bytes.first else { return .needMore }
        return first == signature.utf8Start[0] ? parseBinary(bytes) : parseLine(bytes)
    }

    private static let linePrefix: StaticString = "PROXY "
    private static let signature: StaticString = "\r\n\r\n\0\r\nQUIT\n"

    private static func startsAlike(_ bytes: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
        for at in 0..<min(bytes.count, text.utf8CodeUnitCount) where bytes[at] != text.utf8Start[at] { return false }
        return true
    }
}

// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.2 56324 25` CRLF, or `PROXY UNKNOWN` and anything.
extension ProxyHeader {
    private static func parseLine(_ bytes: UnsafeRawBufferPointer) -> Parse {
        guard startsAlike(bytes, linePrefix) else { return .invalid(.notAHeader) }
        let head = bytes.prefix(lineMaxBytes)
        guard let lineFeed = head.firstIndex(of: UInt8(ascii: "\n")) else {
            return bytes.count < lineMaxBytes ? .needMore : .invalid(.tooLong)
        }
        guard lineFeed > linePrefix.utf8CodeUnitCount, bytes[lineFeed - 1] == UInt8(ascii: "\r") else {
            return .invalid(.badLine)
        }
        let line = bytes[linePrefix.utf8CodeUnitCount..<lineFeed - 1]
        let words = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
        if words[0] == "UNKNOWN" { return .parsed(consumed: lineFeed + 1, nil) }
        guard words.count == 5, words[0] == "TCP4" || words[0] == "TCP6" else { return .invalid(.badLine) }
        let isV6 = words[0] == "TCP6"
        guard words[1].contains(":") == isV6, words[2].contains(":") == isV6,
            let source = IPAddress(words[1]), let destination = IPAddress(words[2]),
            let sourcePort = port(words[3]), let destinationPort = port(words[4])
        else { return .invalid(.badLine) }
        return .parsed(
            consumed: lineFeed + 1,
            Endpoints(
                source: source, sourcePort: sourcePort, destination: destination, destinationPort: destinationPort))
    }

    private static func port(_ text: String) -> UInt16? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            text == "0" || !text.hasPrefix("0")
        else { return nil }
        return UInt16(text)
    }
}

// Version 2: signature, version and command, family and transport, length, addresses, TLVs.
extension ProxyHeader {
    private static let fixedBytes = 16

    private static func parseBinary(_ bytes: UnsafeRawBufferPointer) -> Parse {
        guard startsAlike(bytes, signature) else { return .invalid(.notAHeader) }
        let at = signature.utf8CodeUnitCount
        guard bytes.count > at else { return .needMore }
        let isLocal = bytes[at] == 0x20
        guard isLocal || bytes[at] == 0x21 else { return .invalid(.badKind) }
        guard bytes.count > at + 1 else { return .needMore }
        // Family and transport of a LOCAL header are to be ignored. Of a PROXY header: unspecified, or a stream of
        // IPv4, IPv6 or Unix; a datagram can't have come by this connection.
        let kind = bytes[at + 1]
        let leastLength: Int
        switch kind {
        case _ where isLocal: leastLength = 0
        case 0x00: leastLength = 0
        case 0x11: leastLength = 12
        case 0x21: leastLength = 36
        case 0x31: leastLength = 216
        default: return .invalid(.badKind)
        }
        guard bytes.count >= fixedBytes else { return .needMore }
        let length = Int(number(bytes, at + 2))
        guard length <= addressesMaxBytes else { return .invalid(.tooLong) }
        guard length >= leastLength else { return .invalid(.tooShort) }
        let end = fixedBytes + length
        guard bytes.count >= end else { return .needMore }
        guard !isLocal, kind == 0x11 || kind == 0x21 else { return .parsed(consumed: end, nil) }
        let width = kind == 0x11 ? 4 : 16
        let ports = fixedBytes + 2 * width
        guard let source = IPAddress(bytes: bytes[fixedBytes..<fixedBytes + width]),
            let destination = IPAddress(bytes: bytes[fixedBytes + width..<ports])
        else { return .invalid(.tooShort) }
        return .parsed(
            consumed: end,
            Endpoints(
                source: source, sourcePort: number(bytes, ports), destination: destination,
                destinationPort: number(bytes, ports + 2)))
    }

    private static func number(_ bytes: UnsafeRawBufferPointer, _ at: Int) -> UInt16 {
        UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1])
    }
}
