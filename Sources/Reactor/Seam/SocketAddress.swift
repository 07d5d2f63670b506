import Glibc

/// An IPv4 or IPv6 endpoint.
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    /// Network byte order; 4 or 16 bytes count, by `isV4`.
    public let high: UInt64
    public let low: UInt64
    public let isV4: Bool
    public let port: UInt16

    public init(v4: UInt32, port: UInt16) {
        (high, low, isV4, self.port) = (0, UInt64(v4), true, port)
    }

    public init(v6High: UInt64, low: UInt64, port: UInt16) {
        (high, self.low, isV4, self.port) = (v6High, low, false, port)
    }

    public func withPort(_ port: UInt16) -> SocketAddress {
        isV4 ? SocketAddress(v4: UInt32(low), port: port) : SocketAddress(v6High: high, low: low, port: port)
    }

    /// Runs `body` with the kernel's form of the address.
    func withSockaddr<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var storage = sockaddr_storage()
        return withUnsafeMutablePointer(to: &storage) { pointer in
            let raw = UnsafeMutableRawPointer(pointer)
            let length: Int
            if isV4 {
                let inet = raw.assumingMemoryBound(to: sockaddr_in.self)
                inet.pointee.sin_family = sa_family_t(AF_INET)
                inet.pointee.sin_port = port.bigEndian
                inet.pointee.sin_addr.s_addr = UInt32(low).bigEndian
                length = MemoryLayout<sockaddr_in>.size
            } else {
                let inet6 = raw.assumingMemoryBound(to: sockaddr_in6.self)
                inet6.pointee.sin6_family = sa_family_t(AF_INET6)
                inet6.pointee.sin6_port = port.bigEndian
                withUnsafeMutableBytes(of: &inet6.pointee.sin6_addr) {
                    $0.storeBytes(of: high.bigEndian, as: UInt64.self)
                    $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
                }
                length = MemoryLayout<sockaddr_in6>.size
            }
            return body(UnsafePointer(raw.assumingMemoryBound(to: sockaddr.self)), socklen_t(length))
        }
    }

    /// nil for other families (a Unix socket).
    init?(_ storage: sockaddr_storage) {
        var storage = storage
        let found: SocketAddress? = withUnsafePointer(to: &storage) { pointer in
            let raw = UnsafeRawPointer(pointer)
            switch Int32(pointer.pointee.ss_family) {
            case AF_INET:
                let inet = raw.assumingMemoryBound(to: sockaddr_in.self).pointee
                return SocketAddress(
                    v4: UInt32(bigEndian: inet.sin_addr.s_addr), port: UInt16(bigEndian: inet.sin_port))
            case AF_INET6:
                var inet6 = raw.assumingMemoryBound(to: sockaddr_in6.self).pointee
                let port = UInt16(bigEndian: inet6.sin6_port)
                return withUnsafeBytes(of: &inet6.sin6_addr) {
                    let high = UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self))
                    let low = UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
                    // An IPv4 peer of a dual-stack listener.
                    if high == 0, low >> 32 == 0xffff {
                        return SocketAddress(v4: UInt32(truncatingIfNeeded: low), port: port)
                    }
                    return SocketAddress(v6High: high, low: low, port: port)
                }
            default: return nil
            }
        }
        guard let found else { return nil }
        self = found
    }

    public var description: String {
        if isV4 { return "\(low >> 24 & 255).\(low >> 16 & 255).\(low >> 8 & 255).\(low & 255):\(port)" }
        let groups = (0..<8).map { index -> String in
            let half = index < 4 ? high : low
            return String(UInt16(truncatingIfNeeded: half >> (48 - 16 * UInt64(index % 4))), radix: 16)
        }
        return "[\(groups.joined(separator: ":"))]:\(port)"
    }
}
