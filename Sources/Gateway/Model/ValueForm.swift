internal import Protocols

/// How one kind of value is read from a document and written back, and the words for what is allowed.
struct ValueForm<Value: Equatable & Sendable>: Sendable {
    /// Completes "it takes …".
    let allowed: String
    /// nil: not allowed.
    let parse: @Sendable (DocumentValue) -> Value?
    let print: @Sendable (Value) -> DocumentValue

    init(
        _ allowed: String, parse: @escaping @Sendable (DocumentValue) -> Value?,
        print: @escaping @Sendable (Value) -> DocumentValue
    ) {
        self.allowed = allowed
        self.parse = parse
        self.print = print
    }

    /// The same, where `null` is a value, too.
    var orNull: ValueForm<Value?> {
        ValueForm<Value?>(
            allowed + ", or null",
            // A double optional on purpose: the outer nil is a refusal.
            parse: { value in value.isNull ? .some(nil) : parse(value).map { .some($0) } },
            print: { $0.map(print) ?? .null })
    }

    /// A list of these, at most `maxCount` long.
    func list(maxCount: Int, minCount: Int = 0) -> ValueForm<[Value]> {
        ValueForm<[Value]>(
            "a list of \(minCount == 0 ? "at most" : "\(minCount) to") \(maxCount), each \(allowed)",
            parse: { value in
                guard let items = value.items, (minCount...maxCount).contains(items.count) else { return nil }
                var values: [Value] = []
                for item in items {
                    guard let one = parse(item) else { return nil }
                    values.append(one)
                }
                return values
            },
            print: { DocumentValue(.list($0.map(print))) })
    }
}

extension ValueForm where Value == Bool {
    static let flag = ValueForm("true or false", parse: \.bool, print: { DocumentValue(.bool($0)) })
}

extension ValueForm where Value == Int {
    static func integer(_ range: ClosedRange<Int>) -> ValueForm {
        ValueForm(
            "\(range.lowerBound) to \(range.upperBound)",
            parse: { value in value.integer.flatMap { range.contains($0) ? $0 : nil } },
            print: { DocumentValue(.integer($0)) })
    }

    /// Bytes, printed as a number.
    static func size(_ range: ClosedRange<Int>) -> ValueForm {
        ValueForm(
            "bytes from \(SizeText.text(range.lowerBound)) to \(SizeText.text(range.upperBound)), "
                + "as a number or with K, M, G or T",
            parse: { value in value.string.flatMap(SizeText.bytes).flatMap { range.contains($0) ? $0 : nil } },
            print: { DocumentValue(.integer($0)) })
    }

    /// Seconds, printed as a duration.
    static func duration(_ range: ClosedRange<Int>) -> ValueForm {
        ValueForm(
            "a time from \(DurationText.text(range.lowerBound)) to \(DurationText.text(range.upperBound)), such as 90s, "
                + "5m, 24h or 5d",
            parse: { value in value.string.flatMap(DurationText.seconds).flatMap { range.contains($0) ? $0 : nil } },
            print: { DocumentValue(.text(DurationText.text($0))) })
    }
}

extension ValueForm where Value == UInt16 {
    static let port = ValueForm(
        "1 to 65535", parse: { value in value.integer.flatMap { $0 == 0 ? nil : UInt16(exactly: $0) } },
        print: { DocumentValue(.integer(Int($0))) })
}

extension ValueForm where Value: RawRepresentable & CaseIterable, Value.RawValue == String {
    /// One of the words of an enumeration.
    static var oneOf: ValueForm {
        ValueForm(
            Value.allCases.map(\.rawValue).joined(separator: ", "),
            parse: { value in value.string.flatMap(Value.init(rawValue:)) },
            print: { DocumentValue(.text($0.rawValue)) })
    }
}

extension ValueForm where Value == IPAddress {
    static let address = ValueForm(
        "an IP address", parse: { $0.string.flatMap { IPAddress($0) } },
        print: { DocumentValue(.text($0.description)) })
}

extension ValueForm where Value == IPNetwork {
    static let network = ValueForm(
        "an IP address or a network such as 10.0.0.0/8", parse: { $0.string.flatMap { IPNetwork($0) } },
        print: { network in
            // A single address is written as it was given, without its width.
            DocumentValue(.text(network.prefixBits == 128 ? network.address.description : network.description))
        })
}

extension ValueForm where Value == MailAddress {
    /// ASCII, so that it travels to servers without SMTPUTF8, and with a domain.
    static let mailAddress = ValueForm(
        "a mail address such as postmaster@example.net, in ASCII",
        parse: { value in
            guard let text = value.string, let address = try? MailAddress(validating: text), address.domain != nil,
                !address.isInternational
            else { return nil }
            return address
        }, print: { DocumentValue(.text($0.description)) })
}

extension ValueForm where Value == String {
    static let hostName = ValueForm(
        "a host name", parse: { $0.string.flatMap(DomainNameNormaliser.aLabel) }, print: { DocumentValue(.text($0)) })

    /// A path of a file or folder that the host's administrator names.
    static let path = ValueForm(
        "a path of at most \(PathText.maxBytes) bytes without control characters",
        parse: { $0.string.flatMap { PathText.isPlain($0) ? $0 : nil } }, print: { DocumentValue(.text($0)) })
}

/// Checks on text that becomes a path.
enum PathText {
    /// Well below PATH_MAX, so that a data folder fits in front and a file name behind.
    static let maxBytes = 1_024
    /// NAME_MAX.
    static let componentMaxBytes = 255

    /// Without control characters, and no part of it too long for the file system.
    static func isPlain(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= maxBytes
            && text.unicodeScalars.allSatisfy { $0.value >= 32 && !(127...159).contains($0.value) }
            && parts(text).allSatisfy { $0.count <= componentMaxBytes }
    }

    /// The same, and nothing that steps aside: no `.`, `..` or empty part (T-C6).
    static func isDirect(_ text: String) -> Bool {
        guard isPlain(text) else { return false }
        let parts = parts(text)
        return (isAbsolute(text) ? parts.dropFirst() : parts[...])
            .allSatisfy { !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8) }
    }

    static func isAbsolute(_ text: String) -> Bool { text.utf8.first == UInt8(ascii: "/") }

    /// By bytes, as the kernel divides it: a slash with a combining mark behind it is another `Character`.
    private static func parts(_ text: String) -> [Substring.UTF8View] {
        text.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    }

    /// `path` from `folder`, unless it is absolute.
    static func resolve(_ path: String, from folder: String) -> String {
        guard !isAbsolute(path) else { return path }
        let tail = path.hasPrefix("./") ? path.dropFirst(2) : path[...]
        return folder.hasSuffix("/") ? folder + tail : "\(folder)/\(tail)"
    }
}
