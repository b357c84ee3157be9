//! One port for gRPC and HTTP/1: what begins with an HTTP/2 preface is one, anything else the other.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request, http::header, response::IntoResponse as _};
use clap::Args;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::{
    edge::{
        call_error::CallError,
        deadline,
        health::Health,
        metrics::Metrics,
        tls::{Tls, TlsArgs},
    },
    runtime::{failure::Failure, stop::Stop},
};

/// How long calls under way may take to finish when the service stops. An idle client could otherwise hold
/// it for ever (hyper #4170).
const DRAIN: Duration = Duration::from_millis(500);

/// A connection on which nothing answers for this long is closed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How long an HTTP/1 client may take to send its headers.
const HEADERS: Duration = Duration::from_secs(10);

/// How long a caller may take to send anything at all.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// How many connections may be open. Further ones wait to be accepted.
const CONNECTIONS: usize = 10_000;

/// How large a request may be, in bytes: no valid one comes near it.
pub const MAX_REQUEST: usize = 64 * 1024;

/// How long calls wait at the start for the cluster's word on the store, which comes within a second where it is up.
const HOLD: Duration = Duration::from_secs(3);

/// How callers reach the service, besides its address.
#[derive(Args, Clone, Debug, Default)]
pub struct ListenArgs {
    /// Where to answer about health and metrics besides: plain HTTP, for probes that have no certificate
    #[arg(long, env, value_name = "ADDRESS:PORT")]
    pub ops_listen: Option<SocketAddr>,

    /// TLS
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Takes the port that a flag gives, or says which one cannot be had.
pub async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::configuration(format!("cannot listen on {address}: {error}; free the port, or give {flag} another"))
    })
}

/// Health and metrics, as [`routes`] has them too.
pub(crate) fn ops(health: &Health, metrics: &Metrics) -> Router {
    health.http().merge(metrics.http())
}

/// All routes of a service: its gRPC services with reflection and health, and HTTP beside them. A gRPC call is told
/// by its content type, and what is neither it nor an HTTP route is a 404.
///
/// # Panics
/// If the descriptors are not what the build made.
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
    http.merge(ops(health, metrics)).fallback(async move |request: Request| {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            deadline::keep(deadline::grpc_timeout(request.headers()), service, grpc.oneshot(request)).await
        } else {
            CallError::NoRoute.into_response()
        }
    })
}

/// Holds back the first calls, connected as they may be, until store and cluster are known to belong together: what an
/// older copy of the store took could not be brought together with what the newer one has published. A cluster that is
/// away is not waited for beyond some seconds.
pub(crate) async fn wait_for_cluster(mut agreed: watch::Receiver<bool>, stop: &Stop) {
    tokio::select! {
        () = stop.requested() => {}
        closed = async { agreed.wait_for(|agreed| *agreed).await.is_err() } => {
            if closed {
                stop.requested().await; // the relay has refused, and the service is about to end
            }
        }
        () = tokio::time::sleep(HOLD) => tracing::warn!("taking calls though the cluster has not been reached yet"),
    }
}

/// Serves the routes until asked to stop, then accepts no more calls and finishes the ones at hand.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    tls: Option<Arc<Tls>>,
    stop: Stop,
) -> Result<(), Infallible> {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    if let Some(tls) = tls.clone() {
        let stop = stop.clone();
        connections.spawn(async move { tls.watch(&stop).await });
    }
    loop {
        let stream = tokio::select! {
            () = stop.requested() => break,
            accepted = accept(&listener), if connections.len() < CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (routes, watcher) = (routes.clone(), graceful.watcher());
        match tls.clone() {
            None => connections.spawn(async move {
                match tokio::time::timeout(FIRST_BYTE, stream.readable()).await {
                    Ok(_) => answer(stream, routes, watcher).await,
                    Err(_elapsed) => tracing::debug!("a caller sent nothing"),
                }
            }),
            Some(tls) => connections.spawn(async move {
                match tokio::time::timeout(HEADERS, tls.accept(stream)).await {
                    Ok(Ok(stream)) => answer(stream, routes, watcher).await,
                    Ok(Err(error)) => tracing::debug!(error = %error, "a caller was refused by TLS"),
                    Err(_elapsed) => tracing::debug!("a caller did not finish the TLS handshake in time"),
                }
            }),
        };
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::debug!(open = connections.len(), "some connections were still open and are cut off");
    }
    connections.shutdown().await;
    Ok(())
}

/// Answers the calls of one connection.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router, watcher: Watcher) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(1024)
        .max_header_list_size(16 * 1024);
    let service = TowerToHyperService::new(routes);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = %error, "a connection broke");
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true); // answers are small and waited for
                return stream;
            }
            Err(error) => {
                // Out of file descriptors, most likely: it passes when connections close.
                tracing::warn!(error = %error, "cannot accept connections just now");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
