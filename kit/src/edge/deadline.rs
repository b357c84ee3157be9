//! Enforces the deadline that a caller sets for a gRPC call, until the end of the answer. A stream is one call, too.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use crate::edge::call_error::CallError;

/// Makes the call, and ends it at the caller's deadline, if there is one.
pub(super) async fn keep(
    deadline: Option<Duration>,
    service: &'static str,
    call: impl Future<Output = Result<Response, Infallible>>,
) -> Response {
    let Some(deadline) = deadline else { return call.await.into_response() };
    let deadline = Instant::now() + deadline;
    let over = CallError::DeadlineExceeded.into_status(service);
    match tokio::time::timeout_at(deadline, call).await {
        Err(_elapsed) => over.into_http(),
        Ok(answer) => answer.into_response().map(|body| {
            let mut trailers = HeaderMap::new();
            // This fails only if the message is no valid header, and this one is valid.
            let trailers = over.add_header(&mut trailers).is_ok().then_some(trailers);
            Body::new(Until { body, deadline: Box::pin(tokio::time::sleep_until(deadline)), trailers })
        }),
    }
}

/// A body that ends at the deadline, with the status `DEADLINE_EXCEEDED`, unless it has ended before.
struct Until {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    /// The status. `None` once it was sent.
    trailers: Option<HeaderMap>,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let until = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut until.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(until.deadline.as_mut().poll(context));
        until.body = Body::empty();
        Poll::Ready(until.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Reads the header `grpc-timeout`: up to 8 digits and a unit, as gRPC over HTTP/2 defines it.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}
