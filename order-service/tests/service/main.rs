//! The whole service over real sockets, with the embedded broker.

mod calls;
mod harness;
mod life;
mod payments;
