import Glibc

/// What a sink knows of what came: this run's messages in the ledger, other runs' in sets of their own.
final class Arrivals {
    /// Runs of other processes that are told apart; more are counted together as foreign.
    static let runsMax = 64

    let ledger: Ledger?
    private(set) var tally = Tally()
    /// Of messages whose listener stays open.
    private(set) var steady = Latencies()
    /// When the last one came by a listener that was closed for a while.
    private(set) var unsteadyLastAt: UInt64 = 0
    private(set) var wrong = 0
    private(set) var foreign = 0
    /// Messages of other runs, beside a run of our own.
    private(set) var others = 0
    private(set) var refused = 0
    private(set) var deferred = 0
    private(set) var duplicates = 0
    /// Seen numbers of other processes' runs.
    private(set) var runs: [UInt64: NumberSet] = [:]
    /// The first wrong ones, for the report.
    private(set) var wrongNumbers: [Int] = []
    private let bodies = Bodies()

    init(ledger: Ledger?) { self.ledger = ledger }

    /// `repeated` is taken, and counts as no further message.
    enum Answer { case taken, repeated, deferred, refused, dropped }

    /// A message has come to its end; says what the sink shall answer.
    ///
    /// - Parameter start: when measuring began; 0: nothing is counted yet.
    func judge(
        _ check: ContentCheck, recipients: Int, bytes: Int, listener: Int, plan: SinkPlan, now: UInt64, start: UInt64
    ) -> Answer {
        let header: ContentHeader
        switch check.finish(bodies) {
        case .foreign:
            foreign += 1
            return .taken
        case .changed(let found):
            wrong += 1
            if wrongNumbers.count < 10 { wrongNumbers.append(found.number) }
            header = found
        case .intact(let found): header = found
        }
        let isOurs = header.run == ledger?.run && header.number < (ledger?.capacity ?? 0)
        if Mixed.draw(header.number &* 31 &+ 7, share: plan.refuse) {
            refused += 1
            if isOurs { ledger?[header.number].marks |= 2 }
            return .refused
        }
        if Mixed.draw(header.number &* 31 &+ 11, share: plan.deferOnce), isFirstOffer(header, isOurs) {
            deferred += 1
            return .deferred
        }
        if plan.dropEvery > 0, header.number % plan.dropEvery == plan.dropEvery - 1 { return .dropped }
        if let ledger, isOurs {
            let sentAt = ledger[header.number].sentAt
            ledger[header.number].arrived &+= UInt16(clamping: recipients)
            if start > 0, sentAt >= start {
                tally.latencies.record(nanoseconds: now - min(sentAt, now))
                if plan.unsteady.contains(listener) {
                    unsteadyLastAt = now
                } else if !plan.unsteady.isEmpty {
                    steady.record(nanoseconds: now - min(sentAt, now))
                }
                count(bytes, now, start)
            }
        } else if runs[header.run] != nil || runs.count < Self.runsMax {
            let isNew = runs[header.run, default: NumberSet()].insert(header.number)
            if ledger != nil {
                // Left over from an earlier run in the server's queue: none of this one's figures.
                others += 1
                return .repeated
            } else if isNew {
                count(bytes, now, start)
            } else {
                duplicates += 1
                return .repeated
            }
        } else {
            foreign += 1
        }
        return .taken
    }

    private func count(_ bytes: Int, _ now: UInt64, _ start: UInt64) {
        guard start > 0 else { return }
        tally.messages += 1
        tally.bytes += bytes
        tally.mark(now, since: start)
    }

    private var offered: [UInt64: NumberSet] = [:]

    private func isFirstOffer(_ header: ContentHeader, _ isOurs: Bool) -> Bool {
        if let ledger, isOurs {
            defer { ledger[header.number].marks |= 1 }
            return ledger[header.number].marks & 1 == 0
        }
        guard offered[header.run] != nil || offered.count < Self.runsMax else { return false }
        return offered[header.run, default: NumberSet()].insert(header.number)
    }
}

/// A set of message numbers, a bit each.
struct NumberSet: Sendable {
    private var words: [UInt64] = []
    private(set) var count = 0
    private(set) var largest = -1

    /// False when it was there, or is beyond what a run may number.
    mutating func insert(_ number: Int) -> Bool {
        guard number < Ledger.capacityMax else { return false }
        let word = number >> 6
        while words.count <= word { words.append(0) }
        let bit: UInt64 = 1 << UInt64(number & 63)
        guard words[word] & bit == 0 else { return false }
        words[word] |= bit
        count += 1
        largest = max(largest, number)
        return true
    }

    /// Numbers below the largest that are not in it.
    var missing: Int { largest + 1 - count }
}
