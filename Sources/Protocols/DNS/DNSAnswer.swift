/// Why bytes are no DNS answer that can be believed in any part. To the owner all of them are one more temporary
/// DNS error.
public enum DNSFault: Error, Sendable, Equatable {
    /// The message ends within a field.
    case tooShort
    /// A query, or not for exactly one question of class IN.
    case notAnAnswer
    /// A name with a forward or circular pointer, an unknown label type, or beyond 255 bytes.
    case badName
    /// More than ``DNSAnswer/recordsMax`` records.
    case tooManyRecords
    /// A chain of more than ``DNSAnswer/aliasesMax`` CNAME records, or a circle of them.
    case aliasLoop
}

/// What a resolver said to one question (RFC 1035 §4, RFC 2308), with CNAME records followed.
///
/// Names are in lower case, without the last dot; the root is the empty string, so a null MX (RFC 7505) is
/// `.mx(preference: 0, host: "")`. The additional section is not read: nothing in it was asked for.
public struct DNSAnswer: Sendable, Equatable {
    public enum Status: Sendable, Equatable {
        /// The name has records of the type. Those that no one could use (a name with bytes other than letters, digits,
        /// `-` and `_`, an address of a wrong length) are left out and counted in `unusableRecords`, so `records` may
        /// be empty: for MX that is an error, not permission to use the address (RFC 5321 §5.1).
        case success
        /// The name exists, without records of the type.
        case noData
        /// NXDOMAIN: the name, or the one that it is an alias of, does not exist.
        case nameError
        /// SERVFAIL, or a referral, which is no answer of a resolver. Try again later.
        case serverFailure
        case refused
        /// The TC bit: ask again over TCP. Nothing else is read.
        case truncated
        /// Another RCODE (RFC 6895 §2.3).
        case failure(code: UInt8)
    }

    public enum Record: Sendable, Hashable {
        case a(IPAddress)
        case aaaa(IPAddress)
        case mx(preference: UInt16, host: String)
        /// The character-strings of one record, joined without anything between (RFC 7208 §3.3).
        case txt([UInt8])
        case cname(String)
        case ptr(String)
    }

    /// Most records of the answer and authority sections that are read.
    public static let recordsMax = 512
    private static let nameServerType: UInt16 = 2
    /// Most CNAME records that are followed.
    public static let aliasesMax = 8

    public let id: UInt16
    /// The name and type that the message says it answers. The owner compares them with what it asked.
    public let questionName: String
    public let questionType: UInt16
    public let status: Status
    /// Of the question's type, in the order of the message.
    public let records: [Record]
    public let unusableRecords: Int
    /// The name that the records belong to: the question's, or where its aliases end.
    public let canonicalName: String
    /// How long this may be kept: the least TTL on the way to the records; without records what the zone says about
    /// that (RFC 2308 §5), 0 if it says nothing.
    public let ttlSeconds: UInt32
    /// The AD bit: the resolver has validated the answer (RFC 4035 §3.2.3). To be believed only over a safe way to it.
    public let isAuthenticated: Bool

    public init(
        id: UInt16, questionName: String, questionType: UInt16, status: Status, records: [Record],
        unusableRecords: Int = 0, canonicalName: String, ttlSeconds: UInt32, isAuthenticated: Bool
    ) {
        self.id = id
        self.questionName = questionName
        self.questionType = questionType
        self.status = status
        self.records = records
        self.unusableRecords = unusableRecords
        self.canonicalName = canonicalName
        self.ttlSeconds = ttlSeconds
        self.isAuthenticated = isAuthenticated
    }

    /// Reads a whole answer of at most 65,535 bytes. No input makes it trap or work without bound.
    public static func decode(_ message: [UInt8]) throws(DNSFault) -> DNSAnswer {
        try message.withUnsafeBytes { bytes in Result { () throws(DNSFault) in try decode(bytes) } }.get()
    }

