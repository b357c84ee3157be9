//! The whole service with the embedded broker and the simulated gateway's real ledger.

mod charges;
mod harness;
mod refunds;
