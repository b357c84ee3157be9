//! What an event of one service instructs the other to do, as its reader finds it in the bytes of the record.

use std::time::SystemTime;

use oncelog::{
    aggregate::{Envelope, Payload},
    event::{EventId, StreamId, Version},
    inbox::{Instruction, Reader},
    kafka::record::Incoming,
};
use uuid::Uuid;

/// Returns the command that an event leads to, if it leads to one.
pub(super) fn command_of<E: Payload, C>(event: &E, read: Reader<C>) -> Option<C> {
    let (id, stream) = (EventId(Uuid::max()), StreamId(Uuid::max()));
    let payload = event.encode(&Envelope { id, stream, version: Version(1), time: SystemTime::UNIX_EPOCH });
    let event_type = event.event_type();
    let incoming = Incoming { id, stream, event_type, causation: None, traceparent: None, payload: &payload };
    match read(&incoming).expect("what one service writes, the other reads") {
        Instruction::Execute(command) => Some(command),
        Instruction::Ignore => None,
        Instruction::Skip => unreachable!("both services are of the same version"),
    }
}
