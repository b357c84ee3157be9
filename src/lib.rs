//! The contracts of orders and payments: what the services say to callers, to each other, and to every reader of their
//! topics.

pub mod money;
pub mod proto;
