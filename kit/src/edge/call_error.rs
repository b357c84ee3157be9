//! The errors that a caller receives. They are the same over gRPC (`google.rpc.Status`) and HTTP (RFC 9457).

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    aggregate::{ExecuteError, LoadError},
    event::StreamId,
    runtime::failure::chain,
    store::{CommitError, ReadError},
};

/// The delay after which a caller may retry a call that was refused for overload, a failed store or a stop.
const RETRY: Duration = Duration::from_secs(1);

/// The reason why a call failed, in the caller's terms. Internal details are only in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request is invalid. Lists every invalid field.
    #[error("the request is invalid: {}", listed(.0))]
    Invalid(Vec<Violation>),
    /// The requested object does not exist.
    #[error("there is no {what} {id}")]
    NotFound {
        /// The word for the object, such as `order`.
        what: &'static str,
        /// The id of the object.
        id: String,
    },
    /// The request id was used before, with other values of some fields.
    #[error("request_id was used before, with other values of: {}", differing.join(", "))]
    RequestIdReused {
        /// The fields that differ.
        differing: Vec<&'static str>,
    },
    /// The state of the object does not allow the call.
    #[error("{message}")]
    Precondition {
        /// The reason, as a constant for programs.
        reason: &'static str,
        /// The reason, as a sentence for a person.
        message: Cow<'static, str>,
    },
    /// The body is larger than any valid one.
    #[error("the body must be at most {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body does not have the required content type.
    #[error("the content type must be {expected}")]
    MediaType {
        /// The required content type.
        expected: &'static str,
    },
    /// gRPC came over HTTP/1.1, most likely through a proxy without HTTP/2. Its status could not be sent back.
    #[error("gRPC needs HTTP/2 from end to end; nothing was done")]
    HttpVersion,
    /// The request names no host, more than one, or an invalid one.
    #[error("the request must name one host")]
    InvalidHost,
    /// The request is for another host.
    #[error("{host} is not served here; nothing was done")]
    Misdirected {
        /// The host that the request names.
        host: String,
    },
    /// A browser has sent the request for a page of another site.
    #[error("a page of another site must not change anything; nothing was done")]
    CrossSite,
    /// Nothing is served under this path and method.
    #[error("there is nothing at this path")]
    NoRoute,
    /// The path exists, but not with this method.
    #[error("this method is not allowed here")]
    Method,
    /// Too many calls are in flight. Nothing was done.
    #[error("too many calls at once; nothing was done, try again")]
    Overloaded,
    /// The store cannot write. The call may or may not have had its effect.
    #[error("the service cannot write at the moment; only a repeat with the same request_id is safe")]
    Unavailable,
    /// The store was not compared with the cluster yet. Nothing was done.
    #[error("the service has not reached its Kafka cluster yet; nothing was done, try again")]
    NotConnected,
    /// The store is refused until an operator has settled why.
    #[error("the service refuses to continue: {reason}")]
    Refused {
        /// The reason of the refusal.
        reason: String,
    },
    /// The service is stopping. Nothing was done.
    #[error("the service is stopping; call again")]
    Stopping,
    /// The caller's deadline has passed. The call may or may not have had its effect.
    #[error("the deadline has passed; only a repeat with the same request_id is safe")]
    DeadlineExceeded,
    /// An internal error of the service.
    #[error("internal error")]
    Internal,
}

/// An invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The path of the field, such as `amount` or `metadata["colour"]`.
    pub field: String,
    /// The rule for the field, phrased to follow its path: `must be …`.
    #[serde(rename = "detail")]
    pub description: String,
    /// True if `field` is the name that the caller sent. It is never renamed.
    #[serde(skip)]
    is_as_sent: bool,
}

impl Violation {
    /// Creates the violation of the rule `description` by `field`, a field of a message. Over HTTP, the field gets its
    /// name in JSON.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into(), is_as_sent: false }
    }

    /// Creates the violation of a rule by a field that may be unknown. It is named as the caller sent it.
    pub fn as_sent(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { is_as_sent: true, ..Self::new(field, description) }
    }
}

/// Lists the first three violations. The details of the status have all of them. A gRPC message is sent in a header,
/// and clients limit the size of headers.
fn listed(violations: &[Violation]) -> String {
    const IN_WORDS: usize = 3;
    let mut listed: Vec<_> =
        violations.iter().take(IN_WORDS).map(|v| format!("{} {}", v.field, v.description)).collect();
    if violations.len() > IN_WORDS {
        listed.push(format!("and {} more", violations.len() - IN_WORDS));
    }
    listed.join("; ")
}

impl Violation {
    /// Parses the id of a stream in a field. A caller may write it in upper case; records and answers never do.
    pub fn stream_id(field: &str, text: &str) -> Result<StreamId, Self> {
        let id = StreamId::parse(&text.to_ascii_lowercase());
        id.ok_or_else(|| Self::new(field, "must be a UUID of 36 characters"))
    }

    /// Names the field as JSON does: `order_id` is `orderId`. Quoted keys, as in `metadata["my_key"]`, stay.
    pub fn in_json(self) -> Self {
        if self.is_as_sent {
            return self;
        }
        let (name, rest) = self.field.split_at(self.field.find('[').unwrap_or(self.field.len()));
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        let name = words.fold(first, |name, word| {
            let (initial, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            name + &initial.to_uppercase() + rest
        });
        Self { field: name + rest, ..self }
    }

    /// Checks the text in a field: 1 to `longest` characters, none of them a control character.
    pub fn text(field: &str, text: String, longest: usize) -> Result<String, Self> {
        if (1..=longest).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            return Ok(text);
        }
        Err(Self::new(field, format!("must be 1 to {longest} characters, none of them a control character")))
    }
}

