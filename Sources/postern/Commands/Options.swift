import ArgumentParser
import FoundationEssentials
import Gateway
import Glibc

/// What every command takes.
struct Options: ParsableArguments {
    @Flag(help: "Print JSON, for programs.")
    var json = false

    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"), completion: .file(extensions: ["yaml"]))
    var config: String?

    /// - Throws: exit status 1, after the sentence on standard error.
    func configuration() throws -> Configuration {
        do throws(ConfigurationFault) {
            return try Configuration.load(path: config, environment: ProcessInfo.processInfo.environment)
        } catch {
            throw failure(error.sentence)
        }
    }

    /// Connects to the running server.
    func client() throws -> ControlClient {
        let path = ControlClient.path(dataFolder: try configuration().data)
        do throws(ControlFault) { return try ControlClient(path: path) } catch { throw failure(error.message) }
    }

    /// One question to the running server; its warnings go to standard error.
    func ask<Result: Codable & Sendable>(
        _ command: String, _ arguments: [DocumentValue.Member] = [], as type: Result.Type = Result.self
    ) throws -> Result {
        try ask(client(), command, arguments)
    }

    func ask<Result: Codable & Sendable>(
        _ client: ControlClient, _ command: String, _ arguments: [DocumentValue.Member] = [],
        as type: Result.Type = Result.self
    ) throws -> Result {
        do throws(ControlFault) {
            let answer = try client.ask(command, arguments, as: type)
            for warning in answer.warnings { complain("warning: \(warning)") }
            return answer.result
        } catch {
            throw failure(error.message)
        }
    }
}

extension DocumentValue.Member {
    static func text(_ name: String, _ text: String) -> Self { Self(name, DocumentValue(.text(text))) }
    static func texts(_ name: String, _ texts: [String]) -> Self {
        Self(name, DocumentValue(.list(texts.map { DocumentValue(.text($0)) })))
    }
    static func flag(_ name: String, _ flag: Bool) -> Self { Self(name, DocumentValue(.bool(flag))) }
}

/// One line on standard error.
func complain(_ sentence: String) { write("postern: \(sentence)\n", to: STDERR_FILENO) }

/// Says `sentence` on standard error; to be thrown: ends with status 1.
func failure(_ sentence: String) -> ExitCode {
    complain(sentence)
    return ExitCode(1)
}

/// All of `text`, unless nobody reads it any more.
func write(_ text: String, to descriptor: Int32 = STDOUT_FILENO) { write(Array(text.utf8), to: descriptor) }

/// - Returns: false when not all could be written; `errno` says why.
@discardableResult
func write(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return false }
        rest = rest.dropFirst(count)
    }
    return true
}

/// Prints a value as JSON: on lines for people, on one line for a pipe.
func printJSON(_ value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    if isatty(STDOUT_FILENO) == 1 { encoder.outputFormatting.insert(.prettyPrinted) }
    write(Array(try encoder.encode(value)) + [UInt8(ascii: "\n")], to: STDOUT_FILENO)
}
