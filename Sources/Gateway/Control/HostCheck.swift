import Glibc
import Reactor

/// Whether this host and its configuration are fit for `serve`: what can be told without changing anything.
public enum HostCheck {
    public struct Finding: Hashable, Sendable, Codable {
        public enum Level: String, Hashable, Sendable, Codable {
            case good
            /// It works, but not as it should in production.
            case warning
            /// `serve` would refuse to start, or could not work.
            case error
        }
        public let level: Level
        /// One sentence without a full stop.
        public let text: String
    }

    private static let certificateWarningDays = 14

    public static func run(_ configuration: Configuration) -> [Finding] {
        var findings = [
            Finding(
                level: .good,
                text: configuration.file.map { "configuration: \($0)" } ?? "configuration: no file, all defaults"),
            Finding(level: .good, text: "hostname: \(configuration.hostname)"),
        ]
        findings += configuration.notInThisVersion.map {
            Finding(level: .warning, text: "`\($0)`: not in this version")
        }
        findings += configuration.unknownVariables.map {
            Finding(level: .warning, text: "`$\($0)` names no key and is ignored")
        }
        let isRunning = (try? ControlClient(path: ControlClient.path(dataFolder: configuration.data))) != nil
        if isRunning {
            findings.append(
                Finding(level: .good, text: "a server is running on this data folder: its ports are not tried"))
        } else {
            findings += ports(configuration)
        }
        findings += dataFolder(configuration.data)
        findings += log(configuration.log)
        findings += certificates(configuration.tls)
        findings += user(configuration)
        return findings
    }

    private static func ports(_ configuration: Configuration) -> [Finding] {
        var findings: [Finding] = []
        for (key, endpoints) in configuration.listen.all where Configuration.keys[key]?.isBuilt == true {
            for endpoint in endpoints {
                if key == "listen.admin", !endpoint.address.isLoopback {
                    findings.append(
                        Finding(
                            level: .warning,
                            text:
                                "`\(key)`: \(endpoint) stays closed: HTTPS, without which only loopback is opened, is not "
                                + "in this version"))
                    continue
                }
                do throws(ListenFault) {
                    try Listener.probe(SocketAddress(endpoint.address, port: endpoint.port))
                    findings.append(Finding(level: .good, text: "`\(key)`: \(endpoint) is free"))
                } catch {
                    findings.append(Finding(level: .error, text: "`\(key)`: \(error)"))
                }
            }
        }
        if configuration.listen.smtp.isEmpty, configuration.listen.smtps.isEmpty {
            findings.append(
                Finding(level: .warning, text: "`listen`: neither smtp nor smtps is named, so no mail comes in"))
        }
        return findings
    }

    /// The folder, or where it would be made.
    private static func dataFolder(_ data: String) -> [Finding] {
        var folder = data
        while access(folder, F_OK) != 0, folder != "/", let slash = folder.lastIndex(of: "/") {
            folder = slash == folder.startIndex ? "/" : String(folder[..<slash])
        }
        let isMade = folder != data
        var status = stat()
        guard stat(folder, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            return [Finding(level: .error, text: "`data`: \(folder) is no folder")]
        }
        guard access(folder, W_OK | X_OK) == 0 else {
            return [
                Finding(
                    level: .error,
                    text: isMade
                        ? "`data`: \(data) does not exist, and \(folder) is not writable for this user"
                        : "`data`: \(data) is not writable for this user")
            ]
        }
        var findings = [
            Finding(level: .good, text: isMade ? "`data`: \(data) will be made" : "`data`: \(data) is writable")
        ]
        if !isMade, status.st_mode & 0o002 != 0 {
            findings.append(Finding(level: .warning, text: "`data`: \(data) is writable for everybody: chmod o-w"))
        }
        return findings + fileSystem(folder)
    }

    /// Kinds on which a sync does not mean what it should.
    private static let doubtful: [String: String] = [
        "tmpfs": "its content is lost when the machine stops",
        "ramfs": "its content is lost when the machine stops",
        "nfs": "what a sync promises depends on the server",
        "nfs4": "what a sync promises depends on the server",
        "cifs": "what a sync promises depends on the server",
        "smb3": "what a sync promises depends on the server",
        "9p": "what a sync promises depends on the host",
        "vfat": "a power loss can damage the file system itself",
        "exfat": "a power loss can damage the file system itself",
        "ext2": "a power loss can damage the file system itself: it has no journal",
        "overlay": "name a volume for the data folder, so that mail outlives the container",
    ]