impl From<Violation> for CallError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }
}

impl CallError {
    /// Names the fields as JSON does. An HTTP answer does so by itself.
    pub fn in_json(self) -> Self {
        let Self::Invalid(violations) = self else { return self };
        Self::Invalid(violations.into_iter().map(Violation::in_json).collect())
    }

    /// Converts the error of a command that was not executed. `rejected` converts a rejection of the domain.
    pub fn of<R>(error: ExecuteError<R>, rejected: impl FnOnce(R) -> Self) -> Self {
        match error {
            ExecuteError::Rejected(rejection) => rejected(rejection),
            ExecuteError::Load(error) => error.into(),
            ExecuteError::Commit(error) => error.into(),
        }
    }
}

impl From<ReadError> for CallError {
    fn from(error: ReadError) -> Self {
        tracing::error!(error = chain(&error), "a call failed");
        Self::Unavailable
    }
}

impl From<LoadError> for CallError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Read(error) => error.into(),
            LoadError::Payload { .. } => {
                tracing::error!(error = chain(&error), "a call failed");
                Self::Internal
            }
        }
    }
}

impl From<CommitError> for CallError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Overloaded => Self::Overloaded,
            // The store has logged the failure, once for all calls that it affects.
            CommitError::Unavailable(_) | CommitError::Closed => Self::Unavailable,
            CommitError::Conflict { .. } | CommitError::OffsetMoved { .. } => {
                tracing::error!(error = chain(&error), "a call failed");
                Self::Internal
            }
        }
    }
}

impl CallError {
    fn code(&self) -> (Code, StatusCode, &'static str) {
        match self {
            Self::Invalid(_) => (Code::InvalidArgument, StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Self::NotFound { .. } => (Code::NotFound, StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::RequestIdReused { .. } => {
                (Code::AlreadyExists, StatusCode::UNPROCESSABLE_ENTITY, "REQUEST_ID_REUSED")
            }
            Self::Precondition { reason, .. } => (Code::FailedPrecondition, StatusCode::CONFLICT, reason),
            Self::TooLarge { .. } => (Code::InvalidArgument, StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            Self::MediaType { .. } => {
                (Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE")
            }
            Self::HttpVersion => (Code::FailedPrecondition, StatusCode::HTTP_VERSION_NOT_SUPPORTED, "HTTP_2_REQUIRED"),
            Self::InvalidHost => (Code::InvalidArgument, StatusCode::BAD_REQUEST, "INVALID_HOST"),
            Self::Misdirected { .. } => (Code::FailedPrecondition, StatusCode::MISDIRECTED_REQUEST, "MISDIRECTED"),
            Self::CrossSite => (Code::PermissionDenied, StatusCode::FORBIDDEN, "CROSS_SITE"),
            Self::NoRoute => (Code::Unimplemented, StatusCode::NOT_FOUND, "NO_ROUTE"),
            Self::Method => (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::Overloaded => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "OVERLOADED"),
            Self::Unavailable => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE"),
            Self::NotConnected => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "NOT_CONNECTED"),
            Self::Refused { .. } => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "STORE_REFUSED"),
            Self::Stopping => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "STOPPING"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
            Self::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        }
    }

    fn is_worth_a_retry(&self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::Unavailable | Self::NotConnected | Self::Refused { .. } | Self::Stopping
        )
    }

    /// Converts the error to a gRPC status. `domain` is the service's name, for `ErrorInfo`.
    pub fn into_status(self, domain: &'static str) -> Status {
        let (code, _, reason) = self.code();
        let mut details = ErrorDetails::with_error_info(reason, domain, []);
        if self.is_worth_a_retry() {
            details.set_retry_info(Some(RETRY));
        }
        let message = self.to_string();
        if let Self::Invalid(violations) = self {
            let violations = violations.into_iter().map(|v| FieldViolation::new(v.field, v.description));
            details.set_bad_request(violations.collect::<Vec<_>>());
        }
        Status::with_error_details(code, message, details)
    }
}

/// The body of an HTTP error, `application/problem+json`.
#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The same constant as the reason over gRPC.
    reason: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Violation>,
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let error = self.in_json();
        let (_, status, reason) = error.code();
        let retry = error.is_worth_a_retry();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: error.to_string(),
            reason,
            errors: if let Self::Invalid(violations) = error { violations } else { Vec::new() },
        };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY.as_secs().into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_in_json() {
        for (field, named) in [
            ("order_id", "orderId"),
            ("currency_code", "currencyCode"),
            ("amount", "amount"),
            ("metadata[\"a_b\"]", "metadata[\"a_b\"]"),
            ("metadata[\"my_key\"]", "metadata[\"my_key\"]"),
            ("some_map[\"my_key\"]", "someMap[\"my_key\"]"),
            ("charged.gateway_reference", "charged.gatewayReference"),
            ("Idempotency-Key", "Idempotency-Key"),
            ("_", ""),
        ] {
            assert_eq!(Violation::new(field, "").in_json().field, named);
            assert_eq!(Violation::as_sent(field, "").in_json().field, field, "as the caller named it");
        }
        let error = CallError::from(Violation::new("order_id", "must be short")).in_json();
        assert_eq!(error.to_string(), "the request is invalid: orderId must be short", "in the message, too");
    }
}
