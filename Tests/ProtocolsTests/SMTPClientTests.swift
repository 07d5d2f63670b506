import Testing

@testable import Protocols

private let postfix = """
    250-mx.example
    250-PIPELINING
    250-SIZE 10240000
    250-VRFY
    250-ETRN
    250-STARTTLS
    250-ENHANCEDSTATUSCODES
    250-8BITMIME
    250-DSN
    250-SMTPUTF8
    250 CHUNKING
    """
private let postfixData = """
    250-mx.example
    250-PIPELINING
    250-SIZE 10240000
    250-8BITMIME
    250 DSN
    """
private let exim = """
    250-mx.example Hello gw.example [192.0.2.1]
    250-SIZE 52428800
    250-8BITMIME
    250-PIPELINING
    250-CHUNKING
    250 HELP
    """
private let lockStep = """
    250-mx.example
    250 SIZE
    """
private let greeting = "220 mx.example ESMTP"

// MARK: - Ways of sending

@Test func eagerBDATTakesOneRoundTrip() {
    checkClient(
        [ClientMessage("a@x.example", "b@x.example")],
        peer: [
            greeting, postfix, "250 2.1.0 Ok\n250 2.1.5 Ok\n250 2.1.5 Ok\n250 2.0.0 Ok: queued as 4", "221 2.0.0 Bye",
        ],
        client: [
            "EHLO gw.example",
            """
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<a@x.example>
            RCPT TO:<b@x.example>
            BDAT 7 LAST
            hello
            QUIT
            """, "", "",
        ],
        events: [
            "ready", "content 1", "rcpt 1.0: 250 2.1.5 Ok", "rcpt 1.1: 250 2.1.5 Ok",
            "answered 1: 250 2.0.0 Ok: queued as 4 (endOfContent); 250 2.0.0 Ok: queued as 4 (endOfContent) dsn",
            "closed 221 2.0.0 Bye",
        ])
}

@Test func pipelinedDATAFollowsTheLastMessagesContent() {
    checkClient(
        [
            ClientMessage("a@x.example"), ClientMessage("b@x.example", content: "two\r\n"),
            ClientMessage("c@x.example", content: ""),
        ],
        peer: [
            greeting, postfixData, "250 ok\n250 ok\n354 go", "250 one\n250 ok\n250 ok\n354 go",
            "250 two\n250 ok\n250 ok\n354 go", "250 three\n221 bye",
        ],
        client: [
            "EHLO gw.example",
            "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nDATA",
            "hello\n.\nMAIL FROM:<s@a.example> SIZE=5\nRCPT TO:<b@x.example>\nDATA",
            "two\n.\nMAIL FROM:<s@a.example> SIZE=0\nRCPT TO:<c@x.example>\nDATA",
            ".\nQUIT", "",
        ],
        events: [
            "ready", "rcpt 1.0: 250 ok", "content 1", "answered 1: 250 one (endOfContent) dsn", "rcpt 2.0: 250 ok",
            "content 2", "answered 2: 250 two (endOfContent) dsn", "rcpt 3.0: 250 ok", "content 3",
            "answered 3: 250 three (endOfContent) dsn", "closed 221 bye",
        ])
}

@Test func twoEagerHandoversAreOpenAtOnce() {
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example"), ClientMessage("c@x.example")],
        peer: [
            greeting, exim, "250 ok\n250 ok\n250 one", "250 reset\n250 ok\n250 ok\n250 two",
            "250 reset\n250 ok\n250 ok\n250 three\n221 bye",
        ],
        client: [
            "EHLO gw.example",
            """
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<a@x.example>
            BDAT 7 LAST
            hello
            RSET
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<b@x.example>
            BDAT 7 LAST
            hello
            """,
            "RSET\nMAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<c@x.example>\nBDAT 7 LAST\nhello\nQUIT", "", "",
        ],
        events: [
            "ready", "content 1", "content 2", "rcpt 1.0: 250 ok", "answered 1: 250 one (endOfContent)", "content 3",
            "rcpt 2.0: 250 ok", "answered 2: 250 two (endOfContent)", "rcpt 3.0: 250 ok",
            "answered 3: 250 three (endOfContent)", "closed 221 bye",
        ])
}

@Test func largeContentWaitsForTheRecipients() {
    checkClient(
        [
            ClientMessage("a@x.example", content: "123456789\r\n"),
            ClientMessage("b@x.example", content: "123456789\r\n"),
        ],
        peer: [greeting, exim, "250 ok\n250 ok", "250 one\n250 reset\n250 ok\n250 ok", "250 two\n221 bye"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=11\nRCPT TO:<a@x.example>",
            "BDAT 11 LAST\n123456789\nRSET\nMAIL FROM:<s@a.example> SIZE=11\nRCPT TO:<b@x.example>",
            "BDAT 11 LAST\n123456789\nQUIT", "",
        ],
        events: [
            "ready", "rcpt 1.0: 250 ok", "content 1", "answered 1: 250 one (endOfContent)", "rcpt 2.0: 250 ok",
            "content 2", "answered 2: 250 two (endOfContent)", "closed 221 bye",
        ]
    ) { $0.eagerContentMaxBytes = 10 }
}

