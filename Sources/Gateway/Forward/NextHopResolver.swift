import Protocols
import Reactor

/// An address to try, and the name that its certificate must have.
struct NextHopAddress: Sendable, Equatable {
    let address: IPAddress
    /// Of the MX host; nil for an address without a name.
    let host: String?
}

/// Finds the addresses of a next hop (RFC 5321 §5.1, RFC 7505), by asynchronous look-ups, cached by TTL.
///
/// MX records of our own preference and worse are dropped, equal ones shuffled, and each host's addresses follow its place.
final class NextHopResolver {
    enum Found {
        /// In the order in which they are to be tried.
        case addresses([NextHopAddress])
        /// There is nowhere to go now; mail waits (NXDOMAIN, no address, only us).
        case none(String)
        /// The domain takes no mail (null MX).
        case refused(Reply)
        /// The DNS can't say now.
        case later(String)
    }

    private let calls: FileCalls
    private let reactor: Reactor
    private var cache: [Question: (answer: DNSAnswer, until: UInt64)] = [:]
    private var waiting: [Question: [(Result<DNSAnswer, LookupTrouble>) -> Void]] = [:]

    private struct Question: Hashable {
        let name: String
        let type: DNSType
    }
    private struct LookupTrouble: Error { let words: String }

    private static let cacheMax = 50_000
    private static let ttlMaxSeconds: UInt32 = 86_400
    private static let ttlMinSeconds: UInt32 = 5
    /// Hosts of one MX set that are looked up.
    private static let hostsMax = 10
    private static let addressesMax = 20

    init(calls: FileCalls, reactor: Reactor) { (self.calls, self.reactor) = (calls, reactor) }

    /// - Parameter domain: of the gateway, or of the recipient for mail of our own.
    ///
    /// A server that the administrator named is ours only if the port is, too: a primary may share the machine. In the MX
    /// set of the domain itself we always are who we are.
    func find(
        _ nextHop: Gateway.NextHop, port: UInt16, domain: String, identity: Identity, then: @escaping (Found) -> Void
    ) {
        let named = identity.ports.contains(port) ? identity : Identity(names: [], addresses: [], ports: [])
        switch nextHop {
        case .address(let address): then(.addresses([NextHopAddress(address: address, host: nil)]))
        case .host(let name, skipMX: true): hosts([name], named, then)
        case .host(let name, skipMX: false): exchangers(of: name, named, then)
        case .mxOfOwnDomain, .mxOfRecipientDomain:
            if domain.hasPrefix("[") {
                let literal = domain.dropFirst().dropLast()
                let text = literal.lowercased().hasPrefix("ipv6:") ? literal.dropFirst(5) : literal
                guard let address = IPAddress(text) else { return then(.none("`\(domain)` is no address")) }
                return then(.addresses([NextHopAddress(address: address, host: nil)]))
            }
            exchangers(of: domain, identity, then)
        }
    }

    private func exchangers(of name: String, _ identity: Identity, _ then: @escaping (Found) -> Void) {
        ask(name, .mx) { [self] result in
            switch result {
            case .failure(let trouble): then(.later("MX of \(name): \(trouble.words)"))
            case .success(let answer):
                switch answer.status {
                case .nameError: then(.none("the domain \(name) does not exist"))
                case .noData:
                    // No MX: the domain itself is its exchanger (RFC 5321 §5.1).
                    hosts([name], identity, then)
                case .success:
                    choose(answer, name, identity, then)
                default: then(.later("MX of \(name): the DNS server could not answer"))
                }
            }
        }
    }

    private func choose(_ answer: DNSAnswer, _ name: String, _ identity: Identity, _ then: @escaping (Found) -> Void) {
        var set: [(preference: UInt16, host: String)] = []
        for record in answer.records {
            if case .mx(let preference, let host) = record { set.append((preference, host)) }
        }
        if set.count == 1, set[0].host.isEmpty {
            return then(.refused(Reply(556, EnhancedStatus(5, 1, 10), "The domain \(name) accepts no mail (null MX)")))
        }
        set.removeAll { $0.host.isEmpty }
        guard !set.isEmpty else { return then(.none("no MX record of \(name) can be used")) }
        if let own = set.filter({ identity.names.contains($0.host) }).map(\.preference).min() {
            set.removeAll { $0.preference >= own }
        }
        guard !set.isEmpty else { return then(.none("the best MX of \(name) is this server itself")) }
        // Shuffled within equal preferences (RFC 5321 §5.1).
        let keyed = set.map { (preference: $0.preference, key: reactor.backend.random(), host: $0.host) }
            .sorted { ($0.preference, $0.key) < ($1.preference, $1.key) }
        hosts(keyed.prefix(Self.hostsMax).map(\.host), identity, then)
    }

