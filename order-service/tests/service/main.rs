//! Tests of the whole service over real sockets, with the embedded broker.

mod calls;
mod harness;
mod hostile;
mod life;
mod payments;
