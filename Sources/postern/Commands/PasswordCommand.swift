import ArgumentParser
import Gateway
import Glibc

struct PasswordCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "password", abstract: "Set a user's password for the web page; also while no server runs.",
        discussion: """
            Reads one line from standard input: `postern password admin < file`. On a terminal it asks twice. All sessions of \
            that user end.
            """)

    @OptionGroup var options: Options

    @Flag(help: "Make a password and print it.")
    var generate = false

    @Argument(help: "The user: admin.")
    var user: String

    func validate() throws {
        guard user == AccessStore.firstUser else {
            throw ValidationError("there is one user in this version: \(AccessStore.firstUser)")
        }
    }

    private struct Made: Encodable {
        let user: String
        let password: String?
    }

    func run() throws {
        let password = try generate ? RandomText.password() : read()
        let range = PasswordHash.Limits.password
        guard range.contains(password.utf8.count) else {
            throw failure("a password has \(range.lowerBound) to \(range.upperBound) bytes")
        }
        try options.accessStore { store in
            let entry = try store.auditBegan(
                who: "command", address: "local", action: "password.set", object: user, now: Text.now)
            try store.setPassword(PasswordHash(password), of: user, now: Text.now)
            try store.auditEnded(entry, outcome: "done")
        }
        if options.json { return try printJSON(Made(user: user, password: generate ? password : nil)) }
        write(generate ? "\(password)\n" : "the password of \(user) is set\n")
    }

    private func read() throws -> String {
        guard isatty(STDIN_FILENO) == 1 else {
            guard let line = readLine(strippingNewline: true) else { throw failure("standard input holds no password") }
            return line
        }
        let first = try ask("new password: ")
        guard try ask("once more: ") == first else { throw failure("the two are not the same") }
        return first
    }

    /// A line of the terminal that it does not show.
    private func ask(_ prompt: String) throws -> String {
        var shown = termios()
        tcgetattr(STDIN_FILENO, &shown)
        var hidden = shown
        hidden.c_lflag &= ~tcflag_t(ECHO)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden)
        defer {
            tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown)
            write("\n", to: STDERR_FILENO)
        }
        write(prompt, to: STDERR_FILENO)
        guard let line = readLine(strippingNewline: true) else { throw failure("no password was given") }
        return line
    }
}

extension Options {
    /// Runs `body` with the database of the admin process.
    ///
    /// - Throws: exit status 1, after the sentence.
    func accessStore<Result>(_ body: (AccessStore) throws -> Result) throws -> Result {
        let folder = try configuration().data
        do {
            return try body(try AccessStore(path: AccessStore.path(dataFolder: folder)))
        } catch let fault as AccessFault {
            throw failure(fault.description)
        }
    }
}
