internal import GRDB
import Glibc
import Reactor

/// The directory in one SQLite file: `postern.db` in the data folder.
///
/// ```text
/// gateways   id (never reused) · domain · mailDirectory · document (what is not default, JSON) · version · createdAt
///            · secret, password (sealed, see SecretBox; the document has their mask) · customer · mailboxUser
/// settings   key · value
/// stores     gatewayID · storeID (the mail directory that was made for it)
/// ```
///
/// Write-ahead log with a full sync: a change that returned survives a power loss.
public final class SQLiteDirectory: Directory {
    private let database: DatabaseQueue
    private let current = Locked(DirectorySnapshot())
    private let now: @Sendable () -> Int64
    private let box: SecretBox

    /// `PSTN`: tells our file from another program's.
    private static let applicationID = 0x5053_544e
    /// How long another process, such as a backup, may hold the file.
    private static let busySeconds = 2.0
    /// What makes version 1, 2, … of the file from the one before. Never changed, only added to.
    private static let migrations = [
        """
        CREATE TABLE gateways (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            domain TEXT NOT NULL UNIQUE,
            mailDirectory TEXT NOT NULL UNIQUE,
            document TEXT NOT NULL,
            version INTEGER NOT NULL,
            createdAt INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE stores (gatewayID INTEGER PRIMARY KEY, storeID TEXT NOT NULL) STRICT;
        """,
        """
        ALTER TABLE gateways ADD COLUMN secret TEXT;
        ALTER TABLE gateways ADD COLUMN password TEXT;
        ALTER TABLE gateways ADD COLUMN customer TEXT NOT NULL DEFAULT '';
        ALTER TABLE gateways ADD COLUMN mailboxUser TEXT NOT NULL DEFAULT '';
        UPDATE gateways SET customer = domain, mailboxUser = domain;
        CREATE INDEX gatewaysByCustomer ON gateways (customer);
        CREATE UNIQUE INDEX gatewaysByMailboxUser ON gateways (mailboxUser);
        """,
    ]

    /// Opens `<dataFolder>/postern.db`, and makes it when it isn't there.
    ///
    /// - Parameter now: Milliseconds since 1970.
    /// - Throws: `damaged`, `unknownVersion`, `locked`, `unavailable`.
    public convenience init(dataFolder: String, now: @escaping @Sendable () -> Int64) throws(DirectoryFault) {
        let path = PathText.resolve("postern.db", from: dataFolder)
        // Made here, so that nobody but us can ever read it; SQLite gives its other files the same mode.
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw .unavailable("\(InvalidSetting.quote(path)): \(String(cString: strerror(errno)))")
        }
        Glibc.close(descriptor)
        try self.init(path: path, box: SecretBox.open(PathText.resolve("secrets.key", from: dataFolder)), now: now)
    }

    /// A directory in memory, for tests and simulations.
    public convenience init(inMemoryWith now: @escaping @Sendable () -> Int64) throws(DirectoryFault) {
        try self.init(path: ":memory:", box: .temporary(), now: now)
    }

    private init(path: String, box: SecretBox, now: @escaping @Sendable () -> Int64) throws(DirectoryFault) {
        (self.box, self.now) = (box, now)
        do {
            var configuration = GRDB.Configuration()
            configuration.label = "directory"
            configuration.busyMode = .timeout(Self.busySeconds)
            database = try DatabaseQueue(path: path, configuration: configuration)
        } catch {
            throw Self.fault(error)
        }
        let snapshot = try access { db in
            try Self.prepare(db)
            let gateways = try fetch(db, "ORDER BY id").map { Gateway($0) }
            return DirectorySnapshot().next(changed: gateways, settings: try Self.fetchSettings(db))
        }
        current.withLock { $0 = snapshot }
    }

    /// Frees the file; nothing may be called afterwards.
    public func close() throws(DirectoryFault) {
        do { try database.close() } catch { throw Self.fault(error) }
    }

    public var snapshot: DirectorySnapshot { current.withLock { $0 } }

    public var nobodySecret: [UInt8] { box.nobodySecret }

    /// Writes a copy of the database, as of now, to a new file.
    public func backUp(to path: String) throws(DirectoryFault) {
        try access { db in try db.execute(sql: "VACUUM INTO ?", arguments: [path]) }
    }
}

extension SQLiteDirectory {
    public func list() throws(DirectoryFault) -> [StoredGateway] {
        try access { db in try fetch(db, "ORDER BY domain") }
    }

    public func get(_ domain: String) throws(DirectoryFault) -> StoredGateway {
        try access { db in try find(db, domain) }
    }

