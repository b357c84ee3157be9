//! Keeps a service up whose store is refused. The process answers calls with the reason, and is not ready. It keeps the
//! store closed, so that `reconcile` can open it, and continues once the refusal is lifted.
//!
//! If the process ended instead, a supervisor that restarts every process would hide the refusal.

use std::{convert::Infallible, time::Duration};

use tokio::net::TcpListener;

use super::{Config, Service, serve};
use crate::{
    edge::{
        connections::{self, Audience, Settings},
        listener, refused,
        tls::Tls,
    },
    event::Position,
    runtime::{
        failure::Failure,
        stop::{Shutdown, Stop},
        supervisor::Supervisor,
    },
    store::{Location, Log},
};

/// The interval at which the store is checked for its refusal.
const LOOK: Duration = Duration::from_secs(1);

/// Returns why the store is refused. A store that cannot be read now counts as not refused: opening it says why.
pub(super) fn reason<S: Service>(store: &Location) -> Option<String> {
    read_reason::<S>(store).flatten()
}

/// Returns why the store is refused, or `None` if it cannot be read now.
fn read_reason<S: Service>(store: &Location) -> Option<Option<String>> {
    Log::open(store, serve::identity::<S>()).ok()?.refusal().ok()
}

/// Lifts the refusal of an empty store. It is refused only because it is new, and `--new-store` allows a new store.
pub(super) fn lift_if_new<S: Service>(config: &Config<S>) -> Result<(), Failure> {
    if config.new_store.is_some() && reason::<S>(&config.store).is_some() {
        let store = serve::open_store(config)?;
        if *store.head().borrow() == Position::START {
            store.lift_refusal_blocking().map_err(Failure::configuration)?;
        }
    }
    Ok(())
}

/// Answers calls with the reason until the refusal is lifted or a shutdown is requested.
pub(super) async fn serve<S: Service>(
    config: &Config<S>,
    reason: String,
    listener: TcpListener,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    tracing::info!(service = S::INFO.name, listen = %config.listen, "starting with the store closed");
    tracing::error!("refusing all calls: {reason}; `{} reconcile --apply` lifts the refusal", S::INFO.name);
    let routes = refused::routes(reason, S::INFO.grpc_service, S::INFO.name).await;
    let callers = serve::callers(config);
    let probes = Settings { audience: Audience::Probes, ..callers };
    let tls = Tls::open(&config.callers.tls)?;
    let ops = match config.callers.ops_listen {
        Some(address) => Some(listener::bind(address, "--ops-listen").await?),
        None => None,
    };
    let until = shutdown.child_token();
    let (store, lifted) = (config.store.clone(), until.clone());
    let mut parts = Supervisor::new(until);
    parts.task("refusal", |stop| wait_until_lifted::<S>(store, lifted, stop));
    if let Some(listener) = ops {
        let routes = routes.clone();
        parts.task("ops listener", |stop| connections::serve(listener, routes, None, probes, stop));
    }
    parts.task("listener", |stop| connections::serve(listener, routes, tls, callers, stop));
    parts.run().await?;
    if !shutdown.is_cancelled() {
        tracing::info!("the refusal was lifted");
    }
    Ok(())
}

/// Waits before the store is opened again.
pub(super) async fn pause(shutdown: &Shutdown) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(LOOK) => {}
    }
}

async fn wait_until_lifted<S: Service>(store: Location, lifted: Shutdown, stop: Stop) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let store = store.clone();
        let reason = tokio::task::spawn_blocking(move || read_reason::<S>(&store)).await;
        if matches!(reason, Ok(Some(None))) {
            lifted.cancel();
        }
    }
}
