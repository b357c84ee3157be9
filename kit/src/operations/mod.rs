//! What an operator does with a store and its topics: the subcommands.

pub mod audit;
pub mod dead_letters;
pub mod log;
pub mod reconcile;