@Test func withoutPipeliningOneCommandAtATime() {
    checkClient(
        [ClientMessage("a@x.example", "b@x.example"), ClientMessage("c@x.example", content: ".\r\n..a")],
        peer: [
            greeting, lockStep, "250 ok", "251 will forward", "550 5.1.1 no such user", "354 go", "250 one", "250 ok",
            "250 ok", "354 go", "250 two", "221 bye",
        ],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<a@x.example>", "RCPT TO:<b@x.example>",
            "DATA", "hello\n.", "MAIL FROM:<s@a.example> SIZE=6", "RCPT TO:<c@x.example>", "DATA", "..\n...a\n.",
            "QUIT",
            "",
        ],
        events: [
            "ready", "rcpt 1.0: 251 will forward", "rcpt 1.1: 550 5.1.1 no such user", "content 1",
            "answered 1: 250 one (endOfContent); 550 5.1.1 no such user (recipient)", "rcpt 2.0: 250 ok", "content 2",
            "answered 2: 250 two (endOfContent)", "closed 221 bye",
        ])
}

@Test func chunkingWithoutPipeliningIsLockStep() {
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example")],
        peer: [
            greeting, "250-mx.example\n250 CHUNKING", "250 ok", "250 ok", "452 4.3.1 full", "250 reset", "250 ok",
            "250 ok", "250 two", "221 bye",
        ],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example>", "RCPT TO:<a@x.example>", "BDAT 7 LAST\nhello", "RSET",
            "MAIL FROM:<s@a.example>", "RCPT TO:<b@x.example>", "BDAT 7 LAST\nhello", "QUIT", "",
        ],
        events: [
            "ready", "rcpt 1.0: 250 ok", "content 1", "answered 1: 452 4.3.1 full (endOfContent)", "rcpt 2.0: 250 ok",
            "content 2", "answered 2: 250 two (endOfContent)", "closed 221 bye",
        ])
}

@Test func chunkingAndPipeliningCanBeSwitchedOff() {
    checkClient(
        [ClientMessage("a@x.example")], peer: [greeting, exim, "250 ok", "250 ok", "354 go", "250 one", "221 bye"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<a@x.example>", "DATA", "hello\n.", "QUIT",
            "",
        ],
        events: [
            "ready", "rcpt 1.0: 250 ok", "content 1", "answered 1: 250 one (endOfContent)", "closed 221 bye",
        ]
    ) {
        $0.usesChunking = false
        $0.usesPipelining = false
    }
}

// MARK: - Refusals

@Test func partialAcceptance_T_E5() {
    checkClient(
        [ClientMessage("a@x.example", "b@x.example", "c@x.example")],
        peer: [
            greeting, exim,
            "250 ok\n550 5.1.1 unknown\n250 ok\n452 4.5.3 too many recipients\n250 2.0.0 taken\n221 bye",
        ],
        client: [
            "EHLO gw.example",
            """
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<a@x.example>
            RCPT TO:<b@x.example>
            RCPT TO:<c@x.example>
            BDAT 7 LAST
            hello
            QUIT
            """, "",
        ],
        events: [
            "ready", "content 1", "rcpt 1.0: 550 5.1.1 unknown", "rcpt 1.1: 250 ok",
            "rcpt 1.2: 452 4.5.3 too many recipients",
            "answered 1: 550 5.1.1 unknown (recipient); 250 2.0.0 taken (endOfContent); "
                + "452 4.5.3 too many recipients (recipient)", "closed 221 bye",
        ])
}

/// RFC 2920 §3.1: nobody is left and the peer waits for content: a single dot, whose reply means nothing.
@Test func dataAcceptedWithoutRecipientsGetsASingleDot() {
    checkClient(
        [ClientMessage("a@x.example", "b@x.example"), ClientMessage("c@x.example")],
        peer: [
            greeting, postfixData, "250 ok\n550 no\n550 not him either\n354 go",
            "250 delivered to nobody\n250 ok\n250 ok\n354 go", "250 two\n221 bye",
        ],
        client: [
            "EHLO gw.example",
            "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nRCPT TO:<b@x.example>\nDATA",
            ".\nMAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<c@x.example>\nDATA", "hello\n.\nQUIT", "",
        ],
        events: [
            "ready", "rcpt 1.0: 550 no", "rcpt 1.1: 550 not him either",
            "answered 1: 550 no (recipient); 550 not him either (recipient) dsn", "rcpt 2.0: 250 ok", "content 2",
            "answered 2: 250 two (endOfContent) dsn", "closed 221 bye",
        ])
}

