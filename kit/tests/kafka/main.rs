//! Tests of the relay, the inbox and the audit against the embedded broker, with injected errors.
//!
//! The embedded broker does not isolate transactions. If a test aborts one on purpose, it can only assert "at least
//! once, unique by `ce_id`". Exactly once is tested on real Kafka.

mod audit;
mod harness;
mod inbox;
mod relay;
