import Protocols
import Reactor

@testable import Gateway

/// What lies in the journals of a simulated machine, read from its disk as a start would.
struct SimulatedJournal {
    struct Record {
        let gatewayID: UInt64
        let id: QueueID
        let contentBytes: Int
        let envelope: Envelope
    }

    /// Parcels without an end, in order.
    private(set) var live: [Record] = []
    private(set) var parcels = 0
    private(set) var settles = 0
    private(set) var damages: [JournalScan.Damage] = []

    private struct Key: Hashable {
        let journal: UInt64
        let generation: UInt64
        let offset: Int
    }

    init(_ disk: SimulatedDisk) {
        let folder = "\(SimulatedGateway.dataPath)/\(JournalOpener.folder)"
        let segments = (disk.names(in: folder) ?? []).filter { $0.hasSuffix(Journal.suffix) }
            .compactMap { disk.contents(of: "\(folder)/\($0)") }
            .compactMap { bytes in bytes.withUnsafeBytes { JournalSegmentHeader($0) }.map { ($0, bytes) } }
            .filter { !$0.0.isFree }
            .sorted { ($0.0.life.journal, $0.0.life.generation) < ($1.0.life.journal, $1.0.life.generation) }
        var ended: Set<Key> = []
        var found: [(Key, JournalScan.Parcel, [UInt8])] = []
        for (at, (header, bytes)) in segments.enumerated() {
            let next = at + 1 < segments.count ? segments[at + 1].0 : nil
            let follows =
                next?.life.journal == header.life.journal && next?.life.generation == header.life.generation + 1
            let scan = bytes.withUnsafeBytes {
                JournalScan($0, header.life, knownEnd: follows ? next?.predecessorEnd : nil)
            }
            let life = header.life
            for settle in scan.settles {
                ended.insert(Key(journal: life.journal, generation: settle.generation, offset: settle.offset))
            }
            for parcel in scan.parcels {
                found.append(
                    (Key(journal: life.journal, generation: life.generation, offset: parcel.offset), parcel, bytes))
            }
            damages += scan.damages
            settles += scan.settles.count
        }
        parcels = found.count
        for (key, parcel, bytes) in found where !ended.contains(key) {
            let header = parcel.header
            let start = parcel.offset + JournalFormat.unitBytes
            guard
                let head = try? MailFile.readHead(
                    record: bytes[start..<start + header.headBytes], of: header.id, contentBytes: header.contentBytes,
                    linesBeginningWithDot: 0, contentCRC: header.contentCRC)
            else { continue }
            live.append(
                Record(
                    gatewayID: header.gatewayID, id: header.id, contentBytes: header.contentBytes,
                    envelope: head.envelope))
        }
    }
}
