/// One key: declared once, read from documents, written to them, and printed in the reference.
struct Setting<Owner: Sendable>: Sendable {
    /// Dotted: `limits.messageSize`.
    let key: String
    /// What it is for; a sentence or two.
    let text: String
    /// Completes "it takes …".
    let allowed: String
    /// As YAML on one line.
    let standardText: String
    /// False: the part that it belongs to is not in this version.
    let isBuilt: Bool
    /// The value in force.
    let read: @Sendable (Owner) -> DocumentValue
    /// The same, and of a secret the secret itself: for nobody's eyes.
    let tell: @Sendable (Owner) -> DocumentValue
    let isStandard: @Sendable (Owner) -> Bool
    /// `null` sets the default.
    let write: @Sendable (inout Owner, DocumentValue) throws(InvalidSetting) -> Void

    /// A key kept in `path`.
    ///
    /// - Parameters:
    ///   - standard: The owner that has every default.
    ///   - standardText: What the reference prints where the default is worked out.
    ///   - null: What `null` means, when it isn't the default.
    ///   - isSecret: What is given is never repeated.
    ///   - wordsNotBuilt: Values that the design names and this version does not have.
    ///   - effective: The value in force, where the kept one says "default".
    init<Value: Equatable & Sendable>(
        _ key: String, _ path: any WritableKeyPath<Owner, Value> & Sendable, _ form: ValueForm<Value>,
        in standard: Owner, _ text: String, isBuilt: Bool = true, standardText: String? = nil, null: Value? = nil,
        wordsNotBuilt: [String] = [], isSecret: Bool = false, effective: (@Sendable (Owner) -> Value)? = nil
    ) {
        let standardValue = standard[keyPath: path]
        self.key = key
        self.text = text
        self.allowed = form.allowed
        self.standardText = standardText ?? form.print(standardValue).flow
        self.isBuilt = isBuilt
        let read = { @Sendable (owner: Owner) in form.print(effective?(owner) ?? owner[keyPath: path]) }
        self.read = read
        self.tell = { owner in
            if isSecret, case .text(let text)? = owner[keyPath: path] as? Secret { return DocumentValue(.text(text)) }
            return read(owner)
        }
        self.isStandard = { $0[keyPath: path] == standardValue }
        self.write = { (owner, value) throws(InvalidSetting) in
            if value.isNull {
                owner[keyPath: path] = null ?? standardValue
                return
            }
            guard let parsed = form.parse(value) else {
                if let word = value.string, wordsNotBuilt.contains(word) { throw .notInThisVersion(key) }
                guard !isSecret else {
                    // Nobody's password stands in a log.
                    throw InvalidSetting(
                        "`\(key)`\(value.place): what was given is not allowed; it takes \(form.allowed)")
                }
                throw InvalidSetting(key: key, value: value, allowed: form.allowed)
            }
            owner[keyPath: path] = parsed
        }
    }

    /// A key whose part is not built yet: its default is accepted, so that a whole document can be given back.
    ///
    /// - Parameter standard: The default, which may depend on the owner.
    init(notBuilt key: String, standardText: String, _ standard: @escaping @Sendable (Owner) -> DocumentValue) {
        self.key = key
        self.text = ""
        self.allowed = "only its default"
        self.standardText = standardText
        self.isBuilt = false
        self.read = standard
        self.tell = standard
        self.isStandard = { _ in true }
        self.write = { (owner, value) throws(InvalidSetting) in
            guard value.isNull || Self.isSame(value, standard(owner)) else { throw .notInThisVersion(key) }
        }
    }

    private static func isSame(_ given: DocumentValue, _ standard: DocumentValue) -> Bool {
        switch standard.content {
        case .list: given.items?.isEmpty == true  // no list of these has a default with items
        case .text(let text):
            given.string == text
                // 30d is 720h.
                || DurationText.seconds(text).map { $0 == given.string.flatMap(DurationText.seconds) } ?? false
        default: standard.string.map { $0 == given.string } ?? false
        }
    }
}

/// All keys of one kind of document.
struct SettingTable<Owner: Sendable>: Sendable {
    let settings: [Setting<Owner>]
    private let indices: [String: Int]
    /// Keys that hold other keys: `limits`.
    private let groups: Set<String>

    init(_ settings: [Setting<Owner>]) {
        self.settings = settings
        indices = Dictionary(uniqueKeysWithValues: settings.enumerated().map { ($1.key, $0) })
        var groups: Set<String> = []
        for setting in settings {
            var key = setting.key[...]
            while let dot = key.lastIndex(of: ".") {
                key = key[..<dot]
                groups.insert(String(key))
            }
        }
        self.groups = groups
    }

