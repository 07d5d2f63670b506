import Testing

@testable import Protocols

private func parse(_ bytes: [UInt8]) -> ProxyHeader.Parse { bytes.withUnsafeBytes { ProxyHeader.parse($0) } }
private func parse(_ text: String) -> ProxyHeader.Parse { parse(Array(text.utf8)) }

private let signature: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]

private func binary(_ versionAndCommand: UInt8, _ kind: UInt8, _ rest: [UInt8], length: Int? = nil) -> [UInt8] {
    let length = length ?? rest.count
    return signature + [versionAndCommand, kind, UInt8(length >> 8), UInt8(truncatingIfNeeded: length)] + rest
}

/// Every proper prefix of a header is `.needMore`; bytes behind it change nothing.
private func expectIncremental(_ header: [UInt8], _ endpoints: ProxyHeader.Endpoints?) {
    for count in 0..<header.count { #expect(parse(Array(header[..<count])) == .needMore) }
    #expect(parse(header) == .parsed(consumed: header.count, endpoints))
    #expect(parse(header + Array("EHLO x\r\n".utf8)) == .parsed(consumed: header.count, endpoints))
}

struct ProxyHeaderTests {
    private let v4 = ProxyHeader.Endpoints(
        source: IPAddress("192.0.2.1")!, sourcePort: 56324, destination: IPAddress("198.51.100.2")!, destinationPort: 25
    )
    private let v6 = ProxyHeader.Endpoints(
        source: IPAddress("2001:db8::1")!, sourcePort: 65535, destination: IPAddress("2001:db8::2")!, destinationPort: 0
    )

    @Test func `version 1: lines, at every split`() {
        expectIncremental(Array("PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n".utf8), v4)
        expectIncremental(Array("PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n".utf8), v6)
        expectIncremental(Array("PROXY UNKNOWN\r\n".utf8), nil)
        expectIncremental(Array("PROXY UNKNOWN ffff:f f 1 2\r\n".utf8), nil)
        let worst = "PROXY UNKNOWN " + String(repeating: "f", count: 91) + "\r\n"
        #expect(worst.utf8.count == ProxyHeader.lineMaxBytes)
        expectIncremental(Array(worst.utf8), nil)
    }

    @Test func `version 2: addresses and TLVs, at every split`() {
        let addresses4: [UInt8] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0, 25]
        let addresses6 = v6.source.bytes + v6.destination.bytes + [0xff, 0xff, 0, 0]
        expectIncremental(binary(0x21, 0x11, addresses4), v4)
        expectIncremental(binary(0x21, 0x11, addresses4 + [0x04, 0, 3, 1, 2, 3]), v4)
        expectIncremental(binary(0x21, 0x21, addresses6), v6)
        expectIncremental(binary(0x21, 0x31, [UInt8](repeating: 0x2f, count: 216)), nil)
        expectIncremental(binary(0x21, 0x00, []), nil)
        expectIncremental(binary(0x20, 0x00, []), nil)
        expectIncremental(binary(0x20, 0x11, addresses4), nil)
        expectIncremental(binary(0x20, 0xff, [1, 2, 3]), nil)
        expectIncremental(
            binary(0x21, 0x11, addresses4 + [UInt8](repeating: 0, count: ProxyHeader.addressesMaxBytes - 12)), v4)
    }

    @Test(arguments: [
        ("EHLO x\r\n", ProxyHeader.Fault.notAHeader), ("P0", .notAHeader), ("proxy ", .notAHeader),
        ("\r\n\r\nX", .notAHeader), ("PROXY \r\n", .badLine), ("PROXY\r\n", .notAHeader),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\n", .badLine),
        ("PROXY TCP4  192.0.2.1 198.51.100.2 56324 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 25 \r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", .badLine),
        ("PROXY TCP5 192.0.2.1 198.51.100.2 56324 25\r\n", .badLine),
        ("PROXY TCP4 2001:db8::1 198.51.100.2 56324 25\r\n", .badLine),
        ("PROXY TCP6 192.0.2.1 198.51.100.2 56324 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.256 198.51.100.2 56324 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 056 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 +56 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 -1 25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2  25\r\n", .badLine),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\rX\r\n", .badLine),
    ])
    func `T-C3: malformed lines`(text: String, fault: ProxyHeader.Fault) {
        #expect(parse(text) == .invalid(fault))
    }

    @Test func `T-C3: an endless line`() {
        let line = "PROXY UNKNOWN " + String(repeating: "f", count: 200)
        #expect(parse(String(line.prefix(106))) == .needMore)
        #expect(parse(String(line.prefix(107))) == .invalid(.tooLong))
        #expect(parse(line + "\r\n") == .invalid(.tooLong))
    }

    @Test func `T-C3: malformed binary headers`() {
        let addresses: [UInt8] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0, 25]
        for command: UInt8 in [0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            #expect(parse(binary(command, 0x11, addresses)) == .invalid(.badKind))
        }
        for kind: UInt8 in [0x01, 0x10, 0x12, 0x13, 0x22, 0x32, 0x41, 0xf1] {
            #expect(parse(binary(0x21, kind, addresses)) == .invalid(.badKind))
        }
        #expect(parse(binary(0x21, 0x11, Array(addresses.dropLast()))) == .invalid(.tooShort))
        #expect(parse(binary(0x21, 0x21, addresses)) == .invalid(.tooShort))
        #expect(parse(binary(0x21, 0x31, addresses)) == .invalid(.tooShort))
        #expect(parse(binary(0x21, 0x11, [], length: 1025)) == .invalid(.tooLong))
        #expect(parse(binary(0x20, 0x00, [], length: 65535)) == .invalid(.tooLong))
        for at in signature.indices {
            var bytes = binary(0x21, 0x11, addresses)
            bytes[at] ^= 0x40
            #expect(parse(bytes) == .invalid(.notAHeader))
        }
    }
}
