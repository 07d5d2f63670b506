import CReactor
import Glibc

/// Why a port could not be opened.
public struct ListenFault: Error, CustomStringConvertible, Sendable {
    public let address: SocketAddress
    public let fault: Int32
    public var description: String {
        switch fault {
        case EADDRINUSE: "\(address) is taken by another program: stop it, or choose another port"
        case EACCES: "\(address): ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case EADDRNOTAVAIL: "\(address) is not an address of this machine"
        default: "\(address): \(String(cString: strerror(fault)))"
        }
    }
}

/// Opening of listening sockets, on the main thread before the reactors start.
public enum Listener {
    /// Connections that may wait to be accepted.
    private static let backlog: Int32 = 4096

    /// Tries the port alone, so that another program's listener is seen although ours share the port among reactors.
    public static func probe(_ address: SocketAddress) throws(ListenFault) {
        close(try open(address, sharesPort: false, listens: false))
    }

    /// A nonblocking listening socket; its connections inherit `TCP_NODELAY`.
    public static func open(_ address: SocketAddress) throws(ListenFault) -> SocketHandle {
        try open(address, sharesPort: true, listens: true)
    }

    private static func open(_ address: SocketAddress, sharesPort: Bool, listens: Bool) throws(ListenFault)
        -> SocketHandle
    {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let handle = socket(address.isV4 ? AF_INET : AF_INET6, type, 0)
        guard handle >= 0 else { throw ListenFault(address: address, fault: errno) }
        var one: Int32 = 1
        setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        if sharesPort { setsockopt(handle, SOL_SOCKET, SO_REUSEPORT, &one, 4) }
        if !address.isV4 { setsockopt(handle, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &one, 4) }
        // Without it a held 250 waits 40 ms for a delayed acknowledgement.
        setsockopt(handle, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        guard address.withSockaddr({ bind(handle, $0, $1) }) == 0, !listens || listen(handle, backlog) == 0 else {
            let fault = errno
            close(handle)
            throw ListenFault(address: address, fault: fault)
        }
        return handle
    }
}
