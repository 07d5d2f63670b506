/// How a client session behaves towards its peer.
public struct SMTPClientSettings: Sendable {
    /// What is done about STARTTLS (RFC 3207).
    public enum TLSUse: Sendable, CaseIterable {
        /// STARTTLS is not used even where offered.
        case never
        /// STARTTLS where offered; in the clear where not, or where the peer refuses it.
        case opportunistic
        /// No mail without TLS; there is no way back from it.
        case required
    }

    /// Behind EHLO and HELO: our name, or our address as a literal (RFC 5321 §4.1.1.1).
    public var helloName: String
    /// Without effect where TLS is up from the start.
    public var tls: TLSUse
    /// TLS is up before the greeting, as on port 465 (RFC 8314 §3.3).
    public var isImplicitTLS = false
    /// BDAT (RFC 3030) where the peer offers CHUNKING.
    public var usesChunking = true
    /// RFC 2920 where the peer offers it.
    public var usesPipelining = true
    /// Bytes. Content up to this size goes out with its envelope, before the recipients have been answered, where the
    /// peer offers PIPELINING and CHUNKING: one round trip a message, at the price of content sent in vain when all
    /// are refused.
    public var eagerContentMaxBytes = 65_536

    /// With all else at its standard.
    public init(helloName: String, tls: TLSUse) {
        self.helloName = helloName
        self.tls = tls
    }
}

/// What travels in one transaction. The texts are ready for the wire, and hold no control bytes.
public struct SMTPClientEnvelope: Sendable {
    /// One forward-path with its parameters.
    public struct Recipient: Sendable {
        /// Without angle brackets.
        public var path: String
        /// As behind `NOTIFY=` (RFC 3461 §4.1); nil where the sender gave none.
        public var notify: String?
        /// As behind `ORCPT=` (RFC 3461 §4.2), in its xtext.
        public var orcpt: String?

        /// The texts as they go out.
        public init(path: String, notify: String? = nil, orcpt: String? = nil) {
            self.path = path
            self.notify = notify
            self.orcpt = orcpt
        }
    }

    /// Without angle brackets; empty for the null reverse-path.
    public var reversePath: String
    /// At least one.
    public var recipients: [Recipient]
    /// Exact bytes of the raw content, unstuffed, without the terminator.
    public var size: Int
    /// The content has bytes over 127.
    public var is8Bit = false
    /// A path or the header section needs it (RFC 6531 §3.4).
    public var needsSMTPUTF8 = false
    /// `FULL` or `HDRS` (RFC 3461 §4.3).
    public var ret: String?
    /// As behind `ENVID=` (RFC 3461 §4.4), in its xtext.
    public var envid: String?
    /// Lines of the content that begin with a dot: with none DATA needs no stuffing.
    public var linesBeginningWithDot = 0

    /// Without parameters: 7-bit content, no line of which begins with a dot.
    public init(reversePath: String, recipients: [Recipient], size: Int) {
        self.reversePath = reversePath
        self.recipients = recipients
        self.size = size
    }
}

/// What the peer offered in its answer to EHLO (RFC 5321 §4.1.1.1). After HELO: nothing.
public struct SMTPPeerCapabilities: Hashable, Sendable {
    /// RFC 2920.
    public var pipelining = false
    /// RFC 3030.
    public var chunking = false
    /// RFC 1870: nil where SIZE is not offered, 0 where there is no fixed maximum; else bytes.
    public var sizeMax: Int?
    /// RFC 3207.
    public var startTLS = false
    /// RFC 6152.
    public var eightBitMIME = false
    /// RFC 3030 §3; noted only.
    public var binaryMIME = false
    /// RFC 6531.
    public var smtpUTF8 = false
    /// RFC 3461.
    public var dsn = false
    /// RFC 2034; noted only, as a reply shows whether it has one.
    public var enhancedStatusCodes = false
    /// RFC 9422: recipients in one transaction.
    public var recipientsMax: Int?
    /// RFC 9422: transactions in one session.
    public var transactionsMax: Int?

    /// Nothing is offered.
    public init() {}

    /// Notes one line of the answer, without its code. Unknown and malformed offers are passed over.
    mutating func note(_ line: UnsafeRawBufferPointer) {
        var words = line.split(separator: UInt8(ascii: " ")).makeIterator()
        guard let keyword = words.next() else { return }
        switch Self.upperCase(keyword) {
        case "PIPELINING": pipelining = true
        case "CHUNKING": chunking = true
        case "SIZE": sizeMax = words.next().map(Self.number) ?? 0
        case "STARTTLS": startTLS = true
        case "8BITMIME": eightBitMIME = true
        case "BINARYMIME": binaryMIME = true
        case "SMTPUTF8": smtpUTF8 = true
        case "DSN": dsn = true
        case "ENHANCEDSTATUSCODES": enhancedStatusCodes = true
        case "LIMITS":
            while let word = words.next() {
                guard let equals = word.firstIndex(of: UInt8(ascii: "=")) else { continue }
                let value = Self.number(word[(equals + 1)...])
                guard value > 0 else { continue }
                switch Self.upperCase(word[..<equals]) {
                case "RCPTMAX": recipientsMax = value
                case "MAILMAX": transactionsMax = value
                default: break
                }
            }
        default: break
        }
    }

    /// ASCII letters only.
    private static func upperCase(_ word: some Sequence<UInt8>) -> String {
        String(decoding: word.map { (0x61...0x7a).contains($0) ? $0 - 0x20 : $0 }, as: UTF8.self)
    }

    /// 0 for what is no number or does not fit, which means "no limit known" in all of its uses.
    private static func number(_ digits: some Collection<UInt8>) -> Int {
        var value = 0
        for digit in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit), value < 1_000_000_000_000_000 else {
                return 0
            }
            value = value * 10 + Int(digit - UInt8(ascii: "0"))
        }
        return value
    }
}
