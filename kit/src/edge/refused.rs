//! The answers of a service whose store is refused: health and metrics say so, and every call is refused with the reason.

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use tonic::service::Routes;
use tonic_health::{ServingStatus, pb::health_server::HealthServer, server::HealthService};
use tower::ServiceExt as _;

use super::{CallError, guard::is_grpc, metrics};

/// Returns the routes of a refused service. `grpc_service` is the full name of its gRPC service, `service` its own name.
pub(crate) async fn routes(reason: String, grpc_service: &'static str, service: &'static str) -> Router {
    let reporter = tonic_health::server::HealthReporter::new();
    for name in ["", grpc_service] {
        reporter.set_service_status(name, ServingStatus::NotServing).await;
    }
    let health = HealthServer::new(HealthService::from_health_reporter(reporter));
    let health = Routes::new(health).into_axum_router();
    let not_ready = (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"));
    let metrics = ([(header::CONTENT_TYPE, metrics::OPEN_METRICS)], metrics::of_a_refused_store());
    let refused = CallError::Refused { reason };
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async move || not_ready))
        .route("/metrics", get(async move || metrics))
        .fallback(async move |request: Request| {
            if !is_grpc(request.headers()) {
                return refused.into_response();
            }
            if request.uri().path().starts_with("/grpc.health.v1.Health/") {
                return health.oneshot(request).await.into_response();
            }
            refused.into_status(service).into_http()
        })
}