/// RFC 2920 §4, third example.
@Test func dataRefusedWithoutRecipients() {
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("c@x.example")],
        peer: [
            greeting, postfixData, "250 ok\n550 no\n554 no valid recipients",
            "250 reset\n250 ok\n250 ok\n451 4.3.0 not now", "250 reset\n221 bye",
        ],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nDATA",
            "RSET\nMAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<c@x.example>\nDATA", "QUIT", "",
        ],
        events: [
            "ready", "rcpt 1.0: 550 no", "answered 1: 550 no (recipient) dsn", "rcpt 2.0: 250 ok",
            "answered 2: 451 4.3.0 not now (data) dsn", "closed 250 reset",
        ])
}

@Test func mailRefusedDecidesForAll() {
    // Eager: the rest is in flight already, and is refused too.
    checkClient(
        [ClientMessage("a@x.example", "b@x.example"), ClientMessage("c@x.example")],
        peer: [
            greeting, exim,
            "450 4.1.8 try later\n503 no\n503 no\n503 no\n250 reset\n250 ok\n250 ok\n250 two\n221 bye",
        ],
        client: [
            "EHLO gw.example",
            """
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<a@x.example>
            RCPT TO:<b@x.example>
            BDAT 7 LAST
            hello
            RSET
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<c@x.example>
            BDAT 7 LAST
            hello
            QUIT
            """, "",
        ],
        events: [
            "ready", "content 1", "content 2",
            "answered 1: 450 4.1.8 try later (mail); 450 4.1.8 try later (mail)", "rcpt 2.0: 250 ok",
            "answered 2: 250 two (endOfContent)", "closed 221 bye",
        ])
    // Lock-step: nothing more is said, and no RSET is needed.
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("c@x.example")],
        peer: [greeting, lockStep, "550 5.7.1 not you", "250 ok", "550 nobody", "250 bye"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7", "MAIL FROM:<s@a.example> SIZE=7",
            "RCPT TO:<c@x.example>", "QUIT", "",
        ],
        events: [
            "ready", "answered 1: 550 5.7.1 not you (mail)", "rcpt 2.0: 550 nobody",
            "answered 2: 550 nobody (recipient)",
            "closed 250 bye",
        ])
}

/// A peer that refuses MAIL and then takes the rest still has nothing from us but an empty message for nobody.
@Test func mailRefusedButDataAccepted() {
    checkClient(
        [ClientMessage("a@x.example")], peer: [greeting, postfixData, "550 no\n250 ok\n354 go", "250 ok\n221 bye"],
        client: ["EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nDATA", ".\nQUIT", ""],
        events: ["ready", "answered 1: 550 no (mail) dsn", "closed 221 bye"])
}

@Test func resetGoesAheadOnlyWhereATransactionMayBeOpen() {
    // All refused in lock-step: the transaction stands open, and its RSET is answered before MAIL.
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example")],
        peer: [greeting, lockStep, "250 ok", "550 no", "250 reset", "250 ok", "250 ok", "354 go", "550 5.7.1 spam"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<a@x.example>", "RSET",
            "MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<b@x.example>", "DATA", "hello\n.", "",
        ],
        events: [
            "ready", "rcpt 1.0: 550 no", "answered 1: 550 no (recipient)", "rcpt 2.0: 250 ok", "content 2",
            "answered 2: 550 5.7.1 spam (endOfContent)",
        ], quits: false)
    // Large content over BDAT, all refused: no BDAT at all.
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example")],
        peer: [greeting, exim, "250 ok\n550 no", "250 reset\n250 ok\n450 no", "221 bye"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>",
            "RSET\nMAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<b@x.example>", "QUIT", "",
        ],
        events: [
            "ready", "rcpt 1.0: 550 no", "answered 1: 550 no (recipient)", "rcpt 2.0: 450 no",
            "answered 2: 450 no (recipient)", "closed 221 bye",
        ]
    ) { $0.eagerContentMaxBytes = 0 }
    // A refused RSET leaves nothing to build on.
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example")],
        peer: [greeting, lockStep, "250 ok", "550 no", "500 what"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<a@x.example>", "RSET", "",
        ],
        events: [
            "ready", "rcpt 1.0: 550 no", "answered 1: 550 no (recipient)",
            "answered 2: 451 4.5.0 unexpected reply while waiting for the reply to RSET (reset, ours)",
            "failed (reset): unexpected 500 what",
        ])
}

