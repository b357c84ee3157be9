//! The effects of a batch of records. The domain decides them before anything is committed.

use std::collections::{HashMap, hash_map::Entry};

use super::{Follow, Inbox, InboxError, Instruction, metrics::RecordOutcome};
use crate::{
    aggregate::{Aggregate, Cause, Loaded, ReadTable, Streams},
    event::StreamId,
    inbox::dead_letters::{self, Origin},
    kafka::record::{Incoming, Received},
    runtime::{
        failure::chain,
        spans::{Attribute, Span, SpanKind},
    },
    store::Append,
};

/// The effects of a batch of records, stream by stream.
pub(super) struct Decisions<'a, T: ReadTable> {
    inbox: &'a Inbox<T>,
    /// The decision on each record, in the order of the batch.
    pub(super) records: Vec<Decision>,
    /// A span for each record that led to a command. It ends when it is dropped, after the commit.
    pub(super) spans: Vec<Span>,
    streams: HashMap<StreamId, (Loaded<T::Domain>, Append)>,
    /// The streams in the order of their first commands. It becomes the order in the log.
    order: Vec<StreamId>,
}

/// The decision on one record.
pub(super) struct Decision {
    /// The followed topic that the record belongs to, also if it is a replay.
    pub(super) topic: &'static str,
    pub(super) verdict: Verdict,
}

pub(super) enum Verdict {
    /// A command was executed, with or without an event.
    Executed,
    /// The record is of no interest.
    Ignored,
    /// The record has an event of this type, which the program does not know.
    Newer(String),
    /// The record cannot be read, or the domain rejects it. It is dead-lettered with this reason.
    Rejected(String),
}

impl Verdict {
    pub(super) fn outcome(&self) -> RecordOutcome {
        match self {
            Self::Executed => RecordOutcome::Handled,
            Self::Ignored => RecordOutcome::Ignored,
            Self::Newer(_) => RecordOutcome::Newer,
            Self::Rejected(_) => RecordOutcome::DeadLettered,
        }
    }
}

impl<'a, T: ReadTable> Decisions<'a, T> {
    /// Decides on each record of a batch, in order.
    pub(super) fn of(inbox: &'a Inbox<T>, batch: &[Received]) -> Result<Self, InboxError> {
        let mut decisions =
            Self { inbox, records: Vec::new(), spans: Vec::new(), streams: HashMap::new(), order: Vec::new() };
        for record in batch {
            let decision = decisions.decide(record)?;
            decisions.records.push(decision);
        }
        Ok(decisions)
    }

    fn decide(&mut self, record: &Received) -> Result<Decision, InboxError> {
        let follow = match follow_of(&self.inbox.follows, record) {
            Ok(follow) => follow,
            Err(reason) => {
                let topic = self.inbox.follows.first().map_or("", |follow| follow.topic);
                return Ok(Decision { topic, verdict: Verdict::Rejected(reason) });
            }
        };
        let read = record.open().and_then(|incoming| Ok(((follow.reader)(&incoming)?, incoming)));
        let verdict = match read {
            Ok((Instruction::Execute(command), incoming)) => self.execute(follow.topic, record, &incoming, &command)?,
            Ok((Instruction::Ignore, _)) => Verdict::Ignored,
            Ok((Instruction::Skip, incoming)) => Verdict::Newer(incoming.event_type.to_owned()),
            Err(unreadable) => Verdict::Rejected(chain(&unreadable)),
        };
        Ok(Decision { topic: follow.topic, verdict })
    }

    fn execute(
        &mut self,
        topic: &'static str,
        record: &Received,
        incoming: &Incoming<'_>,
        command: &<T::Domain as Aggregate>::Command,
    ) -> Result<Verdict, InboxError> {
        let stream = incoming.stream;
        let (loaded, append) = match self.streams.entry(stream) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let loaded = Loaded::fold(&self.inbox.store.read_stream_blocking(stream)?)?;
                self.order.push(stream);
                let append = Append { stream, expected: loaded.version, events: Vec::new(), row: None };
                new.insert((loaded, append))
            }
        };
        let span = start_span(self.inbox, topic, record, incoming);
        let cause = Cause { event: Some(incoming.id), trace: span.trace(incoming.trace().as_ref()) };
        self.spans.push(span);
        Ok(match loaded.execute(stream, command, &cause) {
            Ok(events) => {
                append.events.extend(events);
                Verdict::Executed
            }
            Err(rejection) => Verdict::Rejected(rejection.to_string()),
        })
    }

    /// Returns the events of each stream, with the row of the stream after them.
    pub(super) fn into_appends(mut self) -> Vec<Append> {
        let changed = self.order.iter().filter_map(|stream| self.streams.remove(stream));
        let changed = changed.filter(|(_, append)| !append.events.is_empty());
        changed.map(|(loaded, append)| Append { row: Streams::<T>::row(&loaded), ..append }).collect()
    }
}

/// Returns the followed topic of a record. For a replay, it is the topic of the original record. A service that follows
/// only one topic needs no lookup.
fn follow_of<A: Aggregate>(follows: &[Follow<A>], record: &Received) -> Result<Follow<A>, String> {
    if let Some(origin) = dead_letters::referenced(record) {
        return Err(format!("it is a replay of {origin}, which Kafka does not have any more"));
    }
    let origin = dead_letters::is_retry(record).then(|| Origin::of(record));
    let topic = origin.as_ref().map_or(&record.topic, |origin| &origin.topic);
    let follow = follows.iter().find(|follow| follow.topic == topic);
    follow
        .copied()
        .ok_or_else(|| format!("it is a replay of a record of {topic:?}, which this service does not follow"))
}

fn start_span<T: ReadTable>(inbox: &Inbox<T>, topic: &'static str, record: &Received, incoming: &Incoming<'_>) -> Span {
    let attributes = || {
        vec![
            Attribute::new("messaging.system", "kafka"),
            Attribute::new("messaging.operation.name", "process"),
            Attribute::new("messaging.operation.type", "process"),
            Attribute::new("messaging.destination.name", topic),
            Attribute::new("messaging.destination.partition.id", record.partition.to_string()),
            Attribute::new("messaging.kafka.offset", record.offset),
            Attribute::new("messaging.consumer.group.name", inbox.service),
            Attribute::new("messaging.message.id", incoming.id.to_string()),
            Attribute::new("messaging.kafka.message.key", incoming.stream.to_string()),
        ]
    };
    inbox.spans.start(SpanKind::Consumer, format!("process {topic}"), incoming.trace().as_ref(), attributes)
}
