import CReactor
import Glibc

/// The other side of the floor: reads as many bytes as the script says, and answers as many. It knows no mail.
final class FloorPeer {
    /// A message's bytes on their way to the file.
    private final class Connection {
        let slot: Int
        let socket: Int32
        /// Index in the session's steps: 0 is the hello.
        var step = 0
        var have = 0
        /// Of the step under way, when it commits.
        var buffer: UnsafeMutableRawPointer?

        init(slot: Int, socket: Int32) { (self.slot, self.socket) = (slot, socket) }
    }

    private let greeting: [UInt8]
    private let steps: [FloorScript.Step]
    /// Where a message begins, and which step is the last of a session; −1: none.
    private let quitStep: Int
    private let lane: FloorLane
    private let listener: Int32
    private let poller = Poller()
    private var connections: [Connection?] = []
    private var free: [Int] = []
    /// Ready to be committed, and being committed.
    private var ready: [Connection] = []
    private var committing: [Connection] = []
    private var spare: [UnsafeMutableRawPointer] = []
    private let bufferBytes: Int
    private let scratch = UnsafeMutableRawPointer.allocate(byteCount: 64 << 10, alignment: 16)

    init(_ script: FloorScript, _ file: FloorFile) throws(BenchFault) {
        greeting = script.greeting
        steps = [script.hello] + script.message + (script.quit.map { [$0] } ?? [])
        quitStep = script.quit == nil ? -1 : steps.count - 1
        bufferBytes = steps.map { $0.commits ? $0.reads : 0 }.max() ?? 0
        lane = FloorLane(file)
        listener = Sockets.listen(on: Endpoint(address: [127, 0, 0, 1], port: 0))
        guard listener >= 0 else {
            throw BenchFault("can't listen on 127.0.0.1: \(String(cString: strerror(-listener)))")
        }
        poller.add(listener, .max)
        poller.add(lane.done, .max - 1)
    }

    var port: UInt16 { Sockets.port(of: listener) }

    /// Never returns; the process is ended by its parent.
    func run() throws(BenchFault) {
        while true {
            poller.wait(nanoseconds: 1_000_000_000) { number, _, _ in
                switch number {
                case .max: accept()
                case .max - 1: committed()
                default:
                    guard let connection = connections[Int(number & 0xFFFF_FFFF)],
                        connection.socket == Int32(number >> 32)
                    else { return }
                    if !receive(connection) { drop(connection) }
                }
            }
            if lane.status != 0 { throw BenchFault("the floor's file: \(String(cString: strerror(lane.status)))") }
            handOver()
        }
    }

    private func accept() {
        for _ in 0..<64 {
            let socket = Sockets.accept(listener)
            guard socket >= 0 else { return }
            let slot = free.popLast() ?? connections.count
            if slot == connections.count { connections.append(nil) }
            connections[slot] = Connection(slot: slot, socket: socket)
            poller.add(socket, UInt64(socket) << 32 | UInt64(slot))
            _ = send(socket, greeting, greeting.count, Int32(MSG_NOSIGNAL))
        }
    }

    private func drop(_ connection: Connection) {
        if let buffer = connection.buffer { spare.append(buffer) }
        close(connection.socket)
        connections[connection.slot] = nil
        free.append(connection.slot)
    }

    private func receive(_ connection: Connection) -> Bool {
        let step = steps[connection.step]
        // It waits for its commit; what comes now is its end, seen after the reply.
        guard connection.have < step.reads else { return true }
        let count: Int
        if step.commits {
            let buffer = connection.buffer ?? spare.popLast() ?? .allocate(byteCount: bufferBytes, alignment: 16)
            connection.buffer = buffer
            count = recv(connection.socket, buffer + connection.have, step.reads - connection.have, 0)
        } else {
            count = recv(connection.socket, scratch, min(step.reads - connection.have, 64 << 10), 0)
        }
        if count < 0 { return errno == EAGAIN || errno == EINTR }
        guard count > 0 else { return false }
        connection.have += count
        guard connection.have == step.reads else { return true }
        if step.commits {
            ready.append(connection)
            return true
        }
        return answer(connection)
    }

    private func answer(_ connection: Connection) -> Bool {
        let replies = steps[connection.step].replies
        // Replies are shorter than any socket's buffer, and each is read before the next is asked for.
        guard send(connection.socket, replies, replies.count, Int32(MSG_NOSIGNAL)) == replies.count else {
            return false
        }
        if connection.step == quitStep { return false }
        connection.have = 0
        connection.step = connection.step + 1 == steps.count ? 1 : connection.step + 1
        return true
    }

    private func handOver() {
        guard committing.isEmpty, !ready.isEmpty else { return }
        swap(&ready, &committing)
        if committing.count > FloorLane.batchMax {
            ready.append(contentsOf: committing[FloorLane.batchMax...])
            committing.removeSubrange(FloorLane.batchMax...)
        }
        for (index, connection) in committing.enumerated() {
            lane.vectors[index] = iovec(iov_base: connection.buffer, iov_len: connection.have)
        }
        lane.commit(committing.count)
    }

    private func committed() {
        var value: UInt64 = 0
        guard read(lane.done, &value, 8) == 8, lane.status == 0 else { return }
        for connection in committing {
            if let buffer = connection.buffer { spare.append(buffer) }
            connection.buffer = nil
            if !answer(connection) { drop(connection) }
        }
        committing.removeAll(keepingCapacity: true)
        // The next batch is under way before the loop looks at sockets again.
        handOver()
    }
}
