//! The inbox: consumes followed topics into the domain, so that every record has its effect once.
//!
//! The offset of each partition is kept in the store and committed together with the effect. Offsets are committed to
//! Kafka too, for its lag tools, and never read. A record that cannot be read, or that the domain rejects, is
//! dead-lettered, and its partition continues.
//!
//! The partitions are assigned by hand, all of them to this process, without a consumer group. A store has one process,
//! and its offsets are in it, so a rebalance could only add ways to fail.

mod agreement;
mod consumer;
mod consuming;
mod damage;
#[cfg(not(feature = "verification"))]
pub(crate) mod dead_letters;
#[cfg(feature = "verification")]
pub mod dead_letters;
mod decisions;
mod error;
mod metrics;
mod progress;
mod reader;
mod verification;

pub(crate) use self::consuming::EPHEMERAL;
pub use self::reader::{Follow, Instruction, Reader};
#[cfg(feature = "verification")]
pub use self::{consuming::Inbox, error::InboxError, metrics::InboxMetrics};
#[cfg(not(feature = "verification"))]
pub(crate) use self::{consuming::Inbox, error::InboxError, metrics::InboxMetrics};
pub use crate::kafka::record::{Incoming, Unreadable};
