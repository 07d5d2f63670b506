/// SEARCH (RFC 3501 §6.4.4): what the list of messages tells is decided at once; only where that is not enough a message is
/// described, then its header section read, then its text parts.
extension IMAPServerSession {
    struct SearchRun {
        enum Level: Int { case list, description, header, content }

        enum Stage {
            /// Decides about the message at `next`, with what is known of it.
            case evaluate
            case scan
            /// A part's index; its header section, then its body.
            case part(Int, isBody: Bool)
            /// The next index to be written.
            case answer(Int)
        }

        let program: IMAPSearchProgram
        /// Numbers and UIDs in it are indices.
        let key: IMAPSearchKey
        let isUID: Bool

        var stage = Stage.evaluate
        var next = 0
        var level = Level.list
        var description: IMAPDescription?
        var matcher: IMAPSearchMatcher
        var scanner: MIMEScanner?
        var hasFailed = false

        /// A bit for each message.
        var matches: [UInt64]
        var count = 0
        var first: Int?
        var last = 0
        var highestModSequence: UInt64 = 0
        var writer = IMAPSetWriter()
        var hasBegun = false

        init(_ program: IMAPSearchProgram, _ key: IMAPSearchKey, isUID: Bool, messages: Int) {
            self.program = program
            self.key = key
            self.isUID = isUID
            matcher = IMAPSearchMatcher(program.needles)
            matches = Array(repeating: 0, count: (messages + 63) / 64)
        }

        func isMatch(_ index: Int) -> Bool { matches[index / 64] & 1 << UInt64(index % 64) != 0 }

        mutating func nextMessage() {
            next += 1
            guard level != .list else { return }
            level = .list
            description = nil
            matcher = IMAPSearchMatcher(program.needles)
        }

        /// Content that was asked for; false if it is enough.
        mutating func received(_ bytes: UnsafeRawBufferPointer) -> Bool {
            switch stage {
            case .evaluate:
                matcher.receivedHeader(bytes)
                return !matcher.isHeaderOver
            case .scan:
                scanner!.received(bytes)
                return true
            case .part(_, isBody: false):
                matcher.receivedHeader(bytes)
                return true
            case .part(_, isBody: true):
                matcher.receivedBody(bytes)
                return !matcher.isContentDone
            case .answer: return false
            }
        }
    }

    mutating func search(
        _ program: IMAPSearchProgram, isUID: Bool, into output: inout ByteOutput
    ) throws(IMAPRefusal) -> Event? {
        if program.usesModSequences { try useModSequences(into: &output) }
        let key = try resolved(program.key)
        run = .search(SearchRun(program, key, isUID: isUID, messages: selected!.announced))
        state = .running
        return nil
    }

    /// Numbers and UIDs as indices: they don't change while the command is under way.
    private func resolved(_ key: IMAPSearchKey) throws(IMAPRefusal) -> IMAPSearchKey {
        switch key {
        case .numbers(let set): return .indices(try indices(of: set, isUID: false))
        case .uids(let set): return .indices(try indices(of: set, isUID: true))
        case .not(let inner): return .not(try resolved(inner))
        case .or(let a, let b): return .or(try resolved(a), try resolved(b))
        case .and(let keys):
            var all: [IMAPSearchKey] = []
            for key in keys { all.append(try resolved(key)) }
            return .and(all)
        default: return key
        }
    }

