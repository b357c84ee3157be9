//! Compares the end of the topic with the store, so that the relay notices records that the topic has lost. Pure: the
//! relay and the model both use it.
//!
//! The topic is the truth about what was published. A checkpoint that is older than the topic therefore publishes
//! nothing twice, and a topic that lacks its newest records is noticed before anything is published behind them.

use crate::event::{EventId, Position};

/// How far a topic is known to hold the events of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Published {
    /// The position of the last published event.
    pub through: Position,
    /// The last record of the store in each partition.
    pub partitions: Vec<LastRecord>,
}

/// The last record of the store in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LastRecord {
    /// The position of its event, or [`Position::START`] if the partition has no record of the store.
    pub position: Position,
    /// The offset of the record. Without a record, the partition has none of this store up to this offset.
    pub offset: i64,
}

/// The newest record of the store that was found in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// A record.
    Record {
        /// The position of its event, from the header `ce_sequence`.
        position: Position,
        /// The id of its event.
        event: EventId,
        /// The offset of the record.
        offset: i64,
    },
    /// There is no record.
    Nothing {
        /// The end of the partition.
        end: i64,
    },
    /// There is no record, and the partition's oldest records were deleted. Nothing can be compared.
    Deleted {
        /// The offset of the oldest record that is left.
        low: i64,
    },
}

/// An event that was published and is not in the topic any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lost {
    /// The partition.
    pub partition: usize,
    /// The position of the partition's last event, which is missing.
    pub position: Position,
}

impl Published {
    /// Returns the state of a topic that nothing was published to.
    pub fn nothing(partitions: usize) -> Self {
        let none = LastRecord { position: Position::START, offset: -1 };
        Self { through: Position::START, partitions: vec![none; partitions] }
    }

    /// Returns the position up to which events were published, as far as checkpoint, topic and this state know.
    pub fn known_through(&self, checkpoint: Position, found: &[Found]) -> Position {
        let found = found.iter().filter_map(|found| match found {
            Found::Record { position, .. } => Some(*position),
            Found::Nothing { .. } | Found::Deleted { .. } => None,
        });
        found.fold(self.through.max(checkpoint), Position::max)
    }

    /// Returns the state with the offsets of what was found, if no published event is missing. All events up to
    /// [`known_through`](Self::known_through) must have been noted before.
    ///
    /// An event that is missing before a later record of its partition is not noticed here. `audit` compares the whole
    /// topic.
    pub fn verify(mut self, found: &[Found]) -> Result<Self, Lost> {
        for (partition, (last, found)) in self.partitions.iter_mut().zip(found).enumerate() {
            match *found {
                Found::Record { position, offset, .. } if position == last.position => last.offset = offset,
                Found::Nothing { end } if last.position == Position::START => last.offset = end - 1,
                Found::Deleted { low } => last.offset = low - 1,
                Found::Record { .. } | Found::Nothing { .. } => {
                    return Err(Lost { partition, position: last.position });
                }
            }
        }
        Ok(self)
    }

    /// Notes published events, each with its partition, in the order of the store.
    pub fn note_events(&mut self, events: impl IntoIterator<Item = (Position, usize)>) {
        for (position, partition) in events {
            self.through = position;
            self.partitions[partition].position = position;
        }
    }

    /// Notes the offset of the last record in a partition.
    pub fn note_offset(&mut self, partition: usize, offset: i64) {
        if let Some(last) = self.partitions.get_mut(partition) {
            last.offset = offset;
        }
    }

    /// Returns true if a record at this offset takes the place of one that was published before.
    pub fn has_passed(&self, partition: usize, offset: i64) -> bool {
        self.partitions.get(partition).is_some_and(|last| offset <= last.offset)
    }

