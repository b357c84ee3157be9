//! Golden bytes: the encoding of every event type, which can never change once it was stored and published.

use std::{fmt::Debug, fmt::Write as _};

use crate::{
    aggregate::{DecodedEnvelope, Envelope, Payload, PayloadError},
    event::{EventId, StreamId, Version, from_micros},
};

/// Returns the envelope of all golden events.
///
/// # Panics
/// Never: both ids are valid.
pub fn golden_envelope() -> Envelope {
    Envelope {
        id: EventId::parse("01a20859-c427-7384-b47b-d18ff68dd444").expect("an id"),
        stream: StreamId::parse("7fca35d2-f40f-54e2-aa4f-e22156b4d64b").expect("an id"),
        version: Version(7),
        time: from_micros(1_793_476_800_000_000),
    }
}

/// Asserts that each event is encoded as the bytes in `golden`, and decoded from them. The order must be the same.
///
/// `golden` is the content of `file`: one line for each event, with its type and its bytes in hexadecimal digits. All
/// `event_types` must occur. A field of a later version must be ignored, and an event of a later version must result in
/// [`PayloadError::Newer`].
///
/// # Panics
/// If anything differs. If an event has no line yet, the message contains the line to add.
pub fn assert_golden<E>(golden: &str, file: &str, events: &[E], event_types: &[&str])
where
    E: Payload + Debug + PartialEq,
{
    let lines: Vec<&str> = golden.lines().collect();
    for (index, event) in events.iter().enumerate() {
        let event_type = event.event_type();
        assert!(event_types.contains(&event_type), "{event_type} is missing in the list of event types");
        let written = line(event);
        match lines.get(index) {
            Some(known) => assert_eq!(*known, written, "{event:?} is no longer encoded as in {file}"),
            None => {
                let missing: Vec<_> = events.get(index..).unwrap_or_default().iter().map(line).collect();
                panic!("{file} lacks golden bytes. Add these lines at its end:\n{}", missing.join("\n"));
            }
        }
        let bytes = event.encode(&golden_envelope());
        assert_eq!(decoded::<E>(&bytes).as_ref(), Some(event));
        let later_field = [bytes, vec![0xfa, 0x3f, 0x01, 0x2a]].concat(); // field 1023: "*"
        assert_eq!(decoded::<E>(&later_field).as_ref(), Some(event), "with a field of a later version");
    }
    assert_eq!(lines.len(), events.len(), "{file} has lines without an event in the test");
    for event_type in event_types {
        let has_line = events.iter().any(|event| event.event_type() == *event_type);
        assert!(has_line, "{event_type} has no golden bytes: add an event of it to the golden events of the test");
    }
    let later_event = [0x0a, 0x01, 0x78, 0xfa, 0x06, 0x00]; // field 1: "x", and an empty message as field 111
    assert!(matches!(E::decode(&later_event), Err(PayloadError::Newer)), "an event of a later version");
}

/// Asserts that an event and its envelope are the same after they are encoded and decoded.
///
/// # Panics
/// If anything differs, or if the message has no envelope.
pub fn assert_round_trip<E: Payload + Debug + PartialEq>(event: &E) {
    let Envelope { id, stream, time, .. } = golden_envelope();
    let decoded = E::decode(&event.encode(&golden_envelope())).expect("an encoded event can be decoded");
    assert_eq!(decoded.event, *event);
    let envelope = DecodedEnvelope { event_id: id.to_string(), stream: stream.to_string(), time: Some(time) };
    assert_eq!(decoded.envelope, Some(envelope));
}

fn decoded<E: Payload>(bytes: &[u8]) -> Option<E> {
    E::decode(bytes).ok().map(|decoded| decoded.event)
}

fn line(event: &impl Payload) -> String {
    let mut line = format!("{} ", event.event_type());
    for byte in event.encode(&golden_envelope()) {
        let _ = write!(line, "{byte:02x}");
    }
    line
}
