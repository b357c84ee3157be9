//! Compares the store with its topic, event by event. The partitions of the topic are merged by position.

use std::collections::BTreeMap;

use super::{Audit, AuditError, Finding, Findings, Progress};
use crate::{
    aggregate::Aggregate,
    event::{Event, Position},
    kafka::{
        record::{Received, Record, Source},
        topic_log::TopicLog,
        topics,
    },
    store::{Log, ReadError},
};

/// The number of events that are read from the store at a time.
const BATCH: usize = 1000;

/// The maximum number of gaps that are kept in memory. Further gaps are not reported one by one.
const GAPS: usize = 10_000;

/// The numbers of compared records.
pub(super) struct Published {
    pub(super) compared: u64,
    pub(super) others: u64,
}

impl Published {
    pub(super) fn compare<A: Aggregate>(
        audit: &Audit<A>,
        head: Position,
        found: &mut Findings<'_>,
    ) -> Result<Self, AuditError> {
        let source = audit.log.id().source(audit.service);
        let mut topic = TopicLog::open(&audit.client, audit.topic.name, &source)?;
        let mut progress = Progress::new("records compared with the store", head.0);
        let partitions = match audit.log.fact(&topics::partitions_fact(audit.topic.name))?.map(|known| known.parse()) {
            Some(Ok(known)) if known != topic.partitions() => {
                let what = format!("{} has {} partitions, and had {known}", audit.topic.name, topic.partitions());
                found(Finding { what, ..Finding::default() });
                known
            }
            _ => topic.partitions(),
        };
        let mut comparison = Comparison {
            stored: Stored { log: &audit.log, batch: Vec::new() },
            source: Source {
                topic: audit.topic.name.to_owned(),
                uri: source,
                message: audit.topic.message,
                partitions,
            },
            head,
            newest: head,
            last: 0,
            gaps: BTreeMap::new(),
        };
        let mut compared = 0;
        while let Some((position, record)) = topic.read()? {
            if comparison.add(position, &record, found)? {
                compared += 1;
                progress.at(compared);
            }
        }
        comparison.finish(found)?;
        Ok(Self { compared, others: topic.others })
    }
}

struct Comparison<'a> {
    stored: Stored<'a>,
    source: Source,
    /// The last position that is audited.
    head: Position,
    /// The newest position of the store, when it was last read.
    newest: Position,
    /// The highest position so far.
    last: u64,
    /// The ranges of positions that were not in the topic so far: from the key to the value.
    gaps: BTreeMap<u64, u64>,
}

impl Comparison<'_> {
    /// Compares the next record. Returns false if it is newer than the audit.
    fn add(&mut self, position: u64, record: &Received, found: &mut Findings<'_>) -> Result<bool, AuditError> {
        let event = self.stored.event(position)?;
        let stream = event.as_ref().map(|event| event.stream);
        let mut tell = |what: String| {
            found(Finding {
                stream,
                position: Some(Position(position)),
                place: Some(record.place().to_string()),
                what,
            });
        };
        if position > self.head.0 || position == 0 {
            if Position(position) > self.newest {
                self.newest = self.stored.log.head()?; // the service may have stored events since
            }
            let is_newer = position > 0 && Position(position) <= self.newest;
            if !is_newer {
                tell("is an event that the store does not know".to_owned());
            }
            return Ok(!is_newer);
        }
        if position > self.last {
            if position > self.last + 1 && self.gaps.len() < GAPS {
                self.gaps.insert(self.last + 1, position - 1);
            }
            self.last = position;
        } else if self.fill(position) {
            tell(format!("comes after position {}: out of order", self.last));
        } else {
            tell("is there twice".to_owned());
        }
        match event {
            None => tell("is an event that the store does not know".to_owned()),
            Some(event) => differences(record, &Record::of(&event, &self.source)).into_iter().for_each(tell),
        }
        Ok(true)
    }

    /// Removes a position from the gaps. Returns false if it is in no gap.
    fn fill(&mut self, position: u64) -> bool {
        let gap = self.gaps.range(..=position).next_back().map(|(first, last)| (*first, *last));
        let Some((first, last)) = gap.filter(|(_, last)| position <= *last) else { return false };
        self.gaps.remove(&first);
        if first < position {
            self.gaps.insert(first, position - 1);
        }
        if position < last {
            self.gaps.insert(position + 1, last);
        }
        true
    }

    /// Reports the positions that are not in the topic.
    fn finish(mut self, found: &mut Findings<'_>) -> Result<(), AuditError> {
        if self.last < self.head.0 {
            self.gaps.insert(self.last + 1, self.head.0);
        }
        if self.gaps.len() >= GAPS {
            let what = format!("{} lacks more events than are listed", self.source.topic);
            found(Finding { what, ..Finding::default() });
        }
        for (first, last) in self.gaps {
            let what = match last - first {
                0 => format!("is not in {}", self.source.topic),
                _ => format!("and all up to {last} are not in {}", self.source.topic),
            };
            let stream = self.stored.event(first)?.map(|event| event.stream);
            found(Finding { stream, position: Some(Position(first)), place: None, what });
        }
        Ok(())
    }
}

/// Returns the differences between a record and the expected record of its event.
fn differences(record: &Received, expected: &Record) -> Vec<String> {
    let mut differences = Vec::new();
    if record.value != expected.value {
        differences.push("its value is not the one that is stored".to_owned());
    }
    if record.key != expected.key {
        differences.push("its key is another stream's".to_owned());
    }
    if let Some(partition) = expected.partition.filter(|partition| *partition != record.partition) {
        differences.push(format!("its key belongs to partition {partition}"));
    }
    for (name, value) in &expected.headers {
        let actual = record.headers.iter().rfind(|(key, _)| key == name);
        if actual.is_none_or(|(_, actual)| actual != value) {
            differences.push(format!("its header {name} is not the one that it must have"));
        }
    }
    differences
}

/// The events of the store by position, read in batches on demand.
struct Stored<'a> {
    log: &'a Log,
    batch: Vec<Event>,
}

impl Stored<'_> {
    fn event(&mut self, position: u64) -> Result<Option<Event>, ReadError> {
        let Some(before) = position.checked_sub(1) else { return Ok(None) };
        let is_beyond = self.batch.last().is_none_or(|last| position > last.position.0);
        let is_before = self.batch.first().is_some_and(|first| position < first.position.0);
        if is_beyond || is_before {
            let batch = self.log.read_all(Position(before), BATCH)?;
            if is_before {
                // A record out of order. Keep the current batch for the records in order.
                return Ok(batch.into_iter().next().filter(|event| event.position.0 == position));
            }
            self.batch = batch;
        }
        Ok(self.in_batch(position).cloned())
    }

    fn in_batch(&self, position: u64) -> Option<&Event> {
        // Not by its index, because the store may have gaps, and they must be found.
        let index = self.batch.binary_search_by_key(&position, |event| event.position.0).ok()?;
        self.batch.get(index)
    }
}
