/// A type of resource record (RFC 1035 §3.2.2, RFC 3596 §2.1).
public enum DNSType: UInt16, Sendable {
    case a = 1
    case cname = 5
    case soa = 6
    case ptr = 12
    case mx = 15
    case txt = 16
    case aaaa = 28
}

/// Writes DNS queries (RFC 1035 §4) for a recursive resolver.
public enum DNSQuery {
    /// Why a text is no name to ask for.
    public enum Invalid: Error, Sendable, Equatable {
        case empty
        /// A label of no bytes, or of more than 63 (RFC 1035 §2.3.4).
        case badLabelLength
        /// More than 255 bytes on the wire.
        case tooLong
        /// Not a letter, digit, hyphen or underscore. U-labels must be A-labels here.
        case badByte
    }

    /// The size of answer that is asked for: fits one packet of any IPv6 path, so answers are not fragmented.
    public static let udpPayloadMaxBytes: UInt16 = 1232
    static let nameMaxBytes = 255
    static let labelMaxBytes = 63

    /// One question with EDNS (RFC 6891).
    ///
    /// - Parameters:
    ///   - name: a domain name, with or without its last dot.
    ///   - wantsDNSSEC: asks the resolver to say by the AD bit whether it has validated the answer (RFC 6840 §5.7).
    ///     The signatures themselves are of no use here and not asked for.
    public static func encode(
        name: String, type: DNSType, id: UInt16, wantsDNSSEC: Bool = true
    ) throws(Invalid) -> [UInt8] {
        var message: [UInt8] = []
        message.reserveCapacity(12 + name.utf8.count + 2 + 4 + 11)
        append(id, to: &message)
        append(wantsDNSSEC ? 0x0120 : 0x0100, to: &message)  // RD, AD
        for count: UInt16 in [1, 0, 0, 1] { append(count, to: &message) }
        try append(name: name, to: &message)
        append(type.rawValue, to: &message)
        append(1, to: &message)  // IN
        // The OPT record: root, type 41, the payload size as class, no flags, no options.
        message.append(0)
        append(41, to: &message)
        append(udpPayloadMaxBytes, to: &message)
        message += [0, 0, 0, 0, 0, 0]
        return message
    }

    /// The name whose PTR records name `address` (RFC 1035 §3.5, RFC 3596 §2.5).
    public static func reverseName(of address: IPAddress) -> String {
        if address.isV4 { return address.bytes.reversed().map { "\($0)." }.joined() + "in-addr.arpa" }
        return address.bytes.reversed()
            .map { "\(String($0 & 15, radix: 16)).\(String($0 >> 4, radix: 16))." }.joined() + "ip6.arpa"
    }

    private static func append(name: String, to message: inout [UInt8]) throws(Invalid) {
        let start = message.count
        var lengthAt = start
        message.append(0)
        for byte in name.utf8 {
            if byte == UInt8(ascii: ".") {
                try closeLabel(&message, lengthAt: lengthAt)
                lengthAt = message.count
                message.append(0)
            } else {
                guard isHostByte(byte) else { throw .badByte }
                message.append(byte)
            }
            guard message.count - start <= nameMaxBytes else { throw .tooLong }
        }
        guard message.count - start > 1 else { throw .empty }
        if message.count - lengthAt > 1 {
            try closeLabel(&message, lengthAt: lengthAt)
            message.append(0)
        }
        guard message.count - start <= nameMaxBytes else { throw .tooLong }
    }

    private static func closeLabel(_ message: inout [UInt8], lengthAt: Int) throws(Invalid) {
        let length = message.count - lengthAt - 1
        guard (1...labelMaxBytes).contains(length) else { throw .badLabelLength }
        message[lengthAt] = UInt8(length)
    }

    private static func append(_ number: UInt16, to message: inout [UInt8]) {
        message.append(UInt8(number >> 8))
        message.append(UInt8(truncatingIfNeeded: number))
    }

    /// What names of hosts and of service records consist of; `*` or a space in an answer is no name to connect to.
    static func isHostByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }
}