/// The RSET keeps a failed BDAT's transaction from taking in the next message's recipients.
@Test func failedBDATBetweenTwoEagerOnes() {
    let next = "RSET\nMAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<b@x.example>\nBDAT 7 LAST\nhello"
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example")],
        peer: [greeting, exim, "250 ok\n250 ok\n552 5.3.4 too big\n250 reset\n250 ok\n250 ok\n250 two"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nBDAT 7 LAST\nhello\n" + next, "",
        ],
        events: [
            "ready", "content 1", "content 2", "rcpt 1.0: 250 ok", "answered 1: 552 5.3.4 too big (endOfContent)",
            "rcpt 2.0: 250 ok", "answered 2: 250 two (endOfContent)",
        ], quits: false)
    // All recipients refused, and BDAT with them.
    checkClient(
        [ClientMessage("a@x.example"), ClientMessage("b@x.example")],
        peer: [greeting, exim, "250 ok\n550 no\n503 nobody\n250 reset\n250 ok\n250 ok\n250 two"],
        client: [
            "EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nBDAT 7 LAST\nhello\n" + next, "",
        ],
        events: [
            "ready", "content 1", "content 2", "rcpt 1.0: 550 no", "answered 1: 550 no (recipient)",
            "rcpt 2.0: 250 ok", "answered 2: 250 two (endOfContent)",
        ], quits: false)
}

// MARK: - Parameters and capabilities

@Test func parametersFollowTheOffers() {
    var message = ClientMessage("a@x.example", "b@x.example", from: "", content: "\u{e4}\r\n")
    message.envelope.is8Bit = true
    message.envelope.needsSMTPUTF8 = true
    message.envelope.ret = "HDRS"
    message.envelope.envid = "QQ314159"
    message.envelope.recipients[0].notify = "SUCCESS,FAILURE"
    message.envelope.recipients[0].orcpt = "rfc822;a@x.example"
    checkClient(
        [message], peer: [greeting, postfix],
        client: [
            "EHLO gw.example",
            """
            MAIL FROM:<> SIZE=4 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314159
            RCPT TO:<a@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@x.example
            RCPT TO:<b@x.example>
            BDAT 4 LAST
            \u{e4}
            """,
        ], events: ["ready", "content 1"], quits: false)
    message.envelope.needsSMTPUTF8 = false
    checkClient(
        [message], peer: [greeting, "250-x\n250-PIPELINING\n250 CHUNKING"],
        client: [
            "EHLO gw.example", "MAIL FROM:<>\nRCPT TO:<a@x.example>\nRCPT TO:<b@x.example>\nBDAT 4 LAST\n\u{e4}",
        ], events: ["ready", "content 1"], quits: false)
}

@Test func whatThePeerCannotTakeNeverTouchesTheWire() {
    var international = ClientMessage("\u{e4}@x.example", "b@x.example")
    international.envelope.needsSMTPUTF8 = true
    var damaged = ClientMessage("a@x.example")
    damaged.envelope.recipients[0].path = "a@x.example>\r\nRSET\r\n"
    checkClient(
        [international, ClientMessage("a@x.example", content: "more than ten\r\n"), damaged],
        peer: [greeting, "250-x\n250-PIPELINING\n250 SIZE 10", "221 bye"], client: ["EHLO gw.example", "QUIT", ""],
        events: [
            "ready",
            "answered 1: 550 5.6.7 the next server does not offer SMTPUTF8 (mail, ours); "
                + "550 5.6.7 the next server does not offer SMTPUTF8 (mail, ours)",
            "answered 2: 552 5.3.4 message is larger than the next server's limit of 10 (mail, ours)",
            "answered 3: 553 5.1.3 control byte in the envelope (mail, ours)", "closed 221 bye",
        ])
}

@Test func limitsOfThePeer() {
    checkClient(
        [ClientMessage("a@x.example", "b@x.example", "c@x.example"), ClientMessage("d@x.example")],
        peer: [
            greeting, "250-x\n250-PIPELINING\n250-CHUNKING\n250 LIMITS RCPTMAX=2 MAILMAX=1 RCPTDOMAINMAX=x FOO",
            "250 ok\n250 ok\n250 ok\n250 one",
        ],
        client: [
            "EHLO gw.example",
            "MAIL FROM:<s@a.example>\nRCPT TO:<a@x.example>\nRCPT TO:<b@x.example>\nBDAT 7 LAST\nhello",
            "",
        ],
        events: [
            "ready", "content 1", "rcpt 1.0: 250 ok", "rcpt 1.1: 250 ok",
            "answered 1: 250 one (endOfContent); 250 one (endOfContent); "
                + "452 4.5.3 more recipients than the peer takes at once (recipient, ours)",
        ])
}

