//! What a batch of records leads to: the domain's decisions, before anything is committed.

use std::collections::{HashMap, hash_map::Entry};

use super::{Asked, Inbox, InboxError};
use crate::{
    aggregate::{Aggregate, Cause, Loaded},
    event::StreamId,
    kafka::record::{Incoming, Received},
    runtime::spans::{Attribute, Span, SpanKind},
    store::Append,
};

/// What a batch of records leads to, stream by stream.
pub(super) struct Effects<'a, A: Aggregate> {
    inbox: &'a Inbox<A>,
    /// They end with the commit.
    pub(super) spans: Vec<Span>,
    streams: HashMap<StreamId, (Loaded<A>, Append)>,
    /// In the order in which the streams were first asked for something, which becomes the order in the log.
    order: Vec<StreamId>,
    /// The types of the events that came after this program.
    pub(super) newer: Vec<String>,
    /// How many records ask for nothing.
    pub(super) ignored: usize,
}

impl<'a, A: Aggregate> Effects<'a, A> {
    pub(super) fn new(inbox: &'a Inbox<A>) -> Self {
        Self { inbox, spans: Vec::new(), streams: HashMap::new(), order: Vec::new(), newer: Vec::new(), ignored: 0 }
    }

    /// Adds one record's effect, or says why the record cannot be read.
    pub(super) fn add(&mut self, record: &Received) -> Result<Result<(), String>, InboxError> {
        let incoming = match record.open() {
            Ok(incoming) => incoming,
            Err(unreadable) => return Ok(Err(unreadable.to_string())),
        };
        let (stream, command) = match (self.inbox.reader)(&incoming) {
            Ok(Asked::Command(stream, command)) => (stream, command),
            Ok(Asked::Nothing) => {
                self.ignored += 1;
                return Ok(Ok(()));
            }
            Ok(Asked::Newer) => {
                self.newer.push(incoming.event_type.to_owned());
                return Ok(Ok(()));
            }
            Err(reason) => return Ok(Err(reason)),
        };
        let (loaded, append) = match self.streams.entry(stream) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let loaded = Loaded::fold(&self.inbox.store.read_stream_blocking(stream)?)?;
                self.order.push(stream);
                let append = Append { stream, expected: loaded.version, events: Vec::new() };
                new.insert((loaded, append))
            }
        };
        let span = start_span(self.inbox, record, &incoming);
        let cause = Cause { event: Some(incoming.id), traceparent: span.traceparent(incoming.traceparent) };
        self.spans.push(span);
        Ok(match loaded.execute(stream, &command, &cause) {
            Ok(events) => {
                append.events.extend(events);
                Ok(())
            }
            Err(rejection) => Err(rejection.to_string()),
        })
    }

    pub(super) fn into_appends(mut self) -> Vec<Append> {
        let appends = self.order.iter().filter_map(|stream| self.streams.remove(stream));
        appends.map(|(_, append)| append).filter(|append| !append.events.is_empty()).collect()
    }
}

fn start_span<A: Aggregate>(inbox: &Inbox<A>, record: &Received, incoming: &Incoming<'_>) -> Span {
    let attributes = || {
        vec![
            Attribute::new("messaging.system", "kafka"),
            Attribute::new("messaging.operation.name", "process"),
            Attribute::new("messaging.operation.type", "process"),
            Attribute::new("messaging.destination.name", inbox.topic.clone()),
            Attribute::new("messaging.destination.partition.id", record.partition.to_string()),
            Attribute::new("messaging.kafka.offset", record.offset),
            Attribute::new("messaging.consumer.group.name", inbox.service),
            Attribute::new("messaging.message.id", incoming.id.to_string()),
            Attribute::new("messaging.kafka.message.key", incoming.stream.to_string()),
        ]
    };
    inbox.spans.start(SpanKind::Consumer, format!("process {}", inbox.topic), incoming.traceparent, attributes)
}
