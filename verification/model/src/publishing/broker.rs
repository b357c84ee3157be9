//! A minimal broker: one log, transactions that are fenced by epoch, and requests that arrive late.

use oncelog::{
    event::{EventId, Position},
    relay::checkpoint::Checkpoint,
};

/// The number of producers of one process. They take turns.
pub(super) const TURNS: usize = 2;

/// The maximum number of processes.
pub(super) const PROCESSES: usize = 2;

/// One producer of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// The process.
    pub process: usize,
    /// The number of the producer in its process. The `transactional.id` contains it, and is otherwise the same for all
    /// processes.
    pub turn: usize,
}

/// A record in the log. Aborted records are removed, because no reader ever sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The written value.
    pub value: Value,
    /// The producer whose transaction is still open, or `None` if the record is committed.
    pub open: Option<Producer>,
    /// True if its publisher has requested the commit. Only the checker reads this.
    pub meant: bool,
}

/// The value of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// An event of a store.
    Event(EventId),
    /// The position up to which a store is published.
    Checkpoint {
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// True if its writer already knew that it was the publisher. Only the checker reads this.
        known: bool,
    },
}

/// A request to end a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// The producer that sent it.
    pub by: Producer,
    /// True for a commit, false for an abort.
    pub commit: bool,
}

/// The broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broker {
    /// The records, in the order of their offsets.
    pub log: Vec<Entry>,
    /// True for a producer with the newest epoch of its `transactional.id`, by process and turn.
    pub newest: [[bool; TURNS]; PROCESSES],
    /// Copies of requests that are still in flight. Those of older epochs are removed, because the broker rejects them.
    pub under_way: Vec<End>,
    /// True if a publisher that knew of its own claim has written after a successor, whose term is not lower.
    pub came_back: bool,
    /// True if the log may lose records.
    pub keeps_superseded: bool,
    /// The checkpoint that the newest one has replaced. Kept only if the log may lose records.
    pub superseded: Option<Checkpoint>,
    /// True if the log has lost its newest event.
    pub lost_tail: bool,
}

impl Broker {
    /// `init_transactions`: aborts open transactions of the id, and fences its other producers with a new epoch.
    pub fn initialize(&mut self, by: Producer, same_id: impl Fn(Producer) -> bool) {
        self.log.retain(|entry| !entry.open.is_some_and(&same_id));
        self.under_way.retain(|end| !same_id(end.by));
        for process in 0..PROCESSES {
            let other = Producer { process, turn: by.turn };
            self.newest[process][by.turn] &= !same_id(other);
        }
        self.newest[by.process][by.turn] = true;
    }

    /// Returns true if the producer is not fenced.
    pub fn takes(&self, by: Producer) -> bool {
        self.newest[by.process][by.turn]
    }

    /// `Produce`: appends a record to the producer's open transaction.
    pub fn write(&mut self, by: Producer, value: Value) {
        self.log.push(Entry { value, open: Some(by), meant: false });
    }

    /// `EndTxn`. The request does not identify a transaction: it ends the one that its producer has open on arrival.
    pub fn end(&mut self, End { by, commit }: End) {
        if !commit {
            self.log.retain(|entry| entry.open != Some(by));
        }
        self.open(by).for_each(|entry| entry.open = None);
        self.compact();
    }

    /// Aborts a transaction that exceeded the transaction timeout, and fences its producer.
    pub fn time_out(&mut self, by: Producer) {
        self.end(End { by, commit: false });
        self.under_way.retain(|end| end.by != by);
        self.newest[by.process][by.turn] = false;
    }

    /// Returns the records of a producer's open transaction.
    pub fn open(&mut self, by: Producer) -> impl Iterator<Item = &mut Entry> {
        self.log.iter_mut().filter(move |entry| entry.open == Some(by))
    }

    /// Returns the events that a `read_committed` reader sees: all before the first open transaction.
    pub fn events(&self) -> impl Iterator<Item = (&Entry, EventId)> {
        let events = self.log.iter().filter_map(|entry| match entry.value {
            Value::Event(event) => Some((entry, event)),
            Value::Checkpoint { .. } => None,
        });
        events.take_while(|(entry, _)| entry.open.is_none())
    }

    /// Returns the newest checkpoint that a `read_committed` reader sees.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.decided().last().map(|(_, checkpoint, _)| checkpoint)
    }

    /// Returns true if the log has lost events up to a position. The producer sees it from the offset of its next record.
    pub fn ends_before(&self, position: Position, by: Producer) -> bool {
        let is_earlier = |entry: &&Entry| matches!(entry.value, Value::Event(_)) && entry.open != Some(by);
        (self.log.iter().filter(is_earlier).count() as u64) < position.0
    }

    /// Loses the newest checkpoint, if there was one before it.
    pub fn lose_checkpoint(&mut self) {
        let newest = self.decided().last().map(|(entry, ..)| entry);
        let (Some(newest), Some(checkpoint)) = (newest, self.superseded.take()) else { return };
        self.log[newest].value = Value::Checkpoint { checkpoint, known: false };
    }

    /// Loses the newest event, if it is committed.
    pub fn lose_event(&mut self) {
        let newest = self.log.iter().rposition(|entry| matches!(entry.value, Value::Event(_)));
        let Some(newest) = newest.filter(|newest| self.log[*newest].open.is_none()) else { return };
        self.log.remove(newest);
        self.lost_tail = true;
    }

    /// Returns true if no checkpoint is in an open transaction.
    pub fn is_decided(&self) -> bool {
        self.checkpoints().all(|(entry, ..)| self.log[entry].open.is_none())
    }

    /// Removes all checkpoints but the newest. First records whether a replaced publisher has written again.
    fn compact(&mut self) {
        let decided: Vec<_> = self.decided().collect();
        let follow = |(one, next): (&(_, Checkpoint, _), &(_, Checkpoint, bool))| {
            next.2 && one.1.publisher != next.1.publisher && next.1.term <= one.1.term
        };
        self.came_back |= decided.iter().zip(decided.iter().skip(1)).any(follow);
        if self.keeps_superseded
            && let [.., (_, superseded, _), _] = &decided[..]
        {
            self.superseded = Some(*superseded);
        }
        for (superseded, ..) in decided.iter().rev().skip(1) {
            self.log.remove(*superseded);
        }
    }

    fn decided(&self) -> impl Iterator<Item = (usize, Checkpoint, bool)> {
        self.checkpoints().take_while(|(entry, ..)| self.log[*entry].open.is_none())
    }

    fn checkpoints(&self) -> impl Iterator<Item = (usize, Checkpoint, bool)> {
        self.log.iter().enumerate().filter_map(|(entry, Entry { value, .. })| match value {
            Value::Checkpoint { checkpoint, known } => Some((entry, *checkpoint, *known)),
            Value::Event(_) => None,
        })
    }
}
