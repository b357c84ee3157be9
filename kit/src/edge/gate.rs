//! Holds calls back until they are allowed. Health and metrics are answered at once.

use std::time::Duration;

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse as _,
};
use tokio::sync::watch;

use super::{CallError, guard::is_grpc};

/// The longest time that a call waits. A store that is known allows calls in less than a second if the cluster answers,
/// and after some four seconds if it is away.
const HOLD: Duration = Duration::from_secs(8);

/// Holds the calls of the routes back until `allowed` is true. A call that waits too long is refused.
pub(crate) fn hold(routes: Router, allowed: watch::Receiver<bool>, service: &'static str) -> Router {
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        let allowed = allowed.clone();
        async move {
            if is_of_an_operator(request.uri().path()) {
                return next.run(request).await;
            }
            match wait(allowed).await {
                Ok(()) => next.run(request).await,
                Err(error) if is_grpc(request.headers()) => error.into_status(service).into_http(),
                Err(error) => error.into_response(),
            }
        }
    }))
}

async fn wait(mut allowed: watch::Receiver<bool>) -> Result<(), CallError> {
    if *allowed.borrow() {
        return Ok(());
    }
    match tokio::time::timeout(HOLD, allowed.wait_for(|allowed| *allowed)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_closed)) => Err(CallError::Stopping), // the relay has refused the store
        Err(_elapsed) => Err(CallError::NotConnected),
    }
}

fn is_of_an_operator(path: &str) -> bool {
    ["/livez", "/readyz", "/metrics"].contains(&path)
        || path.starts_with("/grpc.health.v1.")
        || path.starts_with("/grpc.reflection.")
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(path: &str, allowed: &watch::Receiver<bool>) -> StatusCode {
        let routes = Router::new().route("/livez", get(async || "alive")).route("/orders", get(async || "orders"));
        let request = Request::builder().uri(path).body(Body::empty()).expect("valid");
        hold(routes, allowed.clone(), "s").oneshot(request).await.expect("infallible").status()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_until_calls_are_allowed_and_health_does_not() {
        let (allow, allowed) = watch::channel(false);
        assert_eq!(status("/livez", &allowed).await, StatusCode::OK);
        assert_eq!(status("/orders", &allowed).await, StatusCode::SERVICE_UNAVAILABLE);
        let (answer, ()) = tokio::join!(status("/orders", &allowed), async {
            tokio::time::sleep(HOLD / 2).await;
            allow.send_replace(true);
        });
        assert_eq!(answer, StatusCode::OK);
        assert_eq!(status("/orders", &allowed).await, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_call_is_refused_once_the_store_is_refused() {
        let (allow, allowed) = watch::channel(false);
        drop(allow);
        assert_eq!(status("/orders", &allowed).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
