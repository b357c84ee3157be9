//! The base of all other modules: supervised tasks, shutdown, backoff, tracing, logs, and fault points.

pub(crate) mod backoff;
pub(crate) mod failure;
pub mod fault;
pub(crate) mod line_limit;
pub(crate) mod metrics;
pub(crate) mod pace;
pub(crate) mod spans;
pub(crate) mod stop;
pub(crate) mod supervisor;
pub(crate) mod telemetry;
pub(crate) mod trace_context;

pub use self::{
    failure::{Failure, chain},
    metrics::{Outcome, Silence, durations, outcomes},
    spans::{Attribute, Span, SpanKind, Spans},
    stop::{Shutdown, Stop, on_signals},
    telemetry::init as init_logs,
    trace_context::TraceContext,
};
