/// What a generator shall do.
struct Load: Sendable {
    enum Security: String, Sendable { case none, starttls, implicit }

    var target: Endpoint
    var connections = 20
    /// Measured messages; nil: until `durationNanoseconds` have passed.
    var messages: Int? = 10_000
    var durationNanoseconds: UInt64?
    /// Messages before the measurement; their numbers come first.
    var warmUp = 0
    var sizes = Sizes.fixed(10_240)
    var domains: Domains
    var recipients = 1
    /// Messages per second in all; nil: as fast as answers come.
    var rate: Double?
    var pipelining = false
    var chunking = false
    var security = Security.none
    var resume = false
    var onePerSession = false
    var helo = "bench.test"
    var from = "from@sender.test"
    var source: SourceAddresses?
    var threads = 1

    /// The first number that is never given.
    var numbersEnd: Int { messages.map { warmUp + $0 } ?? Ledger.capacityMax }
}

/// The open loop's timetable: message n is due at a fixed time, whatever happened to those before it.
struct Pace {
    let start: UInt64
    /// Messages per second.
    let rate: Double

    /// When the message with this index, counted from 0, is due.
    func due(_ index: Int) -> UInt64 { start + UInt64(Double(index) * 1e9 / rate) }
}
