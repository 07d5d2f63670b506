extension ControlService {
    func stored(_ arguments: Arguments) throws(ControlFault) -> StoredGateway {
        let domain = try arguments.text("domain")
        return try directory { d throws(DirectoryFault) in try d.get(domain) }
    }

    func allGateways() throws(ControlFault) -> [StoredGateway] {
        try directory { d throws(DirectoryFault) in try d.list() }
    }

    private func status(_ gateway: StoredGateway, _ health: QueueHealth?) -> GatewayReport.Status {
        GatewayReport.Status(
            id: gateway.id, etag: gateway.etag, createdAt: Double(gateway.createdAt) / 1_000, fault: gateway.fault,
            queued: health?.queued ?? 0, bytes: health?.bytes ?? 0, sessions: health?.sessions ?? 0,
            state: health?.state ?? "up", detail: health?.detail ?? "", oldest: health?.oldest)
    }

    func report(_ gateway: StoredGateway) -> GatewayReport {
        GatewayReport(
            document: gateway.document,
            status: status(gateway, process.health(domain: gateway.document.domain).first))
    }

    /// One queue's health a gateway, by domain.
    private func healthByDomain(of domain: String? = nil) -> [String: QueueHealth] {
        Dictionary(process.health(domain: domain).map { ($0.domain, $0) }, uniquingKeysWith: { first, _ in first })
    }

    func listGateways() throws(ControlFault) -> [UInt8] {
        let health = healthByDomain()
        let gateways = try allGateways()
        return try done(
            gateways.map { gateway in
                let document = gateway.document
                return GatewaySummary(
                    domain: document.domain, enabled: document.isEnabled, hold: document.isHeld,
                    delivery: GatewaySummary.Delivery(when: document.delivery.rawValue),
                    forward: GatewaySummary.Forward(
                        server: document.forward.server?.description, port: Int(document.forward.port)),
                    status: status(gateway, health[document.domain]))
            })
    }

    func createGateway(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        var assignments: [String] = []
        if arguments["account"] != nil { throw ControlFault(InvalidSetting.notInThisVersion("forward.account")) }
        if let server = try arguments.optionalText("server") {
            guard let (host, port) = MailServer.withPort(server) else {
                throw ControlFault(
                    .refused, "`server`: \(InvalidSetting.quote(server)) is not allowed; it takes HOST or HOST:PORT")
            }
            assignments.append("forward.server=\(host)")
            if let port { assignments.append("forward.port=\(port)") }
        }
        assignments += try arguments.assignments()
        let document = try document { () throws(InvalidSetting) in
            var document: GatewayDocument
            if let whole = arguments["document"] {
                document = try GatewayDocument(whole)
            } else {
                guard let domain = arguments["domain"]?.string else { throw InvalidSetting("`domain` is missing") }
                document = try GatewayDocument(domain: domain)
            }
            try document.apply(assignments)
            return document
        }
        let created = try directory { d throws(DirectoryFault) in try d.create(document) }
        let warnings: [String]
        do throws(ControlFault) {
            warnings = try process.created(created)
        } catch {
            // Without its store it could take no mail: as if it had never been asked for.
            _ = try directory { d throws(DirectoryFault) in try d.delete(document.domain, expectedETag: nil) }
            process.deleted(created)
            throw error
        }
        process.publish()
        return try done(report(created), warnings: warnings)
    }

    func setGateway(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let old = try stored(arguments)
        if let fault = old.fault {
            // What is stored is not what we hold: a change of one key would lose all the others.
            throw ControlFault(
                .refused,
                "the stored document of `\(old.document.domain)` cannot be read (\(fault)); import a whole one")
        }
        let assignments = try arguments.assignments()
        let document = try document { () throws(InvalidSetting) in
            var document = old.document
            if let changes = arguments["document"] { try document.merge(changes) }
            try document.apply(assignments)
            return document
        }
        let expectedETag = try arguments.optionalText("etag")
        let (updated, warnings) = try update(old, to: document, expectedETag: expectedETag)
        process.publish()
        return try done(report(updated), warnings: warnings)
    }

    private func update(_ old: StoredGateway, to document: GatewayDocument, expectedETag: String?)
        throws(ControlFault) -> (StoredGateway, [String])
    {
        let updated = try directory { d throws(DirectoryFault) in
            try d.update(document, expectedETag: expectedETag)
        }
        do throws(ControlFault) {
            return (updated, try process.updated(updated))
        } catch {
            let restored = try directory { d throws(DirectoryFault) in
                try d.update(old.document, expectedETag: nil)
            }
            _ = try process.updated(restored)
            throw error
        }
    }

    func deleteGateway(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let gateway = try stored(arguments)
        let etag = try arguments.optionalText("etag")
        if let etag, etag != gateway.etag {
            throw ControlFault(.changedMeanwhile(domain: gateway.document.domain, etag: gateway.etag))
        }
        try process.deleting(gateway, mail: try arguments.mailDisposal())
        let deleted = try directory { d throws(DirectoryFault) in
            try d.delete(gateway.document.domain, expectedETag: nil)
        }
        process.deleted(deleted)
        return try done(ControlCount(count: 1))
    }

    func exportGateways(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let gateways = try arguments["domain"] == nil ? allGateways() : [stored(arguments)]
        let unreadable = gateways.filter { $0.fault != nil }.map {
            "the stored document of `\($0.document.domain)` cannot be read and is left out"
        }
        return try done(
            ControlText(text: GatewayDocument.yaml(gateways.filter { $0.fault == nil }.map(\.document))),
            warnings: unreadable)
    }

    func importGateways(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let yaml = try arguments.text("yaml")
        let dryRun = try arguments.flag("dryRun")
        let documents = try document { () throws(InvalidSetting) in try GatewayDocument.list(yaml: yaml) }
        let (old, new) = try directory { d throws(DirectoryFault) in
            (try d.list(), try d.importAll(documents, dryRun: dryRun))
        }
        let oldByID = Dictionary(old.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        var report = ImportReport(created: [], updated: [])
        var warnings: [String] = []
        for gateway in new {
            let domain = gateway.document.domain
            do throws(ControlFault) {
                if let before = oldByID[gateway.id] {
                    if before.document == gateway.document, before.fault == nil { continue }
                    report.updated.append(domain)
                    if !dryRun { warnings += try process.updated(gateway) }
                } else {
                    report.created.append(domain)
                    if !dryRun { warnings += try process.created(gateway) }
                }
            } catch {
                // All are stored; what one store lacks is no reason to take the others back.
                warnings.append("`\(domain)`: \(error.message)")
            }
        }
        if !dryRun { process.publish() }
        return try done(report, warnings: warnings)
    }

    func usage(_ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        let one = arguments["domain"] == nil ? nil : try stored(arguments)
        let gateways = if let one { [one] } else { try allGateways() }
        let health = healthByDomain(of: one?.document.domain)
        return try done(
            gateways.map { gateway in
                let quota = Gateway(gateway).quota
                let queue = health[gateway.document.domain]
                return GatewayUsage(
                    domain: gateway.document.domain, messages: queue?.queued ?? 0, bytes: queue?.bytes ?? 0,
                    messagesMax: quota?.maxMessages, bytesMax: quota?.maxBytes)
            })
    }
}
