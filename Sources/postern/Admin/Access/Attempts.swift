/// Failed tries of passwords, counted by address and by account, so that guessing takes years (T-G4).
///
/// What is counted forgets: a window after its first failure an entry is new. Bounded: the oldest entries make room.
struct Attempts {
    enum Limits {
        static let perAddress = 10
        static let perAccount = 50
        static let windowSeconds = 900.0
        static let entries = 4_096
    }

    private struct Entry {
        var failures: Int
        var since: Double
    }

    private var entries: [String: Entry] = [:]

    /// Seconds until another try is allowed; nil: now. The same for accounts that exist and those that don't.
    func wait(address: String, account: String, now: Double) -> Int? {
        let waits = [(key(address: address), Limits.perAddress), (key(account: account), Limits.perAccount)].compactMap
        {
            key, limit -> Double? in
            guard let entry = entries[key], entry.failures >= limit else { return nil }
            let left = entry.since + Limits.windowSeconds - now
            return left > 0 ? left : nil
        }
        return waits.max().map { Int($0.rounded(.up)) }
    }

    /// Counted before the password is looked at, so that tries at the same time are all counted.
    mutating func began(address: String, account: String, now: Double) {
        for key in [key(address: address), key(account: account)] {
            if let entry = entries[key], now - entry.since < Limits.windowSeconds {
                entries[key] = Entry(failures: entry.failures + 1, since: entry.since)
            } else {
                makeRoom(now)
                entries[key] = Entry(failures: 1, since: now)
            }
        }
    }

    /// The password was right: this address and account start anew.
    mutating func succeeded(address: String, account: String) {
        entries[key(address: address)] = nil
        entries[key(account: account)] = nil
    }

    private mutating func makeRoom(_ now: Double) {
        guard entries.count >= Limits.entries else { return }
        entries = entries.filter { now - $0.value.since < Limits.windowSeconds }
        guard entries.count >= Limits.entries else { return }
        // The tenth that is oldest, so that this is rare.
        for (key, _) in entries.sorted(by: { $0.value.since < $1.value.since }).prefix(Limits.entries / 10) {
            entries[key] = nil
        }
    }

    private func key(address: String) -> String { "address " + address }
    private func key(account: String) -> String { "account " + String(account.prefix(64)) }
}
