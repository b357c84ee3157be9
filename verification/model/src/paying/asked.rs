//! What an event of one service asks of the other, as its reader finds it in the bytes of the record.

use std::time::SystemTime;

use oncelog::{
    aggregate::{Envelope, Payload},
    event::{EventId, StreamId, Version},
    inbox::{Asked, Reader},
    kafka::record::Incoming,
};
use uuid::Uuid;

/// The command that an event leads to, if it leads to one.
pub(super) fn asked<E: Payload, C>(event: &E, read: Reader<C>) -> Option<C> {
    let (id, stream) = (EventId(Uuid::max()), StreamId(Uuid::max()));
    let payload = event.encode(&Envelope { id, stream, version: Version(1), time: SystemTime::UNIX_EPOCH });
    let event_type = event.event_type();
    let incoming = Incoming { id, stream, event_type, causation: None, traceparent: None, payload: &payload };
    match read(&incoming).expect("what one service writes, the other reads") {
        Asked::Command(_, command) => Some(command),
        Asked::Nothing => None,
        Asked::Newer => unreachable!("both services are of the same time"),
    }
}
