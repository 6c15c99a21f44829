//! What the door answers: JSON, and errors that say what is wrong, what is expected and what next.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A request that is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Why, in HTTP's words.
    pub(super) status: StatusCode,
    /// Why, for people.
    pub(super) error: String,
    /// When to come again, s.
    pub(super) retry_after_s: Option<u32>,
}

impl Refusal {
    /// With this status, for these reasons.
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refusal {
            status,
            error: error.into(),
            retry_after_s: None,
        }
    }

    /// The request cannot be understood.
    pub(super) fn bad(error: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    /// What is asked for is not there.
    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, error)
    }

    /// It cannot be answered now; perhaps after `seconds`.
    pub(super) fn later(status: StatusCode, error: impl Into<String>, seconds: u32) -> Self {
        Refusal {
            retry_after_s: Some(seconds),
            ..Refusal::new(status, error)
        }
    }

    /// The log could not be read or written.
    pub(super) fn failed(attempt: &str, error: &dyn std::fmt::Display) -> Self {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{attempt}: {error}; see what the process says, and GET /readyz"),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error });
        let mut response = json(self.status, body.to_string());
        if let Some(seconds) = self.retry_after_s {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"homeostat\""),
            );
        }
        response
    }
}

/// One JSON value.
pub(super) fn json(status: StatusCode, text: impl Into<Body>) -> Response {
    typed(status, "application/json", text)
}

/// JSON lines.
pub(super) fn lines(body: impl Into<Body>) -> Response {
    typed(StatusCode::OK, NDJSON, body)
}

/// A body of a type.
pub(super) fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.into()).into_response()
}

/// The type of JSON lines.
pub(super) const NDJSON: &str = "application/x-ndjson";
