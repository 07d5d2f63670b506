import Synchronization
import Testing

@testable import Reactor

@Suite struct MailboxTests {
    @Test func keepsOrderAndSpillsWhatDoesNotFit() {
        let box = Mailbox<Int>(to: Doorbell(), capacity: 4)
        #expect(box.isEmpty && box.receive() == nil)
        for number in 0..<10 { box.send(number) }
        #expect(box.spilled == 6)
        #expect((0..<3).map { _ in box.receive() } == [0, 1, 2])
        // A later message waits behind what was spilled.
        box.send(10)
        #expect(box.spilled == 4)
        var got: [Int] = []
        while let number = box.receive() {
            got.append(number)
            box.flush()
        }
        #expect(got == Array(3...10))
        #expect(box.spilled == 0 && box.isEmpty)
    }

    @Test func carriesMessagesBetweenThreadsInOrder() {
        let box = Mailbox<Int>(to: Doorbell(), capacity: 8)
        let total = 100_000
        let producer = Thread.start("producer") {
            for number in 0..<total {
                box.send(number)
                while box.spilled > 100 { box.flush() }
            }
            while box.spilled > 0 { box.flush() }
        }
        var expected = 0
        var faults = 0
        while expected < total {
            guard let number = box.receive() else { continue }
            if number != expected { faults += 1 }
            expected += 1
        }
        producer.join()
        #expect(faults == 0 && box.isEmpty)
    }

    /// Neither a message in the ring, nor a spilled one, nor one that was taken outlives its holder.
    @Test func releasesItsMessages() {
        final class Counted: Sendable {
            let count: Box
            init(_ count: Box) {
                self.count = count
                count.living.add(1, ordering: .relaxed)
            }
            deinit { count.living.subtract(1, ordering: .relaxed) }
        }
        final class Box: Sendable { let living = Atomic<Int>(0) }
        let count = Box()
        var box: Mailbox<Counted>? = Mailbox(to: Doorbell(), capacity: 2)
        for _ in 0..<5 { box!.send(Counted(count)) }
        _ = box!.receive()
        #expect(count.living.load(ordering: .relaxed) == 4)
        box = nil
        #expect(count.living.load(ordering: .relaxed) == 0)
    }

    /// A ring while nobody sleeps is remembered; one while somebody sleeps goes to the descriptor.
    @Test func doorbellPreventsTheSleepThatWouldMissIt() {
        let doorbell = Doorbell()
        doorbell.ring()
        #expect(!doorbell.beginSleep())
        #expect(doorbell.beginSleep())
        doorbell.ring()
        doorbell.endSleep()
        #expect(!doorbell.beginSleep())
        doorbell.drain()
    }
}
