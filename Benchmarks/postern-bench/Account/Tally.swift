import Histogram

/// What one thread has counted; merged when the threads have ended.
struct Tally: Sendable {
    /// Width of the buckets of `timeline`, in nanoseconds.
    static let bucketNanoseconds: UInt64 = 250_000_000
    static let bucketsMax = 100_000

    var messages = 0
    var bytes = 0
    /// Due in an open loop, and never begun.
    var overdue = 0
    var connections = 0
    var fullHandshakes = 0
    var resumedHandshakes = 0
    /// By reply code, or by what happened to the connection.
    var errors: [String: Int] = [:]
    /// The first words behind each.
    var words: [String: String] = [:]
    /// Of messages accepted, or arrived at a sink, per bucket since the start.
    var timeline: [Int] = []
    /// When the last message was answered or arrived, and the first, in monotonic nanoseconds; 0: none.
    var lastAt: UInt64 = 0
    var firstAt: UInt64 = 0
    /// CPU of the thread, in nanoseconds.
    var cpu: UInt64 = 0
    var latencies = Latencies()

    mutating func count(_ error: String, words text: @autoclosure () -> String = "") {
        errors[error, default: 0] += 1
        if words[error] == nil { words[error] = text() }
    }

    mutating func mark(_ now: UInt64, since start: UInt64) {
        if firstAt == 0 { firstAt = now }
        lastAt = now
        let bucket = min(Int((now &- start) / Self.bucketNanoseconds), Self.bucketsMax - 1)
        while timeline.count <= bucket { timeline.append(0) }
        timeline[bucket] += 1
    }

    /// Connections that were made during the warm-up are in use afterwards.
    mutating func keepConnections(of warmUp: Tally) {
        connections = warmUp.connections
        fullHandshakes = warmUp.fullHandshakes
        resumedHandshakes = warmUp.resumedHandshakes
    }

    mutating func merge(_ other: Tally) {
        messages += other.messages
        bytes += other.bytes
        overdue += other.overdue
        connections += other.connections
        fullHandshakes += other.fullHandshakes
        resumedHandshakes += other.resumedHandshakes
        errors.merge(other.errors, uniquingKeysWith: +)
        words.merge(other.words) { mine, _ in mine }
        while timeline.count < other.timeline.count { timeline.append(0) }
        for (index, count) in other.timeline.enumerated() { timeline[index] += count }
        lastAt = max(lastAt, other.lastAt)
        if firstAt == 0 || (other.firstAt > 0 && other.firstAt < firstAt) { firstAt = other.firstAt }
        cpu += other.cpu
        latencies.merge(other.latencies)
    }
}

/// A distribution of latencies, 1 µs to an hour, with three significant digits.
struct Latencies: Sendable {
    private(set) var histogram = Histogram<UInt32>(
        lowestDiscernibleValue: 1, highestTrackableValue: 3_600_000_000, numberOfSignificantValueDigits: .three)
    private(set) var count = 0
    private var most: UInt64 = 0

    mutating func record(nanoseconds: UInt64) {
        let microseconds = min(max(nanoseconds / 1000, 1), 3_600_000_000)
        histogram.record(microseconds)
        count += 1
        most = max(most, microseconds)
    }

    mutating func merge(_ other: Latencies) {
        histogram.add(other.histogram)
        count += other.count
        most = max(most, other.most)
    }

    /// Microseconds below which `percent` of all are; nil without any.
    func percentile(_ percent: Double) -> Int? {
        count == 0 ? nil : min(Int(histogram.valueAtPercentile(percent)), Int(most))
    }

    var maximum: Int? { count == 0 ? nil : Int(most) }

    /// Points of the curve of percentiles, nines equally wide: (1 / (1 − share), microseconds).
    func curve() -> [(Double, Int)] {
        guard count > 0 else { return [] }
        var points: [(Double, Int)] = []
        var tail = 1.0
        while tail * Double(count) >= 1 {
            points.append((1 / tail, percentile(100 * (1 - tail)) ?? 0))
            tail *= 0.8
        }
        points.append((Double(count), Int(most)))
        return points
    }
}
