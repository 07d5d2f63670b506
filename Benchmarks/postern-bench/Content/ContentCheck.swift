import CReactor
import Glibc

/// Looks at one message as it arrives, unstuffed and in any pieces, and judges it at its end.
///
/// ```text
/// searching ─field found▶ header ─empty line▶ body ─finish()▶ verdict
/// ```
struct ContentCheck {
    enum Verdict: Equatable {
        /// As it was sent.
        case intact(ContentHeader)
        /// One of ours, and not what was sent.
        case changed(ContentHeader)
        /// Without a field: another sender's message, a notification, or a field that was spoilt.
        case foreign
    }

    private enum Phase { case searching, header, body }

    private var phase = Phase.searching
    private var found: ContentHeader?
    private var headerChecksum: UInt32 = 0
    private var bodyChecksum: UInt32 = 0
    private var bodyBytes = 0
    /// Bytes of the line under way, CRLF not counted.
    private var lineBytes = 0
    /// The beginning of the line under way, while searching.
    private var line = InlineArray<72, UInt8>(repeating: 0)

    /// Takes the next bytes of the content.
    mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        var at = 0
        while phase != .body, at < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[at...])
            let end = memchr(rest.baseAddress!, 10, rest.count).map { UnsafeRawPointer($0) - rest.baseAddress! }
            let piece = UnsafeRawBufferPointer(rebasing: rest[..<(end.map { $0 + 1 } ?? rest.count)])
            at += piece.count
            take(piece, endsLine: end != nil)
        }
        guard at < bytes.count else { return }
        bodyChecksum = cr_crc32c(bodyChecksum, bytes.baseAddress! + at, bytes.count - at)
        bodyBytes += bytes.count - at
    }

    private mutating func take(_ piece: UnsafeRawBufferPointer, endsLine: Bool) {
        if phase == .header {
            headerChecksum = cr_crc32c(headerChecksum, piece.baseAddress, piece.count)
        } else {
            for byte in piece.prefix(max(0, 72 - lineBytes)) {
                line[min(lineBytes, 71)] = byte
                lineBytes += 1
            }
        }
        if phase == .header { lineBytes += piece.count }
        guard endsLine else { return }
        let length = lineBytes
        lineBytes = 0
        switch phase {
        case .searching:
            guard length == ContentHeader.fieldBytes, line[length - 2] == UInt8(ascii: "\r") else { return }
            line.span.withUnsafeBytes { bytes in
                found = ContentHeader(UnsafeRawBufferPointer(rebasing: bytes[..<(length - 2)]))
                headerChecksum = cr_crc32c(0, bytes.baseAddress, ContentHeader.coveredBytes)
            }
            if found != nil { phase = .header }
        case .header: if length == 2 { phase = .body }
        case .body: break
        }
    }

    /// - Parameter bodies: this thread's table of checksums.
    func finish(_ bodies: Bodies) -> Verdict {
        guard let found else { return .foreign }
        guard phase == .body, bodyBytes == found.size, found.size <= Bodies.sizeMax,
            bodyChecksum == bodies.checksum(number: found.number, size: found.size),
            bodies.checksum(header: headerChecksum, number: found.number, size: found.size) == found.checksum
        else { return .changed(found) }
        return .intact(found)
    }
}
