import Protocols
import Reactor

/// A session of another reactor, as a home knows it.
struct SessionAddress: Hashable, Sendable {
    let core: Int
    let token: Token
}

/// Which queue a message waits in: a gateway's, or for mail of our own (`@system`) one a destination.
struct QueueKey: Hashable, Sendable, Comparable {
    let gatewayID: UInt64
    /// Empty for gateways and with a smarthost; the recipients' domain for mail of our own.
    var destination = ""

    static func < (a: QueueKey, b: QueueKey) -> Bool { (a.gatewayID, a.destination) < (b.gatewayID, b.destination) }
}

/// What one reactor says to another, or the control thread to one of them.
enum CoreMessage: Sendable {
    case routes(Routes)
    /// After SIGHUP.
    case settings(CoreSettings)
    case announce(Announcement)
    /// Home → worker: open a session for this queue.
    case open(QueueKey, Route, home: Int)
    /// Worker → home: the session is up.
    case sessionUp(QueueKey, SessionAddress)
    /// Worker → home: a customer's connection is turned and takes mail (RFC 2645).
    case turnedUp(QueueKey, SessionAddress)
    /// Worker → home, after the last settle.
    case turnedEnded(QueueKey, SessionAddress)
    /// Worker → home: up to `count` leases are wanted.
    case want(QueueKey, SessionAddress, count: Int)
    /// Home → worker; empty: wait, they come when there are some.
    case leases(Token, QueueKey, [Lease])
    /// Worker → home.
    case settle(QueueKey, SessionAddress?, [Settlement])
    /// Home → worker: that many settles are synced.
    case credit(Token, Int)
    /// Worker → home, after the last settle.
    case sessionEnded(QueueKey, SessionAddress, SessionEnd)
    /// Home → the journal's reactor.
    case end(JournalEnd)
    /// A journal's reactor → all: its parcels up to this generation are to go to their mail directories.
    case moveOut(core: Int, through: UInt64)
    /// The journal's reactor → home.
    case moved(ParcelReference)
    /// A customer's session → home.
    case customer(QueueKey, SessionAddress, FromCustomerSession)
    /// Home → a customer's session.
    case toCustomer(Token, QueueKey, ToCustomerSession)
    case request(CoreRequest)
    case shutDown
}
