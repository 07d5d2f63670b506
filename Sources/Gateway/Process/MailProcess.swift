/// What becomes of a gateway's waiting mail when the gateway is deleted.
enum MailDisposal: Hashable, Sendable {
    /// The deletion is refused while mail waits.
    case refuse
    case drop
    /// Each message goes back to its sender.
    case bounce
    /// One file a message in this folder, an absolute path.
    case export(directory: String)
}

/// What the control socket asks of the running mail process. Called on the control thread only; may block it briefly.
protocol MailProcess: AnyObject, Sendable {
    var directory: any Directory { get }
    var isReady: Bool { get }
    func status() -> ServerStatus

    /// After a gateway was created: opens its store; `publish` follows.
    ///
    /// - Returns: Warnings for people, such as that there is no next hop.
    /// - Throws: when its store can't be used; the gateway is then deleted again, and `deleted` follows.
    func created(_ gateway: StoredGateway) throws(ControlFault) -> [String]

    /// After a gateway was changed: renames its store if needed; `publish` follows.
    ///
    /// - Throws: when its store can't be used; the old document is then stored again, and `updated` with it follows.
    func updated(_ gateway: StoredGateway) throws(ControlFault) -> [String]

    /// Before a gateway goes: disposes of its mail, and of what arrives meanwhile.
    ///
    /// - Throws: when that can't be; the gateway stays.
    func deleting(_ gateway: StoredGateway, mail: MailDisposal) throws(ControlFault)
    /// After a gateway went, or one whose creation failed: puts its store aside and publishes the snapshot.
    func deleted(_ gateway: StoredGateway)
    /// Every few seconds: tries what could not be used at the start, such as a disk that was not mounted.
    func lookAgain()
    /// The reactors learn what has changed.
    func publish()

    /// - Parameters:
    ///   - domain: A-labels in lower case, or `@system`; nil: of all gateways.
    ///   - limit: messages at most, oldest first.
    func queue(domain: String?, limit: Int) throws(ControlFault) -> [QueuedMessage]

    /// Mail that waits is tried now, whatever retry, health and `onContact` say; held mail stays.
    ///
    /// - Returns: How many messages will be tried.
    func flush(domain: String?) throws(ControlFault) -> Int
    func message(_ id: QueueID) throws(ControlFault) -> QueuedMessage
    func delete(_ id: QueueID) throws(ControlFault)
    func bounce(_ id: QueueID) throws(ControlFault)
    /// The content, and nothing of the envelope.
    func export(_ id: QueueID) throws(ControlFault) -> [UInt8]

    /// - Parameter domain: nil: of all gateways that have a queue.
    func health(domain: String?) -> [QueueHealth]
    func metrics() -> [Metric]
}
