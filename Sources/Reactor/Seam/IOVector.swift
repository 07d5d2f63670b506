public import Glibc

/// Base and length of some bytes to write (`struct iovec`).
public typealias IOVector = iovec

extension IOVector {
    public init(_ bytes: UnsafeRawBufferPointer) {
        self.init(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
    }

    /// Drops `written` bytes from the front of `count` vectors at `base`; returns how many vectors are used up.
    static func advance(_ base: UnsafeMutablePointer<IOVector>, count: Int, by written: Int) -> Int {
        var left = written
        var at = 0
        while at < count, left >= base[at].iov_len {
            left -= base[at].iov_len
            at += 1
        }
        if left > 0 {
            base[at].iov_base += left
            base[at].iov_len -= left
        }
        return at
    }
}
