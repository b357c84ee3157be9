//! The relay and the inbox against the embedded broker, with errors that it is told to make.
//!
//! The embedded broker isolates no transaction: where one is aborted on purpose, what can be asserted here is
//! "at least once, unique by `ce_id`". Exactly once is asserted on real Kafka.

mod audit;
mod harness;
mod inbox;
mod relay;
