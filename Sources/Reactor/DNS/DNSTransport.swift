import CReactor
import Glibc

/// Why a DNS query has no answer. An answer with an error in it (SERVFAIL, NXDOMAIN) is an answer.
public enum DNSTransportFault: Error, Equatable, Sendable {
    /// No server answered in time, in any of the tries.
    case timedOut
    /// No server could be reached.
    case unreachable
    /// The query is not a DNS message of 12 to 512 bytes with one question.
    case badQuery
    /// `DNSTransport.outstandingMax` queries have no answer yet: try later.
    case overloaded
    /// The transport was shut down.
    case shutDown
    /// A server's address is not one, or the system's resolver configuration cannot be used.
    case badConfiguration(String)
    case outOfMemory
}

/// Carries DNS queries to the servers and their answers back, as raw messages (RFC 1035 §4.1): the UDP and TCP side of
/// a resolver, by c-ares. What the messages say is not looked at.
///
/// One thread of its own does all the work. Servers are asked in their order; a truncated answer, and one above 512
/// bytes, is asked for again over TCP (RFC 7766), so that an answer is always whole. The id on the wire is random
/// and not the query's; the answer comes back with the query's own.
///
/// - Note: c-ares keeps one UDP port per server while queries are open, so mostly the id protects from a forger who can
///   send from the server's address. Use a resolver on this host or network, which the AD bit needs anyway
///   (RFC 4035 §4.9.3).
public final class DNSTransport: Sendable {
    /// Queries without an answer that the transport holds, at most. A query costs about 1 KiB.
    public static let outstandingMax = 10_000

    /// Gets the answer, or why there is none.
    public typealias Completion = @Sendable (Result<[UInt8], DNSTransportFault>) -> Void

    private let inbox: DNSInbox
    private let thread: Locked<Thread.Handle?>

    /// Starts the transport.
    ///
    /// - Parameters:
    ///   - servers: `192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:53`; without a port, 53.
    ///     Empty: those of `/etc/resolv.conf`.
    ///   - timeoutMilliseconds: of the first try with each server; each further round waits twice as long.
    ///   - tries: how often each server is asked.
    public init(servers: [String], timeoutMilliseconds: Int = 2_000, tries: Int = 3) throws(DNSTransportFault) {
        let inbox = try DNSInbox()
        // From here to its thread, and never back.
        nonisolated(unsafe) let channel = try DNSChannel(
            inbox: inbox, servers: servers, timeoutMilliseconds: timeoutMilliseconds, tries: tries)
        self.inbox = inbox
        thread = Locked(Thread.start("dns") { channel.run() })
    }

    deinit { shutDown() }

    /// Sends a query; from any thread.
    ///
    /// - Parameters:
    ///   - query: a whole message with one question, without the length that TCP has.
    ///   - completion: called once, on the transport's thread, where it must only pass the answer on. The answer
    ///     has the query's id and question; no more of it was looked at.
    /// - Throws: `.overloaded`, `.shutDown`, `.badQuery`; then `completion` is not called.
    public func send(query: [UInt8], completion: @escaping Completion) throws(DNSTransportFault) {
        guard query.count > 12, query.count <= 512, query[4] == 0, query[5] == 1 else { throw .badQuery }
        try inbox.put(DNSQuery(message: query, completion: completion))
    }

    /// Ends the transport: what has no answer completes with `.shutDown`, then the thread has ended. Idempotent.
    public func shutDown() {
        guard let thread = thread.withLock({ $0.take() }) else { return }
        inbox.close()
        if pthread_equal(thread.thread, pthread_self()) != 0 {
            pthread_detach(thread.thread)  // the last reference was in a completion
        } else {
            thread.join()
        }
    }
}

/// A query on its way to the thread.
private struct DNSQuery: Sendable {
    let message: [UInt8]
    let completion: DNSTransport.Completion
}

/// What other threads reach: the queries that wait for the thread, and the descriptor that wakes it.
private final class DNSInbox: Sendable {
    private struct Contents {
        var waiting: [DNSQuery] = []
        /// Waiting, or sent and without an answer.
        var outstanding = 0
        var isClosed = false
    }

    let wakeup: Int32
    private let contents = Locked(Contents())

