import Protocols
import Reactor

/// The DNS as a test wants it: a name without records does not exist.
final class ScriptedResolver {
    enum Record {
        case a(String)
        case aaaa(String)
        case mx(UInt16, String)
        case cname(String)
    }

    /// What a name does instead of answering by its records.
    enum Trouble { case serverFailure, timeout, garbage, refused }

    var records: [String: [Record]] = [:]
    var trouble: [String: Trouble] = [:]
    private(set) var questions: [String] = []

    /// Answers of the resolver to `query`, aliases followed as one does.
    func answer(_ query: [UInt8]) -> Result<[UInt8], LookupFault> {
        var at = 12
        var labels: [String] = []
        while query[at] != 0 {
            labels.append(String(decoding: query[(at + 1)...(at + Int(query[at]))], as: UTF8.self))
            at += 1 + Int(query[at])
        }
        let type = UInt16(query[at + 1]) << 8 | UInt16(query[at + 2])
        let question = Array(query[12..<(at + 5)])
        let name = labels.joined(separator: ".").lowercased()
        questions.append("\(name) \(type)")
        var code: UInt8 = 0
        switch trouble[name] {
        case .timeout: return .failure(.timedOut)
        case .garbage: return .success([1, 2, 3])
        case .serverFailure: code = 2
        case .refused: code = 5
        case nil: break
        }
        var answers: [[UInt8]] = []
        var current = name
        for _ in 0..<12 where code == 0 {
            guard let found = records[current] else {
                code = 3
                break
            }
            var alias: String?
            for record in found {
                switch record {
                case .a(let text) where type == 1: answers.append(Self.record(current, 1, IPAddress(text)!.bytes))
                case .aaaa(let text) where type == 28: answers.append(Self.record(current, 28, IPAddress(text)!.bytes))
                case .mx(let preference, let host) where type == 15:
                    answers.append(
                        Self.record(
                            current, 15, [UInt8(preference >> 8), UInt8(preference & 255)] + Self.encoded(host)))
                case .cname(let target):
                    answers.append(Self.record(current, 5, Self.encoded(target)))
                    alias = target
                default: break
                }
            }
            guard let next = alias else { break }
            current = next
        }
        var message = Array(query[0..<2]) + [0x81, 0x80 | code, 0, 1, 0, UInt8(answers.count), 0, 0, 0, 0]
        message += question
        for answer in answers { message += answer }
        return .success(message)
    }

    private static func encoded(_ name: String) -> [UInt8] {
        name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
    }

    private static func record(_ name: String, _ type: UInt8, _ data: [UInt8]) -> [UInt8] {
        encoded(name) + [0, type, 0, 1, 0, 0, 0, 60, 0, UInt8(data.count)] + data
    }
}
