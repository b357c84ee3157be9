//! The store on SQLite: one file, one process.

mod lock;
pub(super) mod reads;
pub(super) mod rebuild;
pub(super) mod schema;
pub(super) mod writer;
