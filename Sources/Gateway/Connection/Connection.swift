import Glibc
import Protocols
import Reactor

/// One TCP connection, with or without TLS: bytes in, bytes and message contents out.
///
/// Its owner (a session) gives it the completions of its token and writes what it wants to say into `output`. Input that the
/// owner does not consume is kept and presented again; while `isReceiving` is not asked for, nothing is read. An idle
/// connection holds no buffer.
final class Connection {
    /// What `completed` tells the owner.
    enum Happened {
        case nothing
        case connected
        case connectFailed(Int32)
        /// There is input to look at, see `withInput`.
        case input
        /// The peer has finished sending.
        case end
        /// The connection is broken; `close` it.
        case lost(String)
        /// All that was queued is sent.
        case sent
        /// TLS is up.
        case secured(TLSInfo)
        /// The socket is closed: forget the session.
        case closed
    }

    private enum Segment {
        case bytes(OwnedBytes)
        case content([IOVector], MessageContent)
        case file(FileHandle, offset: Int64, length: Int)
    }

    /// The machine writes here; `flush` sends it.
    var output = ByteOutput()
    let token: Token
    private(set) var socket: SocketHandle
    private let reactor: Reactor
    private(set) var tls: TLSSession?
    private var isSecured = false

    private var stash: [UInt8] = []
    private var fresh = UnsafeRawBufferPointer(start: nil, count: 0)
    private(set) var isReceiving = false
    private var hasEnded = false

    private var queue: [Segment] = []
    private var isSending = false
    /// What the send under way points to: segments, or the bytes of a short one.
    private var inFlight: [Segment] = []
    private var shortBytes = ByteOutput()
    private var vectors: UnsafeMutablePointer<IOVector>?
    private var vectorCapacity = 0
    private var plainOffset = 0
    /// Bytes queued or being sent.
    private(set) var unsentBytes = 0
    private enum Ending { case open, closing, closed }
    private var ending = Ending.open
    private(set) var bytesReceived = 0
    private(set) var bytesSent = 0

    /// Plaintext read at a time under TLS.
    private static let decryptBytes = 64 << 10

    init(reactor: Reactor, token: Token, socket: SocketHandle) {
        (self.reactor, self.token, self.socket) = (reactor, token, socket)
    }

    deinit { vectors?.deallocate() }

    var isClosing: Bool { ending != .open }
    /// The peer has finished sending.
    var isAtEnd: Bool { hasEnded }
    /// Something waits to be sent or is being sent.
    var hasUnsent: Bool { isSending || !queue.isEmpty || !output.isEmpty }

    // MARK: Input

    /// Asks for input once; nothing is read from the peer otherwise.
    func receive() {
        guard !isReceiving, ending == .open, !hasEnded else { return }
        isReceiving = true
        reactor.operations.append(Operation(.receive, socket, token))
    }

    /// Presents all unconsumed input; `body` returns how much of it is done with.
    func withInput(_ body: (UnsafeRawBufferPointer) -> Int) {
        if stash.isEmpty {
            let bytes = fresh
            fresh = UnsafeRawBufferPointer(start: nil, count: 0)
            let consumed = body(bytes)
            if consumed < bytes.count { stash = Array(bytes[consumed...]) }
            return
        }
        if !fresh.isEmpty {
            stash.append(contentsOf: fresh)
            fresh = UnsafeRawBufferPointer(start: nil, count: 0)
        }
        let consumed = stash.withUnsafeBytes(body)
        if consumed == stash.count { stash = [] } else if consumed > 0 { stash.removeFirst(consumed) }
    }

    /// The owner may not look at its input now: what has come is copied, for the bytes are the backend's again after this turn.
    func keepInput() {
        stash.append(contentsOf: fresh)
        fresh = UnsafeRawBufferPointer(start: nil, count: 0)
    }

    var hasInput: Bool { !stash.isEmpty || !fresh.isEmpty }

    /// Forgets what came and was not looked at (what was sent in plaintext behind STARTTLS).
    func dropInput() {
        stash = []
        fresh = UnsafeRawBufferPointer(start: nil, count: 0)
    }

    // MARK: TLS