    /// Sets what `value`, a map, names; the rest stays as it is. A key may stand in its group or be dotted.
    ///
    /// - Parameter given: Is told each key that was set.
    func merge(
        _ value: DocumentValue, into owner: inout Owner, at prefix: String = "",
        given: (Setting<Owner>) -> Void = { _ in }
    ) throws(InvalidSetting) {
        guard case .map(let members) = value.content else {
            throw InvalidSetting("the document\(value.place) is no map of keys and values")
        }
        for member in members {
            let key = prefix.isEmpty ? member.key : "\(prefix).\(member.key)"
            if let index = indices[key] {
                try settings[index].write(&owner, member.value)
                given(settings[index])
            } else if groups.contains(key) {
                if member.value.isNull { continue }
                guard case .map = member.value.content else { throw holdsKeys(key, place: member.value.place) }
                try merge(member.value, into: &owner, at: key, given: given)
            } else {
                throw unknown(key, place: member.value.place)
            }
        }
    }

    /// Sets one key from `key=value`.
    func assign(_ assignment: String, to owner: inout Owner) throws(InvalidSetting) {
        guard let equals = assignment.firstIndex(of: "=") else {
            throw InvalidSetting("\(InvalidSetting.quote(assignment)) is not of the form key=value")
        }
        let text = String(assignment[assignment.index(after: equals)...])
        try assign(
            key: String(assignment[..<equals]), DocumentValue(text == "null" ? .null : .word(text)), to: &owner)
    }

    func assign(key: String, _ value: DocumentValue, to owner: inout Owner) throws(InvalidSetting) {
        guard let index = indices[key] else { throw groups.contains(key) ? holdsKeys(key) : unknown(key) }
        try settings[index].write(&owner, value)
    }

    subscript(key: String) -> Setting<Owner>? { indices[key].map { settings[$0] } }

    /// The owner's values, nested as in the document.
    ///
    /// - Parameter onlyChanged: Leaves out what stands at its default.
    func document(_ owner: Owner, onlyChanged: Bool, tellsSecrets: Bool = false) -> DocumentValue {
        let shown = onlyChanged ? settings.filter { !$0.isStandard(owner) } : settings
        return DocumentValue(
            .map(members(shown[...], depth: 0) { tellsSecrets ? $0.tell(owner) : $0.read(owner) }))
    }

    private func members(
        _ shown: ArraySlice<Setting<Owner>>, depth: Int, _ value: (Setting<Owner>) -> DocumentValue
    ) -> [DocumentValue.Member] {
        var members: [DocumentValue.Member] = []
        var rest = shown
        while let first = rest.first {
            let parts = first.key.split(separator: ".")
            if parts.count == depth + 1 {
                members.append(DocumentValue.Member(String(parts[depth]), value(first)))
                rest = rest.dropFirst()
                continue
            }
            let group = parts[...depth].joined(separator: ".") + "."
            let run = rest.prefix { $0.key.hasPrefix(group) }
            members.append(
                DocumentValue.Member(
                    String(parts[depth]), DocumentValue(.map(self.members(run, depth: depth + 1, value)))))
            rest = rest[run.endIndex...]
        }
        return members
    }

    /// All keys as a table in Markdown.
    ///
    /// - Parameter variable: Names the environment variable of a key; nil: there are none.
    func markdown(variable: ((String) -> String)? = nil) -> String {
        var text = "| key | default | takes | meaning |" + (variable == nil ? "\n" : " environment |\n")
        text += "| --- | --- | --- | --- |" + (variable == nil ? "\n" : " --- |\n")
        for setting in settings {
            let meaning = [setting.text, setting.isBuilt ? "" : "Not in this version."].filter { !$0.isEmpty }
            text +=
                "| `\(setting.key)` | `\(setting.standardText)` | \(setting.allowed) | \(meaning.joined(separator: " ")) |"
            text += variable.map { " `\($0(setting.key))` |\n" } ?? "\n"
        }
        return text
    }

    private func holdsKeys(_ key: String, place: String = "") -> InvalidSetting {
        let first = settings.first { $0.key.hasPrefix(key + ".") }?.key ?? key
        return InvalidSetting("`\(key)`\(place) holds other keys; give one of them, such as `\(first)`")
    }

    func unknown(_ key: String, place: String = "") -> InvalidSetting {
        let nearest = nearestKey(to: key).map { ": did you mean `\($0)`?" } ?? ""
        return InvalidSetting("unknown key \(InvalidSetting.quote(key))\(place)\(nearest)")
    }

    /// The key with the fewest letters changed, if it is near enough to be meant, or the one that ends in `key`.
    func nearestKey(to key: String) -> String? {
        let key = String(key.prefix(64)).lowercased()
        var best: (key: String, distance: Int)?
        for candidate in settings.map(\.key) + groups.sorted() {
            var distance = EditDistance.between(key, candidate.lowercased())
            if candidate.lowercased().hasSuffix("." + key) { distance = min(distance, 1) }
            if distance < best?.distance ?? .max { best = (candidate, distance) }
        }
        guard let best, best.distance <= max(2, key.utf8.count / 3) else { return nil }
        return best.key
    }
}

private enum EditDistance {
    /// Insertions, deletions and replacements of bytes that turn one text into the other.
    static func between(_ a: String, _ b: String) -> Int {
        let b = Array(b.utf8)
        var row = Array(0...b.count)
        for (i, byte) in a.utf8.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for j in b.indices {
                let replaced = diagonal + (byte == b[j] ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(replaced, diagonal + 1, row[j] + 1)
            }
        }
        return row[b.count]
    }
}
