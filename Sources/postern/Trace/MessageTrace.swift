import Gateway

/// What the log tells of one message, in the order of the log.
struct MessageTrace: Encodable {
    let id: String
    fileprivate(set) var lines: [LogLine] = []
    /// As it waits now; nil when it does not, or when no server runs.
    var waiting: QueuedMessage?

    private enum Key: String, CodingKey { case id, events, waiting }

    private struct Name: CodingKey {
        let stringValue: String
        var intValue: Int? { nil }
        init(_ text: String) { stringValue = text }
        init?(stringValue: String) { self.init(stringValue) }
        init?(intValue: Int) { nil }
    }

    init(_ id: String) { self.id = id }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(id, forKey: .id)
        var events = container.nestedUnkeyedContainer(forKey: .events)
        for line in lines {
            var event = events.nestedContainer(keyedBy: Name.self)
            try event.encode(line.time, forKey: Name("time"))
            for field in line.fields where field.name != "id" {
                try event.encode(field.value, forKey: Name(field.name))
            }
        }
        try container.encode(waiting, forKey: .waiting)
    }

    /// What is asked for: a queue id, or an address as it stands in an envelope.
    enum Subject {
        case id(String)
        case address(String)

        init(_ text: String) {
            if text.contains("@") {
                let inner = text.hasPrefix("<") && text.hasSuffix(">") ? String(text.dropFirst().dropLast()) : text
                self = .address(inner)
            } else {
                self = .id(text)
            }
        }
    }

    /// The ids that a log has of an address, in its order, and the lines that refused it: nothing was accepted.
    static func ids(of address: String, in source: LogSource) throws(TraceFault) -> (ids: [String], refusals: [LogLine])
    {
        let folded = address.lowercased()
        var ids: [String] = []
        var known: Set<String> = []
        var refusals: [LogLine] = []
        try source.forEachLine(containing: []) { line in
            let isIts = ["from", "to"].contains { line[$0]?.lowercased() == folded }
            if isIts, let id = line["id"] {
                if known.insert(id).inserted { ids.append(id) }
            } else if line["event"] == "refused", line["what"]?.lowercased().contains("<\(folded)>") == true {
                refusals.append(line)
            }
        }
        return (ids, refusals)
    }

    /// Every line of messages.
    static func all(_ ids: [String], in source: LogSource) throws(TraceFault) -> [MessageTrace] {
        guard !ids.isEmpty else { return [] }
        var traces = Dictionary(ids.map { ($0, MessageTrace($0)) }, uniquingKeysWith: { first, _ in first })
        // Of few ids the search for their text is quicker than reading every line.
        let needles = ids.count <= 8 ? ids : []
        try source.forEachLine(containing: needles) { line in
            if let id = line["id"] { traces[id]?.lines.append(line) }
        }
        return ids.compactMap { traces[$0] }
    }
}
