/// STORE (RFC 3501 §6.4.6, RFC 7162 §3.1.3) and EXPUNGE (RFC 3501 §6.4.3, RFC 4315 §2.1): the owner decides, slice by slice.
extension IMAPServerSession {
    struct StoreRun {
        let indices: [Range<Int>]
        let change: IMAPFlagChange
        let isSilent: Bool
        let unchangedSince: UInt64?
        let isUID: Bool
        /// Where it goes on: an index, within the first range that reaches beyond it.
        var next = 0
        var range = 0
        /// Those of the slice that is under way.
        var slice: [Int] = []
        /// UIDs or numbers that were changed meanwhile, and whether some are no more.
        var modified: [UInt32] = []
        var hasGone = false
    }

    mutating func store(
        _ set: IMAPSequenceSet, _ change: IMAPFlagChange, _ isSilent: Bool, unchangedSince: UInt64?, isUID: Bool,
        into output: inout ByteOutput
    ) throws(IMAPRefusal) -> Event? {
        guard !selected!.isReadOnly else { throw IMAPRefusal(no: "The folder is read-only", code: "READ-ONLY") }
        let indices = try indices(of: set, isUID: isUID)
        if unchangedSince != nil { try useModSequences(into: &output) }
        run = .store(
            StoreRun(
                indices: indices, change: change, isSilent: isSilent, unchangedSince: unchangedSince, isUID: isUID))
        state = .running
        return nil
    }

    /// - Throws: BAD for a number that no message has.
    func indices(of set: IMAPSequenceSet, isUID: Bool) throws(IMAPRefusal) -> [Range<Int>] {
        if isUID { return set.indices(ofUIDsIn: selected!.numbered) }
        guard let indices = set.indices(count: selected!.announced) else {
            throw IMAPRefusal("No message has such a number")
        }
        return indices
    }

    mutating func stepStore(_ store: inout StoreRun, into output: inout ByteOutput) -> Event? {
        store.slice.removeAll(keepingCapacity: true)
        while store.range < store.indices.count, store.slice.count < settings.sliceMax {
            let range = store.indices[store.range]
            let index = max(store.next, range.lowerBound)
            guard index < range.upperBound else {
                store.range += 1
                continue
            }
            store.next = index + 1
            if selected!.messages[index].flags.contains(.gone) {
                store.hasGone = true
            } else {
                store.slice.append(index)
            }
        }
        guard !store.slice.isEmpty else {
            endStore(store, into: &output)
            return nil
        }
        let uids = store.slice.map { selected!.messages[$0].uid }
        run = .store(store)
        return ask(
            .store,
            .store(IMAPStore(uids: uids, change: store.change, unchangedSince: store.unchangedSince)))
    }

    /// What became of each message of a `.store`, in the same order.
    public mutating func stored(_ outcomes: [IMAPStoreOutcome], into output: inout ByteOutput) {
        guard case .asking(.store) = state else { preconditionFailure("no flags to store") }
        state = .running
        if case .fetch(var fetch) = run {
            precondition(outcomes.count == 1, "one outcome for each message")
            takeSeen(outcomes[0], &fetch)
            run = .fetch(fetch)
            return
        }
        guard case .store(var store) = run else { preconditionFailure("no flags to store") }
        precondition(outcomes.count == store.slice.count, "one outcome for each message")
        run = nil
        for (index, outcome) in zip(store.slice, outcomes) {
            switch outcome {
            case .stored(let flags, let modSequence):
                let news = IMAPMessage(uid: selected!.messages[index].uid, flags: flags, modSequence: modSequence)
                selected!.take(news, at: index)
                selected!.clearChanged(index)
                // The new mod-sequence is told to who knows them, even silently (RFC 7162 §3.1.3).
                let tellsModSequence = isModSequenceAware && modSequence > 0
                guard !store.isSilent || tellsModSequence else { continue }
                writeFlags(
                    of: index, withUID: store.isUID || isModSequenceAware, onlyModSequence: store.isSilent,
                    into: &output)
            case .modified(let flags, let modSequence):
                let uid = selected!.messages[index].uid
                store.modified.append(store.isUID ? uid : UInt32(index + 1))
                selected!.take(IMAPMessage(uid: uid, flags: flags, modSequence: modSequence), at: index)
                selected!.clearChanged(index)
                writeFlags(of: index, withUID: store.isUID || isModSequenceAware, into: &output)
            case .gone:
                selected!.markGone(index)
                store.hasGone = true
            case .failed(let denial):
                reply("NO", denial.text, code: denial.code, into: &output)
                if denial.isFinal { _ = hangUp("Closing", into: &output) }
                return
            }
        }
        run = .store(store)
    }

