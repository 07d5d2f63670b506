import CReactor
import Reactor

/// What the loop brings along.
var reactorParts: [Part] {
    [
        // Among ten thousand sessions one sets its deadline anew, and a tick goes by.
        Part(name: "timer-wheel") {
            let timers = Timers(count: 10_000)
            return { timers.next() }
        },
        Part(name: "mailbox") {
            let box = Mailbox<UInt64>(to: Doorbell(simulated: true))
            return {
                box.send(1)
                precondition(box.receive() == 1)
            }
        },
        Part(name: "checksum") {
            let content = Sample.content.fixed
            return { keep(cr_crc32c(0, content.baseAddress, content.count)) }
        },
    ]
}

private final class Timers {
    private var wheel = TimerWheel(now: 0)
    private var ids: [TimerWheel.ID] = []
    private var now: UInt64 = 0
    private var at = 0
    private var expired: [Token] = []
    private static let deadlineNanoseconds: UInt64 = 300_000_000_000

    init(count: Int) {
        for index in 0..<count {
            ids.append(wheel.set(Self.deadlineNanoseconds, Token(kind: 2, generation: 0, index: UInt32(index))))
        }
    }

    func next() {
        now += 100_000
        wheel.cancel(ids[at])
        ids[at] = wheel.set(now + Self.deadlineNanoseconds, Token(kind: 2, generation: 0, index: UInt32(at)))
        at = (at + 1) % ids.count
        expired.removeAll(keepingCapacity: true)
        wheel.advance(to: now, expired: &expired)
        keep(wheel.nextDeadline)
    }
}
