import ArgumentParser
import Dispatch
import Gateway
import Glibc

/// The process of the web server, started by `serve`: a pure client of the control socket.
struct Admin: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve HTTP on inherited sockets (started by `serve`).", shouldDisplay: false)

    @Option(name: .customLong("listen-fd"), help: "A listening socket; may be repeated.")
    var listeners: [Int32]

    @Option(help: "The control socket of the mail process.")
    var control: String

    func validate() throws {
        for listener in listeners {
            var isListening: Int32 = 0
            var length = socklen_t(MemoryLayout<Int32>.size)
            guard getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &length) == 0, isListening == 1 else {
                throw ValidationError("--listen-fd \(listener) is no listening socket")
            }
        }
    }

    private static let reconnectPauseMicroseconds: UInt32 = 100_000

    func run() throws {
        // A client that goes away in the middle of an answer is no reason to end.
        signal(SIGPIPE, SIG_IGN)
        AdminLife.belongsToServer()
        endWithServer()
        try AdminServer(controlPath: control).run(listeners)
    }

    /// Ends this process as soon as the mail process is gone, however it went: the ports must be free for the next one.
    private func endWithServer() {
        let (control, reconnectPauseMicroseconds) = (control, Self.reconnectPauseMicroseconds)
        DispatchQueue(label: "lifeline").async {
            // A connection may also be closed to make room for others; a server that is gone lets nobody in again.
            while let lifeline = try? ControlClient(path: control) {
                lifeline.waitForEnd()
                usleep(reconnectPauseMicroseconds)
            }
            _exit(0)
        }
    }
}
