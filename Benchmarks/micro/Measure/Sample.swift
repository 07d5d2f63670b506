/// A message as most are: a dozen header fields, text in lines of 76 characters, 10 KiB in all, CRLF everywhere.
enum Sample {
    static let sender = "bounce-7f3a@lists.sender.example"
    static let domain = domain(17)
    /// Longer than what a `String` keeps in itself, as most are.
    static func domain(_ number: Int) -> String { "customer\(number).example.test" }
    static let recipient = "firstname.lastname@\(domain)"

    static let content: [UInt8] = {
        var text = """
            Received: from out3.sender.example (out3.sender.example [192.0.2.77])
            \tby relay.sender.example (Mailer) with ESMTPS id 4F1C2A0B33
            \tfor <\(recipient)>; Mon, 30 Nov 2026 09:12:44 +0000 (UTC)
            DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example; s=s1;
            \th=from:to:subject:date:message-id; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;
            \tb=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeeruD00lszZVoG4ZHRNiYzRdzdVyOfA
            From: "Newsletter of the week" <news@sender.example>
            To: Firstname Lastname <\(recipient)>
            Subject: What happened last week, and what comes next
            Date: Mon, 30 Nov 2026 09:12:43 +0000
            Message-ID: <20261130091243.4F1C2A0B33@sender.example>
            MIME-Version: 1.0
            Content-Type: text/plain; charset=utf-8
            Content-Transfer-Encoding: 8bit
            List-Unsubscribe: <https://sender.example/u/7f3a>
            X-Mailer: Mailer 5.2.1

            """.split(separator: "\n", omittingEmptySubsequences: false).joined(separator: "\r\n")
        var line = 0
        while text.utf8.count < 10_240 {
            text += "\(line) The quick brown fox jumps over the lazy dog, and sphinx of quartz, judge my vow".prefix(76)
            text += "\r\n"
            line += 1
        }
        return Array(text.utf8)
    }()

    /// What a client pipelines in front of the content.
    static let envelope = Array(
        "MAIL FROM:<\(sender)> SIZE=\(content.count) BODY=8BITMIME\r\nRCPT TO:<\(recipient)>\r\nDATA\r\n".utf8)
    static let data = content + Array(".\r\n".utf8)
}

extension Array where Element == UInt8 {
    /// A copy that never moves and is never freed, as input from a socket is seen.
    var fixed: UnsafeRawBufferPointer {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
        copy.copyBytes(from: self)
        return UnsafeRawBufferPointer(copy)
    }
}
