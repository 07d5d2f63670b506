/// The protocol keyword of a `Received` field (RFC 3848 §1, RFC 6531 §4.3).
public struct TransmissionProtocol: Sendable, Hashable {
    /// The client said EHLO.
    public var isExtended: Bool
    public var isTLS: Bool
    public var isAuthenticated: Bool
    /// The transaction had the SMTPUTF8 parameter.
    public var isInternational: Bool

    public init(isExtended: Bool, isTLS: Bool = false, isAuthenticated: Bool = false, isInternational: Bool = false) {
        self.isExtended = isExtended
        self.isTLS = isTLS
        self.isAuthenticated = isAuthenticated
        self.isInternational = isInternational
    }

    public var keyword: StaticString {
        guard isExtended else { return "SMTP" }
        return switch (isInternational, isTLS, isAuthenticated) {
        case (false, false, false): "ESMTP"
        case (false, false, true): "ESMTPA"
        case (false, true, false): "ESMTPS"
        case (false, true, true): "ESMTPSA"
        case (true, false, false): "UTF8SMTP"
        case (true, false, true): "UTF8SMTPA"
        case (true, true, false): "UTF8SMTPS"
        case (true, true, true): "UTF8SMTPSA"
        }
    }
}

/// The `Received` field that a server puts before a message it takes (RFC 5321 §4.4).
///
/// ```text
/// Received: from mail.example.org (out3.example.org [192.0.2.1])
///     by mx1.provider.test with ESMTPS id 3fG7x2
///     (TLSv1.3 TLS_AES_256_GCM_SHA384)
///     for <user@altn.test>; Tue, 24 Nov 2026 14:20:00 +0000
/// ```
///
/// Whatever the client chose is cut to a length and cleaned, so that it can't end the field, a comment or a clause.
public struct TraceHeader: Sendable {
    /// Most bytes of a host name that are written (RFC 5321 §4.5.3.1.2).
    static let hostMaxBytes = 255
    /// A longer recipient address gets no `for` clause (RFC 5321 §4.5.3.1.3 has 256 for a path).
    static let recipientMaxBytes = 320
    /// Lines are folded here when a word permits.
    private static let lineBytes = 78

    /// What the client said in EHLO or HELO.
    public var helloName: String
    /// The client's name by DNS, if there is one.
    public var clientName: String?
    public var clientAddress: IPAddress
    /// This server's name.
    public var hostname: String
    public var transmission: TransmissionProtocol
    public var queueID: String
    /// The forward-path's address, only when the transaction has exactly one recipient: naming one of several would
    /// tell the others of it (RFC 5321 §7.6).
    public var onlyRecipient: String?
    /// Protocol version and cipher, `TLSv1.3 TLS_AES_256_GCM_SHA384`; nil without TLS.
    public var tlsDescription: String?
    public var unixSeconds: Int64

    public init(
        helloName: String, clientName: String?, clientAddress: IPAddress, hostname: String,
        transmission: TransmissionProtocol, queueID: String, onlyRecipient: String?, tlsDescription: String?,
        unixSeconds: Int64
    ) {
        self.helloName = helloName
        self.clientName = clientName
        self.clientAddress = clientAddress
        self.hostname = hostname
        self.transmission = transmission
        self.queueID = queueID
        self.onlyRecipient = onlyRecipient
        self.tlsDescription = tlsDescription
        self.unixSeconds = unixSeconds
    }

    /// Appends the field with its last CRLF.
    public func write(into output: inout ByteOutput) {
        output.reserve(512)
        var lineStart = output.count
        output.append("Received: from ")
        Self.append(name: helloName, to: &output)
        let clientBytes = min(clientName?.utf8.count ?? 0, Self.hostMaxBytes) + (clientAddress.isV4 ? 21 : 56)
        if output.count - lineStart + clientBytes > Self.lineBytes {
            output.append("\r\n\t(")
        } else {
            output.append(" (")
        }
        if let clientName, !clientName.isEmpty {
            Self.append(name: clientName, to: &output)
            output.append(" ")
        }
        Self.append(literal: clientAddress, to: &output)
        output.append(")\r\n")
        lineStart = output.count
        output.append("\tby ")
        Self.append(name: hostname, to: &output)
        let keyword = transmission.keyword
        let withBytes = keyword.utf8CodeUnitCount + queueID.utf8.count + 10
        if output.count - lineStart + withBytes > Self.lineBytes {
            output.append("\r\n\twith ")
        } else {
            output.append(" with ")
        }
        output.append(keyword)
        output.append(" id ")
        Self.append(name: queueID, to: &output)
        if let tlsDescription {
            output.append("\r\n\t(")
            Self.append(comment: tlsDescription, to: &output)
            output.append(")")
        }
        if let onlyRecipient, mayName(onlyRecipient) {
            output.append("\r\n")
            lineStart = output.count
            output.append("\tfor <")
            output.append(text: onlyRecipient)
            output.append(">;")
            if output.count - lineStart + 32 > Self.lineBytes {
                output.append("\r\n\t")
            } else {
                output.append(" ")
            }
        } else {
            output.append(";\r\n\t")
        }
        MailDate.write(unixSeconds: unixSeconds, into: &output)
        output.append("\r\n")
    }

    /// An address of another length, with control characters, or in need of an encoding that the transaction has not
    /// got (RFC 6531 §3.7.3), is left out.
    private func mayName(_ address: String) -> Bool {
        (1...Self.recipientMaxBytes).contains(address.utf8.count)
            && address.utf8.allSatisfy { $0 >= 32 && $0 != 127 && ($0 < 127 || transmission.isInternational) }
    }

    /// Without a String for the usual IPv4 address: this is written for every message.
    private static func append(literal address: IPAddress, to output: inout ByteOutput) {
        output.append(UInt8(ascii: "["))
        if address.isV4 {
            for shift: UInt32 in [24, 16, 8, 0] {
                output.append(number: Int(address.v4 >> shift & 255))
                output.append(shift == 0 ? UInt8(ascii: "]") : UInt8(ascii: "."))
            }
        } else {
            output.append(text: address.literalText)
            output.append(UInt8(ascii: "]"))
        }
    }

    /// A host name, address literal or id, with `?` for what none of them has.
    private static func append(name: String, to output: inout ByteOutput) {
        if name.isEmpty { output.append("unknown") }
        for byte in name.utf8.prefix(hostMaxBytes) {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: ":"), UInt8(ascii: "["), UInt8(ascii: "]"):
                output.append(byte)
            default: output.append(UInt8(ascii: "?"))
            }
        }
    }

    private static func append(comment: String, to output: inout ByteOutput) {
        for byte in comment.utf8.prefix(hostMaxBytes) {
            switch byte {
            case UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "\\"), 0..<32, 127...:
                output.append(UInt8(ascii: "?"))
            default: output.append(byte)
            }
        }
    }
}
