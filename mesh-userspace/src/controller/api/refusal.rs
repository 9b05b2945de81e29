//! Answers that are no success, as clients of Kubernetes understand them: a `Status` object whose message says what, why and
//! the next step.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a question is not answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// The API server did not say who asks.
    Nobody,
    /// Whoever asks may not know this.
    Forbidden(String),
    /// Whether whoever asks may know this could not be found out.
    NotNow(String),
    /// The question is not understood.
    Invalid(String),
    /// There is nothing of this name.
    NotFound(String),
    /// This controller has too much to do.
    Busy(String),
}

impl Refusal {
    fn parts(&self) -> (StatusCode, &'static str, &str) {
        match self {
            Self::Nobody => (
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "the request does not say who asks; questions are put to the Kubernetes API server, which adds that",
            ),
            Self::Forbidden(why) => (StatusCode::FORBIDDEN, "Forbidden", why),
            Self::NotNow(why) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", why),
            Self::Invalid(why) => (StatusCode::BAD_REQUEST, "BadRequest", why),
            Self::NotFound(why) => (StatusCode::NOT_FOUND, "NotFound", why),
            Self::Busy(why) => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", why),
        }
    }

    /// The word by which refusals are counted.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Forbidden(_) => "forbidden",
            Self::NotNow(_) => "not-now",
            Self::Invalid(_) => "invalid",
            Self::NotFound(_) => "not-found",
            Self::Busy(_) => "busy",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason, message) = self.parts();
        let body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": status.as_u16(),
        });
        (status, Json(body)).into_response()
    }
}
