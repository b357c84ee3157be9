//! Decodes arbitrary bytes as a stored event. The result is an event or an error, and an event survives a round trip.

#![no_main]

use contracts::{orders::OrderEvent, payments::PaymentEvent};
use oncelog::{aggregate::{Envelope, Payload}, event::{EventId, StreamId, Version, now}};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check::<OrderEvent>(bytes);
    check::<PaymentEvent>(bytes);
});

fn check<E: Payload + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(decoded) = E::decode(bytes) else { return };
    let envelope = Envelope { id: EventId::generate(), stream: StreamId::generate(), version: Version(1), time: now() };
    assert_eq!(E::decode(&decoded.event.encode(&envelope)).expect("an encoded event decodes").event, decoded.event);
}
