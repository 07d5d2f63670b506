import Protocols
import Reactor

/// What the control thread asks of a reactor; the answer comes by the closure, on the reactor's thread.
struct CoreRequest: Sendable {
    enum What: Sendable {
        case list(gatewayID: UInt64?, limit: Int)
        case flush(gatewayID: UInt64?)
        case find(QueueID)
        case delete(QueueID)
        case bounce(QueueID)
        /// First bytes of a queued message.
        case export(QueueID)
        /// All mail of a gateway that is being deleted goes (or of it these messages), or goes back. What is on its way out is
        /// left alone.
        case drop(gatewayID: UInt64, only: Set<QueueID>?)
        case bounceAll(gatewayID: UInt64)
        /// A gateway's deletion was broken off: its mail leaves again.
        case resume(gatewayID: UInt64)
        case health
    }
    let what: What
    let answer: @Sendable (CoreAnswer) -> Void
}

enum CoreAnswer: Sendable {
    case queued([QueuedMessage])
    case done(Int)
    case content([UInt8])
    case notFound
    case busy(String)
    case health([QueueHealth])
}
