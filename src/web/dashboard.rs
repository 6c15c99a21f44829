//! `GET /`: one page for people, complete in itself.
//!
//! Its policy lets it run its own script and style, by their hashes, and talk to the door; nothing
//! else, so that no name of a node could ever become code.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use super::answer::typed;

/// The page and its policy.
pub(super) struct Page {
    policy: HeaderValue,
}

impl Page {
    /// The page, with the hashes of what it runs.
    pub(super) fn new() -> Self {
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; \
             connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            hash_of("script"),
            hash_of("style")
        );
        Page {
            policy: HeaderValue::from_str(&policy).expect("base64 and plain words"),
        }
    }

    /// Answers the page.
    pub(super) fn show(&self) -> Response {
        let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", HTML);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        );
        response
    }
}

/// Hash of what stands in the page's only element of this name.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = HTML
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close));
    let (inside, _) = inside.expect("the page has one of each");
    base64(&Sha256::digest(inside))
}

fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 3];
        bits[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
        for i in 0..4 {
            let digit = (bits >> (18 - 6 * i)) & 63;
            out.push(match i <= group.len() {
                true => char::from(ALPHABET[digit as usize]),
                false => '=',
            });
        }
    }
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const HTML: &str = include_str!("dashboard.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_writes_no_html() {
        for word in [
            "http://",
            "https://",
            "src=",
            "innerHTML",
            "onclick=",
            "style=\"",
        ] {
            assert!(!HTML.contains(word), "{word}");
        }
        for element in ["<script>", "<style>"] {
            assert_eq!(HTML.matches(element).count(), 1, "{element}");
        }
        let policy = Page::new().policy;
        assert!(policy.to_str().unwrap().contains("script-src 'sha256-"));
    }
}
