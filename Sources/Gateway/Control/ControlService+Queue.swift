extension ControlService {
    /// The queue that a request names; nil: `all` of them.
    func queueDomain(_ arguments: Arguments) throws(ControlFault) -> String? {
        if try arguments.flag("all") { return nil }
        return try knownDomain(try arguments.text("domain"))
    }

    func knownDomain(_ text: String) throws(ControlFault) -> String {
        if text == Gateway.systemDomain { return text }
        guard let domain = DomainNameNormaliser.aLabel(text),
            process.directory.snapshot.gateway(forDomain: domain) != nil
        else { throw ControlFault(.noSuchGateway(domain: text)) }
        return domain
    }

    func listQueue(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let domain: String? =
            if let text = try arguments.optionalText("domain") { try knownDomain(text) } else { nil }
        let limit = try arguments.integer("limit", in: 1...Self.listedMax) ?? Self.listedStandard
        let messages = try process.queue(domain: domain, limit: limit)
        let isCut = messages.count >= limit
        return try done(messages, warnings: isCut ? ["there may be more: the list ends at \(limit) messages"] : [])
    }

    /// Changes the `hold` of one gateway or of all, in one transaction.
    func setHold(_ isHeld: Bool, _ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let gateways = try arguments.flag("all") ? allGateways() : [stored(arguments)]
        let changing = gateways.filter { $0.document.isHeld != isHeld && $0.fault == nil }
        var warnings = gateways.filter { $0.fault != nil }.map {
            "the stored document of `\($0.document.domain)` cannot be read: it stays held"
        }
        let documents = try document { () throws(InvalidSetting) in
            var documents = changing.map(\.document)
            for index in documents.indices { try documents[index].apply(["hold=\(isHeld)"]) }
            return documents
        }
        let updated = try directory { d throws(DirectoryFault) in try d.importAll(documents, dryRun: false) }
        for gateway in updated {
            do throws(ControlFault) {
                warnings += try process.updated(gateway)
            } catch {
                warnings.append("`\(gateway.document.domain)`: \(error.message)")
            }
        }
        if !updated.isEmpty { process.publish() }
        return try done(ControlCount(count: updated.count), warnings: warnings)
    }

    func exportMessage(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let id = try arguments.id()
        let message = try process.message(id)
        guard message.bytes <= Self.exportBytesMax else {
            throw ControlFault(
                .refused,
                "the message is larger than \(SizeText.text(Self.exportBytesMax)) bytes: copy its file from the mail directory"
            )
        }
        return try done(ControlContent(try process.export(id)))
    }

    func settingsAnswer(_ settings: Settings) throws(ControlFault) -> [UInt8] {
        let noPostmaster =
            "`postmaster` is not set: mail to Postmaster is kept held in `\(Gateway.systemDomain)` (RFC 5321 §4.5.1)"
        return try done(settings, warnings: settings.postmaster == nil ? [noPostmaster] : [])
    }

    func setSettings(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let old = try directory { d throws(DirectoryFault) in try d.settings() }
        let assignments = try arguments.assignments()
        let settings = try document { () throws(InvalidSetting) in
            var settings = old
            if let changes = arguments["document"] { try settings.merge(changes) }
            try settings.apply(assignments)
            return settings
        }
        let stored = try directory { d throws(DirectoryFault) in try d.setSettings(settings) }
        process.publish()
        return try settingsAnswer(stored)
    }
}
