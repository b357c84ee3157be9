//! JSON bodies of requests, with the errors of every other bad call.

use axum::{
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    call_error::{CallError, Violation},
    listener::MAX_REQUEST,
};

/// A JSON body, of a request or an answer. A request with another body is answered with a [`CallError`].
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = CallError;

    async fn from_request(request: Request, state: &S) -> Result<Self, CallError> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(rejected(&rejection)),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn rejected(rejection: &JsonRejection) -> CallError {
    match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => CallError::MediaType { expected: "application/json" },
        StatusCode::PAYLOAD_TOO_LARGE => CallError::TooLarge { limit: MAX_REQUEST },
        _ => Violation::new("body", rejection.body_text()).into(),
    }
}
