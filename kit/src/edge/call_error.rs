//! What a caller is told when a call fails: the same over gRPC (`google.rpc.Status`) and HTTP (RFC 9457).

use std::time::Duration;

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
    runtime::failure::chain,
    store::{CommitError, ReadError},
};

/// When a call that was refused for want of room or disk may be made again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a call failed, in the caller's terms. What went wrong inside stays in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request is wrong: every bad field, and what is wrong with it.
    #[error("the request is invalid: {}", listed(.0))]
    Invalid(Vec<Violation>),
    /// There is no such thing.
    #[error("there is no {what} {id}")]
    NotFound {
        /// What was asked for, such as `order`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The request id was used before with other fields.
    #[error("request_id was used before, with other values of: {}", differing.join(", "))]
    RequestIdReused {
        /// The fields that differ.
        differing: Vec<&'static str>,
    },
    /// Things are not as the call needs them to be.
    #[error("{message}")]
    Precondition {
        /// The reason, as a word for programs.
        reason: &'static str,
        /// The same for a person.
        message: &'static str,
    },
    /// The body is larger than any valid one.
    #[error("the body must be at most {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body is not of the type that is asked for.
    #[error("the content type must be {expected}")]
    MediaType {
        /// The type that is asked for.
        expected: &'static str,
    },
    /// Nothing is served under this path and method.
    #[error("there is nothing at this path")]
    NoRoute,
    /// The path is served, the method isn't.
    #[error("this method is not allowed here")]
    Method,
    /// Too much is under way; nothing was done.
    #[error("too many calls at once; nothing was done, try again")]
    Overloaded,
    /// The store cannot write. It may or may not have happened.
    #[error("the service cannot write just now; only a repeat with the same request_id is safe")]
    Unavailable,
    /// The service stops. Nothing was done.
    #[error("the service is stopping; call again")]
    Stopping,
    /// The time that the caller gave is over. It may or may not have happened.
    #[error("the deadline is over; only a repeat with the same request_id is safe")]
    DeadlineExceeded,
    /// A fault of ours.
    #[error("internal error")]
    Internal,
}

/// One bad field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The field's path, such as `amount` or `metadata["colour"]`.
    pub field: String,
    /// What it must be.
    #[serde(rename = "detail")]
    pub description: String,
}

impl Violation {
    /// `field` must be as `description` says.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// The first few in words; all of them are in the details. A gRPC message travels in a header, which clients limit.
fn listed(violations: &[Violation]) -> String {
    const IN_WORDS: usize = 3;
    let mut listed: Vec<_> =
        violations.iter().take(IN_WORDS).map(|v| format!("{} {}", v.field, v.description)).collect();
    if violations.len() > IN_WORDS {
        listed.push(format!("and {} more", violations.len() - IN_WORDS));
    }
    listed.join("; ")
}

impl CallError {
    /// The error of a command that was not executed. `rejected` says what a refusal of the domain means to the caller.
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
            // The store has logged it, once for all calls that it fails.
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
            Self::NoRoute => (Code::Unimplemented, StatusCode::NOT_FOUND, "NO_ROUTE"),
            Self::Method => (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::Overloaded => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "OVERLOADED"),
            Self::Unavailable => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE"),
            Self::Stopping => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "STOPPING"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
            Self::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        }
    }

    fn is_worth_a_retry(&self) -> bool {
        matches!(self, Self::Overloaded | Self::Unavailable | Self::Stopping)
    }

    /// The error over gRPC. `domain` is the service's name, for `ErrorInfo`.
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
    /// The same word as the reason over gRPC.
    reason: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Violation>,
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let (_, status, reason) = self.code();
        let retry = self.is_worth_a_retry();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.to_string(),
            reason,
            errors: if let Self::Invalid(violations) = self { violations } else { Vec::new() },
        };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY.as_secs().into());
        }
        response
    }
}
