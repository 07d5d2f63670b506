import CMicro

/// One hot part of the mail path, on input as it comes.
struct Part {
    let name: String
    /// Counted rounds; enough that what happens once in a while (a table that grows) is spread thin.
    var rounds = 1_000
    var messagesPerRound = 1
    /// Makes what the rounds work on, uncounted; its result is one round.
    let prepare: () -> () -> Void

    /// Rounds before the counted ones: pools and tables have their size then.
    private static let warmUpRounds = 100

    /// What its rounds cost.
    ///
    /// - Parameter planted: one allocation more a message than there should be, to show that it is seen.
    func measured(planted: Bool) -> Figures {
        let round = prepare()
        for _ in 0..<Self.warmUpRounds { round() }
        let counted = Counted(round, rounds: rounds, plantedPerRound: planted ? messagesPerRound : 0)
        let counts = withExtendedLifetime(counted) {
            cm_measured(
                { Unmanaged<Counted>.fromOpaque($0!).takeUnretainedValue().run() },
                Unmanaged.passUnretained(counted).toOpaque())
        }
        return Figures(
            name: name, messages: rounds * messagesPerRound, allocations: counts.allocations, bytes: counts.bytes)
    }
}

/// What stands between C and Swift.
private final class Counted {
    private let round: () -> Void
    private let rounds: Int
    private let plantedPerRound: Int

    init(_ round: @escaping () -> Void, rounds: Int, plantedPerRound: Int) {
        (self.round, self.rounds, self.plantedPerRound) = (round, rounds, plantedPerRound)
    }

    private final class Planted {}

    func run() {
        for _ in 0..<rounds {
            round()
            for _ in 0..<plantedPerRound { keep(Planted()) }
        }
    }
}

/// Makes the optimiser believe that the object is needed.
func keep(_ object: AnyObject) { cm_keep(Unmanaged.passUnretained(object).toOpaque()) }

/// The same for any value.
func keep<Value>(_ value: Value) { withUnsafePointer(to: value) { cm_keep($0) } }

/// What one part allocated.
struct Figures {
    let name: String
    let messages: Int
    let allocations: UInt64
    let bytes: UInt64

    /// One line for `dev/micro`.
    var json: String {
        #"{"name": "\#(name)", "messages": \#(messages), "allocations": \#(allocations), "bytes": \#(bytes)}"#
    }
}
