import HTTPTypes
import Hummingbird

/// The web page: files of `Page/Files`, which are part of the program.
enum PageFiles {
    private struct File: Sendable {
        let type: String
        let bytes: [UInt8]
        /// Names these bytes, so that a browser asks only whether they are the same.
        let etag: String

        init(_ type: String, _ bytes: [UInt8]) {
            (self.type, self.bytes) = (type, bytes)
            etag = "\"\(RandomText.digest(String(decoding: bytes, as: UTF8.self)).prefix(16))\""
        }
    }

    /// Scripts and styles from here only, and no text that becomes markup.
    static let policy = [
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ].joined(separator: "; ")

    private static let script = "text/javascript; charset=utf-8"

    private static let files: [String: File] = [
        "/": File("text/html; charset=utf-8", PackageResources.index_html),
        "/page/style.css": File("text/css; charset=utf-8", PackageResources.style_css),
        "/page/icon.svg": File("image/svg+xml", PackageResources.icon_svg),
        "/page/main.js": File(script, PackageResources.main_js),
        "/page/api.js": File(script, PackageResources.api_js),
        "/page/dom.js": File(script, PackageResources.dom_js),
        "/page/plot.js": File(script, PackageResources.plot_js),
        "/page/overview.js": File(script, PackageResources.overview_js),
        "/page/gateways.js": File(script, PackageResources.gateways_js),
        "/page/editor.js": File(script, PackageResources.editor_js),
        "/page/fields.js": File(script, PackageResources.fields_js),
        "/page/queue.js": File(script, PackageResources.queue_js),
        "/page/settings.js": File(script, PackageResources.settings_js),
        "/page/access.js": File(script, PackageResources.access_js),
    ]

    static func response(_ path: Substring, _ request: Request) -> Response? {
        guard let file = files[String(path)] else { return nil }
        let fields: HTTPFields = [
            .contentType: file.type, .eTag: file.etag, .cacheControl: "no-cache", .contentSecurityPolicy: policy,
        ]
        if request.headers[.ifNoneMatch] == file.etag {
            return Response(status: .notModified, headers: fields)
        }
        return Response(status: .ok, headers: fields, body: ResponseBody(byteBuffer: ByteBuffer(bytes: file.bytes)))
    }
}
