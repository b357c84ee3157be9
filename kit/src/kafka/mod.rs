//! What the relay and the inbox need of Kafka.
//!
//! librdkafka is called from threads that may block and never from async code.

pub mod args;
pub mod client;
pub mod cluster;
pub mod partition;
pub(crate) mod partition_log;
pub(crate) mod producer;
pub mod properties;
pub mod record;
pub mod tail;
pub mod topic_log;
pub mod topics;
