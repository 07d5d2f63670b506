import Foundation
import Testing

@testable import postern

/// Passwords, sessions, tokens and the audit log, without a server.
struct AccessTests {
    /// Quick enough for tests; the product's cost is the standard one.
    static let cheap = PasswordHash.Cost(logN: 10, r: 1, p: 1)

    private static func withStore<Result>(_ body: (AccessStore) throws -> Result) throws -> Result {
        let folder = FileManager.default.temporaryDirectory.appending(path: "postern-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        return try body(try AccessStore(path: AccessStore.path(dataFolder: folder.path)))
    }

    /// RFC 7914 §12, the second vector.
    @Test func scryptIsWhatTheStandardSays() {
        let hash = PasswordHash(
            "password", cost: PasswordHash.Cost(logN: 10, r: 8, p: 16), salt: Array("NaCl".utf8))
        let wanted: [UInt8] = [
            0xfd, 0xba, 0xbe, 0x1c, 0x9d, 0x34, 0x72, 0x00, 0x78, 0x56, 0xe7, 0x19, 0x0d, 0x01, 0xe9, 0xfe, 0x7c, 0x6a,
            0xd7,
            0xcb, 0xc8, 0x23, 0x78, 0x30, 0xe7, 0x73, 0x76, 0x63, 0x4b, 0x37, 0x31, 0x62,
        ]
        #expect(hash.key == wanted)
    }

    @Test func aHashIsReadBackAndMatchesItsPasswordOnly() throws {
        let hash = PasswordHash("correct horse", cost: Self.cheap)
        let read = try #require(PasswordHash(stored: hash.stored))
        #expect(read == hash)
        #expect(read.matches("correct horse"))
        #expect(!read.matches("correct hors") && !read.matches("") && !read.matches("correct horse "))
        #expect(
            PasswordHash("correct horse", cost: Self.cheap).stored != hash.stored, "the salt is another one each time")
    }

    @Test(arguments: [
        "", "scrypt", "plain$a$b$c$d$e", "scrypt$40$8$3$AAAA$AAAA", "scrypt$15$8$99$AAAA$AAAA",
        "scrypt$15$8$3$AAAA$AAAA",
        "scrypt$-1$8$3$AAAA$AAAA", "scrypt$15$8$3$not base64$AAAA",
    ])
    func whatIsNoHashIsNone(_ text: String) { #expect(PasswordHash(stored: text) == nil) }

    @Test func secretsAreLongAndNeverTheSame() {
        let secrets = Set((0..<1_000).map { _ in RandomText.secret() })
        #expect(secrets.count == 1_000 && secrets.allSatisfy { $0.count == 43 })
        #expect(RandomText.password().count == 27 && RandomText.password() != RandomText.password())
        #expect(
            RandomText.digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "SHA-256 as FIPS 180 has it")
    }

    @Test func theFirstUserIsMadeOnce() throws {
        try Self.withStore { store in
            let isMade = try store.makeFirstUser(PasswordHash("one", cost: Self.cheap), now: 1)
            let isMadeAgain = try store.makeFirstUser(PasswordHash("two", cost: Self.cheap), now: 2)
            #expect(isMade && !isMadeAgain)
            let stored = try #require(try store.passwordHash(of: "admin"))
            #expect(PasswordHash(stored: stored)?.matches("one") == true)
            let nobody = try store.passwordHash(of: "nobody")
            #expect(nobody == nil)
        }
    }

