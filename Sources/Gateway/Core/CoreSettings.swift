import Protocols
import Reactor

/// What a reactor needs to know of the host, fixed at start (or replaced whole by SIGHUP).
struct CoreSettings: Sendable {
    var hostname: String
    var messageSizeMax: Int
    var recipientsMax: Int
    /// Of one reactor.
    var connectionsMax: Int
    var connectionsPerNetworkMax: Int
    var messageMemoryBytes: Int
    var trust: Configuration.Trust
    var identity: Identity
    /// nil: no TLS offered.
    var serverTLS: TLSContext?
    var clientTLS: ClientTLS
    var logins: LoginMeans

    /// The two client policies: one that looks at certificates, one that doesn't.
    struct ClientTLS: Sendable {
        var unverified: TLSContext
        var verified: TLSContext
    }
}

/// What "us" is: in MX sets, and as the peer of a connection.
struct Identity: Sendable {
    /// Lower case A-labels, our hostname among them.
    var names: Set<String>
    var addresses: Set<IPAddress>
    /// On which we speak SMTP.
    var ports: Set<UInt16>
}

/// What a listener speaks.
enum ListenerKind: String, Sendable { case smtp, smtps, odmr, odmrs, pop3, pop3s }

/// A listening socket of one reactor.
struct CoreListener: Sendable {
    let socket: SocketHandle
    let kind: ListenerKind
    let address: String
}

extension IPAddress {
    init(_ address: SocketAddress) {
        if address.isV4 { self.init(v4: UInt32(address.low)) } else { self.init(high: address.high, low: address.low) }
    }
}

extension SocketAddress {
    init(_ address: IPAddress, port: UInt16) {
        if address.isV4 {
            self.init(v4: address.v4, port: port)
        } else {
            self.init(v6High: address.high, low: address.low, port: port)
        }
    }
}

/// Kinds of tokens of one reactor.
enum TokenKind {
    static let ignored: UInt8 = 0
    static let spool: UInt8 = 1
    static let receive: UInt8 = 2
    static let forward: UInt8 = 3
    static let calls: UInt8 = 4
    static let queueTimer: UInt8 = 5
    static let largeWriter: UInt8 = 6
    static let listener: UInt8 = 7
    static let tick: UInt8 = 8
    static let notice: UInt8 = 9
    static let receiveTimer: UInt8 = 10
    static let forwardTimer: UInt8 = 11
    static let refused: UInt8 = 12
    static let journal: UInt8 = 13
    static let customer: UInt8 = 14
    static let customerTimer: UInt8 = 15
}

extension Token {
    /// The same session under another kind (its timer).
    func with(kind: UInt8) -> Token { Token(kind: kind, generation: generation, index: index) }
}
