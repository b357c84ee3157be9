//! Decides from which offset the inbox resumes in a partition whose log may have lost its tail. Pure.
//!
//! After a power loss or an unclean election, a log can end before the offset up to which it was consumed. It may also
//! have grown again since, with other records at the same offsets. So the inbox keeps the last record of each source,
//! and compares it with the record that the log has at that offset.
//!
//! If they differ, the inbox goes back to a record that it knows to be handled, and consumes again from there. It skips
//! the records whose `ce_sequence` says that they were handled. Going back further than necessary is harmless.
//!
//! Within a partition, the records of one source have growing `ce_sequence`s. Sources take turns: a store that replaces
//! another is the only one that publishes from then on.

use std::cmp::Reverse;

use crate::store::{ConsumedRecord, SourceProgress};

/// The result of a look-up at an offset: the first record at it or after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Record(ConsumedRecord),
    /// Bytes that cannot be read.
    Damaged,
    End,
}

/// The log of a partition.
pub(super) trait PartitionView {
    type Error;

    /// Returns the offset of the first record that the partition still has.
    fn low(&self) -> i64;

    /// Returns the offset after the last record.
    fn end(&self) -> i64;

    /// Returns the first record at or after an offset.
    fn first_from(&mut self, offset: i64) -> Result<Entry, Self::Error>;
}

/// The result of the comparison of a partition with what was consumed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// The log has what was consumed.
    Agrees,
    /// The log has lost what was consumed last. The inbox resumes at `from`.
    TailLost {
        from: i64,
        /// The record before `from`, if it is one that was handled.
        agreed: Option<ConsumedRecord>,
    },
    /// Unconsumed records are gone, or the store has no record to compare with the log.
    OffsetLost,
}

/// Compares a partition with the records that were consumed from it before the offset `next`.
pub(super) fn compare<L: PartitionView>(
    next: i64,
    sources: &[SourceProgress],
    log: &mut L,
) -> Result<Agreement, L::Error> {
    if log.low() > next {
        return Ok(Agreement::OffsetLost);
    }
    let mut known: Vec<_> = sources.iter().map(|source| &source.last).collect();
    known.retain(|last| (log.low()..next).contains(&last.offset));
    known.sort_unstable_by_key(|last| Reverse(last.offset));
    let is_short = next > log.end();
    let Some((newest, others)) = known.split_first() else {
        return match (is_short, sources.is_empty()) {
            (false, _) => Ok(Agreement::Agrees),
            (true, true) => Ok(Agreement::OffsetLost),
            (true, false) => go_back(next, log.low(), sources, log),
        };
    };
    if has(log, newest)? {
        let from = newest.offset + 1;
        let lost = Agreement::TailLost { from, agreed: Some((*newest).clone()) };
        return Ok(if is_short { lost } else { Agreement::Agrees });
    }
    let mut floor = log.low();
    for other in others {
        if has(log, other)? {
            floor = other.offset + 1;
            break;
        }
    }
    go_back(newest.offset, floor, sources, log)
}

/// Returns whether the log has a record. One that cannot be read any more counts as the same.
fn has<L: PartitionView>(log: &mut L, last: &ConsumedRecord) -> Result<bool, L::Error> {
    Ok(match log.first_from(last.offset)? {
        Entry::Record(record) => record == *last,
        Entry::Damaged => true,
        Entry::End => false,
    })
}

/// Finds a handled record before the offset `lost`, in steps that double. Goes back to `floor` if there is none.
fn go_back<L: PartitionView>(
    lost: i64,
    floor: i64,
    sources: &[SourceProgress],
    log: &mut L,
) -> Result<Agreement, L::Error> {
    let lost = lost.min(log.end());
    let mut step = 1;
    while lost - step >= floor {
        if let Entry::Record(record) = log.first_from(lost - step)?
            && record.offset < lost
            && was_handled(sources, &record)
        {
            return Ok(Agreement::TailLost { from: record.offset + 1, agreed: Some(record) });
        }
        step *= 2;
    }
    Ok(Agreement::TailLost { from: floor, agreed: None })
}

