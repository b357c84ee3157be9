//! The Kafka clients of the relay and the inbox: producers, consumers, topics and records.
//!
//! librdkafka is called only from threads that may block, never from async code.

pub mod args;
pub mod client;
pub mod cluster;
pub mod partition;
pub(crate) mod partition_log;
pub(crate) mod probe;
pub(crate) mod producer;
pub mod properties;
pub mod record;
#[cfg(any(feature = "embedded", feature = "verification"))]
pub mod tail;
pub(crate) mod topic_end;
pub mod topic_log;
pub mod topics;
