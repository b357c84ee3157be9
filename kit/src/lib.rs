#![cfg_attr(
    not(feature = "verification"),
    allow(dead_code, unreachable_pub, unused_imports, reason = "private rooms, which only the feature opens")
)]
//! placeholder

pub mod aggregate;
pub mod app;
pub mod edge;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod event;
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