    /// From here on all bytes are TLS records. `output` that is not flushed yet must have been.
    func startTLS(_ session: TLSSession) {
        tls = session
        isSecured = false
        dropInput()
        flush()
    }

    // MARK: Output

    /// The message's bytes behind what is in `output`, without a copy.
    func queue(_ content: MessageContent) {
        queueOutput()
        unsentBytes += content.count
        queue.append(.content(content.vectors, content))
    }

    /// A part of an open file, by `sendfile`; only without TLS. The file stays open until `.sent`.
    func queueFile(_ file: FileHandle, offset: Int64, length: Int) {
        precondition(tls == nil)
        queueOutput()
        unsentBytes += length
        queue.append(.file(file, offset: offset, length: length))
    }

    private func queueOutput() {
        if let bytes = output.take() {
            unsentBytes += bytes.count
            queue.append(.bytes(OwnedBytes(bytes)))
        }
    }

    /// Sends what is queued, unless a send is under way.
    func flush() {
        guard ending == .open else { return }
        if let tls {
            flushTLS(tls)
            return
        }
        if isSending { return queueOutput() }
        if queue.isEmpty, !output.isEmpty {
            // Replies and commands: their memory goes to and fro, and nothing is allocated.
            swap(&shortBytes, &output)
            unsentBytes += shortBytes.count
            let list = vectors(1)
            list[0] = IOVector(shortBytes.bytes)
            return send(list, 1)
        }
        queueOutput()
        guard !queue.isEmpty else { return }
        if case .file(let file, let offset, let length) = queue[0] {
            inFlight = [queue.removeFirst()]
            isSending = true
            reactor.operations.append(Operation(.sendFile, socket, token, file: file, offset: offset, length: length))
            return
        }
        var count = 0
        var taken = 0
        for segment in queue {
            if case .content(let parts, _) = segment { count += parts.count } else { count += 1 }
        }
        let list = vectors(count)
        count = 0
        gather: for segment in queue {
            switch segment {
            case .bytes(let bytes):
                list[count] = IOVector(UnsafeRawBufferPointer(bytes.buffer))
                count += 1
            case .content(let parts, _):
                for part in parts {
                    list[count] = part
                    count += 1
                }
            case .file: break gather
            }
            taken += 1
        }
        if taken == queue.count { swap(&inFlight, &queue) } else { inFlight = Array(queue[..<taken]) }
        if taken < queue.count, !queue.isEmpty { queue.removeFirst(taken) }
        send(list, count)
    }

    /// Room for `count` vectors of the next send.
    private func vectors(_ count: Int) -> UnsafeMutablePointer<IOVector> {
        if let vectors, count <= vectorCapacity { return vectors }
        vectors?.deallocate()
        let list = UnsafeMutablePointer<IOVector>.allocate(capacity: count)
        (vectors, vectorCapacity) = (list, count)
        return list
    }

    private func send(_ list: UnsafeMutablePointer<IOVector>, _ count: Int) {
        isSending = true
        reactor.operations.append(Operation(.send, socket, token, vectors: list, count: Int32(count)))
    }

