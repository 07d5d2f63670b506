import Glibc
import Protocols
import Testing

@testable import Gateway

private func temporaryFolder() throws -> String {
    var template = Array("/tmp/postern-secrets-XXXXXX".utf8CString)
    let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!).map { String(cString: $0) } }
    return try #require(made)
}

private func remove(_ folder: String) {
    for name in ["postern.db", "postern.db-wal", "postern.db-shm", "secrets.key", "kept.key"] {
        unlink("\(folder)/\(name)")
    }
    rmdir(folder)
}

private func bytes(_ path: String) -> [UInt8] {
    let file = open(path, O_RDONLY)
    guard file >= 0 else { return [] }
    defer { close(file) }
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    let count = read(file, &buffer, buffer.count)
    return Array(buffer.prefix(max(0, count)))
}

private func document(_ domain: String, _ assignments: String...) throws -> GatewayDocument {
    var document = try GatewayDocument(domain: domain)
    try document.apply(assignments)
    return document
}

/// Passwords and shared secrets: kept sealed, shown as a mask, and found by who logs in.
struct SecretTests {
    @Test("a secret stands nowhere in the data folder but sealed, and the mask leaves it as it is") func atRest() throws
    {
        let folder = try temporaryFolder()
        defer { remove(folder) }
        let secret = "correct-horse-battery"
        do {
            let directory = try SQLiteDirectory(dataFolder: folder) { 0 }
            let stored = try directory.create(
                try document("altn.test", "dequeue.method=atrn", "dequeue.secret=\(secret)"))
            #expect(!stored.document.json.contains(secret) && stored.document.json.contains("\"\(Secret.mask)\""))
            #expect(!"\(stored)".contains(secret))
            // As a web page gives back what it was shown.
            var again = try GatewayDocument(json: stored.document.json)
            try again.apply(["forward.port=2525"])
            #expect(try directory.update(again, expectedETag: nil).document.dequeue.secret == .text(secret))
            try directory.close()
        }
        for name in ["postern.db", "postern.db-wal"] {
            #expect(!String(decoding: bytes("\(folder)/\(name)"), as: UTF8.self).contains(secret))
        }
        var status = stat()
        #expect(stat("\(folder)/secrets.key", &status) == 0 && status.st_mode & 0o777 == 0o600 && status.st_size == 32)
        let directory = try SQLiteDirectory(dataFolder: folder) { 0 }
        let keys = try #require(directory.snapshot.gateways(ofCustomer: "ALTN.test").first?.dequeue.secret)
        #expect(keys.bytes == Array(secret.utf8))
        #expect(keys.scram == SCRAMKeys(password: keys.bytes, salt: keys.scram.salt, functions: .openSSL))
        try directory.close()
    }

