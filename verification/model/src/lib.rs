//! The rules that exactly-once rests on, in every order of events and with every fault that may come between.
//!
//! Two models, each small enough to be visited to its last state: [`publishing`], how a store reaches its topic, and
//! [`paying`], how an order and its payment end. What decides in them is the code that decides in production, called
//! and not copied: `kafka/transaction.rs` and `kafka/claim.rs` of the kit, `order.rs` and `payment_outcomes.rs` of
//! order-service, `payment.rs`, `due.rs` and `order_events.rs` of payment-service. What is written here is the world
//! around it: a broker, a gateway and processes that die, in as few lines as they can be told.
//!
//! A test for each model shows that its properties hold; another switches off each defence alone, and shows the
//! shortest way to where the property fails that it guards. So a rule that nobody needs would be found, as would one
//! that is changed until it no longer does what it is for.
//!
//! ```console
//! $ cargo test -p model -- --nocapture
//! ```
//!
//! How often things go wrong is limited ([`publishing::Faults`], [`paying::Faults`]); when, is not.

pub mod check;
pub mod paying;
pub mod publishing;
