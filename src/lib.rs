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
pub mod audit;
pub mod dead_letters;
pub mod event;
pub mod fault;
pub mod inbox;
pub mod kafka;
pub mod metrics;
pub mod money;
pub mod proto;
pub mod reconcile;
pub mod relay;
pub mod service;
pub mod store;
#[cfg(feature = "embedded")]
pub mod testing;
