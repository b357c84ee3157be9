//! Compares the followed partitions with what was consumed from them, and goes back where a log has lost its tail.

use rdkafka::error::KafkaError;

use super::{
    InboxError,
    agreement::{self, Agreement, Entry, PartitionView},
    error::SessionEnd,
    progress::Progress,
};
use crate::{
    inbox::dead_letters,
    kafka::{
        client::Client,
        probe::{Found, Probe},
        record::Received,
    },
    runtime::stop::Stop,
    store::ConsumedRecord,
};

/// The longest source and id that are kept. A longer one counts as missing.
const LONGEST: usize = 256;

/// A partition that has lost records that were consumed.
pub(super) struct LostTail {
    place: (String, i32),
    from: i64,
    agreed: Option<ConsumedRecord>,
}

/// Verifies every partition, and returns those that have lost their tails.
pub(super) fn find_lost_tails(client: &Client, progress: &Progress, stop: &Stop) -> Result<Vec<LostTail>, SessionEnd> {
    let probe = Probe::open(client).map_err(SessionEnd::Kafka)?;
    let mut lost = Vec::new();
    for place in progress.partitions() {
        if stop.is_requested() {
            return Err(SessionEnd::Stop);
        }
        let (next, (topic, partition)) = (progress.next_of(place), place);
        let mut log = ProbedPartition::open(&probe, topic, *partition).map_err(SessionEnd::Kafka)?;
        match agreement::compare(next, progress.sources_of(place), &mut log).map_err(SessionEnd::Kafka)? {
            Agreement::Agrees => {}
            Agreement::OffsetLost => {
                let (topic, partition) = place.clone();
                return Err(InboxError::OffsetLost { topic, partition, offset: Some(next) }.into());
            }
            Agreement::TailLost { from, agreed } => lost.push(LostTail { place: place.clone(), from, agreed }),
        }
    }
    Ok(lost)
}

/// Goes back where a partition has lost its tail, and says so.
pub(super) fn go_back(lost: &[LostTail], progress: &mut Progress) {
    let mut partitions = Vec::new();
    for LostTail { place, from, agreed } in lost {
        partitions.push(format!("{}/{} from offset {} to {from}", place.0, place.1, progress.next_of(place)));
        progress.go_back(place, *from, agreed.as_ref());
    }
    if !partitions.is_empty() {
        tracing::warn!(
            partitions = partitions.join(", "),
            "topics have lost records that were consumed: resuming from an earlier offset, and skipping handled records"
        );
    }
}

/// Returns what recognizes a record in the log.
pub(super) fn mark(record: &Received) -> ConsumedRecord {
    let text = |name| record.header(name).filter(|text| text.len() <= LONGEST).unwrap_or_default().to_owned();
    let sequence = || record.header("ce_sequence")?.parse::<i64>().ok()?.try_into().ok();
    // Replays are in another order than their sequences.
    let (source, sequence) =
        if dead_letters::is_retry(record) { (String::new(), None) } else { (text("ce_source"), sequence()) };
    ConsumedRecord { source, offset: record.offset, sequence, id: text("ce_id") }
}

/// A partition whose records are looked up one by one.
struct ProbedPartition<'a> {
    probe: &'a Probe,
    topic: &'a str,
    partition: i32,
    low: i64,
    end: i64,
}

impl<'a> ProbedPartition<'a> {
    fn open(probe: &'a Probe, topic: &'a str, partition: i32) -> Result<Self, KafkaError> {
        let (low, end) = probe.range(topic, partition)?;
        Ok(Self { probe, topic, partition, low, end })
    }
}

impl PartitionView for ProbedPartition<'_> {
    type Error = KafkaError;

    fn low(&self) -> i64 {
        self.low
    }

    fn end(&self) -> i64 {
        self.end
    }

    fn first_from(&mut self, offset: i64) -> Result<Entry, KafkaError> {
        let found = self.probe.first_from(self.topic, self.partition, offset, self.end)?;
        Ok(match found {
            Found::Record(record) => Entry::Record(mark(&record)),
            Found::Damaged => Entry::Damaged,
            Found::End => Entry::End,
        })
    }
}