    public func create(_ document: GatewayDocument) throws(DirectoryFault) -> StoredGateway {
        try change { db in
            let stored = try insert(db, document)
            return (stored, { $0.next(changed: [Gateway(stored)]) })
        }
    }

    public func update(_ document: GatewayDocument, expectedETag: String?) throws(DirectoryFault) -> StoredGateway {
        try change { db in
            let stored = try replace(db, try find(db, document.domain, expectedETag), with: document)
            return (stored, { $0.next(changed: [Gateway(stored)]) })
        }
    }

    public func delete(_ domain: String, expectedETag: String?) throws(DirectoryFault) -> StoredGateway {
        try change { db in
            let stored = try find(db, domain, expectedETag)
            try db.execute(sql: "DELETE FROM gateways WHERE id = ?", arguments: [Int64(stored.id)])
            return (stored, { $0.next(removed: [stored.id]) })
        }
    }

    public func importAll(_ documents: [GatewayDocument], dryRun: Bool) throws(DirectoryFault) -> [StoredGateway] {
        try change(takeBack: dryRun) { db in
            var seen: Set<String> = []
            var stored: [StoredGateway] = []
            for document in documents {
                guard seen.insert(document.domain).inserted else {
                    throw DirectoryFault.invalid("the gateway `\(document.domain)` stands twice in the import")
                }
                if let old = try fetch(db, "WHERE domain = ?", [document.domain]).first {
                    stored.append(try replace(db, old, with: document))
                } else {
                    stored.append(try insert(db, document))
                }
            }
            let gateways = stored.map { Gateway($0) }
            return (stored, { $0.next(changed: gateways) })
        }
    }

    public func storeID(ofGateway id: UInt64) throws(DirectoryFault) -> String? {
        try access { db in
            try String.fetchOne(db, sql: "SELECT storeID FROM stores WHERE gatewayID = ?", arguments: [Int64(id)])
        }
    }

    public func rememberStore(_ storeID: String, ofGateway id: UInt64) throws(DirectoryFault) {
        try access { db in
            try db.execute(
                sql: "INSERT OR REPLACE INTO stores (gatewayID, storeID) VALUES (?, ?)",
                arguments: [Int64(id), storeID])
        }
    }

    public func settings() throws(DirectoryFault) -> Settings {
        try access { db in try Self.fetchSettings(db) }
    }

    public func setSettings(_ settings: Settings) throws(DirectoryFault) -> Settings {
        try change { db in
            try db.execute(sql: "DELETE FROM settings")
            for setting in Settings.keys.settings where !setting.isStandard(settings) {
                try db.execute(
                    sql: "INSERT INTO settings (key, value) VALUES (?, ?)",
                    arguments: [setting.key, setting.read(settings).json])
            }
            return (settings, { $0.next(settings: settings) })
        }
    }
}

extension SQLiteDirectory {
    private func insert(_ db: Database, _ given: GatewayDocument) throws -> StoredGateway {
        guard try fetch(db, "WHERE domain = ?", [given.domain]).isEmpty else {
            throw DirectoryFault.alreadyExists(domain: given.domain)
        }
        let (document, secrets) = try sealed(given, old: nil)
        try refuseShared(db, document)
        let createdAt = now()
        let statement = try db.cachedStatement(
            sql: """
                INSERT INTO gateways (
                    domain, mailDirectory, document, version, createdAt, secret, password, customer, mailboxUser
                ) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)
                """)
        try statement.execute(arguments: [
            document.domain, document.effectiveMailDirectory, document.changes.json, createdAt,
            secrets.customer?.sealed, secrets.mailbox?.sealed, document.effectiveUser, document.effectiveMailboxUser,
        ])
        return StoredGateway(
            id: UInt64(db.lastInsertedRowID), document: document, version: 1, createdAt: createdAt, fault: nil,
            secrets: secrets)
    }

    private func replace(_ db: Database, _ old: StoredGateway, with given: GatewayDocument) throws -> StoredGateway {
        let (document, secrets) = try sealed(given, old: old)
        try refuseShared(db, document)
        let statement = try db.cachedStatement(
            sql: """
                UPDATE gateways SET mailDirectory = ?, document = ?, version = ?, secret = ?, password = ?, customer = ?,
                    mailboxUser = ? WHERE id = ?
                """)
        try statement.execute(arguments: [
            document.effectiveMailDirectory, document.changes.json, old.version + 1, secrets.customer?.sealed,
            secrets.mailbox?.sealed, document.effectiveUser, document.effectiveMailboxUser, Int64(old.id),
        ])
        return StoredGateway(
            id: old.id, document: document, version: old.version + 1, createdAt: old.createdAt, fault: nil,
            secrets: secrets)
    }

