//! The subcommands for operators of a store and its topics.

pub mod audit;
pub mod dead_letters;
pub mod log;
mod lost_events;
pub mod reconcile;
mod replay;
