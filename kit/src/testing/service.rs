//! Runs a whole service in a test, on the embedded mock broker.

use std::{net::SocketAddr, path::Path};

use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    app::{self, Config, Service},
    edge::listener::ListenArgs,
    embedded::EmbeddedBroker,
    kafka::{args::KafkaArgs, cluster::Cluster},
    runtime::{failure::Failure, stop::Shutdown},
    store::{Location, Store, StoreId},
};

/// A running service on a free port. It is stopped when it is dropped.
pub struct RunningService {
    /// The address that the service listens on.
    pub address: SocketAddr,
    /// The store of the service.
    pub store: Store,
    shutdown: Shutdown,
    running: Option<JoinHandle<Result<(), Failure>>>,
}

impl RunningService {
    /// Starts a service with its store in a file, and with its own flags.
    ///
    /// # Panics
    /// If there is no port, or the store cannot be opened.
    pub async fn start<S: Service>(broker: &EmbeddedBroker, store: &Path, args: S::Args) -> Self {
        Self::start_in_place_of::<S>(broker, store, args, None).await
    }

    /// Starts a service whose store is new, in place of another one, as with `--new-store`.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_in_place_of<S: Service>(
        broker: &EmbeddedBroker,
        store: &Path,
        args: S::Args,
        lost: Option<StoreId>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let config = Config::<S> {
            listen: address,
            store: Location::sqlite(store),
            new_store: lost,
            service: args,
            callers: ListenArgs::default(),
            kafka: KafkaArgs::of_embedded(broker.address(), broker.partitions()),
        };
        let store = app::open_store(&config).expect("the store opens");
        let shutdown = Shutdown::new();
        let service = app::run(store.clone(), config, listener, Cluster::Durable, shutdown.clone());
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let running = Some(tokio::spawn(service));
        Self { address, store, shutdown, running }
    }

    /// Stops the service as a signal would, and returns its result.
    ///
    /// # Panics
    /// If the service has panicked.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.shutdown.cancel();
        match self.running.take() {
            Some(running) => running.await.expect("the service does not panic"),
            None => Ok(()),
        }
    }
}

impl Drop for RunningService {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
