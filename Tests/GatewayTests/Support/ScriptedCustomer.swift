import Protocols
import Reactor

@testable import Gateway

/// A customer of the gateway at one of its ports: says lines, and keeps all that it hears.
final class ScriptedCustomer {
    private let gateway: SimulatedGateway
    private(set) var peer: SimulatedPeer!
    private(set) var heard: [UInt8] = []
    private var taken = 0
    private(set) var end: Int32?

    init(_ gateway: SimulatedGateway, port: UInt16, from source: String = "203.0.113.77") {
        self.gateway = gateway
        let address = SocketAddress(SimulatedGateway.address, port: port)
        peer = gateway.world.client(to: address, from: SocketAddress(IPAddress(source)!, port: 0)) { peer in
            peer.onReceive = { [self] _, bytes in heard += bytes }
            peer.onEnd = { [self] peer, fault in
                end = fault
                peer.close()
            }
        }
    }

    /// What was heard since the last call, once it ends as wanted; nil: the connection ended before, or nothing came.
    @discardableResult
    func hear(until suffix: String = "\r\n", seconds: Double = 60) -> String? {
        let wanted = Array(suffix.utf8)
        let isThere = { [self] in
            heard.count - taken >= wanted.count && Array(heard.suffix(wanted.count)) == wanted
        }
        guard gateway.run(seconds: seconds, until: { isThere() || end != nil }), isThere() else { return nil }
        defer { taken = heard.count }
        return String(decoding: heard[taken...], as: UTF8.self)
    }

    @discardableResult
    func say(_ line: String, until suffix: String = "\r\n", seconds: Double = 60) -> String? {
        send(Array((line + "\r\n").utf8))
        return hear(until: suffix, seconds: seconds)
    }

    func send(_ bytes: [UInt8]) { peer.send(bytes) }

    @discardableResult
    func ended(seconds: Double = 600) -> Bool { gateway.run(seconds: seconds) { end != nil } }
}
