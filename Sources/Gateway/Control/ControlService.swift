/// Does what a request asks, on the control thread.
final class ControlService: Sendable {
    let process: any MailProcess

    /// Messages in one answer: what a person can look at, and what one answer bears.
    static let listedMax = 100_000
    static let listedStandard = 1_000
    /// Warnings in one answer; an import may have one a gateway.
    private static let warningsMax = 100
    /// Content of an exported message; a larger one is copied from its mail directory.
    static let exportBytesMax = 256 << 20

    init(_ process: any MailProcess) { self.process = process }

    private enum Command: String {
        case ready, status, metrics
        case gatewayList = "gateway.list"
        case gatewayShow = "gateway.show"
        case gatewayCreate = "gateway.create"
        case gatewaySet = "gateway.set"
        case gatewayDelete = "gateway.delete"
        case gatewayExport = "gateway.export"
        case gatewayImport = "gateway.import"
        case gatewayUsage = "gateway.usage"
        case queueList = "queue.list"
        case queueFlush = "queue.flush"
        case queueHold = "queue.hold"
        case queueRelease = "queue.release"
        case queueShow = "queue.show"
        case queueDelete = "queue.delete"
        case queueBounce = "queue.bounce"
        case queueExport = "queue.export"
        case settingsShow = "settings.show"
        case settingsSet = "settings.set"
    }

    /// The answer to one line, with its line feed. Whatever the line holds, there is one.
    func answer(_ line: [UInt8]) -> [UInt8] {
        do throws(ControlFault) {
            guard let request = try? ControlProtocol.decode(ControlRequest.self, line) else {
                throw ControlFault(.refused, "a request is one line of JSON with `v`, `command` and `arguments`")
            }
            guard request.v == ControlProtocol.version else {
                throw ControlFault(
                    .refused,
                    "protocol version \(request.v) is unknown here; this server speaks \(ControlProtocol.version)")
            }
            guard let command = Command(rawValue: request.command) else {
                throw ControlFault(.refused, "unknown command \(InvalidSetting.quote(request.command))")
            }
            return try perform(command, Arguments(request.arguments))
        } catch {
            return refusal(error)
        }
    }

    /// The answer to a request beyond the limit.
    func tooLong() -> [UInt8] {
        let limit = SizeText.text(ControlProtocol.Limits.requestBytes)
        return refusal(ControlFault(.refused, "the request is longer than \(limit) bytes"))
    }

    private func perform(_ command: Command, _ arguments: Arguments) throws(ControlFault) -> [UInt8] {
        switch command {
        case .ready:
            let ready = process.isReady
            return try done(ControlReadiness(ready: ready, reason: ready ? nil : process.status().notReady))
        case .status: return try done(process.status())
        case .metrics: return try done(ControlText(text: Metric.text(process.metrics())))
        case .gatewayList: return try listGateways()
        case .gatewayShow: return try done(report(try stored(arguments)))
        case .gatewayCreate: return try createGateway(arguments)
        case .gatewaySet: return try setGateway(arguments)
        case .gatewayDelete: return try deleteGateway(arguments)
        case .gatewayExport: return try exportGateways(arguments)
        case .gatewayImport: return try importGateways(arguments)
        case .gatewayUsage: return try usage(arguments)
        case .queueList: return try listQueue(arguments)
        case .queueFlush:
            return try done(ControlCount(count: try process.flush(domain: try queueDomain(arguments))))
        case .queueHold: return try setHold(true, arguments)
        case .queueRelease: return try setHold(false, arguments)
        case .queueShow: return try done(try process.message(try arguments.id()))
        case .queueDelete:
            try process.delete(try arguments.id())
            return try done(ControlCount(count: 1))
        case .queueBounce:
            try process.bounce(try arguments.id())
            return try done(ControlCount(count: 1))
        case .queueExport: return try exportMessage(arguments)
        case .settingsShow: return try settingsAnswer(try directory { d throws(DirectoryFault) in try d.settings() })
        case .settingsSet: return try setSettings(arguments)
        }
    }
}

extension ControlService {
    private struct Done<Result: Encodable>: Encodable {
        let ok = true
        let result: Result
        let warnings: [String]
    }

