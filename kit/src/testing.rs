//! What a test of a service on the embedded broker needs: to publish, to read back, and to wait for a state.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    embedded::EmbeddedBroker,
    kafka::{
        record::{Received, Record},
        tail::Tail,
    },
    relay::writer::Writer,
};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Waits for a state by looking again and again.
///
/// # Panics
/// If that takes longer than anything does that works.
#[expect(clippy::disallowed_methods, reason = "a short pause before it looks again")]
pub fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Golden bytes: lines of a name and hexadecimal digits.
///
/// # Panics
/// If a line is none.
pub fn golden(text: &str) -> Vec<(&str, Vec<u8>)> {
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).expect("hex"), 16).expect("hex");
    let line = |line| str::split_once(line, ' ').expect("a name and its bytes");
    text.lines().map(line).map(|(name, hex)| (name, hex.as_bytes().chunks(2).map(byte).collect())).collect()
}
