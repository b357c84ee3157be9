//! The time that a caller gives a gRPC call, kept until the answer has ended: a stream is one call, too.

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

/// Makes the call, and ends it when the time is over that the caller gave, if any.
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
            // It fails only on a message that is no header, and this one is.
            let trailers = over.add_header(&mut trailers).is_ok().then_some(trailers);
            Body::new(Until { body, deadline: Box::pin(tokio::time::sleep_until(deadline)), trailers })
        }),
    }
}

/// A body that ends at a deadline, if it has not ended before, with the status that says so.
struct Until {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    /// Sent once.
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

/// The time that a caller gives: up to 8 digits and a unit, as gRPC over HTTP/2 has it.
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
