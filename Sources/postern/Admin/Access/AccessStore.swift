import Foundation
import GRDB
import Glibc

/// `admin.db`: users, sessions, tokens and the audit log of the admin process. The mail process never opens it.
///
/// Several processes may: the admin process, and `postern password` and `postern token`, also while no server runs.
///
/// - Errors: `AccessFault`; a caller without an answer refuses what it was asked.
final class AccessStore: Sendable {
    enum Limits {
        static let sessions = 32
        static let tokens = 256
        /// Of the audit log.
        static let auditEntries = 10_000
        static let auditSeconds = 400.0 * 86_400
        /// Characters of a value in the audit log.
        static let auditValue = 1_024
    }

    let path: String
    private let queue: DatabaseQueue
    /// Device and inode of the file that is open.
    private let file: [UInt64]

    static func path(dataFolder: String) -> String { dataFolder + "/admin.db" }

    /// Opens the file, or makes it.
    init(path: String) throws(AccessFault) {
        self.path = path
        do {
            file = try Self.prepareFile(path)
            var configuration = GRDB.Configuration()
            configuration.busyMode = .timeout(5)
            configuration.label = "access"
            queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.write { try Self.migrate($0) }
        } catch let fault as AccessFault {
            throw fault
        } catch {
            throw Self.fault(path, error)
        }
    }