@Test func capabilitiesAreRead() {
    var offers = SMTPPeerCapabilities()
    for line in [
        "pipelining", "SIZE 99999999999999999999999", "8bitmime", "BinaryMIME", "CHUNKING", "DSN", "SMTPUTF8", "",
        "ENHANCEDSTATUSCODES", "STARTTLS", "LIMITS RCPTMAX=0 MAILMAX=20 =3 RCPTMAX=1x", " ", "X-\u{e4}",
    ] {
        Array(line.utf8).withUnsafeBytes { offers.note($0) }
    }
    #expect(offers.pipelining && offers.eightBitMIME && offers.binaryMIME && offers.chunking && offers.dsn)
    #expect(offers.smtpUTF8 && offers.enhancedStatusCodes && offers.startTLS)
    #expect(offers.sizeMax == 0 && offers.recipientsMax == nil && offers.transactionsMax == 20)
}

@Test func recipientsPastOurOwnLimitWait() {
    var message = ClientMessage("a@x.example")
    message.envelope.recipients = (0..<1002).map { .init(path: "u\($0)@x.example") }
    let settings = SMTPClientSettings(helloName: "gw.example", tls: .never)
    let accepted = Array(repeating: "250 ok\n", count: 1002).joined()
    let log = converse(
        settings, [message], peer: [greeting + "\n", exim + "\n", accepted], cut: .nowhere, quits: false, ending: .open)
    #expect(log.events.count(where: { $0.hasPrefix("rcpt 1.") }) == 1000)
    #expect(log.events.last?.contains("; 250 ok (endOfContent); 452 4.5.3 more") == true)
}

// MARK: - Before the first message

@Test func greetingOfManyLinesAndHELO() {
    checkClient(
        [ClientMessage("a@x.example")],
        peer: ["220-mx.example\n220-no spam\n220", "502 5.5.1 what", "250 mx.example", "250", "250 ok", "354 go"],
        client: [
            "EHLO gw.example", "HELO gw.example", "MAIL FROM:<s@a.example>", "RCPT TO:<a@x.example>", "DATA",
            "hello\n.",
        ],
        events: ["ready", "rcpt 1.0: 250 ok", "content 1"], quits: false)
}

@Test func refusedBeforeTheFirstMessage() {
    checkClient(
        [], peer: ["554 5.7.1 go away"], client: ["QUIT"], events: ["failed (greeting): refused 554 5.7.1 go away"])
    checkClient([], peer: ["450-too\n450 busy"], client: ["QUIT"], events: ["failed (greeting): refused 450 too busy"])
    checkClient([], peer: ["421 4.3.2 closing"], client: [""], events: ["failed (greeting): refused 421 4.3.2 closing"])
    checkClient([], peer: ["250 hello"], client: [""], events: ["failed (greeting): unexpected 250 hello"])
    checkClient(
        [], peer: [greeting, "450 later"], client: ["EHLO gw.example", "QUIT"],
        events: ["failed (hello): refused 450 later"])
    checkClient(
        [], peer: [greeting, "500 what", "500 what"], client: ["EHLO gw.example", "HELO gw.example", "QUIT"],
        events: ["failed (hello): refused 500 what"])
    checkClient(
        [], peer: [greeting, "354 what"], client: ["EHLO gw.example", ""],
        events: ["failed (hello): unexpected 354 what"])
}

@Test func quitBeforeReady() {
    var session = SMTPClientSession(settings: .init(helloName: "gw.example", tls: .opportunistic))
    var output = ByteOutput()
    session.quit(into: &output)
    #expect(output.isEmpty && !session.canSend)
    var consumed = 0
    let event = Array("220 hi\r\n221 bye\r\n".utf8).withUnsafeBytes {
        session.next($0, consumed: &consumed, into: &output)
    }
    guard case .closed(let reply?) = event else {
        Issue.record("not closed")
        return
    }
    #expect(reply.code == 221 && output.array == Array("QUIT\r\n".utf8))
}

// MARK: - TLS

@Test func startTLSBeginsAnew() {
    checkClient(
        [ClientMessage("a@x.example")], tls: .required,
        peer: [greeting, postfix, "220 2.0.0 go", "250-mx.example\n250 PIPELINING"],
        client: [
            "EHLO gw.example", "STARTTLS", "EHLO gw.example", "MAIL FROM:<s@a.example>\nRCPT TO:<a@x.example>\nDATA",
        ], events: ["startTLS", "ready"], quits: false)
}

