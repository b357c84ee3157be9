//! Compares the followed topics with the store, stream by stream. Each record must have had its effect once.

use std::{collections::HashSet, sync::mpsc, thread};

use super::{
    Audit, AuditError, ExtraChecks, Finding, Findings, Progress,
    scratch::{ConsumedRecord, Scratch, Sorted},
};
use crate::{
    aggregate::{Aggregate, Payload as _},
    event::{Event, EventId, StreamId},
    inbox::{
        self, Follow, Instruction,
        dead_letters::{self, Origin},
    },
    kafka::{client::Client, partition_log::PartitionLog, record::Unreadable, topics},
    store::{ReadError, Snapshot, TopicPartition},
};

/// The number of events that are read from the store at a time.
const BATCH: usize = 5000;

/// One stream at the time of the audit's snapshot: its events and its records.
#[derive(Debug)]
pub struct Case<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The events of the stream in the store.
    pub events: &'a [Event],
    /// The consumed records of the followed topics with this stream's id as the key.
    pub consumed: &'a [ConsumedRecord],
}

/// The comparison of one followed topic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Followed {
    pub(super) records: u64,
    pub(super) effects: u64,
    pub(super) dead_letters: u64,
}

/// Compares the followed topics with the store, stream by stream.
pub(super) fn compare<A: Aggregate<Event: PartialEq>>(
    audit: &Audit<A>,
    moment: &Snapshot,
    collected: Collected,
    extra: &mut impl ExtraChecks<A>,
    found: &mut Findings<'_>,
) -> Result<Vec<Followed>, AuditError> {
    let Collected { scratch, mut topics, findings } = collected;
    findings.into_iter().for_each(&mut *found);
    for (index, topic) in topics.iter_mut().enumerate() {
        topic.dead_letters = scratch.count_dead_letters(index)?;
    }

    let mut progress = Progress::new("events compared with their causes", moment.head.0);
    let mut events = 0;
    let mut statement = scratch.sorted()?;
    let mut consumed = Sorted::begin(&mut statement)?;
    let mut judge = Judge { audit, scratch: &scratch, topics: &mut topics, extra, found };
    thread::scope(|scope| {
        let (batches, read) = mpsc::sync_channel(0); // the reader is one batch ahead
        let reading = scope.spawn(move || read_streams(audit, moment, &batches));
        for streams in read {
            for stream in streams? {
                let Some(first) = stream.first() else { continue };
                // Streams without an event in the store, but with a record, are judged in between.
                while let Some(unknown) = consumed.stream().filter(|other| *other < first.stream) {
                    judge.judge(unknown, &[], &consumed.about(unknown)?)?;
                }
                judge.judge(first.stream, &stream, &consumed.about(first.stream)?)?;
                events += stream.len() as u64;
                progress.at(events);
            }
        }
        reading.join().map_err(|_panic| AuditError::Panicked)?;
        while let Some(unknown) = consumed.stream() {
            judge.judge(unknown, &[], &consumed.about(unknown)?)?;
        }
        Ok::<_, AuditError>(())
    })?;
    Ok(topics)
}

/// Reads all streams in the order of their ids, as long as the batches are received.
fn read_streams<A: Aggregate>(
    audit: &Audit<A>,
    moment: &Snapshot,
    batches: &mpsc::SyncSender<Result<Vec<Vec<Event>>, ReadError>>,
) {
    let mut last = None;
    loop {
        let streams = audit.log.read_streams(last, moment.head, BATCH);
        last = streams.as_ref().ok().and_then(|streams| Some(streams.last()?.first()?.stream));
        if batches.send(streams).is_err() || last.is_none() {
            break;
        }
    }
}

/// The consumed records of the followed topics, sorted.
pub(super) struct Collected {
    scratch: Scratch,
    topics: Vec<Followed>,
    /// The records that are gone or cannot be read.
    findings: Vec<Finding>,
}

impl Collected {
    pub(super) fn collect<A: Aggregate>(audit: &Audit<A>, moment: &Snapshot) -> Result<Self, AuditError> {
        let scratch = Scratch::open(&audit.log)?;
        let cluster = topics::cluster_id(&audit.client)?;
        let consumed = |topic: &str| consumed_offsets(moment, &cluster, topic);
        collect_dead_letters(audit, &consumed(&dead_letters::retries_of(audit.service)), &scratch)?;
        let mut findings = Vec::new();
        let mut topics = Vec::new();
        for (index, follow) in audit.follows.iter().enumerate() {
            let found: &mut Findings<'_> = &mut |finding| findings.push(finding);
            let topic = (index, follow.topic);
            let records = collect(&audit.client, topic, &consumed(follow.topic), &scratch, found)?;
            topics.push(Followed { records, ..Followed::default() });
        }
        Ok(Self { scratch, topics, findings })
    }
}