    init() throws(DNSTransportFault) {
        wakeup = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        if wakeup < 0 { throw .outOfMemory }
    }

    deinit { Glibc.close(wakeup) }

    func put(_ query: DNSQuery) throws(DNSTransportFault) {
        let result: Result<Bool, DNSTransportFault> = contents.withLock { contents in
            if contents.isClosed { return .failure(.shutDown) }
            if contents.outstanding >= DNSTransport.outstandingMax { return .failure(.overloaded) }
            contents.outstanding += 1
            contents.waiting.append(query)
            return .success(contents.waiting.count == 1)
        }
        if try result.get() { wake() }
    }

    /// The queries that have come, and whether the transport is to end.
    func take() -> (queries: [DNSQuery], isClosed: Bool) {
        var count: UInt64 = 0
        _ = read(wakeup, &count, 8)
        return contents.withLock { contents in
            let queries = contents.waiting
            contents.waiting = []
            return (queries, contents.isClosed)
        }
    }

    func completed() { contents.withLock { $0.outstanding -= 1 } }

    func close() {
        contents.withLock { $0.isClosed = true }
        wake()
    }

    private func wake() {
        var one: UInt64 = 1
        _ = write(wakeup, &one, 8)
    }
}

/// The c-ares channel and its loop. Made by the thread that starts the transport, then used by its own alone.
private final class DNSChannel {
    /// How late a timeout may be seen. c-ares could tell the next one, but goes through all queries for it.
    private static let tickMilliseconds: Int32 = 50
    private static let libraryStatus = ares_library_init(ARES_LIB_INIT_ALL)

    private let inbox: DNSInbox
    private var channel: ares_channel?
    /// The wakeup, then the sockets that c-ares wants watched: two per server, so a list is as good as a table.
    private var watched: [pollfd]
    private var idsInUse: Set<UInt16> = []

    init(
        inbox: DNSInbox, servers: [String], timeoutMilliseconds: Int, tries: Int
    ) throws(DNSTransportFault) {
        self.inbox = inbox
        watched = [pollfd(fd: inbox.wakeup, events: Int16(POLLIN), revents: 0)]
        guard Self.libraryStatus == ARES_SUCCESS else { throw .outOfMemory }
        var options = ares_options()
        // NOCHECKRESP: SERVFAIL, NOTIMP and REFUSED are answers. Not EDNS, though queries may have it: c-ares would cut
        // 11 bytes off a query that met SERVFAIL, and take no large answer over UDP ever after.
        options.flags = ARES_FLAG_NOCHECKRESP
        options.timeout = Int32(clamping: max(timeoutMilliseconds, 1))
        options.tries = Int32(clamping: max(tries, 1))
        options.sock_state_cb_data = Unmanaged.passUnretained(self).toOpaque()
        options.sock_state_cb = { owner, descriptor, readable, writable in
            Unmanaged<DNSChannel>.fromOpaque(owner!).takeUnretainedValue()
                .watch(descriptor, events: Int16((readable != 0 ? POLLIN : 0) | (writable != 0 ? POLLOUT : 0)))
        }
        let mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB
        var status = ares_init_options(&channel, &options, mask)
        guard status == ARES_SUCCESS else { throw .badConfiguration(String(cString: ares_strerror(status))) }
        if servers.isEmpty { return }
        var list: [String] = []
        for server in servers {
            guard let canonical = Self.canonical(server) else {
                throw .badConfiguration("\(server): not a server's address")
            }
            list.append(canonical)
        }
        status = ares_set_servers_ports_csv(channel, list.joined(separator: ","))
        guard status == ARES_SUCCESS else { throw .badConfiguration(String(cString: ares_strerror(status))) }
    }

    deinit {
        if let channel { ares_destroy(channel) }
    }

