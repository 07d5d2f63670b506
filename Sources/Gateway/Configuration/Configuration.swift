public import Protocols

/// The facts of the host, from `postern.yaml` and the environment. Every value in it has been checked.
public struct Configuration: Sendable {
    /// Our name in greetings and trace fields.
    public internal(set) var hostname: String
    /// The folder of stores, database and control socket.
    public internal(set) var data = "./var"
    /// nil: one per allowed core.
    public internal(set) var reactors: Int?
    public internal(set) var pin = true
    /// nil: all that the process is allowed.
    public internal(set) var cpus: [Int]?
    public internal(set) var io = IOBackend.auto
    /// nil: no change of user.
    public internal(set) var user: String?
    public internal(set) var log = Log()
    public internal(set) var listen = Listen.standard
    public internal(set) var tls = TLS()
    public internal(set) var dns = DNS()
    public internal(set) var limits = Limits()
    public internal(set) var journal = Journal()
    public internal(set) var trust = Trust()
    public internal(set) var identity = Identity()

    /// The file that was read; nil when there was none.
    public internal(set) var file: String?
    /// Keys that were given and whose part is not in this version: for a line in the log.
    public internal(set) var notInThisVersion: [String] = []
    /// Variables that begin with `POSTERN_` and name no key: for a line in the log, as others (such as Kubernetes for a
    /// service named postern) set them, too.
    public internal(set) var unknownVariables: [String] = []

    public enum IOBackend: String, CaseIterable, Hashable, Sendable { case auto, epoll, uring }

    public enum LogLevel: String, CaseIterable, Hashable, Sendable {
        case trace, debug, info, notice, warning, error, critical
    }

    public struct Log: Hashable, Sendable {
        /// nil: standard error.
        public internal(set) var file: String?
        public internal(set) var level = LogLevel.info
    }

    public struct Listen: Hashable, Sendable {
        public internal(set) var smtp: [Endpoint] = []
        public internal(set) var smtps: [Endpoint] = []
        public internal(set) var odmr: [Endpoint] = []
        public internal(set) var odmrs: [Endpoint] = []
        public internal(set) var pop3: [Endpoint] = []
        public internal(set) var pop3s: [Endpoint] = []
        public internal(set) var imap: [Endpoint] = []
        public internal(set) var imaps: [Endpoint] = []
        public internal(set) var admin: [Endpoint] = []

        /// What is open when no `listen` is given: loopback only.
        static let standard: Listen = {
            let at = { (port: UInt16) in [Endpoint(address: IPAddress(v4: 0x7f00_0001), port: port)] }
            return Listen(smtp: at(2525), odmr: at(3660), pop3: at(1110), imap: at(1143), admin: at(8025))
        }()
    }

    public struct TLS: Hashable, Sendable {
        /// Chosen by SNI, the first one without it; nil: self-signed, made at the first start.
        public internal(set) var certificates: [CertificateFiles]?
        public internal(set) var clientCA: String?
    }

    public struct CertificateFiles: Hashable, Sendable {
        public internal(set) var certificate: String
        public internal(set) var key: String
    }

    public struct DNS: Hashable, Sendable {
        /// nil: the system's.
        public internal(set) var servers: [Endpoint]?
    }

    public struct Limits: Hashable, Sendable {
        /// Bytes of one message (RFC 1870).
        public internal(set) var messageSize = 52_428_800
        /// Connections of clients at a time.
        public internal(set) var connections = 20_000
        /// Of these, from one network: an IPv4 /24 or an IPv6 /56.
        public internal(set) var connectionsPerNetwork = 200
        /// Of one message (RFC 5321 §4.5.3.1.8).
        public internal(set) var recipients = 1_000
        /// Bytes of messages that are being received and not yet on disk.
        public internal(set) var messageMemory = 268_435_456
    }

    public struct Journal: Hashable, Sendable {
        /// Bytes of one segment's file.
        public internal(set) var segment = 67_108_864
        /// Bytes of all segments; 0: no journal.
        public internal(set) var size = 0
    }

    public struct Trust: Hashable, Sendable {
        /// Networks whose PROXY header is believed.
        public internal(set) var proxy: [IPNetwork] = []
        /// Networks whose XCLIENT is believed.
        public internal(set) var xclient: [IPNetwork] = []
        /// Networks without limits of rate and connections.
        public internal(set) var unlimited = [IPNetwork("127.0.0.0/8"), IPNetwork("::1")].compactMap(\.self)
    }

    public struct Identity: Hashable, Sendable {
        /// Host names that are us in MX sets, beside `hostname`.
        public internal(set) var names: [String] = []
        /// Addresses that are us, beside those of the interfaces.
        public internal(set) var addresses: [IPAddress] = []
    }

    /// All defaults.
    ///
    /// - Parameter hostname: Empty until it is known.
    init(hostname: String) { self.hostname = hostname }

    /// Every key with its value in force.
    public var value: DocumentValue { Self.keys.document(self, onlyChanged: false) }
}

/// Why there is no configuration: one sentence that names the file, the line, the key, and what is allowed.
public struct ConfigurationFault: Error, Hashable, Sendable, CustomStringConvertible {
    public let sentence: String

    public var description: String { sentence }
}
