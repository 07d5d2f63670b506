/// What is done about each command.
extension IMAPServerSession {
    private enum Needs { case nothing, noLogin, login, folder }

    private static func needs(_ command: IMAPCommand) -> Needs {
        switch command {
        case .capability, .noop, .logout, .id: .nothing
        case .startTLS, .login, .authenticate: .noLogin
        case .enable, .select, .change, .subscribe, .list, .status, .namespace, .quota, .quotaRoot, .setQuota, .idle:
            .login
        case .check, .close, .unselect, .expunge, .search, .fetch, .store, .copy: .folder
        }
    }

    mutating func perform(_ command: IMAPCommand, into output: inout ByteOutput) throws(IMAPRefusal) -> Event? {
        switch Self.needs(command) {
        case .nothing: break
        case .noLogin: guard phaseOfLogin == .none else { throw IMAPRefusal("You are logged in already") }
        case .login: guard phaseOfLogin == .done else { throw IMAPRefusal("Log in first") }
        case .folder:
            guard phaseOfLogin == .done else { throw IMAPRefusal("Log in first") }
            guard selected != nil else { throw IMAPRefusal("Select a folder first") }
        }
        switch command {
        case .capability:
            output.append("* CAPABILITY ")
            writeCapabilities(into: &output)
            output.append("\r\n")
            finish("OK", "CAPABILITY completed", into: &output)
        case .noop: finish("OK", "NOOP completed", into: &output)
        case .check: finish("OK", "CHECK completed", into: &output)
        case .logout:
            output.append("* BYE Logging out\r\n")
            reply("OK", "LOGOUT completed", into: &output)
            state = .closing
            return .hangUp
        case .id:
            output.append("* ID (\"name\" \"Postern\")\r\n")
            finish("OK", "ID completed", into: &output)
        case .startTLS: return try startTLS(into: &output)
        case .login(let user, let password): return try login(user, password)
        case .authenticate(let mechanism, let initial): return try authenticate(mechanism, initial)
        case .enable(let names): enable(names, into: &output)
        case .idle:
            output.append("+ Idling\r\n")
            expects = .done
            state = .line
        case .namespace:
            output.append("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n")
            finish("OK", "NAMESPACE completed", into: &output)
        case .select(let mailbox, let readOnly, let modSequences):
            return try select(mailbox, readOnly: readOnly, modSequences: modSequences, into: &output)
        case .close, .unselect: return close(expunging: command == .close, into: &output)
        case .change(let change, let mailbox): try refuseChange(change, mailbox)
        case .subscribe(let mailbox, let isOn): try subscribe(mailbox, isOn: isOn, into: &output)
        case .list(let reference, let pattern, let onlySubscribed):
            list(reference, pattern, onlySubscribed: onlySubscribed, into: &output)
        case .status(let mailbox, let items): return try status(mailbox, items, into: &output)
        case .quota(let root):
            guard settings.offersQuota else { throw IMAPRefusal("Command not recognized") }
            guard root.isEmpty else { throw IMAPRefusal(no: "No such quota root", code: "NONEXISTENT") }
            return ask(.quota(folder: nil), .quota)
        case .quotaRoot(let mailbox):
            guard settings.offersQuota else { throw IMAPRefusal("Command not recognized") }
            return ask(.quota(folder: try folder(mailbox)), .quota)
        case .setQuota: throw IMAPRefusal(no: "The provider sets the quota", code: "NOPERM")
        case .expunge(let uids): return try expunge(uids, into: &output)
        case .search(let program, let isUID): return try search(program, isUID: isUID, into: &output)
        case .fetch(let set, let items, let changedSince, let isUID):
            return try fetch(set, items, changedSince: changedSince, isUID: isUID, into: &output)
        case .store(let set, let change, let isSilent, let unchangedSince, let isUID):
            return try store(set, change, isSilent, unchangedSince: unchangedSince, isUID: isUID, into: &output)
        case .copy(let mailbox):
            _ = try folder(mailbox)
            throw IMAPRefusal(no: "Folders here can't take copies", code: "CANNOT")
        }
        return nil
    }

    mutating func ask(_ question: Question, _ event: Event) -> Event {
        state = .asking(question)
        return event
    }

    // MARK: Capabilities

    /// Nothing is announced of which a MUST doesn't hold here (RFC 3501 §6.1.1).
    func writeCapabilities(into output: inout ByteOutput) {
        output.append("IMAP4rev1 LITERAL- SASL-IR ID ENABLE")
        guard phaseOfLogin == .done else {
            if settings.offersStartTLS, !isTLS { output.append(" STARTTLS") }
            if !mayLogIn { output.append(" LOGINDISABLED") }
            for mechanism in offeredMechanisms {
                output.append(" AUTH=")
                output.append(text: mechanism)
            }
            return
        }
        output.append(" IDLE NAMESPACE UIDPLUS UNSELECT ESEARCH")
        if settings.offersModSequences { output.append(" CONDSTORE") }
        if settings.offersQuota { output.append(" QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE") }
    }

    private var mayLogIn: Bool { isTLS || settings.allowsCleartextLogin }

