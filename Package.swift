// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]

let package = Package(
    name: "postern",
    products: [
        .executable(name: "postern", targets: ["postern"]),
        .executable(name: "postern-bench", targets: ["postern-bench"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // C libraries and what Swift cannot say. No logic.
        .target(
            name: "CReactor",
            linkerSettings: [
                .linkedLibrary("uring"), .linkedLibrary("ssl"), .linkedLibrary("crypto"), .linkedLibrary("cares"),
            ]),
        // What of OpenSSL's crypto the admin process needs. No logic.
        .target(name: "CAccess", linkerSettings: [.linkedLibrary("crypto")]),
        .systemLibrary(name: "CIDN2", pkgConfig: "libidn2", providers: [.apt(["libidn2-dev"])]),
        // Loop, sockets, TLS, timers, files, mailboxes. Knows nothing of mail.
        .target(name: "Reactor", dependencies: ["CReactor"], swiftSettings: strict),
        // Bytes and time in, instructions out. No I/O, no clock.
        .target(name: "Protocols", swiftSettings: strict),
        // The product.
        .target(
            name: "Gateway",
            dependencies: [
                "Reactor", "Protocols", "CIDN2",
                .product(name: "Collections", package: "swift-collections"),
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "Yams", package: "Yams"),
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "postern",
            dependencies: [
                "CAccess", "Gateway",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            resources: [.embedInCode("Admin/Page/Files")],
            swiftSettings: strict),
        // What counts system calls for postern-bench. No logic.
        .target(name: "CBench", path: "Benchmarks/CBench"),
        // Load and a measuring primary for any SMTP server. Knows nothing of Gateway.
        .executableTarget(
            name: "postern-bench",
            dependencies: [
                "CBench", "CReactor", "Reactor", "Protocols",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            path: "Benchmarks/postern-bench",
            swiftSettings: strict),
        .testTarget(name: "ReactorTests", dependencies: ["Reactor"]),
        // OpenSSL through CReactor: what the SASL machines are given at run time.
        .testTarget(name: "ProtocolsTests", dependencies: ["Protocols", "CReactor"]),
        .testTarget(name: "GatewayTests", dependencies: ["Gateway"]),
        .testTarget(name: "CommandTests", dependencies: ["postern"]),
        .testTarget(name: "AdminTests", dependencies: ["Gateway", "postern"]),
        .testTarget(name: "BenchTests", dependencies: ["CReactor", "postern-bench"]),
    ],
    swiftLanguageModes: [.v6]
)

// The mail path's parts, their instructions and allocations counted. They see what is internal to Gateway because its sources
// are built into them (`Benchmarks/micro/Gateway` is a link): with `-enable-testing` the compiler would make other code than that of
// the product. Only `dev/micro` wants them, so nobody else builds Gateway twice.
if Context.environment["POSTERN_MICRO"] != nil {
    let gateway = package.targets.first { $0.name == "Gateway" }!
    package.targets += [
        .target(name: "CMicro", path: "Benchmarks/CMicro"),
        .executableTarget(
            name: "postern-micro", dependencies: ["CMicro"] + gateway.dependencies, path: "Benchmarks/micro",
            exclude: ["expected.json"], swiftSettings: strict),
    ]
}
