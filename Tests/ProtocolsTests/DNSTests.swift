import Testing

@testable import Protocols

/// Builds answers byte by byte, without the code under test.
private struct AnswerBuilder {
    var bytes: [UInt8] = []
    var counts: [UInt16] = [0, 0, 0]
    private var questionType: UInt16

    init(_ name: String, _ type: DNSType, flags: UInt16 = 0x8180) {
        questionType = type.rawValue
        bytes = be16(0x1234) + be16(flags) + be16(1) + be16(0) + be16(0) + be16(0)
        bytes += wire(name) + be16(type.rawValue) + be16(1)
    }

    mutating func add(
        _ section: Int = 0, owner: [UInt8] = [0xc0, 12], type: UInt16, class: UInt16 = 1, ttl: UInt32 = 300,
        _ data: [UInt8]
    ) {
        counts[section] += 1
        bytes += owner + be16(type) + be16(`class`) + be16(UInt16(ttl >> 16)) + be16(UInt16(truncatingIfNeeded: ttl))
        bytes += be16(UInt16(data.count)) + data
        for (index, count) in counts.enumerated() {
            bytes.replaceSubrange(6 + 2 * index..<8 + 2 * index, with: be16(count))
        }
    }

    func decode() throws(DNSFault) -> DNSAnswer { try DNSAnswer.decode(bytes) }
}

private func be16(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(truncatingIfNeeded: number)] }

private func wire(_ name: String) -> [UInt8] {
    name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
}

private func soa(minimum: UInt32) -> [UInt8] {
    wire("ns.altn.test") + wire("hostmaster.altn.test") + [UInt8](repeating: 0, count: 16)
        + be16(UInt16(minimum >> 16)) + be16(UInt16(truncatingIfNeeded: minimum))
}

struct DNSQueryTests {
    @Test func `RFC 1035 §4.1: a question with EDNS on the wire`() throws {
        let query = try DNSQuery.encode(name: "Altn.test.", type: .mx, id: 0xabcd)
        #expect(
            query == [0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1] + [4] + Array("Altn".utf8) + [4]
                + Array("test".utf8)
                + [0, 0, 15, 0, 1] + [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0])
        #expect(try DNSQuery.encode(name: "a", type: .a, id: 1, wantsDNSSEC: false)[3] == 0)
        #expect(try DNSQuery.encode(name: "_25._tcp.mx.altn.test", type: .txt, id: 1).count == 12 + 23 + 4 + 11)
    }

    @Test func `RFC 1035 §2.3.4: lengths of labels and names`() throws {
        let label63 = String(repeating: "a", count: 63)
        let longest = "\(label63).\(label63).\(label63).\(String(repeating: "b", count: 61))"
        #expect(try DNSQuery.encode(name: longest, type: .a, id: 1).count == 12 + 255 + 4 + 11)
        #expect(try DNSQuery.encode(name: longest + ".", type: .a, id: 1).count == 12 + 255 + 4 + 11)
        let bad: [(String, DNSQuery.Invalid)] = [
            ("", .empty), (".", .badLabelLength), ("a..b", .badLabelLength), (".a", .badLabelLength),
            (label63 + "a.b", .badLabelLength), (longest + "b", .tooLong), (longest + ".c", .tooLong),
            ("a b", .badByte), ("*.a", .badByte), ("bücher.test", .badByte), ("a\0", .badByte),
        ]
        for (name, fault) in bad {
            #expect(throws: fault) { try DNSQuery.encode(name: name, type: .a, id: 1) }
        }
    }

    @Test func `RFC 1035 §3.5, RFC 3596 §2.5: names of addresses`() {
        #expect(DNSQuery.reverseName(of: IPAddress("192.0.2.1")!) == "1.2.0.192.in-addr.arpa")
        #expect(
            DNSQuery.reverseName(of: IPAddress("2001:db8::567:89ab")!)
                == "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa")
    }
}