    @Test func sessionsEndByIdlenessAndByAge() throws {
        try Self.withStore { store in
            let secret = try store.makeSession(user: "admin", address: "a", now: 1_000)
            let digest = RandomText.digest(secret)
            let idle = AccessStore.SessionLife.idleSeconds
            #expect(try store.user(ofSession: digest, noting: true, now: 1_000 + idle - 1) == "admin")
            // It was used just now, so it lives on.
            #expect(try store.user(ofSession: digest, noting: true, now: 1_000 + 2 * idle - 10) == "admin")
            #expect(try store.user(ofSession: digest, noting: true, now: 1_000 + 4 * idle) == nil)

            let old = RandomText.digest(try store.makeSession(user: "admin", address: "a", now: 100_000))
            let step = idle / 2
            var now = 100_000.0
            while now + step < 100_000 + AccessStore.SessionLife.absoluteSeconds {
                now += step
                #expect(try store.user(ofSession: old, noting: true, now: now) == "admin")
            }
            #expect(
                try store.user(ofSession: old, noting: true, now: now + step + 1) == nil,
                "used all the time, and too old")
        }
    }

    /// A look that a stream takes by itself keeps no session alive.
    @Test func lookingDoesNotKeepASessionAlive() throws {
        try Self.withStore { store in
            let digest = RandomText.digest(try store.makeSession(user: "admin", address: "a", now: 0))
            let idle = AccessStore.SessionLife.idleSeconds
            #expect(try store.user(ofSession: digest, noting: false, now: idle - 1) == "admin")
            #expect(try store.user(ofSession: digest, noting: false, now: idle + 1) == nil)
        }
    }

    @Test func theOldestSessionMakesRoom() throws {
        try Self.withStore { store in
            let digests = try (0..<AccessStore.Limits.sessions + 3).map {
                RandomText.digest(try store.makeSession(user: "admin", address: "a", now: Double($0)))
            }
            let alive = try digests.map { try store.user(ofSession: $0, noting: false, now: 100) != nil }
            #expect(
                alive == Array(repeating: false, count: 3) + Array(repeating: true, count: AccessStore.Limits.sessions))
        }
    }

    @Test func aNewPasswordEndsTheOtherSessions() throws {
        try Self.withStore { store in
            let kept = RandomText.digest(try store.makeSession(user: "admin", address: "a", now: 0))
            let other = RandomText.digest(try store.makeSession(user: "admin", address: "b", now: 0))
            try store.setPassword(PasswordHash("new", cost: Self.cheap), of: "admin", keeping: kept, now: 1)
            #expect(try store.user(ofSession: kept, noting: false, now: 1) == "admin")
            #expect(try store.user(ofSession: other, noting: false, now: 1) == nil)
            try store.setPassword(PasswordHash("newer", cost: Self.cheap), of: "admin", now: 2)
            #expect(try store.user(ofSession: kept, noting: false, now: 2) == nil)
        }
    }

    @Test func tokens() throws {
        try Self.withStore { store in
            guard case .made(let token) = try store.makeToken(name: "backup", scope: .read, now: 1) else {
                Issue.record("it was not made")
                return
            }
            #expect(token.hasPrefix("postern_"))
            #expect(try store.makeToken(name: "backup", scope: .write, now: 2) == .exists)
            let found = try store.token(token, now: 3)
            #expect(found?.name == "backup" && found?.scope == .read)
            #expect(try store.token(token + "x", now: 3) == nil)
            #expect(try store.tokens().map(\.usedAt) == [3])
            #expect(try store.deleteToken("backup"))
            #expect(try !store.deleteToken("backup"))
            #expect(try store.token(token, now: 4) == nil)
            for number in 0..<AccessStore.Limits.tokens {
                _ = try store.makeToken(name: "t\(number)", scope: .read, now: 5)
            }
            #expect(try store.makeToken(name: "one-more", scope: .read, now: 5) == .tooMany)
        }
    }

    @Test func theAuditLogIsBounded() throws {
        try Self.withStore { store in
            let caller = Caller(name: "admin", means: .session(digest: ""), address: "192.0.2.1")
            let first = try store.auditBegan(caller, action: "gateway.set", object: "a.test", now: 0)
            #expect(try store.auditEntries(before: nil, search: nil, limit: 10).first?.outcome == "unknown")
            try store.auditEnded(
                first, outcome: "done",
                changes: [AuditEntry.Change(key: "k", before: nil, after: String(repeating: "x", count: 5_000))])
            let entry = try #require(try store.auditEntries(before: nil, search: "A.TEST", limit: 10).first)
            #expect(entry.outcome == "done" && entry.changes[0].after!.count <= AccessStore.Limits.auditValue + 1)
            #expect(try store.auditEntries(before: nil, search: "%", limit: 10).isEmpty, "a search is no pattern")
            _ = try store.auditBegan(
                caller, action: "gateway.set", object: "b.test", now: AccessStore.Limits.auditSeconds + 1)
            #expect(try store.auditEntries(before: nil, search: nil, limit: 10).map(\.object) == ["b.test"], "too old")
        }
    }

    @Test func aFileThatIsNoDatabaseIsSaidToBeNone() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "postern-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let path = AccessStore.path(dataFolder: folder.path)
        try Data(repeating: 0x41, count: 4_096).write(to: URL(filePath: path))
        #expect(throws: AccessFault.self) { try AccessStore(path: path) }
        #expect(throws: AccessFault.self) { try AccessStore(path: folder.path + "/none/admin.db") }
    }
}

struct AttemptsTests {
    @Test func anAddressWaitsAfterTen() {
        var attempts = Attempts()
        for _ in 0..<Attempts.Limits.perAddress {
            #expect(attempts.wait(address: "a", account: "admin", now: 0) == nil)
            attempts.began(address: "a", account: "admin", now: 0)
        }
        #expect(attempts.wait(address: "a", account: "admin", now: 1) == Int(Attempts.Limits.windowSeconds) - 1)
        #expect(attempts.wait(address: "a", account: "other", now: 1) != nil, "whoever it claims to be")
        #expect(attempts.wait(address: "b", account: "admin", now: 1) == nil)
        #expect(attempts.wait(address: "a", account: "admin", now: Attempts.Limits.windowSeconds) == nil)
    }

    @Test func anAccountWaitsWhateverTheAddresses() {
        var attempts = Attempts()
        for number in 0..<Attempts.Limits.perAccount { attempts.began(address: "\(number)", account: "admin", now: 0) }
        #expect(attempts.wait(address: "new", account: "admin", now: 0) != nil)
        #expect(attempts.wait(address: "new", account: "nobody", now: 0) == nil)
    }

    @Test func successStartsAnew() {
        var attempts = Attempts()
        for _ in 0..<Attempts.Limits.perAddress { attempts.began(address: "a", account: "admin", now: 0) }
        attempts.succeeded(address: "a", account: "admin")
        #expect(attempts.wait(address: "a", account: "admin", now: 0) == nil)
    }
}
