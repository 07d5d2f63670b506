/// Commands and their arguments.
extension IMAPParser {
    /// The command behind the tag and its space.
    mutating func command() throws(IMAPRefusal) -> IMAPCommand {
        var name = keyword()
        var isUID = false
        if name == "UID" {
            isUID = true
            try space()
            name = keyword()
            guard ["FETCH", "STORE", "SEARCH", "COPY", "EXPUNGE"].contains(name) else {
                throw IMAPRefusal("UID what?")
            }
        }
        let command = try arguments(of: name, isUID: isUID)
        try end()
        return command
    }

    private mutating func arguments(of name: String, isUID: Bool) throws(IMAPRefusal) -> IMAPCommand {
        switch name {
        case "CAPABILITY": return .capability
        case "NOOP": return .noop
        case "LOGOUT": return .logout
        case "STARTTLS": return .startTLS
        case "CHECK": return .check
        case "CLOSE": return .close
        case "UNSELECT": return .unselect
        case "IDLE": return .idle
        case "NAMESPACE": return .namespace
        case "ID":
            try space()
            try identification()
            return .id
        case "ENABLE":
            var names: [[UInt8]] = []
            repeat {
                try space()
                names.append(try atom())
            } while !isAtEnd
            return .enable(names)
        case "LOGIN":
            try space()
            let user = try astring()
            try space()
            return .login(user: user, password: try astring())
        case "AUTHENTICATE": return try authentication()
        case "SELECT", "EXAMINE": return try selection(readOnly: name == "EXAMINE")
        case "CREATE", "DELETE", "RENAME":
            let mailbox = try mailbox()
            if name == "RENAME" { _ = try self.mailbox() }
            let change: IMAPFolderChange = name == "CREATE" ? .create : name == "DELETE" ? .delete : .rename
            return .change(change, mailbox: mailbox)
        case "SUBSCRIBE", "UNSUBSCRIBE": return .subscribe(mailbox: try mailbox(), isOn: name == "SUBSCRIBE")
        case "LIST", "LSUB":
            let reference = try mailbox()
            try space()
            return .list(reference: reference, pattern: try pattern(), onlySubscribed: name == "LSUB")
        case "STATUS": return try status()
        case "GETQUOTA": return .quota(root: try mailbox())
        case "GETQUOTAROOT": return .quotaRoot(mailbox: try mailbox())
        case "SETQUOTA":
            at = bytes.count
            return .setQuota
        case "EXPUNGE":
            guard isUID else { return .expunge(uids: nil) }
            try space()
            return .expunge(uids: try sequenceSet())
        case "SEARCH": return .search(try searchProgram(), isUID: isUID)
        case "FETCH": return try fetch(isUID: isUID)
        case "STORE": return try store(isUID: isUID)
        case "COPY":
            try space()
            _ = try sequenceSet()
            return .copy(mailbox: try mailbox())
        default: throw IMAPRefusal("Command not recognized")
        }
    }

    private mutating func mailbox() throws(IMAPRefusal) -> [UInt8] {
        try space()
        return try astring()
    }

    /// `nil` or a list of pairs (RFC 2971 §4): read, checked and forgotten.
    private mutating func identification() throws(IMAPRefusal) {
        guard skip(UInt8(ascii: "(")) else {
            guard keyword() == "NIL" else { throw IMAPRefusal("Syntax: ID NIL, ID (\"name\" \"value\" …)") }
            return
        }
        var count = 0
        while !skip(UInt8(ascii: ")")) {
            if count > 0 { try space() }
            _ = try string()
            try space()
            if next == UInt8(ascii: "\"") || next == UInt8(ascii: "{") {
                _ = try string()
            } else if keyword() != "NIL" {
                throw IMAPRefusal("A value of ID is neither a string nor NIL")
            }
            count += 1
            guard count <= 30 else { throw IMAPRefusal("More than 30 fields in ID") }
        }
    }

    private mutating func authentication() throws(IMAPRefusal) -> IMAPCommand {
        try space()
        let name = try atom()
        var initial: [UInt8]?
        if skip(UInt8(ascii: " ")) {
            let rest = Array(bytes[at...])
            at = bytes.count
            if rest == [UInt8(ascii: "=")] {
                initial = []
            } else {
                guard let decoded = Base64.decode(rest) else { throw IMAPRefusal("The response is not base64") }
                initial = decoded
            }
        }
        let mechanism = String(decoding: name.map { $0 &- UInt8(ascii: "a") < 26 ? $0 & 0xdf : $0 }, as: UTF8.self)
        return .authenticate(mechanism: mechanism, initialResponse: initial)
    }

    private mutating func selection(readOnly: Bool) throws(IMAPRefusal) -> IMAPCommand {
        let mailbox = try mailbox()
        var modSequences = false
        if skip(UInt8(ascii: " ")) {
            try expect(UInt8(ascii: "("))
            repeat {
                let parameter = keyword()
                guard parameter == "CONDSTORE" else {
                    throw IMAPRefusal(
                        parameter == "QRESYNC" ? "QRESYNC is not enabled" : "Unknown parameter")
                }
                modSequences = true
            } while skip(UInt8(ascii: " "))
            try expect(UInt8(ascii: ")"))
        }
        return .select(mailbox: mailbox, readOnly: readOnly, modSequences: modSequences)
    }

    private mutating func status() throws(IMAPRefusal) -> IMAPCommand {
        let mailbox = try mailbox()
        try space()
        try expect(UInt8(ascii: "("))
        var items: [IMAPStatusItem] = []
        repeat {
            guard let item = IMAPStatusItem(rawValue: keyword()) else { throw IMAPRefusal("Unknown item of STATUS") }
            if !items.contains(item) { items.append(item) }
        } while skip(UInt8(ascii: " "))
        try expect(UInt8(ascii: ")"))
        return .status(mailbox: mailbox, items)
    }

    private mutating func store(isUID: Bool) throws(IMAPRefusal) -> IMAPCommand {
        try space()
        let set = try sequenceSet()
        try space()
        var unchangedSince: UInt64?
        if skip(UInt8(ascii: "(")) {
            guard keyword() == "UNCHANGEDSINCE" else { throw IMAPRefusal("Unknown modifier of STORE") }
            try space()
            unchangedSince = try number64()
            try expect(UInt8(ascii: ")"))
            try space()
        }
        let action: IMAPFlagChange.Action =
            skip(UInt8(ascii: "+")) ? .add : skip(UInt8(ascii: "-")) ? .remove : .replace
        let item = keyword()
        guard item == "FLAGS" || item == "FLAGS.SILENT" else { throw IMAPRefusal("Only FLAGS can be stored") }
        try space()
        let isList = skip(UInt8(ascii: "("))
        var flags: IMAPFlags = []
        if !(isList && next == UInt8(ascii: ")")) {
            repeat {
                if let flag = try flag() { flags.insert(flag) }
            } while skip(UInt8(ascii: " "))
        }
        if isList { try expect(UInt8(ascii: ")")) }
        return .store(
            set, IMAPFlagChange(action, flags), isSilent: item.count > 5, unchangedSince: unchangedSince, isUID: isUID)
    }
}
