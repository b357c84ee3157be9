//! Limits for bodies: a deadline for the body of a request, and a memory budget for unsent answers.
//!
//! Without them, a slow sender could hold calls open, and a caller that does not read could fill the memory.

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
    http::Request,
    response::{IntoResponse as _, Response},
};
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, Sleep},
};

use super::{call_error::CallError, connections::CallInFlight};

/// The time that the body of a request may take to arrive, or its next part if the call is a stream of requests.
const ARRIVAL: Duration = Duration::from_secs(10);

/// The time that a caller may take to read a part of an answer.
const READING: Duration = Duration::from_secs(30);

/// The part of an answer that is handed to the connection at once. The rest stays here, where it is counted.
const CHUNK: usize = 16 * 1024;

/// The budget for answers that are not sent yet, in bytes. It belongs to all connections of the process together.
const BUDGET: usize = 48 * 1024 * 1024;

/// Answers up to this size are not counted: there are at most as many of them as calls in flight.
const SMALL: usize = 4 * CHUNK;

static UNSENT: std::sync::LazyLock<Arc<Semaphore>> = std::sync::LazyLock::new(|| Arc::new(Semaphore::new(BUDGET)));

/// The part of a request that has to arrive in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// The whole body.
    Whole,
    /// Each part of it: the call is a stream of requests.
    EachPart,
}

impl Arrival {
    /// Returns what has to arrive for a call. Of all calls, only gRPC reflection is a stream of requests.
    fn of(path: &str) -> Self {
        if path.starts_with("/grpc.reflection.") { Self::EachPart } else { Self::Whole }
    }
}

/// Limits the time that the body of a request may take to arrive.
pub(super) fn limited<B>(request: Request<B>) -> Request<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let arrival = Arrival::of(request.uri().path());
    request.map(|body| limited_body(body, arrival))
}

fn limited_body<B>(body: B, arrival: Arrival) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Body::empty();
    }
    Body::new(Limited { body, arrival, deadline: Box::pin(tokio::time::sleep_until(Instant::now() + ARRIVAL)) })
}

/// Sends an answer in chunks, as fast as its caller reads. A large answer is replaced with an error if the budget is
/// spent.
pub(super) fn paced(answer: Response, call: CallInFlight) -> Response {
    let size = answer.body().size_hint().exact().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
    match share(size) {
        Err(_spent) => CallError::Overloaded.into_response(),
        Ok(budget) => answer.map(|body| Body::new(Paced { body, rest: Bytes::new(), budget, call })),
    }
}

/// Reserves `bytes` of the budget. Small answers need no reservation and get `None`.
fn share(bytes: usize) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
    if bytes <= SMALL {
        return Ok(None);
    }
    Arc::clone(&UNSENT).try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).map(Some)
}

struct Limited<B> {
    body: B,
    arrival: Arrival,
    deadline: Pin<Box<Sleep>>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Limited<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if self.arrival == Arrival::EachPart {
                self.deadline.as_mut().reset(Instant::now() + ARRIVAL);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err("the body of the request did not arrive in time".into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

struct Paced {
    body: Body,
    /// The part of the current frame that was not handed on.
    rest: Bytes,
    /// The share of the budget that the rest takes.
    budget: Option<OwnedSemaphorePermit>,
    call: CallInFlight,
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let paced = &mut *self;
        if paced.rest.is_empty() {
            let frame = match Pin::new(&mut paced.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
                Ok(data) => paced.rest = data,
            }
            if paced.budget.is_none() {
                match share(paced.rest.len()) {
                    Ok(share) => paced.budget = share,
                    Err(_spent) => {
                        tracing::debug!("cut off an answer: too much of others is not read");
                        paced.rest = Bytes::new();
                        return Poll::Ready(Some(Err("too many answers are not read".into())));
                    }
                }
            }
        }
        let chunk = paced.rest.split_to(CHUNK.min(paced.rest.len()));
        if paced.rest.is_empty() {
            paced.call.has_read();
        } else if paced.budget.is_some() {
            paced.call.reads_by(Instant::now() + READING);
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// A body that sends a byte every second, for ever.
    fn trickle() -> Body {
        Body::from_stream(stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, BoxError>(Bytes::from_static(b"x")), ()))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_not_waited_for_for_ever() {
        let read = axum::body::to_bytes(limited_body(trickle(), Arrival::Whole), usize::MAX).await;
        assert!(read.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_requests_lasts_as_long_as_its_parts_arrive() {
        let body = limited_body(trickle(), Arrival::EachPart);
        let read = axum::body::to_bytes(body, 100).await;
        assert!(read.expect_err("it ends at the limit of its size").to_string().contains("length limit"));
        assert_eq!(Arrival::of("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), Arrival::EachPart);
        assert_eq!(Arrival::of("/orders.v1.OrderService/CreateOrder"), Arrival::Whole);
    }
}