    /// The document with its secrets told, and these as they are stored.
    private func sealed(_ given: GatewayDocument, old: StoredGateway?) throws -> (GatewayDocument, StoredSecrets) {
        var document = given
        do throws(InvalidSetting) { try document.keepSecrets(of: old?.document) } catch {
            throw DirectoryFault.invalid(error.sentence)
        }
        let seal = { [box] (secret: Secret?, before: Secret?, kept: StoredSecret?, name: String) -> StoredSecret? in
            guard let secret else { return nil }
            if secret == before, let kept { return kept }
            guard case .text(let text) = secret else { return nil }
            return box.seal(text, name, of: given.domain)
        }
        let (dequeue, before) = (document.dequeue, old?.document.dequeue)
        return (
            document,
            StoredSecrets(
                customer: seal(dequeue.secret, before?.secret, old?.secrets.customer, "secret"),
                mailbox: seal(
                    dequeue.mailbox.password, before?.mailbox.password, old?.secrets.mailbox, "password"))
        )
    }

    /// Two gateways in one folder would send each other's mail; two with one mailbox's name would be one to who logs in; and a
    /// customer with two secrets would have one that works by chance.
    private func refuseShared(_ db: Database, _ document: GatewayDocument) throws {
        let folder = document.effectiveMailDirectory
        let other =
            folder == Gateway.systemMailDirectory
            ? Gateway.systemDomain
            : try fetch(db, "WHERE mailDirectory = ? AND domain <> ?", [folder, document.domain]).first?.document.domain
        if let other {
            throw DirectoryFault.invalid(
                "`mailDirectory`: \(InvalidSetting.quote(folder)) belongs to the gateway `\(other)`")
        }
        let user = document.effectiveMailboxUser
        if let other = try fetch(db, "WHERE mailboxUser = ? AND domain <> ?", [user, document.domain]).first {
            throw DirectoryFault.invalid(
                "`dequeue.mailbox.user`: \(InvalidSetting.quote(user)) belongs to the gateway `\(other.document.domain)`"
            )
        }
        guard document.dequeue.secret != nil else { return }
        let clause = "WHERE customer = ? AND domain <> ? AND secret IS NOT NULL"
        if let other = try fetch(db, clause, [document.effectiveUser, document.domain]).first {
            throw DirectoryFault.invalid(
                "`dequeue.secret`: the customer \(InvalidSetting.quote(document.effectiveUser)) has one already, at the "
                    + "gateway `\(other.document.domain)`; change it there, or leave it out here")
        }
    }

    private func find(_ db: Database, _ domain: String, _ expectedETag: String? = nil) throws -> StoredGateway {
        guard let name = DomainNameNormaliser.aLabel(domain),
            let stored = try fetch(db, "WHERE domain = ?", [name]).first
        else { throw DirectoryFault.noSuchGateway(domain: domain) }
        if let expectedETag, expectedETag != stored.etag {
            throw DirectoryFault.changedMeanwhile(domain: name, etag: stored.etag)
        }
        return stored
    }

    /// - Parameter clause: Constant text; what comes from outside is in `arguments`.
    private func fetch(_ db: Database, _ clause: String, _ arguments: StatementArguments = [])
        throws -> [StoredGateway]
    {
        let statement = try db.cachedStatement(
            sql: """
                SELECT id, domain, mailDirectory, document, version, createdAt, secret, password FROM gateways \(clause)
                """)
        let rows = try Row.fetchCursor(statement, arguments: arguments)
        var stored: [StoredGateway] = []
        while let row = try rows.next() { stored.append(try gateway(row)) }
        return stored
    }