struct DNSAnswerTests {
    @Test func `RFC 1035 §3.3.9: MX records with compressed names`() throws {
        var answer = AnswerBuilder("Altn.TEST", .mx, flags: 0x81a0)
        answer.add(type: 15, ttl: 300, [0, 10] + [3] + Array("MX1".utf8) + [0xc0, 12])
        answer.add(type: 15, ttl: 60, [0, 20] + wire("mx.provider.test"))
        let decoded = try answer.decode()
        #expect(decoded.id == 0x1234 && decoded.questionName == "altn.test" && decoded.questionType == 15)
        #expect(decoded.status == .success)
        #expect(
            decoded.records == [
                .mx(preference: 10, host: "mx1.altn.test"), .mx(preference: 20, host: "mx.provider.test"),
            ])
        #expect(decoded.ttlSeconds == 60)
        #expect(decoded.isAuthenticated)
    }

    @Test func `RFC 7505: null MX`() throws {
        var answer = AnswerBuilder("altn.test", .mx)
        answer.add(type: 15, [0, 0, 0])
        #expect(try answer.decode().records == [.mx(preference: 0, host: "")])
    }

    @Test func `addresses, texts and pointers`() throws {
        var v4 = AnswerBuilder("a.test", .a)
        v4.add(type: 1, [192, 0, 2, 1])
        v4.add(type: 1, class: 3, [192, 0, 2, 2])
        v4.add(owner: wire("other.test"), type: 1, [192, 0, 2, 3])
        #expect(try v4.decode().records == [.a(IPAddress("192.0.2.1")!)])
        var v6 = AnswerBuilder("a.test", .aaaa)
        v6.add(type: 28, IPAddress("2001:db8::1")!.bytes)
        #expect(try v6.decode().records == [.aaaa(IPAddress("2001:db8::1")!)])
        var text = AnswerBuilder("a.test", .txt)
        text.add(type: 16, [3] + Array("v=s".utf8) + [0] + [3] + Array("pf1".utf8))
        #expect(try text.decode().records == [.txt(Array("v=spf1".utf8))])
        var pointer = AnswerBuilder("1.2.0.192.in-addr.arpa", .ptr)
        pointer.add(type: 12, wire("Mail.a.test"))
        #expect(try pointer.decode().records == [.ptr("mail.a.test")])
    }

    @Test func `RFC 1034 §3.6.2: aliases are followed in any order`() throws {
        var answer = AnswerBuilder("www.test", .a)
        answer.add(owner: wire("c.test"), type: 1, ttl: 900, [192, 0, 2, 1])
        answer.add(owner: wire("b.test"), type: 5, ttl: 20, wire("C.test"))
        answer.add(type: 5, ttl: 50, wire("b.test"))
        let decoded = try answer.decode()
        #expect(decoded.records == [.a(IPAddress("192.0.2.1")!)])
        #expect(decoded.canonicalName == "c.test")
        #expect(decoded.ttlSeconds == 20)
    }

    @Test func `T-G2: alias circles and chains without end are faults`() throws {
        var circle = AnswerBuilder("a.test", .a)
        circle.add(type: 5, wire("b.test"))
        circle.add(owner: wire("b.test"), type: 5, wire("a.test"))
        #expect(throws: DNSFault.aliasLoop) { try circle.decode() }
        for length in [DNSAnswer.aliasesMax, DNSAnswer.aliasesMax + 1] {
            var chain = AnswerBuilder("n0.test", .a)
            for hop in 0..<length { chain.add(owner: wire("n\(hop).test"), type: 5, wire("n\(hop + 1).test")) }
            chain.add(owner: wire("n\(length).test"), type: 1, [192, 0, 2, 1])
            if length <= DNSAnswer.aliasesMax {
                #expect(try chain.decode().records.count == 1)
            } else {
                #expect(throws: DNSFault.aliasLoop) { try chain.decode() }
            }
        }
    }

    @Test func `RFC 2308: no data and no name`() throws {
        var noData = AnswerBuilder("a.test", .mx)
        noData.add(1, type: 6, ttl: 3600, soa(minimum: 120))
        #expect(try noData.decode().status == .noData)
        #expect(try noData.decode().ttlSeconds == 120)
        var noName = AnswerBuilder("a.test", .mx, flags: 0x8183)
        noName.add(type: 5, ttl: 30, wire("gone.test"))
        noName.add(1, type: 6, ttl: 60, soa(minimum: 900))
        #expect(try noName.decode().status == .nameError)
        #expect(try noName.decode().ttlSeconds == 30)
        #expect(try noName.decode().canonicalName == "gone.test")
        let bare = AnswerBuilder("a.test", .mx)
        #expect(try bare.decode().status == .noData)
        #expect(try bare.decode().ttlSeconds == 0)
        #expect(AnswerBuilder("a.test", .mx, flags: 0x8183).bytes.count == 24)
    }

    @Test func `T-G2: a referral is no answer`() throws {
        var referral = AnswerBuilder("a.test", .mx)
        referral.add(1, type: 2, wire("ns.a.test"))
        #expect(try referral.decode().status == .serverFailure)
    }

    @Test(arguments: [
        (UInt16(0x8182), DNSAnswer.Status.serverFailure), (0x8185, .refused), (0x8184, .failure(code: 4)),
        (0x8381, .truncated), (0x8380, .truncated), (0x8180, .noData), (0x8183, .nameError),
    ])
    func `RFC 1035 §4.1.1: response codes`(flags: UInt16, status: DNSAnswer.Status) throws {
        #expect(try AnswerBuilder("a.test", .mx, flags: flags).decode().status == status)
    }

    @Test func `a truncated answer is not read on`() throws {
        var answer = AnswerBuilder("a.test", .txt, flags: 0x8380)
        answer.add(type: 16, [UInt8](repeating: 0, count: 400))
        answer.bytes.removeLast(100)
        #expect(try answer.decode().status == .truncated)
    }

    @Test func `unusable records are counted, not believed`() throws {
        var answer = AnswerBuilder("a.test", .mx)
        answer.add(type: 15, [0, 10] + [4] + Array("m\nx1".utf8) + [0])
        answer.add(type: 15, [0, 10])
        answer.add(type: 15, [0, 10] + wire("mx.a.test") + [0])
        answer.add(type: 15, [0, 10, 0xc0, 0xff])
        let decoded = try answer.decode()
        #expect(decoded.status == .success)
        #expect(decoded.records == [] && decoded.unusableRecords == 4)
        var address = AnswerBuilder("a.test", .a)
        for length in [0, 3, 5, 16] { address.add(type: 1, [UInt8](repeating: 1, count: length)) }
        #expect(try address.decode().unusableRecords == 4)
        var text = AnswerBuilder("a.test", .txt)
        text.add(type: 16, [])
        text.add(type: 16, [5, 1])
        #expect(try text.decode().unusableRecords == 2)
        var alias = AnswerBuilder("a.test", .a)
        alias.add(type: 5, [3] + Array("a b".utf8) + [0])
        #expect(try alias.decode().unusableRecords == 1)
    }

    @Test func `a dot within a label is not a border of labels`() throws {
        var answer = AnswerBuilder("a.test", .a)
        answer.add(owner: [6] + Array("a.test".utf8) + [0], type: 1, [192, 0, 2, 1])
        #expect(try answer.decode().status == .noData)
    }

    @Test func `RFC 2181 §8: a TTL with the highest bit is zero`() throws {
        var answer = AnswerBuilder("a.test", .a)
        answer.add(type: 1, ttl: 0x8000_0001, [192, 0, 2, 1])
        #expect(try answer.decode().ttlSeconds == 0)
    }

    @Test func `RFC 1035 §4.1.4: pointers go back only`() throws {
        for owner: [UInt8] in [[0xc0, 24], [0xc0, 200], [1, 97, 0xc0, 24], [0x40, 0], [0x80, 0]] {
            var answer = AnswerBuilder("a.test", .a)  // The first record begins at 24.
            answer.add(owner: owner, type: 1, [192, 0, 2, 1])
            #expect(throws: DNSFault.badName) { try answer.decode() }
        }
        // Longer than 255 bytes by pointers to pointers.
        var answer = AnswerBuilder("a.test", .a)
        var previous = 12
        for _ in 0..<5 {
            let at = answer.bytes.count
            let label = [63] + [UInt8](repeating: 97, count: 63)
            answer.add(owner: label + [0xc0 | UInt8(previous >> 8), UInt8(truncatingIfNeeded: previous)], type: 1, [])
            previous = at
        }
        #expect(throws: DNSFault.badName) { try answer.decode() }
    }

    @Test func `the frame must hold`() {
        var answer = AnswerBuilder("a.test", .a)
        answer.add(type: 1, [192, 0, 2, 1])
        for count in 0..<answer.bytes.count {
            #expect(throws: DNSFault.tooShort) { try DNSAnswer.decode(Array(answer.bytes[..<count])) }
        }
        #expect(throws: DNSFault.notAnAnswer) { try AnswerBuilder("a.test", .a, flags: 0x0100).decode() }
        var many = answer.bytes
        many.replaceSubrange(6..<8, with: [0xff, 0xff])
        #expect(throws: DNSFault.tooManyRecords) { try DNSAnswer.decode(many) }
        var questions = answer.bytes
        questions[5] = 2
        #expect(throws: DNSFault.notAnAnswer) { try DNSAnswer.decode(questions) }
    }

    @Test func `no input traps`() throws {
        var seeds: [[UInt8]] = []
        var mx = AnswerBuilder("altn.test", .mx)
        mx.add(type: 5, wire("b.test"))
        mx.add(owner: wire("b.test"), type: 15, [0, 10] + [3] + Array("mx1".utf8) + [0xc0, 12])
        mx.add(1, type: 6, soa(minimum: 5))
        seeds.append(mx.bytes)
        var text = AnswerBuilder("altn.test", .txt)
        text.add(type: 16, [3, 1, 2, 3, 2, 1, 2])
        seeds.append(text.bytes)
        var random = SplitMix(state: 7)
        for round in 0..<20_000 {
            var bytes = seeds[round % 2]
            for _ in 0..<1 + random.next() % 4 {
                switch random.next() % 4 {
                case 0: bytes[Int(random.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.next())
                case 1: bytes[Int(random.next() % UInt64(bytes.count))] = 0xc0
                case 2: if bytes.count > 4 { bytes.removeLast(Int(random.next() % 4)) }
                default: bytes.insert(UInt8(random.next() % 64), at: Int(random.next() % UInt64(bytes.count)))
                }
            }
            if let answer = try? DNSAnswer.decode(bytes) { #expect(answer.records.count <= DNSAnswer.recordsMax) }
        }
        for _ in 0..<5_000 {
            let bytes = (0..<random.next() % 80).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            _ = try? DNSAnswer.decode([0, 0, 0x81, 0x80, 0, 1, 0, 3, 0, 1, 0, 0] + bytes)
            _ = try? DNSAnswer.decode(bytes)
        }
    }
}

/// A fixed stream of random numbers.
private struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = (state ^ state >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
}
