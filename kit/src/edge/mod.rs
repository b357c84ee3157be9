//! The edge of a service: its port, TLS, health, metrics, errors and pages.

pub mod call_error;
mod deadline;
pub mod health;
pub mod listener;
pub mod message_json;
pub mod metrics;
pub mod page;
pub mod tls;
