/// What is wrong with a setting that someone gave, as one sentence that names the key, the value and what is allowed.
public struct InvalidSetting: Error, Hashable, Sendable, CustomStringConvertible {
    public let sentence: String

    public var description: String { sentence }

    init(_ sentence: String) { self.sentence = sentence }

    /// `key` holds a value that it does not take.
    init(key: String, value: DocumentValue, allowed: String) {
        self.init("`\(key)`\(value.place): \(value.quoted) is not allowed; it takes \(allowed)")
    }

    /// `key` exists, and its part is not built yet.
    static func notInThisVersion(_ key: String) -> InvalidSetting {
        InvalidSetting("`\(key)`: not in this version")
    }

    /// Text from outside between backquotes: control characters and all beyond ASCII escaped (a look-alike letter should
    /// be seen for what it is), cut to a length that a log line bears (T-G3).
    static func quote(_ text: some StringProtocol) -> String {
        let shownCharacters = 80
        var shown = "`"
        for scalar in text.unicodeScalars.prefix(shownCharacters) {
            switch scalar {
            case "`": shown += "'"
            case "\"", "\\", "'": shown.unicodeScalars.append(scalar)
            default: shown += scalar.escaped(asASCII: true)
            }
        }
        return shown + (text.unicodeScalars.count > shownCharacters ? "…`" : "`")
    }
}