    /// Reads a whole answer in place.
    public static func decode(_ message: UnsafeRawBufferPointer) throws(DNSFault) -> DNSAnswer {
        var reader = DNSReader(message)
        let id = try reader.number16()
        let flags = try reader.number16()
        let questions = try reader.number16()
        let answers = Int(try reader.number16())
        let authorities = Int(try reader.number16())
        _ = try reader.number16()
        guard flags & 0x8000 != 0, questions == 1 else { throw .notAnAnswer }
        let question = try reader.name()
        let type = try reader.number16()
        guard try reader.number16() == 1 else { throw .notAnAnswer }

        var section = AnswerSection(questionType: type)
        var negativeTTL: UInt32?
        var isReferral = false
        let isTruncated = flags & 0x0200 != 0
        if !isTruncated {
            guard answers + authorities <= recordsMax else { throw .tooManyRecords }
            for _ in 0..<answers { section.add(try reader.record(), &reader) }
            for _ in 0..<authorities {
                let record = try reader.record()
                if record.type == DNSType.soa.rawValue {
                    if negativeTTL == nil, let minimum = reader.minimumOfSOA(record) {
                        negativeTTL = min(minimum, record.ttl)
                    }
                } else if record.type == nameServerType {
                    isReferral = true
                }
            }
        }
        let chain = try section.follow(from: question.text)
        let status: Status =
            switch flags & 15 {
            case _ where isTruncated: .truncated
            case 0 where !chain.records.isEmpty || chain.unusable > 0: .success
            // Name servers without an SOA, from one who has no authority over the name (RFC 2308 §2.2).
            case 0 where isReferral && negativeTTL == nil && flags & 0x0400 == 0: .serverFailure
            case 0: .noData
            case 2: .serverFailure
            case 3: .nameError
            case 5: .refused
            case let code: .failure(code: UInt8(code))
            }
        let ttl: UInt32 =
            switch status {
            case .success: chain.ttl
            case .noData, .nameError: min(chain.ttl, negativeTTL ?? 0)
            default: 0
            }
        return DNSAnswer(
            id: id, questionName: question.text, questionType: type, status: status,
            records: status == .success ? chain.records : [], unusableRecords: chain.unusable,
            canonicalName: chain.name, ttlSeconds: ttl, isAuthenticated: flags & 0x0020 != 0)
    }
}

/// The records of an answer section that may matter: CNAMEs and those of the question's type.
private struct AnswerSection {
    let questionType: UInt16
    var aliases: [(owner: String, target: String?, ttl: UInt32)] = []
    /// nil: unusable.
    var records: [(owner: String, record: DNSAnswer.Record?, ttl: UInt32)] = []

    mutating func add(_ raw: DNSReader.RawRecord, _ reader: inout DNSReader) {
        guard raw.class == 1 else { return }
        if raw.type == questionType {
            records.append((raw.owner.text, reader.decode(raw), raw.ttl))
        } else if raw.type == DNSType.cname.rawValue {
            aliases.append((raw.owner.text, reader.onlyName(raw)?.hostText, raw.ttl))
        }
    }

    struct Chain {
        var name: String
        var ttl = UInt32.max
        var records: [DNSAnswer.Record] = []
        var unusable = 0
    }

    func follow(from question: String) throws(DNSFault) -> Chain {
        var chain = Chain(name: question)
        var followed = 0
        while let alias = aliases.first(where: { $0.owner == chain.name }) {
            guard followed < DNSAnswer.aliasesMax else { throw .aliasLoop }
            followed += 1
            chain.ttl = min(chain.ttl, alias.ttl)
            guard let target = alias.target else {
                chain.unusable += 1
                break
            }
            chain.name = target
        }
        for (owner, record, ttl) in records where owner == chain.name {
            chain.ttl = min(chain.ttl, ttl)
            if let record { chain.records.append(record) } else { chain.unusable += 1 }
        }
        return chain
    }
}

/// Reads a DNS message. Never beyond its end, and never more than 255 bytes and 64 jumps for one name.
private struct DNSReader {
    struct Name {
        /// Lower case, labels joined by dots.
        let text: String
        /// All its bytes are those of host names.
        let isHost: Bool

        var hostText: String? { isHost ? text : nil }
    }

    struct RawRecord {
        let owner: Name
        let type: UInt16
        let `class`: UInt16
        /// Seconds; 0 if its highest bit is set (RFC 2181 §8).
        let ttl: UInt32
        let data: Range<Int>
    }

    /// More than any server's compression makes: each label of a name in a record of its own is 127.
    private static let jumpsMax = 128

    private let bytes: UnsafeRawBufferPointer
    private var at = 0
    private var labels: [UInt8] = []

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func number16() throws(DNSFault) -> UInt16 {
        guard bytes.count - at >= 2 else { throw .tooShort }
        at += 2
        return UInt16(bytes[at - 2]) << 8 | UInt16(bytes[at - 1])
    }

