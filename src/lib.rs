//! The contracts of orders and payments: what the services say to callers, to each other, and to every reader of their
//! topics.
//!
//! * [`proto`]: the messages of `proto/`, generated.
//! * [`orders`] and [`payments`]: the events of each topic with their codecs, and the description of the topic.
//! * [`money`]: amounts in the minor unit of a currency.
//!
//! The codecs implement the traits of [`oncelog`], so that every reader of a topic makes the same checks.

pub mod money;
pub mod orders;
pub mod payments;
pub mod proto;
