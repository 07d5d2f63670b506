import Foundation
import Glibc
import Synchronization
import Testing

@testable import Gateway

@Test func adminProcessStartsAgainAndEnds() throws {
    let told = Mutex<[String]>([])
    let endpoint = try #require(Endpoint("127.0.0.1:\(UInt16.random(in: 20_000...29_999))"))
    let remote = try #require(Endpoint("192.0.2.1:8025"))
    let admin = try AdminProcess(
        listen: [endpoint, remote], controlPath: "/nowhere", executable: "/bin/false",
        report: { sentence in told.withLock { $0.append(sentence) } })
    #expect(admin.warnings.count == 1 && admin.warnings[0].contains("192.0.2.1:8025 stays closed"))
    admin.start()
    for _ in 0..<500 where told.withLock({ $0.isEmpty }) { usleep(10_000) }
    #expect(told.withLock { $0.first } == "`postern admin` ended after 0 s: exit status 1; it is started again in 1 s")
    admin.stop()
}

@Test func adminProcessThatHangsIsEnded() throws {
    let folder = NSTemporaryDirectory() + "admin-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // Tells how it was started, then ends at nothing but a kill.
    let script = """
        #!/bin/sh
        trap '' TERM INT HUP
        ls -l /proc/$$/fd/3 >>\(folder)/told.part
        echo "$@" >>\(folder)/told.part
        mv \(folder)/told.part \(folder)/told
        while :; do sleep 1; done
        """
    try Data(script.utf8).write(to: URL(filePath: "\(folder)/hangs"))
    chmod("\(folder)/hangs", 0o700)
    let endpoint = try #require(Endpoint("127.0.0.1:\(UInt16.random(in: 30_000...32_000))"))
    let admin = try AdminProcess(listen: [endpoint], controlPath: "/nowhere", executable: "\(folder)/hangs")
    admin.start()
    for _ in 0..<500 where !FileManager.default.fileExists(atPath: "\(folder)/told") { usleep(10_000) }
    let told = try String(contentsOfFile: "\(folder)/told", encoding: .utf8)
    #expect(told.contains("fd/3 -> socket:") && told.contains("admin --control /nowhere --listen-fd 3"), "\(told)")
    admin.stop()
}

@Test func hostCheckTellsWhatStandsInTheWay() throws {
    let folder = NSTemporaryDirectory() + "check-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let port = UInt16.random(in: 20_000...29_999)
    let yaml = """
        hostname: mx.test
        data: \(folder)/var
        listen: { smtp: ["127.0.0.1:\(port)"], admin: ["192.0.2.1:8025"] }
        tls: { certificates: [{ certificate: \(folder)/none.pem, key: \(folder)/none.key }] }
        """
    let configuration = try Configuration(yaml: yaml, file: nil, environment: [:])
    let findings = HostCheck.run(configuration)
    #expect(findings.contains { $0.level == .good && $0.text.hasSuffix("127.0.0.1:\(port) is free") })
    #expect(findings.contains { $0.level == .warning && $0.text.contains("192.0.2.1:8025 stays closed") })
    #expect(findings.contains { $0.level == .error && $0.text.contains("none.pem") })
    #expect(findings.contains { $0.text == "`data`: \(folder)/var will be made" })

    try Data().write(to: URL(filePath: "\(folder)/var"))
    let broken = try Configuration(
        yaml: "{ hostname: mx.test, data: \(folder)/var, listen: {} }", file: nil, environment: [:])
    #expect(HostCheck.run(broken).contains { $0.level == .error && $0.text.contains("is no folder") })
}