    /// Addresses that are ours end the list, and what is worse with them: such a list would loop.
    private func hosts(_ names: [String], _ identity: Identity, _ then: @escaping (Found) -> Void) {
        let gathering = Gathering(names.count * 2)
        for (place, name) in names.enumerated() {
            for (offset, type) in [DNSType.aaaa, .a].enumerated() {
                ask(name, type) { [self] result in
                    switch result {
                    case .success(let answer):
                        for record in answer.records {
                            switch record {
                            case .a(let address), .aaaa(let address):
                                gathering.found[place * 2 + offset].append(NextHopAddress(address: address, host: name))
                            default: break
                            }
                        }
                        if answer.status != .success && answer.status != .noData && answer.status != .nameError {
                            gathering.trouble = "addresses of \(name): the DNS server could not answer"
                        }
                    case .failure(let trouble): gathering.trouble = "addresses of \(name): \(trouble.words)"
                    }
                    gathering.left -= 1
                    if gathering.left == 0 { then(finish(gathering, names, identity)) }
                }
            }
        }
    }

    private final class Gathering {
        var left: Int
        var found: [[NextHopAddress]]
        var trouble: String?
        init(_ count: Int) { (left, found) = (count, Array(repeating: [], count: count)) }
    }

    private func finish(_ gathering: Gathering, _ names: [String], _ identity: Identity) -> Found {
        var list: [NextHopAddress] = []
        for (place, group) in gathering.found.enumerated() {
            if group.contains(where: { identity.addresses.contains($0.address) }) {
                // Ourselves: this preference and the worse ones would bring the mail back.
                if list.isEmpty { return .none("\(names[place / 2]) is this server itself") }
                break
            }
            list += group
        }
        if !list.isEmpty { return .addresses(Array(list.prefix(Self.addressesMax))) }
        if let trouble = gathering.trouble { return .later(trouble) }
        return .none("\(names.joined(separator: ", ")): no address")
    }

    // MARK: Look-ups

    private func ask(_ name: String, _ type: DNSType, _ then: @escaping (Result<DNSAnswer, LookupTrouble>) -> Void) {
        let question = Question(name: name, type: type)
        if let known = cache[question], known.until > reactor.now { return then(.success(known.answer)) }
        if waiting[question] != nil {
            waiting[question]!.append(then)
            return
        }
        let id = UInt16(truncatingIfNeeded: reactor.backend.random())
        do throws(DNSQuery.Invalid) {
            let query = try DNSQuery.encode(name: name, type: type, id: id)
            waiting[question] = [then]
            calls.lookUp(query) { [self] result in
                let outcome = read(result, question, id)
                for answer in waiting.removeValue(forKey: question) ?? [] { answer(outcome) }
            }
        } catch {
            then(.failure(LookupTrouble(words: "`\(name)` can't be asked for")))
        }
    }

    private func read(
        _ result: Result<[UInt8], LookupFault>, _ question: Question, _ id: UInt16
    ) -> Result<DNSAnswer, LookupTrouble> {
        switch result {
        case .failure(.timedOut): return .failure(LookupTrouble(words: "the DNS server does not answer"))
        case .failure(.overloaded): return .failure(LookupTrouble(words: "too many look-ups at once"))
        case .failure(.unreachable): return .failure(LookupTrouble(words: "the DNS server can't be reached"))
        case .success(let bytes):
            guard let answer = try? DNSAnswer.decode(bytes), answer.id == id,
                answer.questionName == question.name.lowercased(), answer.questionType == question.type.rawValue
            else { return .failure(LookupTrouble(words: "the DNS server's answer makes no sense")) }
            switch answer.status {
            case .success, .noData, .nameError:
                let ttl = min(max(answer.ttlSeconds, Self.ttlMinSeconds), Self.ttlMaxSeconds)
                if cache.count >= Self.cacheMax { cache.removeAll(keepingCapacity: true) }
                cache[question] = (answer, reactor.now + UInt64(ttl) * Limits.nanosecondsPerSecond)
            default: break
            }
            return .success(answer)
        }
    }
}