    /// nil: not to be decided with what is known so far.
    private func evaluate(_ key: IMAPSearchKey, _ search: SearchRun) -> Bool? {
        let message = selected!.messages[search.next]
        switch key {
        case .all: return true
        case .never: return false
        case .flag(let flag, let isSet): return message.flags.contains(flag) == isSet
        case .indices(let ranges): return ranges.has(search.next)
        case .numbers, .uids: preconditionFailure("not resolved")
        case .modSequence(let least): return message.modSequence >= least
        case .received(let days):
            guard let description = search.description else { return nil }
            let seconds = Int(description.unixSeconds)
            return days.contains(seconds >= 0 ? seconds / 86_400 : (seconds - 86_399) / 86_400)
        case .larger(let bytes): return search.description.map { UInt64($0.bytes) > bytes }
        case .smaller(let bytes): return search.description.map { UInt64($0.bytes) < bytes }
        case .sent(let days):
            guard search.level.rawValue >= SearchRun.Level.header.rawValue else { return nil }
            return search.matcher.sentDay.map { days.contains($0) } ?? false
        case .needle(let index):
            if search.matcher.isFound(index) { return true }
            let needed: SearchRun.Level =
                if case .header = search.program.needles[index].place { .header } else { .content }
            return search.level.rawValue >= needed.rawValue ? false : nil
        case .not(let inner): return evaluate(inner, search).map { !$0 }
        case .or(let a, let b):
            let first = evaluate(a, search)
            if first == true { return true }
            let second = evaluate(b, search)
            return second == true ? true : first == nil ? nil : second
        case .and(let keys):
            var isKnown = true
            for key in keys {
                switch evaluate(key, search) {
                case false?: return false
                case nil: isKnown = false
                case true?: break
                }
            }
            return isKnown ? true : nil
        }
    }

    mutating func stepSearch(_ search: inout SearchRun, into output: inout ByteOutput) -> Event? {
        switch search.stage {
        case .evaluate:
            if let event = decide(&search) {
                run = .search(search)
                return event
            }
        case .scan:
            // Asked for, and over: the parts come.
            search.stage = .part(0, isBody: true)
        case .part(let index, let isBody):
            if let event = readPart(index, isBody: isBody, &search) {
                run = .search(search)
                return event
            }
        case .answer(let index):
            if !writeAnswer(&search, from: index, into: &output) { break }
            if search.hasFailed {
                finish(
                    "NO", "Some messages can't be read", code: "UNAVAILABLE", mayExpunge: search.isUID, into: &output)
            } else {
                finish("OK", "SEARCH completed", mayExpunge: search.isUID, into: &output)
            }
            return nil
        }
        run = .search(search)
        return nil
    }

    /// Decides about messages up to the first that must be asked for, or the last.
    private mutating func decide(_ search: inout SearchRun) -> Event? {
        var steps = 0
        while search.next < selected!.announced {
            if steps == settings.turnMessagesMax { return .workLeft }
            steps += 1
            let message = selected!.messages[search.next]
            if message.flags.contains(.gone) {
                search.nextMessage()
                continue
            }
            if let isMatch = evaluate(search.key, search) {
                if isMatch {
                    search.matches[search.next / 64] |= 1 << UInt64(search.next % 64)
                    search.count += 1
                    if search.first == nil { search.first = search.next }
                    search.last = search.next
                    search.highestModSequence = max(search.highestModSequence, message.modSequence)
                }
                search.nextMessage()
                continue
            }
            switch search.level {
            case .list: return ask(.description, .describe(message.uid))
            case .description:
                search.matcher.beginHeader(isRoot: true)
                return ask(.content, .read(message.uid, 0..<(search.description?.bytes ?? 0)))
            case .header:
                search.stage = .scan
                if isKnown(message.uid, onlyHeader: false) { return nil }
                search.scanner = MIMEScanner()
                return ask(.content, .read(message.uid, 0..<(search.description?.bytes ?? 0)))
            case .content: preconditionFailure("all is known, and nothing decided")
            }
        }
        search.stage = .answer(0)
        return nil
    }

    mutating func takeDescription(_ description: IMAPDescription?, _ search: inout SearchRun) {
        search.description = description
        search.level = .description
        if description == nil {
            selected!.markGone(search.next)
            search.nextMessage()
        }
    }

