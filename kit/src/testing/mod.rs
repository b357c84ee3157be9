//! Tools to test a service: its rules, its stored bytes, and the whole service on an embedded mock broker.
//!
//! * [`given`] tests the rules of a domain: given a history, when a command comes, then these events follow.
//! * [`assert_replay`] checks that the stored events, folded again, result in the same state.
//! * [`assert_round_trip`] checks that an event and its envelope survive their encoding.
//! * [`assert_golden`] checks that the bytes of every event type never change.
//! * With the feature `embedded`: a whole service (`RunningService`), and `publish` and `read_until` on its broker.

#[cfg(feature = "embedded")]
mod broker;
mod domain;
mod eventually;
mod golden;
#[cfg(feature = "embedded")]
mod service;

#[cfg(feature = "embedded")]
pub use self::{
    broker::{publish, read_until},
    service::RunningService,
};
pub use self::{
    domain::{Given, When, assert_replay, given},
    eventually::eventually,
    golden::{assert_golden, assert_round_trip, golden_envelope},
};
#[cfg(feature = "embedded")]
pub use crate::kafka::record::{Received, Record, Source};
