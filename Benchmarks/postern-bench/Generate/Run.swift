import Glibc
import Reactor

/// Generator threads, and if wanted a sink, from their start to what they have counted.
final class Run {
    struct Result {
        var sent = Tally()
        /// What arrived; nil without a sink.
        var arrived: SinkResult?
        /// When measuring began, in monotonic nanoseconds.
        var start: UInt64 = 0
        var sums = Ledger.Sums()
        var faults: [String] = []
    }

    struct SinkResult: Sendable {
        var tally: Tally
        var wrong: Int
        var wrongNumbers: [Int]
        var foreign: Int
        var others: Int
        var refused: Int
        var deferred: Int
        var duplicates: Int
        var sessions: Int
        var cpu: UInt64
        var runs: [UInt64: NumberSet]
        var steady: Latencies
        var unsteadyLastAt: UInt64
    }

    let load: Load?
    let ledger: Ledger
    let gate = Gate()
    let options: RunOptions
    private let senders = Locked<[(Tally, String?)]>([])
    private let sinks = Locked<[SinkResult]>([])
    private var threads: [Thread.Handle] = []
    private var sinkThread: Thread.Handle?
    private var progress: Progress

    init(_ load: Load?, _ options: RunOptions, numbers: Int) throws(BenchFault) {
        (self.load, self.options) = (load, options)
        var run: UInt64 = 0
        _ = getentropy(&run, 8)
        ledger = try Ledger(run: run, capacity: numbers)
        progress = Progress(wanted: !options.json)
    }

    /// Starts a sink on a thread of its own; it ends with the gate.
    func startSink(_ endpoints: [Endpoint], _ plan: SinkPlan, outage: Outage = Outage()) throws(BenchFault) {
        let (gate, sinks) = (gate, sinks)
        let ledger = load == nil ? nil : self.ledger
        let opened = Locked<BenchFault?>(nil)
        let isOpen = Locked(false)
        sinkThread = Thread.start("sink") {
            do throws(BenchFault) {
                let sink = try Sink(endpoints, plan: plan, gate: gate, ledger: ledger, outage: outage)
                isOpen.withLock { $0 = true }
                sink.run()
                let arrivals = sink.arrivals
                sinks.withLock {
                    $0.append(
                        SinkResult(
                            tally: arrivals.tally, wrong: arrivals.wrong, wrongNumbers: arrivals.wrongNumbers,
                            foreign: arrivals.foreign, others: arrivals.others, refused: arrivals.refused,
                            deferred: arrivals.deferred,
                            duplicates: arrivals.duplicates, sessions: sink.sessions, cpu: sink.threadCPU,
                            runs: arrivals.runs,
                            steady: arrivals.steady, unsteadyLastAt: arrivals.unsteadyLastAt))
                }
            } catch {
                opened.withLock { $0 = error }
                isOpen.withLock { $0 = true }
            }
        }
        while !isOpen.withLock({ $0 }) { usleep(1000) }
        if let fault = opened.withLock({ $0 }) { throw fault }
    }

    /// Starts the generator threads, and returns when their warm-up is over and answered.
    func startGenerator() throws(BenchFault) {
        guard let load else { return }
        let (gate, ledger, senders) = (gate, ledger, senders)
        let date = Composer.date()
        for thread in 0..<load.threads {
            threads.append(
                Thread.start("sender-\(thread)") {
                    do throws(BenchFault) {
                        let sender = try Sender(load, thread: thread, gate: gate, ledger: ledger, date: date)
                        sender.run()
                        senders.withLock { $0.append((sender.tally, sender.fault)) }
                        if sender.fault != nil { gate.stop() }
                    } catch {
                        senders.withLock { $0.append((Tally(), error.description)) }
                        gate.stop()
                    }
                })
        }
        wait { gate.warmedCount >= load.threads }
    }

    /// From here on it is measured.
    func open() -> UInt64 {
        let now = Clock.now
        gate.open(at: now)
        return now
    }

    var isStopped: Bool { gate.isStopped }
    /// Why the run was stopped before its end.
    private(set) var stopReason: String?

    /// Waits, showing progress. Stops all when nothing moves for the time limit, or on Ctrl-C.
    func wait(until isDone: () -> Bool) {
        var last = (gate.sentCount, gate.arrivedCount, gate.greetedCount)
        var movedAt = Clock.now
        while !isDone(), !gate.isStopped {
            usleep(2000)
            let now = Clock.now
            let counts = (gate.sentCount, gate.arrivedCount, gate.greetedCount)
            if counts != last { (last, movedAt) = (counts, now) }
            if now - movedAt > UInt64(options.timeout * 1e9) {
                stopReason = "nothing has moved for \(Screen.decimal(options.timeout, 0)) s (`--timeout`)"
                gate.stop()
            }
            if Interrupt.isSeen {
                stopReason = "interrupted"
                gate.stop()
            }
            progress.show(
                share: share(now), count: counts.0, sinkThread == nil ? "answered" : "sent, \(counts.1) arrived",
                now: now)
        }
    }

    private func share(_ now: UInt64) -> Double? {
        guard let load else { return nil }
        if let messages = load.messages { return Double(gate.sentCount) / Double(max(messages + load.warmUp, 1)) }
        guard let duration = load.durationNanoseconds, gate.start > 0 else { return nil }
        return Double(now - gate.start) / Double(duration)
    }

    /// The generator threads have ended.
    var generatorHasEnded: Bool { gate.endedCount >= (load?.threads ?? 0) }

    /// Whether all that was taken has arrived. Read while others write: only ever late.
    func hasArrived(_ numbers: Range<Int>) -> Bool {
        let sums = ledger.sums(numbers)
        return sums.lost == 0
    }

    /// Ends all threads; what they have counted.
    func finish() -> Result {
        if generatorHasEnded || gate.isStopped {} else { gate.stop() }
        for thread in threads { thread.join() }
        gate.stop()
        sinkThread?.join()
        progress.end()
        var result = Result()
        result.start = gate.start
        for (tally, fault) in senders.withLock({ $0 }) {
            result.sent.merge(tally)
            if let fault, !result.faults.contains(fault) { result.faults.append(fault) }
        }
        result.arrived = sinks.withLock { $0 }.first
        if let stopReason { result.faults.append(stopReason) }
        return result
    }
}

extension Run {
    /// For a sink alone: waits for so many arrivals, so long, or the interrupt, which is its normal end.
    func waitAsServer(messages: Int?, nanoseconds: UInt64?) {
        let start = Clock.now
        var progress = Progress(wanted: !options.json)
        var movedAt = start
        var last = 0
        while !Interrupt.isSeen, !gate.isStopped {
            usleep(5000)
            let now = Clock.now
            let count = gate.arrivedCount
            if count != last { (last, movedAt) = (count, now) }
            if let nanoseconds, now - start > nanoseconds { break }
            if let messages {
                if count >= messages { break }
                // They are late when others have come and no more do.
                if count > 0, now - movedAt > UInt64(options.timeout * 1e9) { break }
            }
            progress.show(share: messages.map { Double(count) / Double($0) }, count: count, "arrived", now: now)
        }
        progress.end()
        gate.stop()
    }
}
