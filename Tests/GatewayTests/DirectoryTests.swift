import Foundation
import Protocols
import Testing

@testable import Gateway

private let noon: @Sendable () -> Int64 = { 1_700_000_000_000 }

private func memory() throws -> SQLiteDirectory { try SQLiteDirectory(inMemoryWith: noon) }

private func document(_ domain: String, _ assignments: String...) throws -> GatewayDocument {
    var document = try GatewayDocument(domain: domain)
    try document.apply(assignments)
    return document
}

/// A folder that goes with the test.
private func withFolder(_ body: (String) throws -> Void) throws {
    let folder = NSTemporaryDirectory() + "directory-\(UInt64.random(in: 0...UInt64.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try body(folder)
}

@Test func directoryCreatesReadsChangesAndDeletes() throws {
    let directory = try memory()
    let created = try directory.create(document("b.test", "forward.port=2525"))
    #expect(created.id == 1 && created.version == 1 && created.createdAt == noon() && created.etag == "1-1")
    _ = try directory.create(document("a.test"))
    #expect(try directory.list().map(\.document.domain) == ["a.test", "b.test"])
    #expect(try directory.get("B.test") == created)

    let updated = try directory.update(document("b.test", "hold=true"), expectedETag: created.etag)
    #expect(updated.id == 1 && updated.version == 2 && updated.createdAt == created.createdAt)
    #expect(try directory.get("b.test") == updated)

    #expect(try directory.delete("b.test", expectedETag: updated.etag) == updated)
    #expect(try directory.list().map(\.document.domain) == ["a.test"])
}

@Test func directoryNeverUsesAnIDAgain() throws {
    let directory = try memory()
    let first = try directory.create(document("a.test"))
    _ = try directory.delete("a.test", expectedETag: nil)
    let second = try directory.create(document("a.test"))
    #expect(second.id > first.id)
    #expect(second.etag != first.etag)
}

@Test func directoryFaults() throws {
    let directory = try memory()
    let stored = try directory.create(document("a.test"))
    #expect(throws: DirectoryFault.alreadyExists(domain: "a.test")) { try directory.create(document("A.TEST")) }
    #expect(throws: DirectoryFault.noSuchGateway(domain: "b.test")) { try directory.get("b.test") }
    #expect(throws: DirectoryFault.noSuchGateway(domain: "b.test")) {
        try directory.update(document("b.test"), expectedETag: nil)
    }
    #expect(throws: DirectoryFault.noSuchGateway(domain: "../x")) { try directory.delete("../x", expectedETag: nil) }
    #expect(throws: DirectoryFault.changedMeanwhile(domain: "a.test", etag: "1-1")) {
        try directory.delete("a.test", expectedETag: "1-0")
    }
    #expect(throws: DirectoryFault.changedMeanwhile(domain: "a.test", etag: "1-1")) {
        try directory.update(document("a.test"), expectedETag: "2-1")
    }
    #expect(throws: DirectoryFault.invalid("`mailDirectory`: `stores/a.test` belongs to the gateway `a.test`")) {
        try directory.create(document("b.test", "mailDirectory=stores/a.test"))
    }
    #expect(throws: DirectoryFault.invalid("`mailDirectory`: `stores/@system` belongs to the gateway `@system`")) {
        try directory.create(document("b.test", "mailDirectory=stores/@system"))
    }
    #expect(DirectoryFault.noSuchGateway(domain: "a\r\nb").description == "there is no gateway `a\\r\\nb`")
    #expect(try directory.list() == [stored])
    #expect(directory.snapshot.gatewayCount == 1)
}

@Test("T-C4: a domain is a bound parameter, whatever it holds") func domainIsNeverSQL() throws {
    let directory = try memory()
    _ = try directory.create(document("a.test"))
    for text in ["a.test' OR '1'='1", "'; DROP TABLE gateways; --", "a.test\" --", "%", "*"] {
        #expect(throws: DirectoryFault.noSuchGateway(domain: text)) { try directory.delete(text, expectedETag: nil) }
    }
    #expect(try directory.list().count == 1)
}

