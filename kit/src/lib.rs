//! The kit that event-sourced services are made of: an event store, a relay that publishes it to Kafka, and an
//! inbox that reads from Kafka, each exactly once.
//!
//! A service is its domain ([`aggregate::Aggregate`]), its edges, and these parts:
//!
//! ```text
//! calls ──▶ domain ──▶ store ──▶ relay ══▶ its own topic
//!              ▲
//!              └────── inbox ◀══ another service's topic
//! ```
//!
//! Read [`aggregate`], [`store`], [`relay`] and [`inbox`], in this order. [`proto`] and [`money`] are what the
//! services say to each other; nothing else here knows of orders and payments.

pub mod aggregate;
pub mod app;
pub mod edge;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod event;
pub mod inbox;
pub mod kafka;
pub mod operations;
pub mod relay;
pub mod runtime;
pub mod store;
pub mod testing;

pub use kafka::topics::TopicSpec;