    /// Encrypts as much as the session takes and sends it; the rest follows when that is sent.
    private func flushTLS(_ tls: TLSSession) {
        queueOutput()
        guard !isSending else { return }
        if isSecured {
            encrypt: while let segment = queue.first {
                switch segment {
                case .bytes(let bytes):
                    let rest = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes.buffer)[plainOffset...])
                    plainOffset += tls.write(rest)
                    guard plainOffset == bytes.buffer.count else { break encrypt }
                case .content(let parts, let content):
                    var skipped = 0
                    for part in parts {
                        let start = max(0, plainOffset - skipped)
                        if start < part.iov_len {
                            let rest = UnsafeRawBufferPointer(start: part.iov_base + start, count: part.iov_len - start)
                            plainOffset += tls.write(rest)
                            guard plainOffset == skipped + part.iov_len else { break encrypt }
                        }
                        skipped += part.iov_len
                    }
                    _ = content
                case .file: preconditionFailure("sendfile under TLS")
                }
                unsentBytes = max(0, unsentBytes - plainOffset)
                plainOffset = 0
                queue.removeFirst()
            }
        }
        let count = tls.pendingCiphertext
        guard count > 0 else { return }
        let bytes = OwnedBytes(.allocate(byteCount: count, alignment: 8))
        _ = tls.takeCiphertext(into: bytes.buffer)
        inFlight = [.bytes(bytes)]
        let list = vectors(1)
        list[0] = IOVector(UnsafeRawBufferPointer(bytes.buffer))
        send(list, 1)
    }

    /// No more will be sent; the peer sees the end after what is on its way.
    func shutDownSending() {
        guard ending == .open else { return }
        if let tls {
            tls.close()
            flush()
        }
        reactor.operations.append(Operation(.shutdown, socket, token))
    }

    /// The end: `.closed` follows when nothing of this connection is under way any more.
    func close() {
        guard ending == .open else { return }
        if let tls {
            // close_notify, so that the peer knows that nothing was cut off.
            tls.close()
            flush()
        }
        ending = .closing
        reactor.operations.append(Operation(.close, socket, token))
    }

    // MARK: Completions

    func completed(_ completion: Completion) -> Happened {
        switch completion.kind {
        case .accept: return .nothing
        case .connect:
            if ending != .open { return .nothing }
            return completion.result < 0 ? .connectFailed(Int32(-completion.result)) : .connected
        case .receive:
            isReceiving = false
            if ending != .open { return .nothing }
            return received(completion)
        case .send:
            isSending = false
            if !inFlight.isEmpty { inFlight.removeAll(keepingCapacity: true) }
            shortBytes.removeAll()
            if output.capacity == 0 { swap(&shortBytes, &output) }
            if ending != .open { return .nothing }
            if completion.result < 0 { return .lost(Self.words(completion.result)) }
            bytesSent += completion.result
            if tls == nil { unsentBytes = max(0, unsentBytes - completion.result) }
            if hasUnsent || (tls?.pendingCiphertext ?? 0) > 0 {
                flush()
                if isSending { return .nothing }
            }
            return .sent
        case .close:
            ending = .closed
            return .closed
        }
    }

    private func received(_ completion: Completion) -> Happened {
        if completion.result < 0 { return .lost(Self.words(completion.result)) }
        bytesReceived += completion.result
        guard let tls else {
            if completion.result == 0 {
                hasEnded = true
                return .end
            }
            fresh = completion.bytes
            return .input
        }
        if completion.result == 0 {
            hasEnded = true
            tls.receivedEnd()
        } else {
            do throws(TLSFault) { try tls.receive(completion.bytes) } catch { return .lost(error.description) }
        }
        return decrypt(tls)
    }

    private func decrypt(_ tls: TLSSession) -> Happened {
        let before = stash.count
        let result = decryptAll(tls)
        if !isSecured, case .established(let info) = tls.handshake {
            isSecured = true
            flush()
            return .secured(info)
        }
        flush()
        switch result {
        case .failed(let fault): return stash.count > before ? .input : .lost(fault.description)
        case .closed:
            hasEnded = true
            return stash.count > before ? .input : .end
        case .wantsMore, .bytes:
            if stash.count > before { return .input }
            receive()
            return .nothing
        }
    }

    private func decryptAll(_ tls: TLSSession) -> TLSSession.ReadResult {
        while true {
            var result = TLSSession.ReadResult.wantsMore
            let piece = [UInt8](unsafeUninitializedCapacity: Self.decryptBytes) { buffer, count in
                result = tls.read(into: UnsafeMutableRawBufferPointer(buffer))
                if case .bytes(let got) = result { count = got }
            }
            guard case .bytes = result else { return result }
            if stash.isEmpty { stash = piece } else { stash.append(contentsOf: piece) }
        }
    }

    private static func words(_ result: Int) -> String { String(cString: strerror(Int32(-result))) }
}

/// Memory that goes with its object.
final class OwnedBytes {
    let buffer: UnsafeMutableRawBufferPointer
    init(_ buffer: UnsafeMutableRawBufferPointer) { self.buffer = buffer }
    deinit { buffer.deallocate() }
}
