/// Counts what the hot parts of the mail path allocate; `dev/micro` runs it, adds the instructions and compares.
@main
enum PosternMicro {
    static func main() {
        let parts = protocolParts + reactorParts + gatewayParts + pathParts
        var names: [String] = []
        var planted = false
        for argument in CommandLine.arguments.dropFirst() {
            switch argument {
            case "--list":
                for part in parts { print(part.name) }
                return
            case "--planted": planted = true
            default: names.append(argument)
            }
        }
        for name in names where !parts.contains(where: { $0.name == name }) {
            fatalError("there is no part `\(name)`; --list names them")
        }
        for part in parts where names.isEmpty || names.contains(part.name) {
            print(part.measured(planted: planted).json)
        }
    }
}
