//! Whose pages may ask over TCP: no page of another origin. Who may ask at all says `access.rs`.
//!
//! A browser on this machine would send a stranger's page's requests here too. Such a request names
//! its origin, or, where the stranger's name was made to mean this machine, a host that is no
//! address. Programs name an address or `localhost`, and no origin. Where a token or certificate is
//! asked for, the host's name opens nothing, and the door may be called as its owner likes.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};

use super::answer::Refusal;

/// Lets a request pass, or says why not; `any_host` where its name opens nothing.
///
/// # Errors
/// It comes from a page that is not the door's own.
pub(super) fn admit(headers: &HeaderMap, any_host: bool) -> Result<(), Refusal> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST);
    let refused = |what: &str, got: &str| {
        Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "{what} is {got:?}: expected one on this machine; ask by address, e.g. \
                 http://127.0.0.1:1618"
            ),
        )
    };
    if let Some(host) = host
        && !any_host
        && !is_local(host)
    {
        return Err(refused("the host", host));
    }
    match text(header::ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, host)| host) != host => {
            Err(refused("the origin", origin))
        }
        _ => Ok(()),
    }
}

/// An address, or a name that means this machine everywhere; with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: Option<&str>, origin: Option<&str>, passes: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        assert_eq!(
            admit(&headers, false).is_ok(),
            passes,
            "{host:?} {origin:?}"
        );
    }

    #[test]
    fn where_a_token_is_asked_for_the_door_may_have_a_name_but_no_strange_pages() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "door.example:1618".parse().unwrap());
        assert!(admit(&headers, true).is_ok());
        assert!(admit(&headers, false).is_err());
        headers.insert(header::ORIGIN, "https://door.example:1618".parse().unwrap());
        assert!(admit(&headers, true).is_ok());
        headers.insert(header::ORIGIN, "https://evil.example".parse().unwrap());
        assert!(admit(&headers, true).is_err());
    }

    #[test]
    fn programs_and_the_own_page_pass() {
        for host in [
            "127.0.0.1:1618",
            "localhost",
            "LOCALHOST:9",
            "[::1]:1618",
            "a.localhost:1",
        ] {
            check(Some(host), None, true);
            check(Some(host), Some(&format!("http://{host}")), true);
        }
        check(None, None, true);
    }

    #[test]
    fn pages_of_others_do_not() {
        check(Some("evil.example:1618"), None, false);
        check(Some("127.0.0.1.evil.example"), None, false);
        check(Some("127.0.0.1:1618"), Some("http://evil.example"), false);
        check(Some("127.0.0.1:1618"), Some("null"), false);
        check(Some("127.0.0.1:1618"), Some("http://127.0.0.1:9999"), false);
        check(None, Some("http://evil.example"), false);
    }
}