/// Returns whether a record was handled, by the sequence of its source.
fn was_handled(sources: &[SourceProgress], record: &ConsumedRecord) -> bool {
    let source = sources.iter().find(|source| source.last.source == record.source);
    let through = source.and_then(|source| source.pass_through.max(source.last.sequence));
    matches!((record.sequence, through), (Some(sequence), Some(through)) if sequence <= through)
}

/// Notes that the inbox goes back to `from`, before it consumes again.
pub(super) fn note_lost_tail(sources: &mut [SourceProgress], from: i64, agreed: Option<&ConsumedRecord>) {
    for source in sources {
        if source.last.offset >= from {
            source.pass_through = source.pass_through.max(source.last.sequence);
        }
        if let Some(agreed) = agreed.filter(|agreed| agreed.source == source.last.source) {
            source.last = agreed.clone();
        }
    }
}

/// Notes that a record is consumed. Returns true if it was handled before the partition lost its tail.
pub(super) fn note_consumed(sources: &mut Vec<SourceProgress>, record: ConsumedRecord) -> bool {
    let Some(source) = sources.iter_mut().find(|source| source.last.source == record.source) else {
        sources.push(SourceProgress { last: record, pass_through: None });
        return false;
    };
    let was_handled = match (record.sequence, source.pass_through) {
        (Some(sequence), Some(through)) if sequence <= through => true,
        (Some(_), _) => {
            source.pass_through = None;
            false
        }
        (None, _) => false,
    };
    source.last = record;
    was_handled
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, convert::Infallible};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A log in memory. An offset without a record has a marker or the record of an aborted transaction.
    #[derive(Default)]
    struct Log {
        low: usize,
        entries: Vec<Option<ConsumedRecord>>,
        lookups: usize,
    }

    impl PartitionView for Log {
        type Error = Infallible;

        fn low(&self) -> i64 {
            self.low as i64
        }

        fn end(&self) -> i64 {
            self.entries.len() as i64
        }

        fn first_from(&mut self, offset: i64) -> Result<Entry, Infallible> {
            self.lookups += 1;
            let found = self.entries.iter().skip(offset as usize).flatten().next();
            Ok(found.cloned().map_or(Entry::End, Entry::Record))
        }
    }

    impl Log {
        fn append(&mut self, source: usize, sequence: u64) {
            let offset = self.end();
            let (source, id) = (format!("/s/{source}"), format!("{source}-{sequence}"));
            self.entries.push(Some(ConsumedRecord { source, offset, sequence: Some(sequence), id }));
        }
    }

    /// The consumer of a log, and the number of times that each record was handled.
    #[derive(Default)]
    struct Reader {
        next: i64,
        sources: Vec<SourceProgress>,
        handled: HashMap<String, u32>,
    }

    impl Reader {
        fn verify(&mut self, log: &mut Log) -> Agreement {
            let Ok(agreement) = compare(self.next, &self.sources, log);
            if let Agreement::TailLost { from, agreed } = &agreement {
                note_lost_tail(&mut self.sources, *from, agreed.as_ref());
                self.next = *from;
            }
            agreement
        }

        fn consume(&mut self, log: &Log, count: usize) {
            let rest: Vec<_> = log.entries.iter().skip(self.next as usize).flatten().take(count).cloned().collect();
            for record in rest {
                self.next = record.offset + 1;
                let id = record.id.clone();
                if !note_consumed(&mut self.sources, record) {
                    *self.handled.entry(id).or_default() += 1;
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Publish(usize),
        /// Publishes something that readers do not see.
        Hidden(usize),
        /// Another store takes over.
        Replace,
        Consume(usize),
        /// The log loses its last entries. The publisher may notice, and publish its lost records again.
        Lose {
            entries: usize,
            publish_again: bool,
            /// Fill the log up to its former end before.
            fill: bool,
            grow: usize,
        },
        Verify,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1..20_usize).prop_map(Op::Publish),
            1 => (1..4_usize).prop_map(Op::Hidden),
            1 => Just(Op::Replace),
            4 => (1..20_usize).prop_map(Op::Consume),
            3 => (1..30_usize, any::<bool>(), any::<bool>(), 0..20_usize).prop_map(
                |(entries, publish_again, fill, grow)| Op::Lose { entries, publish_again, fill, grow }
            ),
            1 => Just(Op::Verify),
        ]
    }

    /// The current source, and the sequence of its last record.
    struct Publisher(usize, u64);

    impl Publisher {
        fn publish(&mut self, log: &mut Log, count: usize) {
            for _ in 0..count {
                self.1 += 1;
                log.append(self.0, self.1);
            }
        }

        fn lose(&mut self, log: &mut Log, entries: usize, publish_again: bool, fill: bool) {
            let end = log.entries.len();
            let lost = log.entries.split_off(end.saturating_sub(entries));
            if fill {
                log.entries.resize(end, None);
            }
            let own = format!("/s/{}", self.0);
            for record in lost.into_iter().flatten().filter(|record| publish_again && record.source == own) {
                log.append(self.0, record.sequence.expect("it has one"));
            }
        }
    }

    proptest! {
        #[test]
        fn every_record_of_the_log_is_handled_once_however_often_its_tail_is_lost(ops in vec(op(), 1..40)) {
            let (mut log, mut reader, mut publisher) = (Log::default(), Reader::default(), Publisher(0, 0));
            for op in ops {
                match op {
                    Op::Publish(count) => publisher.publish(&mut log, count),
                    Op::Hidden(count) => log.entries.extend(vec![None; count]),
                    Op::Replace => publisher = Publisher(publisher.0 + 1, 0),
                    Op::Consume(count) => reader.consume(&log, count),
                    Op::Lose { entries, publish_again, fill, grow } => {
                        publisher.lose(&mut log, entries, publish_again, fill);
                        publisher.publish(&mut log, grow);
                        reader.verify(&mut log);
                    }
                    Op::Verify => prop_assert_eq!(reader.verify(&mut log), Agreement::Agrees),
                }
            }
            reader.verify(&mut log);
            reader.consume(&log, usize::MAX);
            for record in log.entries.iter().flatten() {
                prop_assert!(reader.handled.contains_key(&record.id), "{} was not handled", record.id);
            }
            for (id, times) in &reader.handled {
                prop_assert_eq!(*times, 1, "{} was handled {} times", id, times);
            }
        }
    }

    fn reader_of(log: &Log) -> Reader {
        let mut reader = Reader::default();
        reader.consume(log, usize::MAX);
        reader
    }

    fn log_of(records: u64) -> Log {
        let mut log = Log::default();
        (1..=records).for_each(|sequence| log.append(0, sequence));
        log
    }

    #[test]
    fn a_short_tail_is_found_with_few_lookups_in_a_long_log() {
        let mut log = log_of(10_000);
        let mut reader = reader_of(&log);
        log.entries.truncate(9_990);
        log.append(0, 10_001);

        let agreement = reader.verify(&mut log);

        assert!(matches!(agreement, Agreement::TailLost { from: 9_980..=9_990, .. }), "{agreement:?}");
        assert!(log.lookups < 10, "{} lookups", log.lookups);
        reader.consume(&log, usize::MAX);
        assert_eq!(reader.handled["0-10001"], 1);
    }

    #[test]
    fn records_that_were_deleted_before_they_were_consumed_are_lost() {
        let mut log = log_of(10);
        let mut reader = Reader::default();
        reader.consume(&log, 5);
        log.low = 6;
        assert_eq!(reader.verify(&mut log), Agreement::OffsetLost);
        log.low = 5;
        assert_eq!(reader.verify(&mut log), Agreement::Agrees);
    }

    #[test]
    fn without_a_known_record_an_offset_beyond_the_end_is_lost() {
        let mut log = log_of(10);
        let mut reader = Reader { next: 11, ..Reader::default() };
        assert_eq!(reader.verify(&mut log), Agreement::OffsetLost);
        reader.next = 10;
        assert_eq!(reader.verify(&mut log), Agreement::Agrees);
    }
}