    mutating func endContent(_ search: inout SearchRun, isWhole: Bool) {
        guard isWhole else {
            search.hasFailed = true
            search.scanner = nil
            search.stage = .evaluate
            search.level = .content
            return search.nextMessage()
        }
        switch search.stage {
        case .evaluate:
            search.matcher.endHeader()
            search.level = .header
        case .scan:
            let structure = search.scanner!.finish()
            search.scanner = nil
            remember(selected!.messages[search.next].uid, structure, onlyHeader: false)
        case .part(let index, isBody: false):
            search.matcher.endHeader()
            search.stage = .part(index, isBody: true)
        case .part(let index, isBody: true):
            search.matcher.endBody()
            search.stage = .part(index + 1, isBody: false)
        case .answer: break
        }
    }

    /// Asks for a part's header section or body, or goes on behind it.
    private mutating func readPart(_ index: Int, isBody: Bool, _ search: inout SearchRun) -> Event? {
        let structure = selected!.known!.structure
        guard index < structure.parts.count, !search.matcher.isContentDone else {
            search.level = .content
            search.stage = .evaluate
            return nil
        }
        let part = structure.parts[index]
        let uid = selected!.messages[search.next].uid
        if !isBody {
            search.matcher.beginHeader(isRoot: false)
            if part.header.isEmpty {
                search.stage = .part(index, isBody: true)
                return nil
            }
            return ask(.content, .read(uid, part.header))
        }
        guard IMAPSearchMatcher.isSearched(part), !part.body.isEmpty else {
            search.stage = .part(index + 1, isBody: false)
            return nil
        }
        search.matcher.beginBody(of: part)
        return ask(.content, .read(uid, part.body))
    }

    // MARK: The answer

    /// True if it is complete.
    private mutating func writeAnswer(
        _ search: inout SearchRun, from start: Int, into output: inout ByteOutput
    ) -> Bool {
        let returning = search.program.returning
        if !search.hasBegun {
            search.hasBegun = true
            writeBegin(search, into: &output)
        }
        if returning?.contains(.all) ?? true {
            var index = start
            while search.count > 0, index <= search.last {
                guard output.count < settings.outputPauseBytes else {
                    search.stage = .answer(index)
                    return false
                }
                if search.isMatch(index) {
                    if returning == nil {
                        output.append(UInt8(ascii: " "))
                        output.append(number: number(index, search))
                    } else {
                        search.writer.add(UInt32(number(index, search)), into: &output)
                    }
                }
                index += 1
            }
            search.writer.finish(into: &output)
        }
        if let returning, returning.contains(.count) {
            output.append(" COUNT ")
            output.append(number: search.count)
        }
        if search.program.usesModSequences, search.count > 0 {
            output.append(returning == nil ? " (MODSEQ " : " MODSEQ ")
            output.append(number: Int(modSequence(of: search)))
            if returning == nil { output.append(UInt8(ascii: ")")) }
        }
        output.append("\r\n")
        return true
    }

    private func writeBegin(_ search: SearchRun, into output: inout ByteOutput) {
        guard let returning = search.program.returning else { return output.append("* SEARCH") }
        output.append("* ESEARCH (TAG \"")
        output.append(tag)
        output.append("\")")
        if search.isUID { output.append(" UID") }
        guard let first = search.first else { return }
        if returning.contains(.minimum) {
            output.append(" MIN ")
            output.append(number: number(first, search))
        }
        if returning.contains(.maximum) {
            output.append(" MAX ")
            output.append(number: number(search.last, search))
        }
        if returning.contains(.all) { output.append(" ALL ") }
    }

    private func number(_ index: Int, _ search: SearchRun) -> Int {
        search.isUID ? Int(selected!.messages[index].uid) : index + 1
    }

    /// Of the messages that the answer names (RFC 4731 §3.2).
    private func modSequence(of search: SearchRun) -> UInt64 {
        guard let first = search.first, let returning = search.program.returning,
            returning.isDisjoint(with: [.all, .count])
        else { return search.highestModSequence }
        let (low, high) = (selected!.messages[first].modSequence, selected!.messages[search.last].modSequence)
        return returning == .minimum ? low : returning == .maximum ? high : max(low, high)
    }
}