    private var offeredMechanisms: [String] {
        mayLogIn && !isTLS
            ? settings.cleartextMechanisms + settings.mechanisms.filter { !settings.cleartextMechanisms.contains($0) }
            : isTLS ? settings.mechanisms : settings.cleartextMechanisms
    }

    private mutating func enable(_ names: [[UInt8]], into output: inout ByteOutput) {
        let enables = settings.offersModSequences && names.contains { asciiMatches($0, "condstore") }
        // Of what was on before, nothing is said again (RFC 5161 §3.2).
        output.append(enables && !isModSequenceAware ? "* ENABLED CONDSTORE\r\n" : "* ENABLED\r\n")
        if enables { becomeModSequenceAware(into: &output) }
        finish("OK", "ENABLE completed", into: &output)
    }

    /// The first command that speaks of mod-sequences: the client is told where they stand (RFC 7162 §3.1).
    mutating func becomeModSequenceAware(into output: inout ByteOutput) {
        guard !isModSequenceAware else { return }
        isModSequenceAware = true
        if let selected, selected.highestModSequence > 0 { writeHighestModSequence(selected, into: &output) }
    }

    /// - Throws: BAD in a folder that has none (RFC 7162 §3.1.2.2), and where they are not offered.
    mutating func useModSequences(into output: inout ByteOutput) throws(IMAPRefusal) {
        guard settings.offersModSequences, let selected, selected.highestModSequence > 0 else {
            throw IMAPRefusal("Mod-sequences are not kept here")
        }
        becomeModSequenceAware(into: &output)
    }

    // MARK: Login

    private mutating func startTLS(into output: inout ByteOutput) throws(IMAPRefusal) -> Event {
        guard settings.offersStartTLS else { throw IMAPRefusal("STARTTLS is not offered") }
        guard !isTLS else { throw IMAPRefusal("TLS is already in use") }
        reply("OK", "Begin TLS negotiation now", into: &output)
        state = .startingTLS
        return .startTLS
    }

    private mutating func login(_ user: [UInt8], _ password: [UInt8]) throws(IMAPRefusal) -> Event {
        guard mayLogIn else {
            throw IMAPRefusal(no: "No passwords without TLS", code: "PRIVACYREQUIRED")
        }
        return ask(.login, .login(user: user, password: password))
    }

    private mutating func authenticate(_ mechanism: String, _ initial: [UInt8]?) throws(IMAPRefusal) -> Event {
        guard offeredMechanisms.contains(mechanism) else {
            let isOfTLS = settings.mechanisms.contains(mechanism)
            throw isOfTLS
                ? IMAPRefusal(no: "Not without TLS", code: "PRIVACYREQUIRED") : IMAPRefusal(no: "Unknown mechanism")
        }
        return ask(.authentication, .authenticate(mechanism: mechanism, initialResponse: initial))
    }

    /// Goes on with the SASL exchange: the client is asked for its answer to `bytes`.
    public mutating func challenge(_ bytes: [UInt8], into output: inout ByteOutput) {
        guard case .asking(.authentication) = state else { preconditionFailure("no exchange under way") }
        output.append("+ ")
        Base64.encode(bytes, into: &output)
        output.append("\r\n")
        state = .line
        expects = .authenticationResponse
    }

    /// - `folders`: their names, the first of which must be INBOX; ASCII without `"`, `\`, `&` and wildcards.
    public mutating func acceptLogin(folders: [String], into output: inout ByteOutput) {
        guard case .asking(let question) = state, question == .login || question == .authentication else {
            preconditionFailure("no login to answer")
        }
        precondition(folders.first == "INBOX", "the first folder is INBOX")
        self.folders = folders
        phaseOfLogin = .done
        failedLoginCount = 0
        errorCount = 0
        var capabilities = ByteOutput()
        writeCapabilities(into: &capabilities)
        let text = String(decoding: capabilities.bytes, as: UTF8.self)
        reply("OK", "Logged in", code: "CAPABILITY \(text)", into: &output)
    }

    /// The text must not say which of name and password was wrong (T-D5).
    public mutating func refuseLogin(_ denial: IMAPDenial, into output: inout ByteOutput) {
        guard case .asking(let question) = state, question == .login || question == .authentication else {
            preconditionFailure("no login to answer")
        }
        failedLoginCount += 1
        reply("NO", denial.text, code: denial.code, into: &output)
        if denial.isFinal || failedLoginCount >= settings.failedLoginsMax {
            _ = hangUp("Too many failed logins", into: &output)
        }
    }

    /// Refuses what the last event asked for: a folder, its status, the quota.
    public mutating func refused(_ denial: IMAPDenial, into output: inout ByteOutput) {
        guard case .asking(let question) = state else { preconditionFailure("nothing to refuse") }
        switch question {
        case .open, .status, .quota: break
        default: preconditionFailure("that can't be refused")
        }
        guard denial.isFinal else { return finish("NO", denial.text, code: denial.code, into: &output) }
        reply("NO", denial.text, code: denial.code, into: &output)
        _ = hangUp("Closing", into: &output)
    }
}