    private mutating func number32() throws(DNSFault) -> UInt32 {
        let high = try number16()
        return UInt32(high) << 16 | UInt32(try number16())
    }

    /// The name at `at`, and `at` behind it (RFC 1035 §4.1.4).
    mutating func name() throws(DNSFault) -> Name {
        labels.removeAll(keepingCapacity: true)
        var isHost = true
        var place = at
        // A pointer must point before the labels it continues: so each jump goes back, and circles are impossible.
        var segmentStart = at
        var end: Int?
        var jumps = 0
        var wireBytes = 1
        while true {
            guard place < bytes.count else { throw .tooShort }
            let length = Int(bytes[place])
            switch length >> 6 {
            case 0 where length == 0:
                at = end ?? place + 1
                return Name(text: String(decoding: labels, as: UTF8.self), isHost: isHost)
            case 0:
                guard bytes.count - place > length else { throw .tooShort }
                wireBytes += length + 1
                guard wireBytes <= DNSQuery.nameMaxBytes else { throw .badName }
                if !labels.isEmpty { labels.append(UInt8(ascii: ".")) }
                for byte in bytes[place + 1..<place + 1 + length] {
                    if !DNSQuery.isHostByte(byte) {
                        isHost = false
                        // So that a dot within a label makes it no other name.
                        if byte == UInt8(ascii: ".") { labels.append(UInt8(ascii: "\\")) }
                    }
                    labels.append(byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte)
                }
                place += length + 1
            case 3:
                guard place + 1 < bytes.count else { throw .tooShort }
                let target = (length & 0x3f) << 8 | Int(bytes[place + 1])
                guard target < segmentStart, jumps < Self.jumpsMax else { throw .badName }
                jumps += 1
                if end == nil { end = place + 2 }
                place = target
                segmentStart = target
            default: throw .badName
            }
        }
    }

    mutating func record() throws(DNSFault) -> RawRecord {
        let owner = try name()
        let type = try number16()
        let `class` = try number16()
        let ttl = try number32()
        let length = Int(try number16())
        guard bytes.count - at >= length else { throw .tooShort }
        at += length
        return RawRecord(
            owner: owner, type: type, class: `class`, ttl: ttl >> 31 == 0 ? ttl : 0, data: at - length..<at)
    }

    // The data of a record. What does not fill its length exactly is unusable, which is nil here: the record's frame
    // is good, so the others can still be read.

    mutating func decode(_ record: RawRecord) -> DNSAnswer.Record? {
        let data = record.data
        switch DNSType(rawValue: record.type) {
        case .a where data.count == 4: return IPAddress(bytes: bytes[data]).map { .a($0) }
        case .aaaa where data.count == 16: return IPAddress(bytes: bytes[data]).map { .aaaa($0) }
        case .mx where data.count >= 3:
            let preference = UInt16(bytes[data.lowerBound]) << 8 | UInt16(bytes[data.lowerBound + 1])
            let host = name(filling: data.dropFirst(2))?.hostText
            return host.map { .mx(preference: preference, host: $0) }
        case .cname: return onlyName(record)?.hostText.map { .cname($0) }
        case .ptr: return onlyName(record)?.hostText.map { .ptr($0) }
        case .txt: return strings(data).map { .txt($0) }
        default: return nil
        }
    }

    mutating func onlyName(_ record: RawRecord) -> Name? { name(filling: record.data) }

    /// MINIMUM, behind two names and four numbers (RFC 1035 §3.3.13).
    mutating func minimumOfSOA(_ record: RawRecord) -> UInt32? {
        let behind = at
        defer { at = behind }
        at = record.data.lowerBound
        guard (try? name()) != nil, (try? name()) != nil, record.data.upperBound - at == 20 else { return nil }
        at += 16
        guard let minimum = try? number32() else { return nil }
        return minimum >> 31 == 0 ? minimum : 0
    }

    private mutating func name(filling data: Range<Int>) -> Name? {
        let behind = at
        defer { at = behind }
        at = data.lowerBound
        guard !data.isEmpty, let name = try? name(), at == data.upperBound else { return nil }
        return name
    }

    private func strings(_ data: Range<Int>) -> [UInt8]? {
        var joined: [UInt8] = []
        var place = data.lowerBound
        while place < data.upperBound {
            let length = Int(bytes[place])
            guard data.upperBound - place > length else { return nil }
            joined += bytes[place + 1..<place + 1 + length]
            place += length + 1
        }
        return data.isEmpty ? nil : joined
    }
}
