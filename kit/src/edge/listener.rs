//! Serves gRPC and HTTP on one port. A connection that begins with an HTTP/2 preface speaks HTTP/2, any other HTTP/1.

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

/// The time that calls in flight may take to finish when the service stops. Without this limit, an idle client could
/// block the stop for ever (hyper #4170).
const DRAIN: Duration = Duration::from_millis(500);

/// The interval of HTTP/2 keepalive pings, and the time after which a connection without an answer is closed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The timeout for the headers of an HTTP/1 request, and for a TLS handshake.
const HEADERS: Duration = Duration::from_secs(10);

/// The timeout for the first byte of a connection.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// The largest number of open connections. Further ones wait to be accepted.
const CONNECTIONS: usize = 10_000;

/// The largest request, in bytes. Every valid request is far smaller.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest time that calls wait at the start until the store is checked against the cluster. If the cluster is up,
/// that takes less than a second.
const HOLD: Duration = Duration::from_secs(3);

/// The settings of the listener, besides its address.
#[derive(Args, Clone, Debug, Default)]
pub struct ListenArgs {
    /// A second address that serves health and metrics over plain HTTP, for probes that have no certificate
    #[arg(long, env, value_name = "ADDRESS:PORT")]
    pub ops_listen: Option<SocketAddr>,

    /// TLS
    #[command(flatten)]
    pub tls: TlsArgs,
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
    http.merge(ops(health, metrics)).fallback(async move |request: Request| {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            deadline::keep(deadline::grpc_timeout(request.headers()), service, grpc.oneshot(request)).await
        } else {
            CallError::NoRoute.into_response()
        }
    })
}

/// Waits until the store is checked against the cluster, before the first call is answered; callers may connect
/// meanwhile. If an older copy of the store took calls, its new events would contradict those that the newer copy has
/// published. If the cluster is away, the wait ends after some seconds.
pub(crate) async fn wait_for_cluster(mut agreed: watch::Receiver<bool>, stop: &Stop) {
    tokio::select! {
        () = stop.requested() => {}
        closed = async { agreed.wait_for(|agreed| *agreed).await.is_err() } => {
            if closed {
                stop.requested().await; // the relay has refused the store, and the service is about to stop
            }
        }
        () = tokio::time::sleep(HOLD) => tracing::warn!("answering calls although the cluster is not reached yet"),
    }
}

/// Serves the routes until a stop is requested. Then it accepts no more calls and finishes those in flight.
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
        tracing::debug!(open = connections.len(), "cut off the connections that were still open");
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
                let _ = stream.set_nodelay(true); // answers are small, and callers wait for them
                return stream;
            }
            Err(error) => {
                // Most likely the process is out of file descriptors, until some connections close.
                tracing::warn!(error = %error, "cannot accept connections for the moment");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