    private static func fileSystem(_ folder: String) -> [Finding] {
        var findings: [Finding] = []
        if let kind = fileSystemKind(folder),
            let doubt = doubtful[kind] ?? (kind.hasPrefix("fuse") ? "what a sync promises depends on its program" : nil)
        {
            findings.append(Finding(level: .warning, text: "`data` lies on \(kind): \(doubt)"))
        }
        var system = statvfs()
        guard statvfs(folder, &system) == 0 else { return findings }
        let (freeBytes, isMore) = Int(clamping: system.f_bavail).multipliedReportingOverflow(by: Int(system.f_frsize))
        if !isMore, freeBytes < Limits.deviceReserveBytes {
            findings.append(
                Finding(
                    level: .error,
                    text: "`data`: \(SizeText.text(max(0, freeBytes))) bytes are free, less than the reserve of "
                        + "\(SizeText.text(Limits.deviceReserveBytes)): no mail would be accepted"))
        }
        // 0 of 0: a file system that doesn't count them.
        if system.f_files > 0, system.f_ffree < UInt(Limits.deviceReserveInodes) {
            findings.append(
                Finding(level: .error, text: "`data`: no inodes are left on its file system: no mail would be accepted")
            )
        }
        return findings
    }

    /// From /proc/self/mountinfo: of the mount point that `folder` lies beneath, the last one made where there are several.
    private static func fileSystemKind(_ folder: String) -> String? {
        guard let resolved = realpath(folder, nil), let mounts = fopen("/proc/self/mountinfo", "re") else { return nil }
        defer {
            free(resolved)
            fclose(mounts)
        }
        let path = String(cString: resolved)
        var found: (point: String, kind: String)?
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        while getline(&line, &capacity, mounts) > 0, let text = line.map({ String(cString: $0) }) {
            // id parent device root POINT options [optional …] - KIND source …
            let fields = text.split(separator: " ")
            guard fields.count > 5, let dash = fields.firstIndex(of: "-"), dash + 1 < fields.count else { continue }
            let point = String(fields[4])
            let isAbove = point == "/" || path == point || path.hasPrefix(point + "/")
            if isAbove, point.utf8.count >= found?.point.utf8.count ?? 0 { found = (point, String(fields[dash + 1])) }
        }
        return found?.kind
    }

    private static func log(_ log: Configuration.Log) -> [Finding] {
        guard let file = log.file, let slash = file.lastIndex(of: "/") else { return [] }
        let folder = slash == file.startIndex ? "/" : String(file[..<slash])
        let isWritable = access(file, F_OK) == 0 ? access(file, W_OK) == 0 : access(folder, W_OK | X_OK) == 0
        return [
            isWritable
                ? Finding(level: .good, text: "`log.file`: \(file) is writable")
                : Finding(level: .error, text: "`log.file`: \(file) cannot be written by this user")
        ]
    }

    private static func certificates(_ tls: Configuration.TLS) -> [Finding] {
        guard let files = tls.certificates else {
            return [
                Finding(
                    level: .warning,
                    text:
                        "`tls.certificates` is not set: a self-signed certificate is made, which peers that verify refuse"
                )
            ]
        }
        var findings: [Finding] = []
        for pair in files {
            let certificate = TLSCertificate(certificate: .file(pair.certificate), key: .file(pair.key))
            do throws(TLSConfigurationFault) {
                let context = try TLSContext(server: [certificate], sessionContext: "check")
                let daysLeft = (try certificateExpiry(of: certificate.certificate) - Int64(time(nil))) / 86_400
                if !context.warnings.isEmpty {
                    findings += context.warnings.map { Finding(level: .warning, text: "`tls.certificates`: \($0)") }
                } else if daysLeft < certificateWarningDays {
                    findings.append(
                        Finding(
                            level: .warning,
                            text: "`tls.certificates`: \(pair.certificate) expires in \(daysLeft) days"))
                } else {
                    findings.append(
                        Finding(
                            level: .good,
                            text:
                                "`tls.certificates`: \(pair.certificate) and its key belong together, \(daysLeft) days left"
                        ))
                }
            } catch {
                findings.append(Finding(level: .error, text: "`tls.certificates`: \(error)"))
            }
        }
        return findings
    }

    private static func user(_ configuration: Configuration) -> [Finding] {
        guard let user = configuration.user else {
            return geteuid() == 0
                ? [Finding(level: .warning, text: "`user` is not set: the server would go on as root")] : []
        }
        if getpwnam(user) == nil { return [Finding(level: .error, text: "`user`: there is no user \(user)")] }
        if geteuid() != 0 {
            return [Finding(level: .error, text: "`user`: only root can become \(user)")]
        }
        return [Finding(level: .good, text: "`user`: the server becomes \(user)")]
    }
}
