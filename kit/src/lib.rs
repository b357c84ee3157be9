#![cfg_attr(
    not(all(feature = "verification", feature = "embedded")),
    allow(unreachable_pub, unused_imports, reason = "private rooms, which only the feature opens")
)]
//! Event-sourced services in Rust: gRPC and HTTP in, events on Kafka, exactly once from end to end.
//!
//! A service is a domain, its API, and this kit:
//!
//! ```text
//! calls ──▶ domain ──▶ store ──▶ relay ══▶ the topic of the service
//!              ▲
//!              └────── inbox ◀══ the topics of other services
//! ```
//!
//! * The **store** is an append-only log of events. A call is answered once its events are synced to disk.
//! * The **relay** publishes every event to the topic of the service, once, in the order of the store.
//! * The **inbox** consumes the topics of other services. Every record has its effect once.
//!
//! The [`guide`] has a page for each concept. The repository's `examples/shipping-service` is a whole service to copy.
//!
//! # A first service
//!
//! A service describes itself by the trait [`Service`], and [`App`] does the rest: flags and subcommands, the store, relay
//! and inbox, health, metrics, TLS, tracing, and an orderly shutdown.
//!
//! ```no_run
//! use axum::{Router, extract::{Path, State}, routing::post};
//! use oncelog::{
//!     App, Service, TopicSpec,
//!     aggregate::{Aggregate, Cause, Decoded, Envelope, NoTable, Payload, PayloadError, Streams},
//!     app::{Context, Info, NoArgs, Parts},
//!     edge::CallError,
//!     event::StreamId,
//!     runtime::Failure,
//! };
//!
//! /// The event, and the message that is stored and published.
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct Greeted {
//!     #[prost(string, tag = "1")]
//!     name: String,
//! }
//!
//! impl Payload for Greeted {
//!     fn event_type(&self) -> &'static str { "greetings.v1.Greeted" }
//!     fn encode(&self, _: &Envelope) -> Vec<u8> { prost::Message::encode_to_vec(self) }
//!     fn decode(payload: &[u8]) -> Result<Decoded<Self>, PayloadError> {
//!         Ok(<Self as prost::Message>::decode(payload)?.into())
//!     }
//! }
//!
//! /// The rules: a guest is greeted three times at most.
//! #[derive(Default)]
//! struct Guest { greetings: u32 }
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("the guest was greeted often enough")]
//! struct Enough;
//!
//! impl Aggregate for Guest {
//!     type Event = Greeted;
//!     type Command = String;
//!     type Rejection = Enough;
//!
//!     fn decide(&self, name: &String) -> Result<Vec<Greeted>, Enough> {
//!         if self.greetings == 3 { Err(Enough) } else { Ok(vec![Greeted { name: name.clone() }]) }
//!     }
//!
//!     fn apply(&mut self, _: &Greeted) { self.greetings += 1; }
//! }
//!
//! /// The service: what is special about it.
//! struct GreetingService;
//!
//! impl Service for GreetingService {
//!     const INFO: Info = Info {
//!         name: "greeting-service",
//!         version: env!("CARGO_PKG_VERSION"),
//!         about: "Greets guests",
//!         stream: "guest",
//!         grpc_service: "greetings.v1.GreetingService",
//!         listen: "127.0.0.1:3004",
//!         store: "sqlite:greetings.db",
//!     };
//!     const TOPIC: TopicSpec = TopicSpec {
//!         name: "greeting-events",
//!         message: "greetings.v1.Greeted",
//!         event_types: &["greetings.v1.Greeted"],
//!         descriptors: &[],
//!     };
//!     type Domain = Guest;
//!     type Table = NoTable<Guest>;
//!     type Args = NoArgs;
//!     type Audit = ();
//!
//!     fn start(context: Context<Self>) -> Result<Parts, Failure> {
//!         let routes = Router::new().route("/guests/{id}/greet/{name}", post(greet));
//!         Ok(Parts::new().http(routes.with_state(context.streams)))
//!     }
//! }
//!
//! async fn greet(
//!     State(guests): State<Streams<NoTable<Guest>>>,
//!     Path((id, name)): Path<(String, String)>,
//! ) -> Result<String, CallError> {
//!     let guest = StreamId::parse(&id).ok_or(CallError::NoRoute)?;
//!     let guest = guests.execute(guest, &name, &Cause::default()).await;
//!     let guest = guest.map_err(|error| {
//!         CallError::of(error, |Enough| CallError::Precondition { reason: "ENOUGH", message: "greeted often enough".into() })
//!     })?;
//!     Ok(format!("Hello {name}, number {}", guest.state.greetings))
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     App::<GreetingService>::main()
//! }
//! ```
//!
//! # Features
//!
//! * `embedded`: librdkafka's mock broker in the process, for a first look and for tests.
//! * `kafka-tls`: Kafka over TLS and with SASL. Compiles OpenSSL and curl from source.
//! * `faults`: crash points, for programs that tests break on purpose.

pub mod aggregate;
pub mod app;
pub mod edge;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod event;
pub mod guide;
pub mod inbox;
pub mod runtime;
pub mod store;
pub mod testing;

// The private rooms. The model, the system tests, the fuzz targets and the kit's own tests reach them by a feature.
#[cfg(not(feature = "verification"))]
mod kafka;
#[cfg(feature = "verification")]
#[doc(hidden)]
pub mod kafka;
#[cfg(not(feature = "verification"))]
mod operations;
#[cfg(feature = "verification")]
#[doc(hidden)]
pub mod operations;
#[cfg(not(feature = "verification"))]
mod relay;
#[cfg(feature = "verification")]
#[doc(hidden)]
pub mod relay;

/// The audit of a service, and the checks that a service adds to it.
pub mod audit {
    pub use crate::operations::audit::{AuditError, Case, ConsumedRecord, ExtraChecks, Finding, Findings, NoArgs};
}

pub use app::{App, Service};
pub use kafka::topics::TopicSpec;
