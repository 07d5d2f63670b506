import CReactor
import Glibc

/// The socket operations of a reactor by io_uring.
///
/// ```text
/// begin ─▶ submission queue ─exchange─▶ kernel ─▶ completion queue ─collect─▶ completions
/// ```
///
/// An operation is one submission that the kernel finishes by itself; only a send that the kernel cut short, an accept
/// that the kernel gave up, and a receive that found no buffer are submitted again. A socket that is closed stays in the
/// table, and its descriptor open, until the last completion of its operations: so none can reach another socket.
final class UringSockets {
    private enum Work: UInt8 {
        case accept, receive, connect, send
        /// Room for `sendFile`, which has no operation of its own.
        case writable
        case cancel, doorbell
    }

    private struct Entry {
        var generation: UInt32 = 0
        var isOpen = false
        var isListener = false
        var isReceiving = false
        /// Of the last receive: it left nothing behind, so the next one needs not look first.
        var isDrained = false
        /// What of `connect`, `send` and `writable` is under way; nil: none.
        var sending: Work?
        /// `shutdown` was asked while a send was under way.
        var shutsDown = false
        var isClosing = false
        /// Submissions whose last completion has not come.
        var underWay: UInt8 = 0
        var receiveToken = Token(kind: 0, generation: 0, index: 0)
        var sendToken = Token(kind: 0, generation: 0, index: 0)
        var closeToken = Token(kind: 0, generation: 0, index: 0)
        var send = Operation(.send, -1, Token(kind: 0, generation: 0, index: 0))
        var sent = 0
    }

    /// Vectors of one system call (`UIO_MAXIOV`).
    private static let vectorsMax: Int32 = 1024
    /// Completions handled in one turn.
    private static let completionsPerTurn = Int(UringRing.completionEntries)

    // In this order: the ring goes first.
    private let ring: UringRing
    private let buffers: UringBuffers
    private let entries = SocketTable(blank: Entry())
    private var doorbell: Doorbell?
    /// Sockets whose receive found no free buffer; submitted again when the lent ones are back.
    private var starved: [SocketHandle] = []
    /// Submissions whose last completion has not come, of all sockets.
    private var underWay = 0

    init() throws(UringUnavailable) {
        ring = try UringRing()
        buffers = try UringBuffers(ring)
    }

    /// The kernel must let go of the buffers and of the owners' vectors before they go. On another thread that can't be
    /// waited for: then the end of the ring does it.
    deinit {
        guard ring.isOnItsThread else { return }
        io_uring_prep_cancel64(
            ring.entry(Self.userData(.cancel, 0, 0)), 0,
            Int32(IORING_ASYNC_CANCEL_ANY) | Int32(IORING_ASYNC_CANCEL_ALL))
        // At most a second.
        for _ in 0..<100 where underWay > 0 {
            ring.submitAndWait(10_000_000)
            while let result = ring.next() {
                guard let work = Self.work(result.userData), work != .cancel else { continue }
                if work == .accept, result.value >= 0 { close(result.value) }
                if !result.goesOn { underWay -= 1 }
            }
        }
    }

    // MARK: Submissions

    private static func userData(_ work: Work, _ socket: SocketHandle, _ generation: UInt32) -> UInt64 {
        UInt64(generation & 0xff_ffff) << 40 | UInt64(work.rawValue) << 32 | UInt64(UInt32(socket))
    }

    private static func work(_ userData: UInt64) -> Work? { Work(rawValue: UInt8(truncatingIfNeeded: userData >> 32)) }

    /// A submission for the socket, which `prepare` fills in.
    @inline(__always)
    private func submit(
        _ work: Work, _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>,
        _ prepare: (UnsafeMutablePointer<io_uring_sqe>) -> Void
    ) {
        prepare(ring.entry(Self.userData(work, socket, entry.pointee.generation)))
        entry.pointee.underWay += 1
        underWay += 1
    }

