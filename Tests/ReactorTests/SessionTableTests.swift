import Testing

@testable import Reactor

private final class Session {
    let token: Token
    init(_ token: Token) { self.token = token }
}

@Suite struct SessionTableTests {
    @Test func findsWhatLivesAndNothingElse() {
        var table = SessionTable<Session>(kind: 3)
        let first = table.insert(Session.init)
        let second = table.insert(Session.init)
        #expect(first.token.kind == 3 && first.token != second.token && table.count == 2)
        #expect(table.find(first.token) === first && table.find(second.token) === second)
        table.remove(first.token)
        #expect(table.find(first.token) == nil && table.count == 1)
        // The place is used again under another generation.
        let third = table.insert(Session.init)
        #expect(third.token.index == first.token.index && third.token.generation != first.token.generation)
        #expect(table.find(first.token) == nil && table.find(third.token) === third)
        table.remove(first.token)
        #expect(table.count == 2)
        #expect(table.find(Token(kind: 3, generation: 1, index: 999_999)) == nil)
    }

    @Test func growsAndIsWalkedInOrder() {
        var table = SessionTable<Session>(kind: 1)
        let sessions = (0..<1_000).map { _ in table.insert(Session.init) }
        for session in sessions where session.token.index % 3 == 0 { table.remove(session.token) }
        let walked = table.all.map(\.token.index)
        #expect(walked == (0..<1_000).filter { $0 % 3 != 0 })
        #expect(table.count == walked.count)
        for session in sessions { #expect((table.find(session.token) === session) == (session.token.index % 3 != 0)) }
    }

    @Test func letsItsSessionsGo() {
        weak var removed: Session?
        weak var kept: Session?
        do {
            var table = SessionTable<Session>(kind: 1)
            removed = table.insert(Session.init)
            kept = table.insert(Session.init)
            #expect(removed != nil)
            table.remove(removed!.token)
            #expect(removed == nil && kept != nil)
        }
        #expect(kept == nil)
    }
}
