import Reactor

/// File work, look-ups and pool work whose result goes to a closure: for what is rare enough that a state machine of its own
/// would only hide it.
final class FileCalls {
    /// Where the journals' segments are open.
    let shelf: JournalShelf?
    private let reactor: Reactor
    private let kind: UInt8
    private var waiting: [UInt32: Waiting] = [:]
    private var next: UInt32 = 0

    private enum Waiting {
        case files(([FileOutcome]) -> Void)
        case lookup((Result<[UInt8], LookupFault>) -> Void)
    }

    init(reactor: Reactor, kind: UInt8, shelf: JournalShelf? = nil) {
        (self.reactor, self.kind, self.shelf) = (reactor, kind, shelf)
    }

    var isIdle: Bool { waiting.isEmpty }

    /// Steps in the mail directory `store`.
    func run(
        _ steps: [FileStep], on lane: Lane, of store: Store, stopsAtFailure: Bool = true,
        then: @escaping ([FileOutcome]) -> Void
    ) {
        let task = FileTask(token: register(.files(then)), device: store.device.id)
        task.steps = steps
        task.stopsAtFailure = stopsAtFailure
        // Its directory stays open as long.
        task.context = store
        reactor.backend.run(task, on: lane)
    }

    /// Steps in the segments of a journal.
    func run(_ steps: [FileStep], on lane: Lane, of shelf: JournalShelf, then: @escaping ([FileOutcome]) -> Void) {
        let task = FileTask(token: register(.files(then)), device: shelf.device)
        task.steps = steps
        reactor.backend.run(task, on: lane)
    }

    func lookUp(_ query: [UInt8], then: @escaping (Result<[UInt8], LookupFault>) -> Void) {
        reactor.backend.lookUp(query, token: register(.lookup(then)))
    }

    private func register(_ call: Waiting) -> Token {
        repeat { next &+= 1 } while waiting[next] != nil
        waiting[next] = call
        return Token(kind: kind, generation: 0, index: next)
    }

    func finished(_ task: FileTask) {
        guard case .files(let then)? = waiting.removeValue(forKey: task.token.index) else { return }
        then(task.outcomes)
    }

    func finished(_ token: Token, _ answer: Result<[UInt8], LookupFault>) {
        guard case .lookup(let then)? = waiting.removeValue(forKey: token.index) else { return }
        then(answer)
    }
}
