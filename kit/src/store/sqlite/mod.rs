//! The store on SQLite: one file, one process.
//!
//! One thread owns the connection that writes ([`writer`]). A few read-only connections serve all reads ([`readers`]).

pub(super) mod events;
pub(super) mod facts;
pub(super) mod last_records;
mod lock;
pub(super) mod open;
pub(super) mod readers;
mod rebuild;
pub(super) mod schema;
pub(super) mod tables;
pub(super) mod writer;

pub(super) use self::rebuild::Rebuild;
