import Glibc
import NIOPosix
import Synchronization

/// Lets people and programs in, and notes what they change. All of it beside the event loop.
///
/// A database that can't be opened is tried again when somebody asks; meanwhile every answer is its fault's sentence, and
/// monitoring goes on.
final class AccessDesk: Sendable {
    private enum Limits {
        static let threads = 2
        /// Between two tries to open the database.
        static let openPauseSeconds = 2.0
    }

    private struct State {
        var store: AccessStore?
        var fault: AccessFault?
        var triedAt = -Double.infinity
        var attempts = Attempts()
    }

    private let path: String
    private let state = Mutex(State())
    private let pool = NIOThreadPool(numberOfThreads: Limits.threads)
    private let passwords = PasswordWork()
    /// What an unknown user's password is compared with, so that it takes as long as a known one's.
    private let nobody = PasswordHash(RandomText.password())

    init(path: String) {
        self.path = path
        pool.start()
    }

    /// Runs `body` with the database, on a thread for it.
    ///
    /// - Throws: `AccessFault`.
    func run<Result: Sendable>(_ body: @escaping @Sendable (AccessStore) throws -> Result) async throws -> Result {
        try await pool.runIfActive {
            let store = try self.store()
            do {
                return try body(store)
            } catch let fault as AccessFault {
                // Opened anew by whoever comes next: the file may be put right meanwhile.
                self.state.withLock { if $0.store === store { $0.store = nil } }
                throw fault
            }
        }
    }

    /// - Throws: `AccessFault`, also the one of a moment ago.
    private func store() throws -> AccessStore {
        try state.withLock { state in
            // Another file may have been put in its place, such as a backup.
            if let store = state.store, store.isInPlace { return store }
            state.store = nil
            let now = Text.now
            if let fault = state.fault, now - state.triedAt < Limits.openPauseSeconds { throw fault }
            state.triedAt = now
            do throws(AccessFault) {
                let store = try AccessStore(path: path)
                try Self.makeFirstUser(store)
                (state.store, state.fault) = (store, nil)
                return store
            } catch {
                if state.fault != error { complain("the admin pages are closed: \(error)") }
                state.fault = error
                throw error
            }
        }
    }

    /// At the very first start: its password is said once, here.
    private static func makeFirstUser(_ store: AccessStore) throws(AccessFault) {
        guard try !store.hasUsers() else { return }
        let password = RandomText.password()
        guard try store.makeFirstUser(PasswordHash(password), now: Text.now) else { return }
        complain(
            "the first user of the admin page is `\(AccessStore.firstUser)` with the password \(password) - it is not shown "
                + "again; `postern password \(AccessStore.firstUser)` sets another")
    }
}

// MARK: Passwords and sessions

extension AccessDesk {
    private static let wrong = Problem(.unauthorized, "this user and this password do not belong together")

    /// Checks a password, with the limits of attempts.
    ///
    /// - Throws: `Problem` 401 in one wording, 429, 503.
    func check(user: String, password: String, address: String) async throws {
        let began = Text.now
        let wait = state.withLock { state -> Int? in
            let wait = state.attempts.wait(address: address, account: user, now: began)
            if wait == nil { state.attempts.began(address: address, account: user, now: began) }
            return wait
        }
        if let wait {
            var problem = Problem(.tooManyRequests, "too many attempts; try again later")
            problem.retryAfterSeconds = wait
            throw problem
        }
        let stored = try await run { try $0.passwordHash(of: user) }
        let known = stored.flatMap { PasswordHash(stored: $0) }
        let hash = known ?? nobody
        let isRight: Bool
        do {
            isRight = try await passwords.run { hash.matches(password) } && known != nil
        } catch is PasswordWork.Busy {
            throw Problem(.serviceUnavailable, "too many sign in at this moment; try again")
        }
        guard isRight else { throw Self.wrong }
        state.withLock { $0.attempts.succeeded(address: address, account: user) }
    }

    /// A new session for a right password.
    ///
    /// - Returns: its secret.
    func signIn(user: String, password: String, address: String, replacing old: String?) async throws -> String {
        do {
            try await check(user: user, password: password, address: address)
        } catch let problem as Problem where problem.status == .unauthorized {
            try await run {
                try $0.audit(
                    who: user, address: address, action: "session.create", object: user, outcome: "refused",
                    now: Text.now)
            }
            throw problem
        }
        return try await run { store in
            if let old { try store.endSession(RandomText.digest(old)) }
            try store.audit(
                who: user, address: address, action: "session.create", object: user, outcome: "done", now: Text.now)
            return try store.makeSession(user: user, address: address, now: Text.now)
        }
    }

    func setPassword(_ password: String, of user: String, keeping session: String?) async throws {
        let hash: PasswordHash
        do {
            hash = try await passwords.run { PasswordHash(password) }
        } catch is PasswordWork.Busy {
            throw Problem(.serviceUnavailable, "too many sign in at this moment; try again")
        }
        try await run { try $0.setPassword(hash, of: user, keeping: session, now: Text.now) }
    }

    /// Who this is; nil: nobody.
    ///
    /// - Parameter noting: a request of a person, which keeps a session alive.
    func caller(session: String?, token: String?, address: String, noting: Bool = true) async throws -> Caller? {
        guard session != nil || token != nil else { return nil }
        return try await run { store in
            if let token {
                return try store.token(token, now: Text.now).map {
                    Caller(name: $0.name, means: .token($0.scope), address: address)
                }
            }
            guard let session else { return nil }
            let digest = RandomText.digest(session)
            return try store.user(ofSession: digest, noting: noting, now: Text.now).map {
                Caller(name: $0, means: .session(digest: digest), address: address)
            }
        }
    }
}
