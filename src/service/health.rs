//! Health: whether callers are to come here. gRPC (`grpc.health.v1`) and HTTP (`/livez`, `/readyz`) say the same.
//!
//! The answer is yes as long as the store can write, and no once the service is stopping. Whether Kafka is there is
//! not asked: calls are answered without it.

use std::{
    convert::Infallible,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{failure::Failure, stop::Stop};
use crate::store::Store;

/// How long a running service may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// The subcommand `health`: asks the service that listens on an address whether it is ready. For containers, which
/// have no curl.
pub fn ask(listen: SocketAddr) -> Result<(), Failure> {
    let reachable = match listen.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())),
        ip if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, listen.port())),
        _ => listen,
    };
    let status = readyz(reachable).map_err(|error| Failure::subcommand("health", format!("{reachable}: {error}")))?;
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(Failure::subcommand("health", format!("{reachable} answers: {status}")))
}

/// The first line of the answer.
fn readyz(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream).take(1024).read_line(&mut status)?;
    Ok(status.trim_end().to_owned())
}

/// The health of one service.
pub struct Health {
    reporter: HealthReporter,
    /// The service's full name in its contract; the empty name means the same.
    name: &'static str,
    store: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
}

impl Health {
    /// Ready from the start: a store that is open can write until it fails to.
    pub fn new(store: &Store, name: &'static str) -> Self {
        Self { reporter: HealthReporter::new(), name, store: store.writable(), ready: watch::Sender::new(true) }
    }

    /// `grpc.health.v1.Health`.
    pub fn grpc(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// `/livez`: the process answers. `/readyz`: callers may come.
    pub fn http(&self) -> Router {
        let ready = self.ready.subscribe();
        let readyz = move || {
            let ready = *ready.borrow();
            async move { if ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") } }
        };
        Router::new().route("/livez", get(async || "alive\n")).route("/readyz", get(readyz))
    }

    /// Keeps the answers true until asked to stop.
    pub async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        loop {
            let ready = !stop.is_requested() && *self.store.borrow_and_update();
            self.ready.send_replace(ready);
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in ["", self.name] {
                self.reporter.set_service_status(name, status).await;
            }
            if stop.is_requested() {
                return Ok(());
            }
            tokio::select! {
                () = stop.requested() => {}
                Ok(()) = self.store.changed() => {}
            }
        }
    }
}
