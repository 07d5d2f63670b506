/// Bytes on their way out: a machine appends, its owner sends. It owns one growing allocation, which the owner may
/// take away whole (`take`) while the bytes are on their way, so that an idle session holds none.
public struct ByteOutput: ~Copyable {
    public private(set) var base: UnsafeMutableRawPointer?
    public private(set) var count = 0
    public private(set) var capacity = 0

    public init() {}

    deinit { base?.deallocate() }

    public var isEmpty: Bool { count == 0 }

    /// The bytes appended so far; valid until the next change.
    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

    @inline(__always)
    public mutating func reserve(_ more: Int) {
        if count + more > capacity { grow(more) }
    }

    @inline(never)
    private mutating func grow(_ more: Int) {
        var size = max(capacity * 2, 512)
        while size < count + more { size *= 2 }
        let larger = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
        if let base {
            larger.copyMemory(from: base, byteCount: count)
            base.deallocate()
        }
        base = larger
        capacity = size
    }

    @inline(__always)
    public mutating func append(_ byte: UInt8) {
        reserve(1)
        base!.storeBytes(of: byte, toByteOffset: count, as: UInt8.self)
        count += 1
    }

    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        reserve(bytes.count)
        (base! + count).copyMemory(from: source, byteCount: bytes.count)
        count += bytes.count
    }

    public mutating func append(_ text: StaticString) {
        append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    public mutating func append(text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }

    public mutating func append(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { append($0) }
    }

    /// Decimal digits of `number`.
    public mutating func append(number: Int) {
        if number < 0 {
            append(UInt8(ascii: "-"))
            append(number: Int(number.magnitude))
            return
        }
        reserve(20)
        var rest = number
        var digits = 1
        var limit = 10
        while digits < 19, rest >= limit {
            digits += 1
            limit = limit &* 10
        }
        var at = count + digits
        count = at
        repeat {
            at -= 1
            base!.storeBytes(of: UInt8(ascii: "0") + UInt8(rest % 10), toByteOffset: at, as: UInt8.self)
            rest /= 10
        } while rest > 0
    }

    /// Forgets the bytes and keeps the memory.
    public mutating func removeAll() { count = 0 }

    /// Drops the first `n` bytes.
    public mutating func removeFirst(_ n: Int) {
        precondition(n <= count)
        if n < count { base!.copyMemory(from: base! + n, byteCount: count - n) }
        count -= n
    }

    /// Gives back the memory of an empty buffer.
    public mutating func release() {
        guard count == 0 else { return }
        base?.deallocate()
        base = nil
        capacity = 0
    }

    /// Gives the bytes away with their memory, which the taker deallocates; nil if there are none.
    public mutating func take() -> UnsafeMutableRawBufferPointer? {
        guard count > 0 else { return nil }
        defer { (base, count, capacity) = (nil, 0, 0) }
        return UnsafeMutableRawBufferPointer(start: base, count: count)
    }

    /// A copy, for tests and rare paths.
    public var array: [UInt8] { [UInt8](bytes) }
}
