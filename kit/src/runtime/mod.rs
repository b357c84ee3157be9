//! What every other room stands on: tasks that are watched over, shutdown, backoff, spans, logs, and fault points.

pub mod backoff;
pub mod failure;
pub mod fault;
pub mod metrics;
pub mod pace;
pub mod spans;
pub mod stop;
pub mod supervisor;
pub mod telemetry;
pub mod trace_context;
