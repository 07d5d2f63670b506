/// How a primary behaves.
struct SinkPlan: Sendable {
    /// Share of messages that are refused for good at their end: 554.
    var refuse = 0.0
    /// Share that is put off once, the first time each is offered: 451.
    var deferOnce = 0.0
    /// How long each reply to content is held back, in nanoseconds.
    var delayNanoseconds: UInt64 = 0
    var offersTLS = false
    var hostname = "sink.test"
    /// Listeners that are closed for a while: their latencies are counted apart.
    var unsteady: Set<Int> = []
    /// For tests of the verification itself: one message in so many is dropped after its 250; 0: none.
    var dropEvery = 0
}
