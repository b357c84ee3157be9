//! The contracts of orders and payments: the messages that the services exchange with callers, with each other, and
//! with every consumer of their topics.
//!
//! * [`proto`]: the messages of `proto/`, generated.
//! * [`orders`] and [`payments`]: the events of each topic with their codecs, and the description of the topic.
//! * [`money`]: amounts in the minor unit of a currency.
//!
//! The codecs implement the traits of [`oncelog`], so that every consumer of a topic makes the same checks.

pub mod money;
pub mod orders;
pub mod payments;
pub mod proto;
