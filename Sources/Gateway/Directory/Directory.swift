/// Where gateways and the server-wide policy are kept. Used by the control thread, which hands the snapshots out.
///
/// A change that returns is on stable storage and in `snapshot`; one that throws has changed nothing.
public protocol Directory: AnyObject, Sendable {
    var snapshot: DirectorySnapshot { get }

    /// Of it salts are made for users who don't exist; the same after a restart.
    var nobodySecret: [UInt8] { get }

    /// By domain.
    func list() throws(DirectoryFault) -> [StoredGateway]

    /// - Parameter domain: In any form that a person may write.
    func get(_ domain: String) throws(DirectoryFault) -> StoredGateway

    func create(_ document: GatewayDocument) throws(DirectoryFault) -> StoredGateway

    /// - Parameter expectedETag: nil: whatever is stored.
    func update(_ document: GatewayDocument, expectedETag: String?) throws(DirectoryFault) -> StoredGateway

    /// What was stored.
    func delete(_ domain: String, expectedETag: String?) throws(DirectoryFault) -> StoredGateway

    /// Creates or updates all of `documents`, or, at the first fault, none.
    ///
    /// - Parameter dryRun: Does all of it, faults included, and takes it back.
    func importAll(_ documents: [GatewayDocument], dryRun: Bool) throws(DirectoryFault) -> [StoredGateway]

    /// The mail directory that was made for a gateway, by the id in its head file; nil: none yet (design rule M8).
    func storeID(ofGateway id: UInt64) throws(DirectoryFault) -> String?
    func rememberStore(_ storeID: String, ofGateway id: UInt64) throws(DirectoryFault)

    func settings() throws(DirectoryFault) -> Settings

    /// What is stored now.
    func setSettings(_ settings: Settings) throws(DirectoryFault) -> Settings
}

/// A gateway as the directory keeps it.
public struct StoredGateway: Hashable, Sendable {
    /// Never reused.
    public let id: UInt64
    public let document: GatewayDocument
    /// Counts the changes of this gateway, from 1.
    public let version: Int64
    /// Milliseconds since 1970.
    public let createdAt: Int64
    /// What is wrong with the stored text, if this version can't read it. Then the document is not what was stored but
    /// one that keeps mail safe: disabled and held.
    public let fault: String?
    let secrets: StoredSecrets

    /// Its secrets were sealed with another `secrets.key`: nobody can log in with them.
    public var isLocked: Bool { secrets.isLocked }

    /// Names this state of this gateway, and of none created later under the same domain.
    public var etag: String { "\(id)-\(version)" }
}

/// Why the directory refused or failed.
public enum DirectoryFault: Error, Hashable, Sendable, CustomStringConvertible {
    // The caller's fault.
    case alreadyExists(domain: String)
    case noSuchGateway(domain: String)
    /// One sentence.
    case invalid(String)
    /// Someone else changed it since it was read; `etag` is stored now.
    case changedMeanwhile(domain: String, etag: String)
    // The world's.
    /// The file is no sound database of ours: restore a backup.
    case damaged(String)
    /// Made by a newer Postern.
    case unknownVersion(String)
    /// Another process holds the database; worth another try.
    case locked
    /// Disk full, read-only, I/O error: nothing was changed.
    case unavailable(String)

    public var description: String {
        switch self {
        case .alreadyExists(let domain): "the gateway `\(domain)` exists already"
        case .noSuchGateway(let domain): "there is no gateway \(InvalidSetting.quote(domain))"
        case .invalid(let sentence): sentence
        case .changedMeanwhile(let domain, _): "the gateway `\(domain)` was changed meanwhile; read it again"
        case .damaged(let what): "the database is damaged: \(what)"
        case .unknownVersion(let what): what
        case .locked: "another process holds the database"
        case .unavailable(let what): "the database cannot be used: \(what)"
        }
    }
}