@Test func snapshotFollowsEachChange() throws {
    let directory = try memory()
    let empty = directory.snapshot
    #expect(empty.gateways.isEmpty && empty.gateway(forDomain: "a.test") == nil)
    _ = try directory.create(document("bücher.test", "quota.enabled=true", "quota.messages=1"))
    let one = directory.snapshot
    let gateway = try #require(one.gateway(forDomain: "xn--bcher-kva.test"))
    #expect(one.gateway(forID: gateway.id) === gateway)
    #expect(one.number == empty.number + 1)
    #expect(one.quotaCode(for: gateway) == .tryAgain)

    _ = try directory.create(document("a.test"))
    #expect(directory.snapshot.gateway(forID: gateway.id) === gateway, "an unchanged gateway stays the same object")
    _ = try directory.update(document("xn--bcher-kva.test", "enabled=false"), expectedETag: nil)
    #expect(directory.snapshot.gateway(forID: gateway.id)?.isEnabled == false)
    #expect(one.gateway(forDomain: "xn--bcher-kva.test")?.isEnabled == true, "an old snapshot does not change")

    var settings = Settings()
    try settings.apply(["quotaCode=552", "smarthost=192.0.2.1:26"])
    #expect(try directory.setSettings(settings) == settings)
    #expect(directory.snapshot.quotaCode(for: gateway) == .bounce)
    #expect(directory.snapshot.system.forward.nextHop == .address(IPAddress("192.0.2.1")!))
    #expect(directory.snapshot.gateway(forID: 0) === directory.snapshot.system)
    #expect(directory.snapshot.gateway(forDomain: "@system") == nil)

    _ = try directory.delete("xn--bcher-kva.test", expectedETag: nil)
    #expect(directory.snapshot.gateways.map(\.domain) == ["a.test"])
    #expect(directory.snapshot.gateway(forID: gateway.id) == nil)
}

@Test("T-G6: an import is done whole or not at all, and can be tried dry") func importIsOneTransaction() throws {
    let directory = try memory()
    let old = try directory.create(document("a.test"))
    let before = directory.snapshot
    let changes = try GatewayDocument.list(yaml: "- { domain: a.test, hold: true }\n- { domain: b.test }\n")

    let tried = try directory.importAll(changes, dryRun: true)
    #expect(tried.map(\.document) == changes)
    #expect(try directory.list() == [old])
    #expect(directory.snapshot === before)

    let clash = changes + [try document("c.test", "mailDirectory=stores/b.test")]
    for dryRun in [true, false] {
        #expect(throws: DirectoryFault.invalid("`mailDirectory`: `stores/b.test` belongs to the gateway `b.test`")) {
            try directory.importAll(clash, dryRun: dryRun)
        }
        #expect(throws: DirectoryFault.invalid("the gateway `a.test` stands twice in the import")) {
            try directory.importAll(changes + changes, dryRun: dryRun)
        }
    }
    #expect(try directory.list() == [old])
    #expect(directory.snapshot === before)

    let stored = try directory.importAll(changes, dryRun: false)
    #expect(stored.map(\.version) == [2, 1])
    #expect(try directory.list() == stored)
    #expect(directory.snapshot.number == before.number + 1)
    #expect(directory.snapshot.gateway(forDomain: "a.test")?.isHeld == true)
}

@Test("T-G6: an import passes the checks of the wire") func importRefusesWhatTheWireRefuses() {
    for domain in ["../x", "a/b.test", "a.test.", "[192.0.2.1]", "x", "a_b.test"] {
        #expect(throws: InvalidSetting.self) { try GatewayDocument.list(yaml: "domain: '\(domain)'") }
    }
}

@Test func directorySurvivesAStartAndKeepsItsFileToItself() throws {
    try withFolder { folder in
        var settings = Settings()
        try settings.apply(["postmaster=admin@provider.test"])
        var directory = try SQLiteDirectory(dataFolder: folder, now: noon)
        let stored = try directory.create(document("a.test", "retry.lifetime=never", "forward.server=[mx.a.test]"))
        _ = try directory.create(document("b.test"))
        _ = try directory.delete("b.test", expectedETag: nil)
        _ = try directory.setSettings(settings)
        try directory.close()

        directory = try SQLiteDirectory(dataFolder: folder, now: noon)
        #expect(try directory.list() == [stored])
        #expect(try directory.settings() == settings)
        #expect(directory.snapshot.settings == settings)
        #expect(directory.snapshot.gateway(forDomain: "a.test")?.retry.lifetimeSeconds == nil)
        #expect(try directory.create(document("c.test")).id == 3)
        let attributes = try FileManager.default.attributesOfItem(atPath: folder + "/postern.db")
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        try directory.close()
    }
}