/// Reads a followed topic up to the offsets that the service had consumed. Returns the number of records.
fn collect(
    client: &Client,
    (index, topic): (usize, &str),
    consumed: &[(i32, i64)],
    scratch: &Scratch,
    found: &mut Findings<'_>,
) -> Result<u64, AuditError> {
    // Slightly more than the number of records, because the markers of transactions take offsets too.
    let offsets: i64 = consumed.iter().map(|(_, next)| next).sum();
    let mut progress = Progress::new("records of the followed topic read", offsets.unsigned_abs());
    let mut records = 0;
    for &(partition, next) in consumed {
        let mut log = PartitionLog::open_until(client, topic, partition, next)?;
        let (low, end) = (log.low, log.end);
        if low > 0 || end < next {
            let place = Some(format!("{topic}/{partition}@{}", if low > 0 { 0 } else { end }));
            let what = format!("is gone, and was read: the topic has {low} to {end}, the service read up to {next}");
            found(Finding { place, what, ..Finding::default() });
        }
        while let Some(record) = log.read()? {
            match record.open() {
                Ok(incoming) => scratch.add(index, &record, &incoming)?,
                Err(_) if scratch.is_dead_lettered(index, record.partition, record.offset)? => {}
                Err(error) => {
                    let place = Some(record.place().to_string());
                    let what = format!("{error}, and it is not in the dead letters");
                    found(Finding { place, what, ..Finding::default() });
                }
            }
            records += 1;
            progress.at(records);
        }
    }
    Ok(records)
}

type Note = fn(&Scratch, usize, &Origin, u32) -> rusqlite::Result<()>;

/// Notes the records of the followed topics that are in the dead letters, and those that were replayed and consumed.
fn collect_dead_letters<A: Aggregate>(
    audit: &Audit<A>,
    consumed: &[(i32, i64)],
    scratch: &Scratch,
) -> Result<(), AuditError> {
    let Audit { client, service, follows, .. } = audit;
    let note_all = |mut log: PartitionLog, note: Note| {
        while let Some(record) = log.read()? {
            if let Some((origin, failures)) = dead_letters::failed(&record)
                && let Some(index) = follows.iter().position(|follow| follow.topic == origin.topic)
            {
                note(scratch, index, &origin, failures)?;
            }
        }
        Ok::<_, AuditError>(())
    };
    let retries = dead_letters::retries_of(service);
    for &(partition, next) in consumed {
        note_all(PartitionLog::open_until(client, &retries, partition, next)?, Scratch::add_replay)?;
    }
    // Read after the retries, so that a replayed record that has failed again is noted.
    let topic = dead_letters::topic_of(service);
    for partition in 0..topics::partitions(client, &topic)?.unwrap_or_default() {
        note_all(PartitionLog::open(client, &topic, partition)?, Scratch::add_dead_letter)?;
    }
    Ok(())
}

/// Returns the consumed offsets of a topic: each partition, with the offset of the next record.
fn consumed_offsets(moment: &Snapshot, cluster: &str, topic: &str) -> Vec<(i32, i64)> {
    // With the embedded broker, the inbox stores its offsets under a fixed name, because the broker's id changes.
    let is_of_cluster = |at: &TopicPartition| {
        at.cluster == cluster || (cluster.starts_with(topics::EMBEDDED_CLUSTER) && at.cluster == inbox::EPHEMERAL)
    };
    let consumed = moment.offsets.iter().filter(|(at, _)| at.topic == topic && is_of_cluster(at));
    consumed.map(|(at, next)| (at.partition, *next)).collect()
}

/// Checks streams, one after the other.
struct Judge<'a, 'f, A: Aggregate, X> {
    audit: &'a Audit<A>,
    scratch: &'a Scratch,
    topics: &'a mut [Followed],
    extra: &'a mut X,
    found: &'a mut Findings<'f>,
}

impl<A: Aggregate<Event: PartialEq>, X: ExtraChecks<A>> Judge<'_, '_, A, X> {
    fn judge(&mut self, stream: StreamId, events: &[Event], consumed: &[ConsumedRecord]) -> Result<(), AuditError> {
        let case = Case { stream, events, consumed };
        let mut judgement =
            Judgement { follows: &self.audit.follows, case: &case, found: self.found, answered: HashSet::new() };
        let Some(state) = judgement.effects(self.topics) else { return Ok(()) };
        for record in consumed {
            if !judgement.answered.contains(&record.id) {
                let ConsumedRecord { topic, partition, offset, .. } = *record;
                let is_dead_lettered = self.scratch.is_dead_lettered(topic, partition, offset)?;
                judgement.no_effect(&state, record, is_dead_lettered);
            }
        }
        self.extra.compare(&case, &state, self.found)
    }
}