    private mutating func endStore(_ store: StoreRun, into output: inout ByteOutput) {
        var code: String?
        if !store.modified.isEmpty {
            var text = ByteOutput()
            var writer = IMAPSetWriter()
            for number in store.modified { writer.add(number, into: &text) }
            writer.finish(into: &text)
            code = "MODIFIED \(String(decoding: text.bytes, as: UTF8.self))"
        }
        // A message that is gone was no longer there to be changed; by UID that is no error (RFC 3501 §6.4.8).
        if store.hasGone, !store.isUID {
            finish(
                "NO", "Some messages are gone", code: code ?? "EXPUNGEISSUED", mayExpunge: false, into: &output)
        } else {
            finish("OK", "STORE completed", code: code, mayExpunge: store.isUID, into: &output)
        }
    }

    // MARK: EXPUNGE

    struct ExpungeRun {
        /// nil: all that are deleted; else only these UIDs.
        let set: [Range<Int>]?
        /// CLOSE.
        let isClosing: Bool
        var next = 0
        var slice: [UInt32] = []
        var refusedCount = 0
    }

    mutating func expunge(_ uids: IMAPSequenceSet?, into output: inout ByteOutput) throws(IMAPRefusal) -> Event? {
        guard !selected!.isReadOnly else { throw IMAPRefusal(no: "The folder is read-only", code: "READ-ONLY") }
        run = .expunge(ExpungeRun(set: uids?.indices(ofUIDsIn: selected!.numbered), isClosing: false))
        state = .running
        return nil
    }

    mutating func stepExpunge(_ expunge: inout ExpungeRun, into output: inout ByteOutput) -> Event? {
        expunge.slice.removeAll(keepingCapacity: true)
        while expunge.next < selected!.announced, expunge.slice.count < settings.sliceMax {
            let index = expunge.next
            expunge.next += 1
            let message = selected!.messages[index]
            guard message.flags.contains(.deleted), !message.flags.contains(.gone) else { continue }
            if let set = expunge.set, !set.has(index) { continue }
            expunge.slice.append(message.uid)
        }
        guard !expunge.slice.isEmpty else {
            if expunge.isClosing { return endClose(into: &output) }
            if expunge.refusedCount > 0 {
                let text = "\(expunge.refusedCount) messages are being handed over or can't be removed"
                finish("NO", text, code: "INUSE", into: &output)
            } else {
                finish("OK", "EXPUNGE completed", into: &output)
            }
            return nil
        }
        run = .expunge(expunge)
        return ask(.expunge, .expunge(expunge.slice))
    }

    /// Which messages of an `.expunge` are gone for good; the others stay.
    public mutating func expunged(_ uids: [UInt32], into output: inout ByteOutput) {
        guard case .asking(.expunge) = state, case .expunge(var expunge) = run else {
            preconditionFailure("nothing to expunge")
        }
        expunge.refusedCount += expunge.slice.count - uids.count
        for uid in uids {
            guard let index = selected!.index(ofUID: uid) else { continue }
            selected!.markGone(index)
        }
        run = .expunge(expunge)
        state = .running
    }
}

/// A change of flags for the owner to make, to each message for itself.
public struct IMAPStore: Equatable, Sendable {
    /// At most ``IMAPServerSettings/sliceMax``.
    public var uids: [UInt32]
    public var change: IMAPFlagChange
    /// A message with a higher mod-sequence must not be changed (RFC 7162 §3.1.3). A change that changes nothing gives no
    /// new mod-sequence (§3.1.11).
    public var unchangedSince: UInt64?
}

/// What became of a message whose flags were to be changed.
public enum IMAPStoreOutcome: Equatable, Sendable {
    /// Its flags now, and their mod-sequence.
    case stored(IMAPFlags, modSequence: UInt64)
    /// Not done, since it was changed after `unchangedSince`: its flags and mod-sequence as they are.
    case modified(IMAPFlags, modSequence: UInt64)
    case gone
    /// The flags can't be stored: the whole command fails.
    case failed(IMAPDenial)
}