@Test func directoryBackUpIsADirectory() throws {
    try withFolder { folder in
        let directory = try SQLiteDirectory(dataFolder: folder, now: noon)
        let stored = try directory.create(document("a.test"))
        let copies = folder + "/copies"
        try FileManager.default.createDirectory(atPath: copies, withIntermediateDirectories: false)
        try directory.backUp(to: copies + "/postern.db")
        #expect(throws: DirectoryFault.self) { try directory.backUp(to: copies + "/postern.db") }
        let copy = try SQLiteDirectory(dataFolder: copies, now: noon)
        #expect(try copy.list() == [stored])
        try copy.close()
        try directory.close()
    }
}

@Test("T-F5: a foreign or newer file is refused") func directoryRefusesForeignAndNewerFiles() throws {
    try withFolder { folder in
        let path = folder + "/postern.db"
        try Data("this is no database, but it is long enough to be taken for one".utf8).write(to: URL(filePath: path))
        #expect(throws: DirectoryFault.damaged("file is not a database")) {
            try SQLiteDirectory(dataFolder: folder, now: noon)
        }
    }
    try withFolder { folder in
        try SQLiteDirectory(dataFolder: folder, now: noon).close()
        // user_version stands at offset 60 of the file header.
        let path = URL(filePath: folder + "/postern.db")
        var bytes = try Data(contentsOf: path)
        bytes[63] = 9
        try bytes.write(to: path)
        #expect(throws: DirectoryFault.unknownVersion("postern.db has version 9; this Postern knows up to version 2")) {
            try SQLiteDirectory(dataFolder: folder, now: noon)
        }
        // application_id stands at offset 68.
        bytes[63] = 1
        bytes[71] = 0
        try bytes.write(to: path)
        #expect(throws: DirectoryFault.damaged("postern.db is the database of another program")) {
            try SQLiteDirectory(dataFolder: folder, now: noon)
        }
    }
    #expect(throws: DirectoryFault.unavailable("`/nowhere/postern.db`: No such file or directory")) {
        try SQLiteDirectory(dataFolder: "/nowhere", now: noon)
    }
}

@Test func directoryHoldsTheMailOfAGatewayThatItCannotRead() throws {
    try withFolder { folder in
        var directory = try SQLiteDirectory(dataFolder: folder, now: noon)
        _ = try directory.create(document("a.test", "forward.concurrency=777", "mailDirectory=big/a"))
        try directory.close()
        // As if a newer version had stored a value that this one does not take.
        let path = URL(filePath: folder + "/postern.db")
        var bytes = try Data(contentsOf: path)
        let place = try #require(bytes.range(of: Data("777".utf8)))
        bytes.replaceSubrange(place, with: Data("000".utf8))
        try bytes.write(to: path)

        directory = try SQLiteDirectory(dataFolder: folder, now: noon)
        let stored = try directory.get("a.test")
        #expect(stored.fault?.hasPrefix("`forward.concurrency`: `0` is not allowed") == true)
        let gateway = try #require(directory.snapshot.gateway(forDomain: "a.test"))
        #expect(!gateway.isEnabled && gateway.isHeld && gateway.mailDirectory == "big/a")
        #expect(try directory.update(document("a.test"), expectedETag: stored.etag).fault == nil)
        #expect(directory.snapshot.gateway(forDomain: "a.test")?.isEnabled == true)
        try directory.close()
    }
}

@Test func directoryLoadsTenThousandGateways() throws {
    #if DEBUG
        let count = 500  // without optimisation, a twentieth
    #else
        let count = 10_000
    #endif
    try withFolder { folder in
        let directory = try SQLiteDirectory(dataFolder: folder, now: noon)
        let documents = try (0..<count).map {
            try document(
                "d\($0).example.test", "forward.server=mx\($0).example.test", "quota.enabled=true", "quota.bytes=1G")
        }
        _ = try directory.importAll(documents, dryRun: false)
        try directory.close()
        var loaded: SQLiteDirectory?
        let elapsed = try ContinuousClock().measure { loaded = try SQLiteDirectory(dataFolder: folder, now: noon) }
        #expect(loaded?.snapshot.gatewayCount == count)
        // A second is usual; the bound is for what grows with the square.
        #expect(elapsed < .seconds(20))
        try loaded?.close()
    }
}
