import Glibc

/// One parser, or several that belong together, and what must hold of them for every input.
struct Target: Sendable {
    let name: String
    /// Returns if everything holds; else it ends the process.
    let run: @Sendable ([UInt8]) throws -> Void
}

@main enum Fuzzing {
    static let targets = [
        Target(name: "smtp-server", run: SMTPServerTarget.run), Target(name: "smtp-client", run: SMTPClientTarget.run),
        Target(name: "address", run: AddressTarget.run), Target(name: "parameters", run: ParametersTarget.run),
        Target(name: "header", run: HeaderTarget.run), Target(name: "content", run: ContentTarget.run),
        Target(name: "dsn", run: DSNTarget.run), Target(name: "dns", run: DNSTarget.run),
        Target(name: "proxy", run: ProxyTarget.run), Target(name: "xtext", run: XTextTarget.run),
        Target(name: "mailfile", run: MailFileTarget.run), Target(name: "journal", run: JournalTarget.run),
        Target(name: "values", run: ValuesTarget.run),
        Target(name: "configuration", run: ConfigurationTarget.run),
        Target(name: "document", run: DocumentTarget.run), Target(name: "control", run: ControlTarget.run),
        Target(name: "sasl", run: SASLTarget.run), Target(name: "pop3", run: POP3Target.run),
        Target(name: "odmr", run: ODMRTarget.run),
        Target(name: "mime", run: MIMETarget.run), Target(name: "imap", run: IMAPTarget.run),
    ]
    nonisolated(unsafe) private static var chosen = targets[0]

    /// `Fuzz TARGET [libFuzzer's arguments]`, or `Fuzz list`.
    static func main() {
        let names = CommandLine.arguments
        if names.count == 2, names[1] == "list" {
            for target in targets { print(target.name) }
            return
        }
        guard names.count > 1, let target = targets.first(where: { $0.name == names[1] }) else {
            print("usage: \(names[0]) list | TARGET [libFuzzer's arguments]")
            exit(64)
        }
        chosen = target
        // libFuzzer starts itself again for merges and the like, by its own first argument.
        let arguments = ["\(names[0]) \(names[1])"] + names.dropFirst(2)
        var first = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: arguments.count + 1)
        for (index, argument) in arguments.enumerated() { first[index] = strdup(argument) }
        first[arguments.count] = nil
        var count = Int32(arguments.count)
        exit(runDriver(&count, &first, takeInput))
    }

    fileprivate static func take(_ input: [UInt8]) {
        do { try chosen.run(input) } catch { fail("thrown: \(error)") }
    }
}

private func takeInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    Fuzzing.take([UInt8](UnsafeRawBufferPointer(start: bytes, count: count)))
    return 0
}

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ argc: UnsafeMutablePointer<Int32>,
    _ argv: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ take: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
) -> Int32

// MARK: Properties

/// Ends the process, with the input kept by libFuzzer.
func fail(_ what: String) -> Never {
    // Not standard output: it is buffered.
    let line = "PROPERTY BROKEN: \(what)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    abort()
}

func require(_ holds: Bool, _ what: @autoclosure () -> String) {
    if !holds { fail(what()) }
}

func requireSame<Value: Equatable>(_ a: Value, _ b: Value, _ what: @autoclosure () -> String) {
    if a != b { fail("\(what()):\n  \(a)\n  \(b)") }
}

// MARK: Inputs

/// An input, taken apart from its front: options first, so that the rest is readable text in the corpus.
struct FuzzInput {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    /// 0 behind the end.
    mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

    mutating func number() -> UInt16 { UInt16(byte()) << 8 | UInt16(byte()) }

    mutating func all() -> [UInt8] {
        defer { rest = [] }
        return Array(rest)
    }

    /// The rest, divided at each `separator`; at least `atLeast`, the last ones empty.
    mutating func parts(_ separator: UInt8, atLeast: Int = 1) -> [[UInt8]] {
        var parts = all().split(separator: separator, omittingEmptySubsequences: false).map { Array($0) }
        while parts.count < atLeast { parts.append([]) }
        return parts
    }

    /// Between the texts of one input: ASCII's unit separator.
    static let unit: UInt8 = 0x1f
    /// Between what a peer sends at a time: ASCII's file separator.
    static let flight: UInt8 = 0x1c
}

/// Where a stream is cut into reads; the same in every run for the same seed.
struct Cuts {
    let seed: UInt16

    /// 0: every byte alone. Else lengths of 1 to 256, short ones as often as long ones.
    func pieces(_ bytes: [UInt8]) -> [[UInt8]] {
        var pieces: [[UInt8]] = []
        var state = UInt64(seed)
        var at = 0
        while at < bytes.count {
            state = state &* 6_364_136_223_846_793_005 &+ (seed == 0 ? 0 : 1_442_695_040_888_963_407)
            let most = 1 << Int(state >> 60 & 7)
            let length = seed == 0 ? 1 : 1 + Int(state >> 33) % most
            let end = min(at + length, bytes.count)
            pieces.append(Array(bytes[at..<end]))
            at = end
        }
        return pieces
    }
}

/// Lends the bytes from an allocation of exactly their size, so that address sanitizer sees a read beyond it.
func withExact<Result>(_ bytes: some Collection<UInt8>, _ body: (UnsafeRawBufferPointer) throws -> Result) rethrows
    -> Result
{
    let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
    defer { copy.deallocate() }
    copy.copyBytes(from: bytes)
    return try body(UnsafeRawBufferPointer(copy))
}

func text(_ bytes: some Collection<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }

/// CR and LF stand only together.
func hasOnlyCRLF(_ bytes: some Sequence<UInt8>) -> Bool {
    var previous: UInt8 = 0
    for byte in bytes {
        if (byte == 10) != (previous == 13) { return false }
        previous = byte
    }
    return previous != 13
}

func isControl(_ byte: UInt8) -> Bool { byte < 32 || byte == 127 }

/// A sentence for people: one line, of bounded length.
func requireSentence(_ sentence: String) {
    require(!sentence.utf8.contains(where: isControl), "a control byte in a sentence: \(Array(sentence.utf8))")
    require(sentence.utf8.count <= 4_096, "a sentence of \(sentence.utf8.count) bytes")
}