/// Whole turns only: what comes behind the 220 is dropped as far as it came with it.
@Test func repliesInjectedBeforeTLSAreDropped_T_B1() {
    checkClient(
        [], tls: .required,
        peer: [greeting, postfix, "220 go\n250-evil\n250 CHUNKING\n250 ok", "250-mx.example\n250 DSN", ""],
        client: ["EHLO gw.example", "STARTTLS", "EHLO gw.example", "", ""], events: ["startTLS", "ready"], cuts: false)
    // Dropped too while the handshake goes on.
    var session = SMTPClientSession(settings: .init(helloName: "gw.example", tls: .required))
    var output = ByteOutput()
    func feed(_ text: String) -> (SMTPClientSession.Event, Int) {
        var consumed = 0
        let event = Array(text.utf8).withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
        return (event, consumed)
    }
    _ = feed("220 hi\r\n")
    _ = feed("250-x\r\n250 STARTTLS\r\n")
    guard case (.startTLS, 16) = feed("220 go\r\n250-evil") else {
        Issue.record("no STARTTLS")
        return
    }
    #expect(session.phase == .tlsHandshake)
    guard case (.needMore, 8) = feed("250 evil") else {
        Issue.record("kept")
        return
    }
    session.tlsStarted(into: &output)
    #expect(session.isTLSActive && session.capabilities == SMTPPeerCapabilities())
}

@Test func requiredTLSNeverFallsBack_T_B4() {
    checkClient(
        [ClientMessage("a@x.example")], tls: .required, peer: [greeting, exim], client: ["EHLO gw.example", "QUIT"],
        events: ["failed (hello): tlsNotOffered"], quits: false)
    checkClient(
        [ClientMessage("a@x.example")], tls: .required, peer: [greeting, "500 what", "250 hello"],
        client: ["EHLO gw.example", "HELO gw.example", "QUIT"], events: ["failed (hello): tlsNotOffered"], quits: false)
    checkClient(
        [ClientMessage("a@x.example")], tls: .required, peer: [greeting, postfix, "454 4.7.0 not now"],
        client: ["EHLO gw.example", "STARTTLS", "QUIT"], events: ["failed (startTLS): tlsRefused 454 4.7.0 not now"],
        quits: false)
    checkClient(
        [ClientMessage("a@x.example")], tls: .required, peer: [greeting, postfix, "250 sure"],
        client: ["EHLO gw.example", "STARTTLS", ""], events: ["failed (startTLS): unexpected 250 sure"], quits: false)
}

@Test func opportunisticTLS() {
    let mail = "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nBDAT 7 LAST\nhello"
    checkClient(
        [ClientMessage("a@x.example")], tls: .opportunistic, peer: [greeting, exim], client: ["EHLO gw.example", mail],
        events: ["ready", "content 1"], quits: false)
    checkClient(
        [ClientMessage("a@x.example")], tls: .opportunistic, peer: [greeting, postfix, "454 4.7.0 not now"],
        client: ["EHLO gw.example", "STARTTLS", mail], events: ["ready", "content 1"], quits: false)
    checkClient(
        [ClientMessage("a@x.example")], tls: .required, peer: [greeting, exim], client: ["EHLO gw.example", mail],
        events: ["ready", "content 1"], quits: false
    ) { $0.isImplicitTLS = true }
}

// MARK: - Ends

@Test func peerDiesAfterTheFinalDot_T_E6() {
    checkClient(
        [ClientMessage("a@x.example", "b@x.example"), ClientMessage("c@x.example")],
        peer: [greeting, postfixData, "250 ok\n550 no\n250 ok\n354 go"],
        client: [
            "EHLO gw.example",
            "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nRCPT TO:<b@x.example>\nDATA",
            "hello\n.\nMAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<c@x.example>\nDATA",
        ],
        events: [
            "ready", "rcpt 1.0: 550 no", "rcpt 1.1: 250 ok", "content 1",
            "answered 1: 550 no (recipient); "
                + "451 4.4.2 lost connection while waiting for the reply to the content (endOfContent, ours) "
                + "dsn duplicate?",
            "answered 2: 451 4.4.2 lost connection while waiting for the reply to the content (mail, ours) dsn",
            "failed (endOfContent): lost",
        ], quits: false, ending: .lost)
}

@Test func openHandoversPhaseAndCanSend() {
    var session = SMTPClientSession(settings: .init(helloName: "gw.example", tls: .never))
    var output = ByteOutput()
    func feed(_ text: String) -> SMTPClientSession.Event {
        var consumed = 0
        return Array(text.onWire.utf8).withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
    }
    _ = feed(greeting + "\n")
    _ = feed(postfixData + "\n")
    let id = session.send(ClientMessage("a@x.example").envelope, into: &output)
    _ = feed("250 ok\n")
    #expect(session.openHandovers == [id] && session.phase == .recipient)
    _ = feed("250 ok\n")
    guard case .sendContent(id, .dots(isStuffed: false)) = feed("354 go\n") else {
        Issue.record("no content")
        return
    }
    #expect(!session.canSend && session.phase == .content)
    session.contentSent(id, into: &output)
    #expect(session.canSend && session.phase == .endOfContent)
    session.connectionLost()
    #expect(session.openHandovers.isEmpty)
    session.contentSent(id, into: &output)
}

