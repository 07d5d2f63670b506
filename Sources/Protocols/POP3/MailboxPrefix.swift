/// What a message begins with when it is fetched from a mailbox: its envelope, which would be lost otherwise
/// (RFC 5321 §4.4): `Return-Path`, and one `Delivered-To` for each recipient.
///
/// ```text
/// Return-Path: <sender@a.example>
/// Delivered-To: one@b.example
/// Delivered-To: two@b.example
/// …the content as it was stored
/// ```
///
/// No line of it begins with a dot. What was shown once must be shown again, so it depends on the envelope alone.
public struct MailboxPrefix: Sendable {
    /// Without brackets; empty for `<>`.
    private let reversePath: String
    private let recipients: [String]

    /// Addresses as they stood in the envelope, without brackets.
    public init(reversePath: ReversePath, recipients: [MailAddress]) {
        self.init(reversePath: reversePath.description, recipients: recipients.map(\.description))
    }

    /// - Texts of ours, checked when they came in: without control bytes.
    public init(reversePath: String, recipients: [String]) {
        precondition(([reversePath] + recipients).allSatisfy { !$0.utf8.contains { $0 < 32 || $0 == 127 } })
        (self.reversePath, self.recipients) = (reversePath, recipients)
    }

    /// Bytes that `write` appends.
    public var count: Int {
        let fixed = "Return-Path: <>\r\n".utf8.count + reversePath.utf8.count
        return recipients.reduce(fixed) { $0 + "Delivered-To: \r\n".utf8.count + $1.utf8.count }
    }

    public func write(into output: inout ByteOutput) {
        output.reserve(count)
        output.append("Return-Path: <")
        output.append(text: reversePath)
        output.append(">\r\n")
        for recipient in recipients {
            output.append("Delivered-To: ")
            output.append(text: recipient)
            output.append("\r\n")
        }
    }

    /// Octets of the whole message as it is presented (RFC 1939 §11), for `POP3Maildrop`.
    public func presentedSize(contentSize: Int, contentEndsWithCRLF: Bool) -> Int {
        count + contentSize + (contentEndsWithCRLF ? 0 : 2)
    }
}
