import CReactor

/// One line of text with its CRC32C behind it: the form of the spool's small files (superblock, store heads, parcel states).
enum SignedLine {
    /// - Parameter text: words without line feeds.
    static func encode(_ text: String) -> [UInt8] {
        var line = Array(text.utf8)
        line += Array(" crc=\(String(checksum(line), radix: 16))\n".utf8)
        return line
    }

    /// The words before the checksum; nil: not a whole line of ours.
    static func decode(_ bytes: [UInt8]) -> [Substring]? {
        guard bytes.last == 10, let space = bytes.lastIndex(of: 32) else { return nil }
        let text = Array(bytes[..<space])
        guard String(decoding: bytes[space...].dropLast(), as: UTF8.self) == " crc=\(String(checksum(text), radix: 16))"
        else { return nil }
        return String(decoding: text, as: UTF8.self).split(separator: " ")
    }

    private static func checksum(_ text: [UInt8]) -> UInt32 {
        text.withUnsafeBytes { cr_crc32c(0, $0.baseAddress, $0.count) }
    }
}