@Test func lostOrTimedOutInEachPhase() {
    checkClient([], peer: [""], client: [""], events: ["failed (greeting): lost"], ending: .lost)
    checkClient(
        [], peer: [greeting], client: ["EHLO gw.example"], events: ["failed (hello): timedOut"], ending: .timedOut)
    checkClient(
        [], peer: [greeting, exim], client: ["EHLO gw.example", ""], events: ["ready", "failed (idle): lost"],
        ending: .lost)
    let replies = ["250 ok", "250 ok", "354 go", "250 one", "221 bye"]
    let commands = [
        "MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<a@x.example>", "DATA", "hello\n.", "QUIT",
    ]
    let phases: [SMTPClientSession.Phase] = [.mail, .recipient, .data, .endOfContent]
    for (said, phase) in phases.enumerated() {
        var events = ["ready"]
        if said > 1 { events.append("rcpt 1.0: 250 ok") }
        if said > 2 { events.append("content 1") }
        events += [
            "answered 1: 451 4.4.2 timed out while \(phase.words) (\(phase), ours)" + (said > 2 ? " duplicate?" : ""),
            "failed (\(phase)): timedOut",
        ]
        checkClient(
            [ClientMessage("a@x.example")], peer: [greeting, lockStep] + replies[..<said],
            client: ["EHLO gw.example"] + commands[...said], events: events, ending: .timedOut)
    }
    // Behind our QUIT there is nothing to lose.
    checkClient(
        [ClientMessage("a@x.example")], peer: [greeting, lockStep] + replies[..<4],
        client: ["EHLO gw.example"] + commands,
        events: ["ready", "rcpt 1.0: 250 ok", "content 1", "answered 1: 250 one (endOfContent)", "closed "],
        ending: .lost)
}

/// RFC 5321 §3.8: 421 may be the answer to anything.
@Test func serviceClosesAtEachPoint() {
    let replies = ["250 ok", "250 ok", "354 go", "250 one"]
    let commands = ["MAIL FROM:<s@a.example> SIZE=7", "RCPT TO:<a@x.example>", "DATA", "hello\n."]
    let phases: [SMTPClientSession.Phase] = [.mail, .recipient, .data, .endOfContent]
    for (said, phase) in phases.enumerated() {
        var events = ["ready"]
        if said > 1 { events.append("rcpt 1.0: 250 ok") }
        if said > 2 { events.append("content 1") }
        events += ["answered 1: 421 4.3.2 closing (\(phase))", "closed 421 4.3.2 closing"]
        checkClient(
            [ClientMessage("a@x.example")], peer: [greeting, lockStep] + replies[..<said] + ["421 4.3.2 closing"],
            client: ["EHLO gw.example"] + commands[...said] + [""], events: events)
    }
    // Idle.
    checkClient(
        [], peer: [greeting, exim, "421 4.4.2 idle too long"], client: ["EHLO gw.example", "", ""],
        events: ["ready", "closed 421 4.4.2 idle too long"])
    // Two open: neither was taken, and what was refused stays refused.
    checkClient(
        [ClientMessage("a@x.example", "b@x.example"), ClientMessage("c@x.example")],
        peer: [greeting, exim, "250 ok\n250 ok\n550 no\n421 closing"],
        client: [
            "EHLO gw.example",
            """
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<a@x.example>
            RCPT TO:<b@x.example>
            BDAT 7 LAST
            hello
            RSET
            MAIL FROM:<s@a.example> SIZE=7
            RCPT TO:<c@x.example>
            BDAT 7 LAST
            hello
            """, "",
        ],
        events: [
            "ready", "content 1", "content 2", "rcpt 1.0: 250 ok", "rcpt 1.1: 550 no",
            "answered 1: 421 closing (endOfContent); 550 no (recipient)", "answered 2: 421 closing (reset)",
            "closed 421 closing",
        ], quits: false)
}

@Test func replyToNothing() {
    checkClient(
        [], peer: [greeting, exim, "250 ok"], client: ["EHLO gw.example", "", ""],
        events: ["ready", "failed (idle): unexpected 250 ok"])
}

