//! What every service needs around its domain: tasks that are watched over, a port, errors, logs, metrics.

pub mod backoff;
pub mod call_error;
pub mod cli;
mod deadline;
pub mod failure;
pub mod health;
pub mod listener;
pub mod log;
pub mod message_json;
pub mod metrics;
pub mod pace;
pub mod page;
pub mod spans;
pub mod stop;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod trace_context;