struct Judgement<'a, 'f, A: Aggregate> {
    follows: &'a [Follow<A>],
    case: &'a Case<'a>,
    found: &'a mut Findings<'f>,
    /// The ids of the records that had an effect.
    answered: HashSet<EventId>,
}

impl<A: Aggregate<Event: PartialEq>> Judgement<'_, '_, A> {
    fn report(&mut self, event: Option<&Event>, record: Option<&ConsumedRecord>, what: String) {
        let topic = |record: &ConsumedRecord| self.follows.get(record.topic).map_or("", |follow| follow.topic);
        let place = record.map(|record| format!("{}/{}@{}", topic(record), record.partition, record.offset));
        let position = event.map(|event| event.position);
        (self.found)(Finding { stream: Some(self.case.stream), position, place, what });
    }

    fn read(&self, record: &ConsumedRecord) -> Result<Instruction<A::Command>, Unreadable> {
        match self.follows.get(record.topic) {
            Some(follow) => (follow.reader)(&record.incoming(self.case.stream)),
            None => Ok(Instruction::Ignore), // only followed topics are collected
        }
    }

    /// Checks every event that was caused by a record. The record must exist, must have caused no other event, and must
    /// result in this event when it is decided again. Returns the state after the last event, if all can be read.
    fn effects(&mut self, topics: &mut [Followed]) -> Option<A> {
        let mut state = A::default();
        // The rest of what the newest cause leads to. A command may lead to several events, one after the other.
        let mut decision: Option<(EventId, Vec<A::Event>)> = None;
        for event in self.case.events {
            let payload = match A::Event::decode(&event.payload) {
                Ok(decoded) => decoded.event,
                Err(error) => {
                    self.report(Some(event), None, format!("cannot be read: {error}"));
                    return None;
                }
            };
            let continues = decision.as_mut().is_some_and(|(last, rest): &mut (EventId, Vec<A::Event>)| {
                event.causation == Some(*last) && take(rest, &payload)
            });
            if !continues {
                let rest = |cause| self.effect(&state, event, &payload, cause, topics).map(|rest| (cause, rest));
                decision = event.causation.and_then(rest);
            }
            state.apply(&payload);
        }
        Some(state)
    }

    /// Checks the first event of a cause, and returns the other events that the cause leads to.
    fn effect(
        &mut self,
        state: &A,
        event: &Event,
        payload: &A::Event,
        cause: EventId,
        topics: &mut [Followed],
    ) -> Option<Vec<A::Event>> {
        let Some(record) = self.case.consumed.iter().find(|record| record.id == cause) else {
            let topics: Vec<_> = self.follows.iter().map(|follow| follow.topic).collect();
            let what = format!("is the effect of {cause}, which {} does not have", topics.join(", "));
            self.report(Some(event), None, what);
            return None;
        };
        if let Some(topic) = topics.get_mut(record.topic) {
            topic.effects += 1;
        }
        if !self.answered.insert(cause) {
            self.report(Some(event), Some(record), "has had a second effect".to_owned());
            return None;
        }
        let mut decided = match self.read(record) {
            Ok(Instruction::Execute(command)) => state.decide(&command).unwrap_or_default(),
            Ok(Instruction::Ignore | Instruction::Skip) | Err(_) => Vec::new(),
        };
        if !take(&mut decided, payload) {
            let what = format!("does not lead to {}, which was recorded for it", event.event_type);
            self.report(Some(event), Some(record), what);
        }
        Some(decided)
    }

    /// Checks a record without an effect. It must result in no event when it is decided again, or be in the dead
    /// letters.
    fn no_effect(&mut self, state: &A, record: &ConsumedRecord, is_dead_lettered: bool) {
        let refused = |why: String| (!is_dead_lettered).then(|| format!("{why}, and it is not in the dead letters"));
        let what = match self.read(record) {
            Ok(Instruction::Ignore | Instruction::Skip) => None,
            Err(unreadable) => refused(unreadable.to_string()),
            Ok(Instruction::Execute(command)) => match state.decide(&command) {
                Ok(events) if events.is_empty() => None,
                Ok(_) if is_dead_lettered => {
                    Some("is in the dead letters, and could be handled by now: replay it".to_owned())
                }
                Ok(events) => {
                    let missing: Vec<_> = events.iter().map(|event| event.event_type()).collect();
                    Some(format!("has had no effect: {} is missing", missing.join(", ")))
                }
                Err(rejection) => refused(rejection.to_string()),
            },
        };
        if let Some(what) = what {
            self.report(None, Some(record), what);
        }
    }
}

/// Takes an event out of a decision, if it is there.
fn take<E: PartialEq>(decided: &mut Vec<E>, event: &E) -> bool {
    let found = decided.iter().position(|other| other == event);
    found.map(|index| decided.remove(index)).is_some()
}
