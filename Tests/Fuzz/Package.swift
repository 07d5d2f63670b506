// swift-tools-version: 6.2
import PackageDescription

// The product's modules once more, as links, so that its own manifest knows nothing of fuzzing: built with coverage for
// libFuzzer, whose driver `dev/fuzz` links in. `dev/fuzz` builds it, with address sanitizer for the rest, too.
let fuzzed: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    // One option: of several `-sanitize=` the last one counts.
    .unsafeFlags(["-sanitize=fuzzer,address", "-enable-testing"]),
]

let package = Package(
    name: "postern-fuzz",
    dependencies: [
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        .target(
            name: "CReactor",
            linkerSettings: [
                .linkedLibrary("uring"), .linkedLibrary("ssl"), .linkedLibrary("crypto"), .linkedLibrary("cares"),
            ]),
        .systemLibrary(name: "CIDN2", pkgConfig: "libidn2", providers: [.apt(["libidn2-dev"])]),
        .target(
            name: "Reactor", dependencies: ["CReactor"],
            swiftSettings: [
                .enableUpcomingFeature("ExistentialAny"), .enableUpcomingFeature("InternalImportsByDefault"),
            ]),
        .target(name: "Protocols", swiftSettings: fuzzed),
        .target(
            name: "Gateway",
            dependencies: [
                "Reactor", "Protocols", "CIDN2",
                .product(name: "Collections", package: "swift-collections"),
                .product(name: "HashTreeCollections", package: "swift-collections"),
                .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "Yams", package: "Yams"),
            ],
            swiftSettings: fuzzed),
        // Not under coverage itself: what the targets do with an input is not what is looked for.
        .executableTarget(
            name: "Fuzz", dependencies: ["Gateway", "Protocols"],
            swiftSettings: [.unsafeFlags(["-enable-testing"])],
            linkerSettings: [.linkedLibrary("stdc++")]),
    ],
    swiftLanguageModes: [.v6]
)
