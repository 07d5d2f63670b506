import Foundation
import GRDB

/// Who changed what. A change is noted before it is asked for, and its outcome afterwards: there is none that isn't noted.
extension AccessStore {
    /// - Returns: the entry's id, for `auditEnded`.
    func auditBegan(_ caller: Caller, action: String, object: String, now: Double) throws(AccessFault) -> Int64 {
        try auditBegan(who: caller.title, address: caller.address, action: action, object: object, now: now)
    }

    func auditBegan(who: String, address: String, action: String, object: String, now: Double)
        throws(AccessFault) -> Int64
    {
        try write { database in
            try database.execute(
                sql: """
                    INSERT INTO audit (at, who, address, action, object, outcome, changes)
                    VALUES (?, ?, ?, ?, ?, 'unknown', '[]')
                    """, arguments: [now, Self.cut(who), Self.cut(address), action, Self.cut(object)])
            let id = database.lastInsertedRowID
            try database.execute(
                sql: "DELETE FROM audit WHERE id <= ? OR at < ?",
                arguments: [id - Int64(Limits.auditEntries), now - Limits.auditSeconds])
            return id
        }
    }

    func auditEnded(_ id: Int64, outcome: String, detail: String? = nil, changes: [AuditEntry.Change] = [])
        throws(AccessFault)
    {
        let shown = changes.map {
            AuditEntry.Change(key: $0.key, before: $0.before.map(Self.cut), after: $0.after.map(Self.cut))
        }
        // Texts only: this can't fail.
        let json = (try? JSONEncoder().encode(shown)).map { String(decoding: $0, as: UTF8.self) } ?? "[]"
        try write { database in
            try database.execute(
                sql: "UPDATE audit SET outcome = ?, detail = ?, changes = ? WHERE id = ?",
                arguments: [outcome, detail.map(Self.cut), json, id])
        }
    }

    /// One that is over as soon as it is noted, such as a failed sign-in.
    func audit(who: String, address: String, action: String, object: String, outcome: String, now: Double)
        throws(AccessFault)
    {
        let id = try auditBegan(who: who, address: address, action: action, object: object, now: now)
        try auditEnded(id, outcome: outcome)
    }

    /// The newest first, older than `before`, that hold `search` anywhere.
    func auditEntries(before: Int64?, search: String?, limit: Int) throws(AccessFault) -> [AuditEntry] {
        try read { database in
            try Row.fetchAll(
                database,
                sql: """
                    SELECT * FROM audit WHERE id < ?
                    AND (? IS NULL OR instr(lower(who || ' ' || address || ' ' || action || ' ' || object || ' ' || changes), lower(?)) > 0)
                    ORDER BY id DESC LIMIT ?
                    """, arguments: [before ?? Int64.max, search, search, limit]
            ).map { row in
                let changes: String = row["changes"]
                return AuditEntry(
                    id: row["id"], at: row["at"], who: row["who"], address: row["address"], action: row["action"],
                    object: row["object"], outcome: row["outcome"], detail: row["detail"],
                    changes: (try? JSONDecoder().decode([AuditEntry.Change].self, from: Data(changes.utf8))) ?? [])
            }
        }
    }

    private static func cut(_ text: String) -> String {
        text.count <= Limits.auditValue ? text : text.prefix(Limits.auditValue) + "…"
    }
}
