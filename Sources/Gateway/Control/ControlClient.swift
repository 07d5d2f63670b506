import Glibc

/// Asks a running server over its control socket, and waits for the answers.
public final class ControlClient {
    private let path: String
    private let descriptor: Int32
    private let timeoutSeconds: Int
    private var input: [UInt8] = []
    private static let readBytes = 64 << 10
    private static let connectPauseMicroseconds: UInt32 = 10_000

    /// The control socket of a data folder.
    public static func path(dataFolder: String) -> String { PathText.resolve("control.sock", from: dataFolder) }

    /// Connects.
    ///
    /// - Parameter timeoutSeconds: for each request with its answer.
    /// - Throws: `notRunning` when nobody answers there.
    public init(path: String, timeoutSeconds: Int = 120) throws(ControlFault) {
        (self.path, self.timeoutSeconds) = (path, timeoutSeconds)
        let descriptor = try ControlSocket.make()
        let deadline = ControlSocket.now() + timeoutSeconds * 1_000
        var (status, fault) = try ControlSocket.withAddress(path) { connect(descriptor, $0, $1) }
        // Its queue of connections is full, and nothing tells when there is room.
        while fault == EAGAIN, ControlSocket.now() < deadline {
            usleep(Self.connectPauseMicroseconds)
            (status, fault) = try ControlSocket.withAddress(path) { connect(descriptor, $0, $1) }
        }
        guard status == 0 else {
            close(descriptor)
            switch fault {
            case ENOENT, ECONNREFUSED, ENOTDIR:
                throw ControlFault(.notRunning, "no server is running on \(path): start one with `postern serve`")
            case EACCES:
                throw ControlFault(.notRunning, "\(path): only root and the user of the server may use it")
            case EAGAIN: throw ControlFault(.failed, "\(path): the server is too busy to answer")
            default: throw ControlSocket.fault(path, fault)
            }
        }
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Sends one request and waits for its answer.
    ///
    /// After any fault but an answer's own (`refused`, `notFound`, `conflict`) the connection is of no more use.
    public func ask<Result: Codable & Sendable>(
        _ command: String, _ arguments: [DocumentValue.Member] = [], as: Result.Type = Result.self
    ) throws(ControlFault) -> ControlAnswer<Result> {
        let request = DocumentValue(
            .map([
                DocumentValue.Member("v", DocumentValue(.integer(ControlProtocol.version))),
                DocumentValue.Member("command", DocumentValue(.text(command))),
                DocumentValue.Member("arguments", DocumentValue(.map(arguments))),
            ]))
        let line = Array(request.json.utf8)
        guard line.count <= ControlProtocol.Limits.requestBytes else {
            throw ControlFault(
                .refused, "the request is longer than \(SizeText.text(ControlProtocol.Limits.requestBytes)) bytes")
        }
        let deadline = ControlSocket.now() + timeoutSeconds * 1_000
        try send(line + [UInt8(ascii: "\n")], deadline)
        let answer = try receiveLine(deadline)
        do {
            let outcome = try ControlProtocol.decode(ControlOutcome.self, answer)
            guard outcome.ok else {
                throw outcome.error ?? ControlFault(.failed, "\(path): an answer that says nothing")
            }
            return try ControlProtocol.decode(ControlAnswer<Result>.self, answer)
        } catch let fault as ControlFault {
            throw fault
        } catch {
            throw ControlFault(.failed, "\(path): the server of another version answers: \(error)")
        }
    }

    /// Waits until the server closes the connection, which it does when it ends.
    public func waitForEnd() {
        var byte: UInt8 = 0
        while true {
            do throws(ControlFault) { try wait(Int16(POLLIN), deadline: nil) } catch { return }
            let count = recv(descriptor, &byte, 1, 0)
            if count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR) { return }
        }
    }

    private func send(_ bytes: [UInt8], _ deadline: Int) throws(ControlFault) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count > 0 {
                sent += count
            } else if errno == EAGAIN {
                try wait(Int16(POLLOUT), deadline: deadline)
            } else if errno != EINTR {
                throw ended()
            }
        }
    }

    private func receiveLine(_ deadline: Int) throws(ControlFault) -> [UInt8] {
        var scanned = 0
        var chunk = [UInt8](repeating: 0, count: Self.readBytes)
        while true {
            if let end = ControlSocket.lineEnd(input, from: scanned) {
                let line = Array(input[..<end])
                input.removeFirst(end + 1)
                return line
            }
            scanned = input.count
            guard input.count <= ControlProtocol.Limits.answerBytes else {
                throw ControlFault(.failed, "\(path): an answer beyond every limit")
            }
            let count = recv(descriptor, &chunk, chunk.count, 0)
            if count > 0 {
                input += chunk[..<count]
            } else if count < 0, errno == EAGAIN {
                try wait(Int16(POLLIN), deadline: deadline)
            } else if count == 0 || errno != EINTR {
                throw ended()
            }
        }
    }

    private func ended() -> ControlFault {
        ControlFault(.failed, "\(path): the server ended before it answered; look whether it was done")
    }

    private func wait(_ events: Int16, deadline: Int?) throws(ControlFault) {
        var wanted = pollfd(fd: descriptor, events: events, revents: 0)
        let left = deadline.map { max(0, $0 - ControlSocket.now()) }
        let count = poll(&wanted, 1, left.map { Int32(clamping: $0) } ?? -1)
        if count == 0 || (count < 0 && errno != EINTR) {
            throw ControlFault(.failed, "\(path): no answer within \(timeoutSeconds) s; look whether it was done")
        }
    }
}
