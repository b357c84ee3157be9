//! Checks the rules that exactly-once delivery depends on, in every interleaving and with every fault in between.
//!
//! There are two models, each small enough to visit every state: [`publishing`] covers how a store reaches its topic,
//! and [`paying`] covers how an order and its payment end. The decisions are made by the production code, which is
//! called and not copied: `relay/transaction.rs` and `relay/claim.rs` of the kit, `order.rs` and `payment_outcomes.rs`
//! of order-service, `payment.rs`, `due.rs` and `order_events.rs` of payment-service. This crate adds only the
//! environment: a broker, a gateway, and processes that crash, each as small as possible.
//!
//! One test of each model shows that its properties hold. Another disables one defence at a time, and finds the
//! shortest trace to a state in which the guarded property fails. It detects a rule that is not needed, and a change
//! that makes a rule ineffective.
//!
//! ```console
//! $ cargo test -p model -- --nocapture
//! ```
//!
//! The number of faults is limited ([`publishing::Faults`], [`paying::Faults`]). Their timing is not.

pub mod check;
pub mod paying;
pub mod publishing;
