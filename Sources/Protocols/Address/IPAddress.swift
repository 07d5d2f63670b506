/// An IPv4 or IPv6 address. IPv4-mapped IPv6 addresses (`::ffff:a.b.c.d`) are IPv4 here, so that one peer has one name.
public struct IPAddress: Hashable, Sendable, Comparable {
    /// Network byte order read as integers; an IPv4 address is `(0, 0xffff_xxxx_xxxx)`, as in its mapped form.
    public let high: UInt64
    public let low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    public init(v4: UInt32) { self.init(high: 0, low: 0xffff_0000_0000 | UInt64(v4)) }

    /// 4 or 16 bytes in network order.
    public init?(bytes: some Collection<UInt8>) {
        switch bytes.count {
        case 4: self.init(v4: bytes.reduce(0) { $0 << 8 | UInt32($1) })
        case 16:
            let high = bytes.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            let low = bytes.dropFirst(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            self.init(high: high, low: low)
        default: return nil
        }
    }

    public var isV4: Bool { high == 0 && low >> 32 == 0xffff }
    public var v4: UInt32 { UInt32(truncatingIfNeeded: low) }

    public var bytes: [UInt8] {
        if isV4 { return (0..<4).map { UInt8(truncatingIfNeeded: v4 >> (24 - 8 * UInt32($0))) } }
        return (0..<8).map { UInt8(truncatingIfNeeded: high >> (56 - 8 * UInt64($0))) }
            + (0..<8).map { UInt8(truncatingIfNeeded: low >> (56 - 8 * UInt64($0))) }
    }

    public var isLoopback: Bool { isV4 ? v4 >> 24 == 127 : high == 0 && low == 1 }
    public var isUnspecified: Bool { isV4 ? v4 == 0 : high == 0 && low == 0 }

    public static func < (a: IPAddress, b: IPAddress) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

extension IPAddress: LosslessStringConvertible {
    /// Dotted quad, or the forms of RFC 4291 §2.2 (without zone). Anything else is nil.
    public init?(_ text: some StringProtocol) {
        let text = Array(text.utf8)
        guard text.count <= 45 else { return nil }
        if text.contains(UInt8(ascii: ":")) {
            guard let value = Self.parseV6(text[...]) else { return nil }
            self = value
        } else {
            guard let value = Self.parseV4(text[...]) else { return nil }
            self.init(v4: value)
        }
    }

    private static func parseV4(_ text: ArraySlice<UInt8>) -> UInt32? {
        var value: UInt32 = 0
        let parts = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        for part in parts {
            guard (1...3).contains(part.count), part.count == 1 || part.first != UInt8(ascii: "0") else { return nil }
            var octet: UInt32 = 0
            for byte in part {
                guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
                octet = octet * 10 + UInt32(byte - UInt8(ascii: "0"))
            }
            guard octet < 256 else { return nil }
            value = value << 8 | octet
        }
        return value
    }

    private static func parseV6(_ text: ArraySlice<UInt8>) -> IPAddress? {
        let colon = UInt8(ascii: ":")
        var head: [UInt16] = []
        var tail: [UInt16] = []
        var sawGap = false
        var rest = text
        if rest.starts(with: [colon, colon]) {
            sawGap = true
            rest = rest.dropFirst(2)
        } else if rest.first == colon {
            return nil
        }
        while !rest.isEmpty {
            let end = rest.firstIndex(of: colon) ?? rest.endIndex
            let group = rest[rest.startIndex..<end]
            if group.contains(UInt8(ascii: ".")) {
                guard end == rest.endIndex, let quad = parseV4(group) else { return nil }
                let pair = [UInt16(quad >> 16), UInt16(truncatingIfNeeded: quad)]
                if sawGap { tail += pair } else { head += pair }
                rest = rest[end...]
                break
            }
            guard (1...4).contains(group.count) else { return nil }
            var value: UInt16 = 0
            for byte in group {
                guard let digit = Self.hexValue(byte) else { return nil }
                value = value << 4 | UInt16(digit)
            }
            if sawGap { tail.append(value) } else { head.append(value) }
            rest = rest[end...]
            guard !rest.isEmpty else { break }
            rest = rest.dropFirst()
            if rest.isEmpty { return nil }
            if rest.first == colon {
                guard !sawGap else { return nil }
                sawGap = true
                rest = rest.dropFirst()
            }
        }
        let count = head.count + tail.count
        guard sawGap ? count <= 7 : count == 8 else { return nil }
        let groups = head + [UInt16](repeating: 0, count: 8 - count) + tail
        let high = groups[..<4].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
        let low = groups[4...].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
        return IPAddress(high: high, low: low)
    }

    static func hexValue(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    /// Dotted quad, or RFC 5952 text.
    public var description: String {
        if isV4 { return "\(v4 >> 24).\(v4 >> 16 & 255).\(v4 >> 8 & 255).\(v4 & 255)" }
        let groups = (0..<8).map { UInt16(truncatingIfNeeded: ($0 < 4 ? high : low) >> (48 - 16 * UInt64($0 % 4))) }
        var best = 0..<0
        var at = 0
        while at < 8 {
            var end = at
            while end < 8, groups[end] == 0 { end += 1 }
            if end - at > best.count, end - at > 1 { best = at..<end }
            at = max(end, at + 1)
        }
        let hex = { (range: Range<Int>) in range.map { String(groups[$0], radix: 16) }.joined(separator: ":") }
        return best.isEmpty ? hex(0..<8) : hex(0..<best.lowerBound) + "::" + hex(best.upperBound..<8)
    }

    /// As an address literal's inside (RFC 5321 §4.1.3): `192.0.2.1` or `IPv6:2001:db8::1`.
    public var literalText: String { isV4 ? description : "IPv6:" + description }
}

/// A network in CIDR form, or one address.
public struct IPNetwork: Hashable, Sendable, LosslessStringConvertible {
    public let address: IPAddress
    /// Bits of the 128-bit form that count.
    public let prefixBits: Int

    public init(address: IPAddress, prefixBits: Int) {
        self.address = address
        self.prefixBits = prefixBits
    }

    /// `10.0.0.0/8`, `2001:db8::/32`, or an address alone.
    public init?(_ text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count <= 2, let address = IPAddress(parts[0]) else { return nil }
        let width = address.isV4 ? 32 : 128
        var bits = width
        if parts.count == 2 {
            guard parts[1].utf8.count <= 3, let given = Int(parts[1]), (0...width).contains(given) else { return nil }
            bits = given
        }
        self.init(address: address, prefixBits: bits + 128 - width)
    }

    public func contains(_ other: IPAddress) -> Bool {
        if prefixBits <= 64 {
            return prefixBits == 0 || (address.high ^ other.high) >> (64 - UInt64(prefixBits)) == 0
        }
        guard address.high == other.high else { return false }
        return prefixBits == 128
            ? address.low == other.low : (address.low ^ other.low) >> (128 - UInt64(prefixBits)) == 0
    }

    public var description: String { "\(address)/\(address.isV4 ? prefixBits - 96 : prefixBits)" }
}
