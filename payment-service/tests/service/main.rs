//! Tests of the whole service, with the embedded broker and the simulated gateway's ledger on disk.

mod charges;
mod harness;
mod refunds;