    private func register(_ socket: SocketHandle) -> UnsafeMutablePointer<Entry> {
        let entry = entries[socket]
        let generation = entry.pointee.generation &+ 1
        entry.pointee = Entry()
        entry.pointee.generation = generation
        entry.pointee.isOpen = true
        return entry
    }

    /// Lets the doorbell end a wait, from now on.
    func watch(_ doorbell: Doorbell) {
        self.doorbell = doorbell
        let submission = ring.entry(Self.userData(.doorbell, doorbell.descriptor, 0))
        io_uring_prep_poll_multishot(submission, doorbell.descriptor, UInt32(POLLIN))
        underWay += 1
    }

    /// Puts operations into the submission queue. What was lent before is the kernel's again.
    func begin(_ operations: [Operation], _ completions: inout [Completion]) {
        buffers.takeBack()
        for socket in starved { submitReceive(socket, entries[socket]) }
        starved.removeAll(keepingCapacity: true)
        for operation in operations { begin(operation, &completions) }
    }

    private func begin(_ operation: Operation, _ completions: inout [Completion]) {
        let socket = operation.socket
        if operation.kind == .accept {
            let known = entries[socket]
            let entry = known.pointee.isOpen ? known : register(socket)
            precondition(!entry.pointee.isReceiving && !entry.pointee.isClosing, "accepting already")
            entry.pointee.isListener = true
            entry.pointee.isReceiving = true
            entry.pointee.receiveToken = operation.token
            submitAccept(socket, entry)
            return
        }
        let entry = entries[socket]
        precondition(entry.pointee.isOpen && !entry.pointee.isClosing, "not open")
        switch operation.kind {
        case .accept: break
        case .receive:
            precondition(!entry.pointee.isReceiving, "one receive at a time")
            entry.pointee.isReceiving = true
            entry.pointee.receiveToken = operation.token
            submitReceive(socket, entry)
        case .send, .sendFile:
            precondition(entry.pointee.sending == nil, "one send at a time")
            entry.pointee.sendToken = operation.token
            entry.pointee.send = operation
            entry.pointee.sent = 0
            if operation.kind == .send {
                submitSend(socket, entry)
            } else {
                continueSendFile(socket, entry, &completions)
            }
        case .shutdown:
            if entry.pointee.sending == nil {
                Glibc.shutdown(socket, Int32(SHUT_WR))
            } else {
                entry.pointee.shutsDown = true
            }
        case .close:
            entry.pointee.isClosing = true
            entry.pointee.closeToken = operation.token
            if entry.pointee.isReceiving {
                cancel(entry.pointee.isListener ? .accept : .receive, socket, entry)
            }
            if let work = entry.pointee.sending { cancel(work, socket, entry) }
            closeIfLast(socket, entry, &completions)
        }
    }

