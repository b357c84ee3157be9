//! Publishes to and reads from the embedded mock broker.

use std::time::Duration;

use super::eventually;
use crate::{
    embedded::EmbeddedBroker,
    kafka::{
        record::{Received, Record},
        tail::Tail,
    },
    relay::writer::Writer,
};

/// Publishes records in one transaction.
///
/// # Panics
/// If the broker does not acknowledge them.
pub fn publish(broker: &EmbeddedBroker, records: &[Record]) {
    let writer = Writer::open(&broker.client("test"), "test").expect("the writer opens");
    let ended = writer.commit(records);
    assert!(ended.error.is_none(), "{:?}", ended.error);
}

/// Reads a topic from its beginning, until `enough` returns true for the records so far.
///
/// # Panics
/// After 30 seconds.
pub fn read_until(broker: &EmbeddedBroker, topic: &str, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
    let tail = Tail::open(&broker.client("test"), &[topic]).expect("a reader");
    let mut records = Vec::new();
    eventually("enough records arrive", || {
        records.extend(std::iter::from_fn(|| tail.next(Duration::from_millis(20))));
        enough(&records)
    });
    records
}