@Test func repliesThatMeanNothingWhereTheyCome() {
    let lost = "451 4.5.0 unexpected reply while"
    checkClient(
        [ClientMessage("a@x.example")], peer: [greeting, lockStep, "354 what"],
        client: ["EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7", ""],
        events: [
            "ready", "answered 1: \(lost) waiting for the reply to MAIL (mail, ours)",
            "failed (mail): unexpected 354 what",
        ])
    // 250 to DATA: the peer may or may not wait for content.
    checkClient(
        [ClientMessage("a@x.example")], peer: [greeting, postfixData, "250 ok\n250 ok\n250 what"],
        client: ["EHLO gw.example", "MAIL FROM:<s@a.example> SIZE=7\nRCPT TO:<a@x.example>\nDATA", ""],
        events: [
            "ready", "rcpt 1.0: 250 ok", "answered 1: \(lost) waiting for the reply to DATA (data, ours) dsn",
            "failed (data): unexpected 250 what",
        ])
}

@Test func replyBeforeTheContentIsComplete() {
    for (reply, isTaken) in [("552 5.3.4 too big", true), ("250 ok", false)] {
        var session = SMTPClientSession(settings: .init(helloName: "gw.example", tls: .never))
        var output = ByteOutput()
        func feed(_ text: String) -> SMTPClientSession.Event {
            var consumed = 0
            return Array(text.onWire.utf8).withUnsafeBytes { session.next($0, consumed: &consumed, into: &output) }
        }
        _ = feed(greeting + "\n")
        _ = feed(postfixData + "\n")
        let id = session.send(ClientMessage("a@x.example").envelope, into: &output)
        _ = feed("250 ok\n")
        _ = feed("250 ok\n")
        _ = feed("354 go\n")
        guard case .answered(let outcome) = feed(reply + "\n") else {
            Issue.record("not answered")
            return
        }
        #expect(outcome.recipients[0].reply.code == (isTaken ? 552 : 451) && !outcome.isPossibleDuplicate)
        guard case .failed(let failure) = feed("") else {
            Issue.record("not failed")
            return
        }
        #expect(failure.phase == .content)
        session.contentSent(id, into: &output)
    }
}

@Test func malformedReplyEndsTheSession() {
    checkClient(
        [], peer: [greeting, "250-mx\n220 x"], client: ["EHLO gw.example", ""],
        events: ["failed (hello): malformed codesDiffer"])
}

@Test func phasesHaveTimesAndWords() {
    for phase in SMTPClientSession.Phase.allCases {
        #expect((60...600).contains(phase.timeoutSeconds) && !phase.words.isEmpty)
    }
    #expect(Set(SMTPClientSession.Phase.allCases.map(\.words)).count == SMTPClientSession.Phase.allCases.count)
}

/// No replies at all bring the machine down, and each hand-over is answered exactly once.
@Test func noisyPeers() {
    let words = [
        "250 ok", "250-x", "250 PIPELINING", "250-PIPELINING", "250-CHUNKING", "250 CHUNKING", "354 go", "550 no",
        "421 bye", "220 hi", "450 later", "x", "250 LIMITS RCPTMAX=1", "250 2.0.0 ok", "500",
    ]
    // Ahead of the commands, where they are not pipelined: then the cuts decide what was asked when they come.
    let many = [
        "250 ok\n250 ok", "250 ok\n250 ok\n250 ok\n354 go", "250 ok\n550 no\n550 no\n354 go",
    ]
    let hellos = [
        "250 x", "250-x\n250 PIPELINING", "250-x\n250-CHUNKING\n250 PIPELINING", "250-x\n250 CHUNKING", "500",
    ]
    for seed in 0..<100 {
        var random = ConversationRandom(state: UInt64(seed))
        let isAhead = seed % 2 == 1
        let replies = (0..<12).map { _ in (isAhead ? words + many : words).randomElement(using: &random)! }
        let messages = [
            ClientMessage("a@x.example", "b@x.example"), ClientMessage("c@x.example"), ClientMessage("d@x.example"),
        ]
        var settings = SMTPClientSettings(helloName: "gw.example", tls: .never)
        settings.eagerContentMaxBytes = Bool.random(using: &random) ? 0 : 100
        let peer = ([greeting, hellos.randomElement(using: &random)!] + replies).map { $0 + "\n" }
        let whole = converse(settings, messages, peer: peer, cut: .nowhere, quits: true, ending: .lost)
        let bytes = converse(settings, messages, peer: peer, cut: .everywhere, quits: true, ending: .lost)
        #expect(isAhead || whole == bytes, "seed \(seed)")
        for log in [whole, bytes] {
            let ends = log.events.filter { $0.hasPrefix("closed") || $0.hasPrefix("failed") }
            #expect(ends.count == 1 && log.events.last == ends.first, "seed \(seed)")
            for number in 1...3 {
                let answers = log.events.count(where: { $0.hasPrefix("answered \(number):") })
                #expect(answers == (number <= log.handoverCount ? 1 : 0), "seed \(seed)")
            }
        }
    }
}
