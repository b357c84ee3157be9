//! Serves gRPC and HTTP on one port. A connection that begins with an HTTP/2 preface speaks HTTP/2, any other HTTP/1.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    response::IntoResponse as _,
};
use clap::Args;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::{
    edge::{call_error::CallError, deadline, guard::is_grpc, health::Health, metrics::Metrics, tls::TlsArgs},
    runtime::failure::Failure,
};

/// The largest request, in bytes. Every valid request is far smaller.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The settings of the listener, besides its address.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// A second address that serves health and metrics over plain HTTP, for probes that have no certificate
    #[arg(long, env, value_name = "ADDRESS:PORT")]
    pub ops_listen: Option<SocketAddr>,

    /// The time after which an idle connection is closed, in seconds; keep it above the load balancer's idle timeout
    #[arg(long, env, default_value = "75", value_name = "S", value_parser = seconds)]
    pub idle_timeout: Duration,

    /// TLS
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl Default for ListenArgs {
    fn default() -> Self {
        Self { ops_listen: None, idle_timeout: Duration::from_secs(75), tls: TlsArgs::default() }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        Ok(0) | Err(_) => Err("must be a whole number of seconds, at least 1".to_owned()),
    }
}

/// Binds the address that a flag gives. The error names the address and the flag.
pub async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::configuration(format!("cannot listen on {address}: {error}; free the port, or give {flag} another"))
    })
}

/// Returns the routes for health and metrics. [`routes`] contains them, too.
pub(crate) fn ops(health: &Health, metrics: &Metrics) -> Router {
    health.http().merge(metrics.http())
}

/// Returns all routes of a service: its gRPC services with reflection and health, and its HTTP routes. A gRPC call is
/// recognized by its content type. A request that is neither a gRPC call nor to an HTTP route is answered with 404.
///
/// # Panics
/// If the descriptors are not those that the build made.
pub(crate) fn routes(
    services: Routes,
    descriptors: &[u8],
    http: Router,
    service: &'static str,
    health: &Health,
    metrics: &Metrics,
) -> Router {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET) // for the details of errors
    };
    let built = "the descriptors were made by the build";
    let grpc = services
        .add_service(reflection().build_v1().expect(built))
        .add_service(reflection().build_v1alpha().expect(built))
        .add_service(health.grpc())
        .into_axum_router();
    let http = http.method_not_allowed_fallback(async || CallError::Method).layer(DefaultBodyLimit::max(MAX_REQUEST));
    http.merge(ops(health, metrics)).fallback(async move |request: Request| {
        if is_grpc(request.headers()) {
            deadline::keep(deadline::grpc_timeout(request.headers()), service, grpc.oneshot(request)).await
        } else {
            CallError::NoRoute.into_response()
        }
    })
}
