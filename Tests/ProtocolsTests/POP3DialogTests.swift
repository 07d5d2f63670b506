import Foundation
import Testing

@testable import Protocols

extension Dialog {
    /// Those of Tests/Dialogs whose names end in `suffix`.
    static func all(suffix: String) -> [Dialog] {
        do {
            let files = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
                .filter { $0.hasSuffix(suffix) }.sorted()
            let dialogs = try files.flatMap { file in
                let text = try String(contentsOf: folder.appending(path: file), encoding: .utf8)
                return try text.components(separatedBy: "\n---\n").enumerated().map { number, part in
                    try Dialog("\(file).\(number + 1)", part)
                }
            }
            if dialogs.isEmpty { Issue.record("\(folder.path) holds no dialogue *\(suffix)") }
            return dialogs
        } catch {
            Issue.record("\(error)")
            return []
        }
    }
}

/// The POP3 sessions of Tests/Dialogs, uncut and cut at every byte.
@Suite struct POP3DialogTests {
    struct Outcome: Equatable {
        var said: [String] = [""]
        var events: [String] = []
        var removed: [String] = []
        var isClosed = false
    }

    func run(_ dialog: Dialog, _ cuts: Cuts) -> Outcome {
        let owner = POP3ServerOwner(
            isTLS: dialog.with.contains("tls"),
            timestamp: dialog.with.contains("noapop") ? nil : POP3ServerOwner.timestamp)
        owner.isReadOnly = dialog.with.contains("readonly")
        owner.directory.isAvailable = !dialog.with.contains("down")
        if dialog.with.contains("inuse") { owner.refusals["login"] = .inUse }
        if dialog.with.contains("leased") {
            (owner.refusals["retrieve"], owner.refusals["delete"]) = (.messageInUse, .messageInUse)
        }
        owner.failedSettles = dialog.with.contains("unsettled") ? 1 : 0
        var outcome = Outcome()
        var offset = 0
        for step in dialog.steps {
            switch step {
            case .client(let bytes):
                outcome.said[outcome.said.count - 1] += owner.take()
                outcome.said.append("")
                for piece in cuts.pieces(of: bytes, from: offset) { owner.send(piece) }
                offset += bytes.count
            case .server, .closed: break
            case .tls:
                #expect(owner.awaitsTLS)
                owner.startTLS()
            }
        }
        outcome.said[outcome.said.count - 1] += owner.take()
        (outcome.events, outcome.removed, outcome.isClosed) = (owner.events, owner.removed, owner.isClosed)
        return outcome
    }

    @Test(arguments: Dialog.all(suffix: ".pop3")) func replay(_ dialog: Dialog) {
        let whole = run(dialog, Cuts(places: []))
        #expect(whole.said.filter { !$0.isEmpty } == dialog.serverTurns)
        let isClosed = if case .closed = dialog.steps.last { true } else { false }
        #expect(whole.isClosed == isClosed)
        for cuts in Cuts.all(dialog.bytes(of: .client).count) {
            let cut = run(dialog, cuts)
            guard cut == whole else {
                Issue.record("\(cuts): \(cut), not \(whole)")
                return
            }
        }
    }
}
