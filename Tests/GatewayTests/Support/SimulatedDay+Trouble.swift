import Glibc
import Protocols
import Reactor

@testable import Gateway

// What happens to a simulated day.

extension SimulatedDay {
    enum End { case kill, powerLoss }

    /// Trouble, of one kind or none.
    func happen() throws {
        let kind = world.draw(36)
        note("trouble \(kind)")
        switch kind {
        case 0, 1, 2: try end(.powerLoss, aimed: true)
        case 3: try end(.powerLoss, aimed: false)
        case 4: try end(.kill, aimed: true)
        case 5: try end(.kill, aimed: false)
        case 6: try stop()
        case 7, 8: world.cutAllConnections()
        case 9, 10, 11: outage()
        case 12: jump()
        case 13, 14: breakDisk()
        case 15: world.disk.hang(device: 1 + world.draw(2), for: UInt64(world.draw(10)) * 1_000_000_000)
        case 16, 17: fillDisk()
        case 18: try hold()
        case 19: try disable()
        case 20, 21: try guest == nil ? createGuest() : deleteGuest()
        case 22:
            troubles.flushes += 1
            gateway.flush(world.draw(2) == 0 ? nil : "a.test")
        case 23, 24: endOneMessage(bounces: false)
        case 25: endOneMessage(bounces: true)
        case 26: try changeNextHop()
        case 27: blackhole()
        case 28: changeMood()
        case 29, 30: try endTwice()
        case 31, 32:
            try end([.kill, .powerLoss][world.draw(2)], aimed: true)
            listLate()
        case 33: breakMove()
        default: break
        }
    }

    // MARK: Ends of the process

    /// - Parameter aimed: at a moment when the disk is being changed for an accept or a settle.
    func end(_ how: End, aimed: Bool) throws {
        if aimed { aim() }
        endProcess(how)
        try comeBack()
    }

    /// A power loss just behind a file's last byte, however long it takes until one is written: over a slow network that is cut
    /// often, few messages arrive between two ends.
    func tear() throws {
        let placed = world.counters.filesPlaced
        gateway.run(seconds: 300) { world.counters.filesPlaced > placed }
        endProcess(.powerLoss)
        try comeBack()
    }

    private func aim() {
        if world.draw(2) == 0 {
            // Between a primary's 250 and the sync of the settle.
            let arrived = arrivedCount
            guard gateway.run(seconds: 10, until: { arrivedCount > arrived }) else { return }
            let parts = world.counters.fileParts + world.draw(20)
            guard gateway.run(seconds: 5, until: { world.counters.fileParts >= parts }) else { return }
            troubles.settlesCut += 1
        } else {
            // Between a file's last byte, or a journal's, and the sync that covers it, or nearly there.
            let written = world.counters.filesPlaced + world.counters.logWrites
            guard
                gateway.run(
                    seconds: 10, until: { world.counters.filesPlaced + world.counters.logWrites > written })
            else { return }
            let parts = world.counters.fileParts + [0, world.draw(6), world.draw(100)][world.draw(3)]
            guard gateway.run(seconds: 5, until: { world.counters.fileParts >= parts }) else { return }
            troubles.acceptsCut += 1
        }
    }

    private var arrivedCount: Int { allPrimaries.reduce(0) { $0 + $1.messages.count } }

    private func endProcess(_ how: End) {
        collectArrivals()
        collectNotes()
        note("end: \(how)")
        countJournal()
        switch how {
        case .kill: gateway.kill()
        case .powerLoss: gateway.losePower()
        }
        noteOpenHandovers()
    }

    func repairDisks() {
        world.disk.removeFaults()
        for device in 1...2 { world.disk.setCapacity(of: device, bytes: 1 << 40, inodes: 1 << 30) }
    }

    /// Starts until a start lasts: some are cut off before their reactors run, some while stores are being listed.
    private func comeBack() throws {
        repairDisks()
        while true {
            gateway.coreCount = 1 + world.draw(4)
            if world.draw(8) == 0 { gateway.journal = Self.journal(UInt64(world.draw(1_000))) }
            if world.draw(6) == 0 {
                // Some in the middle of what opening the journal takes.
                let steps = world.draw(2) == 0 ? world.draw(16) : world.draw(120)
                if try gateway.startAndFail(afterSteps: steps) { troubles.startsCut += 1 }
                endProcess([.kill, .powerLoss][world.draw(2)])
                continue
            }
            try startAgain()
            note("started with \(gateway.coreCount) reactors")
            guard world.draw(4) == 0 else { return }
            let parts = world.counters.fileParts + 1 + world.draw(60)
            gateway.run(seconds: 2) { world.counters.fileParts >= parts || !gateway.isRecovering }
            guard gateway.isRecovering else { return }
            troubles.recoveriesCut += 1
            endProcess([.kill, .powerLoss][world.draw(2)])
        }
    }

