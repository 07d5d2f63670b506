/// What a server lets its clients log in with, and what it brings to that.
public struct SASLOffer {
    /// Those that the site wants, best first. Whether one can be had now is said by `mechanisms(isTLS:)`.
    public var wanted: [SASLMechanism]
    /// Passwords may cross the net in the clear. A departure that a site must ask for: RFC 4954 §4, RFC 5034 §4 and
    /// RFC 8314 §4.1 all want it off.
    public var showsPasswordsInClear = false
    public var context: SASLServerContext

    public init(wanted: [SASLMechanism] = SASLMechanism.allCases, context: SASLServerContext) {
        (self.wanted, self.context) = (wanted, context)
    }

    /// Those that may be announced and used now.
    public func mechanisms(isTLS: Bool) -> [SASLMechanism] {
        wanted.filter { mechanism in
            switch mechanism {
            case .scramSHA256Plus: isTLS && context.channelBinding != nil
            case .external: context.externalUser != nil
            case .plain, .login: mayShowPasswords(isTLS: isTLS)
            case .scramSHA256, .cramMD5: true
            }
        }
    }

    public func mayShowPasswords(isTLS: Bool) -> Bool { isTLS || showsPasswordsInClear }

    /// Begins what an AUTH command asks for; nil if its mechanism is not on offer now. `argument`: what stands behind
    /// `AUTH`, without the space.
    func start(_ argument: UnsafeRawBufferPointer, isTLS: Bool) -> (SASLServerExchange, SASLServerExchange.Step)? {
        var cursor = SMTPLineCursor(argument)
        guard let mechanism = SASLMechanism(name: cursor.word()), mechanisms(isTLS: isTLS).contains(mechanism) else {
            return nil
        }
        let hasResponse = cursor.skip(UInt8(ascii: " "))
        return SASLServerExchange.start(
            mechanism, initialResponse: hasResponse ? cursor.rest : nil, context: context)
    }
}
