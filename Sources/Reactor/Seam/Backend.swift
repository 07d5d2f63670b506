/// Who an operation belongs to: whatever its owner wants back with the completion.
public struct Token: Hashable, Sendable {
    public var raw: UInt64
    /// `kind` is the owner's: which table; `index` and `generation` find the entry and notice that it has gone.
    public init(kind: UInt8, generation: UInt32, index: UInt32) {
        raw = UInt64(kind) << 56 | UInt64(generation & 0xff_ffff) << 32 | UInt64(index)
    }
    public var kind: UInt8 { UInt8(truncatingIfNeeded: raw >> 56) }
    public var generation: UInt32 { UInt32(truncatingIfNeeded: raw >> 32) & 0xff_ffff }
    public var index: UInt32 { UInt32(truncatingIfNeeded: raw) }
}

/// A socket of the backend; a file descriptor on the real ones.
public typealias SocketHandle = Int32

/// What a reactor asks of its sockets: a plain value, carried to the backend in arrays.
public struct Operation {
    public enum Kind: UInt8, Sendable {
        /// Go on accepting until `close` or an error. One completion a connection, `result` its socket. An error (no more
        /// descriptors) comes once and ends it: the owner asks again later. `close` ends it without a completion.
        case accept
        /// Once: bytes into memory that the backend lends until the next turn. After the end of the stream it completes with 0
        /// as often as it is asked.
        case receive
        /// Once: all `count` vectors at `vectors`. They and what they point to stay valid until the completion; the backend
        /// may change the vectors. A short write is continued here.
        case send
        /// Once: `length` bytes of the open file `file` from `offset`.
        case sendFile
        /// No more sending (`SHUT_WR`), once a send that is under way is done. Has no completion.
        case shutdown
        /// The end: each operation under way completes with `-ECANCELED` (or its true result), then this one completes. What
        /// was sent before in the same turn leaves as far as the socket's buffer takes it at once. The number may be another
        /// socket's from the turn on that brings the completion: owners tell completions apart by token.
        case close
    }

    public var kind: Kind
    public var socket: SocketHandle
    public var token: Token
    public var vectors: UnsafeMutablePointer<IOVector>?
    public var count: Int32
    public var file: Int32
    public var offset: Int64
    public var length: Int

    public init(
        _ kind: Kind, _ socket: SocketHandle, _ token: Token, vectors: UnsafeMutablePointer<IOVector>? = nil,
        count: Int32 = 0, file: Int32 = -1, offset: Int64 = 0, length: Int = 0
    ) {
        (self.kind, self.socket, self.token, self.vectors) = (kind, socket, token, vectors)
        (self.count, self.file, self.offset, self.length) = (count, file, offset, length)
    }
}

/// What became of an operation.
public struct Completion {
    public enum Kind: UInt8, Sendable { case accept, connect, receive, send, close }

    public var kind: Kind
    public var token: Token
    /// Bytes, a socket (accept), or `-errno`. 0 bytes received: the peer has finished sending.
    public var result: Int
    /// Received bytes; lent until the next turn.
    public var bytes: UnsafeRawBufferPointer

    public init(
        _ kind: Kind, _ token: Token, _ result: Int, bytes: UnsafeRawBufferPointer = .init(start: nil, count: 0)
    ) {
        (self.kind, self.token, self.result, self.bytes) = (kind, token, result, bytes)
    }
}

/// What was asked of other threads and is done.
public enum Finished: Sendable {
    case files(FileTask)
    case lookup(Token, Result<[UInt8], LookupFault>)
    case work(Token, any Sendable)
}

/// A look-up that brought no answer at all.
public enum LookupFault: Error, Sendable { case timedOut, overloaded, unreachable }

/// The lanes of file work: a commit never waits behind bulk work, nor one in a log behind one of a file system.
public enum Lane: Sendable { case commit, log, bulk }

/// All contact of one reactor with the world. Three kinds: `EpollBackend`, `UringBackend`, and the simulated one.
///
/// One call a turn carries all socket operations and brings all completions; what is asked per connection or per batch
/// (connect, files, look-up) has calls of its own. Faults are injected here.
public protocol Backend: AnyObject {
    /// `epoll`, `uring` or `simulated`.
    var name: String { get }

    /// Carries out `operations` (and empties it), then waits until something happens or `deadline` (monotonic
    /// nanoseconds; nil: no limit; 0: don't wait), and appends what happened.
    func turn(
        _ operations: inout [Operation], until deadline: UInt64?, completions: inout [Completion],
        finished: inout [Finished])

    /// Begins a connection, from `source` if given; completes as `.connect`. The socket, or `-errno` if it can't even begin.
    /// Which faults show at once and which in the completion is up to the backend; after the latter the owner closes it.
    func connect(to address: SocketAddress, from source: SocketAddress?, token: Token) -> SocketHandle
    func peerAddress(of socket: SocketHandle) -> SocketAddress?
    func localAddress(of socket: SocketHandle) -> SocketAddress?

    /// Does the steps in order on a lane; comes back as `.files`.
    func run(_ task: FileTask, on lane: Lane)
    /// Sends a DNS query message; comes back as `.lookup` with the answer message.
    func lookUp(_ query: [UInt8], token: Token)
    /// Runs `job` in the worker pool; comes back as `.work`.
    func work(_ token: Token, _ job: @escaping @Sendable () -> any Sendable)

    /// Monotonic nanoseconds.
    func monotonicNow() -> UInt64
    /// Nanoseconds since 1970.
    func wallNow() -> Int64
    func random() -> UInt64

    /// Wakes this reactor's `turn` from any thread.
    var doorbell: Doorbell { get }
}
