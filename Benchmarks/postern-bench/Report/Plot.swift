import Glibc

/// Drawings as inline SVG, in the page's colours.
enum Plot {
    private static let width = 920.0, height = 280.0
    private static let left = 72.0, right = 16.0, top = 14.0, bottom = 34.0
    private static let pointsMax = 400

    /// Rate over time, from counts per bucket.
    static func timeline(_ buckets: [Int], bucketSeconds: Double) -> String {
        let merged = max(1, (buckets.count + pointsMax - 1) / pointsMax)
        let rates = stride(from: 0, to: buckets.count, by: merged).map { first in
            // A last bucket that the run did not fill would look like a fall.
            let slice = buckets[first..<min(first + merged, buckets.count)]
            return Double(slice.reduce(0, +)) / (Double(slice.count) * bucketSeconds)
        }
        let full = rates.count > 2 ? Array(rates.dropLast()) : rates
        let seconds = Double(buckets.count) * bucketSeconds
        let highest = nice(full.max() ?? 1)
        let step = seconds / Double(max(full.count - 1, 1))
        let points = full.enumerated().map {
            (x(Double($0.offset) * step / max(seconds, 0.001)), y($0.element / highest))
        }
        var body = grid(
            horizontal: (0...4).map { (Double($0) / 4, Screen.decimal(highest * Double($0) / 4, 0)) },
            vertical: (0...5).map {
                (Double($0) / 5, Screen.decimal(seconds * Double($0) / 5, seconds < 10 ? 1 : 0) + " s")
            })
        body +=
            #"<path class="area" d="\#(path(points)) L\#(points.last?.0 ?? left) \#(y(0)) L\#(points.first?.0 ?? left) \#(y(0)) Z"/>"#
        body += #"<path class="curve" d="\#(path(points))"/>"#
        return svg(body)
    }

    /// Latency over nines: both axes grow by factors.
    static func curve(_ points: [(Double, Int)]) -> String {
        let lowest = floor(log10(Double(max(points.first?.1 ?? 1, 1))))
        let highest = max(ceil(log10(Double(max(points.last?.1 ?? 10, 10)))), lowest + 1)
        let nines = max(log10(points.last?.0 ?? 10), 1)
        let drawn = points.map { point in
            (x(log10(point.0) / nines), y((log10(Double(max(point.1, 1))) - lowest) / (highest - lowest)))
        }
        let decades = stride(from: lowest, through: highest, by: 1).map {
            (($0 - lowest) / (highest - lowest), Screen.latency(Int(pow(10, $0).rounded())))
        }
        let shares: [(Double, String)] = [
            (1, "0"), (2, "50 %"), (10, "90 %"), (100, "99 %"), (1000, "99.9 %"), (10_000, "99.99 %"),
            (100_000, "99.999 %"),
        ]
        let vertical = shares.filter { log10($0.0) <= nines }.map { (log10($0.0) / nines, $0.1) }
        return svg(grid(horizontal: decades, vertical: vertical) + #"<path class="curve" d="\#(path(drawn))"/>"#)
    }

    private static func x(_ share: Double) -> Double { rounded(left + share * (width - left - right)) }
    private static func y(_ share: Double) -> Double { rounded(top + (1 - share) * (height - top - bottom)) }
    private static func rounded(_ value: Double) -> Double { (value * 10).rounded() / 10 }

    private static func path(_ points: [(Double, Double)]) -> String {
        points.enumerated().map { "\($0.offset == 0 ? "M" : "L")\($0.element.0) \($0.element.1)" }.joined(
            separator: " ")
    }

    private static func grid(horizontal: [(Double, String)], vertical: [(Double, String)]) -> String {
        horizontal.map { share, label in
            #"<line class="grid" x1="\#(left)" x2="\#(width - right)" y1="\#(y(share))" y2="\#(y(share))"/><text x="\#(left - 8)" y="\#(y(share) + 4)" text-anchor="end">\#(label)</text>"#
        }.joined()
            + vertical.map { share, label in
                #"<line class="grid" x1="\#(x(share))" x2="\#(x(share))" y1="\#(top)" y2="\#(height - bottom)"/><text x="\#(x(share))" y="\#(height - 12)" text-anchor="\#(share == 0 ? "start" : share > 0.97 ? "end" : "middle")">\#(label)</text>"#
            }.joined()
    }

    private static func svg(_ body: String) -> String {
        #"<svg viewBox="0 0 \#(Int(width)) \#(Int(height))" role="img">\#(body)</svg>"#
    }

    /// The next of 1, 2, 5 times a power of ten.
    private static func nice(_ value: Double) -> Double {
        let power = pow(10, floor(log10(max(value, 1))))
        for factor in [1.0, 2, 5, 10] where value <= factor * power { return factor * power }
        return 10 * power
    }
}
