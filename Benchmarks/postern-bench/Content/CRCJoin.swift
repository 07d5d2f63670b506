/// Joins checksums: from the CRC32C of A and of B, that of A followed by B, without looking at B's bytes again.
///
/// A CRC is linear: B of n bytes behind A changes A's checksum as n zero bytes would, whatever B is. That change is a
/// 32 × 32 matrix over GF(2), made once for a length and kept as four tables, one per byte of the checksum.
struct CRCJoin {
    /// The Castagnoli polynomial, reflected.
    private static let polynomial: UInt32 = 0x82F6_3B78

    private let tables: [UInt32]

    /// For every B of `length` bytes.
    init(length: Int) {
        let matrix = Self.zeros(length)
        var tables = [UInt32](repeating: 0, count: 4 * 256)
        for byte in 0..<4 {
            for value in 0..<256 {
                tables[byte * 256 + value] = Self.times(matrix, UInt32(value) << (8 * UInt32(byte)))
            }
        }
        self.tables = tables
    }

    /// The checksum of A followed by B.
    func join(_ first: UInt32, _ second: UInt32) -> UInt32 {
        tables.withUnsafeBufferPointer {
            $0[Int(first & 0xFF)] ^ $0[256 + Int(first >> 8 & 0xFF)] ^ $0[512 + Int(first >> 16 & 0xFF)]
                ^ $0[768 + Int(first >> 24)]
        } ^ second
    }

    /// What `length` zero bytes do to a checksum: the matrix of one zero bit, squared three times for a byte, and then
    /// by the binary digits of the length.
    private static func zeros(_ length: Int) -> [UInt32] {
        var power = [UInt32](repeating: 0, count: 32)
        power[0] = polynomial
        for bit in 1..<32 { power[bit] = 1 << UInt32(bit - 1) }
        for _ in 0..<3 { power = squared(power) }
        var result = (0..<32).map { UInt32(1) << UInt32($0) }
        var rest = length
        while rest > 0 {
            if rest & 1 == 1 { result = result.map { times(power, $0) } }
            power = squared(power)
            rest >>= 1
        }
        return result
    }

    private static func squared(_ matrix: [UInt32]) -> [UInt32] { matrix.map { times(matrix, $0) } }

    private static func times(_ matrix: [UInt32], _ vector: UInt32) -> UInt32 {
        var sum: UInt32 = 0
        var rest = vector
        var column = 0
        while rest != 0 {
            if rest & 1 == 1 { sum ^= matrix[column] }
            rest >>= 1
            column += 1
        }
        return sum
    }
}
