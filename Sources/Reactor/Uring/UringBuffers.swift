import CReactor
import Glibc

/// Buffers that the kernel picks from when bytes arrive, so that a socket that waits holds none.
final class UringBuffers {
    /// The group of buffers by which receives ask for one.
    static let group: UInt16 = 0
    /// Receives that one turn can bring; the others wait for the next. A power of two.
    private static let count = 256
    /// The most that one receive brings: a command or a usual message in one piece.
    static let bytesEach = 32 << 10

    private static let ringBytes = count * MemoryLayout<io_uring_buf>.size
    private static let memoryBytes = ringBytes + count * bytesEach

    /// The ring of free buffers (whole pages), then the buffers.
    private let memory: UnsafeMutableRawPointer
    private let free: UnsafeMutablePointer<io_uring_buf_ring>
    private var lent: [UInt16] = []

    /// Registers the buffers. They must outlive `ring`, through which the kernel writes to them.
    init(_ ring: UringRing) throws(UringUnavailable) {
        guard
            let memory = mmap(
                nil, Self.memoryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            memory != MAP_FAILED
        else { throw UringUnavailable(fault: errno, step: "mmap") }
        var registration = io_uring_buf_reg()
        registration.ring_addr = UInt64(UInt(bitPattern: memory))
        registration.ring_entries = UInt32(Self.count)
        registration.bgid = Self.group
        let status = io_uring_register_buf_ring(ring.pointer, &registration, 0)
        guard status == 0 else {
            munmap(memory, Self.memoryBytes)
            throw UringUnavailable(fault: -status, step: "a ring of buffers")
        }
        self.memory = memory
        free = memory.assumingMemoryBound(to: io_uring_buf_ring.self)
        io_uring_buf_ring_init(free)
        lent = Array(0..<UInt16(Self.count))
        takeBack()
    }

    deinit { munmap(memory, Self.memoryBytes) }

    /// The buffer that the kernel chose for a completion.
    func lend(_ result: UringRing.Result) -> UnsafeMutableRawPointer {
        let number = UInt16(truncatingIfNeeded: result.flags >> UInt32(IORING_CQE_BUFFER_SHIFT))
        lent.append(number)
        return address(number)
    }

    /// Gives what was lent to the kernel again.
    func takeBack() {
        guard !lent.isEmpty else { return }
        let mask = io_uring_buf_ring_mask(UInt32(Self.count))
        for (at, number) in lent.enumerated() {
            io_uring_buf_ring_add(free, address(number), UInt32(Self.bytesEach), number, mask, Int32(at))
        }
        io_uring_buf_ring_advance(free, Int32(lent.count))
        lent.removeAll(keepingCapacity: true)
    }

    private func address(_ number: UInt16) -> UnsafeMutableRawPointer {
        memory + Self.ringBytes + Int(number) * Self.bytesEach
    }
}
