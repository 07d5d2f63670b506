/// The items of one FETCH response.
extension IMAPServerSession {
    mutating func writeItems(_ fetch: inout FetchRun, into output: inout ByteOutput) -> Event? {
        if !fetch.isBegun {
            fetch.isBegun = true
            output.append("* ")
            output.append(number: fetch.index + 1)
            output.append(" FETCH (")
        }
        let message = selected!.messages[fetch.index]
        while fetch.item < fetch.items.count {
            // Room is made between items: one of them is bounded by the scanner's limits.
            guard output.count < settings.outputPauseBytes else {
                run = .fetch(fetch)
                return nil
            }
            let item = fetch.items[fetch.item]
            if fetch.item > 0, fetch.filter == nil { output.append(UInt8(ascii: " ")) }
            switch item {
            case .uid:
                output.append("UID ")
                output.append(number: Int(message.uid))
            case .flags:
                output.append("FLAGS ")
                output.append(flags: message.flags, keywords: settings.keywords)
                selected!.clearChanged(fetch.index)
            case .modSequence: write(modSequence: message.modSequence, into: &output)
            case .internalDate:
                output.append("INTERNALDATE ")
                IMAPDate.write(unixSeconds: fetch.description?.unixSeconds ?? 0, into: &output)
            case .size:
                output.append(text: IMAPItemName.size)
                output.append(UInt8(ascii: " "))
                output.append(number: fetch.description?.bytes ?? 0)
            case .envelope:
                output.append("ENVELOPE ")
                output.append(envelopeOf: selected!.known!.structure.root)
            case .structure(let isExtended):
                output.append(isExtended ? "BODYSTRUCTURE " : "BODY ")
                output.append(bodyOf: 0, in: selected!.known!.structure, isExtended: isExtended)
            case .section(let section):
                if let event = write(section, message.uid, &fetch, into: &output) {
                    run = .fetch(fetch)
                    return event
                }
            }
            fetch.item += 1
        }
        if fetch.hasSetSeen {
            if !fetch.items.contains(.flags) {
                output.append(" FLAGS ")
                output.append(flags: message.flags, keywords: settings.keywords)
                selected!.clearChanged(fetch.index)
            }
            if isModSequenceAware, message.modSequence > 0, !fetch.items.contains(.modSequence) {
                output.append(UInt8(ascii: " "))
                write(modSequence: message.modSequence, into: &output)
            }
        }
        output.append(")\r\n")
        fetch.stage = .nextMessage
        run = .fetch(fetch)
        return nil
    }

    private func write(modSequence: UInt64, into output: inout ByteOutput) {
        output.append("MODSEQ (")
        output.append(number: Int(modSequence))
        output.append(UInt8(ascii: ")"))
    }

    /// Writes a section, or what comes before its content; `fetch.item` is then the next one already, unless the event
    /// is the one that asks for the header section.
    private mutating func write(
        _ section: IMAPSection, _ uid: UInt32, _ fetch: inout FetchRun, into output: inout ByteOutput
    ) -> Event? {
        if var filter = fetch.filter {
            fetch.filter = nil
            write(labelOf: section, into: &output)
            let selected = filter.finish()
            let part = Self.part(of: 0..<selected.count, section)
            output.append(literalOf: part.count)
            output.append(Array(selected[part]))
            return nil
        }
        guard let range = range(of: section, fetch) else {
            write(labelOf: section, into: &output)
            output.append("NIL")
            return nil
        }
        if case .headerFields(let names, let isNot) = section.text {
            fetch.filter = IMAPHeaderFilter(names: names, isNot: isNot, maxBytes: settings.headerFieldsMaxBytes)
            return ask(.content, .read(uid, range))
        }
        write(labelOf: section, into: &output)
        let part = Self.part(of: range, section)
        output.append(literalOf: part.count)
        guard !part.isEmpty else { return nil }
        fetch.item += 1
        return .send(uid, part)
    }

    private static func part(of range: Range<Int>, _ section: IMAPSection) -> Range<Int> {
        guard let partial = section.partial else { return range }
        let start = min(range.lowerBound + partial.offset, range.upperBound)
        return start..<min(start + partial.count, range.upperBound)
    }

    /// Where in the presented message it is; nil if there is no such part.
    private func range(of section: IMAPSection, _ fetch: FetchRun) -> Range<Int>? {
        let bytes = fetch.description?.bytes ?? 0
        if section.path.isEmpty, section.text == .all { return 0..<bytes }
        let structure = selected!.known!.structure
        switch section.text {
        case .all: return structure.index(at: section.path).map { structure.parts[$0].body }
        case .mime: return structure.index(at: section.path).map { structure.parts[$0].header }
        case .header, .headerFields:
            return structure.messageIndex(at: section.path).map { structure.parts[$0].header }
        case .text:
            guard !section.path.isEmpty else { return min(structure.root.header.upperBound, bytes)..<bytes }
            return structure.messageIndex(at: section.path).map { structure.parts[$0].body }
        }
    }

    private func write(labelOf section: IMAPSection, into output: inout ByteOutput) {
        if let label = section.label {
            output.append(text: label)
            return output.append(UInt8(ascii: " "))
        }
        output.append("BODY[")
        for (index, number) in section.path.enumerated() {
            if index > 0 { output.append(UInt8(ascii: ".")) }
            output.append(number: number)
        }
        if section.text != .all, !section.path.isEmpty { output.append(UInt8(ascii: ".")) }
        switch section.text {
        case .all: break
        case .header: output.append("HEADER")
        case .text: output.append("TEXT")
        case .mime: output.append("MIME")
        case .headerFields(let names, let isNot):
            output.append(isNot ? "HEADER.FIELDS.NOT (" : "HEADER.FIELDS (")
            for (index, name) in names.enumerated() {
                if index > 0 { output.append(UInt8(ascii: " ")) }
                output.append(astring: name)
            }
            output.append(UInt8(ascii: ")"))
        }
        output.append(UInt8(ascii: "]"))
        if let partial = section.partial {
            output.append(UInt8(ascii: "<"))
            output.append(number: partial.offset)
            output.append(UInt8(ascii: ">"))
        }
        output.append(UInt8(ascii: " "))
    }
}
