/// A lane for each file system, made when the first task for it comes: a disk that hangs holds back its own mail and no other's.
public final class FileLanes: Sendable {
    private let name: String
    private let lanes: Locked<[(device: Int, lane: FileLane)]> = Locked([])

    /// Beyond so many file systems some share a lane: threads are bounded too.
    private static let lanesMax = 32

    /// - Parameter name: of the threads.
    public init(name: String) { self.name = name }

    /// - Parameter done: called on a thread of the lane's.
    func run(_ task: FileTask, done: @escaping FileLane.Done) { lane(for: task.device).run(task, done: done) }

    private func lane(for device: Int) -> FileLane {
        lanes.withLock { lanes in
            if let known = lanes.first(where: { $0.device == device }) { return known.lane }
            if lanes.count == Self.lanesMax { return lanes[abs(device % Self.lanesMax)].lane }
            let lane = FileLane(name: lanes.isEmpty ? name : "\(name).\(lanes.count)")
            lanes.append((device, lane))
            return lane
        }
    }

    /// Ends after the tasks that wait.
    public func shutDown() {
        let all = lanes.withLock { lanes in
            defer { lanes = [] }
            return lanes
        }
        for (_, lane) in all { lane.shutDown() }
    }
}