    /// A write-back that failed earlier is told to whoever syncs next, a start perhaps, which refuses then; the supervisor starts
    /// it again.
    func startAgain() throws {
        for _ in 0..<9 {
            do {
                return try gateway.start()
            } catch let fault as SpoolFault {
                note("refused to start: \(fault)")
                troubles.startsCut += 1
                endProcess(.kill)
            }
        }
        try gateway.start()
    }

    /// A kill between the unlink of a message that has a state file and its sync; and a power loss as soon as the next start has
    /// tidied up by what the page cache shows.
    private func endTwice() throws {
        var unlinks = world.counters.unlinks
        let hasCome = gateway.run(seconds: 20) {
            guard world.counters.unlinks > unlinks else { return false }
            unlinks = world.counters.unlinks
            return !orphanedNotes.isEmpty
        }
        guard hasCome else { return }
        let notes = orphanedNotes
        troubles.notesOrphaned += 1
        endProcess(.kill)
        repairDisks()
        gateway.coreCount = 1 + world.draw(4)
        try startAgain()
        gateway.run(seconds: 20) {
            !gateway.isRecovering || notes.contains { world.disk.names(in: $0.path)?.contains($0.name) == false }
        }
        endProcess(.powerLoss)
        try comeBack()
    }

    /// Mail directories that can't be listed at once are listed while large messages arrive in them.
    private func listLate() {
        guard gateway.isRecovering else { return }
        troubles.lateListings += 1
        world.disk.inject(SimulatedDiskFault(.read, times: 2 + world.draw(8)))
        for _ in 0...world.draw(3) { newSession(isLargeAndSlow: true) }
    }

    /// SIGTERM, and a new start.
    private func stop() throws {
        troubles.stops += 1
        gateway.stop()
        gateway.run(seconds: 70) { gateway.cores.allSatisfy(\.isStopped) }
        endProcess(.kill)
        try comeBack()
    }

    // MARK: Disks

    private func breakDisk() {
        world.disk.inject(
            SimulatedDiskFault(
                [.write, .sync, .sync, .rename, .unlink, .create, .close, .read][world.draw(8)],
                countdown: 1 + world.draw(4), times: 1 + world.draw(3),
                device: [nil, 1, 2][world.draw(3)]))
    }

    /// All that is in the journals is to go to its mail directory; the files are written, and their sync fails.
    private func breakMove() {
        guard gateway.journals != nil else { return }
        // Of what is on its way to a primary just then.
        newSession()
        let arrived = arrivedCount
        gateway.run(seconds: 5) { arrivedCount > arrived }
        troubles.movesBroken += 1
        for core in gateway.cores {
            for home in gateway.cores.indices { core.send(.moveOut(core: core.index, through: .max), to: home) }
        }
        for device in 1...2 { world.disk.inject(SimulatedDiskFault(.sync, times: 1 + world.draw(2), device: device)) }
        let placed = world.counters.filesPlaced
        gateway.run(seconds: 5) { world.counters.filesPlaced > placed }
    }

    /// Somebody else has filled the device: with bytes or with files.
    private func fillDisk() {
        let device = 1 + world.draw(2)
        let disk = world.disk
        if world.draw(2) == 0 {
            disk.setCapacity(of: device, bytes: disk.usedBytes(of: device) + world.draw(60_000))
        } else {
            disk.setCapacity(of: device, inodes: disk.usedInodes(of: device) + world.draw(6))
        }
        world.after(UInt64(1 + world.draw(20)) * 1_000_000_000) {
            disk.setCapacity(of: device, bytes: 1 << 40, inodes: 1 << 30)
        }
    }

    // MARK: Primaries and clocks

    private func outage() {
        troubles.outages += 1
        let primary = allPrimaries[world.draw(allPrimaries.count)]
        primary.stop()
        if world.draw(3) == 0 { world.cutAllConnections() }
        world.after(UInt64(world.draw(60)) * 1_000_000_000) { [unowned self] in
            if !isAuditing { primary.start() }
        }
    }