    private func submitAccept(_ listener: SocketHandle, _ entry: UnsafeMutablePointer<Entry>) {
        submit(.accept, listener, entry) {
            io_uring_prep_multishot_accept(
                $0, listener, nil, nil, Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue))
        }
    }

    private func submitReceive(_ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>) {
        let pollsFirst = entry.pointee.isDrained
        submit(.receive, socket, entry) {
            io_uring_prep_recv($0, socket, nil, UringBuffers.bytesEach, 0)
            io_uring_sqe_set_flags($0, cr_IOSQE_BUFFER_SELECT)
            $0.pointee.buf_group = UringBuffers.group
            if pollsFirst { $0.pointee.ioprio = UInt16(IORING_RECVSEND_POLL_FIRST) }
        }
    }

    private func submitSend(_ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>) {
        entry.pointee.sending = .send
        let vectors = entry.pointee.send.vectors
        let count = entry.pointee.send.count
        // The kernel goes on after a full buffer, unless the last vectors need another call.
        let flags = Int32(MSG_NOSIGNAL) | Int32(MSG_WAITALL)
        submit(.send, socket, entry) {
            if count == 1, let vectors {
                io_uring_prep_send($0, socket, vectors.pointee.iov_base, vectors.pointee.iov_len, flags)
            } else {
                let header = ring.side(of: $0).bindMemory(to: msghdr.self, capacity: 1)
                header.initialize(to: msghdr())
                header.pointee.msg_iov = vectors
                header.pointee.msg_iovlen = Int(min(count, Self.vectorsMax))
                io_uring_prep_sendmsg($0, socket, header, UInt32(bitPattern: flags))
            }
        }
    }

    /// Begins a connection of a new socket.
    func connect(_ socket: SocketHandle, to address: SocketAddress, token: Token) {
        let entry = register(socket)
        entry.pointee.sending = .connect
        entry.pointee.sendToken = token
        submit(.connect, socket, entry) { submission in
            address.withSockaddr {
                let copy = ring.side(of: submission)
                copy.copyMemory(from: $0, byteCount: Int($1))
                io_uring_prep_connect(submission, socket, copy.assumingMemoryBound(to: sockaddr.self), $1)
            }
        }
    }

    /// Quiet if it finds its target; that one's completion then says so.
    private func cancel(_ work: Work, _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>) {
        let submission = ring.entry(Self.userData(.cancel, socket, entry.pointee.generation))
        io_uring_prep_cancel64(submission, Self.userData(work, socket, entry.pointee.generation), 0)
        io_uring_sqe_set_flags(submission, cr_IOSQE_CQE_SKIP_SUCCESS)
    }

    // MARK: Completions

    /// Hands the submissions over and takes what is done, without a wait.
    func exchange() { ring.submit() }

    /// Hands the submissions over and waits for the first completion, at most `nanoseconds` if given.
    func exchangeAndWait(_ nanoseconds: UInt64?) { ring.submitAndWait(nanoseconds) }

    /// Appends what happened; the bytes are lent until the next `begin`.
    func collect(_ completions: inout [Completion]) {
        for _ in 0..<Self.completionsPerTurn {
            guard let result = ring.next() else { return }
            handle(result, &completions)
        }
    }

    private func handle(_ result: UringRing.Result, _ completions: inout [Completion]) {
        guard let work = Self.work(result.userData) else { return }
        if work == .doorbell {
            doorbell?.drain()
            if !result.goesOn {
                underWay -= 1
                if let doorbell { watch(doorbell) }
            }
            return
        }
        let socket = SocketHandle(truncatingIfNeeded: result.userData)
        let entry = entries[socket]
        let isCurrent =
            entry.pointee.isOpen && entry.pointee.generation & 0xff_ffff == UInt32(result.userData >> 40)
        if work == .cancel {
            // Too late, or the operation was just being carried out: then this ends it.
            if isCurrent, !entry.pointee.isListener { Glibc.shutdown(socket, Int32(SHUT_RDWR)) }
            return
        }
        precondition(isCurrent, "a completion for a socket that is closed")
        if !result.goesOn {
            entry.pointee.underWay -= 1
            underWay -= 1
        }
        switch work {
        case .accept: accepted(socket, entry, result, &completions)
        case .receive: received(socket, entry, result, &completions)
        case .connect: completeSend(socket, entry, Int(result.value), &completions)
        case .send: wrote(socket, entry, result.value, &completions)
        case .writable:
            if result.value < 0 || entry.pointee.isClosing {
                completeSend(socket, entry, -Int(ECANCELED), &completions)
            } else {
                continueSendFile(socket, entry, &completions)
            }
        case .cancel, .doorbell: break
        }
        // By number: an accepted socket may have moved the table.
        closeIfLast(socket, entries[socket], &completions)
    }

    private func accepted(
        _ listener: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ result: UringRing.Result,
        _ completions: inout [Completion]
    ) {
        let token = entry.pointee.receiveToken
        if entry.pointee.isClosing {
            if result.value >= 0 { Glibc.close(result.value) }
            return
        }
        switch result.value {
        case 0...:
            _ = register(result.value)
            completions.append(Completion(.accept, token, Int(result.value)))
        case -EINTR, -ECONNABORTED, -EAGAIN: break
        default:
            // Out of descriptors or memory: told to the owner, who asks again later.
            if !result.goesOn { entry.pointee.isReceiving = false }
            completions.append(Completion(.accept, token, Int(result.value)))
            return
        }
        if !result.goesOn { submitAccept(listener, entries[listener]) }
    }

    private func received(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ result: UringRing.Result,
        _ completions: inout [Completion]
    ) {
        var start: UnsafeMutableRawPointer?
        if result.flags & UInt32(IORING_CQE_F_BUFFER) != 0 { start = buffers.lend(result) }
        var value = Int(result.value)
        switch result.value {
        case -ENOBUFS, -EAGAIN, -EINTR:
            entry.pointee.isDrained = false
            if !entry.pointee.isClosing {
                starved.append(socket)
                return
            }
            value = -Int(ECANCELED)
        default:
            entry.pointee.isDrained = value > 0 && result.flags & UInt32(IORING_CQE_F_SOCK_NONEMPTY) == 0
        }
        entry.pointee.isReceiving = false
        completions.append(
            Completion(
                .receive, entry.pointee.receiveToken, value,
                bytes: UnsafeRawBufferPointer(start: start, count: start == nil ? 0 : max(0, value))))
    }

    private func wrote(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ written: Int32,
        _ completions: inout [Completion]
    ) {
        switch written {
        case 0...:
            entry.pointee.sent += Int(written)
            if let vectors = entry.pointee.send.vectors {
                let used = IOVector.advance(vectors, count: Int(entry.pointee.send.count), by: Int(written))
                entry.pointee.send.vectors = vectors + used
                entry.pointee.send.count -= Int32(used)
            }
            if entry.pointee.send.count == 0 {
                return completeSend(socket, entry, entry.pointee.sent, &completions)
            }
        case -EAGAIN, -EINTR: break
        default: return completeSend(socket, entry, Int(written), &completions)
        }
        if entry.pointee.isClosing {
            completeSend(socket, entry, -Int(ECANCELED), &completions)
        } else {
            submitSend(socket, entry)
        }
    }

    private func continueSendFile(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ completions: inout [Completion]
    ) {
        while entry.pointee.send.length > 0 {
            var offset = off_t(entry.pointee.send.offset)
            let written = sendfile(socket, entry.pointee.send.file, &offset, entry.pointee.send.length)
            switch written {
            case 1...:
                entry.pointee.sent += written
                entry.pointee.send.offset += Int64(written)
                entry.pointee.send.length -= written
            case 0: return completeSend(socket, entry, -Int(ENODATA), &completions)
            default:
                if errno == EINTR { continue }
                guard errno == EAGAIN else { return completeSend(socket, entry, -Int(errno), &completions) }
                entry.pointee.sending = .writable
                submit(.writable, socket, entry) { io_uring_prep_poll_add($0, socket, UInt32(POLLOUT)) }
                return
            }
        }
        completeSend(socket, entry, entry.pointee.sent, &completions)
    }

    private func completeSend(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ result: Int, _ completions: inout [Completion]
    ) {
        let kind: Completion.Kind = entry.pointee.sending == .connect ? .connect : .send
        entry.pointee.sending = nil
        completions.append(Completion(kind, entry.pointee.sendToken, result))
        if entry.pointee.shutsDown, !entry.pointee.isClosing {
            entry.pointee.shutsDown = false
            Glibc.shutdown(socket, Int32(SHUT_WR))
        }
    }

    private func closeIfLast(
        _ socket: SocketHandle, _ entry: UnsafeMutablePointer<Entry>, _ completions: inout [Completion]
    ) {
        guard entry.pointee.isClosing, entry.pointee.underWay == 0 else { return }
        entry.pointee.isOpen = false
        Glibc.close(socket)
        completions.append(Completion(.close, entry.pointee.closeToken, 0))
    }
}
