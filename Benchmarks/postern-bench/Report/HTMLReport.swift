enum HTMLReport {
    static func page(_ outcomes: [Outcome]) -> String { "" }
}
