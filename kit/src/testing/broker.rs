//! Publishing to and reading from the embedded mock broker.

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
/// If the broker does not take them.
pub fn publish(broker: &EmbeddedBroker, records: &[Record]) {
    let writer = Writer::open(&broker.client("test"), "test").expect("a writer");
    let ended = writer.commit(records);
    assert!(ended.error.is_none(), "{:?}", ended.error);
}

/// Reads a topic from its beginning, until `enough` says so.
///
/// # Panics
/// If that takes longer than anything does that works.
pub fn read_until(broker: &EmbeddedBroker, topic: &str, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
    let tail = Tail::open(&broker.client("test"), &[topic]).expect("a reader");
    let mut records = Vec::new();
    eventually("the records come", || {
        records.extend(std::iter::from_fn(|| tail.next(Duration::from_millis(20))));
        enough(&records)
    });
    records
}
