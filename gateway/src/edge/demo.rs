//! The demo page's files, part of the program so that it needs nothing beside itself.
//!
//! **Runs on: shard.**

/// One file of the demo.
#[derive(Clone, Copy)]
pub(super) struct File {
    media_type: &'static str,
    /// Its content.
    pub text: &'static str,
}

/// Nothing is loaded from elsewhere, and nobody may put the page into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

impl File {
    /// The fields of an answer with this file.
    pub fn headers(&self) -> [(&'static str, &'static str); 4] {
        [
            ("Content-Type", self.media_type),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-cache"),
        ]
    }
}

/// The file at `path`.
pub(super) fn file(path: &str) -> Option<File> {
    let (media_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("../../demo/index.html")),
        "/demo/chat.js" => ("text/javascript; charset=utf-8", include_str!("../../demo/chat.js")),
        "/demo/chat.css" => ("text/css; charset=utf-8", include_str!("../../demo/chat.css")),
        "/demo/centrifuge.js" => {
            ("text/javascript; charset=utf-8", include_str!("../../demo/vendor/centrifuge.js"))
        }
        _ => return None,
    };
    Some(File { media_type, text })
}
