//! The followed topic beside the store, stream by stream: whether each record has had its effect, once.

use std::{collections::HashSet, sync::mpsc, thread};

use super::{
    Audit, AuditError, Besides, Finding, Findings, Progress,
    scratch::{Heard, Scratch, Sorted},
};
use crate::{
    aggregate::{Aggregate, Payload as _},
    event::{Event, EventId, StreamId},
    inbox::{Asked, Reader, dead_letters},
    kafka::{partition_log::PartitionLog, topics},
    store::{ReadError, Snapshot},
};

/// How many events are read from the store at a time.
const BATCH: usize = 5000;

/// All that is known of one stream at the moment that the audit is of.
#[derive(Debug)]
pub struct Case<'a> {
    /// Which one.
    pub stream: StreamId,
    /// Its events in the store.
    pub events: &'a [Event],
    /// What the followed topic says of it, as far as that was read.
    pub heard: &'a [Heard],
}

/// What was compared.
pub(super) struct Followed {
    pub(super) records: u64,
    pub(super) effects: u64,
    pub(super) set_aside: u64,
}

impl Followed {
    pub(super) fn compare<A: Aggregate<Event: PartialEq>>(
        audit: &Audit<A>,
        moment: &Snapshot,
        collected: Collected,
        besides: &mut impl Besides<A>,
        found: &mut Findings<'_>,
    ) -> Result<Self, AuditError> {
        let Collected { scratch, records, findings } = collected;
        findings.into_iter().for_each(&mut *found);
        let mut compared = Self { records, effects: 0, set_aside: scratch.count_set_aside()? };

        let mut progress = Progress::new("events compared with what led to them", moment.head.0);
        let mut events = 0;
        let mut statement = scratch.sorted()?;
        let mut heard = Sorted::begin(&mut statement)?;
        thread::scope(|scope| {
            let (batches, read) = mpsc::sync_channel(0); // whose sender is one batch ahead
            let reading = scope.spawn(move || read_streams(audit, moment, &batches));
            for streams in read {
                for stream in streams? {
                    let Some(first) = stream.first() else { continue };
                    // Those that the store knows nothing of come in between.
                    while let Some(unknown) = heard.stream().filter(|other| *other < first.stream) {
                        compared.effects +=
                            judge(audit, &scratch, unknown, &[], &heard.about(unknown)?, besides, found)?;
                    }
                    let about = heard.about(first.stream)?;
                    compared.effects += judge(audit, &scratch, first.stream, &stream, &about, besides, found)?;
                    events += stream.len() as u64;
                    progress.at(events);
                }
            }
            reading.join().map_err(|_panic| AuditError::Panicked)?;
            while let Some(unknown) = heard.stream() {
                compared.effects += judge(audit, &scratch, unknown, &[], &heard.about(unknown)?, besides, found)?;
            }
            Ok::<_, AuditError>(())
        })?;
        Ok(compared)
    }
}

/// Reads all streams in the order of their ids, for as long as someone takes them.
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

/// The followed topic as far as the service had read it, sorted.
pub(super) struct Collected {
    scratch: Scratch,
    records: u64,
    /// Of records that are gone, or are no events.
    findings: Vec<Finding>,
}

impl Collected {
    pub(super) fn collect<A: Aggregate>(audit: &Audit<A>, moment: &Snapshot) -> Result<Self, AuditError> {
        let scratch = Scratch::open(&audit.log)?;
        let cluster = topics::cluster_id(&audit.client)?;
        collect_set_aside(audit, &read_offsets(moment, &cluster, &dead_letters::retries_of(audit.service)), &scratch)?;
        let mut findings = Vec::new();
        let read = read_offsets(moment, &cluster, audit.followed);
        let records = collect(audit, &read, &scratch, &mut |finding| findings.push(finding))?;
        Ok(Self { scratch, records, findings })
    }
}

/// Reads the followed topic as far as the service had. Returns how many records that was.
fn collect<A: Aggregate>(
    audit: &Audit<A>,
    read: &[(i32, i64)],
    scratch: &Scratch,
    found: &mut Findings<'_>,
) -> Result<u64, AuditError> {
    // Offsets, of which the ends of transactions take some: a little more than there are records.
    let offsets: i64 = read.iter().map(|(_, next)| next).sum();
    let mut progress = Progress::new("records of the followed topic read", offsets.unsigned_abs());
    let mut records = 0;
    for &(partition, next) in read {
        let mut log = PartitionLog::open_until(&audit.client, audit.followed, partition, next)?;
        let (low, end) = (log.low, log.end);
        if low > 0 || end < next {
            let place = Some(format!("{}/{partition}@{}", audit.followed, if low > 0 { 0 } else { end }));
            let what = format!("is gone, and was read: the topic has {low} to {end}, the service read up to {next}");
            found(Finding { place, what, ..Finding::default() });
        }
        while let Some(record) = log.read()? {
            match record.open() {
                Ok(incoming) => scratch.add(record.partition, record.offset, &incoming)?,
                Err(_) if scratch.is_set_aside(record.partition, record.offset)? => {}
                Err(error) => {
                    let place = Some(record.place().to_string());
                    found(Finding { place, what: format!("{error}, and it is not set aside"), ..Finding::default() });
                }
            }
            records += 1;
            progress.at(records);
        }
    }
    Ok(records)
}

