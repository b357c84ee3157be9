//! Health checks, with the same answer over gRPC (`grpc.health.v1`) and HTTP (`/livez`, `/readyz`).
//!
//! The service is ready while the store can write and the backlog of unpublished events is not too large. It is not
//! ready until calls are allowed, or while it is stopping. Once calls are allowed, readiness does not depend on Kafka. A stuck relay or inbox is
//! reported under its own name in gRPC's health, `relay` or `inbox`. It needs an operator, but does not affect callers.

use std::{
    convert::Infallible,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::get};
use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    edge::metrics::{Metrics, Progress},
    runtime::{failure::Failure, metrics::Silence, stop::Stop},
    store::Store,
};

/// With this many unpublished events, the service is not ready. They take some gigabytes in the store.
const ROOM: u64 = 10_000_000;

/// An unpublished event, an unread record or a silent dependency that is older than this counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// The time after which a store that cannot be read makes the service not ready.
const UNREADABLE: Duration = Duration::from_secs(5);

/// The interval of the checks.
const LOOK: Duration = Duration::from_secs(1);

/// The timeout of the subcommand `health`.
const ANSWER: Duration = Duration::from_secs(3);

/// The subcommand `health`: checks whether the service at an address is ready. It is meant for containers, which have
/// no curl.
pub(crate) fn check(listen: SocketAddr) -> Result<(), Failure> {
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

/// Requests `/readyz`, and returns the first line of the answer.
fn readyz(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream).take(1024).read_line(&mut status)?;
    Ok(status.trim_end().to_owned())
}

/// The health of one service.
pub(crate) struct Health {
    reporter: HealthReporter,
    /// The full name of the gRPC service. The empty name has the same status.
    name: &'static str,
    store: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
    /// Other dependencies of the service, each with its name in gRPC's health.
    others: Vec<(&'static str, Silence)>,
    /// True if the service follows a topic.
    has_inbox: bool,
}

impl Health {
    /// Creates the health of a service. It is not ready before [`run`](Self::run) says so.
    pub(crate) fn new(store: &Store, name: &'static str, has_inbox: bool) -> Self {
        let (reporter, ready) = (HealthReporter::new(), watch::Sender::new(false));
        Self { reporter, name, store: store.writable(), ready, others: Vec::new(), has_inbox }
    }

    /// Adds dependencies. The name of each is not serving once it has not answered for a minute.
    pub(crate) fn with_dependencies(self, others: Vec<(&'static str, Silence)>) -> Self {
        Self { others, ..self }
    }

    /// Returns the gRPC service `grpc.health.v1.Health`.
    pub(crate) fn grpc(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Returns the routes `/livez`, which always answers 200, and `/readyz`, which answers 200 or 503.
    pub(crate) fn http(&self) -> Router {
        let ready = self.ready.subscribe();
        let readyz = move || {
            let ready = *ready.borrow();
            async move { if ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") } }
        };
        Router::new().route("/livez", get(async || "alive\n")).route("/readyz", get(readyz))
    }

    /// Keeps the health up to date until a stop is requested.
    pub(crate) async fn run(
        mut self,
        metrics: Metrics,
        mut calls_allowed: watch::Receiver<bool>,
        stop: Stop,
    ) -> Result<(), Infallible> {
        let mut told = None;
        let (mut progress, mut unreadable_since) = (Progress::default(), None);
        loop {
            match metrics.progress().await {
                Ok(known) => (progress, unreadable_since) = (known, None),
                Err(_) => unreadable_since = unreadable_since.or_else(|| Some(Instant::now())),
            }
            let is_readable = unreadable_since.is_none_or(|since| since.elapsed() < UNREADABLE);
            let works = *self.store.borrow_and_update() && is_readable && *calls_allowed.borrow_and_update();
            let states = States::of(stop.is_requested(), works, progress);
            let others: Vec<_> = self.others.iter().map(|(name, silence)| (*name, silence.lasts() < STUCK)).collect();
            if told.as_ref() != Some(&(states, others.clone())) {
                self.tell(states, &others).await;
                told = Some((states, others));
            }
            if stop.is_requested() {
                return Ok(());
            }
            tokio::select! {
                () = stop.requested() => {}
                Ok(()) = self.store.changed() => {}
                Ok(()) = calls_allowed.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn tell(&mut self, states: States, others: &[(&str, bool)]) {
        self.ready.send_replace(states.ready);
        let named = [("", states.ready), (self.name, states.ready), ("relay", states.relay)];
        let inbox = self.has_inbox.then_some(("inbox", states.inbox));
        for (name, good) in named.iter().chain(&inbox).chain(others) {
            let (name, good) = (*name, *good);
            let status = if good { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.reporter.set_service_status(name, status).await;
        }
    }
}

/// The states that are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct States {
    ready: bool,
    relay: bool,
    inbox: bool,
}

impl States {
    fn of(stopping: bool, writable: bool, progress: Progress) -> Self {
        Self {
            ready: !stopping && writable && progress.unpublished < ROOM,
            relay: progress.oldest_unpublished < STUCK,
            inbox: progress.oldest_unread < STUCK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_sent_away_only_for_want_of_disk_or_room() {
        let good = States { ready: true, relay: true, inbox: true };
        let well = Progress::default();
        assert_eq!(States::of(false, true, well), good);
        assert_eq!(States::of(true, true, well), States { ready: false, ..good });
        assert_eq!(States::of(false, false, well), States { ready: false, ..good });
        assert_eq!(States::of(false, true, Progress { unpublished: ROOM, ..well }), States { ready: false, ..good });
        let late = Progress { oldest_unpublished: STUCK, ..well };
        assert_eq!(States::of(false, true, late), States { relay: false, ..good });
        let deaf = Progress { oldest_unread: STUCK, ..well };
        assert_eq!(States::of(false, true, deaf), States { inbox: false, ..good });
    }
}
