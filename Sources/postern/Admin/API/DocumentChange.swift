import Gateway

/// How two gateway documents, or settings, differ; key by key.
enum DocumentChange {
    /// Dotted keys with their values.
    static func flat(_ value: DocumentValue, prefix: String = "") -> [(key: String, value: DocumentValue)] {
        guard case .map(let members) = value.content else { return [(prefix, value)] }
        return members.flatMap { member in
            flat(member.value, prefix: prefix.isEmpty ? member.key : "\(prefix).\(member.key)")
        }
    }

    static func between(_ before: DocumentValue, _ after: DocumentValue) -> [AuditEntry.Change] {
        let old = Dictionary(flat(before).map { ($0.key, $0.value.json) }) { $1 }
        return flat(after).compactMap { key, value in
            let json = value.json
            return old[key] == json ? nil : AuditEntry.Change(key: key, before: old[key], after: json)
        }
    }

    static func differences(stored: DocumentValue, sent: DocumentValue) -> [Problem.Difference] {
        let old = Dictionary(flat(stored).map { ($0.key, $0.value) }) { $1 }
        return flat(sent).compactMap { key, value in
            guard let stored = old[key], stored.json != value.json else { return nil }
            // What was sent as a secret is not said again.
            let isSecret = stored.json == "\"\(Secret.mask)\""
            return Problem.Difference(key: key, stored: JSON(stored), sent: JSON(isSecret ? stored : value))
        }
    }

    /// What turns `stored` into `wanted`, and no more: so a document that is given back as it was read changes nothing, also
    /// not a default into the same value said.
    ///
    /// - Returns: dotted keys, for `merge`; null sets a default.
    static func merging(_ stored: GatewayDocument, into wanted: GatewayDocument) throws(InvalidSetting)
        -> [DocumentValue.Member]
    {
        let said = Dictionary(flat(wanted.toldChanges).map { ($0.key, $0.value) }) { $1 }
        var members: [DocumentValue.Member] = []
        var reached = stored
        // Twice: a default may follow from another key, so that it moves when that one is set.
        for _ in 0..<2 {
            let old = Dictionary(flat(reached.toldValue).map { ($0.key, $0.value.json) }) { $1 }
            let changed = flat(wanted.toldValue).filter { old[$0.key] != $0.value.json }
            if changed.isEmpty { break }
            members += changed.map { DocumentValue.Member($0.key, said[$0.key] ?? .null) }
            reached = stored
            try reached.merge(DocumentValue(.map(members)))
        }
        return members
    }

    /// Every key of `value` that `apply` refuses, each with its sentence.
    static func faults(in value: DocumentValue, _ apply: (DocumentValue) throws(InvalidSetting) -> Void)
        -> [Problem.Field]
    {
        flat(value).compactMap { key, value in
            do throws(InvalidSetting) {
                try apply(DocumentValue(.map([DocumentValue.Member(key, value)])))
                return nil
            } catch {
                return Problem.Field(field: key, detail: error.sentence)
            }
        }
    }
}