    private func blackhole() {
        troubles.blackholes += 1
        let address = primaries[world.draw(primaries.count)].address
        world.setBlackholed(address, true)
        world.after(UInt64(world.draw(60)) * 1_000_000_000) { [unowned world] in world.setBlackholed(address, false) }
    }

    private func jump() {
        let hours = Int64(world.draw(12) == 0 ? world.draw(480) - 240 : world.draw(20) - 10)
        world.jumpWallClock(by: hours * 3_600_000_000_000)
        let offset = world.wallNow - Int64(world.now) - (world.settings.wallStart - 1_000_000_000)
        clockSpread = min(clockSpread.lowerBound, offset)...max(clockSpread.upperBound, offset)
    }

    /// A clock that went by days lets mail of a failing primary expire.
    var mayExpire: Bool { clockSpread.upperBound - clockSpread.lowerBound > 4 * 86_400_000_000_000 }

    // MARK: Administrators

    private func hold() throws {
        troubles.holds += 1
        let domain = ["a.test", "c.test", "d.test", "sender.test"][world.draw(4)]
        try gateway.update(domain, "hold=true")
        world.after(UInt64(world.draw(30)) * 1_000_000_000) { [unowned gateway] in
            try? gateway.update(domain, "hold=false")
        }
    }

    private func disable() throws {
        troubles.disabled += 1
        let domain = ["a.test", "b.test", "d.test"][world.draw(3)]
        try gateway.update(domain, "enabled=false")
        world.after(UInt64(world.draw(10)) * 1_000_000_000) { [unowned gateway] in
            try? gateway.update(domain, "enabled=true")
        }
    }

    private func changeNextHop() throws {
        troubles.nextHopChanges += 1
        try gateway.update("a.test", "forward.server=198.51.100.\([1, 6][world.draw(2)])")
    }

    private func createGuest() throws {
        guard guest == nil else { return }
        guestCount += 1
        let domain = "guest\(guestCount).test"
        repairDisks()
        let place = world.draw(2) == 0 ? " mailDirectory=\(Self.secondPath)/\(domain)" : ""
        try gateway.create("\(domain) forward.server=198.51.100.5 retry.schedule=[5s]\(place)")
        troubles.created += 1
        everyGateway.append((gateway.directory.snapshot.gateway(forDomain: domain)!.id, domain))
        guest = domain
    }

    /// With its mail dropped, bounced, or only when none waits.
    private func deleteGuest() throws {
        guard let domain = guest, let route = gateway.directory.snapshot.gateway(forDomain: domain) else { return }
        let store = gateway.store(of: domain)
        // What is not counted yet is neither dropped nor seen to wait.
        guard store.state.load(ordering: .relaxed) == .ready else { return }
        store.setClosing(true)
        let way = world.draw(3)
        if way == 0 { droppedDomains.insert(domain) }
        if way == 1 { bouncedDomains.insert(domain) }
        for _ in 0..<100 where store.used.messages > 0 {
            switch way {
            case 0: _ = gateway.ask(.drop(gatewayID: route.id, only: nil))
            case 1: _ = gateway.ask(.bounceAll(gatewayID: route.id))
            default: break
            }
            gateway.pass(seconds: 0.2)
        }
        guard store.used.messages == 0 else {
            store.setClosing(false)
            _ = gateway.ask(.resume(gatewayID: route.id))
            return
        }
        guest = nil
        let path = gateway.keeper.path(of: route)
        asidePaths += [path, "\(path).deleted-\(route.id)"]
        try gateway.delete(domain)
        troubles.deleted += 1
    }

    private func endOneMessage(bounces: Bool) {
        let ids = ledger.compactMap(\.id)
        guard !ids.isEmpty else { return }
        // Mostly a late one, which may still wait.
        let id = ids[max(0, ids.count - 1 - world.draw(20))]
        if bounces {
            // What begins to bounce may be cut off, and delivered after all.
            for (_, domain) in everyGateway { returned.insert("\(id) \(domain)") }
            for case .done? in gateway.askEach(.bounce(id)) { troubles.returns += 1 }
            return
        }
        let cores = gateway.cores.count
        for (core, answer) in gateway.askEach(.delete(id)).enumerated() {
            switch answer {
            case .busy?, .notFound?: continue
            default: break
            }
            // Done, or an answer that came too late to be seen.
            troubles.removals += 1
            for (gateway, domain) in everyGateway where Routes.home(of: gateway, reactors: cores) == core {
                removed.insert("\(id) \(domain)")
            }
        }
    }
}
