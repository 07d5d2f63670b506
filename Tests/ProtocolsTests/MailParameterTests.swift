import Testing

@testable import Protocols

@Suite struct MailParameterTests {
    private func mail(_ parameters: String) -> Result<MailParameters, Code> {
        parse(parameters) { cursor throws(SMTPRefusal) in try cursor.mailParameters() }
    }

    private func recipient(_ parameters: String, smtpUTF8: Bool = false) -> Result<RecipientParameters, Code> {
        parse(parameters) { cursor throws(SMTPRefusal) in try cursor.recipientParameters(smtpUTF8: smtpUTF8) }
    }

    private struct Code: Error, Equatable {
        let code: Int
        init(_ code: Int) { self.code = code }
    }

    private func parse<Value>(
        _ text: String, _ read: (inout SMTPLineCursor) throws(SMTPRefusal) -> Value
    ) -> Result<Value, Code> {
        [UInt8](text.utf8).withUnsafeBytes { bytes in
            var cursor = SMTPLineCursor(bytes)
            do throws(SMTPRefusal) {
                return .success(try read(&cursor))
            } catch {
                return .failure(Code(error.reply.code))
            }
        }
    }

    @Test func mailParameters() throws {
        var expected = MailParameters()
        #expect(mail("") == .success(expected))
        #expect(mail("   ") == .success(expected))
        expected.size = 1_000
        expected.body = .eightBitMIME
        expected.smtpUTF8 = true
        expected.ret = .headers
        expected.envid = "QQ314159+2B"
        #expect(mail(" SIZE=1000 body=8bitMIME  SMTPUTF8 RET=HDRS ENVID=QQ314159+2B") == .success(expected))
        #expect(try mail(" BODY=7BIT RET=FULL").get().body == .sevenBit)
        #expect(try mail(" SIZE=99999999999999999999").get().size == Int.max)
        #expect(try mail(" SIZE=\(Int.max)").get().size == Int.max)
        #expect(try mail(" SIZE=9223372036854775808").get().size == Int.max)
        for bad in [
            " SIZE", " SIZE=", " SIZE=-1", " SIZE=1x", " SIZE=1 SIZE=1", " SIZE=999999999999999999999", " BODY=9BIT",
            " BODY", " SMTPUTF8=1", " RET=NONE", " ENVID=a+4", " ENVID=a+4G", " ENVID=a=b", " ENVID=é",
            " ENVID=\(String(repeating: "a", count: 101))", " =1", "SIZE=1", " ENVID=a ENVID=a",
        ] {
            #expect(mail(bad) == .failure(Code(501)), "\(bad)")
        }
        for unknown in [" X", " AUTH=<>", " BODY=BINARYMIME", " NOTIFY=NEVER", " SIZESIZESIZE=1", " é=1"] {
            #expect(mail(unknown) == .failure(Code(555)), "\(unknown)")
        }
    }

    /// RFC 3461 §4.1, §4.2; RFC 6533 §3.
    @Test func recipientParameters() throws {
        #expect(try recipient("").get().notify == nil)
        #expect(try recipient(" NOTIFY=never").get().notify == .never)
        #expect(try recipient(" NOTIFY=SUCCESS,FAILURE,DELAY").get().notify == [.success, .failure, .delay])
        #expect(try recipient(" NOTIFY=delay ORCPT=rfc822;Bob+2B@x").get().orcpt == "rfc822;Bob+2B@x")
        let xtext = "utf-8;\\x{3B4}@x"
        #expect(try recipient(" ORCPT=\(xtext)").get().orcpt == xtext)
        #expect(try recipient(" ORCPT=UTF-8;δ@x", smtpUTF8: true).get().orcpt == "UTF-8;δ@x")
        for bad in [
            " NOTIFY=", " NOTIFY=NEVER,DELAY", " NOTIFY=,DELAY", " NOTIFY=DELAY,", " NOTIFY=X", " ORCPT=bob@x",
            " ORCPT=;x", " ORCPT=rfc822;", " ORCPT=rfc822;a+", " ORCPT=utf-8;δ@x", " ORCPT=rfc822;δ@x",
            " ORCPT=utf-8;\\x{}", " ORCPT=utf-8;\\x", " ORCPT=rfc 822;x", " NOTIFY=DELAY NOTIFY=DELAY",
            " ORCPT=rfc822;\(String(repeating: "a", count: 500))",
        ] {
            guard case .failure = recipient(bad) else {
                Issue.record("\(bad)")
                continue
            }
        }
        guard case .failure = recipient(" ORCPT=rfc822;δ@x", smtpUTF8: true) else {
            Issue.record("8-bit xtext")
            return
        }
    }

    @Test func declaredSizeIsChecked() {
        let owner = SMTPServerOwner.started()
        owner.send("MAIL FROM:<a@b> SIZE=52428801\r\nMAIL FROM:<a@b> SIZE=52428800\r\n")
        #expect(owner.codes() == ["552", "250"])
    }
}