    private func gateway(_ row: Row) throws -> StoredGateway {
        // The types are the table's, but a damaged file may hold anything.
        guard let id = Int64.fromDatabaseValue(row[0]), let domain = String.fromDatabaseValue(row[1]),
            let mailDirectory = String.fromDatabaseValue(row[2]), let text = String.fromDatabaseValue(row[3]),
            let version = Int64.fromDatabaseValue(row[4]), let createdAt = Int64.fromDatabaseValue(row[5]), id > 0,
            DomainNameNormaliser.aLabel(domain) == domain
        else { throw DirectoryFault.damaged("a row of the table gateways holds what was never written") }
        let open = { [box] (value: DatabaseValue, name: String) in
            String.fromDatabaseValue(value).map { box.open($0, name, of: domain) }
        }
        let secrets = StoredSecrets(customer: open(row[6], "secret"), mailbox: open(row[7], "password"))
        let told = { (secret: StoredSecret?) -> Secret? in
            secret.map { $0.keys.map { .text(String(decoding: $0.bytes, as: UTF8.self)) } ?? .unchanged }
        }
        let read = Result { () throws(InvalidSetting) in
            var document = try GatewayDocument(json: text)
            document.dequeue.secret = told(secrets.customer)
            document.dequeue.mailbox.password = told(secrets.mailbox)
            guard document.domain == domain else { throw InvalidSetting("the document names another domain") }
            return document
        }
        switch read {
        case .success(let document):
            return StoredGateway(
                id: UInt64(id), document: document, version: version, createdAt: createdAt, fault: nil, secrets: secrets
            )
        case .failure(let fault):
            var safe = GatewayDocument(trusted: domain)
            safe.isEnabled = false
            safe.isHeld = true
            if PathText.isDirect(mailDirectory), mailDirectory != safe.effectiveMailDirectory {
                safe.mailDirectory = mailDirectory
            }
            return StoredGateway(
                id: UInt64(id), document: safe, version: version, createdAt: createdAt, fault: fault.sentence,
                secrets: secrets)
        }
    }

    private static func fetchSettings(_ db: Database) throws -> Settings {
        var settings = Settings()
        let rows = try Row.fetchCursor(db, sql: "SELECT key, value FROM settings ORDER BY key")
        while let row = try rows.next() {
            guard let key = String.fromDatabaseValue(row[0]), let text = String.fromDatabaseValue(row[1]) else {
                throw DirectoryFault.damaged("a row of the table settings holds what was never written")
            }
            do throws(InvalidSetting) {
                try Settings.keys.assign(key: key, try DocumentValue(json: text), to: &settings)
            } catch {
                throw DirectoryFault.unknownVersion(
                    "the settings in postern.db are another version's: \(error.sentence)")
            }
        }
        return settings
    }
}

extension SQLiteDirectory {
    /// Makes an empty file ours, brings an older one up to date, refuses others.
    private static func prepare(_ db: Database) throws {
        let version = try Int.fetchOne(db, sql: "PRAGMA user_version") ?? 0
        let application = try Int.fetchOne(db, sql: "PRAGMA application_id") ?? 0
        let isEmpty = try Int.fetchOne(db, sql: "SELECT count(*) FROM sqlite_schema") == 0
        guard application == applicationID || (isEmpty && application == 0 && version == 0) else {
            throw DirectoryFault.damaged("postern.db is the database of another program")
        }
        guard version <= migrations.count else {
            throw DirectoryFault.unknownVersion(
                "postern.db has version \(version); this Postern knows up to version \(migrations.count)")
        }
        try db.execute(sql: "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        for (index, migration) in migrations.enumerated().dropFirst(version) {
            try db.inTransaction(.immediate) {
                try db.execute(sql: migration)
                try db.execute(sql: "PRAGMA application_id = \(applicationID); PRAGMA user_version = \(index + 1)")
                return .commit
            }
        }
        let check = try String.fetchOne(db, sql: "PRAGMA quick_check(1)")
        guard check == "ok" else { throw DirectoryFault.damaged(check ?? "no answer to a check") }
    }

    private func access<Value>(_ body: (Database) throws -> Value) throws(DirectoryFault) -> Value {
        do { return try database.writeWithoutTransaction(body) } catch { throw Self.fault(error) }
    }

    /// Runs `body` in a transaction, then publishes the next snapshot, before any other change can begin.
    private func change<Value>(
        takeBack: Bool = false, _ body: (Database) throws -> (Value, (DirectorySnapshot) -> DirectorySnapshot)
    ) throws(DirectoryFault) -> Value {
        try access { db in
            var result: (Value, (DirectorySnapshot) -> DirectorySnapshot)?
            try db.inTransaction(.immediate) {
                result = try body(db)
                return takeBack ? .rollback : .commit
            }
            let (value, next) = result!
            if !takeBack { current.withLock { $0 = next($0) } }
            return value
        }
    }

    private static func fault(_ error: any Error) -> DirectoryFault {
        if let fault = error as? DirectoryFault { return fault }
        guard let error = error as? DatabaseError else { return .unavailable(String(describing: error)) }
        let message = error.message ?? "error \(error.resultCode.rawValue)"
        return switch error.resultCode {
        case .SQLITE_CORRUPT, .SQLITE_NOTADB: .damaged(message)
        case .SQLITE_BUSY, .SQLITE_LOCKED: .locked
        default: .unavailable(message)
        }
    }
}