    /// `192.0.2.1:53` or `[2001:db8::1]:53`, nil if it is neither: c-ares passes over what it does not understand.
    private static func canonical(_ text: String) -> String? {
        var host = text[...]
        var port: Substring = "53"
        var address = in6_addr()
        if host.first == "[" {
            guard let end = host.firstIndex(of: "]") else { return nil }
            let rest = host[host.index(after: end)...]
            host = host[host.index(after: host.startIndex)..<end]
            if !rest.isEmpty {
                guard rest.first == ":" else { return nil }
                port = rest.dropFirst()
            }
            guard inet_pton(AF_INET6, String(host), &address) == 1 else { return nil }
        } else if let colon = host.firstIndex(of: ":"), host.lastIndex(of: ":") == colon {
            port = host[host.index(after: colon)...]
            host = host[..<colon]
        }
        guard let number = UInt16(port), number > 0 else { return nil }
        if inet_pton(AF_INET6, String(host), &address) == 1 { return "[\(host)]:\(number)" }
        return inet_pton(AF_INET, String(host), &address) == 1 ? "\(host):\(number)" : nil
    }

    func run() {
        while true {
            poll(&watched, nfds_t(watched.count), idsInUse.isEmpty ? -1 : Self.tickMilliseconds)
            for ready in watched.dropFirst() where ready.revents != 0 {
                let isReadable = Int32(ready.revents) & (POLLIN | POLLERR | POLLHUP | POLLNVAL) != 0
                let isWritable = Int32(ready.revents) & POLLOUT != 0
                ares_process_fd(channel, isReadable ? ready.fd : -1, isWritable ? ready.fd : -1)
            }
            ares_process_fd(channel, -1, -1)  // the timeouts
            let (queries, isClosed) = inbox.take()
            if isClosed {
                for query in queries { finish(query.completion, .failure(.shutDown)) }
                ares_destroy(channel)  // completes the others
                channel = nil
                return
            }
            for query in queries { send(query) }
        }
    }

    private func send(_ query: DNSQuery) {
        // Fewer ids are in use than there are, by far.
        var id = UInt16.random(in: 0...UInt16.max)
        while !idsInUse.insert(id).inserted { id = UInt16.random(in: 0...UInt16.max) }
        var message = query.message
        message[0] = UInt8(id >> 8)
        message[1] = UInt8(id & 0xFF)
        let exchange = DNSExchange(channel: self, query: query, id: id)
        ares_send(
            channel, message, Int32(message.count),
            { exchange, status, _, bytes, count in
                Unmanaged<DNSExchange>.fromOpaque(exchange!).takeRetainedValue()
                    .completed(status, UnsafeBufferPointer(start: bytes, count: Int(count)))
            }, Unmanaged.passRetained(exchange).toOpaque())
    }

    fileprivate func finish(_ exchange: DNSExchange, _ result: Result<[UInt8], DNSTransportFault>) {
        idsInUse.remove(exchange.id)
        finish(exchange.query.completion, result)
    }

    private func finish(_ completion: DNSTransport.Completion, _ result: Result<[UInt8], DNSTransportFault>) {
        inbox.completed()  // first, so that the owner may send at once
        completion(result)
    }

    private func watch(_ descriptor: Int32, events: Int16) {
        let known = watched.firstIndex { $0.fd == descriptor }
        switch (known, events) {
        case (let at?, 0): watched.remove(at: at)
        case (let at?, _): watched[at].events = events
        case (nil, 0): break
        case (nil, _): watched.append(pollfd(fd: descriptor, events: events, revents: 0))
        }
    }
}

/// A query that c-ares has. It comes back from c-ares exactly once.
private final class DNSExchange {
    private unowned let channel: DNSChannel
    let query: DNSQuery
    let id: UInt16

    init(channel: DNSChannel, query: DNSQuery, id: UInt16) {
        self.channel = channel
        self.query = query
        self.id = id
    }

    func completed(_ status: Int32, _ bytes: UnsafeBufferPointer<UInt8>) {
        channel.finish(self, result(status, bytes))
    }

    private func result(
        _ status: Int32, _ bytes: UnsafeBufferPointer<UInt8>
    ) -> Result<[UInt8], DNSTransportFault> {
        switch status {
        case ARES_SUCCESS where bytes.count >= 12:
            var answer = [UInt8](bytes)
            answer[0] = query.message[0]
            answer[1] = query.message[1]
            return .success(answer)
        case ARES_ETIMEOUT: return .failure(.timedOut)
        case ARES_EDESTRUCTION, ARES_ECANCELLED: return .failure(.shutDown)
        case ARES_ENOMEM: return .failure(.outOfMemory)
        case ARES_EBADQUERY, ARES_EFORMERR: return .failure(.badQuery)
        default: return .failure(.unreachable)
        }
    }
}