    private struct Refusal: Encodable {
        let ok = false
        let error: ControlFault
    }

    func done(_ result: some Encodable, warnings: [String] = []) throws(ControlFault) -> [UInt8] {
        var shown = warnings
        if warnings.count > Self.warningsMax {
            shown = warnings.prefix(Self.warningsMax) + ["and \(warnings.count - Self.warningsMax) more warnings"]
        }
        guard let line = try? ControlProtocol.encode(Done(result: result, warnings: shown)) else {
            throw ControlFault(.failed, "the answer cannot be written as JSON")
        }
        return line + [UInt8(ascii: "\n")]
    }

    private func refusal(_ fault: ControlFault) -> [UInt8] {
        // Words and a sentence: this can't fail.
        ((try? ControlProtocol.encode(Refusal(error: fault))) ?? []) + [UInt8(ascii: "\n")]
    }

    func directory<Value>(_ body: (any Directory) throws(DirectoryFault) -> Value)
        throws(ControlFault) -> Value
    {
        do throws(DirectoryFault) { return try body(process.directory) } catch { throw ControlFault(error) }
    }

    func document<Value>(_ body: () throws(InvalidSetting) -> Value) throws(ControlFault) -> Value {
        do throws(InvalidSetting) { return try body() } catch { throw ControlFault(error) }
    }

    /// The arguments of a request.
    struct Arguments {
        private let value: DocumentValue

        init(_ value: DocumentValue?) throws(ControlFault) {
            self.value = value.flatMap { $0.isNull ? nil : $0 } ?? DocumentValue(.map([]))
            guard case .map = self.value.content else {
                throw ControlFault(.refused, "`arguments` is no map of names and values")
            }
        }

        /// nil when absent or null.
        subscript(_ name: String) -> DocumentValue? { value[name].flatMap { $0.isNull ? nil : $0 } }

        func optionalText(_ name: String) throws(ControlFault) -> String? {
            guard let value = self[name] else { return nil }
            guard let text = value.string else { throw ControlFault(.refused, "`\(name)` takes text") }
            return text
        }

        func text(_ name: String) throws(ControlFault) -> String {
            guard let text = try optionalText(name) else { throw ControlFault(.refused, "`\(name)` is missing") }
            return text
        }

        /// False when absent.
        func flag(_ name: String) throws(ControlFault) -> Bool {
            guard let value = self[name] else { return false }
            guard let flag = value.bool else { throw ControlFault(.refused, "`\(name)` takes true or false") }
            return flag
        }

        func integer(_ name: String, in range: ClosedRange<Int>) throws(ControlFault) -> Int? {
            guard let value = self[name] else { return nil }
            guard let number = value.integer, range.contains(number) else {
                throw ControlFault(.refused, "`\(name)` takes \(range.lowerBound) to \(range.upperBound)")
            }
            return number
        }

        /// `set`: a list of `key=value`.
        func assignments() throws(ControlFault) -> [String] {
            guard let value = self["set"] else { return [] }
            let texts = value.items?.compactMap(\.string)
            guard let texts, texts.count == value.items?.count else {
                throw ControlFault(.refused, "`set` takes a list of key=value")
            }
            return texts
        }

        func id() throws(ControlFault) -> QueueID {
            let text = try text("id")
            guard let id = QueueID(text) else {
                throw ControlFault(.refused, "\(InvalidSetting.quote(text)) is no message's id")
            }
            return id
        }

        func mailDisposal() throws(ControlFault) -> MailDisposal {
            switch try optionalText("mail") {
            case nil, "refuse": return .refuse
            case "drop": return .drop
            case "bounce": return .bounce
            case "export":
                let directory = try text("directory")
                guard directory.hasPrefix("/"), PathText.isPlain(directory) else {
                    throw ControlFault(.refused, "`directory` takes the absolute path of a folder")
                }
                return .export(directory: directory)
            case let other?:
                throw ControlFault(
                    .refused,
                    "`mail`: \(InvalidSetting.quote(other)) is not allowed; it takes refuse, drop, bounce or export")
            }
        }
    }
}
