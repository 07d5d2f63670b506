/// A reply of an SMTP server: code, enhanced status (RFC 2034, RFC 3463), text.
public struct Reply: Hashable, Sendable, CustomStringConvertible {
    /// 200...599.
    public let code: Int
    /// `2.1.0`, or nil where the RFC has none (greeting, EHLO, 354).
    public let status: EnhancedStatus?
    /// Without CR and LF. Of a reply that came from a peer: its lines joined by a space.
    public let text: String

    public init(_ code: Int, _ status: EnhancedStatus?, _ text: String) {
        self.code = code
        self.status = status
        self.text = text
    }

    public var isPositive: Bool { code < 400 }
    public var isTransient: Bool { (400..<500).contains(code) }
    public var isPermanent: Bool { code >= 500 }

    /// `250 2.1.0 ok`, without CRLF.
    public var description: String {
        guard let status else { return "\(code) \(text)" }
        return "\(code) \(status) \(text)"
    }

    /// One reply line with its CRLF.
    public func write(into output: inout ByteOutput) {
        output.append(number: code)
        output.append(UInt8(ascii: " "))
        if let status {
            output.append(number: status.class)
            output.append(UInt8(ascii: "."))
            output.append(number: status.subject)
            output.append(UInt8(ascii: "."))
            output.append(number: status.detail)
            output.append(UInt8(ascii: " "))
        }
        output.append(text: text)
        output.append("\r\n")
    }
}

/// `class.subject.detail` (RFC 3463 §2).
public struct EnhancedStatus: Hashable, Sendable, CustomStringConvertible {
    public let `class`: Int
    public let subject: Int
    public let detail: Int

    public init(_ class: Int, _ subject: Int, _ detail: Int) {
        self.class = `class`
        self.subject = subject
        self.detail = detail
    }

    public var description: String { "\(self.class).\(subject).\(detail)" }
}