    @Test("with another key nobody can log in, nothing is lost, and all works again with the right one") func otherKey()
        throws
    {
        let folder = try temporaryFolder()
        defer { remove(folder) }
        do {
            let directory = try SQLiteDirectory(dataFolder: folder) { 0 }
            _ = try directory.create(
                try document("altn.test", "dequeue.method=mailbox", "dequeue.mailbox.password=geheim"))
            try directory.close()
        }
        rename("\(folder)/secrets.key", "\(folder)/kept.key")
        do {
            let directory = try SQLiteDirectory(dataFolder: folder) { 0 }
            var stored = try directory.get("altn.test")
            #expect(stored.isLocked && stored.fault == nil)
            #expect(directory.snapshot.mailbox(ofUser: "altn.test")?.dequeue.mailbox?.password == nil)
            // A change of something else keeps what is sealed.
            var changed = stored.document
            try changed.apply(["forward.port=2525"])
            stored = try directory.update(changed, expectedETag: nil)
            #expect(stored.isLocked)
            try directory.close()
        }
        rename("\(folder)/kept.key", "\(folder)/secrets.key")
        let directory = try SQLiteDirectory(dataFolder: folder) { 0 }
        #expect(
            directory.snapshot.mailbox(ofUser: "altn.test")?.dequeue.mailbox?.password?.bytes == Array("geheim".utf8))
        try directory.close()
    }

    @Test("a sealed secret opens only for its own gateway and as what it was") func bound() {
        let box = SecretBox.temporary()
        let sealed = box.seal("geheim", "secret", of: "altn.test").sealed
        #expect(box.open(sealed, "secret", of: "altn.test").keys?.bytes == Array("geheim".utf8))
        #expect(box.open(sealed, "secret", of: "other.test").keys == nil)
        #expect(box.open(sealed, "password", of: "altn.test").keys == nil)
        #expect(SecretBox.temporary().open(sealed, "secret", of: "altn.test").keys == nil)
        #expect(box.open(String(sealed.dropLast(8)), "secret", of: "altn.test").keys == nil)
        #expect(box.open("", "secret", of: "altn.test").keys == nil)
    }

    @Test("gateways with one user are one customer with one secret; a mailbox's user is one gateway's") func customers()
        throws
    {
        let directory = try SQLiteDirectory(inMemoryWith: { 0 })
        _ = try directory.create(
            try document("a.test", "dequeue.method=atrn", "dequeue.user=Tim", "dequeue.secret=geheim"))
        _ = try directory.create(try document("b.test", "dequeue.method=etrn", "dequeue.user=tim"))
        #expect(directory.snapshot.gateways(ofCustomer: "TIM").map(\.domain) == ["a.test", "b.test"])
        #expect(
            throws: DirectoryFault.invalid(
                "`dequeue.secret`: the customer `tim` has one already, at the gateway `a.test`; change it there, or leave it "
                    + "out here")
        ) { try directory.create(try document("c.test", "dequeue.user=tim", "dequeue.secret=other")) }
        #expect(throws: DirectoryFault.invalid("`dequeue.mailbox.user`: `a.test` belongs to the gateway `a.test`")) {
            try directory.create(try document("c.test", "dequeue.mailbox.user=a.test"))
        }
        #expect(
            throws: DirectoryFault.invalid(
                "`dequeue.secret`: `********` stands for one that is stored, and none is; give it, or null for none")
        ) { try directory.create(try document("c.test", "dequeue.secret=********")) }
        _ = try directory.update(try document("a.test", "dequeue.user=else"), expectedETag: nil)
        #expect(directory.snapshot.gateways(ofCustomer: "tim").map(\.domain) == ["b.test"])
        #expect(directory.snapshot.gateways(ofCustomer: "else").isEmpty)
        _ = try directory.delete("b.test", expectedETag: nil)
        #expect(directory.snapshot.gateways(ofCustomer: "tim").isEmpty)
    }

    @Test(
        "what keeps a customer from coming is said",
        arguments: [
            ("dequeue.method=mailbox", ["nobody can log in to the mailbox: set `dequeue.mailbox.password`"]),
            ("dequeue.method=mailbox dequeue.mailbox.password=geheim", []),
            ("dequeue.method=atrn", ["`a.test` can't log in for ATRN: set `dequeue.secret`"]),
            ("dequeue.method=etrn dequeue.secret=geheim", []),
            (
                "dequeue.method=etrn dequeue.etrn.requireAuthentication=false",
                ["nobody may ask by ETRN: name addresses in `dequeue.etrn.allow`"]
            ),
            ("dequeue.method=etrn dequeue.etrn.requireAuthentication=false dequeue.etrn.allow=192.0.2.1", []),
            ("hold=true", []),
        ])
    func obstacles(_ assignments: String, _ expected: [String]) throws {
        let directory = try SQLiteDirectory(inMemoryWith: { 0 })
        var document = try GatewayDocument(domain: "a.test")
        try document.apply(assignments.split(separator: " ").map(String.init))
        _ = try directory.create(document)
        let gateway = try #require(directory.snapshot.gateway(forDomain: "a.test"))
        #expect(gateway.dequeue.obstacles(hasSecret: gateway.dequeue.secret != nil) == expected)
    }
}
