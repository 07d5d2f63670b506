/// The report as one page that asks nobody for anything: style and drawings are in it, for light and dark screens.
enum HTMLReport {
    static func page(_ outcomes: [Outcome]) -> String {
        let title = outcomes.map { "\(escaped($0.mode)) · \(escaped($0.target))" }.joined(separator: ", ")
        return """
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>postern-bench: \(title)</title>
            <style>\(style)</style>
            </head>
            <body>
            \(outcomes.map(section).joined(separator: "\n"))
            </body>
            </html>

            """
    }

    private static let style = """
        :root{--ink:#1c2430;--soft:#5c6673;--line:#d8dde3;--page:#fbfbfa;--card:#fff;--mark:#1f6feb;--bad:#b3261e;--good:#1a7f37}
        @media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#30363d;--page:#0e1116;--card:#161b22;--mark:#6cb0ff;--bad:#ff8a80;--good:#56d364}}
        body{margin:0 auto;padding:24px 16px;max-width:960px;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
        h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:28px 0 8px}p{color:var(--soft);margin:0 0 16px}
        .cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
        .card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px}
        .card b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:13px}
        table{border-collapse:collapse;width:100%}td,th{padding:4px 8px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
        td:last-child{font-variant-numeric:tabular-nums}
        .bad{color:var(--bad)}.good{color:var(--good)}
        svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
        svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .grid{stroke:var(--line)}
        svg .curve{fill:none;stroke:var(--mark);stroke-width:2}svg .area{fill:var(--mark);opacity:.18}
        """

    private static func section(_ outcome: Outcome) -> String {
        let verdict =
            outcome.failures.isEmpty
            ? #"<p class="good">Verified: nothing lost, nothing changed.</p>"#
            : outcome.failures.map { #"<p class="bad">\#(escaped($0))</p>"# }.joined()
        let parameters = outcome.parameters.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(
            separator: " · ")
        var parts = [
            "<h1>\(escaped(outcome.mode)) \(escaped(outcome.target))</h1>", "<p>\(escaped(parameters))</p>", verdict,
            cards(outcome),
        ]
        if outcome.timeline.count > 1 {
            parts.append("<h2>Messages per second, over time</h2>")
            parts.append(Plot.timeline(outcome.timeline, bucketSeconds: Double(Tally.bucketNanoseconds) / 1e9))
        }
        if outcome.curve.count > 1 {
            parts.append("<h2>Latency by percentile</h2><p>\(escaped(outcome.latency))</p>")
            parts.append(Plot.curve(outcome.curve))
        }
        parts.append("<h2>All figures</h2>" + table(outcome))
        return parts.joined(separator: "\n")
    }

    private static func cards(_ outcome: Outcome) -> String {
        let figures: [(String, String)] = [
            ("messages per second", Screen.decimal(outcome.perSecond, 0)),
            ("MB per second", Screen.decimal(outcome.megabytesPerSecond)),
            ("median latency", Screen.latency(outcome.p50us)), ("99th percentile", Screen.latency(outcome.p99us)),
            ("99.9th percentile", Screen.latency(outcome.p999us)),
            (
                "server CPU per message",
                outcome.serverCpuUsPerMessage.map { Screen.decimal($0) + " µs" } ?? "not available"
            ),
            ("lost / wrong", "\(outcome.lost) / \(outcome.wrong)"),
        ]
        let cards = figures.map { #"<div class="card"><b>\#(escaped($0.1))</b><span>\#(escaped($0.0))</span></div>"# }
        return #"<div class="cards">\#(cards.joined())</div>"#
    }

    private static func table(_ outcome: Outcome) -> String {
        let rows = TextReport.lines(outcome).map { "<tr><th>\(escaped($0.0))</th><td>\(escaped($0.1))</td></tr>" }
        return "<table>\(rows.joined())</table>"
    }

    static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.append(character)
            }
        }
        return result
    }
}
