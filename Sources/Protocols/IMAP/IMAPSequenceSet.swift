/// Message numbers or UIDs as a client writes them (`sequence-set` of RFC 3501 §9): `2,4:7,9,12:*`.
struct IMAPSequenceSet: Equatable {
    /// Both ends as given; 0 stands for `*`.
    var ranges: [(first: UInt32, last: UInt32)] = []

    static func == (a: IMAPSequenceSet, b: IMAPSequenceSet) -> Bool { a.ranges.elementsEqual(b.ranges, by: ==) }

    /// Message numbers as indices of messages, ascending, none twice; nil if one is beyond `count` (RFC 3501 §9 wants that
    /// refused, and so `*` of an empty folder).
    func indices(count: Int) -> [Range<Int>]? {
        var result: [Range<Int>] = []
        for (first, last) in ranges {
            let first = first == 0 ? count : Int(first)
            let last = last == 0 ? count : Int(last)
            guard first >= 1, last >= 1, max(first, last) <= count else { return nil }
            result.append(min(first, last) - 1..<max(first, last))
        }
        return Self.merged(result)
    }

    /// UIDs as indices of messages, ascending, none twice. UIDs that no message has are passed over.
    func indices(ofUIDsIn messages: ArraySlice<IMAPMessage>) -> [Range<Int>] {
        guard let lastUID = messages.last?.uid else { return [] }
        var result: [Range<Int>] = []
        for (first, last) in ranges {
            let first = first == 0 ? lastUID : first
            let last = last == 0 ? lastUID : last
            let low = messages.firstIndex(uidAtLeast: min(first, last))
            let top = max(first, last)
            let high = top == .max ? messages.endIndex : messages.firstIndex(uidAtLeast: top + 1)
            if low < high { result.append(low..<high) }
        }
        return Self.merged(result)
    }

    private static func merged(_ ranges: [Range<Int>]) -> [Range<Int>] {
        var result: [Range<Int>] = []
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = result.last, range.lowerBound <= last.upperBound {
                result[result.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
            } else {
                result.append(range)
            }
        }
        return result
    }
}

extension ArraySlice<IMAPMessage> {
    /// The index of the first message with that UID or a higher one, or the end.
    func firstIndex(uidAtLeast uid: UInt32) -> Int {
        var (low, high) = (startIndex, endIndex)
        while low < high {
            let middle = (low + high) / 2
            if self[middle].uid < uid { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

extension [Range<Int>] {
    /// One of the ranges, ascending and apart, has the index.
    func has(_ index: Int) -> Bool {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if self[middle].upperBound <= index { low = middle + 1 } else { high = middle }
        }
        return low < count && self[low].contains(index)
    }
}

/// Numbers in ascending order, written as a set: `2:5,7`.
struct IMAPSetWriter {
    private var first: UInt32 = 0
    private var last: UInt32 = 0
    private var isEmpty = true

    mutating func add(_ number: UInt32, into output: inout ByteOutput) {
        if first != 0, number == last &+ 1 {
            last = number
            return
        }
        finish(into: &output)
        (first, last) = (number, number)
    }

    /// Writes the run that is open.
    mutating func finish(into output: inout ByteOutput) {
        guard first != 0 else { return }
        if !isEmpty { output.append(UInt8(ascii: ",")) }
        isEmpty = false
        output.append(number: Int(first))
        if last != first {
            output.append(UInt8(ascii: ":"))
            output.append(number: Int(last))
        }
        first = 0
    }
}