    /// Mode 0600 from its first moment, and of the data folder's owner also when root makes it.
    ///
    /// - Returns: device and inode.
    private static func prepareFile(_ path: String) throws -> [UInt64] {
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else {
            throw AccessFault(description: "\(path): it cannot be opened: \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        fchmod(descriptor, 0o600)
        var folder = stat()
        if geteuid() == 0, stat((path as NSString).deletingLastPathComponent, &folder) == 0 {
            fchown(descriptor, folder.st_uid, folder.st_gid)
        }
        var made = stat()
        fstat(descriptor, &made)
        return [UInt64(made.st_dev), UInt64(made.st_ino)]
    }

    /// False: the file was taken away, or another one is in its place.
    var isInPlace: Bool {
        var found = stat()
        return stat(path, &found) == 0 && [UInt64(found.st_dev), UInt64(found.st_ino)] == file
    }

    private static let version = 1

    private static func migrate(_ database: Database) throws {
        let found = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        guard found <= version else {
            throw AccessFault(
                description: "admin.db has format \(found), made by a newer Postern; this one reads \(version)")
        }
        guard found < version else { return }
        try database.execute(
            sql: """
                CREATE TABLE user (name TEXT PRIMARY KEY, password TEXT NOT NULL, changedAt REAL NOT NULL);
                CREATE TABLE session (
                    digest TEXT PRIMARY KEY, user TEXT NOT NULL, address TEXT NOT NULL,
                    createdAt REAL NOT NULL, usedAt REAL NOT NULL);
                CREATE TABLE token (
                    name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, scope TEXT NOT NULL,
                    createdAt REAL NOT NULL, usedAt REAL);
                CREATE TABLE audit (
                    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL, address TEXT NOT NULL,
                    action TEXT NOT NULL, object TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT, changes TEXT NOT NULL);
                PRAGMA user_version = \(version);
                """)
    }

    static func fault(_ path: String, _ error: any Error) -> AccessFault {
        if let fault = error as? AccessFault { return fault }
        let what =
            (error as? DatabaseError).map { $0.message ?? "SQLite result \($0.resultCode.rawValue)" } ?? "\(error)"
        return AccessFault(description: "\(path) cannot be used: \(what)")
    }

    func write<Value>(_ body: (Database) throws -> Value) throws(AccessFault) -> Value {
        do { return try queue.write(body) } catch { throw Self.fault(path, error) }
    }

    func read<Value>(_ body: (Database) throws -> Value) throws(AccessFault) -> Value {
        do { return try queue.read(body) } catch { throw Self.fault(path, error) }
    }
}

// MARK: Users

extension AccessStore {
    static let firstUser = "admin"

    func passwordHash(of user: String) throws(AccessFault) -> String? {
        try read { try String.fetchOne($0, sql: "SELECT password FROM user WHERE name = ?", arguments: [user]) }
    }

    func hasUsers() throws(AccessFault) -> Bool {
        try read { try Bool.fetchOne($0, sql: "SELECT EXISTS (SELECT 1 FROM user)") ?? false }
    }

    /// Makes the first user, unless there is one: then false.
    func makeFirstUser(_ hash: PasswordHash, now: Double) throws(AccessFault) -> Bool {
        try write { database in
            guard try Int.fetchOne(database, sql: "SELECT count(*) FROM user") == 0 else { return false }
            try database.execute(
                sql: "INSERT INTO user VALUES (?, ?, ?)", arguments: [Self.firstUser, hash.stored, now])
            return true
        }
    }

    /// Sets a password and ends all sessions of that user, but for `keeping`.
    func setPassword(_ hash: PasswordHash, of user: String, keeping session: String? = nil, now: Double)
        throws(AccessFault)
    {
        try write { database in
            try database.execute(
                sql: """
                    INSERT INTO user VALUES (?, ?, ?)
                    ON CONFLICT (name) DO UPDATE SET password = excluded.password, changedAt = excluded.changedAt
                    """, arguments: [user, hash.stored, now])
            try database.execute(
                sql: "DELETE FROM session WHERE user = ? AND digest IS NOT ?", arguments: [user, session])
        }
    }
}

// MARK: Sessions

extension AccessStore {
    enum SessionLife {
        /// Without a request.
        static let idleSeconds = 7_200.0
        static let absoluteSeconds = 43_200.0
        /// How exactly the last request is noted.
        static let noteSeconds = 60.0
    }

    /// - Returns: the secret for the cookie; only its digest is stored.
    func makeSession(user: String, address: String, now: Double) throws(AccessFault) -> String {
        let secret = RandomText.secret()
        try write { database in
            try database.execute(
                sql: "DELETE FROM session WHERE usedAt < ? OR createdAt < ?",
                arguments: [now - SessionLife.idleSeconds, now - SessionLife.absoluteSeconds])
            try database.execute(
                sql: """
                    DELETE FROM session WHERE digest IN
                        (SELECT digest FROM session ORDER BY usedAt DESC LIMIT -1 OFFSET \(Limits.sessions - 1))
                    """)
            try database.execute(
                sql: "INSERT INTO session VALUES (?, ?, ?, ?, ?)",
                arguments: [RandomText.digest(secret), user, address, now, now])
        }
        return secret
    }

    /// The user of a session that is alive; `noting` that it was used.
    func user(ofSession digest: String, noting: Bool, now: Double) throws(AccessFault) -> String? {
        let found = try read { database in
            try Row.fetchOne(
                database, sql: "SELECT user, usedAt FROM session WHERE digest = ? AND usedAt >= ? AND createdAt >= ?",
                arguments: [digest, now - SessionLife.idleSeconds, now - SessionLife.absoluteSeconds])
        }
        guard let found else { return nil }
        let usedAt: Double = found["usedAt"]
        if noting, now - usedAt > SessionLife.noteSeconds {
            try write {
                try $0.execute(sql: "UPDATE session SET usedAt = ? WHERE digest = ?", arguments: [now, digest])
            }
        }
        return found["user"]
    }

    func endSession(_ digest: String) throws(AccessFault) {
        try write { try $0.execute(sql: "DELETE FROM session WHERE digest = ?", arguments: [digest]) }
    }
}

// MARK: Tokens

extension AccessStore {
    /// So that a leaked one is recognised for what it is.
    static let tokenPrefix = "postern_"

    enum TokenOutcome: Hashable {
        /// The token, which is shown once.
        case made(String)
        case exists
        case tooMany
    }

    /// A name: 1 to 64 letters, digits, `.`, `_` and `-`.
    static func isTokenName(_ name: String) -> Bool {
        (1...64).contains(name.utf8.count)
            && name.utf8.allSatisfy {
                (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0) || $0 == 0x2d
                    || $0 == 0x2e || $0 == 0x5f
            } && name != "." && name != ".."
    }

    func makeToken(name: String, scope: Scope, now: Double) throws(AccessFault) -> TokenOutcome {
        let token = Self.tokenPrefix + RandomText.secret()
        return try write { database in
            guard try Int.fetchOne(database, sql: "SELECT 1 FROM token WHERE name = ?", arguments: [name]) == nil else {
                return .exists
            }
            guard try Int.fetchOne(database, sql: "SELECT count(*) FROM token") ?? 0 < Limits.tokens else {
                return .tooMany
            }
            try database.execute(
                sql: "INSERT INTO token VALUES (?, ?, ?, ?, NULL)",
                arguments: [name, RandomText.digest(token), scope.rawValue, now])
            return .made(token)
        }
    }

    func tokens() throws(AccessFault) -> [TokenSummary] {
        try read { database in
            try Row.fetchAll(database, sql: "SELECT name, scope, createdAt, usedAt FROM token ORDER BY name").map {
                TokenSummary(
                    name: $0["name"], scope: Scope(rawValue: $0["scope"]) ?? .read, createdAt: $0["createdAt"],
                    usedAt: $0["usedAt"])
            }
        }
    }

    func deleteToken(_ name: String) throws(AccessFault) -> Bool {
        try write { database in
            try database.execute(sql: "DELETE FROM token WHERE name = ?", arguments: [name])
            return database.changesCount > 0
        }
    }

    /// Whose token this is; notes that it was used.
    func token(_ token: String, now: Double) throws(AccessFault) -> (name: String, scope: Scope)? {
        let digest = RandomText.digest(token)
        let found = try read {
            try Row.fetchOne($0, sql: "SELECT name, scope, usedAt FROM token WHERE digest = ?", arguments: [digest])
        }
        guard let found, let scope = Scope(rawValue: found["scope"]) else { return nil }
        let usedAt: Double? = found["usedAt"]
        if now - (usedAt ?? -.infinity) > SessionLife.noteSeconds {
            try write {
                try $0.execute(sql: "UPDATE token SET usedAt = ? WHERE digest = ?", arguments: [now, digest])
            }
        }
        return (found["name"], scope)
    }
}