/// Notes which records of the followed topic the service has set aside, and which of these it has read again.
fn collect_set_aside<A: Aggregate>(audit: &Audit<A>, read: &[(i32, i64)], scratch: &Scratch) -> Result<(), AuditError> {
    let Audit { client, service, followed, .. } = audit;
    let retries = dead_letters::retries_of(service);
    for &(partition, next) in read {
        let mut log = PartitionLog::open_until(client, &retries, partition, next)?;
        while let Some(record) = log.read()? {
            if let Some((partition, offset, failures)) = dead_letters::failures_of(&record, followed) {
                scratch.add_retried(partition, offset, failures)?;
            }
        }
    }
    // After the retries: what has failed again by then is among them.
    let topic = dead_letters::topic_of(service);
    for partition in 0..topics::partitions(client, &topic)?.unwrap_or_default() {
        let mut log = PartitionLog::open(client, &topic, partition)?;
        while let Some(record) = log.read()? {
            if let Some((partition, offset, failures)) = dead_letters::failures_of(&record, followed) {
                scratch.add_set_aside(partition, offset, failures)?;
            }
        }
    }
    Ok(())
}

/// How far the service had read a topic of the cluster: each partition, and the offset of its next record.
fn read_offsets(moment: &Snapshot, cluster: &str, topic: &str) -> Vec<(i32, i64)> {
    let read = moment.offsets.iter().filter(|(at, _)| at.cluster == cluster && at.topic == topic);
    read.map(|(at, next)| (at.partition, *next)).collect()
}

/// Judges one stream, and returns how many of its events are effects of records.
fn judge<A: Aggregate<Event: PartialEq>>(
    audit: &Audit<A>,
    scratch: &Scratch,
    stream: StreamId,
    events: &[Event],
    heard: &[Heard],
    besides: &mut impl Besides<A>,
    found: &mut Findings<'_>,
) -> Result<u64, AuditError> {
    let case = Case { stream, events, heard };
    let mut judgement =
        Judgement { topic: audit.followed, reader: audit.reader, case: &case, found, answered: HashSet::new() };
    let Some(state) = judgement.effects::<A>() else { return Ok(0) };
    for heard in case.heard {
        if !judgement.answered.contains(&heard.id) {
            let is_set_aside = scratch.is_set_aside(heard.partition, heard.offset)?;
            judgement.no_effect(&state, heard, is_set_aside);
        }
    }
    besides.compare(&case, &state, found)?;
    Ok(events.iter().filter(|event| event.causation.is_some()).count() as u64)
}

struct Judgement<'a, 'f, C> {
    topic: &'static str,
    reader: Reader<C>,
    case: &'a Case<'a>,
    found: &'a mut Findings<'f>,
    /// The records that have had an effect.
    answered: HashSet<EventId>,
}

impl<C> Judgement<'_, '_, C> {
    fn tell(&mut self, event: Option<&Event>, heard: Option<&Heard>, what: String) {
        let place = heard.map(|heard| format!("{}/{}@{}", self.topic, heard.partition, heard.offset));
        let position = event.map(|event| event.position);
        (self.found)(Finding { stream: Some(self.case.stream), position, place, what });
    }

    /// Every event that a record led to: that record must be there, have led to nothing else, and lead to just this.
    fn effects<A: Aggregate<Command = C, Event: PartialEq>>(&mut self) -> Option<A> {
        let mut state = A::default();
        for event in self.case.events {
            let payload = match A::Event::decode(&event.payload) {
                Ok(payload) => payload,
                Err(error) => {
                    self.tell(Some(event), None, format!("cannot be read: {error}"));
                    return None;
                }
            };
            if let Some(cause) = event.causation {
                match self.case.heard.iter().find(|heard| heard.id == cause) {
                    None => {
                        let what = format!("is the effect of {cause}, which {} does not have", self.topic);
                        self.tell(Some(event), None, what);
                    }
                    Some(heard) if !self.answered.insert(cause) => {
                        self.tell(Some(event), Some(heard), "has had a second effect".to_owned());
                    }
                    Some(heard) => {
                        if !self.leads_to(&state, heard, &payload) {
                            let what = format!("does not lead to {}, which was recorded for it", event.event_type);
                            self.tell(Some(event), Some(heard), what);
                        }
                    }
                }
            }
            state.apply(&payload);
        }
        Some(state)
    }

    fn leads_to<A: Aggregate<Command = C, Event: PartialEq>>(
        &self,
        state: &A,
        heard: &Heard,
        payload: &A::Event,
    ) -> bool {
        let Ok(Asked::Command(_, command)) = (self.reader)(&heard.incoming(self.case.stream)) else { return false };
        state.decide(&command).is_ok_and(|decided| decided.contains(payload))
    }

    /// A record without an effect must be one that leads to nothing: whatever came first, deciding it again tells. Or one
    /// that cannot be read, and is set aside.
    fn no_effect<A: Aggregate<Command = C>>(&mut self, state: &A, heard: &Heard, is_set_aside: bool) {
        let refused = |why: String| (!is_set_aside).then(|| format!("{why}, and it is not set aside"));
        let what = match (self.reader)(&heard.incoming(self.case.stream)) {
            Ok(Asked::Nothing | Asked::Newer) => None,
            Err(reason) => refused(reason),
            Ok(Asked::Command(_, command)) => match state.decide(&command) {
                Ok(events) if events.is_empty() => None,
                Ok(_) if is_set_aside => Some("is set aside, and could be read by now: put it back".to_owned()),
                Ok(events) => {
                    let missing: Vec<_> = events.iter().map(|event| event.event_type()).collect();
                    Some(format!("has had no effect: {} is missing", missing.join(", ")))
                }
                Err(rejection) => refused(rejection.to_string()),
            },
        };
        if let Some(what) = what {
            self.tell(None, Some(heard), what);
        }
    }
}
