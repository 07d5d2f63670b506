import CReactor
import Glibc
import Reactor

/// What the machine itself gives, by the smallest loops that do anything: the measure for the floor.
struct Probe {
    /// Requests of 64 bytes, answered by 64, one at a time on each of some connections.
    var roundTripsPerSecond = 0.0
    /// CPU of the answering side.
    var roundTripMicroseconds = 0.0
    /// CPU of taking `contentBytes` from a socket in one go and answering 64 bytes.
    var contentMicroseconds = 0.0
    /// Writing 64 messages and syncing once, over and over.
    var messagesPerSecond = 0.0
    /// CPU of that, per message.
    var diskMicroseconds = 0.0

    static let batch = 64
    private static let seconds: UInt64 = 2

    init(connections: Int, contentBytes: Int, file: FloorFile) throws(BenchFault) {
        let small = try Self.roundTrips(connections, requestBytes: 64)
        (roundTripsPerSecond, roundTripMicroseconds) = small
        contentMicroseconds = try Self.roundTrips(connections, requestBytes: contentBytes).1
        // Memory for each message, as a server has it: one that stays in the cache would make the copy look cheaper.
        let messages = UnsafeMutableRawPointer.allocate(byteCount: Self.batch * contentBytes, alignment: 4096)
        messages.initializeMemory(as: UInt8.self, repeating: 1, count: Self.batch * contentBytes)
        let vectors = UnsafeMutableBufferPointer<iovec>.allocate(capacity: Self.batch)
        defer {
            messages.deallocate()
            vectors.deallocate()
        }
        for index in 0..<Self.batch {
            vectors[index] = iovec(iov_base: messages + index * contentBytes, iov_len: contentBytes)
        }
        let (start, cpu) = (Clock.now, Clock.threadCPU)
        var batches = 0
        while Clock.now - start < Self.seconds * 1_000_000_000 {
            let status = file.commit(vectors)
            guard status == 0 else { throw BenchFault("the probe's file: \(String(cString: strerror(status)))") }
            batches += 1
        }
        let count = Double(batches * Self.batch)
        messagesPerSecond = count / Double(Clock.now - start) * 1e9
        diskMicroseconds = Double(Clock.threadCPU - cpu) / 1000 / count
    }

    /// Per second, and CPU of the answering thread each in microseconds.
    private static func roundTrips(_ connections: Int, requestBytes: Int) throws(BenchFault) -> (Double, Double) {
        let listener = Sockets.listen(on: Endpoint(address: [127, 0, 0, 1], port: 0))
        guard listener >= 0 else {
            throw BenchFault("can't listen on 127.0.0.1: \(String(cString: strerror(-listener)))")
        }
        defer { close(listener) }
        let target = Endpoint(address: [127, 0, 0, 1], port: Sockets.port(of: listener))
        let answered = Locked<(count: Int, cpu: UInt64)>((0, 0))
        let isOver = Locked(false)
        let server = Thread.start("probe") {
            let result = answer(listener, requestBytes) { isOver.withLock { $0 } }
            answered.withLock { $0 = result }
        }
        let poller = Poller()
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: requestBytes, alignment: 16)
        buffer.initializeMemory(as: UInt8.self, repeating: 1, count: requestBytes)
        defer { buffer.deallocate() }
        var sockets: [Int32] = []
        defer { for socket in sockets { close(socket) } }
        for _ in 0..<connections {
            let socket = Sockets.connect(to: target, from: nil)
            guard socket >= 0 else { throw BenchFault("connect: \(String(cString: strerror(-socket)))") }
            sockets.append(socket)
            // The handshake on loopback is over by now; a request larger than the send buffer is not sent whole by this probe.
            poller.add(socket, UInt64(socket))
            _ = send(socket, buffer, requestBytes, Int32(MSG_NOSIGNAL))
        }
        let start = Clock.now
        var count = 0
        while Clock.now - start < seconds * 1_000_000_000 {
            poller.wait(nanoseconds: 10_000_000) { number, _, _ in
                let socket = Int32(number)
                guard recv(socket, buffer, 64, 0) > 0 else { return }
                count += 1
                _ = send(socket, buffer, requestBytes, Int32(MSG_NOSIGNAL))
            }
        }
        let elapsed = Double(Clock.now - start) / 1e9
        isOver.withLock { $0 = true }
        server.join()
        let result = answered.withLock { $0 }
        guard count > 0, result.count > 0 else { throw BenchFault("the probe's round trips do not come about") }
        return (Double(count) / elapsed, Double(result.cpu) / 1000 / Double(result.count))
    }

    private static func answer(_ listener: Int32, _ requestBytes: Int, _ isOver: () -> Bool) -> (
        count: Int, cpu: UInt64
    ) {
        let poller = Poller()
        poller.add(listener, .max)
        var buffers: [Int32: UnsafeMutableRawPointer] = [:]
        defer { for buffer in buffers.values { buffer.deallocate() } }
        var missing: [Int32: Int] = [:]
        var accepted: [Int32] = []
        var count = 0
        let cpu = Clock.threadCPU
        while !isOver() {
            poller.wait(nanoseconds: 10_000_000) { number, _, _ in
                if number == .max {
                    let socket = Sockets.accept(listener)
                    guard socket >= 0 else { return }
                    accepted.append(socket)
                    buffers[socket] = .allocate(byteCount: max(requestBytes, 64), alignment: 16)
                    poller.add(socket, UInt64(socket))
                    return
                }
                let socket = Int32(number)
                guard let buffer = buffers[socket] else { return }
                let left = missing[socket] ?? requestBytes
                let read = recv(socket, buffer, left, 0)
                guard read > 0 else { return }
                guard read == left else {
                    missing[socket] = left - read
                    return
                }
                if left != requestBytes { missing[socket] = nil }
                count += 1
                _ = send(socket, buffer, 64, Int32(MSG_NOSIGNAL))
            }
        }
        for socket in accepted { close(socket) }
        return (count, Clock.threadCPU - cpu)
    }
}
