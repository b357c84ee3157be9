//! The description of a service: its names, topic, domain, flags and parts.

use std::{error::Error, fmt, future::Future, pin::Pin};

use axum::Router;
use clap::Args;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    aggregate::{Aggregate, ReadTable, Streams},
    inbox::Follow,
    kafka::topics::TopicSpec,
    operations::audit::ExtraChecks,
    runtime::{failure::Failure, metrics::Silence, spans::Spans, stop::Stop},
};

/// Everything that is special about one service. [`App`](super::App) does the rest.
///
/// The crate documentation has a whole first service.
pub trait Service: Sized + Send + Sync + 'static {
    /// The names and defaults of the service.
    const INFO: Info;

    /// The contract of the topic that the service publishes to.
    const TOPIC: TopicSpec;

    /// The domain: the rules of the service.
    type Domain: Aggregate<Event: PartialEq>;

    /// The table for lists and lookups; [`NoTable`](crate::aggregate::NoTable) for none.
    type Table: ReadTable<Domain = Self::Domain>;

    /// The service's own flags; [`NoArgs`](super::NoArgs) for none.
    type Args: Args + Clone + fmt::Debug + Send + Sync + 'static;

    /// Additional checks of the subcommand `audit`; `()` for none.
    type Audit: ExtraChecks<Self::Domain>;

    /// Returns the topics of other services that this one follows, each with its reader.
    ///
    /// All of them share one dead-letter topic and one topic of replays.
    fn follows() -> Vec<Follow<Self::Domain>> {
        Vec::new()
    }

    /// Creates the parts of the service: its API, and everything else that runs.
    ///
    /// # Errors
    /// If a flag or a file does not work.
    fn start(context: Context<Self>) -> Result<Parts, Failure>;
}

/// The names and defaults of a service.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The name of the service: in logs, in `transactional.id`s, as the consumer group, and as the prefix of its own
    /// topics.
    pub name: &'static str,
    /// The version of the program: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// The word for a stream, such as `order`. The flag `log --order` takes its name from it.
    pub stream: &'static str,
    /// The full name of its gRPC service, as health checks name it.
    pub grpc_service: &'static str,
    /// The default of `--listen`.
    pub listen: &'static str,
    /// The default of `--store`.
    pub store: &'static str,
}

/// The arguments of a service when it starts.
pub struct Context<S: Service> {
    /// The streams of its domain.
    pub streams: Streams<S::Table>,
    /// Its own flags.
    pub args: S::Args,
    /// Creates spans, if they are exported.
    pub spans: Spans,
    /// Becomes true once the store is known to be the newest one. Everything that acts on the outside must wait for
    /// this, because an older copy of the store does not know what was done later.
    pub publisher_confirmed: watch::Receiver<bool>,
}

type Register = Box<dyn FnOnce(&mut Registry) + Send>;

/// The parts of a service.
///
/// They stop in this order: health, the parts before the listener, the listener, the inbox, the parts after the inbox,
/// the relay. So everything that a call needs still runs while it is answered, and its events are published.
#[derive(Default)]
pub struct Parts {
    pub(super) grpc: Routes,
    pub(super) http: Router,
    pub(super) dependencies: Vec<(&'static str, Silence)>,
    pub(super) metrics: Vec<Register>,
    pub(super) before_listener: Vec<Part>,
    pub(super) after_inbox: Vec<Part>,
}

impl Parts {
    /// Creates the parts of a service without an API.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves gRPC. The kit adds reflection and health.
    pub fn grpc(mut self, routes: Routes) -> Self {
        self.grpc = routes;
        self
    }

    /// Serves HTTP on the same port. The kit adds health and metrics.
    pub fn http(mut self, routes: Router) -> Self {
        self.http = routes;
        self
    }

    /// Adds a name to the health of the service. It is not serving once the dependency has not answered for a minute.
    pub fn dependency(mut self, name: &'static str, silence: Silence) -> Self {
        self.dependencies.push((name, silence));
        self
    }

    /// Adds the service's own metrics.
    pub fn metrics(mut self, register: impl FnOnce(&mut Registry) + Send + 'static) -> Self {
        self.metrics.push(Box::new(register));
        self
    }

    /// Runs a part that stops before the listener does.
    pub fn before_listener(mut self, part: Part) -> Self {
        self.before_listener.push(part);
        self
    }

    /// Runs a part that stops after the inbox does.
    pub fn after_inbox(mut self, part: Part) -> Self {
        self.after_inbox.push(part);
        self
    }
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// An async part of a service. The supervisor starts it, and stops the service if the part ends early.
pub struct Part {
    pub(super) name: &'static str,
    pub(super) run: Box<dyn FnOnce(Stop) -> Running + Send>,
}

impl Part {
    /// Creates a part that runs until its [`Stop`] is requested.
    pub fn new<F, E>(name: &'static str, run: impl FnOnce(Stop) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let run = |stop: Stop| -> Running {
            let running = run(stop);
            Box::pin(async move { running.await.map_err(Into::into) })
        };
        Self { name, run: Box::new(run) }
    }
}