    /// Writes the state as text: the position, and `position@offset` of each partition.
    pub(super) fn to_text(&self) -> String {
        let partitions = self.partitions.iter().map(|last| format!(" {}@{}", last.position, last.offset));
        std::iter::once(self.through.to_string()).chain(partitions).collect()
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let through = Position(words.next()?.parse().ok()?);
        let last = |word: &str| {
            let (position, offset) = word.split_once('@')?;
            Some(LastRecord { position: Position(position.parse().ok()?), offset: offset.parse().ok()? })
        };
        Some(Self { through, partitions: words.map(last).collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(position: u64, offset: i64) -> Found {
        Found::Record { position: Position(position), event: EventId::generate(), offset }
    }

    fn last(position: u64, offset: i64) -> LastRecord {
        LastRecord { position: Position(position), offset }
    }

    #[test]
    fn a_state_reads_back_as_it_was_written() {
        let state = Published { through: Position(7), partitions: vec![last(7, 12), last(0, -1)] };
        assert_eq!(state.to_text(), "7 7@12 0@-1");
        assert_eq!(Published::parse(&state.to_text()), Some(state));
        assert_eq!(Published::parse("7 7@12 x"), None);
    }

    /// Verifies a topic of which the first `known` events were verified before.
    fn verify(
        events: &[(u64, usize)],
        known: usize,
        partitions: usize,
        checkpoint: u64,
        found: &[Found],
    ) -> Result<Published, Lost> {
        let events: Vec<_> = events.iter().map(|(position, partition)| (Position(*position), *partition)).collect();
        let mut published = Published::nothing(partitions);
        published.note_events(events[..known].iter().copied());
        let through = published.known_through(Position(checkpoint), found);
        published.note_events(events[known..].iter().copied().take_while(|(position, _)| *position <= through));
        published.verify(found)
    }

    const EVENTS: &[(u64, usize)] = &[(1, 0), (2, 1), (3, 0)];

    #[test]
    fn a_checkpoint_that_went_back_publishes_from_the_end_of_the_topic() {
        let after = verify(EVENTS, 0, 2, 1, &[record(3, 9), record(2, 4)]).expect("complete");
        assert_eq!(after, Published { through: Position(3), partitions: vec![last(3, 9), last(2, 4)] });
    }

    #[test]
    fn the_lost_tail_of_one_partition_is_noticed_behind_the_records_of_another() {
        let lost = verify(EVENTS, 0, 2, 3, &[record(3, 9), Found::Nothing { end: 5 }]);
        assert_eq!(lost, Err(Lost { partition: 1, position: Position(2) }));
    }

    #[test]
    fn a_topic_that_ends_before_the_checkpoint_has_lost_a_tail() {
        let lost = verify(EVENTS, 0, 2, 3, &[record(1, 0), record(2, 4)]);
        assert_eq!(lost, Err(Lost { partition: 0, position: Position(3) }));
    }

    #[test]
    fn deleted_records_are_not_a_lost_tail() {
        let after = verify(EVENTS, 1, 2, 3, &[Found::Deleted { low: 8 }, record(2, 4)]).expect("not comparable");
        assert_eq!(after, Published { through: Position(3), partitions: vec![last(3, 7), last(2, 4)] });
    }

    proptest! {
        /// A topic is found complete exactly if each partition ends with the store's last event of that partition.
        #[test]
        fn a_cut_is_noticed_in_any_partition(
            partitions in prop::collection::vec(0..4_usize, 1..40),
            known in 0..40_usize,
            cut in 0..5_usize,
            lost in 1..3_usize,
        ) {
            let events: Vec<_> = (1..).zip(partitions).collect();
            let of = |partition| events.iter().filter(move |(_, other)| *other == partition);
            let found: Vec<_> = (0..4)
                .map(|partition| {
                    let kept = of(partition).count().saturating_sub(if partition == cut { lost } else { 0 });
                    let last = of(partition).take(kept).last();
                    last.map_or(Found::Nothing { end: 0 }, |(position, _)| record(*position, kept as i64 - 1))
                })
                .collect();
            let verified = verify(&events, known.min(events.len()), 4, events.len() as u64, &found);
            prop_assert_eq!(verified.is_ok(), of(cut).count() == 0);
        }
    }
}
