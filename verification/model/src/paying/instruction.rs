//! Decodes an event of one service with the reader of the other, from the bytes of its record.

use std::time::SystemTime;

use oncelog::{
    aggregate::{Envelope, Payload},
    event::{EventId, StreamId, Version},
    inbox::{Instruction, Reader},
    kafka::record::Incoming,
};
use uuid::Uuid;

/// Returns the command that the event causes in the other service, if any.
pub(super) fn command_of<E: Payload, C>(event: &E, read: Reader<C>) -> Option<C> {
    let (id, stream) = (EventId(Uuid::max()), StreamId(Uuid::max()));
    let payload = event.encode(&Envelope { id, stream, version: Version(1), time: SystemTime::UNIX_EPOCH });
    let event_type = event.event_type();
    let incoming =
        Incoming { id, stream, event_type, causation: None, traceparent: None, tracestate: None, payload: &payload };
    match read(&incoming).expect("each service reads the events of the other") {
        Instruction::Execute(command) => Some(command),
        Instruction::Ignore => None,
        Instruction::Skip => unreachable!("both services are of the same version"),
    }
}
