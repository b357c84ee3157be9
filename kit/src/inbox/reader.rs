//! Readers: functions that turn a record of a followed topic into an instruction for this service.

use crate::{
    aggregate::Aggregate,
    kafka::record::{Incoming, Unreadable},
};

/// The instruction that a record gives to the service.
///
/// A command is executed on the stream that the key of the record names. That keeps effect, offset and order together:
/// all records of one key are in one partition, and their effects are in one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction<C> {
    /// Execute a command on the stream that the record's key names.
    Execute(C),
    /// Do nothing, because the record is of no interest to this service.
    Ignore,
    /// Do nothing, because the event is of a type that this program does not know. It is counted as `newer`.
    Skip,
}

/// Returns the instruction of a record, or the reason why it cannot be read. A record that cannot be read is
/// dead-lettered.
pub type Reader<C> = fn(&Incoming<'_>) -> Result<Instruction<C>, Unreadable>;

/// A topic that a service follows, and its reader.
#[derive(Debug)]
pub struct Follow<A: Aggregate> {
    /// The name of the topic.
    pub topic: &'static str,
    /// The reader of its records.
    pub reader: Reader<A::Command>,
}

impl<A: Aggregate> Follow<A> {
    /// Describes a followed topic.
    pub fn new(topic: &'static str, reader: Reader<A::Command>) -> Self {
        Self { topic, reader }
    }
}

impl<A: Aggregate> Clone for Follow<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Aggregate> Copy for Follow<A> {}
