import Testing

@testable import Protocols

/// Cases of Tests/cases.tsv that need no engine.
@Suite struct ProtocolCaseTests {
    /// Each byte is shown once, alone, from a place that is overwritten behind it, to a scanner whose state has a bound:
    /// so it can't look at any byte twice, and behind its limits it looks at none.
    @Test(
        "T-A9: a header bomb costs one look at each byte, up to the limits",
        arguments: [
            "To: a@b.example, ", "To: a@b.example\r\n", "Received: x\r\n", "Message-ID: <x>\r\n ",
            "Auto-Submitted: no\r\n", "X-Trace: y\r\n", "x", "Content-Type: a; b*0=c; b*1=d;\r\n ",
        ])
    func oneLook(_ unit: String) {
        var limits = HeaderScanner.Limits()
        (limits.headerMaxBytes, limits.fieldsMax) = (100_000, 1_000)
        var scanner = HeaderScanner(traceFieldName: "X-Trace", limits: limits)
        let place = UnsafeMutableRawBufferPointer.allocate(byteCount: 1, alignment: 1)
        defer { place.deallocate() }
        let bytes = [UInt8](unit.utf8)
        var looks = 0
        for turn in 0..<200_000 {
            place[0] = bytes[turn % bytes.count]
            if !scanner.isInBody { looks += 1 }
            scanner.received(UnsafeRawBufferPointer(place))
            place[0] = 0xff
        }
        #expect(scanner.isInBody && scanner.overLimit != nil)
        #expect(looks <= limits.headerMaxBytes + 1)
        #expect(scanner.fieldCount <= limits.fieldsMax)
        #expect(scanner.traceValues.count <= HeaderScanner.traceValuesMax)
        #expect(scanner.traceValues.allSatisfy { $0.count <= HeaderScanner.traceValueMaxBytes })
        // And at once it finds the same.
        var whole = HeaderScanner(traceFieldName: "X-Trace", limits: limits)
        (0..<200_000).map { bytes[$0 % bytes.count] }.withUnsafeBytes { whole.received($0) }
        #expect(whole.overLimit == scanner.overLimit && whole.fieldCount == scanner.fieldCount)
        #expect(whole.headerBytes == scanner.headerBytes && whole.traceValues == scanner.traceValues)
    }

    /// The content scanner too: no content costs more than its bytes, and it keeps none.
    @Test("T-A9: content costs one look at each byte, however it is cut") func contentLooks() {
        let place = UnsafeMutableRawBufferPointer.allocate(byteCount: 1, alignment: 1)
        defer { place.deallocate() }
        for unit in ["..\r\n", "x", "\r\n", "x\r\n.y\r\n"] {
            var scanner = ContentScanner()
            var (calls, consumed) = (0, 0)
            let bytes = [UInt8](unit.utf8)
            for turn in 0..<50_000 {
                place[0] = bytes[turn % bytes.count]
                var at = 0
                while at < 1 {
                    _ = scanner.scan(UnsafeRawBufferPointer(place), from: &at, framing: .verbatim)
                    calls += 1
                }
                consumed += at
                place[0] = 0xff
            }
            #expect(consumed == 50_000 && calls == 50_000)
        }
    }
}
